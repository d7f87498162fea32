"""Rows of a source in blocks of whole chunks, read ahead of their use where reads wait for storage."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from rankme_stream.errors import MissingChunksError, RankMeError, argument
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.loop.storage_wait import StorageWait
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.workload import Concurrency
from rankme_stream.sources import Source


class _Block:
    """Consecutive rows, read by the first thread that needs them and dropped when every row was used."""

    def __init__(self, number: int, block_range: BlockRange) -> None:
        self.number = number
        self.start, self.stop = block_range
        self.unused = self.stop - self.start
        self.reading: Future[Array] | None = None


class BlockReader:
    """Rows of a source, handed out in any ranges near one another; each block is read once.

    As long as reads only compute, the first thread that asks for a block reads it: then every core is busy already. A
    thread that would wait for another to read it, because a chunk spans several segments, reads the next block
    meanwhile. Where reads wait for storage, the reader's own threads read, one block ahead of each that is in use. Both
    happen only if the plan has memory for it. A chunk that two segments share is decoded once and kept until both have
    had their rows.

    Parameters
    ----------
    plan
        Threads that read, and whether they read ahead.
    block_ranges
        Blocks in row order; each is dropped when its rows were used.
    refuse_missing
        Whether a missing chunk is an error.

    Attributes
    ----------
    bytes_read
        Bytes decoded so far.
    """

    def __init__(
        self, source: Source, plan: Plan | Concurrency, block_ranges: Iterable[BlockRange], *,
        refuse_missing: bool = True,
    ) -> None:  # fmt: skip
        self._source, self._plan, self._refuse_missing = source, plan, refuse_missing
        self._lock = threading.Lock()
        self._live: deque[_Block] = deque()
        self._block_ranges = enumerate(block_ranges)
        self._last: _Block | None = None
        self._is_exhausted = False
        self._buffers: list[Array] = []
        self._lent: dict[int, Array] = {}
        self._waiting = StorageWait(plan.workers)
        self._readers = ThreadPoolExecutor(plan.segments_at_once, thread_name_prefix="rankme-read")
        self._row_bytes = source.shape[1] * source.stored.dtype.itemsize
        self.bytes_read = 0

    def close(self) -> None:
        """Read nothing more, and do not wait for reads under way."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    @property
    def _callers_read(self) -> bool:
        """Whether threads read for themselves what they need."""
        return self._plan.segments_at_once == self._plan.workers and not self._waiting.is_long

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield (first row, rows) pieces that cover [start, stop) in order; each row may be requested once."""
        while start < stop:
            block = self._block(start)
            stored = self._wait(block)
            end = min(stop, block.stop)
            yield start, stored[start - block.start : end - block.start, :]
            self._release(block, end - start)
            start = end

    def _block(self, row: int) -> _Block:
        """Return the block of a row; if no thread has started to read it, the caller must."""
        with self._lock:
            while self._last is None or self._last.stop <= row:
                assert not self._is_exhausted, f"row {row} is in no block"
                self._next_block()
            block = next(block for block in self._live if block.start <= row < block.stop)
            if not self._callers_read:
                self._start(block)
                if self._plan.reads_ahead:
                    self._start_next(block)
            return block

    def _start_next(self, block: _Block) -> None:
        following = self._following(block)
        if following is not None:
            self._start(following)

    def _following(self, block: _Block) -> _Block | None:
        """Return the block after one that is in use; None if it is the last."""
        if block is self._last:
            self._next_block()
        return next((following for following in self._live if following.number == block.number + 1), None)

    def _wait(self, block: _Block) -> Array:
        """Return the rows of a block, reading them here if no thread has started to."""
        with self._lock:
            reads = block.reading is None
            if reads:
                block.reading = Future()
        assert block.reading is not None
        if reads:
            self._read_here(block)
        elif not block.reading.done():
            self._read_meanwhile(block)
        return block.reading.result()

    def _read_meanwhile(self, block: _Block) -> None:
        """Read the block after one that another thread is reading, if no thread has started to and memory allows."""
        with self._lock:
            following = self._following(block) if self._callers_read and self._plan.reads_ahead else None
            if following is None or following.reading is not None:
                return
            following.reading = Future()
        with suppress(RankMeError):  # kept in the future, and raised for the thread that needs the block
            self._read_here(following)

    def _read_here(self, block: _Block) -> None:
        assert block.reading is not None
        with self._lock:
            self._waiting.begin()
        try:
            block.reading.set_result(self._read(block.start, block.stop))
        except BaseException as error:
            block.reading.set_exception(error)
            raise
        with self._lock:
            self._waiting.end()

    def _next_block(self) -> None:
        number, block_range = next(self._block_ranges, (0, None))
        self._is_exhausted = block_range is None
        if block_range is not None:
            self._last = _Block(number, block_range)
            self._live.append(self._last)

    def _start(self, block: _Block) -> None:
        if block.reading is None:
            block.reading = self._readers.submit(self._read, block.start, block.stop)

    def _read(self, start: int, stop: int) -> Array:
        rows = self._source.read(start, stop, self._buffer((stop - start, self._source.shape[1])))
        with self._lock:
            self.bytes_read += (stop - start) * self._row_bytes
        if self._refuse_missing:
            for first, last in self._source.missing(start, stop):
                raise MissingChunksError(missing_message(self._source, first, last))
        return rows

    def _buffer(self, shape: tuple[int, int]) -> Array:
        with self._lock:
            for number, buffer in enumerate(self._buffers):
                if buffer.size >= shape[0] * shape[1]:
                    return self._buffers.pop(number)[: shape[0] * shape[1]].reshape(shape)
            for buffer in self._buffers:
                del self._lent[id(buffer)]
            self._buffers.clear()
            buffer = np.empty(shape[0] * shape[1], dtype=self._source.stored.dtype)
            self._lent[id(buffer)] = buffer
        return buffer.reshape(shape)

    def _release(self, block: _Block, n_rows: int) -> None:
        with self._lock:
            block.unused -= n_rows
            if block.unused == 0 and block.reading is not None:
                self._live.remove(block)
                base = getattr(block.reading.result(), "base", None)
                buffer = self._lent.get(id(base))  # None if the source gave an array of its own
                if buffer is not None:
                    self._buffers.append(buffer)


def missing_message(source: Source, start: int, stop: int) -> str:
    """Return a message that names the missing chunks and the remedies."""
    return (
        f"{source.uri}: chunk {source.first_missing} (rows {start:,}-{stop - 1:,}) is missing, "
        f"{source.chunks_missing:,} in all; write them, or pass {argument('missing', 'skip')} to leave their rows out "
        f"or {argument('missing', 'fill')} to take the fill value"
    )
