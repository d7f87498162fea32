"""Rows reach the accumulators once each, read ahead of their use, in whatever way threads share the work."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators import gram_method
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.errors import CorruptChunkError
from rankme_stream.passes.engines import local
from rankme_stream.passes.loop import storage_wait
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.loop.panel_feed import PanelFeed
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning import plan
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.sources import ArraySource
from rankme_stream.testing import with_ones

CHUNK = 1000


class Chunked(ArraySource):
    """Rows in memory that pretend to lie in chunks, and note what is read."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.reads: list[tuple[int, int]] = []
        self.broken: int | None = None
        self.waits_s = 0.0
        self.readers: list[str] = []

    def bounds(self, start: int, stop: int) -> range:
        return range((start // CHUNK + 1) * CHUNK, stop, CHUNK)

    def read(self, start, stop, out=None):
        self.reads.append((start, stop))
        self.readers.append(threading.current_thread().name)
        time.sleep(self.waits_s)
        if self.broken is not None and start <= self.broken < stop:
            raise CorruptChunkError(f"row {self.broken} is broken")
        return super().read(start, stop, out)


@pytest.fixture
def source() -> Chunked:
    return Chunked(np.random.default_rng(0).standard_normal((200_500, 8)).astype(np.float32))


def plan_for(source: Chunked, *, block_rows: int, **changes) -> plan.Plan:
    return replace(rs.plan(source, workers=2), block_rows=block_rows, **changes)


def blocks_of(source: Chunked, plan: plan.Plan) -> BlockReader:
    bounds = source.bounds(0, len(source._array))
    return BlockReader(source, plan, block_ranges(bounds, 0, 200_500, plan.block_rows, plan.grid.segment_rows))


@pytest.mark.parametrize("reads_ahead", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_chunk_is_read_once(source, reads_ahead, workers):
    plan = plan_for(source, block_rows=3000, reads_ahead=reads_ahead, workers=workers, segments_at_once=workers)
    local.run_into(MergeTree(), PassSpec(source, plan, GramAccumulator))
    edges = sorted(source.reads)
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert edges[-1][1] == len(source._array)
    assert all(start % CHUNK == 0 for start, _ in edges)


def test_the_next_block_is_read_before_it_is_asked_for(source):
    plan = plan_for(source, block_rows=3000, reads_ahead=True, segments_at_once=1)
    blocks = blocks_of(source, plan)
    list(blocks.rows(0, 10))
    blocks._readers.shutdown()  # waits for what is under way
    assert sorted(source.reads) == [(0, 3000), (3000, 6000)]


def test_nothing_is_read_ahead_where_memory_does_not_allow_it(source):
    blocks = blocks_of(source, plan_for(source, block_rows=3000, reads_ahead=False))
    list(blocks.rows(0, 10))
    blocks._readers.shutdown()
    assert source.reads == [(0, 3000)]


@pytest.mark.parametrize(("waits_s", "reader"), [(0.0, "rankme_"), (0.01, "rankme-read_")])
def test_threads_read_for_themselves_until_reading_is_seen_to_wait(source, waits_s, reader, monkeypatch):
    if not waits_s:
        monkeypatch.setattr(storage_wait, "_WAITING_SHARE", 1.0)  # whatever else this machine does meanwhile
    source.waits_s = waits_s
    plan = plan_for(source, block_rows=3000)
    local.run_into(MergeTree(), PassSpec(source, plan, GramAccumulator))
    assert len(source.readers) > 60
    judged = storage_wait._READS_JUDGED
    assert all(name.startswith("rankme_") for name in source.readers[:judged])
    assert all(name.startswith(reader) for name in source.readers[judged + 2 :])


class Held(Chunked):
    """Rows whose first block is read only once others were."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.is_begun, self.may_end = threading.Event(), threading.Event()

    def read(self, start, stop, out=None):
        if start == 0:
            self.is_begun.set()
            assert self.may_end.wait(60)
        return super().read(start, stop, out)


def test_a_few_long_reads_are_enough_to_see_that_reading_waits(source, monkeypatch):
    monkeypatch.setattr(storage_wait, "_JUDGED_AFTER_S", 0.03)
    source.waits_s = 0.02
    local.run_into(MergeTree(), PassSpec(source, plan_for(source, block_rows=25_000), GramAccumulator))
    assert len(source.readers) < storage_wait._READS_JUDGED
    assert all(name.startswith("rankme_") for name in source.readers[:2])
    assert all(name.startswith("rankme-read_") for name in source.readers[6:])


@pytest.mark.parametrize(("reads_ahead", "wanted"), [(True, [(3000, 6000), (0, 3000)]), (False, [(0, 3000)])])
def test_a_thread_that_would_wait_for_a_block_reads_the_next_one(source, reads_ahead, wanted):
    held = Held(source._array)
    blocks = blocks_of(held, plan_for(held, block_rows=3000, reads_ahead=reads_ahead))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(list, blocks.rows(0, 10))
        assert held.is_begun.wait(60)
        waiting = [pool.submit(list, blocks.rows(10 * number, 10 * number + 10)) for number in (1, 2)]
        deadline = time.monotonic() + 60
        while reads_ahead and not held.reads and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)  # for whatever else might be read
        held.may_end.set()
        for number, rows in enumerate([first, *waiting]):
            assert np.array_equal(rows.result()[0][1], held._array[10 * number : 10 * number + 10])
    assert held.reads == wanted


def test_an_error_in_a_block_read_meanwhile_reaches_the_thread_that_needs_it(source):
    held = Held(source._array)
    held.broken = 4000
    blocks = blocks_of(held, plan_for(held, block_rows=3000, reads_ahead=True))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(list, blocks.rows(0, 2000))
        assert held.is_begun.wait(60)
        second = pool.submit(list, blocks.rows(2000, 3000))
        deadline = time.monotonic() + 60
        while not held.reads and time.monotonic() < deadline:
            time.sleep(0.001)
        held.may_end.set()
        assert sum(rows.shape[0] for pieces in (first, second) for _, rows in pieces.result()) == 3000
        with pytest.raises(CorruptChunkError, match="row 4000 is broken"):
            list(blocks.rows(3000, 3500))


@pytest.mark.parametrize("broken", [0, 66_001, 200_499])
def test_an_error_while_reading_ahead_is_raised_where_the_block_is_needed(source, broken):
    source.broken = broken
    with pytest.raises(CorruptChunkError, match=f"row {broken} is broken"):
        rs.measure(source)
    source.broken = None
    assert rs.measure(source).rows_read == len(source._array)


def test_a_gram_shared_by_threads_has_the_bits_of_one_thread(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((9_000, 1100)).astype(np.float16)
    wanted = rs.measure(rows, workers=2, normalize=True)
    assert wanted.plan.segments_at_once == 2
    monkeypatch.setattr(gram_method, "_SHARED_FROM", 1024)
    for workers in (2, 5):
        found = rs.measure(rows, workers=workers, normalize=True)
        assert (found.plan.segments_at_once, found.plan.workers) == (1, workers)
        for mine, theirs in ((found.estimates, wanted.estimates), (found.normalized, wanted.normalized)):
            assert list(map(repr, mine.values())) == list(map(repr, theirs.values()))


def test_shared_updates_keep_the_order_of_panels_in_every_part(monkeypatch):
    feed = PanelFeed(3)
    seen: dict[object, list[float]] = {}
    lock = threading.Lock()

    def note(self, part, panel, workspace):
        with lock:
            seen.setdefault(part, []).append(float(panel[0, 1]))

    monkeypatch.setattr(GramAccumulator, "update_part", note)
    accumulator = GramAccumulator(1100)
    for number in range(20):
        (panel,) = feed.panels(["raw"], (4, 1101))
        panel[:] = with_ones(np.full((4, 1100), float(number)))
        feed.update(accumulator, panel, 4 * number)
    feed.finish()
    feed.close()
    assert set(seen) == set(accumulator.parts)
    assert all(numbers == [float(number) for number in range(20)] for numbers in seen.values())


def test_an_error_in_a_shared_part_reaches_the_caller(monkeypatch):
    def fail(self, part, panel, workspace):
        raise MemoryError("no more")

    monkeypatch.setattr(gram_method, "_SHARED_FROM", 1)
    monkeypatch.setattr(GramAccumulator, "update_part", fail)
    with pytest.raises(MemoryError, match="no more"):
        rs.measure(np.ones((5000, 8)), workers=2)
