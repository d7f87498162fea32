"""A hash of a few decoded rows, which tells one dump from another where storage looks alike."""

from __future__ import annotations

from bisect import bisect_right
from hashlib import blake2b
from itertools import groupby

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
    rows, bounds = sorted({start, stop - 1, *numbers.tolist()}), source.bounds(start, stop)
    digest = blake2b(f"{source.stored.name} {source.shape[1]} {rows}".encode(), digest_size=16)
    for _, unit in groupby(rows, key=lambda row: bisect_right(bounds, row)):
        wanted = list(unit)
        found = source.read(wanted[0], wanted[-1] + 1)
        for row in wanted:
            values = registry.on_host(found[row - wanted[0], :])
            digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
