"""Rows of a source in blocks of whole chunks, read ahead of their use where reading waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from rankme_stream.errors import MissingChunksError, RankMeError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.sources import Source

_READS_JUDGED = 16  # the first reads of a pass tell whether reading waits,
_JUDGED_AFTER_S = 1.0  # or as many as end in its first second, where they are long
_WAITING_SHARE = 0.2  # of the time until then in which the threads of this process did not compute


class _Block:
    """Consecutive rows, read by whoever starts to first and dropped when every row was used."""

    def __init__(self, number: int, cut: BlockRange) -> None:
        self.number = number
        self.start, self.stop, self.unused = cut
        self.reading: Future[Array] | None = None


class BlockReader:
    """Rows of a source, handed out in any ranges near one another; each block is read once.

    Whoever asks first for a block reads it, as long as reads only compute: then every core is busy already. Who would
    have to wait for another to read it, because a chunk reaches over several segments, reads the next one meanwhile.
    Where reads wait, threads of its own read, one block ahead of each that is in use. Both only where the plan has
    memory for it. A chunk that two segments share is decoded once and kept until both have had their rows.

    Parameters
    ----------
    cuts
        The blocks, in row order; each is dropped when as many rows were used as its cut says.
    """

    def __init__(self, source: Source, plan: Plan, cuts: Iterable[BlockRange], *, refuse_missing: bool = True) -> None:
        self._source, self._plan, self._refuse_missing = source, plan, refuse_missing
        self._lock = threading.Lock()
        self._live: deque[_Block] = deque()
        self._cuts = enumerate(cuts)
        self._last: _Block | None = None
        self._is_cut = False
        self._buffers: list[Array] = []
        self._lent: dict[int, Array] = {}
        self._in_place = plan.segments_at_once == plan.workers
        self._began: tuple[float, float] | None = None  # the first read: what the clocks of wall and process told
        self._reads_left = _READS_JUDGED
        self._readers = ThreadPoolExecutor(plan.segments_at_once, thread_name_prefix="rankme-read")
        self._row_bytes = source.shape[1] * source.stored.dtype.itemsize
        self.bytes_read = 0

    def close(self) -> None:
        """Read nothing more; what is being read is waited for by nobody."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield (first row, rows) pieces that cover [start, stop) in order; each row may be asked for once."""
        while start < stop:
            block = self._block(start)
            stored = self._wait(block)
            end = min(stop, block.stop)
            yield start, stored[start - block.start : end - block.start, :]
            self._release(block, end - start)
            start = end

    def _block(self, row: int) -> _Block:
        """Return the block of a row, read or being read by another thread, or for the caller to read."""
        with self._lock:
            while self._last is None or self._last.stop <= row:
                assert not self._is_cut, f"row {row} is in no block"
                self._cut()
            block = next(block for block in self._live if block.start <= row < block.stop)
            if not self._in_place:
                self._start(block)
                if self._plan.reads_ahead:
                    self._start_next(block)
            return block

    def _start_next(self, block: _Block) -> None:
        following = self._after(block)
        if following is not None:
            self._start(following)

    def _after(self, block: _Block) -> _Block | None:
        """Return the block after one that is in use; None where there is none."""
        if block is self._last:
            self._cut()
        return next((following for following in self._live if following.number == block.number + 1), None)

    def _wait(self, block: _Block) -> Array:
        """Return the rows of a block, reading them here if nobody started to."""
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
        """Read the block after one that another thread is reading, unless somebody does or there is no memory."""
        with self._lock:
            following = self._after(block) if self._in_place and self._plan.reads_ahead else None
            if following is None or following.reading is not None:
                return
            following.reading = Future()
        with suppress(RankMeError):  # told to whoever needs it
            self._read_here(following)

    def _read_here(self, block: _Block) -> None:
        assert block.reading is not None
        with self._lock:
            self._began = self._began or (time.perf_counter(), time.process_time())
        try:
            block.reading.set_result(self._read(block.start, block.stop))
        except BaseException as error:
            block.reading.set_exception(error)
            raise
        self._judge(*self._began)

    def _judge(self, began: float, computed: float) -> None:
        """Read ahead from now on if the process did not compute for much of the time of the first reads.

        Of the whole process: a thread that waits for another to let go of the interpreter does not wait for the store.
        """
        with self._lock:
            if self._reads_left == 0:
                return
            elapsed = time.perf_counter() - began
            self._reads_left = 0 if elapsed >= _JUDGED_AFTER_S else self._reads_left - 1
            if self._reads_left == 0:
                waiting = elapsed * self._plan.workers - (time.process_time() - computed)
                self._in_place = waiting <= _WAITING_SHARE * elapsed * self._plan.workers

    def _cut(self) -> None:
        number, cut = next(self._cuts, (0, None))
        self._is_cut = cut is None
        if cut is not None:
            self._last = _Block(number, cut)
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
            for place, buffer in enumerate(self._buffers):
                if buffer.size >= shape[0] * shape[1]:
                    return self._buffers.pop(place)[: shape[0] * shape[1]].reshape(shape)
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
                buffer = self._lent.get(id(getattr(block.reading.result(), "base", None)))  # else the source's own
                if buffer is not None:
                    self._buffers.append(buffer)


def missing_message(source: Source, start: int, stop: int) -> str:
    """Say which chunks are missing and what to do."""
    return (
        f"{source.uri}: chunk {source.first_missing} (rows {start:,}-{stop - 1:,}) is missing, "
        f"{source.chunks_missing:,} in all; write them, or pass --missing skip to leave their rows out or "
        "--missing fill to take the fill value"
    )
