"""Division of rows into blocks, which begin and end at the natural bounds of the source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rankme_stream.sources.concat import JoinedBounds


class BlockRange(NamedTuple):
    """Block to read: rows [start, stop)."""

    start: int
    stop: int


def block_ranges(
    bounds: Sequence[int], start: int, stop: int, block_rows: int, segment_rows: int
) -> Iterator[BlockRange]:
    """Yield blocks of rows [start, stop) that begin and end at natural bounds; every row is used.

    A block holds about ``block_rows`` rows and at least one natural unit. It never passes the last bound before a
    segment's end, so that two segments share only a unit that straddles both.
    """
    while start < stop:
        wanted = min(start + block_rows, (start // segment_rows + 1) * segment_rows, stop)
        index = bisect_right(bounds, wanted)
        if wanted == stop:
            end = stop
        elif index and bounds[index - 1] > start:
            end = bounds[index - 1]
        else:
            end = bounds[index] if index < len(bounds) else stop
        yield BlockRange(start, end)
        start = end


def largest_unit(bounds: Sequence[int], start: int, stop: int) -> int:
    """Return the largest number of rows between neighbouring bounds or ends; at once where bounds have a ``step``."""
    if (step := getattr(bounds, "step", None)) is not None:
        return min(stop - start, step) if bounds else stop - start
    if isinstance(bounds, JoinedBounds):
        return max(largest_unit(inner, low, high) for low, high, inner in bounds.pieces)
    edges = [start, *bounds, stop]
    return max(later - earlier for earlier, later in pairwise(edges))
