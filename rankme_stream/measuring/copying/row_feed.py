"""Rows to be copied, in batches: those of a source, read by any thread, or those of a stream of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from rankme_stream.errors import MissingChunksError, UsageError, argument
from rankme_stream.measuring.request import Request
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, StoredType
from rankme_stream.passes.loop.block_reader import BlockReader
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.workload import Concurrency
from rankme_stream.sources import BlockStream, Source
from rankme_stream.sources.storage import storage_of

_SAMPLED = 4  # places of a source that show whether compressing pays

Read = Callable[[], Array]  # returns the rows of a batch in memory of their own, as they are stored


class RowFeed(Protocol):
    """Rows to be copied.

    Attributes
    ----------
    uri, n_features, stored
        Name, width and type of the rows.
    n_rows
        Number of rows; None if it is not known before the last.
    is_stored
        Whether they can be read again.
    """

    is_stored: bool

    uri: str
    n_features: int
    stored: StoredType
    n_rows: int | None

    @property
    def bytes_stored(self) -> int | None:
        """Bytes that all rows are stored in, once ``origin`` was asked; None where that is not known."""

    def origin(self) -> dict[str, Any]:
        """Return what the rows are, as JSON types that are equal for equal rows only; empty where nothing tells."""

    def sample(self, n_rows: int) -> list[Array]:
        """Return rows from some places, at most so many from each."""

    def batches(self, start: int, batch_rows: int, concurrency: Concurrency) -> Iterator[Read]:
        """Yield what reads one batch after another from row ``start`` on; the last batch may be shorter."""

    def close(self) -> None:
        """Read nothing more."""


class StoredFeed:
    """Rows [A, B) of a source.

    Raises
    ------
    UsageError
        If the source has no such rows.
    """

    is_stored = True

    def __init__(self, source: Source, request: Request) -> None:
        self.uri, self.n_features, self.stored, self.source = source.uri, source.shape[1], source.stored, source
        self.rows = request.row_range(source.shape[0])
        self.n_rows: int | None = self.rows[1] - self.rows[0]
        self._device = getattr(source, "device", HOST)
        self._blocks: BlockReader | None = None

    @property
    def bytes_stored(self) -> int | None:
        """Bytes that all rows are stored in, as ``origin`` found; None of a part of them, and where unknown."""
        return storage_of(self.source).n_bytes if self.n_rows == self.source.shape[0] else None

    def origin(self) -> dict[str, Any]:
        """Return a digest of the rows' fingerprint, of which they are, and of what they mean."""
        found = self.source.fingerprint(*self.rows)
        self._refuse_missing(*self.rows)
        digest = blake2b(f"{found} {self.source.identity()}".encode(), digest_size=16)
        return {"fingerprint": digest.hexdigest(), "rows": list(self.rows), "dtype": self.stored.name}

    def sample(self, n_rows: int) -> list[Array]:
        """Return rows from places that lie evenly apart."""
        start, stop = self.rows
        places = sorted({start + (stop - start) * number // _SAMPLED for number in range(_SAMPLED)})
        return [self._read(low, min(stop, low + n_rows)) for low in places]

    def batches(self, start: int, batch_rows: int, concurrency: Concurrency) -> Iterator[Read]:
        """Yield what reads one batch after another; each block of the source is read once."""
        first, stop = self.rows[0] + start, self.rows[1]
        ranges = block_ranges(self.source.bounds(*self.rows), first, stop, batch_rows, stop)
        self._blocks = BlockReader(self.source, concurrency, ranges, refuse_missing=False)
        for low in range(first, stop, batch_rows):
            yield partial(self._gather, low, min(stop, low + batch_rows))

    def close(self) -> None:
        """Read nothing more, and do not wait for reads under way."""
        if self._blocks is not None:
            self._blocks.close()

    def _gather(self, start: int, stop: int) -> Array:
        assert self._blocks is not None
        rows = np.empty((stop - start, self.n_features), self.stored.dtype)
        for first, piece in self._blocks.rows(start, stop):
            rows[first - start : first - start + len(piece)] = self._held(piece)
        self._refuse_missing(start, stop)
        return rows

    def _read(self, start: int, stop: int) -> Array:
        rows = self._held(self.source.read(start, stop))
        self._refuse_missing(start, stop)
        return rows

    def _held(self, rows: Any) -> Array:
        """Return rows on the host."""
        return self.stored.as_held(self._device.download(rows))

    def _refuse_missing(self, start: int, stop: int) -> None:
        for first, last in self.source.missing(start, stop):
            raise MissingChunksError(
                f"{self.uri}: chunk {self.source.first_missing} (rows {first:,}-{last - 1:,}) is missing, "
                f"{self.source.chunks_missing:,} in all, and a copy would hold numbers there: write them, or give "
                f"{argument('rows')} to copy others"
            )


class StreamFeed:
    """Rows of a stream of blocks, which are read once."""

    is_stored = False
    bytes_stored: int | None = None

    def __init__(self, blocks: Any, request: Request) -> None:
        if request.rows is not None:
            raise UsageError(f"{argument('rows')} is for rows that are stored, and a stream of blocks is read in order")
        self._stream = BlockStream(blocks, key=request.key)
        self.n_rows: int | None = None
        self.uri, self.n_features, self.stored = self._stream.uri, self._stream.n_features, self._stream.stored
        self._first = self._take(0)

    def origin(self) -> dict[str, Any]:
        """Return nothing: a stream is read once."""
        return {}

    def sample(self, n_rows: int) -> list[Array]:
        """Return the first rows."""
        self._first = self._take(n_rows)
        return [self._first]

    def batches(self, start: int, batch_rows: int, concurrency: Concurrency) -> Iterator[Read]:
        """Yield what returns one batch after another, taken from the stream by the thread that iterates."""
        rows = np.concatenate([self._first, self._take(batch_rows - len(self._first))])
        while len(rows):
            yield partial(np.asarray, rows)
            rows = self._take(batch_rows)

    def close(self) -> None:
        """Do nothing: only the caller reads."""

    def _take(self, n_rows: int) -> Array:
        window = self._stream.take(n_rows) if n_rows else None
        if window is None:
            return np.empty((0, self.n_features), self.stored.dtype)
        return self.stored.as_held(self._stream.device.download(window.read(window.row_start, window.shape[0])))
