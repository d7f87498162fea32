"""What workers of a Dask cluster do: read a node of the merge tree, or merge two."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import LimitError, SourceChangedError
from rankme_stream.groups.partition import Partition
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import device_named, memory_errors_as_limits
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.engines.local import run_into
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.merge_tree import MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.sources import Source, open_source

Result = dict[str, Any]  # what a node came to, as Dask sends it


@dataclass(frozen=True)
class WorkerPass:
    """What a worker needs to know of a pass.

    Attributes
    ----------
    place
        What opens the source there, pickled.
    run
        Of this pass and no other: a source is opened once a run.
    groups
        Of all rows, or of those that a worker is to read; None for a merge, which needs none.
    device
        Name of the device that a worker computes with: one of its own. What it made is merged on processors.
    """

    place: bytes
    run: str
    uri: str
    identity: Mapping[str, object]
    plan: Plan
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]
    groups: Partition | None = None
    device: str = "cpu"


@lru_cache(maxsize=4)
def _opened(place: bytes, run: str) -> Source:
    return open_source(pickle.loads(place))


def read_node(work: WorkerPass, node: Node, fingerprint: str, basis: OrthonormalBasis | None) -> Result:
    """Read the segments of a node and return what they came to.

    Raises
    ------
    SourceError
        Also if the source is another one there, or stored otherwise than it was.
    DeviceError, LimitError
        If the worker lacks the device, or its card the memory.
    """
    device = device_named(work.device)
    source = _opened(work.place, work.run)
    plan = work.plan
    start, stop = plan.rows_of(span(node))
    if dict(source.identity()) != dict(work.identity) or source.fingerprint(start, stop) != fingerprint:
        raise SourceChangedError(
            f"rows {start:,}-{stop - 1:,} of {work.uri} are not stored there as they were when the pass began: do all "
            "workers see the same files, and does something write to them?"
        )
    forest = MergeTree[PartialResult]()
    task = PassSpec(
        source, plan, accumulator_of(plan, basis), plan.normalize, work.missing, work.nonfinite, device=device,
        groups=work.groups,
    )  # fmt: skip
    address, facts = _me(device)
    if device is not HOST:
        _check_card(plan, device, address)
    with blas_threads.one_thread(), nullcontext() if device is HOST else memory_errors_as_limits():
        n_bytes = run_into(forest, task, range(span(node).start, min(span(node).stop, plan.all_segments.stop)))
        plain, arrays = forest.total().to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": n_bytes, "workers": {address: facts},
        "missing": {address: source.chunks_missing},
    }  # fmt: skip


def kept(basis: OrthonormalBasis) -> OrthonormalBasis:
    """Return a basis: a worker's task that holds it, made again elsewhere if that worker is lost."""
    return basis


def merge_nodes(work: WorkerPass, left: Result, right: Result) -> Result:
    """Return two siblings as one."""
    with blas_threads.one_thread():
        plain, arrays = partial_of(work.plan, left).merge(partial_of(work.plan, right)).to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": left["bytes"] + right["bytes"],
        "workers": left["workers"] | right["workers"], "missing": left["missing"] | right["missing"],
    }  # fmt: skip


def partial_of(plan: Plan, result: Result) -> PartialResult:
    """Return what a node came to."""
    arrays: Mapping[str, Array] = result["arrays"]
    return PartialResult.from_record(plan.arithmetic, result["plain"], arrays)


def _check_card(plan: Plan, device: Device, address: str) -> None:
    """Refuse a task that needs more of a card than is free there."""
    free = device.free_bytes()
    if 0 < free < plan.card_peak_bytes:
        raise LimitError(
            f"a task needs {plan.card_peak_bytes / 2**20:,.0f} MiB of the card of worker {address}, where "
            f"{free / 2**20:,.0f} are free; leave --device out, or give a card to fewer threads"
        )


def _me(device: Device) -> tuple[str, dict[str, Any]]:
    from distributed import get_worker

    me = get_worker()
    return str(me.address), _facts(int(me.state.nthreads), device)


@lru_cache(maxsize=1)
def _facts(n_threads: int, device: Device) -> dict[str, Any]:
    return machine.worker(n_threads) | device.describe()
