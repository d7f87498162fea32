"""measure(): source -> plan -> engine -> measurement."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from rankme_stream import machine
from rankme_stream.accumulators.gram import Float32GramAccumulator, GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.engines import local
from rankme_stream.errors import (
    ArithmeticCheckError,
    LimitError,
    MagnitudeError,
    MissingChunksError,
    SourceChangedError,
    SourceError,
    ToleranceWarning,
    UsageError,
)
from rankme_stream.estimates import (
    Estimate,
    definitions,
    estimate_all,
    estimate_normalized,
    estimate_presets,
    estimate_rankme,
    is_within,
)
from rankme_stream.measurement import Measurement
from rankme_stream.passes import Task, missing_message
from rankme_stream.planning import Plan, make_plan
from rankme_stream.sources import Source, open_source
from rankme_stream.spectrum import Spectrum

Method = Literal["auto", "gram", "tsqr"]
Precision = Literal["float64", "float32", "auto"]

_ACCUMULATORS: dict[tuple[str, str], Any] = {
    ("gram", "float32"): Float32GramAccumulator,
    ("gram", "float64"): GramAccumulator,
    ("tsqr", "float64"): TsqrAccumulator,
}
_PILOT_ROWS = 4  # in features: enough for the spectrum's shape
_PILOT_SHARE = 1 / 250  # a pilot longer than this share of the rows could cost more than float32 saves
_PILOT_MARGIN = 2.0  # a sample of the rows and of the panels may be off by so much


def plan(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
    normalize: bool = False,
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
        ``gram``; ``tsqr``, which never squares; or ``auto``: ``gram``, then ``tsqr`` where the interval is too wide.
    precision
        Of the products: ``float64``; ``float32``, whose error is measured (gram only); or ``auto``, the cheapest of
        which the interval fits the tolerance. What is planned is the first pass.
    normalize
        Accumulate the rows scaled to unit length as well.
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
    UsageError
        For options that do not go together.
    """
    opened = open_source(source)
    rungs = _ladder(method, "float64" if precision == "auto" else precision)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers} and must be at least 1")
    return _plan(opened, *rungs[0], normalize, _row_range(rows, opened.shape[0]), workers, memory_limit)


def _plan(
    source: Source,
    method: Any,
    precision: Any,
    normalize: bool,
    rows: tuple[int, int],
    workers: int | None,
    memory_limit: int | None,
) -> Plan:
    return make_plan(
        method=method,
        precision=precision,
        normalize=normalize,
        rows=rows,
        n_features=source.shape[1],
        itemsize=source.stored.dtype.itemsize,
        bounds=source.bounds(*rows),
        read_memory=source.read_memory,
        base_bytes=machine.resident_bytes(),
        memory_limit_bytes=memory_limit if memory_limit is not None else machine.memory_bytes() // 2,
        workers=workers,
        cores=machine.cores(),
    )


def _ladder(method: str, precision: str) -> list[tuple[str, str]]:
    """Return the rungs that may be tried, cheapest first."""
    if method not in ("auto", "gram", "tsqr"):
        raise UsageError(f"method {method!r} is not one of auto, gram, tsqr")
    if precision not in ("float64", "float32", "auto"):
        raise UsageError(f"precision {precision!r} is not one of float64, float32, auto")
    rungs = [
        (name, arithmetic)
        for name, arithmetic in _ACCUMULATORS
        if method in ("auto", name) and precision in ("auto", arithmetic)
    ]
    if not rungs:
        raise UsageError("tsqr works in float64 only: its error is not measured; leave --precision out")
    return rungs


def _row_range(rows: tuple[int | None, int | None] | None, n_rows: int) -> tuple[int, int]:
    start, stop = rows or (None, None)
    first, last = start or 0, n_rows if stop is None else stop
    if not 0 <= first < last <= n_rows:
        raise UsageError(f"rows {first}:{last} are not within the {n_rows:,} rows of the source")
    return first, last


def measure(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
    tolerance: float = 1e-3,
    rows: tuple[int | None, int | None] | None = None,
    normalize: bool = False,
    dims: Sequence[int] = (),
    workers: int | None = None,
    memory_limit: int | None = None,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
    progress: Callable[[local.Progress], None] | None = None,
) -> Measurement:
    """Read every row and return the metrics of their singular values, each with an interval.

    Parameters
    ----------
    source, method, precision, normalize, rows, workers, memory_limit
        As for ``plan``. The result's bits depend on none of ``workers`` and ``memory_limit``.
    tolerance
        Largest half-width of RankMe's interval, relative to RankMe. With ``method`` or ``precision`` ``auto`` the rows
        are read again by the next arithmetic when it is not met.
    dims
        Also state every metric for the first d features, for each d given; costs d^3 each and no reading.
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
        With ``tolerance_met`` False, and a ``ToleranceWarning``, when no arithmetic allowed meets the tolerance.

    Raises
    ------
    SourceError
        If the data is refused: not found, not numbers, missing or corrupt chunks, non-finite rows, changed meanwhile.
    LimitError
        If no schedule fits the memory limit.
    ArithmeticCheckError
        If the arithmetic is further off than it can be.

    Notes
    -----
    N D^2 flops for ``gram``, 2 N D^2 for ``tsqr``, twice that with ``normalize``. While it runs, BLAS is held to one
    thread for the whole process.

    Examples
    --------
    >>> import numpy as np
    >>> measurement = measure(np.eye(4))
    >>> round(measurement.rankme.value, 6), measurement.rankme.half_width < 1e-9
    (4.000001, True)
    """
    if missing not in ("error", "skip", "fill"):
        raise UsageError(f"missing {missing!r} is not one of error, skip, fill")
    if nonfinite not in ("error", "skip"):
        raise UsageError(f"nonfinite {nonfinite!r} is not one of error, skip")
    if not tolerance > 0.0:
        raise UsageError(f"tolerance {tolerance!r} is not above 0")
    wall, cpu = time.perf_counter(), time.process_time()
    opened = open_source(source)
    rungs = _ladder(method, precision)
    for d in dims:
        if not 1 <= d <= opened.shape[1]:
            raise UsageError(f"dims holds {d}, and the rows have {opened.shape[1]:,} features")
    planned = plan(
        opened, method=method, precision=precision, normalize=normalize, rows=rows, workers=workers,
        memory_limit=memory_limit,
    )  # fmt: skip
    row_range = (planned.row_start, planned.row_stop)
    unit_roundoff = opened.stored.unit_roundoff
    passes: list[dict[str, Any]] = []
    bytes_read = 0

    def one_pass(planned: Plan, report: Callable[[local.Progress], None] | None) -> _Pass:
        make = _ACCUMULATORS[planned.method, planned.precision]
        partial, n_bytes = local.run(Task(opened, planned, make, planned.normalize, missing, nonfinite), report)
        if opened.fingerprint(*row_range) != fingerprint:
            raise SourceChangedError(
                f"{opened.uri} changed while it was read; no number is given, run again when nothing writes to it"
            )
        _check_rows(opened, planned, partial, missing)
        spectrum = partial.accumulators["raw"].spectrum(unit_roundoff=unit_roundoff)
        return _Pass(planned, partial, n_bytes, spectrum, estimate_rankme(spectrum))

    with machine.PeakMemory() as memory, threadpool_limits(1, user_api="blas"):
        fingerprint = _fingerprint_before(opened, planned, missing)
        if precision == "auto" and rungs[0][1] == "float32":
            pilot_rows = _pilot_rows(opened, row_range)
            will_do = False
            if pilot_rows is not None:
                with suppress(MagnitudeError):  # of float32; float64 finds its own
                    pilot = one_pass(_plan(opened, *rungs[0], False, pilot_rows, workers, memory_limit), None)
                    bytes_read += pilot.bytes_read
                    will_do = pilot.is_within(tolerance / _PILOT_MARGIN)
            if not will_do:
                del rungs[0]
        done: _Pass | None = None
        for rung in rungs:
            try:
                planned = _plan(opened, *rung, normalize, row_range, workers, memory_limit)
                done = one_pass(planned, progress)
            except MagnitudeError:
                if rung[1] == "float64" or rung is rungs[-1]:
                    raise
                continue
            except LimitError:
                if done is None:
                    raise
                break
            bytes_read += done.bytes_read
            passes.append(done.describe())
            if done.is_within(tolerance):
                break
        assert done is not None
        accumulators = done.partial.accumulators
        normalized = {}
        if normalize:
            normalized = estimate_normalized(accumulators["unit"].spectrum(unit_roundoff=unit_roundoff))
        prefixes = {
            d: estimate_all(accumulators["raw"].prefix(d).spectrum(unit_roundoff=unit_roundoff))
            for d in sorted({*dims})
        }
        measurement = Measurement(
            source={
                "uri": opened.uri,
                "n_rows": opened.shape[0],
                "n_features": opened.shape[1],
                "dtype": opened.stored.name,
                "fingerprint": fingerprint,
            },
            rows_read=accumulators["raw"].n_rows,
            method=done.plan.method,
            precision=done.plan.precision,
            engine="local",
            device="cpu",
            definition=definitions(),
            estimates=estimate_all(done.spectrum),
            presets=estimate_presets(done.spectrum),
            normalized=normalized,
            dims=prefixes,
            tolerance=tolerance,
            passes=passes,
            spectrum=done.spectrum,
            audit=done.partial.audit,
            chunks_missing=opened.chunks_missing,
            integrity=opened.integrity,
            plan=done.plan,
            measured={
                "elapsed_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "bytes_read": bytes_read,
                "peak_bytes": memory.peak_bytes,
            },
            provenance=_provenance(done.plan.workers),
        )
    if not measurement.tolerance_met:
        text = f"{opened.uri}: RankMe's interval is wider than the tolerance {tolerance:g} by every arithmetic allowed"
        warnings.warn(text, ToleranceWarning, stacklevel=2)
    return measurement


@dataclass(frozen=True)
class _Pass:
    """What one pass over the rows came to."""

    plan: Plan
    partial: local.Partial
    bytes_read: int
    spectrum: Spectrum
    rankme: Estimate

    def is_within(self, tolerance: float) -> bool:
        return is_within(self.rankme, self.spectrum, tolerance)

    def describe(self) -> dict[str, Any]:
        return {
            "method": self.plan.method,
            "precision": self.plan.precision,
            "half_width": self.rankme.half_width,
        }


def _check_rows(source: Source, planned: Plan, partial: local.Partial, missing: str) -> None:
    n_rows, audit = partial.accumulators["raw"].n_rows, partial.audit
    left_out = audit.rows_nonfinite + (audit.rows_missing if missing == "skip" else 0)
    if n_rows + left_out != planned.row_stop - planned.row_start:
        raise ArithmeticCheckError("rows counted and rows read do not agree; please report this")
    if n_rows == 0:
        raise SourceError(f"{source.uri}: no row is left after leaving out missing and non-finite ones")


def _pilot_rows(source: Source, rows: tuple[int, int]) -> tuple[int, int] | None:
    """Return the rows of a pilot, or None where reading them would cost more than float32 can save."""
    start, stop = rows
    end = start + _PILOT_ROWS * source.shape[1]
    allowed = start + (stop - start) * _PILOT_SHARE
    chunk_end = next(iter(source.bounds(start, stop)), stop)
    return (start, end) if max(end, chunk_end) <= allowed else None


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
