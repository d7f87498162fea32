"""One pass on a cluster, seen from the client: which nodes are read, merged, and taken in."""

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
from rankme_stream.errors import EngineError, RankMeError
from rankme_stream.groups.partition import Partition
from rankme_stream.passes.engines.dask.schedule import Schedule
from rankme_stream.passes.engines.dask.worker import Result, WorkerPass, kept, partial_of
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.passes.state.merge_tree import MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import Source

_TICK_S = 0.2
_ATTEMPTS = 4  # of a task that fails in a way that another worker, or time, may heal
_STOP_S = 10.0  # that an interrupted pass waits for what is finished
_ABANDONED_S = 600.0  # without a worker
_GATHERED_BYTES = 2**28  # taken at once; and once no more is left of a pass, it is taken as it comes, and merged here
_CONNECTION_ERRORS = (OSError, RuntimeError, TimeoutError, CancelledError)  # of a scheduler that is gone


class Cluster(Protocol):
    """What a run asks of the engine."""

    client: Any
    read: Callable[..., Result]
    merge: Callable[..., Result]

    @property
    def address(self) -> str:
        """Of the scheduler, for messages."""

    def count_threads(self) -> int:
        """Return the threads of the cluster at the moment."""

    def note(self, result: Result) -> None:
        """Take note of who read."""


class ClientRun:
    """Nodes of the merge tree on their way into a forest.

    A node is **open** while it is being read, **done** when a worker holds it, and in the forest when it was taken in.
    Siblings that are done are merged on the workers.

    Attributes
    ----------
    n_bytes
        Bytes decoded for what was taken in.
    """

    def __init__(
        self, cluster: Cluster, forest: MergeTree[PartialResult], source: Source, work: WorkerPass, schedule: Schedule,
        segments: range, progress: Callable[[Progress], None] | None, basis: OrthonormalBasis | None = None,
    ) -> None:  # fmt: skip
        self.n_bytes = 0
        self._cluster, self._forest, self._source = cluster, forest, source
        self._work, self._groups = replace(work, groups=None), work.groups
        self._schedule, self._progress = schedule, progress
        missing = list(_cut(forest.missing(segments), forest.tail))
        self._n_rows = sum(stop - start for start, stop in map(work.plan.rows_of, missing))
        self._waiting = schedule.nodes(missing)
        self._upcoming = next(self._waiting, None)
        self._again: list[Node] = []  # to be read once more
        self._open: OrderedDict[Node, None] = OrderedDict()  # the oldest first
        self._running: dict[Node, Any] = {}  # futures of those that are open or being merged
        self._merging: dict[Node, tuple[Any, Any]] = {}
        self._done: dict[Node, Any] = {}
        self._attempts: dict[Node, int] = {}
        self._failures: dict[int, RankMeError] = {}  # by first segment
        self._events: queue.SimpleQueue[tuple[Node, Any]] = queue.SimpleQueue()
        self._submitted = self._rows_done = 0
        self._began = self._looked = self._peopled = time.monotonic()
        self._basis = None if basis is None else self._sent(basis)

    def _sent(self, basis: OrthonormalBasis) -> Any:
        """Return a task that holds a basis, on which the reads hang; sent once, however many they are."""
        from distributed.client import ClosedClientError

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                return self._cluster.client.submit(kept, basis, key=f"rankme-{self._work.run}-basis", pure=False)
        except (*_CONNECTION_ERRORS, ClosedClientError) as error:
            raise self._lost_scheduler(error) from error

    def go(self) -> None:
        """Run it to the end.

        Raises
        ------
        RankMeError
            Of the first segments, in row order, that failed for good.
        EngineError
            If the cluster does.
        """
        while self._upcoming is not None or self._again or self._running or self._done:
            self._start()
            self._take()
            self._raise_failure()
            is_time = time.monotonic() - self._looked > self._schedule.gather_s
            if is_time:
                self._look()
            if self._done and (is_time or self._is_ending):
                self._gather()
            self._report()
        self._report()

    @property
    def _is_ending(self) -> bool:
        """Whether all is under way, and little enough to be merged here."""
        is_under_way = self._upcoming is None and not self._again
        left = (len(self._running) + len(self._done)) * self._schedule.node_bytes
        return is_under_way and (left < _GATHERED_BYTES or not self._running)

    def _start(self) -> None:
        """Submit what is to be read, as far as the window reaches; after a failure, what lies before it alone."""
        first_failure = min(self._failures, default=self._work.plan.all_segments.stop)
        while self._again:
            node = self._again.pop()
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
        self._submit(node, self._cluster.read, node, fingerprint, self._basis, groups=groups)

    def _submit(
        self, node: Node, function: Callable[..., Result], *arguments: Any, priority: int = 0,
        groups: Partition | None = None,
    ) -> None:  # fmt: skip
        from distributed.client import ClosedClientError

        self._submitted += 1
        key = f"rankme-{self._work.run}-{self._submitted}"
        try:
            future = self._cluster.client.submit(
                function, replace(self._work, groups=groups), *arguments, key=key, pure=False, priority=priority
            )
        except (*_CONNECTION_ERRORS, ClosedClientError) as error:
            raise self._lost_scheduler(error) from error
        self._running[node] = future
        future.add_done_callback(lambda ended: self._events.put((node, ended)))

    def _take(self) -> None:
        """Wait for a task to end, and look at all that have."""
        with suppress(queue.Empty):
            node, future = self._events.get(timeout=_TICK_S)
            while True:
                if self._running.get(node) is future:  # else of a node that was given up meanwhile
                    del self._running[node]
                    self._ended(node, future)
                node, future = self._events.get_nowait()
        if self._cluster.client.status not in ("running", "connecting"):
            raise self._lost_scheduler(None)

    def _ended(self, node: Node, future: Any) -> None:
        if future.status == "finished":
            if node in self._open:
                del self._open[node]
                self._rows_done += self._count_rows(node)
            self._merging.pop(node, None)
            self._done[node] = future
            self._merge(node)
            return
        error = future.exception() if future.status == "error" else None
        if node in self._merging:
            self._merge_failed(node, error)
            return
        del self._open[node]
        if isinstance(error, RankMeError):
            self._failures[span(node).start] = error
        else:
            self._read_again(node, error)

    def _merge(self, node: Node) -> None:
        """Merge a node with its sibling where that is done as well."""
        sibling = (node[0], node[1] ^ 1)
        if sibling not in self._done or not self._forest.is_merged(node):
            return
        left, right = sorted((node, sibling))
        parent = (node[0] + 1, node[1] >> 1)
        self._merging[parent] = pair = self._done.pop(left), self._done.pop(right)
        self._submit(parent, self._cluster.merge, *pair, priority=1)  # short, and frees memory

    def _merge_failed(self, node: Node, error: BaseException | None) -> None:
        """Merge once more, or read those again that are not there any more."""
        children = dict(zip(_children(node), self._merging.pop(node), strict=True))
        gone = [child for child, future in children.items() if future.status in ("error", "cancelled")]
        self._done |= {child: future for child, future in children.items() if child not in gone}
        for child in gone:
            self._rows_done -= self._count_rows(child)
            self._read_again(child, error)
        if not gone:
            self._count_attempt(node, error)
            self._merge(next(iter(children)))

    def _read_again(self, node: Node, error: BaseException | None) -> None:
        """Put a node back into the queue, in tasks of the usual size."""
        self._count_attempt(node, error)
        pieces = [node]
        while pieces[0][0] > self._schedule.task_level:
            pieces = [child for piece in pieces for child in _children(piece)]
        self._again += pieces

    def _count_attempt(self, node: Node, error: BaseException | None) -> None:
        attempts = self._attempts[node] = self._attempts.get(node, 0) + 1
        if attempts < _ATTEMPTS:
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
            if not any(span(node).start < first for node in (*self._open, *self._again)):
                raise self._failures[first]

    def _look(self) -> None:
        """Follow the cluster as it grows and shrinks."""
        self._looked = time.monotonic()
        threads = self._cluster.count_threads()
        if threads:
            self._peopled = self._looked
            self._schedule = self._schedule.on(threads)
        elif self._looked - self._peopled > _ABANDONED_S:
            raise EngineError(
                f"the cluster at {self._cluster.address} has had no worker for {_ABANDONED_S:.0f} s: start some"
            )

    def _gather(self) -> None:
        """Take what is done from the workers; read again what is not there any more."""
        if not self._cluster.count_threads():
            return  # what they held is made again once there are some
        for node, future in list(self._done.items()):
            if future.status in ("error", "cancelled"):
                del self._done[node]
                self._rows_done -= self._count_rows(node)
                self._read_again(node, future.exception() if future.status == "error" else None)
        for node in self._take_in():
            self._rows_done -= self._count_rows(node)
            self._read_again(node, None)

    def _take_in(self) -> list[Node]:
        """Merge what workers hold into the forest, so much at once; return the nodes that were lost on the way."""
        ready = [node for node, future in self._done.items() if future.status == "finished"]
        n_at_once, lost = max(1, _GATHERED_BYTES // self._schedule.node_bytes), []
        for nodes in (ready[place : place + n_at_once] for place in range(0, len(ready), n_at_once)):
            try:
                found = self._cluster.client.gather({node: self._done[node] for node in nodes}, errors="skip")
            except _CONNECTION_ERRORS as error:
                raise self._lost_scheduler(error) from error
            for node in nodes:
                future, result = self._done.pop(node), found.get(node)
                if result is None:
                    lost.append(node)
                    continue
                self._forest.add_node(node, partial_of(self._work.plan, result))
                self.n_bytes += result["bytes"]
                self._cluster.note(result)
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
        """Cancel what runs, and take in what is done if the cluster still answers."""
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
            self._take_in()

    def _lost_scheduler(self, error: BaseException | None) -> EngineError:
        why = "" if error is None else f" ({type(error).__name__}: {error})"
        return EngineError(f"the scheduler at {self._cluster.address} is lost{why}")


def _children(node: Node) -> Sequence[Node]:
    level, index = node
    return (level - 1, 2 * index), (level - 1, 2 * index + 1)


def _cut(runs: Iterable[range], tail: int | None) -> Iterator[range]:
    """Yield runs of segments, cut where the tail begins."""
    for run in runs:
        if tail is not None and run.start < tail < run.stop:
            yield range(run.start, tail)
            yield range(tail, run.stop)
        else:
            yield run
