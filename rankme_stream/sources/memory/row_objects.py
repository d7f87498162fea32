"""Rows that are objects of a column, one each: arrays of one type, or lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankme_stream.errors import MagnitudeError, SourceFormatError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import EXACT_INTEGER, Array

_NONE_TYPES = ("NoneType", "NAType", "NaTType", "float")


class RowObjects:
    """Objects, each a row, as boxes of numbers: lists become float64, arrays stay what they are.

    Parameters
    ----------
    objects
        Shape ``(n,)``, of any type: arrays or lists of one length; None, NaN or NA where a row is absent, which becomes
        a row of NaN.
    uri
        Name in errors and records.

    Raises
    ------
    SourceFormatError
        If there is no row among them, or it holds no numbers.
    """

    copies = 1
    names: Sequence[str | None] | None = None
    chunks: Sequence[Sequence[int]] | None = None
    lacking = "is not finite or has no value"

    def __init__(self, objects: Array, uri: str) -> None:
        self._objects, self.uri = objects, uri
        number = next((number for number, row in enumerate(objects) if not _is_none(row)), None)
        if number is None:
            raise SourceFormatError(f"{uri} holds no row: write some first")
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        if not isinstance(objects[number], list | tuple):
            self.dtype = self._array(number).dtype
        self.shape: tuple[int, ...] = (len(objects), len(self._numbers(number)))

    def read(self, box: tuple[slice, ...]) -> Array:
        """Return the numbers of some rows, all of one length and type."""
        rows = range(box[0].start, box[0].stop)
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        for place, number in enumerate(rows):
            if _is_none(self._objects[number]):
                if self.dtype.kind in "iu":
                    raise SourceFormatError(f"{self.uri}: row {number:,} is absent, and integers have no NaN: drop it")
                out[place] = np.nan
                continue
            found = self._numbers(number)
            if found.shape != self.shape[1:] or found.dtype != self.dtype:
                raise SourceFormatError(
                    f"{self.uri}: row {number:,} is {found.dtype} of shape {found.shape}, and others are {self.dtype} "
                    f"of shape {self.shape[1:]}: rows have one width and type; leave it out or convert it"
                )
            out[place] = found
        return out

    def stamp(self) -> None:
        """Return None: some of the numbers are hashed."""

    def _numbers(self, number: int) -> Array:
        """Return a row that is there; one of a list in float64, NaN where it holds None."""
        row = self._objects[number]
        if isinstance(row, np.ma.MaskedArray):
            raise SourceFormatError(f"{self.uri}: row {number:,} is a masked array: fill it or leave the row out first")
        found = self._array(number)
        if not isinstance(row, list | tuple):
            return found
        if found.dtype.kind == "O" and all(one is None or type(one) in (int, float) for one in row):
            found = np.array(row, np.float64)
        elif found.dtype.kind not in "iuf":
            raise self._no_numbers(number)
        if found.dtype.kind in "iu" and ((found > EXACT_INTEGER) | (found < -EXACT_INTEGER)).any():
            raise MagnitudeError(
                f"{self.uri}: row {number:,} holds integers beyond 2^53, which float64 cannot hold exactly"
            )
        return found.astype(np.float64, copy=False)

    def _array(self, number: int) -> Array:
        """Return a row as an array of one dimension on the host."""
        found = registry.adopted(self._objects[number], f"{self.uri}: row {number:,}")
        if found.device is not HOST or found.rows.ndim != 1 or found.declared is not None:
            raise self._no_numbers(number)
        rows: Array = found.rows
        return rows

    def _no_numbers(self, number: int) -> SourceFormatError:
        return SourceFormatError(
            f"{self.uri}: row {number:,} is no list or array of numbers but {type(self._objects[number]).__name__}: "
            "convert it, or name another column"
        )


def _is_none(row: Any) -> bool:
    """Return whether an object stands for an absent row: None, NaN, or what pandas has for them."""
    return type(row).__name__ in _NONE_TYPES and (not isinstance(row, float) or row != row)
