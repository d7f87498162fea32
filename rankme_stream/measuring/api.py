"""measure(): rows -> numbers -> measurement."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

from rankme_stream.errors import CheckpointWarning, ToleranceWarning
from rankme_stream.groups import lidar
from rankme_stream.measuring.execute import Read, read, read_state
from rankme_stream.measuring.request import Method, Precision, Request
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.registry import memory_told
from rankme_stream.passes.engines import local
from rankme_stream.passes.state.pass_state import State, are_alike
from rankme_stream.results.measurement import Measurement
from rankme_stream.spectra.estimates import definitions


def measure(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
    tolerance: float = 1e-3,
    confidence: float = 0.95,
    sample: bool = False,
    population: bool = False,
    max_rows: int | None = None,
    rows: tuple[int | None, int | None] | None = None,
    seed: int = 0,
    normalize: bool = False,
    dims: Sequence[int] = (),
    groups: Any = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
    engine: Literal["local", "dask"] = "local",
    client: Any = None,
    device: str = "cpu",
    rank: int | None = None,
    oversampling: int = 10,
    passes: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[local.Progress], None] | None = None,
) -> Measurement:
    """Read every row, or a part of them, and return the metrics of their singular values, each with an interval.

    Parameters
    ----------
    source, method, precision, normalize, rows, workers, memory_limit
        As for ``plan``; or an iterable of blocks, arrays of shape ``(rows, D)`` that are read as they come, once. The
        result's bits depend on none of ``workers``, ``memory_limit`` and where blocks are cut.
    tolerance
        Largest half-width of RankMe's interval, relative to RankMe. With ``method`` or ``precision`` ``auto`` the rows
        are read again by the next arithmetic when it is not met.
    confidence
        Probability with which intervals are to hold the error of sampling, or of a row sketch, and LiDAR's over groups
        theirs.
    sample
        Read units of rows in random order until the tolerance is met; every row where that would take half of them.
    population
        State intervals for what the rows were drawn from, units of rows at random, instead of for these rows.
    max_rows
        Stop a sample there; it needs ``sample``.
    seed
        Of the random order, and of a sketch's test vectors or signs. The same seed gives the same rows, and the same
        bits, for any number of workers.
    dims
        Also state every metric for the first d features, for each d given; costs d^3 each and no reading.
    groups
        Also state every metric for each group of rows: ``rows:N`` for runs of N rows, a path of labels
        (``labels.npy``, ``store.zarr::labels``), or an array of them, one for each row, integers or strings. And LiDAR
        of the groups, with the interval over groups in its details.
    missing
        Chunks that were never written: ``error`` refuses them, ``skip`` leaves their rows out, ``fill`` takes the
        array's fill value; the last two count them.
    nonfinite
        Rows with NaN or infinity: ``error`` refuses them, ``skip`` leaves them out and counts them.
    engine
        ``local`` threads, or the workers of a ``dask`` cluster: the same bits.
    client
        ``distributed.Client`` or address of a scheduler; None starts a cluster of processes on this machine.
    device
        Where rows of this machine are computed with: ``cpu``, ``cuda`` or ``cuda:1``. Rows that are on a card already
        stay there. With the ``dask`` engine, what each worker computes with.
    rank, oversampling
        Of a sketch (``method`` ``rsvd`` or ``frequent-directions``): directions that are told apart, and test vectors
        beside them, which ``rsvd`` alone takes. Its intervals hold the error of the approximation, without a
        probability, and may be wide. Of a ``row-sketch``: its rows, 8 a feature and 256 at least, which is what it
        takes when none is given; its intervals hold with ``confidence``, proved by simulation.
    passes
        Most passes of ``rsvd``, each over all rows; each multiplies by what the one before found and 64 probes, which
        hold what is not seen with confidence 0.9999. Fewer where the tolerance is met before.
    checkpoint
        File that keeps what was read: written every 60 s, or 50 times as seldom as a write takes, when the pass ends
        and when it is interrupted. Where it exists, the pass goes on from it; rows that a dump has grown by are read.
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
    DeviceError
        If the device is not there, or what it needs is not installed.

    Notes
    -----
    N D^2 flops for ``gram``, 2 N D^2 for ``tsqr``, 4 N D r for ``rsvd`` and 8 N D r for ``frequent-directions`` of rank
    r, 6 N D for ``row-sketch``, twice that with ``normalize``. While it runs, BLAS is held to one
    thread for the whole process.

    Examples
    --------
    >>> import numpy as np
    >>> measurement = measure(np.eye(4))
    >>> round(measurement.rankme.value, 6), measurement.rankme.half_width < 1e-9
    (4.000001, True)
    """
    asked = Request(
        method, precision, tolerance, confidence, sample, population, max_rows, rows, seed, normalize, tuple(dims),
        workers, memory_limit, missing, nonfinite, checkpoint, engine, client, device,
        rank, oversampling, passes, groups,
    )  # fmt: skip
    asked.check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_told():
        done = read(source, asked, progress)
        measured = {
            "elapsed_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "bytes_read": done.bytes_read,
        }
    measurement = _measurement(done, tolerance, seed, measured | {"peak_bytes": memory.peak_bytes})
    if done.unkept is not None:
        warnings.warn(f"the checkpoint is not up to date: {done.unkept}", CheckpointWarning, stacklevel=2)
    _warn_if_too_wide(measurement, done.remedy)
    return measurement


def measure_state(
    state: State, *, tolerance: float = 1e-3, confidence: float = 0.95, dims: Sequence[int] = ()
) -> Measurement:
    """Return the metrics of the rows that a state holds, each with an interval: the same bits as of one pass.

    Parameters
    ----------
    state
        Of a whole pass: from ``load_state``, or from ``merge_states`` for all parts of one.
    tolerance, confidence, dims
        As for ``measure``; nothing is read again.

    Raises
    ------
    StateError
        If rows are missing; the text names them.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_told():
        done = read_state(state, tolerance, dims, confidence)
    spent = {"elapsed_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "bytes_read": 0}
    measurement = _measurement(done, tolerance, state.plan.seed, spent | {"peak_bytes": memory.peak_bytes})
    _warn_if_too_wide(measurement, done.remedy)
    return measurement


def _warn_if_too_wide(measurement: Measurement, remedy: str) -> None:
    if not measurement.tolerance_met:
        uri, tolerance = measurement.source["uri"], measurement.tolerance
        text = f"{uri}: RankMe's interval is wider than the tolerance {tolerance:g}; {remedy}"
        warnings.warn(text, ToleranceWarning, stacklevel=3)


def _measurement(done: Read, tolerance: float, seed: int, measured: Mapping[str, float]) -> Measurement:
    found = done.found
    return Measurement(
        source=done.source,
        rows_read=found.partial.accumulators["raw"].n_rows,
        method=found.plan.method,
        precision=found.plan.precision,
        engine=done.engine,
        device=done.device,
        definition=definitions() | ({"lidar": lidar.DEFINITION} if found.groups else {}),
        estimates=found.estimates,
        presets=found.presets,
        normalized=found.normalized,
        dims=found.dims,
        tolerance=tolerance,
        passes=done.passes,
        convergence=[look.to_dict() for look in done.looks],
        sampling=None if done.sample is None else done.sample.to_dict(),
        spectrum=found.spectrum,
        audit=found.partial.audit,
        chunks_missing=done.chunks_missing,
        integrity=done.integrity,
        plan=found.plan,
        measured=measured,
        provenance=_provenance(done.machines or [machine.worker(found.plan.workers) | dict(done.card)], seed),
        groups=found.groups,
    )


def _provenance(workers: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "rankme_stream": version("rankme-stream"),
        "seed": seed,
        "bits_reproducible": are_alike(workers),
        "workers": [dict(one) for one in workers],
    }
