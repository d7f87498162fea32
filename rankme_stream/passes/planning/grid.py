"""Panels and segments, which determine the bits of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.methods import METHODS

PATIENCE = 2  # segments per worker that may be started, counted from the oldest unfinished one


@dataclass(frozen=True)
class Grid:
    """Panels and segments: they determine the bits, and depend on width and method alone.

    Panel k is rows [k P, (k+1) P); a segment is a power of two of panels, the leaf of the merge tree. The segments of a
    sample hold any number of rows; their panels are counted from the first, and the last may be shorter.
    """

    panel_rows: int
    segment_rows: int

    def segments(self, start: int, stop: int) -> range:
        """Return the indices of the segments that overlap rows [start, stop)."""
        return range(start // self.segment_rows, -(-stop // self.segment_rows))

    def panels(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the row ranges of the panels in [start, stop), the first and last cut to it."""
        return self.slabs(start, stop, self.panel_rows)

    def slabs(self, start: int, stop: int, slab_rows: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of ``slab_rows`` rows, whole panels, in [start, stop), the first and last cut to it."""
        while start < stop:
            before = start // self.segment_rows * self.segment_rows
            end = min(stop, before + self.segment_rows, start + slab_rows - (start - before) % slab_rows)
            yield start, end
            start = end


def grid_for(arithmetic: Arithmetic, size: Size) -> Grid:
    """Return the grid for an arithmetic, a width and a sketch size.

    Float32 is twice as fast, and its segments are twice as long.
    """
    method = METHODS[arithmetic.method]
    segment_rows = method.segment_rows(size)
    return Grid(method.panel_rows(size.n_features), segment_rows << (arithmetic.precision == "float32"))
