"""Units read into memory: by several threads, each chunk once, and the first fault of the dump is the one reported."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from rankme_stream.errors import CorruptChunkError, NonFiniteError
from rankme_stream.passes.loop import storage_wait
from rankme_stream.passes.loop.gathering import Gatherer, refuse_faults, values_of_runs
from rankme_stream.passes.state.audit import DEFAULT_RULES, Rules
from rankme_stream.sources import ArraySource, GatheredRows

N, D, CHUNK, UNIT = 4000, 5, 100, 8
STARTS = [int(start) * UNIT for start in np.random.default_rng(0).permutation(N // UNIT)[:96]]
READS = [(chunk, chunk + CHUNK) for chunk in range(0, N, CHUNK)]


class Chunked(ArraySource):
    """Rows in chunks, copied when read; chunks may fail, wait or take a while."""

    def __init__(self, rows: np.ndarray) -> None:
        super().__init__(rows)
        self.reads: list[tuple[int, int]] = []
        self.bad: set[int] = set()
        self.waits_s, self.may_go_on = 0.0, threading.Event()
        self.may_go_on.set()
        self.most = self._now = 0
        self._lock = threading.Lock()

    def read(self, start, stop, out=None):
        with self._lock:
            self.reads.append((start, stop))
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.waits_s)
        assert self.may_go_on.wait(60)
        with self._lock:
            self._now -= 1
        if start in self.bad:
            time.sleep(0.02 if start == min(self.bad) else 0)  # the first one fails last
            raise CorruptChunkError(f"chunk of row {start}")
        out[...] = self._array[start:stop]
        return out


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, D)).astype(np.float32)


def gathered_of(source: Chunked) -> GatheredRows:
    return GatheredRows(source, np.empty((len(STARTS) * UNIT, D), np.float32), STARTS, UNIT)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_row_comes_to_its_place(rows, workers):
    source, reports = Chunked(rows), []
    gathered, gatherer = gathered_of(source), Gatherer(DEFAULT_RULES, workers, workers)
    gatherer.read(gathered, READS, lambda: reports.append(gatherer.rows_done))
    wanted = [row for start in STARTS for row in range(start, start + UNIT)]
    assert np.array_equal(gathered.read(0, len(wanted)), rows[wanted])
    assert sorted(source.reads) == READS
    assert reports[-1] == gatherer.rows_done == len(wanted)
    assert gatherer.bytes_read == N * D * 4


def test_a_read_that_gives_wanted_rows_alone_goes_straight_to_their_place(rows):
    source = Chunked(rows)
    gathered = gathered_of(source)
    Gatherer(DEFAULT_RULES, 1, 1).read(gathered, [(start, start + UNIT) for start in sorted(STARTS)], lambda: None)
    assert np.array_equal(gathered.held(STARTS[3], STARTS[3] + UNIT), rows[STARTS[3] : STARTS[3] + UNIT])


def test_reads_that_wait_are_done_more_at_once_than_there_are_workers(rows, monkeypatch):
    source = Chunked(rows)
    source.waits_s = 0.005
    Gatherer(DEFAULT_RULES, 1, 6).read(gathered_of(source), READS, lambda: None)
    assert 1 < source.most <= 6
    monkeypatch.setattr(storage_wait, "_WAITING_SHARE", 1.0)
    source.most = 0
    Gatherer(DEFAULT_RULES, 1, 6).read(gathered_of(source), READS, lambda: None)
    assert source.most == 1


def test_the_first_fault_in_the_order_of_the_dump_is_raised_whatever_ended_first(rows):
    source = Chunked(rows)
    source.bad = {1000, 1100, 1200}
    with pytest.raises(CorruptChunkError, match="chunk of row 1000"):
        Gatherer(DEFAULT_RULES, 3, 3).read(gathered_of(source), READS, lambda: None)
    late, early = (next(start for start in sorted(STARTS) if start >= row) for row in (1300, 500))
    rows[[late, early + 2], 1] = np.nan
    with pytest.raises(NonFiniteError, match=f"row {early + 2} is not finite"):
        Gatherer(DEFAULT_RULES, 3, 3).read(gathered_of(source), READS, lambda: None)
    rows[early + 2] = 1.0
    with pytest.raises(CorruptChunkError, match="chunk of row 1000"):
        Gatherer(DEFAULT_RULES, 3, 3).read(gathered_of(source), READS, lambda: None)


def test_an_interrupt_waits_for_no_read(rows):
    source = Chunked(rows)
    source.may_go_on.clear()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Gatherer(DEFAULT_RULES, 2, 2).read(gathered_of(source), READS, interrupt)
    assert len(source.reads) <= 2
    source.may_go_on.set()


def test_values_are_those_of_a_pass_without_the_rows_left_out(rows):
    rows[STARTS[5] + 1, 2] = np.inf
    gathered = gathered_of(Chunked(rows))
    Gatherer(DEFAULT_RULES, 1, 1).read(gathered, READS, lambda: None)
    first, last = STARTS[5], STARTS[5] + UNIT
    ((start, values),) = values_of_runs(gathered, Rules(nonfinite="skip"), [(first, last)])
    assert start == first
    assert np.array_equal(values, np.delete(rows[first:last], 1, axis=0).astype(np.float64))
    with pytest.raises(NonFiniteError, match=f"row {first + 1:,} is not finite"):
        refuse_faults(gathered, DEFAULT_RULES)
