"""Rows of a source that lie apart there, gathered in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.memory.array import ArraySource
from rankme_stream.sources.source import Source


class GatheredRows(ArraySource):
    """Runs of rows of a source, in any order, in memory one after another.

    Parameters
    ----------
    origin
        The source.
    rows
        Shape ``(n, D)``, on the device of the source; filled by the caller with rows as the source returns them.
    starts, run_rows
        First row of each run in the source, and the rows of a run; the last run may be shorter.

    Attributes
    ----------
    origin
        The source.
    """

    def __init__(self, origin: Source, rows: Any, starts: Sequence[int], run_rows: int) -> None:
        super().__init__(Adopted(getattr(origin, "device", HOST), rows), origin.uri)
        self.stored = origin.stored
        self.origin, self._starts, self._run_rows = origin, starts, run_rows
        self._order = sorted(range(len(starts)), key=lambda number: starts[number])
        self._ascending = [starts[number] for number in self._order]

    def row_of(self, row: int) -> int:
        """Return the number in the source of a row that is counted here."""
        return self._starts[row // self._run_rows] + row % self._run_rows

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs, rows [start, stop) of the source, ascending."""
        for number in self._order:
            n_rows = min(self._run_rows, self.shape[0] - number * self._run_rows)
            yield self._starts[number], self._starts[number] + n_rows

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of runs in rows ``[start, stop)`` of the source: rows [low, high), and their place here."""
        index = max(0, bisect_right(self._ascending, start) - 1)
        while index < len(self._order) and self._ascending[index] < stop:
            first, place = self._ascending[index], self._order[index] * self._run_rows
            low, high = max(start, first), min(stop, first + min(self._run_rows, self.shape[0] - place))
            if low < high:
                yield low, high, place + low - first
            index += 1

    def room(self, place: int, n_rows: int) -> Any:
        """Return the memory of some rows."""
        return self._array[place : place + n_rows, :]

    def held(self, start: int, stop: int) -> Array:
        """Return rows ``[start, stop)`` of the source, all in one run, on the host."""
        ((_, _, place),) = self.pieces(start, stop)
        return self.stored.as_held(self.device.download(self.room(place, stop - start)))

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending."""
        found: list[tuple[int, int]] = []
        while start < stop and self.origin.chunks_missing:
            end = min(stop, (start // self._run_rows + 1) * self._run_rows)
            row = self.row_of(start)
            gaps = self.origin.missing(row, row + end - start)
            found += [(low - row + start, high - row + start) for low, high in gaps]
            start = end
        return found
