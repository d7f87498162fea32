"""Parts of a dump that do not differ."""

from __future__ import annotations

import time

from rankme_stream.errors import SourceError, StorageError
from rankme_stream.sources import ConcatSource, Source, row_digests

_MOST_SECONDS = 1.0


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
