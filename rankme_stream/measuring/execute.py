"""Execution of a request: on stored rows, all or a sample of them, on a stream of blocks, or on a state."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import LimitError, UsageError, argument
from rankme_stream.measuring.completed_pass import CompletedPass
from rankme_stream.measuring.escalation import (
    arithmetics_for,
    check_not_empty,
    choices_for,
    escalate,
    first_in_float64,
    float32_will_do,
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
from rankme_stream.measuring.sampling.odd_chunks import find_odd_chunks
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.measuring.sampling.sequential import Look, SequentialSample, read_sample, sample_for_population
from rankme_stream.measuring.steps import plan_steps
from rankme_stream.measuring.stream_pass import read_stream
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.passes.engines.engine import Report
from rankme_stream.passes.engines.local import LocalEngine
from rankme_stream.passes.planning.plan import with_largest_memory
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.passes.state.audit import DEFAULT_RULES, Rules
from rankme_stream.passes.state.pass_state import State, check_complete, impossible_numbers
from rankme_stream.sources import BlockStream, describe_parts, describe_storage, is_blocks, open_source


@dataclass(frozen=True)
class Execution:
    """Numbers of the rows that were read, their source, and advice for an interval that is too wide."""

    source: dict[str, Any]
    tables: EstimateTables
    passes: Sequence[Mapping[str, Any]]
    bytes_read: int
    remedy: str
    integrity: str
    machines: Sequence[Mapping[str, Any]]
    chunks_missing: int = 0
    looks: Sequence[Look] = ()
    sampling: dict[str, Any] | None = None
    checkpoint_failure: str | None = None
    engine: str = "local"
    device: str = HOST.name
    rules: Rules = DEFAULT_RULES


_DESCRIBED = ("uri", "n_rows", "n_features", "dtype", "decoding", "parts", "remarks")  # some where they are known


def execute(source: Any, request: Request, progress: Report | None) -> Execution:
    """Read the rows of a source as requested and return their numbers."""
    if is_blocks(source):
        return _execute_stream(source, request, progress)
    with engine_for(request) as engine:
        runner = PassRunner(open_source(source, key=request.key), request, engine)
        runner.check_rows()
        return _execute_passes(runner, progress)


def _execute_stream(source: Any, request: Request, progress: Report | None) -> Execution:
    """Read a stream of blocks, once and in order."""
    needs_order = request.sample or request.population or request.rows is not None or request.passes > 1
    is_kept = request.checkpoint is not None or request.groups is not None
    if needs_order or is_kept or request.engine != "local":
        raise UsageError(
            "a stream of blocks is read once and in order: store it, or leave out sample, population, rows, passes, "
            "checkpoint, engine and groups"
        )
    stream = BlockStream(source, key=request.key)
    request.check_dims(stream.n_features)
    device = device_for(stream, request.device)
    arithmetics = arithmetics_for(request)
    done, bytes_read = read_stream(stream, first_in_float64(arithmetics), request, device, progress)
    refused = f"a stream is read once; pass {argument('method', 'tsqr')}, or store it" if len(arithmetics) > 1 else None
    return Execution(
        source=_describe(stream.uri, (stream.n_rows, stream.n_features), stream.stored, "blocks"),
        tables=tables_of_rows(done, stream.stored.unit_roundoff, request.normalize, request.dims),
        passes=[done.describe()],
        bytes_read=bytes_read,
        remedy=_remedy(request, refused),
        integrity=stream.integrity,
        machines=[one | device.describe() for one in LocalEngine().machines(done.plan.workers)],
        device=device.name,
        rules=Rules("error", request.nonfinite, request.zeros),
    )


def _execute_passes(runner: PassRunner, progress: Report | None) -> Execution:
    """Read stored rows, in random order for a sample, or all."""
    request, source, engine = runner.request, runner.source, runner.engine
    arithmetics = runner.arithmetics_left(choices_for(runner))
    design = runner.design()
    steps = plan_steps(runner, arithmetics, design)  # before the first request to the store
    fingerprint = runner.fingerprint()
    sequential = read_sample(runner, arithmetics, design, progress) if request.sample else None
    sample = sequential.sample if sequential is not None else None
    sampling: dict[str, Any] = {}
    if sample is not None:
        tables = tables_of_sample(sample, request.normalize, request.dims)
        sampling |= _odd_chunks(runner, design)
    else:
        done = _read_all(runner, arithmetics, fingerprint, progress)
        with runner.guarding():
            tables = tables_of_rows(done, source.stored.unit_roundoff, request.normalize, request.dims)
        del done  # frees its memory for the sample
        if request.population:
            tables, sample = _widen_for_population(runner, tables, progress)
    if sample is not None:
        runner.check_unchanged(fingerprint)
        sampling |= sample.to_dict()
    return Execution(
        source=_describe(source.uri, source.shape, source.stored, fingerprint)
        | describe_parts(source)
        | describe_storage(source),
        tables=replace(tables, plan=with_largest_memory(tables.plan, [tables.plan, *steps])),
        passes=runner.passes,
        bytes_read=runner.bytes_read,
        remedy=_remedy_for_rows(runner, sequential),
        integrity=source.integrity,
        chunks_missing=max(source.chunks_missing, engine.chunks_missing),
        looks=sequential.looks if sequential is not None else (),
        sampling=sampling or None,
        checkpoint_failure=runner.checkpoint_failure,
        machines=runner.machines,
        engine=engine.name,
        device=engine.device or runner.device.name,
        rules=runner.rules,
    )


def _odd_chunks(runner: PassRunner, design: SampleDesign) -> dict[str, Any]:
    """Describe chunks of unlike size, and read some: of half as many rows as the first look, beside the sample."""
    source = runner.source
    found = find_odd_chunks(source, runner.rows, design.first_look * design.unit_rows // 2)
    if found is None:
        return {}
    runner.bytes_read += found.rows * source.shape[1] * source.stored.dtype.itemsize
    return {"odd_chunks": found.to_dict()}


def _read_all(
    runner: PassRunner, arithmetics: list[Arithmetic], fingerprint: str, progress: Report | None
) -> CompletedPass:
    """Read every row, first by the cheapest arithmetic that is likely to meet the tolerance."""
    is_free = runner.request.precision == "auto" and not runner.can_resume()
    if is_free and arithmetics[0].precision == "float32" and not float32_will_do(runner, arithmetics[0]):
        arithmetics = arithmetics[1:]
    return escalate(runner, arithmetics, fingerprint, progress)


def _widen_for_population(
    runner: PassRunner, tables: EstimateTables, progress: Report | None
) -> tuple[EstimateTables, Sample | None]:
    """Return the numbers of every row as estimates for their population, and the sample that shows how rows vary."""
    reason = "the rows are too few for a statement about their population"
    sample: Sample | None = None
    try:
        sample = sample_for_population(runner, tables.plan.arithmetic, progress)
    except LimitError as error:  # of a better arithmetic than the one planned for
        reason = str(error)
    return tables_of_population(tables, sample, reason), sample


def execute_state(state: State, request: Request) -> Execution:
    """Return the numbers of the rows of a state; a request gives tolerance, confidence and dims."""
    check_complete(state)
    plan, unit_roundoff = state.plan, float(state.source["unit_roundoff"])
    request.check_dims(plan.n_features)
    uri = state.source["uri"]
    with impossible_numbers(uri):
        whole = state.merge_tree().total().on_basis(state.basis)
        done = CompletedPass.of(whole, plan, unit_roundoff, Rules(**state.rules), request.confidence)
        check_not_empty(done, uri)
        tables = tables_of_rows(done, unit_roundoff, plan.normalize, request.dims)
    better, remedy = METHODS[plan.method].better, f"pass a larger {argument('tolerance')}"
    if better is not None:
        again = f"rankme segment {shlex.quote(uri)} --method {better} --part I/N, other options as before"
        remedy = f"read the rows again ({again}) and merge again"
    return Execution(
        source={name: state.source[name] for name in _DESCRIBED if name in state.source}
        | {"fingerprint": state.fingerprint},
        tables=tables,
        passes=[*state.passes, done.describe()],
        bytes_read=0,
        remedy=remedy,
        integrity=state.source["integrity"],
        chunks_missing=state.source["chunks_missing"],
        machines=state.workers,
        rules=Rules(**state.rules),
    )


def _describe(uri: str, shape: tuple[int, int], stored: StoredType, fingerprint: str) -> dict[str, Any]:
    n_rows, n_features = shape
    return {
        "uri": uri, "n_rows": n_rows, "n_features": n_features, "dtype": stored.name, "decoding": stored.description,
        "fingerprint": fingerprint,
    }  # fmt: skip


def _remedy_for_rows(runner: PassRunner, sequential: SequentialSample | None) -> str:
    """Return advice that would narrow the interval of stored rows."""
    if sequential is not None and sequential.wants_every_row and not runner.request.population:
        return f"leave {argument('sample')} out, so that every row is read"
    if sequential is not None and sequential.wants_rows(runner.request.tolerance):
        return "allow more rows"
    if runner.request.population:
        return "more rows are needed for so narrow an interval for their population"
    return _remedy(runner.request, runner.refused)


def _remedy(request: Request, refused: str | None) -> str:
    return request.remedy if refused is None else f"the next arithmetic was not tried: {refused}"
