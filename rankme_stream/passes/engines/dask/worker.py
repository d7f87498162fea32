"""Tasks of the workers of a Dask cluster: read a node of the merge tree, or merge two."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import (
    EngineError,
    LimitError,
    RankMeError,
    SourceChangedError,
    StorageError,
    UsageError,
    argument,
)
from rankme_stream.groups.partition import Partition
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import device_named, memory_errors_as_limits
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.engines.local import run_into
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.merge_tree import MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.sources import (
    BlockType,
    ComputedBlock,
    HeldBlocks,
    Source,
    block_source,
    content_digest,
    open_source,
)

ATTEMPTS = 4  # at reads whose failure another worker, or time, may mend
Result = dict[str, Any]  # partial result of a node, as Dask sends it


@dataclass(frozen=True)
class WorkerPass:
    """Description of a pass for a worker.

    Attributes
    ----------
    pickled_source
        Argument of ``open_source`` that opens the source there, pickled; empty if workers are given its blocks.
    run_id
        Unique name of this run: a worker opens the source once per run.
    uri, identity, content
        URI, identity and hash of the values of a few rows of the source, which the worker's must match.
    rules
        Treatment of missing rows, of non-finite rows and of rows of zeros, as in ``measure``.
    groups
        Groups of all rows, or of the rows that a worker reads; None for a merge, which needs none.
    device
        Name of the device that a worker computes with: one of its own. Its results are merged on processors.
    block_type
        What blocks are that workers compute and are given; None if they open the source.
    """

    pickled_source: bytes
    run_id: str
    uri: str
    identity: Mapping[str, object]
    content: str
    plan: Plan
    rules: Rules
    groups: Partition | None = None
    device: str = "cpu"
    block_type: BlockType | None = None

    @classmethod
    def of(cls, spec: PassSpec, device: str) -> WorkerPass:
        """Return the description of a pass, for workers that compute with a device.

        Raises
        ------
        UsageError
            If workers cannot open the source.
        EngineError
            If its storage fails again and again.
        """
        source, plan = spec.source, spec.plan
        run_id = f"{time.time_ns():x}"
        if (computed := block_source(source)) is not None:
            return cls(
                b"", run_id, source.uri, source.identity(), "", plan, spec.rules, spec.groups, device,
                computed.block_type,
            )  # fmt: skip
        reopened = source.reopen()
        if reopened is None:
            raise UsageError(
                f"{source.uri} lives in this process, and workers cannot read it: store the rows in a zarr array"
            )
        try:
            pickled = pickle.dumps(reopened)
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{source.uri} cannot be sent to workers: {reason}; pass its path or URL, or a session that only reads"
            ) from error
        return cls(
            pickled, run_id, source.uri, source.identity(), _content_here(source, plan.row_start, plan.row_stop), plan,
            spec.rules, spec.groups, device,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _open_source(pickled_source: bytes, run_id: str, start: int, stop: int) -> tuple[Source, str]:
    """Return the source of a run, and the hash of the values of some of its rows [start, stop)."""
    source = open_source(pickle.loads(pickled_source))
    return source, content_digest(source, start, stop)


def _content_here(source: Source, start: int, stop: int) -> str:
    """Return the hash of the values of some rows, which the client reads as often as a worker would."""
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            return content_digest(source, start, stop)
        except StorageError as error:
            last = error
        except RankMeError:
            raise
        except (OSError, RuntimeError) as error:
            last = error
    raise EngineError(
        f"rows {start:,}-{stop - 1:,} failed {ATTEMPTS} times here, the last time: {type(last).__name__}: {last}"
    ) from last


def read_node(
    work: WorkerPass, node: Node, fingerprint: str, basis: OrthonormalBasis | None, blocks: Sequence[Any] = ()
) -> Result:
    """Read the segments of a node, from the source or from blocks that hold their rows, and return their result.

    Raises
    ------
    SourceError
        If rows cannot be read, the source there is another one, or its rows are stored differently than before.
    DeviceError, LimitError
        If the worker lacks the device, or its card the memory.
    """
    device = device_named(work.device)
    plan = work.plan
    if work.block_type is None:
        source = _source_there(work, node, fingerprint)
    else:
        source = HeldBlocks([ComputedBlock(*one) for one in blocks], work.block_type)
    tree = MergeTree[PartialResult]()
    spec = PassSpec(
        source, plan, accumulator_of(plan, basis), plan.normalize, work.rules, device=device,
        groups=work.groups,
    )  # fmt: skip
    address, machine_facts = _describe_worker(device)
    if device is not HOST:
        _check_card(plan, device, address)
    with blas_threads.one_thread(), nullcontext() if device is HOST else memory_errors_as_limits():
        n_bytes = run_into(tree, spec, range(span(node).start, min(span(node).stop, plan.all_segments.stop)))
        plain, arrays = tree.total().to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": n_bytes, "workers": {address: machine_facts},
        "missing": {address: source.chunks_missing},
    }  # fmt: skip


def _source_there(work: WorkerPass, node: Node, fingerprint: str) -> Source:
    """Return the source, opened on the worker, if its rows of a node are those that the client saw."""
    plan = work.plan
    source, content = _open_source(work.pickled_source, work.run_id, plan.row_start, plan.row_stop)
    start, stop = plan.rows_of(span(node))
    is_other = dict(source.identity()) != dict(work.identity) or content != work.content
    if is_other or source.fingerprint(start, stop) != fingerprint:
        raise SourceChangedError(
            f"rows {start:,}-{stop - 1:,} of {work.uri} are not stored there as they were when the pass began: do all "
            "workers see the same files, and does something write to them?"
        )
    return source


def hold_basis(basis: OrthonormalBasis) -> OrthonormalBasis:
    """Return a basis: the task keeps it on a worker, and is run again elsewhere if that worker is lost."""
    return basis


def merge_nodes(work: WorkerPass, left: Result, right: Result) -> Result:
    """Return the result of two siblings merged."""
    with blas_threads.one_thread():
        plain, arrays = partial_of(work.plan, left).merge(partial_of(work.plan, right)).to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": left["bytes"] + right["bytes"],
        "workers": left["workers"] | right["workers"], "missing": left["missing"] | right["missing"],
    }  # fmt: skip


def partial_of(plan: Plan, result: Result) -> PartialResult:
    """Return the partial result of a node."""
    arrays: Mapping[str, Array] = result["arrays"]
    return PartialResult.from_record(plan.arithmetic, result["plain"], arrays)


def _check_card(plan: Plan, device: Device, address: str) -> None:
    """Refuse a task that needs more of a card than is free there."""
    free = device.free_bytes()
    if 0 < free < plan.card_peak_bytes:
        raise LimitError(
            f"a task needs {plan.card_peak_bytes / 2**20:,.0f} MiB of the card of worker {address}, where "
            f"{free / 2**20:,.0f} are free; leave {argument('device')} out, or give a card to fewer threads"
        )


def _describe_worker(device: Device) -> tuple[str, dict[str, Any]]:
    from distributed import get_worker

    worker = get_worker()
    return str(worker.address), _machine_facts(int(worker.state.nthreads), device)


@lru_cache(maxsize=1)
def _machine_facts(n_threads: int, device: Device) -> dict[str, Any]:
    return machine.worker(n_threads) | device.describe() | machine.BLAS_CHECKED
