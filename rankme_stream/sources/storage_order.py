"""Axes of an array cut into chunks, and the numbering of its cells chunk by chunk."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

from rankme_stream.numerics.dtypes import Array


class Axis:
    """Axis of an array, cut into chunks of one length or of several; the last chunk in use may reach past the end.

    Parameters
    ----------
    length
        Length of the array along the axis.
    runs
        Length of the chunks and their number, for each run of chunks of one length. The last run is taken to go on for
        as long as the array does. Memory is that of the runs, whatever the number of chunks.

    Attributes
    ----------
    n_chunks
        Number of chunks that hold some of the array.
    step
        Length of the chunks where all have the same, otherwise 0.
    longest, shortest
        Length of the longest chunk as it is stored, and of the shortest cut to the array.
    """

    def __init__(self, length: int, runs: Iterable[tuple[int, int]]) -> None:
        self.length = length
        self._steps, self._firsts, self._starts = array("q"), array("q"), array("q")
        chunk, start = 0, 0
        for step, count in runs:
            if start >= length and self._steps:
                break  # what follows is past the array
            if not self._steps or step != self._steps[-1]:
                self._steps.append(step)
                self._firsts.append(chunk)
                self._starts.append(start)
            chunk, start = chunk + count, start + count * step
        self.step = self._steps[0] if len(self._steps) == 1 else 0
        self.n_chunks = self.find(length - 1) + 1 if length else 0
        self.longest = max(self._steps)
        self.shortest = min(*self._steps, self.extent(self.n_chunks - 1)) if length else 0

    @classmethod
    def regular(cls, length: int, step: int) -> Axis:
        """Return an axis whose chunks all have one length."""
        return cls(length, [(step, 1)])

    def start(self, chunk: int) -> int:
        """Return where a chunk begins; for the one after the last, where the array ends."""
        if self.step:
            return min(chunk * self.step, self.length)
        run = bisect_right(self._firsts, chunk) - 1
        return min(self._starts[run] + (chunk - self._firsts[run]) * self._steps[run], self.length)

    def find(self, offset: int) -> int:
        """Return the number of the chunk that holds an offset."""
        if self.step:
            return offset // self.step
        run = bisect_right(self._starts, offset) - 1
        return self._firsts[run] + (offset - self._starts[run]) // self._steps[run]

    def extent(self, chunk: int) -> int:
        """Return the length of a chunk, cut to the array."""
        return self.start(chunk + 1) - self.start(chunk)

    def stored(self, chunk: int) -> int:
        """Return the length that a chunk is stored with."""
        return self.step or self._steps[bisect_right(self._firsts, chunk) - 1]

    def lengths(self) -> set[int]:
        """Return the lengths that chunks are stored with."""
        return set(self._steps)

    def runs(self, stop: int) -> list[tuple[int, int]]:
        """Return first chunk and length of the runs of chunks before chunk ``stop``."""
        return [run for run in zip(self._firsts, self._steps, strict=True) if run[0] < stop]

    def divided(self, unit: int) -> Axis:
        """Return the axis measured in units of ``unit``, which divides every chunk."""
        ends = [*self._firsts[1:], self.n_chunks]
        runs = zip(self._steps, self._firsts, ends, strict=True)
        return Axis(-(-self.length // unit), [(step // unit, max(1, end - first)) for step, first, end in runs])


class StorageOrder:
    """Numbers of the cells of an array, chunk by chunk: chunks in C order, and the cells of a chunk in C order.

    Cells before the chunk at coordinates i are the sum over axes j of l_1 .. l_{j-1} s_j n_{j+1} .. n_k, where n is the
    length of an axis, s_j where chunk i_j begins, and l_j its length, cut to the array. For one axis that is s_1.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.n_cells = prod(axis.length for axis in axes)
        self.n_chunks = prod(axis.n_chunks for axis in axes)

    def coordinates(self, chunk: int) -> tuple[int, ...]:
        """Return the coordinates of a chunk, given its number in C order."""
        if len(self.axes) == 1:
            return (chunk,)
        found = []
        for axis in self.axes[:0:-1]:
            chunk, i = divmod(chunk, axis.n_chunks)
            found.append(i)
        return (chunk, *found[::-1])

    def number(self, coordinates: Sequence[int]) -> int:
        """Return the number of the chunk at some coordinates."""
        chunk = 0
        for axis, i in zip(self.axes, coordinates, strict=True):
            chunk = chunk * axis.n_chunks + i
        return chunk

    def start(self, chunk: int) -> int:
        """Return the number of cells before a chunk; for the chunk after the last, that of all cells."""
        if len(self.axes) == 1:
            return self.axes[0].start(chunk)
        cell, before, after = 0, 1, self.n_cells
        for axis, i in zip(self.axes, self.coordinates(chunk), strict=True):
            after //= axis.length
            cell += before * axis.start(i) * after
            before *= axis.extent(i)
        return cell

    def find(self, cell: int) -> int:
        """Return the number of the chunk that holds a cell."""
        if len(self.axes) == 1:
            return self.axes[0].find(cell)
        chunk, before, after = 0, 1, self.n_cells
        for axis in self.axes:
            after //= axis.length
            i = axis.find(cell // (before * after))
            cell -= before * axis.start(i) * after
            before *= axis.extent(i)
            chunk = chunk * axis.n_chunks + i
        return chunk

    def starts(self, chunk: int) -> Array:
        """Return where a chunk begins along the axes."""
        return np.array([axis.start(i) for axis, i in zip(self.axes, self.coordinates(chunk), strict=True)])

    def extents(self, chunk: int) -> tuple[int, ...]:
        """Return the lengths of a chunk along the axes, cut to the array."""
        return tuple(axis.extent(i) for axis, i in zip(self.axes, self.coordinates(chunk), strict=True))

    def chunks(self, start: int, stop: int) -> range:
        """Return the numbers of the chunks that hold cells ``[start, stop)``."""
        return range(self.find(start), self.find(stop - 1) + 1) if start < stop else range(0)


def boxes(lengths: Sequence[int], start: int, stop: int) -> Iterator[tuple[slice, ...]]:
    """Yield boxes, as slices, that make up cells ``[start, stop)``, in C order, of an array of some lengths."""
    if len(lengths) == 1:
        yield (slice(start, stop),)
        return
    inner = prod(lengths[1:])
    while start < stop:
        i, within = divmod(start, inner)
        n_whole = (stop - start) // inner
        if within == 0 and n_whole:
            yield (slice(i, i + n_whole), *(slice(0, length) for length in lengths[1:]))
            start += n_whole * inner
            continue
        end = min(stop, (i + 1) * inner)
        for box in boxes(lengths[1:], within, end - i * inner):
            yield (slice(i, i + 1), *box)
        start = end
