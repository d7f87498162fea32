"""Where the chunks of a dataset lie in its file; packed, because there may be millions."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from rankme_stream.numerics.dtypes import Array

_PIECE = 2**14  # chunks kept together
_PIECES_HELD = 16  # unpacked, half a megabyte each
_FIELDS = 4  # number, offset, size, codecs skipped


class Places(NamedTuple):
    """Offsets in the file, stored bytes and codecs skipped of consecutive chunks; offset -1 of one that is missing."""

    offsets: Array
    sizes: Array
    skipped: Array


class Index(Protocol):
    """Places of chunks by their numbers; those that reach past the offset ``end`` have no values behind it.

    ``n_bytes`` are the stored bytes of all chunks.
    """

    end: int
    n_bytes: int

    def places(self, start: int, stop: int) -> Places:
        """Return those of chunks ``[start, stop)``."""

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of chunks ``[start, stop)`` that are missing, ascending."""


class RegularIndex:
    """Index of chunks of one size, each so many bytes behind the one before it along an axis.

    Parameters
    ----------
    offset
        Offset of the first; None where none is stored.
    n_bytes
        Size of each.
    end
        Offset behind the last value of the array.
    counts, steps
        Numbers of chunks along the axes, and the bytes from one to the next, in the order in which they are numbered.
    """

    def __init__(self, offset: int | None, n_bytes: int, end: int, counts: Sequence[int], steps: Sequence[int]) -> None:
        self._offset, self._chunk_bytes, self.end = offset, n_bytes, end
        self.n_bytes = 0 if offset is None else end - offset
        self._counts, self._steps = tuple(counts), tuple(steps)

    def places(self, start: int, stop: int) -> Places:
        """Return those of chunks ``[start, stop)``."""
        zeros = np.zeros(stop - start, np.int64)
        if self._offset is None:
            return Places(zeros - 1, zeros, zeros)
        along = np.unravel_index(np.arange(start, stop, dtype=np.int64), self._counts)
        offsets = zeros + self._offset
        for places, step in zip(along, self._steps, strict=True):
            offsets += places * step
        return Places(offsets, zeros + self._chunk_bytes, zeros)

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return all of them where nothing is stored, and nothing otherwise."""
        return [(start, stop)] if self._offset is None and start < stop else []


class ChunkIndex:
    """Index of chunks that lie anywhere before ``end``, packed."""

    def __init__(self, end: int) -> None:
        self.end = end
        self._packed: list[bytes] = []
        self._firsts: list[int] = []
        self._last, self._loose = -1, list[Array]()
        self.n_bytes = 0
        self._unpacked = lru_cache(maxsize=_PIECES_HELD)(self._unpack)

    def add(self, found: Array) -> None:
        """Add chunks, shape ``(4, chunks)``, int64: numbers, offsets, sizes and codecs skipped, in any order."""
        self.n_bytes += int(found[2].sum())
        numbers = found[0]
        if self._loose or numbers[0] <= self._last or (np.diff(numbers) <= 0).any():
            self._loose.append(found)
            return
        self._last = int(numbers[-1])
        for low in range(0, found.shape[1], _PIECE):
            piece = found[:, low : low + _PIECE]
            self._firsts.append(int(piece[0, 0]))
            self._packed.append(_packed(piece))

    def close(self) -> None:
        """Sort what did not come in ascending order.

        Raises
        ------
        ValueError
            If a chunk is there twice.
        """
        if not self._loose:
            return
        together = np.concatenate([*map(self._unpack, range(len(self._packed))), *self._loose], axis=1)
        together = together[:, np.argsort(together[0], kind="stable")]
        if (np.diff(together[0]) <= 0).any():
            raise ValueError("a chunk is there twice")
        self._packed, self._firsts, self._last, self._loose = [], [], -1, []
        self.n_bytes = 0
        self.add(together)

    def renumbered(self, change: Callable[[Array], Array]) -> ChunkIndex:
        """Return an index of the same chunks under other numbers."""
        index = ChunkIndex(self.end)
        for found in [*map(self._unpack, range(len(self._packed))), *self._loose]:
            index.add(np.concatenate([change(found[0])[None], found[1:]]))
        return index

    def places(self, start: int, stop: int) -> Places:
        """Return those of chunks ``[start, stop)``."""
        held = Places(
            np.full(stop - start, -1, np.int64), np.zeros(stop - start, np.int64), np.zeros(stop - start, int)
        )
        for piece in self._pieces(start, stop):
            for target, values in zip(held, piece[1:], strict=True):
                target[piece[0] - start] = values
        return held

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of chunks ``[start, stop)`` that are missing, ascending."""
        runs, expected = list[tuple[int, int]](), start
        for numbers, *_ in self._pieces(start, stop):
            before = np.concatenate([[expected], numbers[:-1] + 1])
            gaps = numbers > before
            runs += zip(before[gaps].tolist(), numbers[gaps].tolist(), strict=True)
            expected = int(numbers[-1]) + 1
        return [*runs, (expected, stop)] if expected < stop else runs

    def _pieces(self, start: int, stop: int) -> Iterator[Array]:
        """Yield what is known of chunks ``[start, stop)``, piece by piece, none of them empty."""
        first = max(0, bisect_right(self._firsts, start) - 1)
        for place in range(first, bisect_right(self._firsts, stop - 1)):
            piece = self._unpacked(place)
            low, high = np.searchsorted(piece[0], [start, stop])
            if low < high:
                yield piece[:, low:high]

    def _unpack(self, place: int) -> Array:
        """Return a piece as it was added."""
        numbers, offsets, sizes, skipped = np.frombuffer(zlib.decompress(self._packed[place]), np.int64).reshape(
            _FIELDS, -1
        )
        ends = np.concatenate([[0], sizes[:-1]])
        return np.stack([np.cumsum(numbers), np.cumsum(offsets + ends), sizes, skipped])


def _packed(piece: Array) -> bytes:
    """Return a piece packed: the steps of numbers, and the gaps between chunks, which are mostly equal."""
    numbers, offsets, sizes, skipped = piece
    steps = np.diff(numbers, prepend=0)
    gaps = np.diff(offsets, prepend=0) - np.concatenate([[0], sizes[:-1]])
    return zlib.compress(np.stack([steps, gaps, sizes, skipped]).tobytes(), 1)
