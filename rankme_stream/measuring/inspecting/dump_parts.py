"""Parts of a dump that differ from the others, or do not differ at all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rankme_stream.errors import SourceError, StorageError
from rankme_stream.sources import ConcatSource, Source, row_digests

_MOST_SECONDS = 1.0
_LEAST_PARTS = 4  # for a statement about the usual length
_USUAL = 0.6  # share of the parts


def equal_parts(source: Source) -> list[tuple[str, str]]:
    """Return the names of parts with equal lengths and equal first, middle and last rows; the earlier of each first.

    Reads three rows of each part, for a second at most: parts after that are not compared.
    """
    if not isinstance(source, ConcatSource) or len(source.parts) < 2:
        return []
    found, seen = list[tuple[str, str]](), dict[tuple[object, ...], str]()
    deadline = time.monotonic() + _MOST_SECONDS
    for part in source.parts:
        if time.monotonic() > deadline:
            break
        rows = sorted({part.start, (part.start + part.stop) // 2, part.stop - 1})
        try:
            content = tuple(digest for _, digest in row_digests(source, rows))
        except (SourceError, StorageError):
            continue  # which the sample of blocks, or a pass, reports
        first = seen.setdefault((part.stop - part.start, *content), part.name)
        if first != part.name:
            found.append((first, part.name))
    return found


def odd_lengths(source: Source) -> tuple[int, Sequence[tuple[str, int]]]:
    """Return the number of rows that most parts have, and name and rows of those with another; the last may be short.

    (0, ()) where there is no usual number.
    """
    if not isinstance(source, ConcatSource) or len(source.parts) < _LEAST_PARTS:
        return 0, ()
    sizes = [part.stop - part.start for part in source.parts]
    usual, count = Counter(sizes[:-1]).most_common(1)[0]
    if count < _USUAL * len(sizes[:-1]):
        return 0, ()
    last = len(sizes) - 1
    odd = [
        (part.name, size)
        for number, (part, size) in enumerate(zip(source.parts, sizes, strict=True))
        if size != usual and not (number == last and size < usual)
    ]
    return usual, odd
