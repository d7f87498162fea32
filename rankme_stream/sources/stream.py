"""Rows that come once, in blocks, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rankme_stream.arrays import Array
from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.memory import ArraySource


class Window(ArraySource):
    """Rows of a stream that are held at the moment; row numbers are those of the stream.

    Parameters
    ----------
    row_start
        Number of the first of them.
    """

    def __init__(self, rows: Array, row_start: int, uri: str) -> None:
        super().__init__(rows, uri)
        self.row_start = row_start
        self.shape = (row_start + len(rows), rows.shape[1])

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)`` as stored."""
        return super().read(start - self.row_start, stop - self.row_start, out)


class BlockStream:
    """Arrays of rows from an iterable, cut anew.

    Parameters
    ----------
    blocks
        Of shape ``(rows, D)``, all of one width and dtype; anything ``numpy.asarray`` takes. Blocks of no row are
        passed over.
    uri
        Named in errors and records.

    Attributes
    ----------
    n_features, stored
        Width D and stored type, of the first block.
    n_rows
        Rows given out so far.

    Raises
    ------
    SourceFormatError
        If no row comes, or a block is not of the shape or dtype of the first.
    """

    integrity = "none"

    def __init__(self, blocks: Iterable[Any], uri: str = "<blocks>") -> None:
        self.uri = uri
        self.n_rows = self.n_features = 0
        self._rest: Array | None = None
        self._dtype: np.dtype[Any] | None = None
        self._blocks = self._checked(blocks)
        first = next(self._blocks, None)
        if first is None:
            raise SourceFormatError(f"{uri} holds no row")
        self._rest = first
        self.stored = ArraySource(first, uri).stored

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored."""
        return self.n_features * self.stored.dtype.itemsize

    def _checked(self, blocks: Iterable[Any]) -> Iterator[Array]:
        for number, block in enumerate(blocks):
            if isinstance(block, np.ma.MaskedArray):
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is a masked array: leave the masked rows out first"
                )
            rows = np.asarray(block)
            if rows.ndim != 2 or rows.shape[1] == 0:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} has shape {rows.shape}; (rows, features) is needed"
                )
            if self._dtype is None:
                self._dtype, self.n_features = rows.dtype, rows.shape[1]
            elif rows.dtype != self._dtype or rows.shape[1] != self.n_features:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is {rows.dtype} of width {rows.shape[1]:,}, and the first was "
                    f"{self._dtype} of width {self.n_features:,}"
                )
            if len(rows):
                yield rows

    def take(self, n_rows: int) -> Window | None:
        """Return the next rows, as many as asked for and fewer at the end; None when there are none left."""
        rows, filled = np.empty((n_rows, self.n_features), self._dtype), 0
        while filled < n_rows:
            piece = self._rest if self._rest is not None else next(self._blocks, None)
            if piece is None:
                break
            wanted = min(len(piece), n_rows - filled)
            rows[filled : filled + wanted] = piece[:wanted]  # before the next block comes, perhaps in the same memory
            self._rest = piece[wanted:].copy() if wanted < len(piece) else None
            filled += wanted
        if filled == 0:
            return None
        start = self.n_rows
        self.n_rows += filled
        return Window(rows[:filled], start, self.uri)
