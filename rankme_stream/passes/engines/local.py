"""Worker threads of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from typing import Any

from rankme_stream.errors import RankMeError
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.passes.loop.segment import Interrupted, PassSpec, run_segment
from rankme_stream.passes.planning.block_layout import BlockRange, block_ranges
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult

_TICK_S = 0.1


class _Run:
    """State that the workers of one pass share."""

    def __init__(self, task: PassSpec, cuts: Iterable[BlockRange], add: Callable[[int, PartialResult], None]) -> None:
        self.task, self._add = task, add
        self.blocks = BlockReader(task.source, task.plan, cuts, refuse_missing=task.missing == "error")
        self.stop = threading.Event()
        self.rows_done = 0
        self._lock = threading.Lock()
        self._feeds: queue.SimpleQueue[PanelFeed] = queue.SimpleQueue()
        threads = task.plan.workers // task.plan.segments_at_once
        self._all_feeds = [PanelFeed(threads, task.device) for _ in range(task.plan.segments_at_once)]
        for feed in self._all_feeds:
            self._feeds.put(feed)

    def segment(self, index: int) -> None:
        feed = self._feeds.get()
        try:
            self._add(index, run_segment(self.task, self.blocks, index, feed, self.stop, self._count))
        finally:
            self._feeds.put(feed)

    def close(self) -> None:
        """Let go of the threads; what they are in the middle of is waited for by nobody."""
        self.blocks.close()
        for feed in self._all_feeds:
            feed.close()

    def _count(self, n_rows: int) -> None:
        with self._lock:
            self.rows_done += n_rows


def run_into(
    forest: MergeTree[PartialResult],
    task: PassSpec,
    segments: range | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Run a pass, or some segments of it, into a forest; return the bytes decoded. What is in already is not read.

    Parameters, errors and cost are those of ``run_segments``.
    """
    plan = task.plan
    bounds = task.source.bounds(plan.row_start, plan.row_stop)
    wanted = forest.missing(plan.all_segments if segments is None else segments)
    rows = [plan.rows_of(run) for run in wanted]
    cuts = (block_ranges(bounds, start, stop, plan.block_rows, plan.grid.segment_rows) for start, stop in rows)
    n_rows = sum(stop - start for start, stop in rows)
    return run_segments(task, chain(*wanted), chain.from_iterable(cuts), forest.add, n_rows, progress)


def run_segments(
    task: PassSpec,
    segments: Iterable[int],
    cuts: Iterable[BlockRange],
    add: Callable[[int, PartialResult], None],
    rows_total: int,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Read some segments on ``plan.workers`` threads and return the bytes decoded.

    Parameters
    ----------
    segments
        Indices, ascending.
    cuts
        The blocks that hold their rows.
    add
        Called with the index of each segment and what it came to, in any order and from any thread.
    progress
        Called from this thread about ten times a second and once at the end.

    Raises
    ------
    RankMeError
        Of the first segment, in row order, that failed: the same for any number of workers.

    Notes
    -----
    ``plan.segments_at_once`` segments are run at once, by one thread each or by all threads together. None starts more
    than twice as many after the oldest unfinished one, which bounds the partial results alive. An interrupt stops the
    workers at their next slab.
    """
    shared = _Run(task, cuts, add)
    plan = task.plan
    waiting = enumerate(segments)
    running: dict[Future[None], int] = {}
    failures: dict[int, RankMeError] = {}
    began = time.perf_counter()

    def report() -> None:
        if progress is not None:
            elapsed_s = time.perf_counter() - began
            progress(Progress(shared.rows_done, rows_total, shared.blocks.bytes_read, elapsed_s))

    pool = blas_threads.threads(plan.segments_at_once, "rankme")
    upcoming = next(waiting, None)
    try:
        while running or (upcoming is not None and not failures):
            while (
                upcoming is not None and not failures and len(running) < plan.segments_at_once
                and upcoming[0] - min(running.values(), default=upcoming[0]) < 2 * plan.segments_at_once
            ):  # fmt: skip
                place, index = upcoming
                running[pool.submit(shared.segment, index)] = place
                upcoming = next(waiting, None)
            done, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            blas_threads.renew()
            for future in done:
                place = running.pop(future)
                error = future.exception()
                if isinstance(error, RankMeError):
                    failures[place] = error
                elif error is not None:
                    raise error
            report()
    except BaseException:
        shared.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        shared.close()
    pool.shutdown()
    if failures:
        raise failures[min(failures)]
    report()
    return shared.blocks.bytes_read


class LocalEngine:
    """Threads of this process."""

    name = "local"
    device = None

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return those of this process."""
        return machine.limits(workers, memory_limit)

    chunks_missing = 0

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return so many threads of this process."""
        return [machine.worker(workers)]

    def __call__(
        self,
        forest: MergeTree[PartialResult],
        task: PassSpec,
        segments: range,
        progress: Callable[[Progress], None] | None,
        /,
    ) -> int:
        """Run segments of a pass that are not in a forest yet, into it; return the bytes decoded."""
        return run_into(forest, task, segments, progress)


__all__ = ["Interrupted", "LocalEngine", "Progress", "run_into", "run_segments"]
