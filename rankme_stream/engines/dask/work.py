"""What workers of a Dask cluster do: read a node of the merge tree, or merge two."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from threadpoolctl import ThreadpoolController

from rankme_stream import machine
from rankme_stream.arrays import Array
from rankme_stream.engines.local import run_into
from rankme_stream.errors import SourceChangedError
from rankme_stream.groups import Groups
from rankme_stream.ledger import Forest, Node, span
from rankme_stream.partial import Partial, accumulator_of
from rankme_stream.passes import Task
from rankme_stream.planning import Plan
from rankme_stream.sources import Source, open_source
from rankme_stream.vectors import Basis

Result = dict[str, Any]  # what a node came to, as Dask sends it


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of a pass.

    Attributes
    ----------
    place
        What opens the source there, pickled.
    run
        Of this pass and no other: a source is opened once a run.
    groups
        Of all rows, or of those that a worker is to read; None for a merge, which needs none.
    """

    place: bytes
    run: str
    uri: str
    identity: Mapping[str, object]
    plan: Plan
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]
    groups: Groups | None = None


@lru_cache(maxsize=4)
def _opened(place: bytes, run: str) -> Source:
    return open_source(pickle.loads(place))


def read_node(work: Work, node: Node, fingerprint: str, basis: Basis | None) -> Result:
    """Read the segments of a node and return what they came to.

    Raises
    ------
    SourceError
        Also if the source is another one there, or stored otherwise than it was.
    """
    _hold_blas()
    source = _opened(work.place, work.run)
    plan = work.plan
    start, stop = plan.rows_of(span(node))
    if dict(source.identity()) != dict(work.identity) or source.fingerprint(start, stop) != fingerprint:
        raise SourceChangedError(
            f"rows {start:,}-{stop - 1:,} of {work.uri} are not stored there as they were when the pass began: do all "
            "workers see the same files, and does something write to them?"
        )
    forest = Forest[Partial]()
    task = Task(
        source, plan, accumulator_of(plan, basis), plan.normalize, work.missing, work.nonfinite, groups=work.groups
    )  # fmt: skip
    n_bytes = run_into(forest, task, range(span(node).start, min(span(node).stop, plan.all_segments.stop)))
    plain, arrays = forest.total().to_record()
    address, facts = _me()
    return {
        "plain": plain, "arrays": arrays, "bytes": n_bytes, "workers": {address: facts},
        "missing": {address: source.chunks_missing},
    }  # fmt: skip


def kept(basis: Basis) -> Basis:
    """Return a basis: a worker's task that holds it, made again elsewhere if that worker is lost."""
    return basis


def merge_nodes(work: Work, left: Result, right: Result) -> Result:
    """Return two siblings as one."""
    _hold_blas()
    plain, arrays = partial_of(work.plan, left).merge(partial_of(work.plan, right)).to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": left["bytes"] + right["bytes"],
        "workers": left["workers"] | right["workers"], "missing": left["missing"] | right["missing"],
    }  # fmt: skip


def partial_of(plan: Plan, result: Result) -> Partial:
    """Return what a node came to."""
    arrays: Mapping[str, Array] = result["arrays"]
    return Partial.from_record((plan.method, plan.precision), result["plain"], arrays)


def _hold_blas() -> None:
    """Hold BLAS to one thread for good: another thread of this process may be in the middle of a product."""
    _libraries().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """Return the thread pools of this process, found once: looking for them takes milliseconds, telling them none."""
    return ThreadpoolController()


def _me() -> tuple[str, dict[str, Any]]:
    from distributed import get_worker

    me = get_worker()
    return str(me.address), _facts(int(me.state.nthreads))


@lru_cache(maxsize=1)
def _facts(n_threads: int) -> dict[str, Any]:
    return machine.worker(n_threads)
