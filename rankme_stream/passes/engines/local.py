"""The engine that runs passes on threads of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from typing import Any

from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import RankMeError
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.known_products import check_factor, check_products
from rankme_stream.passes.engines.card_engine import run_nodes
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.passes.loop.segment import PassSpec, run_segment
from rankme_stream.passes.planning.block_layout import BlockRange, block_ranges
from rankme_stream.passes.planning.card_layout import run_level
from rankme_stream.passes.planning.grid import PATIENCE
from rankme_stream.passes.state.merge_tree import MergeTree, nodes_of
from rankme_stream.passes.state.partial_result import PartialResult

_TICK_S = 0.1


class _SharedWork:
    """State that the workers of one pass share."""

    def __init__(
        self, spec: PassSpec, block_ranges: Iterable[BlockRange], add: Callable[[int, PartialResult], None]
    ) -> None:
        self.spec, self._add = spec, add
        self.blocks = BlockReader(spec.source, spec.plan, block_ranges, refuse_missing=spec.rules.missing == "error")
        self.stop = threading.Event()
        self.rows_done = 0
        self._lock = threading.Lock()
        self._feeds: queue.SimpleQueue[PanelFeed] = queue.SimpleQueue()
        threads = spec.plan.workers // spec.plan.segments_at_once
        self._all_feeds = [PanelFeed(threads) for _ in range(spec.plan.segments_at_once)]
        for feed in self._all_feeds:
            self._feeds.put(feed)

    def run_segment(self, index: int) -> None:
        feed = self._feeds.get()
        try:
            self._add(index, run_segment(self.spec, self.blocks, index, feed, self.stop, self._count))
        finally:
            self._feeds.put(feed)

    def close(self) -> None:
        """Release the threads, and do not wait for their work under way."""
        self.blocks.close()
        for feed in self._all_feeds:
            feed.close()

    def _count(self, n_rows: int) -> None:
        with self._lock:
            self.rows_done += n_rows


def run_into(
    tree: MergeTree[PartialResult], spec: PassSpec, segments: range | None = None, progress: Report | None = None
) -> int:
    """Read the segments of a pass, all or some, that a tree lacks, and add them to it; return the bytes decoded.

    Errors and cost are those of ``run_segments``.
    """
    plan = spec.plan
    bounds = spec.source.bounds(plan.row_start, plan.row_stop)
    missing = tree.missing(plan.all_segments if segments is None else segments)
    rows = [plan.rows_of(interval) for interval in missing]
    row_bytes = plan.n_features * spec.source.stored.dtype.itemsize
    level = 0 if spec.device is HOST else run_level(plan.grid.segment_rows, row_bytes)
    read_rows = plan.grid.segment_rows << level  # that are read together: a segment, or a run of a card
    blocks = (block_ranges(bounds, start, stop, plan.block_rows, read_rows) for start, stop in rows)
    n_rows = sum(stop - start for start, stop in rows)
    if spec.device is not HOST:
        nodes = chain.from_iterable(nodes_of(interval, level, tree.tail) for interval in missing)
        return run_nodes(spec, nodes, chain.from_iterable(blocks), tree.add_node, n_rows, progress)
    return run_segments(spec, chain(*missing), chain.from_iterable(blocks), tree.add, n_rows, progress)


def run_segments(
    spec: PassSpec,
    segments: Iterable[int],
    block_ranges: Iterable[BlockRange],
    add: Callable[[int, PartialResult], None],
    rows_total: int,
    progress: Report | None = None,
) -> int:
    """Read some segments on ``plan.workers`` threads and return the bytes decoded.

    Parameters
    ----------
    segments
        Indices, ascending.
    block_ranges
        Blocks that hold their rows.
    add
        Called with the index and the partial result of each segment, in any order and from any thread.
    progress
        Called from this thread about ten times a second and once at the end.

    Raises
    ------
    RankMeError
        The error of the first segment, in row order, that failed: the same for any number of workers. Before any of
        them, ``ArithmeticCheckError`` if products or factors that are known come out wrong.

    Notes
    -----
    ``plan.segments_at_once`` segments run at once, one thread each or all threads together. A segment starts only
    within twice as many after the oldest unfinished one, which bounds the partial results alive. An interrupt stops
    the workers at their next slab.
    """
    if spec.device is not HOST:
        nodes = ((0, segment) for segment in segments)
        return run_nodes(spec, nodes, block_ranges, lambda node, found: add(node[1], found), rows_total, progress)
    machine.return_freed_memory()
    shared = _SharedWork(spec, block_ranges, add)
    plan = spec.plan
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
        check_products(HOST, pool, of_rows=METHODS[plan.method].keeps_rows)
        if METHODS[plan.method].uses_qr:
            pool.submit(check_factor, HOST).result()
        while running or (upcoming is not None and not failures):
            while (
                upcoming is not None and not failures and len(running) < plan.segments_at_once
                and upcoming[0] - min(running.values(), default=upcoming[0]) < PATIENCE * plan.segments_at_once
            ):  # fmt: skip
                number, index = upcoming
                running[pool.submit(shared.run_segment, index)] = number
                upcoming = next(waiting, None)
            done, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for future in done:
                number = running.pop(future)
                error = future.exception()
                if isinstance(error, RankMeError):
                    failures[number] = error
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
    """Runs passes on threads of this process."""

    name = "local"
    device = None
    chunks_missing = 0

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return the limits of this process."""
        return machine.limits(workers, memory_limit)

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return this machine, with that number of threads."""
        return [machine.worker(workers) | machine.BLAS_CHECKED]

    def __call__(
        self, tree: MergeTree[PartialResult], spec: PassSpec, segments: range, progress: Report | None, /
    ) -> int:
        """Read the segments that a tree lacks and add them to it; return the bytes decoded."""
        return run_into(tree, spec, segments, progress)
