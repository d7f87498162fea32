"""Stream of blocks of rows, which can be read once and in order."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.memory.array import ArraySource
from rankme_stream.sources.memory.item_members import member_of, refuse_key
from rankme_stream.sources.memory.library_objects import blocks_of, is_object_of_rows, is_samples, rows_in_memory
from rankme_stream.sources.source import Source

_PIECE_BYTES = 8 * 2**20


class Window(ArraySource):
    """Rows of a stream that are in memory now; row numbers are those of the stream.

    Parameters
    ----------
    row_start
        Number of the first of these rows.
    """

    def __init__(self, rows: Any, row_start: int, uri: str) -> None:
        super().__init__(rows, uri)
        self.row_start = row_start
        self.shape = (row_start + self.shape[0], self.shape[1])

    def read(self, start: int, stop: int, out: Any = None) -> Any:
        """Return rows ``[start, stop)`` as stored."""
        return super().read(start - self.row_start, stop - self.row_start, out)


class BlockStream:
    """Rows of an iterable of arrays, regrouped into windows of requested length.

    Parameters
    ----------
    blocks
        Arrays of shape ``(rows, D)``, all of one width, dtype and device; of any library, or anything that
        ``numpy.asarray`` takes; frames, sparse matrices and whatever else ``open_source`` reads; tuples and dicts with
        one of these. Blocks without rows are skipped. Of a ``Dataset`` of torch, an item of one dimension is a row.
    uri
        Name in errors and records.
    key
        Name or number of the member of each block, or of its column, that holds the rows; None where there is one.

    Attributes
    ----------
    n_features, stored
        Width D and stored type, those of the first block.
    n_rows
        Number of rows returned so far.

    Raises
    ------
    SourceFormatError
        If there is no row, a block differs from the first in width, dtype or device, or has several members and none
        is named.
    UsageError
        If a block has no member of that name.
    """

    integrity = "none"

    def __init__(self, blocks: Any, uri: str = "<blocks>", *, key: str | int | None = None) -> None:
        self.uri, self._key, self._are_samples = uri, key, is_samples(blocks)
        self.n_rows = self.n_features = 0
        self._rest: Any = None
        self._first: Adopted | None = None  # possibly a block without rows
        self._first_names: Sequence[str] = ()
        self._blocks = self._checked(blocks_of(blocks))
        self._rest = next(self._blocks, None)
        if self._rest is None:
            raise SourceFormatError(f"{uri} holds no row")
        adopted = self._like_first(self._rest)
        self.device, self.stored = adopted.device, ArraySource(adopted, uri).stored

    def _like_first(self, rows: Any) -> Adopted:
        """Return rows with the device and declared type of the first block."""
        assert self._first is not None
        return self._first._replace(rows=rows)

    @property
    def _type(self) -> Any:
        """Array without rows, of the type of the first block."""
        assert self._first is not None
        return self._first.rows

    @property
    def row_bytes(self) -> int:
        """Number of bytes of a stored row."""
        return self.n_features * self.stored.dtype.itemsize

    def _checked(self, blocks: Iterable[Any]) -> Iterator[Any]:
        for number, block in enumerate(blocks):
            uri = f"{self.uri}: block {number:,}"
            for adopted in self._pieces(block, uri):
                rows = adopted.rows.view(np.uint16) if adopted.rows.dtype == "bfloat16" else adopted.rows
                if self._are_samples and rows.ndim == 1:
                    rows = rows[None, :]
                if rows.ndim != 2 or rows.shape[1] == 0:
                    raise SourceFormatError(f"{uri} has shape {tuple(rows.shape)}; (rows, features) is needed")
                self._check_like_first(adopted, rows, uri)
                if rows.shape[0]:
                    yield rows

    def _check_like_first(self, adopted: Adopted, rows: Any, uri: str) -> None:
        """Refuse a block of another width, type or device than the first."""
        if self._first is None:  # only its type is kept
            self._first = adopted._replace(rows=adopted.device.empty((0, rows.shape[1]), rows))
            self.n_features = rows.shape[1]
        first = self._first
        if _type_of(adopted) != _type_of(first) or rows.shape[1] != self.n_features:
            raise SourceFormatError(
                f"{uri} is {_type_of(adopted)} of width {rows.shape[1]:,}, and the first was {_type_of(first)} of "
                f"width {self.n_features:,}"
            )
        if adopted.device is not first.device:
            raise SourceFormatError(
                f"{uri} is on {adopted.device.name}, and the first was on {first.device.name}: bring all to one device"
            )

    def _pieces(self, block: Any, uri: str) -> Iterator[Adopted]:
        """Yield the rows of a block: an array whole, and what would be large as an array piece by piece."""
        block, key = member_of(block, self._key, uri)
        if isinstance(block, np.ma.MaskedArray):
            raise SourceFormatError(f"{uri} is a masked array: leave the masked rows out first")
        if isinstance(block, str | os.PathLike | Source):
            raise SourceFormatError(
                f"{uri} is a {type(block).__name__}, not an array: pass "
                "open_source([...]) to measure several paths or sources as one dump"
            )
        if not is_object_of_rows(block):
            refuse_key(key, uri)
            yield registry.adopted(block, uri)
            return
        if _is_empty(block):
            return
        source = rows_in_memory(block, ArrayOptions(key=key))
        assert source is not None
        name = source.stored.name
        if name not in (source.stored.dtype.name, "bfloat16"):
            raise SourceFormatError(f"{uri} holds {name} in a {type(block).__name__}: give arrays of numpy instead")
        names: Sequence[str] = getattr(source, "feature_names", ())
        self._first_names = self._first_names or names
        if other := next((pair for pair in zip(self._first_names, names, strict=False) if pair[0] != pair[1]), None):
            raise SourceFormatError(
                f"{uri} has {other[1]!r} for a feature where blocks before it have {other[0]!r}: give the columns of "
                "all blocks in one order"
            )
        for start, stop in _cuts(source):
            yield Adopted(HOST, source.read(start, stop), name)

    def take(self, n_rows: int) -> Window | None:
        """Return the next ``n_rows`` rows, or fewer at the end; None when no rows are left."""
        rows, filled = self.device.empty((n_rows, self.n_features), self._type), 0
        while filled < n_rows:
            piece = self._rest if self._rest is not None else next(self._blocks, None)
            if piece is None:
                break
            wanted = min(piece.shape[0], n_rows - filled)
            # Copied before the next block arrives, which may reuse the memory of this one.
            rows[filled : filled + wanted, :] = piece[:wanted, :]
            left = piece.shape[0] - wanted
            self._rest = self.device.xp.asarray(piece[wanted:, :], copy=True) if left else None
            filled += wanted
        if filled == 0:
            return None
        start = self.n_rows
        self.n_rows += filled
        return Window(self._like_first(rows[:filled, :]), start, self.uri)


def _is_empty(block: Any) -> bool:
    """Return whether an object of a library has no rows."""
    shape = getattr(block, "shape", None)
    return (len(block) if shape is None else shape[0] if shape else 1) == 0


def _cuts(source: Source) -> Iterator[tuple[int, int]]:
    """Yield rows [start, stop) that hold about 8 MiB, or what is read at once, until all are yielded."""
    n_rows = source.shape[0]
    bounds = source.bounds(0, n_rows)
    at_once = max(1, _PIECE_BYTES // (source.shape[1] * source.stored.dtype.itemsize))
    start = 0
    while start < n_rows:
        index = max(bisect_right(bounds, start + at_once), bisect_right(bounds, start) + 1)
        stop = bounds[index - 1] if index <= len(bounds) and start + at_once < n_rows else n_rows
        yield start, stop
        start = stop


def _type_of(block: Adopted) -> str:
    return block.declared or str(block.rows.dtype).rpartition(".")[2]
