"""Stored sizes of the chunks of an array, which tell chunks that compress unlike the others before any is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.source import Source


class StoredSizes(NamedTuple):
    """Chunks of one array, by rows, and the bytes that each is stored in.

    Attributes
    ----------
    edges
        First row of each chunk, and the row after the last, ascending; shape ``(n + 1,)``, int64.
    n_bytes
        Shape ``(n,)``, int64; 0 where the size is not known, the chunk is missing, or it holds rows that are no rows of
        the array or of the range.
    """

    edges: Array
    n_bytes: Array


def stored_sizes(source: Source, start: int, stop: int) -> Sequence[StoredSizes]:
    """Return the stored sizes of the chunks of rows ``[start, stop)``, of each array apart; none where unknown.

    A source offers them by a method ``stored_sizes(start, stop)``, beside those of the protocol. They are what its last
    fingerprint found, or the local file system says: no request is made for them.
    """
    find: Callable[[int, int], Sequence[StoredSizes]] | None = getattr(source, "stored_sizes", None)
    return () if find is None else find(start, stop)
