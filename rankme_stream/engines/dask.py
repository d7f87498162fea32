"""Workers of a Dask cluster: the same tasks, somewhere else."""

from __future__ import annotations

import logging
import pickle
import queue
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from rankme_stream import machine
from rankme_stream.arrays import Array
from rankme_stream.engines.local import Progress, run_into
from rankme_stream.errors import EngineError, RankMeError, SourceChangedError, UsageError
from rankme_stream.ledger import Forest, Node, span
from rankme_stream.partial import ACCUMULATORS, Partial
from rankme_stream.passes import Task
from rankme_stream.planning import Plan
from rankme_stream.sources import Source, open_source
from rankme_stream.tasks import Schedule, schedule_for

_TICK_S = 0.2
_ATTEMPTS = 4  # of a task that fails in a way that another worker, or time, may heal
_GATHERED_BYTES = 2**28  # once no more than so much is left of a pass, it is gathered as it comes, and merged here
_STOP_S = 10.0  # that an interrupted pass takes to gather what is finished
_SHARE = 0.6  # of a worker's memory that a task may take: from there on Dask spills what it holds, later it pauses
_NO_WORKERS_S = 60
_CONNECT_S = 15
_WORKER_BYTES = 250 * 2**20  # of a worker that has done nothing yet

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
    """

    place: bytes
    run: str
    uri: str
    identity: Mapping[str, object]
    plan: Plan
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]


@lru_cache(maxsize=4)
def _opened(place: bytes, run: str) -> Source:
    return open_source(pickle.loads(place))


def read_node(work: Work, node: Node, fingerprint: str) -> Result:
    """Read the segments of a node, on a worker, and return what they came to.

    Raises
    ------
    SourceError
        Also if the source is another one there, or stored otherwise than it was.
    """
    threadpool_limits(1, user_api="blas")  # for good: another thread of this process may be in the middle of a product
    source = _opened(work.place, work.run)
    plan = work.plan
    start, stop = plan.rows_of(span(node))
    if dict(source.identity()) != dict(work.identity) or source.fingerprint(start, stop) != fingerprint:
        raise SourceChangedError(
            f"rows {start:,}-{stop - 1:,} of {work.uri} are not stored there as they were when the pass began: do all "
            "workers see the same files, and does something write to them?"
        )
    forest = Forest[Partial]()
    make = ACCUMULATORS[plan.method, plan.precision]
    task = Task(source, plan, make, plan.normalize, work.missing, work.nonfinite)
    n_bytes = run_into(forest, task, range(span(node).start, min(span(node).stop, plan.all_segments.stop)))
    plain, arrays = forest.total().to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": n_bytes, "workers": {_address(): _facts()},
        "missing": source.chunks_missing,
    }  # fmt: skip


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    return machine.worker(1)


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def merge_nodes(work: Work, left: Result, right: Result) -> Result:
    """Return two siblings as one, on a worker."""
    merged = _partial(work.plan, left).merge(_partial(work.plan, right))
    plain, arrays = merged.to_record()
    return {
        "plain": plain, "arrays": arrays, "bytes": left["bytes"] + right["bytes"],
        "workers": left["workers"] | right["workers"], "missing": max(left["missing"], right["missing"]),
    }  # fmt: skip


def _partial(plan: Plan, result: Result) -> Partial:
    arrays: Mapping[str, Array] = result["arrays"]
    return Partial.from_record((plan.method, plan.precision), result["plain"], arrays)


class DaskEngine:
    """Runs passes on the workers of a cluster.

    Parameters
    ----------
    client
        A ``distributed.Client``.

    Attributes
    ----------
    workers
        Those that read so far, by address, as ``machine.worker`` tells.
    read, merge
        What workers are sent.
    """

    name = "dask"
    read = staticmethod(read_node)
    merge = staticmethod(merge_nodes)

    def __init__(self, client: Any) -> None:
        self.client = client
        self.workers: dict[str, dict[str, Any]] = {}

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return what a task may take: of a worker's memory three fifths, shared out over its threads."""
        found = self._workers()
        share = min(
            int((one["memory_limit"] or machine.memory_bytes()) * _SHARE) // one["nthreads"] for one in found.values()
        )
        base = max(_WORKER_BYTES // one["nthreads"] for one in found.values())
        return machine.Limits(1, 1, base, share if memory_limit is None else min(share, memory_limit))

    @property
    def threads(self) -> int:
        """Threads of the cluster at the moment."""
        return sum(one["nthreads"] for one in self._workers().values())

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return the machines that read so far, those that are alike counted together."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.workers.values():
            alike = found.setdefault(repr(sorted(one.items())), one | {"count": 0})
            alike["count"] += one["count"]
        return list(found.values())

    def _workers(self) -> dict[str, Any]:
        from distributed import TimeoutError as NoWorkers

        try:
            self.client.wait_for_workers(1, timeout=_NO_WORKERS_S)
        except NoWorkers:
            raise EngineError(
                f"no worker came to the cluster at {_where(self.client)} within {_NO_WORKERS_S} s: start some"
            ) from None
        found: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    def __call__(
        self, forest: Forest[Partial], task: Task, segments: range, progress: Callable[[Progress], None] | None = None
    ) -> int:
        """Run segments of a pass that are not in the forest yet, into it; return the bytes decoded.

        Raises
        ------
        RankMeError
            Of the first segments, in row order, that failed for good.
        EngineError
            If the cluster does, after retries; what came in is in the forest.
        UsageError
            If workers cannot open the source.
        """
        place = task.source.reopen()
        if place is None:
            raise UsageError(
                f"{task.source.uri} lives in this process, and workers cannot read it: store the rows in a zarr array"
            )
        work = Work(
            pickle.dumps(place), f"{time.time_ns():x}", task.source.uri, task.source.identity(), task.plan,
            task.missing, task.nonfinite,
        )  # fmt: skip
        run = _Run(self, forest, task.source, work, schedule_for(task.plan, self.threads), segments, progress)
        try:
            run.go()
        except BaseException:
            run.stop()
            raise
        return run.n_bytes


class _Run:
    """One pass on a cluster, seen from the client."""

    def __init__(
        self, engine: DaskEngine, forest: Forest[Partial], source: Source, work: Work, schedule: Schedule,
        segments: range, progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.n_bytes = 0
        self._engine, self._forest, self._source, self._work = engine, forest, source, work
        self._schedule, self._progress = schedule, progress
        self._missing = list(_cut(forest.missing(segments), forest.tail))
        self._waiting = enumerate(schedule.nodes(self._missing))
        self._places: OrderedDict[Node, int] = OrderedDict()  # of tasks that are not finished, ascending
        self._running: dict[Node, Any] = {}
        self._merging: dict[Node, tuple[Any, Any]] = {}
        self._done: dict[Node, Any] = {}  # on workers
        self._attempts: dict[Node, int] = {}
        self._failures: dict[int, RankMeError] = {}
        self._events: queue.SimpleQueue[tuple[Node, Any]] = queue.SimpleQueue()
        self._rows_done = 0
        self._is_ending = False
        self._began = self._gathered = time.monotonic()

    def go(self) -> None:
        """Run it."""
        upcoming = next(self._waiting, None)
        while self._running or self._done or upcoming is not None:
            while upcoming is not None and not self._failures and self._may_start(upcoming[0]):
                place, node = upcoming
                self._places[node] = place
                self._read(node)
                upcoming = next(self._waiting, None)
            left = (len(self._running) + len(self._done)) * self._schedule.node_bytes
            self._is_ending = upcoming is None and left < _GATHERED_BYTES
            self._take()
            if self._failures and not any(place < min(self._failures) for place in self._places.values()):
                raise self._failures[min(self._failures)]
            is_over = upcoming is None and not self._running
            is_due = self._is_ending or is_over or time.monotonic() - self._gathered > self._schedule.gather_s
            if self._done and is_due:
                self._gather()
            self._report()
        self._report()

    def _may_start(self, place: int) -> bool:
        oldest = next(iter(self._places.values()), place)
        return len(self._places) < self._schedule.in_flight and place - oldest < self._schedule.started_ahead

    def _read(self, node: Node) -> None:
        fingerprint = self._source.fingerprint(*self._work.plan.rows_of(span(node)))
        self._submit(node, self._engine.read, self._work, node, fingerprint)

    def _submit(self, node: Node, function: Callable[..., Result], *arguments: Any) -> None:
        attempt = self._attempts.get(node, 0)
        key = f"rankme-{self._work.run}-{node[0]}-{node[1]}-{attempt}"
        try:
            first = int(function is self._engine.merge)  # they are short, and free memory
            future = self._engine.client.submit(function, *arguments, key=key, pure=False, priority=first)
        except RuntimeError as error:  # a client that is closed
            raise EngineError(f"the scheduler at {_where(self._engine.client)} takes no task: {error}") from error
        self._running[node] = future
        future.add_done_callback(lambda done: self._events.put((node, done)))

    def _take(self) -> None:
        """Wait for a task to end, and look at all that have."""
        with suppress(queue.Empty):
            node, future = self._events.get(timeout=_TICK_S)
            while True:
                if self._running.get(node) is future:
                    del self._running[node]
                    self._ended(node, future)
                node, future = self._events.get_nowait()
        if self._engine.client.status not in ("running", "connecting"):
            raise EngineError(f"the connection to the scheduler at {_where(self._engine.client)} is lost")

    def _ended(self, node: Node, future: Any) -> None:
        status = future.status
        if status == "finished":
            if node in self._places:
                del self._places[node]
                start, stop = self._work.plan.rows_of(span(node))
                self._rows_done += stop - start
            self._merging.pop(node, None)
            self._done[node] = future
            self._merge(node)
            return
        error = future.exception() if status == "error" else None
        if isinstance(error, RankMeError) and node in self._places:
            self._failures[self._places.pop(node)] = error
            return
        attempts = self._attempts[node] = self._attempts.get(node, 0) + 1
        if attempts >= _ATTEMPTS:
            start, stop = self._work.plan.rows_of(span(node))
            why = "it was lost" if error is None else f"{type(error).__name__}: {error}"
            raise EngineError(
                f"rows {start:,}-{stop - 1:,} failed {attempts} times on the workers, the last time: {why}"
            ) from error
        if node in self._merging:
            self._submit(node, self._engine.merge, self._work, *self._merging[node])
        else:
            self._read(node)

    def _merge(self, node: Node) -> None:
        """Merge a node with its sibling where that is done as well."""
        sibling = (node[0], node[1] ^ 1)
        if sibling not in self._done or not self._forest.is_merged(node):
            return
        left, right = sorted((node, sibling))
        parent = (node[0] + 1, node[1] >> 1)
        self._merging[parent] = self._done.pop(left), self._done.pop(right)
        self._submit(parent, self._engine.merge, self._work, *self._merging[parent])

    def _gather(self) -> None:
        """Take what is done from the workers into the forest; what a worker lost meanwhile is made again first."""
        nodes = list(self._done)
        results = self._engine.client.gather([self._done[node] for node in nodes])
        for node, result in zip(nodes, results, strict=True):
            self._forest.add_node(node, _partial(self._work.plan, result))
            self.n_bytes += result["bytes"]
            self._engine.workers |= result["workers"]
            self._done.pop(node).release()
        self._gathered = time.monotonic()

    def _report(self) -> None:
        if self._progress is not None:
            plan = self._work.plan
            n_rows = sum(stop - start for start, stop in map(plan.rows_of, self._missing))
            n_bytes = plan.bytes_stored * self._rows_done // (plan.row_stop - plan.row_start)
            self._progress(Progress(self._rows_done, n_rows, n_bytes, time.monotonic() - self._began))

    def stop(self) -> None:
        """Cancel what runs, and keep what is done if the cluster still answers."""
        from distributed import wait

        client = self._engine.client
        if client.status != "running":
            return
        with suppress(OSError, RuntimeError, TimeoutError):
            client.cancel(list(self._running.values()), force=True)
            for (level, index), (left, right) in self._merging.items():
                self._done |= {(level - 1, 2 * index): left, (level - 1, 2 * index + 1): right}
            wait(list(self._done.values()), timeout=_STOP_S)
            self._gather()


def _cut(runs: Iterable[range], tail: int | None) -> Iterator[range]:
    """Yield runs of segments, cut where the tail begins."""
    for run in runs:
        if tail is not None and run.start < tail < run.stop:
            yield range(run.start, tail)
            yield range(tail, run.stop)
        else:
            yield run


def _where(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "an unknown address"))


@contextmanager
def connected(client: Any, workers: int | None, memory_limit: int | None) -> Iterator[DaskEngine]:
    """Open an engine on a client, on the scheduler at an address, or on a cluster of processes on this machine.

    Parameters
    ----------
    client
        ``distributed.Client``, which stays open; an address; or None for a cluster that ends with the context.
    workers, memory_limit
        Processes of such a cluster and bytes of all of them together; None takes the machine's.

    Raises
    ------
    UsageError
        If ``distributed`` is not installed.
    EngineError
        If nothing answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError("the dask engine needs distributed: pip install 'rankme-stream[dask]'") from error
    if isinstance(client, Client):
        yield DaskEngine(client)
    elif client is not None:
        try:
            opened = Client(str(client), timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise EngineError(f"no scheduler answers at {client}: {error}") from error
        with opened:
            yield DaskEngine(opened)
    else:
        count = workers or machine.cores()
        total = machine.memory_bytes() // 2 if memory_limit is None else memory_limit
        options = {
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": ":0",
            "silence_logs": logging.CRITICAL,
        }
        with (
            LocalCluster(n_workers=count, memory_limit=total // count, **options) as cluster,
            Client(cluster) as opened,
        ):
            yield DaskEngine(opened)
