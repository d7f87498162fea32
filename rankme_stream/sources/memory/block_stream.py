"""Stream of blocks of rows, which can be read once and in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.sources.memory.array import ArraySource
from rankme_stream.sources.source import Source


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
        ``numpy.asarray`` takes. Blocks without rows are skipped.
    uri
        Name in errors and records.

    Attributes
    ----------
    n_features, stored
        Width D and stored type, those of the first block.
    n_rows
        Number of rows returned so far.

    Raises
    ------
    SourceFormatError
        If there is no row, or a block differs from the first in width, dtype or device.
    """

    integrity = "none"

    def __init__(self, blocks: Iterable[Any], uri: str = "<blocks>") -> None:
        self.uri = uri
        self.n_rows = self.n_features = 0
        self._rest: Any = None
        self._first: Adopted | None = None  # possibly a block without rows
        self._blocks = self._checked(blocks)
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
            if isinstance(block, np.ma.MaskedArray):
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is a masked array: leave the masked rows out first"
                )
            if isinstance(block, str | os.PathLike | Source):
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is a {type(block).__name__}, not an array: pass "
                    "open_source([...]) to measure several paths or sources as one dump"
                )
            adopted = registry.adopted(block, f"{self.uri}: block {number:,}")
            rows = adopted.rows.view(np.uint16) if adopted.rows.dtype == "bfloat16" else adopted.rows
            if rows.ndim != 2 or rows.shape[1] == 0:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} has shape {tuple(rows.shape)}; (rows, features) is needed"
                )
            if self._first is None:  # only its type is kept
                self._first = adopted._replace(rows=adopted.device.empty((0, rows.shape[1]), rows))
                self.n_features = rows.shape[1]
            first = self._first
            if _type_of(adopted) != _type_of(first) or rows.shape[1] != self.n_features:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is {_type_of(adopted)} of width {rows.shape[1]:,}, "
                    f"and the first was {_type_of(first)} of width {self.n_features:,}"
                )
            if adopted.device is not first.device:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is on {adopted.device.name}, and the first was on "
                    f"{first.device.name}: bring all to one device"
                )
            if rows.shape[0]:
                yield rows

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


def _type_of(block: Adopted) -> str:
    return block.declared or str(block.rows.dtype).rpartition(".")[2]
