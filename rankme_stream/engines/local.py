"""Worker threads of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from rankme_stream.accumulators import Accumulator
from rankme_stream.audit import Audit
from rankme_stream.blocks import Blocks
from rankme_stream.errors import RankMeError
from rankme_stream.feed import Feed
from rankme_stream.ledger import Forest
from rankme_stream.passes import Interrupted, Task, run_segment

_TICK_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a pass is: rows of how many, bytes decoded, seconds since the first read."""

    rows_done: int
    rows_total: int
    bytes_read: int
    elapsed_s: float


@dataclass(frozen=True)
class Partial:
    """What a segment, or several merged, came to."""

    accumulators: dict[str, Accumulator]
    audit: Audit

    def merge(self, other: Partial) -> Partial:
        """Return both joined; neither changes."""
        merged = {key: mine.merge(other.accumulators[key]) for key, mine in self.accumulators.items()}
        return Partial(merged, self.audit.merge(other.audit))


class _Run:
    """State that the workers of one pass share."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.blocks = Blocks(task.source, task.plan, refuse_missing=task.missing == "error")
        self.forest: Forest[Partial] = Forest()
        self.stop = threading.Event()
        self.rows_done = 0
        self._lock = threading.Lock()
        self._feeds: queue.SimpleQueue[Feed] = queue.SimpleQueue()
        self._all_feeds = [
            Feed(task.plan.workers // task.plan.segments_at_once) for _ in range(task.plan.segments_at_once)
        ]
        for feed in self._all_feeds:
            self._feeds.put(feed)

    def segment(self, index: int) -> None:
        feed = self._feeds.get()
        try:
            self.forest.add(index, Partial(*run_segment(self.task, self.blocks, index, feed, self.stop, self._count)))
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


def run(task: Task, progress: Callable[[Progress], None] | None = None) -> tuple[Partial, int]:
    """Run a pass on ``plan.workers`` threads; return the merged accumulators with the audit, and the bytes decoded.

    Parameters
    ----------
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
    shared = _Run(task)
    plan = task.plan
    segments = iter(plan.grid.segments(plan.row_start, plan.row_stop))
    running: dict[Future[None], int] = {}
    failures: dict[int, RankMeError] = {}
    began = time.perf_counter()

    def report() -> None:
        if progress is not None:
            total = plan.row_stop - plan.row_start
            progress(Progress(shared.rows_done, total, shared.blocks.bytes_read, time.perf_counter() - began))

    pool = ThreadPoolExecutor(plan.segments_at_once, thread_name_prefix="rankme")
    upcoming = next(segments, None)
    try:
        while running or (upcoming is not None and not failures):
            oldest = min(running.values(), default=upcoming)
            while (
                upcoming is not None and oldest is not None and not failures
                and len(running) < plan.segments_at_once and upcoming - oldest < 2 * plan.segments_at_once
            ):  # fmt: skip
                running[pool.submit(shared.segment, upcoming)] = upcoming
                upcoming = next(segments, None)
            done, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in done:
                index = running.pop(future)
                error = future.exception()
                if isinstance(error, RankMeError):
                    failures[index] = error
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
    return shared.forest.total(), shared.blocks.bytes_read


__all__ = ["Interrupted", "Partial", "Progress", "run"]
