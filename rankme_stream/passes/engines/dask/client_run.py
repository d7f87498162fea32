"""One pass on a cluster, seen from the client: nodes are read and merged by workers, then gathered."""

from __future__ import annotations

import queue
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import EngineError, RankMeError, StorageError
from rankme_stream.groups.partition import Partition
from rankme_stream.passes.engines.dask.block_futures import BlockFutures
from rankme_stream.passes.engines.dask.schedule import Schedule
from rankme_stream.passes.engines.dask.worker import ATTEMPTS, Result, WorkerPass, hold_basis, partial_of
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.state.merge_tree import MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import block_source

_TICK_S = 0.2
_STOP_S = 10.0  # wait of an interrupted pass for finished tasks
_ABANDONED_S = 600.0  # without a worker, after which the pass fails
_GATHERED_BYTES = 2**28  # gathered in one call; with less left, results are gathered as they finish and merged here
_CONNECTION_ERRORS = (OSError, RuntimeError, TimeoutError, CancelledError)  # raised if the scheduler is gone


class Cluster(Protocol):
    """The engine, as a run uses it."""

    client: Any
    device: str
    read: Callable[..., Result]
    merge: Callable[..., Result]

    @property
    def address(self) -> str:
        """Address of the scheduler, for messages."""

    def count_threads(self) -> int:
        """Return the number of threads of the cluster at the moment."""

    def record(self, result: Result) -> None:
        """Record the workers that read a result."""


class ClientRun:
    """Nodes of the merge tree on their way from the workers into a tree here.

    A node is **open** while it is being read, **done** once a worker holds its result, and in the tree once that was
    gathered. Siblings that are done are merged on the workers.

    Attributes
    ----------
    n_bytes
        Bytes decoded for the results gathered.
    """

    def __init__(
        self,
        cluster: Cluster,
        tree: MergeTree[PartialResult],
        spec: PassSpec,
        segments: range,
        schedule: Schedule,
        progress: Report | None,
    ) -> None:
        work = WorkerPass.of(spec, cluster.device)
        self.n_bytes = 0
        self._cluster, self._tree, self._source = cluster, tree, spec.source
        self._work, self._groups = replace(work, groups=None), work.groups
        self._schedule, self._progress = schedule, progress
        missing = list(_split_at_tail(tree.missing(segments), tree.tail))
        self._n_rows = sum(stop - start for start, stop in map(work.plan.rows_of, missing))
        self._waiting = schedule.nodes(missing)
        self._upcoming = next(self._waiting, None)
        self._lost: list[Node] = []  # nodes to read again
        self._open: OrderedDict[Node, None] = OrderedDict()  # the oldest first
        self._running: dict[Node, Any] = {}  # futures of the nodes that are open or being merged
        self._merging: dict[Node, tuple[Any, Any]] = {}
        self._done: dict[Node, Any] = {}
        self._attempts: dict[Node, int] = {}
        self._failures: dict[int, RankMeError] = {}  # by first segment
        self._events: queue.SimpleQueue[tuple[Node, Any]] = queue.SimpleQueue()
        self._submitted = self._rows_done = 0
        self._began = self._checked_at = self._had_workers_at = time.monotonic()
        computed = block_source(spec.source)
        self._blocks = None if computed is None else BlockFutures(computed, cluster.client)
        self._basis = None if spec.basis is None else self._submit_basis(spec.basis)

    def _submit_basis(self, basis: OrthonormalBasis) -> Any:
        """Return the future of a basis, which all reads depend on, so that it is sent once."""
        from distributed.client import ClosedClientError

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                return self._cluster.client.submit(
                    hold_basis, basis, key=f"rankme-{self._work.run_id}-basis", pure=False
                )
        except (*_CONNECTION_ERRORS, ClosedClientError) as error:
            raise self._lost_scheduler(error) from error

    def go(self) -> None:
        """Run the pass to its end.

        Raises
        ------
        RankMeError
            The error of the first segments, in row order, that failed for good.
        EngineError
            If the cluster fails.
        """
        while self._upcoming is not None or self._lost or self._running or self._done:
            self._start()
            self._process_events()
            self._raise_failure()
            is_time = time.monotonic() - self._checked_at > self._schedule.gather_s
            if is_time:
                self._follow_cluster()
            if self._done and (is_time or self._is_ending):
                self._gather()
            self._report()
        self._report()

    @property
    def _is_ending(self) -> bool:
        """Whether all tasks are under way, and few enough to be merged here."""
        is_under_way = self._upcoming is None and not self._lost
        left = (len(self._running) + len(self._done)) * self._schedule.node_bytes
        return is_under_way and (left < _GATHERED_BYTES or not self._running)

    def _start(self) -> None:
        """Submit reads as far as the window allows; after a failure, only those of rows before it."""
        first_failure = min(self._failures, default=self._work.plan.all_segments.stop)
        while self._lost:
            node = self._lost.pop()
            if span(node).start >= first_failure:
                continue
            self._open[node] = None
            self._open.move_to_end(node, last=False)
            self._read(node)
        while self._upcoming is not None and not self._failures and self._may_start(self._upcoming):
            self._open[self._upcoming] = None
            self._read(self._upcoming)
            self._upcoming = next(self._waiting, None)

    def _may_start(self, node: Node) -> bool:
        oldest = next(iter(self._open), node)
        ahead = (span(node).start - span(oldest).start) >> self._schedule.task_level
        return len(self._open) < self._schedule.in_flight and ahead < self._schedule.started_ahead

    def _read(self, node: Node) -> None:
        rows = self._work.plan.rows_of(span(node))
        groups = None if self._groups is None else self._groups.restrict(*rows)
        fingerprint = self._source.fingerprint(*rows)
        self._submit(node, self._cluster.read, node, fingerprint, self._basis, self._blocks_of(*rows), groups=groups)

    def _blocks_of(self, start: int, stop: int) -> list[tuple[int, int, Any]]:
        """Return the blocks of some rows, on their way to a worker; none where workers open the source."""
        from distributed.client import ClosedClientError

        if self._blocks is None:
            return []
        try:
            return [tuple(block) for block in self._blocks.holding(start, stop)]
        except (*_CONNECTION_ERRORS, ClosedClientError) as error:
            raise self._lost_scheduler(error) from error

    def _submit(
        self, node: Node, function: Callable[..., Result], *arguments: Any, priority: int = 0,
        groups: Partition | None = None,
    ) -> None:  # fmt: skip
        from distributed.client import ClosedClientError

        self._submitted += 1
        key = f"rankme-{self._work.run_id}-{self._submitted}"
        try:
            future = self._cluster.client.submit(
                function, replace(self._work, groups=groups), *arguments, key=key, pure=False, priority=priority
            )
        except (*_CONNECTION_ERRORS, ClosedClientError) as error:
            raise self._lost_scheduler(error) from error
        self._running[node] = future
        future.add_done_callback(lambda ended: self._events.put((node, ended)))

    def _process_events(self) -> None:
        """Wait for a task to end, and handle all that have."""
        with suppress(queue.Empty):
            node, future = self._events.get(timeout=_TICK_S)
            while True:
                if self._running.get(node) is future:  # else the node was given up meanwhile
                    del self._running[node]
                    self._handle_end(node, future)
                node, future = self._events.get_nowait()
        if self._cluster.client.status not in ("running", "connecting"):
            raise self._lost_scheduler(None)

    def _handle_end(self, node: Node, future: Any) -> None:
        if future.status == "finished":
            if node in self._open:
                del self._open[node]
                self._rows_done += self._count_rows(node)
                self._release_blocks()
            self._merging.pop(node, None)
            self._done[node] = future
            self._merge(node)
            return
        error = future.exception() if future.status == "error" else None
        if node in self._merging:
            self._merge_failed(node, error)
            return
        del self._open[node]
        if isinstance(error, RankMeError) and not isinstance(error, StorageError):
            self._failures[span(node).start] = error
        else:
            self._read_again(node, error)

    def _release_blocks(self) -> None:
        """Let go of the blocks before the first node that is still to be read."""
        if self._blocks is not None:
            waiting = [*self._open, *self._lost, *([] if self._upcoming is None else [self._upcoming])]
            first = min((self._work.plan.rows_of(span(node))[0] for node in waiting), default=None)
            self._blocks.release_before(first)

    def _merge(self, node: Node) -> None:
        """Merge a node with its sibling if that is done as well."""
        sibling = (node[0], node[1] ^ 1)
        if sibling not in self._done or not self._tree.is_merged(node):
            return
        left, right = sorted((node, sibling))
        parent = (node[0] + 1, node[1] >> 1)
        self._merging[parent] = pair = self._done.pop(left), self._done.pop(right)
        self._submit(parent, self._cluster.merge, *pair, priority=1)  # short, and frees memory

    def _merge_failed(self, node: Node, error: BaseException | None) -> None:
        """Merge once more, or read the lost children again."""
        children = dict(zip(_children(node), self._merging.pop(node), strict=True))
        lost = [child for child, future in children.items() if future.status in ("error", "cancelled")]
        self._done |= {child: future for child, future in children.items() if child not in lost}
        for child in lost:
            self._rows_done -= self._count_rows(child)
            self._read_again(child, error)
        if not lost:
            self._count_attempt(node, error)
            self._merge(next(iter(children)))

    def _read_again(self, node: Node, error: BaseException | None) -> None:
        """Queue a node again, in tasks of the usual size."""
        self._count_attempt(node, error)
        pieces = [node]
        while pieces[0][0] > self._schedule.task_level:
            pieces = [child for piece in pieces for child in _children(piece)]
        self._lost += pieces

    def _count_attempt(self, node: Node, error: BaseException | None) -> None:
        attempts = self._attempts[node] = self._attempts.get(node, 0) + 1
        if attempts < ATTEMPTS:
            return
        start, stop = self._work.plan.rows_of(span(node))
        why = "they were lost" if error is None else f"{type(error).__name__}: {error}"
        raise EngineError(
            f"rows {start:,}-{stop - 1:,} failed {attempts} times on the workers, the last time: {why}"
        ) from error

    def _raise_failure(self) -> None:
        """Raise the failure of the first segments once nothing before them is open."""
        if self._failures:
            first = min(self._failures)
            if not any(span(node).start < first for node in (*self._open, *self._lost)):
                raise self._failures[first]

    def _follow_cluster(self) -> None:
        """Adapt the schedule as the cluster grows and shrinks."""
        self._checked_at = time.monotonic()
        threads = self._cluster.count_threads()
        if threads:
            self._had_workers_at = self._checked_at
            self._schedule = self._schedule.for_threads(threads)
        elif self._checked_at - self._had_workers_at > _ABANDONED_S:
            raise EngineError(
                f"the cluster at {self._cluster.address} has had no worker for {_ABANDONED_S:.0f} s: start some"
            )

    def _gather(self) -> None:
        """Gather what is done from the workers; read again what was lost."""
        if not self._cluster.count_threads():
            return  # results are made again once there are workers
        for node, future in list(self._done.items()):
            if future.status in ("error", "cancelled"):
                del self._done[node]
                self._rows_done -= self._count_rows(node)
                self._read_again(node, future.exception() if future.status == "error" else None)
        for node in self._gather_done():
            self._rows_done -= self._count_rows(node)
            self._read_again(node, None)

    def _gather_done(self) -> list[Node]:
        """Add results that workers hold to the tree, in batches; return the nodes that were lost on the way."""
        ready = [node for node, future in self._done.items() if future.status == "finished"]
        n_at_once, lost = max(1, _GATHERED_BYTES // self._schedule.node_bytes), []
        for nodes in (ready[first : first + n_at_once] for first in range(0, len(ready), n_at_once)):
            try:
                results = self._cluster.client.gather({node: self._done[node] for node in nodes}, errors="skip")
            except _CONNECTION_ERRORS as error:
                raise self._lost_scheduler(error) from error
            for node in nodes:
                future, result = self._done.pop(node), results.get(node)
                if result is None:
                    lost.append(node)
                    continue
                self._tree.add_node(node, partial_of(self._work.plan, result))
                self.n_bytes += result["bytes"]
                self._cluster.record(result)
                future.release()
        return lost

    def _count_rows(self, node: Node) -> int:
        start, stop = self._work.plan.rows_of(span(node))
        return stop - start

    def _report(self) -> None:
        if self._progress is not None:
            plan = self._work.plan
            n_bytes = plan.bytes_stored * self._rows_done // (plan.row_stop - plan.row_start)
            self._progress(Progress(self._rows_done, self._n_rows, n_bytes, time.monotonic() - self._began))

    def stop(self) -> None:
        """Cancel what runs, and gather what is done if the cluster still answers."""
        from distributed import wait

        client = self._cluster.client
        if client.status != "running":
            return
        for node, pair in self._merging.items():
            self._done |= zip(_children(node), pair, strict=True)
        with suppress(*_CONNECTION_ERRORS):
            client.cancel(list(self._running.values()), force=True)
        with suppress(*_CONNECTION_ERRORS):
            wait(list(self._done.values()), timeout=_STOP_S)
        with suppress(*_CONNECTION_ERRORS, RankMeError):
            self._gather_done()

    def _lost_scheduler(self, error: BaseException | None) -> EngineError:
        why = "" if error is None else f" ({type(error).__name__}: {error})"
        return EngineError(f"the scheduler at {self._cluster.address} is lost{why}")


def _children(node: Node) -> Sequence[Node]:
    level, index = node
    return (level - 1, 2 * index), (level - 1, 2 * index + 1)


def _split_at_tail(intervals: Iterable[range], tail: int | None) -> Iterator[range]:
    """Yield intervals of segments, split where the tail begins."""
    for interval in intervals:
        if tail is not None and interval.start < tail < interval.stop:
            yield range(interval.start, tail)
            yield range(tail, interval.stop)
        else:
            yield interval
