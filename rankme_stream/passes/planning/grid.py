"""Panels and segments, which fix the bits of a pass, and the size of a sketch; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rankme_stream.accumulators.row_sketch.folding import ROWS_A_SKETCH_ROW
from rankme_stream.errors import UsageError

Method = Literal["gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"]
Precision = Literal["float64", "float32"]
_PANEL_ROWS: dict[str, int] = {
    "gram": 1024,
    "tsqr": 512,
}  # of 512 to 4,096 QR is as fast, and its error bound grows with them
SKETCHES = ("rsvd", "frequent-directions", "row-sketch")
_DEFAULT_RANK = 256
_SKETCH_SEGMENT_FLOPS = {"rsvd": 2**40, "frequent-directions": 2**39}  # a sketch is as large as many rows
_ROWS_A_FEATURE, _FEWEST_ROWS = 8, 256  # of a row sketch: its interval is proved from there on
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


def columns_for(method: str, rank: int | None, oversampling: int, n_features: int) -> int:
    """Return how many test vectors, directions or rows a sketch takes; 0 where the method is none.

    Raises
    ------
    UsageError
        If there are more than half as many as features: the Gram matrix costs less then, and is exact. If a row sketch
        has so few rows that its interval would not hold.
    """
    if method not in SKETCHES:
        if rank is not None:
            raise UsageError(f"rank is the size of a sketch: pass method {', '.join(SKETCHES)} as well")
        return 0
    if method == "row-sketch":
        fewest = max(_ROWS_A_FEATURE * n_features, _FEWEST_ROWS)
        if rank is not None and rank < fewest:
            raise UsageError(
                f"a row sketch of {rank:,} rows tells too little of {n_features:,} features for an interval: --rank "
                f"{fewest} at least, or leave it out"
            )
        return -(-(rank or fewest) // 4) * 4
    extra = oversampling if method == "rsvd" else 0
    most = n_features // 2 - extra
    if rank is None:
        rank = min(_DEFAULT_RANK, most)
    if not 1 <= rank <= most or oversampling < 0:
        beside = f" and oversampling {extra}" if extra else ""
        raise UsageError(
            f"a sketch of rank {rank}{beside} takes more than half of the {n_features:,} features, or nothing: the "
            "Gram matrix (--method gram) costs less then, and is exact"
        )
    return rank + extra


def check_rows(method: str, n_rows: int, columns: int) -> None:
    """Refuse a row sketch of so few rows that no interval would be stated.

    Raises
    ------
    UsageError
        The text says how many it takes.
    """
    if method == "row-sketch" and n_rows < ROWS_A_SKETCH_ROW * columns:
        raise UsageError(
            f"{n_rows:,} rows are too few for a row sketch of {columns:,}, which takes {ROWS_A_SKETCH_ROW * columns:,} "
            "(4 a row of it): the Gram matrix (--method gram) is exact"
        )


def grid_for(n_features: int, method: Method, precision: Precision = "float64", columns: int = 0) -> Grid:
    """Return the grid of a width, method and precision: segments of some 2^32 flops (N D^2), 2^13 to 2^16 rows.

    In float32, twice as fast, they are twice as long: the first panel of each is probed. Those of a sketch take 2^40,
    those of a row sketch 16 times its rows.
    """
    if columns:
        wide = max(1, _PANEL_VALUES // n_features)
        panel_rows = min(1024, 1 << (wide.bit_length() - 1))
        if method == "row-sketch":
            return Grid(panel_rows, 1 << (max(_MIN_SEGMENT_ROWS, _SEGMENT_SKETCHES * columns) - 1).bit_length())
        rows = _SKETCH_SEGMENT_FLOPS[method] // (4 * n_features * columns)
        rows = min(_MAX_SEGMENT_ROWS, max(_MIN_SEGMENT_ROWS, rows))
        return Grid(panel_rows, 1 << (rows.bit_length() - 1))
    panel_rows = _PANEL_ROWS[method]
    rows = _SEGMENT_FLOPS // max(1, n_features**2)
    rows = min(_MAX_SEGMENT_ROWS, max(_MIN_SEGMENT_ROWS, rows))
    segment_rows = 1 << (rows - 1).bit_length()
    return Grid(panel_rows, 2 * segment_rows if precision == "float32" else segment_rows)
