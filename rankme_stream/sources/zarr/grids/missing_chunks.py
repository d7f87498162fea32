"""Chunks of a zarr array that are known to be unwritten."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right

import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.shard_index import ShardIndex


class MissingChunks:
    """Chunks known to be unwritten, those of shards one by one, as runs of their numbers in row order; thread-safe.

    Parameters
    ----------
    grid
        Grid of the chunks.

    Notes
    -----
    Only chunks with rows requested so far (see `request`) are recorded, so a missing shard counts its chunks in those
    rows and no others. A run takes 16 bytes, whatever its length.
    """

    def __init__(self, grid: ChunkGrid) -> None:
        self._grid = grid
        self._starts, self._stops = array("q"), array("q")  # of runs that neither overlap nor touch, ascending
        self._lock = threading.Lock()
        self._requested: tuple[int, int] | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Number of chunks known to be missing."""
        return self._count

    def request(self, start: int, stop: int) -> None:
        """Extend the rows requested by ``[start, stop)``."""
        with self._lock:
            low, high = self._requested or (start, stop)
            self._requested = min(low, start), max(high, stop)

    def add_key(self, i: int, j: int) -> None:
        """Record that nothing is stored under the key with number ``i`` along the rows and ``j`` along the features."""
        self.add_keys(i * self._grid.n_outer_columns + j, i * self._grid.n_outer_columns + j + 1)

    def add_keys(self, start: int, stop: int) -> None:
        """Record that nothing is stored under the keys with numbers ``[start, stop)`` in row order."""
        width, n_columns = self._grid.n_outer_columns, self._grid.n_inner_columns
        while start < stop:
            i, j = divmod(start, width)
            if j == 0 and stop - start >= width:
                n_rows = (stop - start) // width
                self._add(self._units(i).start * n_columns, self._units(i + n_rows - 1).stop * n_columns)
                start += n_rows * width
                continue
            last = min(width, j + stop - start) - 1
            columns = self._grid.key_chunk_columns(j).start, self._grid.key_chunk_columns(last).stop
            for unit in self._units(i):
                self._add(unit * n_columns + columns[0], unit * n_columns + columns[1])
            start += last + 1 - j

    def add_index(self, i: int, j: int, entries: Array) -> None:
        """Record the chunks that the index of the shard at ``(i, j)`` marks as empty."""
        empty = ShardIndex.is_empty(entries)
        if not empty.any():
            return
        units, columns = self._units(i), self._grid.key_chunk_columns(j)
        empty = self._grid.by_unit(i, j, empty)[units.start - self._grid.key_units(i).start :][: len(units)]
        rows, places = np.nonzero(empty)
        numbers = (rows + units.start) * self._grid.n_inner_columns + places + columns.start
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                self._add(int(run[0]), int(run[-1]) + 1)

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` with a missing chunk, ascending, merged."""
        merged: list[tuple[int, int]] = []
        if not self._starts or start >= stop:  # nearly always, and asked for every block
            return merged
        units, width = self._grid.units(start, stop), self._grid.n_inner_columns
        with self._lock:
            first = bisect_right(self._stops, units.start * width)
            last = bisect_left(self._starts, units.stop * width)
            runs = list(zip(self._starts[first:last], self._stops[first:last], strict=True))
        for run_start, run_stop in runs:
            low = max(start, self._grid.unit_start(run_start // width))
            high = min(stop, self._grid.unit_start(-(-run_stop // width)))
            if low >= high:
                continue
            if merged and merged[-1][1] >= low:
                low = merged.pop()[0]
            merged.append((low, high))
        return merged

    def first(self) -> str | None:
        """Return the name of the first missing chunk; None when none is known."""
        return self._grid.name(*divmod(self._starts[0], self._grid.n_inner_columns)) if self._starts else None

    def _units(self, i: int) -> range:
        """Return the units under keys with number ``i`` along the rows, as far as their rows were requested."""
        units, (start, stop) = self._grid.key_units(i), self._requested or (0, self._grid.shape[0])
        wanted = self._grid.units(start, stop)
        return range(max(units.start, wanted.start), min(units.stop, wanted.stop))

    def _add(self, start: int, stop: int) -> None:
        """Record chunks by their numbers; a run that touches others takes them in."""
        if start >= stop:
            return
        with self._lock:
            first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
            before = sum(self._stops[first:last]) - sum(self._starts[first:last])
            if first < last:
                start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
            self._starts[first:last], self._stops[first:last] = array("q", [start]), array("q", [stop])
            self._count += stop - start - before
