"""Public functions that measure rows, plan a pass, or read a part of one."""

from __future__ import annotations

import operator
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rankme_stream.errors import CheckpointWarning, LimitError, OutputError, ToleranceWarning, UsageError, argument
from rankme_stream.groups import lidar
from rankme_stream.measuring.escalation import choices_for, first_in_float64
from rankme_stream.measuring.execute import Execution, execute, execute_state
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import MethodChoice, PrecisionChoice, Request, widths
from rankme_stream.measuring.steps import plan_steps
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.numerics.machine import are_alike, was_checked
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning.plan import Plan, with_largest_memory
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
    rare: float = 0.01,
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
    zeros: Literal["error", "skip", "count"] = "count",
    engine: Literal["local", "dask"] = "local",
    client: Any = None,
    device: str = "cpu",
    rank: int | None = None,
    oversampling: int = 10,
    passes: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    key: str | int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Read every row, or a part of them, and return the metrics of their singular values, each with an interval.

    Parameters
    ----------
    source, method, precision, normalize, rows, workers, memory_limit
        As in ``plan``. The source may also be an iterable of blocks, such as a ``DataLoader``, which are read once and
        in order: arrays of shape ``(rows, D)``, whatever else ``open_source`` takes, or tuples and dicts of these. The
        result's bits do not depend on ``workers``, on ``memory_limit`` or on where blocks end.
    tolerance
        Largest half-width of RankMe's interval, relative to RankMe. If it is not met and ``method`` or ``precision`` is
        ``auto``, the next arithmetic reads the rows again.
    confidence
        Probability that an interval holds the error of sampling or of a row sketch, or, for LiDAR, of the choice of
        groups.
    sample
        Read units of rows in random order until the tolerance is met; read every row if that would take half of them.
    population
        State the numbers of the population that the rows were drawn from, in units independent of one another, with
        intervals, instead of those of these rows.
    rare
        Share of rare units that the first look of a sample must find, with a probability of 99 %: at most 0.5. A
        smaller share takes more and smaller units, which open more chunks. Without ``sample`` or ``population`` it
        changes nothing.
    max_rows
        Most rows of a sample; needs ``sample``.
    seed
        Seed of the random order, of a sketch's test vectors or signs, and, with the values of eight rows, of the
        probes that measure the error of float32. The same seed gives the same rows, and the same bits, for any number
        of workers.
    dims
        Also return every metric of the first d features, for each d given; costs d^3 flops each and no reading; with
        N rows, fewer than features, N^2 d + N^3.
    groups
        Also return every metric of each group of rows: ``rows:N`` for groups of N consecutive rows, a path of labels
        (``labels.npy``, ``labels.csv::column``, ``store.zarr::labels``), or an array of them; one label per row,
        integers or strings. Also LiDAR of the groups, with the interval over groups in its details.
    missing
        Chunks that were never written: ``error`` refuses them, ``skip`` leaves their rows out, ``fill`` uses the
        array's fill value; the last two count them.
    nonfinite
        Rows with NaN, infinity or a number that means no data: ``error`` refuses them, ``skip`` leaves them out and
        counts them.
    zeros
        Rows that are zero throughout: ``count`` keeps and counts them, ``error`` refuses them, ``skip`` leaves them
        out and counts them.
    engine
        ``local`` threads, or the workers of a ``dask`` cluster: the same bits.
    client
        ``distributed.Client`` or address of a scheduler; None starts a cluster of processes on this machine.
    device
        Device that computes with rows of this machine: ``cpu``, ``cuda`` or ``cuda:1``. Rows that are on a card already
        stay there. With the ``dask`` engine, the device of each worker.
    rank, oversampling
        Size of a sketch. For ``rsvd`` and ``frequent-directions``, the number of directions that it resolves, and, for
        ``rsvd`` alone, of test vectors beside them; the intervals hold the error of the approximation, without a
        probability, and may be wide. For ``row-sketch``, its number of rows, by default 8 per feature and at least
        256; the intervals hold with ``confidence``, which is shown by simulation.
    passes
        Most passes of ``rsvd``, each over all rows; fewer if the tolerance is met earlier. Each later pass multiplies
        by the directions that the one before found and by 64 probes, which bound the rest with confidence 0.9999.
    checkpoint
        File that keeps what was read. It is written when the pass ends or is interrupted, and every 60 s or 50 times
        the duration of a write, whichever is longer. If it exists, the pass goes on from it and reads the rows that the
        dump has grown by.
    key
        Name of the column or variable that holds the rows; of an iterable, the key of each dict or the number of the
        member of each tuple.
    progress
        Called about ten times a second with the rows and bytes read so far.

    Returns
    -------
    Measurement
        ``tolerance_met`` is False, and a ``ToleranceWarning`` is given, if no allowed arithmetic meets the tolerance.

    Raises
    ------
    SourceError
        If the data is not found, not numbers or changed meanwhile, or has missing or corrupt chunks or non-finite rows.
    StorageError
        If a disk, file system or server fails after all attempts.
    LimitError
        If no schedule fits the memory limit.
    ArithmeticCheckError
        If an error is larger than the arithmetic allows.
    DeviceError
        If the device is not there, or a library that it needs is not installed.

    Notes
    -----
    N D^2 flops for ``gram`` (N^2 D with fewer rows than features), 2 N D^2 for ``tsqr``, 4 N D r for ``rsvd`` and
    8 N D r for ``frequent-directions`` of rank r, 6 N D for ``row-sketch``, twice that with ``normalize``.
    During a pass BLAS uses one thread in the whole process.

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
        rare=rare,
        max_rows=max_rows,
        rows=rows,
        seed=seed,
        normalize=normalize,
        dims=widths(dims),
        groups=groups,
        workers=workers,
        memory_limit=memory_limit,
        missing=missing,
        nonfinite=nonfinite,
        zeros=zeros,
        engine=engine,
        client=client,
        device=device,
        rank=rank,
        oversampling=oversampling,
        passes=passes,
        checkpoint=checkpoint,
        key=key,
    ).check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_errors_as_limits():
        execution = execute(source, request, progress)
        measured = {
            "elapsed_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "bytes_read": execution.bytes_read,
        }
    measurement = _measurement(execution, request.tolerance, request.seed, measured | {"peak_bytes": memory.peak_bytes})
    _warn_of_shortfalls(measurement)
    return measurement


def measure_state(
    state: State, *, tolerance: float = 1e-3, confidence: float = 0.95, dims: Sequence[int] = ()
) -> Measurement:
    """Return the metrics of the rows that a state holds, each with an interval, in the same bits as one pass.

    Parameters
    ----------
    state
        State of a whole pass: from ``load_state``, or from ``merge_states`` of all its parts.
    tolerance, confidence, dims
        As in ``measure``; nothing is read again.

    Raises
    ------
    StateError
        If rows are missing; the message names them.
    """
    request = Request(tolerance=tolerance, confidence=confidence, dims=widths(dims)).check()
    wall, cpu = time.perf_counter(), time.process_time()
    with machine.PeakMemory() as memory, blas_threads.one_thread(), memory_errors_as_limits():
        execution = execute_state(state, request)
    spent = {"elapsed_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "bytes_read": 0}
    measurement = _measurement(execution, request.tolerance, state.plan.seed, spent | {"peak_bytes": memory.peak_bytes})
    _warn_of_shortfalls(measurement)
    return measurement


def _warn_of_shortfalls(measurement: Measurement) -> None:
    """Warn the caller of ``measure`` or ``measure_state`` of a tolerance or a checkpoint that the result misses."""
    for error in measurement.shortfalls:
        category = ToleranceWarning if isinstance(error, LimitError) else CheckpointWarning
        warnings.warn(str(error), category, stacklevel=3)


def _measurement(execution: Execution, tolerance: float, seed: int, measured: Mapping[str, float]) -> Measurement:
    tables = execution.tables
    return Measurement(
        source=execution.source,
        rows_read=tables.rows_read,
        method=tables.plan.method,
        precision=tables.plan.precision,
        engine=execution.engine,
        device=execution.device,
        definition=definitions() | ({"lidar": lidar.DEFINITION} if tables.groups else {}),
        estimates=tables.estimates,
        presets=tables.presets,
        normalized=tables.normalized,
        dims=tables.dims,
        tolerance=tolerance,
        passes=execution.passes,
        convergence=[look.to_dict(tolerance) for look in execution.looks],
        sampling=execution.sampling,
        spectrum=tables.spectrum,
        audit=tables.audit,
        chunks_missing=execution.chunks_missing,
        integrity=execution.integrity,
        rules=execution.rules._asdict(),
        plan=tables.plan,
        measured=measured,
        provenance=_provenance(execution.machines, seed),
        groups=tables.groups,
        remedy=execution.remedy,
        checkpoint_failure=execution.checkpoint_failure,
    )


def _provenance(workers: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "rankme_stream": machine.installed_version("rankme-stream"),
        "seed": seed,
        "bits_reproducible": are_alike(workers),
        "blas_checked": all(map(was_checked, workers)),
        "workers": [dict(one) for one in workers],
    }


def plan(
    source: Any,
    *,
    method: MethodChoice = "auto",
    precision: PrecisionChoice = "float64",
    sample: bool = False,
    population: bool = False,
    rare: float = 0.01,
    normalize: bool = False,
    dims: Sequence[int] = (),
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
    """Return the plan of a measurement: what it would read and how much memory it would hold; reads metadata only.

    The memory is that of the step that holds most: of a sample and the pass over every row that may follow it, of the
    passes of a sketch, or of the better arithmetics that ``auto`` may need, as far as they fit the limit. A measurement
    states the same.

    Parameters
    ----------
    source
        A path or URI, an array, or anything that satisfies ``Source``.
    method
        ``gram``; ``tsqr``, which never squares; ``auto``, which is ``gram``, then ``tsqr`` if the interval is too wide,
        or, with fewer rows than features, ``row-gram`` and ``row-qr``, which keep the rows and multiply rows with rows;
        ``rsvd`` or ``frequent-directions``, sketches for so many features that a D x D matrix does not fit in memory;
        or ``row-sketch``, for so many rows that there is no time to multiply them.
    precision
        Precision of the products: ``float64``; ``float32``, whose error is measured (gram only); or ``auto``, the
        cheapest whose interval fits the tolerance. The plan is that of the first pass in float64, if there is one.
    sample
        Plan for reading a sample; for all rows if they are too few for one.
    population, rare, dims
        As in ``measure``; populations and dims take memory.
    normalize
        Also accumulate the rows scaled to unit length.
    rows
        Rows [A, B) to read; None reads all, and None in place of A or B stands for the first or last row.
    workers
        Number of threads; None uses one per core, fewer if memory requires it. If a card computes, they read.
    memory_limit
        Bytes that this process may hold; None is half of what the machine or its cgroup offers.
    checkpoint
        File that would keep what was read; its size is planned, and the file is not opened.
    rank, oversampling, passes, seed
        Options of a sketch, as in ``measure``. Of several passes the last is planned.
    groups
        As in ``measure``; the labels are read.
    device
        As in ``measure``; a card is planned for the memory that is free there now.

    Raises
    ------
    SourceError
        If the source cannot be opened.
    LimitError
        If no schedule fits; the message says which limit would.
    UsageError
        If an option has no such value, or two options exclude each other.
    """
    request = Request(
        method=method,
        precision=precision,
        sample=sample,
        population=population,
        rare=rare,
        rows=rows,
        seed=seed,
        normalize=normalize,
        dims=widths(dims),
        groups=groups,
        workers=workers,
        memory_limit=memory_limit,
        device=device,
        rank=rank,
        oversampling=oversampling,
        passes=passes,
        checkpoint=checkpoint,
    ).check()
    runner = PassRunner(open_source(source), replace(request, checkpoint=None))  # so that the file is not opened
    runner.check_rows()
    steps = plan_steps(runner, choices_for(runner)[0], runner.design(), has_checkpoint=checkpoint is not None)
    return with_largest_memory(steps[0], steps)


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
    zeros: Literal["error", "skip", "count"] = "count",
    device: str = "cpu",
    rank: int | None = None,
    oversampling: int = 10,
    seed: int = 0,
    groups: Any = None,
    progress: Report | None = None,
) -> State:
    """Read one part of a pass into a state file; ``merge_states`` joins the parts.

    Parameters
    ----------
    part
        ``(i, n)``: the i-th of n parts, counted from 0. A part is a run of whole segments; parts are of nearly equal
        size.
    state
        Path of the state file; if it exists, reading goes on from it.
    method, precision
        As in ``measure``, but ``auto`` is the Gram matrix, of features or of rows, in float64: a part does not know the
        results of the others.
    source, normalize, rows, workers, memory_limit, missing, nonfinite, zeros, device, progress
        As in ``measure``.
    rank, oversampling, seed, groups
        As in ``measure``.

    Returns
    -------
    State
        Content of the file.

    Raises
    ------
    SourceError, LimitError, UsageError, OutputError
        As in ``measure``; also if the file holds rows of another part.
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
        zeros=zeros,
        device=device,
        rank=rank,
        oversampling=oversampling,
        checkpoint=state,
    ).check()
    runner = PassRunner(open_source(source), request)
    runner.check_rows()
    firsts = [[first_in_float64(one)] for one in choices_for(runner)]
    planned = runner.plan(runner.arithmetics_left(firsts)[0])
    segments = planned.all_segments
    segments = segments[len(segments) * number // count : len(segments) * (number + 1) // count]
    fingerprint = runner.fingerprint(planned.rows_of(segments)) if segments else ""
    with blas_threads.one_thread(), memory_errors_as_limits():
        part_state = runner.read_segments(planned, segments, fingerprint, progress)
    if runner.checkpoint_failure is not None:
        raise OutputError(runner.checkpoint_failure)
    return part_state


def _checked_part(part: tuple[int, int]) -> tuple[int, int]:
    """Return the number of a part and the number of parts, or refuse them."""
    try:
        number, count = map(operator.index, part)
    except (TypeError, ValueError):
        raise UsageError(f"{argument('part')} is {part!r} and must be a pair (i, n) of integers") from None
    if not 0 <= number < count < 2**63:
        if count >= 2**63:
            raise UsageError(f"{argument('part')} has more parts than 2^63: give fewer")
        last = f"0/{count} to {count - 1}/{count}" if count > 0 else "I/N with N of 1 or more"
        raise UsageError(f"there is no part {number}/{count}: give {last}")
    return number, count
