"""Rows asked for, planned and read: rows in any order, a part of them or all, or blocks that come once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rankme_stream.errors import LimitError, OutputError, UsageError
from rankme_stream.groups.partition import Groups, groups_of
from rankme_stream.measuring.completed_pass import Pass
from rankme_stream.measuring.escalation import check_not_empty, climb, float32_will_do, rungs_for, sketch_instead
from rankme_stream.measuring.estimate_tables import Findings, of_all, of_population, of_sample
from rankme_stream.measuring.pass_runner import Reader
from rankme_stream.measuring.placement import Engine, Report, device_for, engine_for
from rankme_stream.measuring.request import Method, Precision, Request, check_passes
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.measuring.sampling.sequential import Look, Reading, read_sample, sample_for_population
from rankme_stream.measuring.stream_pass import read_blocks
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import memory_told
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.passes.planning.grid import SKETCHES, check_rows, columns_for
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.sample_design import design
from rankme_stream.passes.state.partial_result import Rung
from rankme_stream.passes.state.pass_state import State, check_complete
from rankme_stream.sources import BlockStream, Source, is_blocks, open_source


def plan(
    source: Any,
    *,
    method: Method = "auto",
    precision: Precision = "float64",
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
    if sample and groups is not None:
        raise UsageError("groups are of every row: leave sample out, or groups")
    opened = open_source(source)
    rung = rungs_for(method, "float64" if precision == "auto" else precision)[0]
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers} and must be at least 1")
    row_range = _row_range(rows, opened.shape[0])
    columns = columns_for(method, rank, oversampling, opened.shape[1])
    check_passes(method, passes)
    check_rows(method, row_range[1] - row_range[0], columns)
    reader = Reader(
        opened, row_range, normalize, workers, memory_limit, "error", "error", device=device_for(opened, device),
        columns=columns, seed=seed, groups=_groups(groups, opened, row_range),
    )  # fmt: skip
    _check_device(reader)
    drawn = design(rows=row_range, n_features=opened.shape[1], bounds=opened.bounds(*row_range), seed=0)
    has_sample = sample and any(drawn.looks())
    return reader.plan(
        rung, drawn if has_sample else None, has_checkpoint=checkpoint is not None, turn=passes - 1
    )  # fmt: skip


def _row_range(rows: tuple[int | None, int | None] | None, n_rows: int) -> tuple[int, int]:
    start, stop = rows or (None, None)
    first, last = start or 0, n_rows if stop is None else stop
    if not 0 <= first < last <= n_rows:
        raise UsageError(f"rows {first}:{last} are not within the {n_rows:,} rows of the source")
    return first, last


def _groups(spec: Any, source: Source, rows: tuple[int, int]) -> Groups | None:
    return None if spec is None else groups_of(spec, source.shape[0], rows)


def segment(
    source: Any,
    *,
    part: tuple[int, int],
    state: str | os.PathLike[str],
    method: Method = "auto",
    precision: Precision = "float64",
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
    number, count = part
    if not 0 <= number < count:
        raise UsageError(f"part {number}/{count} is none: parts of {count} are 0/{count} to {count - 1}/{count}")
    rungs = rungs_for(method, "float64" if precision == "auto" else precision)
    opened = open_source(source)
    row_range = _row_range(rows, opened.shape[0])
    reader = Reader(
        opened, row_range, normalize, workers, memory_limit, missing, nonfinite, Path(state),
        device=device_for(opened, device), columns=columns_for(method, rank, oversampling, opened.shape[1]), seed=seed,
        groups=_groups(groups, opened, row_range),
    )  # fmt: skip
    _check_device(reader)
    check_rows(method, reader.rows[1] - reader.rows[0], reader.columns)
    planned = reader.plan(reader.rungs_left(rungs[:1])[0])
    every = planned.all_segments
    mine = every[len(every) * number // count : len(every) * (number + 1) // count]
    first, last = planned.rows_of(mine)
    fingerprint = reader.fingerprint((first, last)) if mine else ""
    with blas_threads.one_thread(), memory_told():
        found = reader.read_segments(planned, mine, fingerprint, progress)
    if reader.unkept is not None:
        raise OutputError(reader.unkept)
    return found


@dataclass(frozen=True)
class Read:
    """The rows that were read, where they came from, and what would help if they tell too little."""

    source: dict[str, Any]
    found: Findings
    passes: Sequence[Mapping[str, Any]]
    bytes_read: int
    remedy: str
    integrity: str
    chunks_missing: int = 0
    looks: Sequence[Look] = ()
    sample: Sample | None = None
    unkept: str | None = None
    machines: Sequence[Mapping[str, Any]] = ()
    engine: str = "local"
    device: str = HOST.name
    card: Mapping[str, str] = field(default_factory=dict)


def read(source: Any, asked: Request, progress: Report | None) -> Read:
    """Read rows as they were asked for."""
    if is_blocks(source):
        return _read_blocks(source, asked, progress)
    with engine_for(asked) as engine:
        return _read_source(source, asked, engine, progress)


def _read_blocks(source: Any, asked: Request, progress: Report | None) -> Read:
    """Read rows that come once."""
    unfit = asked.sample or asked.population or asked.engine != "local"
    is_kept = asked.checkpoint is not None or asked.groups is not None
    if unfit or is_kept or asked.rows is not None or asked.passes > 1:
        raise UsageError(
            "blocks come once and in order: store them, or leave sample, population, rows, passes, checkpoint, engine "
            "and groups out"
        )
    rungs = rungs_for(asked.method, asked.precision)
    stream = BlockStream(source)
    asked.check_dims(stream.n_features)
    device = device_for(stream, asked.device)
    done, bytes_read = read_blocks(
        stream, _best(rungs), normalize=asked.normalize, workers=asked.workers, memory_limit=asked.memory_limit,
        nonfinite=asked.nonfinite, device=device, seed=asked.seed, confidence=asked.confidence,
        progress=progress,
        columns=columns_for(asked.method, asked.rank, asked.oversampling, stream.n_features),
    )  # fmt: skip
    return Read(
        source=_describe(stream.uri, (stream.n_rows, stream.n_features), stream.stored, "blocks"),
        found=of_all(done, stream.stored.unit_roundoff, asked.normalize, asked.dims),
        passes=[done.describe()],
        bytes_read=bytes_read,
        remedy=_remedy(asked, "blocks come once; pass method='tsqr', or store them" if len(rungs) > 1 else None),
        integrity=stream.integrity,
        device=device.name,
        card=device.describe(),
    )


def _read_source(source: Any, asked: Request, engine: Engine, progress: Report | None) -> Read:
    """Read rows that can be read in any order: a part of them, or all."""
    rungs = rungs_for(asked.method, asked.precision)
    opened = open_source(source)
    asked.check_dims(opened.shape[1])
    device = device_for(opened, asked.device if engine.device is None else "cpu")  # workers open their own
    rows = _row_range(asked.rows, opened.shape[0])
    reader = Reader(
        opened, rows, asked.normalize, asked.workers, asked.memory_limit, asked.missing, asked.nonfinite,
        None if asked.checkpoint is None else Path(asked.checkpoint), engine, device,
        columns_for(asked.method, asked.rank, asked.oversampling, opened.shape[1]), asked.seed, asked.passes,
        _groups(asked.groups, opened, rows), asked.confidence,
    )  # fmt: skip
    _check_device(reader)
    check_rows(asked.method, rows[1] - rows[0], reader.columns)
    rungs = reader.rungs_left(rungs)
    try:  # before the store is asked
        reader.plan(next((rung for rung in rungs if rung[1] == "float64"), rungs[0]), turn=asked.passes - 1)
    except LimitError as error:
        is_open = asked.method in ("auto", "gram") and asked.precision != "float32"
        is_open = is_open and not (asked.dims or asked.sample or asked.population)
        instead = sketch_instead(reader) if is_open else ""
        raise LimitError(f"{error}{instead}") from None
    fingerprint = reader.fingerprint()
    drawn = design(rows=rows, n_features=opened.shape[1], bounds=opened.bounds(*rows), seed=asked.seed)
    if asked.population:
        reader.plan(rungs[0], drawn)  # its groups are refused now, not after every row was read
    reading: Reading | None = None
    answer: Sample | None = None
    if asked.sample:
        reading = read_sample(
            reader, rungs, drawn, tolerance=asked.tolerance, confidence=asked.confidence,
            population=asked.population, max_rows=asked.max_rows, progress=progress,
        )  # fmt: skip
    if reading is not None and reading.is_answer:
        answer = reading.sample
        found = of_sample(answer, asked.normalize, asked.dims)
    else:
        is_free = asked.precision == "auto" and rungs[0][1] == "float32" and not reader.holds()
        if is_free and not float32_will_do(reader, asked.tolerance):
            del rungs[0]
        done = climb(reader, rungs, asked.tolerance, fingerprint, progress)
        found = of_all(done, opened.stored.unit_roundoff, asked.normalize, asked.dims)
        if asked.population:
            rung = (done.plan.method, done.plan.precision)
            reason = "the rows are too few to tell from them what they were drawn from"
            try:
                answer = sample_for_population(reader, rung, drawn, confidence=asked.confidence, progress=progress)
            except LimitError as error:  # the pass itself left less memory than there was
                reason = str(error)
            found = of_population(found, answer, reason)
    if answer is not None:
        reader.check_unchanged(fingerprint)
    remedy = _remedy(asked, reader.refused)
    if reading is not None and reading.wants_rows(asked.tolerance):
        remedy = "allow more rows"
    elif asked.population:
        remedy = "more rows are needed to tell so much of what these were drawn from"
    return Read(
        source=_describe(opened.uri, opened.shape, opened.stored, fingerprint),
        found=found,
        passes=reader.passes,
        bytes_read=reader.bytes_read,
        remedy=remedy,
        integrity=opened.integrity,
        chunks_missing=max(opened.chunks_missing, engine.chunks_missing),
        looks=reading.looks if reading is not None else (),
        sample=answer,
        unkept=reader.unkept,
        machines=reader.machines,
        engine=engine.name,
        device=engine.device or reader.device.name,
        card=reader.device.describe(),
    )


def _check_device(reader: Reader) -> None:
    if reader.groups is not None and reader.device is not HOST:
        raise UsageError(
            f"groups are kept and scored by the processor, and the rows are on {reader.device.name}: bring them here, "
            "or leave groups out"
        )


def read_state(state: State, tolerance: float, dims: Sequence[int], confidence: float) -> Read:
    """Return what the rows of a whole pass came to."""
    check_complete(state)
    plan, unit_roundoff = state.plan, float(state.source["unit_roundoff"])
    for d in dims:
        if not 1 <= d <= plan.n_features:
            raise UsageError(f"dims holds {d}, and the rows have {plan.n_features:,} features")
    whole = state.forest().total().on_basis(state.basis)
    done = Pass.of(whole, plan, unit_roundoff, state.rules["missing"], confidence)
    uri = state.source["uri"]
    check_not_empty(done, uri)
    again = f"read them by QR (rankme segment {uri} --method tsqr --part I/N, other options as before) and merge those"
    return Read(
        source={name: state.source[name] for name in ("uri", "n_rows", "n_features", "dtype")}
        | {"fingerprint": state.fingerprint},
        found=of_all(done, unit_roundoff, plan.normalize, dims),
        passes=[*state.passes, done.describe()],
        bytes_read=0,
        remedy=again if plan.method == "gram" else "pass a larger --tolerance",
        integrity=state.source["integrity"],
        chunks_missing=state.source["chunks_missing"],
        machines=state.workers,
    )


def _best(rungs: Sequence[Rung]) -> Rung:
    """Return the arithmetic for rows that come once: of those allowed, the first in float64, or the only one."""
    return next((rung for rung in rungs if rung[1] == "float64"), rungs[0])


def _describe(uri: str, shape: tuple[int, int], stored: StoredType, fingerprint: str) -> dict[str, Any]:
    n_rows, n_features = shape
    return {
        "uri": uri, "n_rows": n_rows, "n_features": n_features, "dtype": stored.name, "fingerprint": fingerprint,
    }  # fmt: skip


def _remedy(asked: Request, refused: str | None) -> str:
    if refused is not None:
        return f"the next arithmetic was not tried: {refused}"
    if asked.precision == "float32":
        return "try --precision auto"
    if asked.method in SKETCHES:
        more = " and more --passes tell" if asked.method == "rsvd" else " tells"
        return f"a larger --rank{more} more, --method gram all; or pass a larger --tolerance"
    return "try --method auto" if asked.method == "gram" else "pass a larger --tolerance"
