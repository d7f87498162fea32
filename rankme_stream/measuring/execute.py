"""Rows asked for, planned and read: rows in any order, a part of them or all, or blocks that come once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankme_stream.accumulators.methods import SKETCHES, Arithmetic, check_rows, sketch_size_for
from rankme_stream.errors import LimitError, UsageError
from rankme_stream.groups.partition import Partition, partition_of
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.escalation import (
    arithmetics_for,
    check_not_empty,
    escalate,
    float32_will_do,
    sketch_instead,
)
from rankme_stream.measuring.estimate_tables import (
    EstimateTables,
    tables_of_population,
    tables_of_rows,
    tables_of_sample,
)
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.placement import device_for, engine_for
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.measuring.sampling.sequential import Look, SequentialSample, read_sample, sample_for_population
from rankme_stream.measuring.stream_pass import read_blocks
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.passes.engines.engine import Engine, Report
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.passes.state.pass_state import State, check_complete
from rankme_stream.sources import BlockStream, Source, is_blocks, open_source


def _row_range(rows: tuple[int | None, int | None] | None, n_rows: int) -> tuple[int, int]:
    start, stop = rows or (None, None)
    first, last = start or 0, n_rows if stop is None else stop
    if not 0 <= first < last <= n_rows:
        raise UsageError(f"rows {first}:{last} are not within the {n_rows:,} rows of the source")
    return first, last


def _groups(spec: Any, source: Source, rows: tuple[int, int]) -> Partition | None:
    return None if spec is None else partition_of(spec, source.shape[0], rows)


@dataclass(frozen=True)
class Execution:
    """The rows that were read, where they came from, and what would help if they tell too little."""

    source: dict[str, Any]
    found: EstimateTables
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


def execute(source: Any, asked: Request, progress: Report | None) -> Execution:
    """Read rows as they were asked for."""
    if is_blocks(source):
        return _read_blocks(source, asked, progress)
    with engine_for(asked) as engine:
        return _read_source(source, asked, engine, progress)


def _read_blocks(source: Any, asked: Request, progress: Report | None) -> Execution:
    """Read rows that come once."""
    unfit = asked.sample or asked.population or asked.engine != "local"
    is_kept = asked.checkpoint is not None or asked.groups is not None
    if unfit or is_kept or asked.rows is not None or asked.passes > 1:
        raise UsageError(
            "blocks come once and in order: store them, or leave sample, population, rows, passes, checkpoint, engine "
            "and groups out"
        )
    arithmetics = arithmetics_for(asked.method, asked.precision)
    stream = BlockStream(source)
    asked.check_dims(stream.n_features)
    device = device_for(stream, asked.device)
    done, bytes_read = read_blocks(
        stream, _best(arithmetics), normalize=asked.normalize, workers=asked.workers, memory_limit=asked.memory_limit,
        nonfinite=asked.nonfinite, device=device, seed=asked.seed, confidence=asked.confidence,
        progress=progress,
        sketch_size=sketch_size_for(asked.method, asked.rank, asked.oversampling, stream.n_features),
    )  # fmt: skip
    return Execution(
        source=_describe(stream.uri, (stream.n_rows, stream.n_features), stream.stored, "blocks"),
        found=tables_of_rows(done, stream.stored.unit_roundoff, asked.normalize, asked.dims),
        passes=[done.describe()],
        bytes_read=bytes_read,
        remedy=_remedy(asked, "blocks come once; pass method='tsqr', or store them" if len(arithmetics) > 1 else None),
        integrity=stream.integrity,
        device=device.name,
        card=device.describe(),
    )


def _read_source(source: Any, asked: Request, engine: Engine, progress: Report | None) -> Execution:
    """Read rows that can be read in any order: a part of them, or all."""
    arithmetics = arithmetics_for(asked.method, asked.precision)
    opened = open_source(source)
    asked.check_dims(opened.shape[1])
    device = device_for(opened, asked.device if engine.device is None else "cpu")  # workers open their own
    rows = _row_range(asked.rows, opened.shape[0])
    reader = PassRunner(
        opened, rows, asked.normalize, asked.workers, asked.memory_limit, asked.missing, asked.nonfinite,
        None if asked.checkpoint is None else Path(asked.checkpoint), engine, device,
        sketch_size_for(asked.method, asked.rank, asked.oversampling, opened.shape[1]), asked.seed, asked.passes,
        _groups(asked.groups, opened, rows), asked.confidence,
    )  # fmt: skip
    _check_device(reader)
    check_rows(asked.method, rows[1] - rows[0], reader.sketch_size)
    arithmetics = reader.arithmetics_left(arithmetics)
    try:  # before the store is asked
        reader.plan(
            next((arithmetic for arithmetic in arithmetics if arithmetic.precision == "float64"), arithmetics[0]),
            pass_number=asked.passes - 1,
        )
    except LimitError as error:
        is_open = asked.method in ("auto", "gram") and asked.precision != "float32"
        is_open = is_open and not (asked.dims or asked.sample or asked.population)
        instead = sketch_instead(reader) if is_open else ""
        raise LimitError(f"{error}{instead}") from None
    fingerprint = reader.fingerprint()
    drawn = draw_design(rows=rows, n_features=opened.shape[1], bounds=opened.bounds(*rows), seed=asked.seed)
    if asked.population:
        reader.plan(arithmetics[0], drawn)  # its groups are refused now, not after every row was read
    reading: SequentialSample | None = None
    answer: Sample | None = None
    if asked.sample:
        reading = read_sample(
            reader, arithmetics, drawn, tolerance=asked.tolerance, confidence=asked.confidence,
            population=asked.population, max_rows=asked.max_rows, progress=progress,
        )  # fmt: skip
    if reading is not None and reading.is_answer:
        answer = reading.sample
        found = tables_of_sample(answer, asked.normalize, asked.dims)
    else:
        is_free = asked.precision == "auto" and arithmetics[0].precision == "float32" and not reader.holds()
        if is_free and not float32_will_do(reader, asked.tolerance):
            del arithmetics[0]
        done = escalate(reader, arithmetics, asked.tolerance, fingerprint, progress)
        found = tables_of_rows(done, opened.stored.unit_roundoff, asked.normalize, asked.dims)
        if asked.population:
            arithmetic = done.plan.arithmetic
            reason = "the rows are too few to tell from them what they were drawn from"
            try:
                answer = sample_for_population(
                    reader, arithmetic, drawn, confidence=asked.confidence, progress=progress
                )
            except LimitError as error:  # the pass itself left less memory than there was
                reason = str(error)
            found = tables_of_population(found, answer, reason)
    if answer is not None:
        reader.check_unchanged(fingerprint)
    remedy = _remedy(asked, reader.refused)
    if reading is not None and reading.wants_rows(asked.tolerance):
        remedy = "allow more rows"
    elif asked.population:
        remedy = "more rows are needed to tell so much of what these were drawn from"
    return Execution(
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


def _check_device(reader: PassRunner) -> None:
    if reader.groups is not None and reader.device is not HOST:
        raise UsageError(
            f"groups are kept and scored by the processor, and the rows are on {reader.device.name}: bring them here, "
            "or leave groups out"
        )


def execute_state(state: State, tolerance: float, dims: Sequence[int], confidence: float) -> Execution:
    """Return what the rows of a whole pass came to."""
    check_complete(state)
    plan, unit_roundoff = state.plan, float(state.source["unit_roundoff"])
    for d in dims:
        if not 1 <= d <= plan.n_features:
            raise UsageError(f"dims holds {d}, and the rows have {plan.n_features:,} features")
    whole = state.merge_tree().total().on_basis(state.basis)
    done = CompletedPass.of(whole, plan, unit_roundoff, state.rules["missing"], confidence)
    uri = state.source["uri"]
    check_not_empty(done, uri)
    again = f"read them by QR (rankme segment {uri} --method tsqr --part I/N, other options as before) and merge those"
    return Execution(
        source={name: state.source[name] for name in ("uri", "n_rows", "n_features", "dtype")}
        | {"fingerprint": state.fingerprint},
        found=tables_of_rows(done, unit_roundoff, plan.normalize, dims),
        passes=[*state.passes, done.describe()],
        bytes_read=0,
        remedy=again if plan.method == "gram" else "pass a larger --tolerance",
        integrity=state.source["integrity"],
        chunks_missing=state.source["chunks_missing"],
        machines=state.workers,
    )


def _best(arithmetics: Sequence[Arithmetic]) -> Arithmetic:
    """Return the arithmetic for rows that come once: of those allowed, the first in float64, or the only one."""
    return next((arithmetic for arithmetic in arithmetics if arithmetic.precision == "float64"), arithmetics[0])


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
