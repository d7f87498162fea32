"""Panels and segments, which fix the bits of a pass, and the size of a sketch; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rankme_stream.accumulators.methods import Method, Precision

_PANEL_ROWS: dict[str, int] = {
    "gram": 1024,
    "tsqr": 512,
}  # of 512 to 4,096 QR is as fast, and its error bound grows with them
_SKETCH_SEGMENT_FLOPS = {"rsvd": 2**40, "frequent-directions": 2**39}  # a sketch is as large as many rows
_SEGMENT_SKETCHES = 16  # rows of a segment, in those of a row sketch: a merge is then below a twentieth of it
_PANEL_VALUES = 2**24  # of a sketch, whose rows may be wide
_SEGMENT_FLOPS = 2**32  # about a tenth of a second of one core: a merge is then below 2 % of a segment
_MIN_SEGMENT_ROWS, _MAX_SEGMENT_ROWS = 2**13, 2**16


@dataclass(frozen=True)
class Grid:
    """Panels and segments: they fix the bits, and depend on width and method alone.

    Panel k is rows [k P, (k+1) P); a segment is a power of two of panels, the leaf of the merge tree.
    """

    panel_rows: int
    segment_rows: int

    def segments(self, start: int, stop: int) -> range:
        """Indices of the segments that rows [start, stop) touch."""
        return range(start // self.segment_rows, -(-stop // self.segment_rows))

    def panels(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Row ranges of the panels in [start, stop), the first and last cut to it."""
        return self.slabs(start, stop, self.panel_rows)

    def slabs(self, start: int, stop: int, slab_rows: int) -> Iterator[tuple[int, int]]:
        """Row ranges of so many rows, whole panels, in [start, stop), the first and last cut to it."""
        while start < stop:
            end = min(stop, (start // slab_rows + 1) * slab_rows)
            yield start, end
            start = end


def grid_for(n_features: int, method: Method, precision: Precision = "float64", sketch_size: int = 0) -> Grid:
    """Return the grid of a width, method and precision: segments of some 2^32 flops (N D^2), 2^13 to 2^16 rows.

    In float32, twice as fast, they are twice as long: the first panel of each is probed. Those of a sketch take 2^40,
    those of a row sketch 16 times its rows.
    """
    if sketch_size:
        wide = max(1, _PANEL_VALUES // n_features)
        panel_rows = min(1024, 1 << (wide.bit_length() - 1))
        if method == "row-sketch":
            return Grid(panel_rows, 1 << (max(_MIN_SEGMENT_ROWS, _SEGMENT_SKETCHES * sketch_size) - 1).bit_length())
        rows = _SKETCH_SEGMENT_FLOPS[method] // (4 * n_features * sketch_size)
        rows = min(_MAX_SEGMENT_ROWS, max(_MIN_SEGMENT_ROWS, rows))
        return Grid(panel_rows, 1 << (rows.bit_length() - 1))
    panel_rows = _PANEL_ROWS[method]
    rows = _SEGMENT_FLOPS // max(1, n_features**2)
    rows = min(_MAX_SEGMENT_ROWS, max(_MIN_SEGMENT_ROWS, rows))
    segment_rows = 1 << (rows - 1).bit_length()
    return Grid(panel_rows, 2 * segment_rows if precision == "float32" else segment_rows)
