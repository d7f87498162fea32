"""Where blocks begin and end: at the natural bounds of the source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple


class BlockRange(NamedTuple):
    """A block to read, rows [start, stop), and how many of its rows will be asked for."""

    start: int
    stop: int
    n_used: int


def block_ranges(
    bounds: Sequence[int], start: int, stop: int, block_rows: int, segment_rows: int
) -> Iterator[BlockRange]:
    """Cut rows [start, stop) into blocks that begin and end at natural bounds; every row is used.

    A block holds about ``block_rows`` rows and at least one natural unit. It never runs past the last bound before a
    segment's end, so that only the unit that straddles two segments is shared by them.
    """
    while start < stop:
        wanted = min(start + block_rows, (start // segment_rows + 1) * segment_rows, stop)
        place = bisect_right(bounds, wanted)
        if wanted == stop:
            end = stop
        elif place and bounds[place - 1] > start:
            end = bounds[place - 1]
        else:
            end = bounds[place] if place < len(bounds) else stop
        yield BlockRange(start, end, end - start)
        start = end


def largest_unit(bounds: Sequence[int], start: int, stop: int) -> int:
    """Return the most rows between neighbouring bounds or ends."""
    if isinstance(bounds, range):
        return min(stop - start, abs(bounds.step)) if bounds else stop - start
    edges = [start, *bounds, stop]
    return max(later - earlier for earlier, later in pairwise(edges))
