"""Rows that were noted as they were read, by which a later run recognises the dump."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from rankme_stream.sources import Source, row_digest, row_digests

_OF_A_SEGMENT = 8
_MOST = 16  # rows kept, however many are merged


@dataclass(frozen=True)
class Witnesses:
    """Hashes of the values of a few rows, as they were read; those of different rows merge.

    Each segment notes eight, and merges keep the sixteen whose numbers have the smallest hashes. So the order of merges
    does not matter, and each row noted is as likely to be kept as any other.

    Attributes
    ----------
    digests
        By row number, ascending.
    """

    digests: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, wanted: Iterable[int], start: int, stored: Any) -> Witnesses:
        """Return the hashes of the wanted rows among ``stored``, which are rows of a source from ``start`` on."""
        stop = start + stored.shape[0]
        return cls({row: row_digest(stored[row - start, :]) for row in wanted if start <= row < stop})

    def merge(self, other: Witnesses) -> Witnesses:
        """Return those of both sets of rows, sixteen at most; neither argument changes."""
        if not other.digests:
            return self
        both = {**self.digests, **other.digests}
        return Witnesses({row: both[row] for row in sorted(sorted(both, key=_priority)[:_MOST])})


def witness_rows(first: int, last: int) -> list[int]:
    """Return the rows of a segment, rows [first, last), that are noted: the same whenever it is read."""
    drawn = {first + _number(first, draw) % (last - first) for draw in range(_OF_A_SEGMENT)}
    return sorted(drawn)


def changed_row(noted: Iterable[Witnesses], source: Source) -> int | None:
    """Return the first row whose values differ in a source from those noted; None if none is found. Reads the rows."""
    digests = {row: digest for one in noted for row, digest in one.digests.items()}
    if not digests:
        return None
    return next((row for row, digest in row_digests(source, sorted(digests)) if digest != digests[row]), None)


def _priority(row: int) -> int:
    return _number(row, _OF_A_SEGMENT)


def _number(row: int, draw: int) -> int:
    """Return a random number of 64 bits for a row and a draw."""
    return int.from_bytes(blake2b(row.to_bytes(8, "little"), digest_size=8, salt=bytes([draw])).digest(), "little")
