"""A few blocks of rows from all over a source, read within limits of bytes, time and memory, and how fast that was."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rankme_stream.errors import RankMeError, SourceError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources import Source

MOST_BYTES = 64_000_000
MOST_SECONDS = 2.0
_BLOCK_BYTES = 4_000_000
_WHOLE_BYTES = 16_000_000  # a chunk of at most so many is kept whole; of a larger one its first rows
_BLOCK_ROWS = 2**15
_MOST_BLOCKS = 32  # of a source that is not read whole
_LEAST_SECONDS = 1e-5  # of a block whose speed is stated


@dataclass
class BlockSample:
    """Blocks of rows of a source, and what reading them took.

    Parameters
    ----------
    source
        Source of the rows.
    memory_left
        Bytes that reading may take.
    working_bytes
        Bytes of them that whoever looks at a block takes, beside the block.

    Attributes
    ----------
    n_rows, n_blocks
        Rows and blocks that were read.
    rows_decoded, seconds
        Rows that had to be decoded for them, and the time of reading, without what was done with them.
    unreadable
        First and last row of each block that could not be read, and the error.
    lacks_memory
        Bytes that the smallest block takes, if they are more than there are; 0 otherwise.
    """

    source: Source
    memory_left: int
    working_bytes: int
    n_rows: int = 0
    n_blocks: int = 0
    rows_decoded: int = 0
    seconds: float = 0.0
    unreadable: list[tuple[int, int, RankMeError]] = field(default_factory=list)
    lacks_memory: int = 0

    def __post_init__(self) -> None:
        self._row_bytes = self.source.shape[1] * self.source.stored.dtype.itemsize
        self._bounds = self.source.bounds(0, self.source.shape[0])
        self._wanted = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // self._row_bytes))
        self._after_first = (0, 0.0)  # rows decoded and seconds, without the block that opened files

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the first row of each block, and its rows as they are stored: from the ends first, then between."""
        deadline, done = time.monotonic() + MOST_SECONDS, list[tuple[int, int]]()
        for start, stop in self._places():
            if any(start < high and low < stop for low, high in done):
                continue
            if done and (self.rows_decoded * self._row_bytes >= MOST_BYTES or time.monotonic() > deadline):
                return
            stop = self._within_memory(start, stop)
            if stop == start:
                return
            done.append((start, stop))
            yield from self._parts(start, stop, deadline)

    @property
    def rows_per_second(self) -> float | None:
        """Rows that were decoded in a second by one thread; None where no time was taken, or too little."""
        rows, seconds = self._after_first if self.n_blocks > 1 else (self.rows_decoded, self.seconds)
        return rows / seconds if seconds > _LEAST_SECONDS else None

    def _parts(self, start: int, stop: int, deadline: float) -> Iterator[tuple[int, Array]]:
        """Yield the rows of a block; where some cannot be decoded, those on either side of them."""
        try:
            rows = self._read(start, stop)
        except RankMeError as error:
            middle = self._bound_from((start + stop) // 2)
            if isinstance(error, SourceError) and start < middle < stop and time.monotonic() < deadline:
                yield from self._parts(start, middle, deadline)
                yield from self._parts(middle, stop, deadline)
            else:
                self.unreadable.append((start, stop, error))
        else:
            yield start, rows

    def _read(self, start: int, stop: int) -> Array:
        began = time.perf_counter()
        rows = self.source.stored.as_held(registry.on_host(self.source.read(start, stop)))
        seconds, decoded = time.perf_counter() - began, self._bound_from(stop) - start
        if self.n_blocks:
            before = self._after_first
            self._after_first = before[0] + decoded, before[1] + seconds
        self.n_blocks, self.n_rows = self.n_blocks + 1, self.n_rows + len(rows)
        self.rows_decoded, self.seconds = self.rows_decoded + decoded, self.seconds + seconds
        return rows

    def _places(self) -> Iterator[tuple[int, int]]:
        """Yield rows [start, stop) of blocks in the order of reading; all rows where they are few enough."""
        n_rows = self.source.shape[0]
        if n_rows * self._row_bytes > MOST_BYTES or n_rows > _MOST_BLOCKS * _BLOCK_ROWS:
            for share in spread(_MOST_BLOCKS):
                yield self._block_at(round(share * (n_rows - 1)))
            return
        cuts = [0]
        while cuts[-1] < n_rows:
            cuts.append(self._block_from(cuts[-1]))
        for number in _in_spread_order(len(cuts) - 1):
            yield cuts[number], cuts[number + 1]

    def _block_at(self, row: int) -> tuple[int, int]:
        """Return a block with the row in it, or of the last rows: it begins where reads may begin."""
        last = max(0, self.source.shape[0] - self._wanted)
        before = bisect_right(self._bounds, min(row, last))
        start = self._bounds[before - 1] if before else 0
        return start, self._block_from(start)

    def _block_from(self, start: int) -> int:
        """Return where a block ends: with a chunk, unless that is long."""
        stop = min(self.source.shape[0], start + self._wanted)
        whole = self._bound_from(stop)
        return whole if (whole - start) * self._row_bytes <= _WHOLE_BYTES else stop

    def _bound_from(self, row: int) -> int:
        """Return the first row from ``row`` on at which a read may begin, or the number of rows."""
        after = bisect_left(self._bounds, row)
        return self._bounds[after] if after < len(self._bounds) else self.source.shape[0]

    def _within_memory(self, start: int, stop: int) -> int:
        """Return where a block ends that fits in memory; ``start`` if a row does not."""
        while start < stop:
            needed = self.source.read_memory(stop - start) + self.working_bytes
            if needed <= self.memory_left:
                self.lacks_memory = 0
                return stop
            self.lacks_memory, stop = needed, start + (stop - start) // 2
        return start


def spread(n: int) -> Iterator[float]:
    """Yield ``n`` places from 0 to 1: the ends, the middle, then between those before."""
    yield from (0.0, 1.0)[:n]
    for number in range(1, n - 1):
        place, step = 0.0, 0.5
        while number:
            place, step, number = place + step * (number % 2), step / 2, number // 2
        yield place


def _in_spread_order(n: int) -> Sequence[int]:
    """Return the numbers below ``n``, those far apart first."""
    return list(dict.fromkeys([*(round(share * (n - 1)) for share in spread(min(4 * n, 256))), *range(n)]))
