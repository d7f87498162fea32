"""measure(): source -> plan -> engine -> measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from rankme_stream import machine
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.engines import local
from rankme_stream.errors import (
    ArithmeticCheckError,
    MagnitudeError,
    MissingChunksError,
    SourceChangedError,
    SourceError,
    UsageError,
)
from rankme_stream.estimates import definitions, estimate_all, estimate_presets
from rankme_stream.measurement import Measurement
from rankme_stream.passes import Task, missing_message
from rankme_stream.planning import Plan, make_plan
from rankme_stream.sources import Source, open_source

_ACCUMULATORS: dict[str, Any] = {"gram": GramAccumulator, "tsqr": TsqrAccumulator}
_TINY_MAGNITUDE = 2.0**-400  # above it, what squares lose to underflow is far below the rounding of the trace


def plan(
    source: Any,
    *,
    method: Literal["auto", "gram", "tsqr"] = "auto",
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
) -> Plan:
    """Return what a pass would read and hold; reads metadata only.

    Parameters
    ----------
    source
        A path or URI, an array, or anything that satisfies ``Source``.
    method
        ``gram``, ``tsqr``, or ``auto``, which is ``gram`` in this version.
    rows
        Rows [A, B) to read; None is all of them, and None for an end is that end.
    workers
        Threads; None takes one a core, fewer when memory asks for it.
    memory_limit
        Bytes that this process may hold; None is half of what the machine or its cgroup offers.

    Raises
    ------
    SourceError
        If the source cannot be opened.
    LimitError
        If no schedule fits; the text says what would.
    """
    opened = open_source(source)
    if method not in ("auto", "gram", "tsqr"):
        raise UsageError(f"method {method!r} is not one of auto, gram, tsqr")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers} and must be at least 1")
    first, last = _row_range(rows, opened.shape[0])
    return make_plan(
        method="gram" if method == "auto" else method,
        rows=(first, last),
        n_features=opened.shape[1],
        itemsize=opened.stored.dtype.itemsize,
        bounds=opened.bounds(first, last),
        read_memory=opened.read_memory,
        base_bytes=machine.resident_bytes(),
        memory_limit_bytes=memory_limit if memory_limit is not None else machine.memory_bytes() // 2,
        workers=workers,
        cores=machine.cores(),
    )


def _row_range(rows: tuple[int | None, int | None] | None, n_rows: int) -> tuple[int, int]:
    start, stop = rows or (None, None)
    first, last = start or 0, n_rows if stop is None else stop
    if not 0 <= first < last <= n_rows:
        raise UsageError(f"rows {first}:{last} are not within the {n_rows:,} rows of the source")
    return first, last


def measure(
    source: Any,
    *,
    method: Literal["auto", "gram", "tsqr"] = "auto",
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
    progress: Callable[[local.Progress], None] | None = None,
) -> Measurement:
    """Read every row once and return the metrics of their singular values.

    Parameters
    ----------
    source, method, rows, workers, memory_limit
        As for ``plan``. The result's bits depend on none of ``workers`` and ``memory_limit``.
    missing
        Chunks that were never written: ``error`` refuses them, ``skip`` leaves their rows out, ``fill`` takes the
        array's fill value; the last two count them.
    nonfinite
        Rows with NaN or infinity: ``error`` refuses them, ``skip`` leaves them out and counts them.
    progress
        Called about ten times a second with rows and bytes done.

    Returns
    -------
    Measurement

    Raises
    ------
    SourceError
        If the data is refused: not found, not numbers, missing or corrupt chunks, non-finite rows, changed meanwhile.
    LimitError
        If no schedule fits the memory limit.

    Notes
    -----
    N D^2 flops for ``gram``, 2 N D^2 for ``tsqr``. While it runs, BLAS is held to one thread for the whole process.

    Examples
    --------
    >>> import numpy as np
    >>> measurement = measure(np.eye(4))
    >>> round(measurement.rankme.value, 4)
    4.0
    """
    if missing not in ("error", "skip", "fill"):
        raise UsageError(f"missing {missing!r} is not one of error, skip, fill")
    if nonfinite not in ("error", "skip"):
        raise UsageError(f"nonfinite {nonfinite!r} is not one of error, skip")
    wall, cpu = time.perf_counter(), time.process_time()
    opened = open_source(source)
    planned = plan(opened, method=method, rows=rows, workers=workers, memory_limit=memory_limit)
    with machine.PeakMemory() as memory, threadpool_limits(1, user_api="blas"):
        fingerprint = _fingerprint_before(opened, planned, missing)
        task = Task(opened, planned, _ACCUMULATORS[planned.method], missing, nonfinite)
        accumulator, audit, bytes_read = local.run(task, progress)
        if opened.fingerprint(planned.row_start, planned.row_stop) != fingerprint:
            raise SourceChangedError(
                f"{opened.uri} changed while it was read; no number is given, run again when nothing writes to it"
            )
        if planned.method == "gram" and 0.0 < audit.largest_magnitude < _TINY_MAGNITUDE:
            raise MagnitudeError(
                f"{opened.uri}: no value exceeds {audit.largest_magnitude:.2g}, so the squares that a Gram needs "
                "underflow; pass --method tsqr, or scale by a power of two"
            )
        if accumulator.n_rows + audit.rows_nonfinite + (audit.rows_missing if missing == "skip" else 0) != (
            planned.row_stop - planned.row_start
        ):
            raise ArithmeticCheckError("rows counted and rows read do not agree; please report this")
        if accumulator.n_rows == 0:
            raise SourceError(f"{opened.uri}: no row is left after leaving out missing and non-finite ones")
        spectrum = accumulator.spectrum(unit_roundoff=opened.stored.unit_roundoff)
        provenance = _provenance(planned.workers)
    return Measurement(
        source={
            "uri": opened.uri,
            "n_rows": opened.shape[0],
            "n_features": opened.shape[1],
            "dtype": opened.stored.name,
            "fingerprint": fingerprint,
        },
        rows_read=accumulator.n_rows,
        method=planned.method,
        precision="float64",
        engine="local",
        device="cpu",
        definition=definitions(),
        estimates=estimate_all(spectrum),
        presets=estimate_presets(spectrum),
        spectrum=spectrum,
        audit=audit,
        chunks_missing=opened.chunks_missing,
        integrity=opened.integrity,
        plan=planned,
        measured={
            "elapsed_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "bytes_read": bytes_read,
            "peak_bytes": memory.peak_bytes,
        },
        provenance=provenance,
    )


def _fingerprint_before(source: Source, planned: Plan, missing: str) -> str:
    fingerprint = source.fingerprint(planned.row_start, planned.row_stop)
    gaps = source.missing(planned.row_start, planned.row_stop)
    if gaps and missing == "error":
        raise MissingChunksError(missing_message(source, *gaps[0]))
    return fingerprint


def _provenance(workers: int) -> dict[str, Any]:
    worker = machine.describe() | {"count": workers, "threads": 1}
    worker |= {name: version(name) for name in ("numpy", "scipy", "zarr")}
    return {"rankme_stream": version("rankme-stream"), "bits_reproducible": True, "workers": [worker]}
