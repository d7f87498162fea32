"""Chunks that are stored in a size unlike the others: found without reading, then a few of them read and described.

A chunk that holds zeros, one number, or copies of one row compresses as no other does. Such chunks are read beside a
sample and described in words. They have no part in its numbers: with a weight of their own, the few odd chunks whose
size does not show would no longer be noticed, as their directions would be there already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from rankme_stream.errors import SourceError, StorageError
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.sources.row_values import values_of
from rankme_stream.sources.source import Source
from rankme_stream.sources.stored_sizes import StoredSizes, stored_sizes

Content = Literal["zeros", "one number a row", "copies", "not finite", "unreadable", "usual"]

_ODD = 4.0  # robust standard deviations from the median
_LEAST_SPREAD = 1e-3  # of the median: sizes of chunks of like rows differ by less where they are long
_NORMAL = 1.4826  # standard deviation of normal numbers over their median absolute deviation
_LEAST_CHUNKS = 16  # of an array, for a statement about the usual size
_OF_NOTE = 0.01  # share of the rows of a chunk
_DESCRIBED = 8  # chunks that a result describes one by one
_AT_ONCE = 2**18  # values


class OddChunk(NamedTuple):
    """Rows [start, stop) of a chunk that was read, its distance from the usual size, and what some of them hold."""

    start: int
    stop: int
    z: float
    holds: Content


@dataclass(frozen=True)
class OddChunks:
    """Chunks of unlike size: of how many chunks, how many there are, and those that were read, most unlike first."""

    n_chunks: int
    found: int
    largest_z: float
    read: Sequence[OddChunk]

    @property
    def rows(self) -> int:
        """Number of rows read."""
        return sum(one.stop - one.start for one in self.read)

    def to_dict(self) -> dict[str, Any]:
        """Return counts by content, and the most unlike chunks, as JSON types."""
        return {
            "chunks": self.n_chunks,
            "found": self.found,
            "read": len(self.read),
            "rows": self.rows,
            "largest_z": self.largest_z,
            "holds": dict(Counter(one.holds for one in self.read).most_common()),
            "examples": [
                {"rows": [one.start, one.stop], "z": one.z, "holds": one.holds} for one in self.read[:_DESCRIBED]
            ],
        }


def find_odd_chunks(source: Source, rows: tuple[int, int], most_rows: int) -> OddChunks | None:
    """Find chunks of unlike size, and read one, and more up to ``most_rows`` rows; None where no sizes are known.

    Costs no request beyond the rows read. Chunks of several arrays are compared within each.
    """
    arrays = [sizes for sizes in stored_sizes(source, *rows) if np.count_nonzero(sizes.n_bytes) >= _LEAST_CHUNKS]
    if not arrays:
        return None
    odd = sorted((place for sizes in arrays for place in _odd(sizes)), key=lambda place: -abs(place[2]))
    read: list[OddChunk] = []
    left = most_rows
    for start, stop, z in odd:
        if stop - start > left and read:
            break
        read.append(OddChunk(start, stop, z, _content(source, start, stop)))
        left -= stop - start
    n_chunks = sum(len(sizes.n_bytes) for sizes in arrays)
    return OddChunks(n_chunks, len(odd), max((abs(z) for _, _, z in odd), default=0.0), read)


def _odd(sizes: StoredSizes) -> list[tuple[int, int, float]]:
    """Return rows and robust z-score of the chunks of unlike size."""
    scores = robust_scores(sizes.n_bytes)
    places = np.flatnonzero(np.abs(scores) > _ODD).tolist()
    return [(int(sizes.edges[place]), int(sizes.edges[place + 1]), float(scores[place])) for place in places]


def robust_scores(n_bytes: Array) -> FloatArray:
    """Return the distances of sizes from their median, in robust standard deviations; 0 for sizes of 0."""
    is_known = n_bytes > 0
    middle = np.median(n_bytes[is_known])
    apart = n_bytes - middle
    spread = max(_NORMAL * float(np.median(np.abs(apart[is_known]))), _LEAST_SPREAD * middle, 1.0)
    scores: FloatArray = np.where(is_known, apart / spread, 0.0)
    return scores


def _content(source: Source, start: int, stop: int) -> Content:
    """Return what some of the rows of a chunk hold, read now; ``usual`` if nothing of note."""
    counts: Counter[Content] = Counter()
    seen: set[int] = set()
    step = max(1, _AT_ONCE // source.shape[1])
    try:
        stored = source.read(start, stop)
        for low in range(0, stop - start, step):
            values = values_of(source, stored[low : low + step], start + low)
            counts["not finite"] += int((~np.isfinite(values)).any(axis=1).sum())
            counts["zeros"] += int((values == 0.0).all(axis=1).sum())
            counts["one number a row"] += int((values == values[:, :1]).all(axis=1).sum())
            seen.update(hash(row.tobytes()) for row in values)
    except (SourceError, StorageError):
        return "unreadable"
    counts["copies"] = stop - start - len(seen)
    holds, count = max(
        counts.items(), key=lambda item: item[1]
    )  # the first of equals: zeros are one number, and copies
    return holds if count > _OF_NOTE * (stop - start) else "usual"
