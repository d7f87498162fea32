"""measure(): rows -> numbers -> measurement."""

from __future__ import annotations

import operator
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

from rankme_stream.errors import CheckpointWarning, LimitError, OutputError, ToleranceWarning, UsageError
from rankme_stream.groups import lidar
from rankme_stream.measuring.escalation import arithmetics_for, first_in_float64
from rankme_stream.measuring.execute import Execution, execute, execute_state
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import MethodChoice, PrecisionChoice, Request
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.numerics.machine import are_alike
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.passes.state.pass_state import State
from rankme_stream.results.measurement import Measurement
from rankme_stream.sources import open_source
from rankme_stream.spectra.estimates import definitions


def measure(
    source: Any,
    *,
    method: MethodChoice = "auto",
    precision: PrecisionChoice = "float64",
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
    progress: Callable[[Progress], None] | None = None,
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
    request = Request(
        method=method,
        precision=precision,
        tolerance=tolerance,
        confidence=confidence,
        sample=sample,
        population=population,
        max_rows=max_rows,
        rows=rows,
        seed=seed,
        normalize=normalize,
        dims=tuple(dims),
        groups=groups,
        workers=workers,
        memory_limit=memory_limit,
        missing=missing,
        nonfinite=nonfinite,
        engine=engine,
        client=client,
        device=device,
        rank=rank,
        oversampling=oversampling,
        passes=passes,
        checkpoint=checkpoint,
    ).check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_errors_as_limits():
        done = execute(source, request, progress)
        measured = {
            "elapsed_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "bytes_read": done.bytes_read,
        }
    measurement = _measurement(done, tolerance, seed, measured | {"peak_bytes": memory.peak_bytes})
    _warn_of_shortfalls(measurement)
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
    request = Request(tolerance=tolerance, confidence=confidence, dims=tuple(dims)).check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_errors_as_limits():
        done = execute_state(state, request)
    spent = {"elapsed_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "bytes_read": 0}
    measurement = _measurement(done, tolerance, state.plan.seed, spent | {"peak_bytes": memory.peak_bytes})
    _warn_of_shortfalls(measurement)
    return measurement


def _warn_of_shortfalls(measurement: Measurement) -> None:
    """Warn the caller of ``measure`` or ``measure_state`` of what the result falls short of."""
    for error in measurement.shortfalls:
        category = ToleranceWarning if isinstance(error, LimitError) else CheckpointWarning
        warnings.warn(str(error), category, stacklevel=3)


def _measurement(done: Execution, tolerance: float, seed: int, measured: Mapping[str, float]) -> Measurement:
    tables = done.tables
    return Measurement(
        source=done.source,
        rows_read=tables.partial.accumulators["raw"].n_rows,
        method=tables.plan.method,
        precision=tables.plan.precision,
        engine=done.engine,
        device=done.device,
        definition=definitions() | ({"lidar": lidar.DEFINITION} if tables.groups else {}),
        estimates=tables.estimates,
        presets=tables.presets,
        normalized=tables.normalized,
        dims=tables.dims,
        tolerance=tolerance,
        passes=done.passes,
        convergence=[look.to_dict() for look in done.looks],
        sampling=None if done.sample is None else done.sample.to_dict(),
        spectrum=tables.spectrum,
        audit=tables.partial.audit,
        chunks_missing=done.chunks_missing,
        integrity=done.integrity,
        plan=tables.plan,
        measured=measured,
        provenance=_provenance(done.machines or [machine.worker(tables.plan.workers) | dict(done.card)], seed),
        groups=tables.groups,
        remedy=done.remedy,
        checkpoint_failure=done.unkept,
    )


def _provenance(workers: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "rankme_stream": version("rankme-stream"),
        "seed": seed,
        "bits_reproducible": are_alike(workers),
        "workers": [dict(one) for one in workers],
    }


def plan(
    source: Any,
    *,
    method: MethodChoice = "auto",
    precision: PrecisionChoice = "float64",
    sample: bool = False,
    normalize: bool = False,
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    oversampling: int = 10,
    passes: int = 1,
    seed: int = 0,
    groups: Any = None,
    device: str = "cpu",
) -> Plan:
    """Return what a pass would read and hold; reads metadata only.

    Parameters
    ----------
    source
        A path or URI, an array, or anything that satisfies ``Source``.
    method
        ``gram``; ``tsqr``, which never squares; ``auto``: ``gram``, then ``tsqr`` where the interval is too wide; or a
        sketch, for more features than a D x D matrix is held of: ``rsvd`` or ``frequent-directions``; or
        ``row-sketch``, for more rows than there is time to multiply.
    precision
        Of the products: ``float64``; ``float32``, whose error is measured (gram only); or ``auto``, the cheapest of
        which the interval fits the tolerance. What is planned is the first pass.
    sample
        Plan for reading a part; where the rows are too few for one, for all.
    normalize
        Accumulate the rows scaled to unit length as well.
    rows
        Rows [A, B) to read; None is all of them, and None for an end is that end.
    workers
        Threads; None takes one a core, fewer when memory asks for it.
    memory_limit
        Bytes that this process may hold; None is half of what the machine or its cgroup offers.
    checkpoint
        File that is to keep what was read; its size is planned, and nothing is looked up in it.
    rank, oversampling, passes, seed
        Of a sketch, as for ``measure``; of several passes the last is planned, which holds most.
    groups
        As for ``measure``; labels are read.
    device
        As for ``measure``; what a card holds is planned for what it has free now.

    Raises
    ------
    SourceError
        If the source cannot be opened.
    LimitError
        If no schedule fits; the text says what would.
    UsageError
        For options that do not go together.
    """
    request = Request(
        method=method,
        precision=precision,
        sample=sample,
        rows=rows,
        seed=seed,
        normalize=normalize,
        groups=groups,
        workers=workers,
        memory_limit=memory_limit,
        device=device,
        rank=rank,
        oversampling=oversampling,
        passes=passes,
        checkpoint=checkpoint,
    ).check()
    runner = PassRunner(open_source(source), replace(request, checkpoint=None))  # the file is not looked into
    runner.check_rows()
    arithmetic = first_in_float64(arithmetics_for(request))
    if sample:
        bounds = runner.source.bounds(*runner.rows)
        design = draw_design(rows=runner.rows, n_features=runner.source.shape[1], bounds=bounds, seed=0)
        if any(design.looks()):
            return runner.plan_sample(arithmetic, design)
    return runner.plan(arithmetic, pass_number=passes - 1, has_checkpoint=checkpoint is not None)


def segment(
    source: Any,
    *,
    part: tuple[int, int],
    state: str | os.PathLike[str],
    method: MethodChoice = "auto",
    precision: PrecisionChoice = "float64",
    normalize: bool = False,
    rows: tuple[int | None, int | None] | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    missing: Literal["error", "skip", "fill"] = "error",
    nonfinite: Literal["error", "skip"] = "error",
    device: str = "cpu",
    rank: int | None = None,
    oversampling: int = 10,
    seed: int = 0,
    groups: Any = None,
    progress: Report | None = None,
) -> State:
    """Read one part of a pass into a state file, for ``merge_states`` to put together.

    Parameters
    ----------
    part
        ``(i, n)``: the i-th of n parts, counted from 0. Parts are runs of whole segments, of nearly equal size.
    state
        The file; where it exists, reading goes on from it.
    method, precision
        As for ``measure``; ``auto`` is the Gram in float64, because no part knows what the others come to.
    source, normalize, rows, workers, memory_limit, missing, nonfinite, device, progress
        As for ``measure``.
    rank, oversampling, seed, groups
        As for ``measure``.

    Returns
    -------
    State
        What the file holds.

    Raises
    ------
    SourceError, LimitError, UsageError, OutputError
        As ``measure``; also if the file holds other rows than the part's.
    """
    number, count = _checked_part(part)
    request = Request(
        method=method,
        precision=precision,
        rows=rows,
        seed=seed,
        normalize=normalize,
        groups=groups,
        workers=workers,
        memory_limit=memory_limit,
        missing=missing,
        nonfinite=nonfinite,
        device=device,
        rank=rank,
        oversampling=oversampling,
        checkpoint=state,
    ).check()
    runner = PassRunner(open_source(source), request)
    runner.check_rows()
    wanted = first_in_float64(arithmetics_for(request))
    planned = runner.plan(runner.arithmetics_left([wanted])[0])
    every = planned.all_segments
    mine = every[len(every) * number // count : len(every) * (number + 1) // count]
    fingerprint = runner.fingerprint(planned.rows_of(mine)) if mine else ""
    with blas_threads.one_thread(), memory_errors_as_limits():
        found = runner.read_segments(planned, mine, fingerprint, progress)
    if runner.unkept is not None:
        raise OutputError(runner.unkept)
    return found


def _checked_part(part: tuple[int, int]) -> tuple[int, int]:
    """Return the number of a part and how many there are, or refuse them."""
    try:
        number, count = map(operator.index, part)
    except (TypeError, ValueError):
        raise UsageError(f"part {part!r} is not a pair (i, n) of integers") from None
    if not 0 <= number < count:
        raise UsageError(f"part {number}/{count} is none: parts of {count} are 0/{count} to {count - 1}/{count}")
    return number, count
