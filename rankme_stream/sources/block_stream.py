"""Rows that come once, in blocks, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.sources.array import ArraySource


class Window(ArraySource):
    """Rows of a stream that are held at the moment; row numbers are those of the stream.

    Parameters
    ----------
    row_start
        Number of the first of them.
    """

    def __init__(self, rows: Any, row_start: int, uri: str) -> None:
        super().__init__(rows, uri)
        self.row_start = row_start
        self.shape = (row_start + self.shape[0], self.shape[1])

    def read(self, start: int, stop: int, out: Any = None) -> Any:
        """Return rows ``[start, stop)`` as stored."""
        return super().read(start - self.row_start, stop - self.row_start, out)


class BlockStream:
    """Arrays of rows from an iterable, cut anew.

    Parameters
    ----------
    blocks
        Of shape ``(rows, D)``, all of one width, dtype and device; arrays of any library, and anything
        ``numpy.asarray`` takes. Blocks of no row are passed over.
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
        If no row comes, or a block is not of the width, dtype and device of the first.
    """

    integrity = "none"

    def __init__(self, blocks: Iterable[Any], uri: str = "<blocks>") -> None:
        self.uri = uri
        self.n_rows = self.n_features = 0
        self._rest: Any = None
        self._first: Adopted | None = None  # and a block of no row may be it
        self._blocks = self._checked(blocks)
        self._rest = next(self._blocks, None)
        if self._rest is None:
            raise SourceFormatError(f"{uri} holds no row")
        held = self._as_held(self._rest)
        self.device, self.stored = held.device, ArraySource(held, uri).stored

    def _as_held(self, rows: Any) -> Adopted:
        """Return rows as the first block was held."""
        assert self._first is not None
        return self._first._replace(rows=rows)

    @property
    def _type(self) -> Any:
        """No rows, of the type of the first block."""
        assert self._first is not None
        return self._first.rows

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored."""
        return self.n_features * self.stored.dtype.itemsize

    def _checked(self, blocks: Iterable[Any]) -> Iterator[Any]:
        for number, block in enumerate(blocks):
            if isinstance(block, np.ma.MaskedArray):
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is a masked array: leave the masked rows out first"
                )
            here = registry.adopted(block, f"{self.uri}: block {number:,}")
            rows = here.rows.view(np.uint16) if here.rows.dtype == "bfloat16" else here.rows
            if rows.ndim != 2 or rows.shape[1] == 0:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} has shape {tuple(rows.shape)}; (rows, features) is needed"
                )
            if self._first is None:  # its type alone is kept
                self._first = here._replace(rows=here.device.empty((0, rows.shape[1]), rows))
                self.n_features = rows.shape[1]
            first = self._first
            if _type_of(here) != _type_of(first) or rows.shape[1] != self.n_features:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is {_type_of(here)} of width {rows.shape[1]:,}, and the first was "
                    f"{_type_of(first)} of width {self.n_features:,}"
                )
            if here.device is not first.device:
                raise SourceFormatError(
                    f"{self.uri}: block {number:,} is on {here.device.name}, and the first was on {first.device.name}: "
                    "bring all to one device"
                )
            if rows.shape[0]:
                yield rows

    def take(self, n_rows: int) -> Window | None:
        """Return the next rows, as many as asked for and fewer at the end; None when there are none left."""
        rows, filled = self.device.empty((n_rows, self.n_features), self._type), 0
        while filled < n_rows:
            piece = self._rest if self._rest is not None else next(self._blocks, None)
            if piece is None:
                break
            wanted = min(piece.shape[0], n_rows - filled)
            rows[filled : filled + wanted, :] = piece[:wanted, :]  # before the next comes, perhaps in the same memory
            left = piece.shape[0] - wanted
            self._rest = self.device.xp.asarray(piece[wanted:, :], copy=True) if left else None
            filled += wanted
        if filled == 0:
            return None
        start = self.n_rows
        self.n_rows += filled
        return Window(self._as_held(rows[:filled, :]), start, self.uri)


def _type_of(block: Adopted) -> str:
    return block.declared or str(block.rows.dtype).rpartition(".")[2]
