"""Hashes of a few decoded rows, which tell one dump from another where storage looks alike."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.devices import registry
from rankme_stream.sources.source import Source

_DRAWN = 6


def content_digest(source: Source, start: int, stop: int, *, drawn: int = _DRAWN) -> str:
    """Return a hash of the values of rows ``start`` and ``stop - 1`` and of ``drawn`` rows between them.

    Which rows depends on ``start`` and ``stop`` alone, and the hash on their values, width and type alone, so copies of
    a dump have equal hashes. A change of other rows goes unnoticed.

    Raises
    ------
    SourceError
        If a row cannot be read.

    Notes
    -----
    Decodes at most ``drawn`` + 2 chunks of rows, each once; takes the memory of one.
    """
    numbers = counter_rng.integers((drawn,), stop - start, seed=start, counter=stop) + start
    rows = sorted({start, stop - 1, *numbers.tolist()})
    digest = blake2b(f"{source.stored.name} {source.shape[1]} {rows}".encode(), digest_size=16)
    for _, row_bytes in _read_rows(source, rows):
        digest.update(row_bytes)
    return digest.hexdigest()


def row_digests(source: Source, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield each row, of ascending ones, and its ``row_digest``, read now; decodes each chunk once."""
    for row, row_bytes in _read_rows(source, rows):
        yield row, _digest(row_bytes)


def row_digest(values: Any) -> str:
    """Return a hash of the values of one row, as it was read."""
    return _digest(_value_bytes(values))


def _digest(row_bytes: bytes) -> str:
    return blake2b(row_bytes, digest_size=16).hexdigest()


def _read_rows(source: Source, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    bounds = source.bounds(rows[0], rows[-1] + 1)
    for _, unit in groupby(rows, key=lambda row: bisect_right(bounds, row)):
        wanted = list(unit)
        found = source.read(wanted[0], wanted[-1] + 1)
        for row in wanted:
            yield row, _value_bytes(found[row - wanted[0], :])


def _value_bytes(values: Any) -> bytes:
    held = registry.on_host(values)
    return held.astype(held.dtype.newbyteorder("<"), copy=False).tobytes()
