"""Values of lists of Arrow as rows of an array: their buffers where they lie, never objects of Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rankme_stream.errors import SourceFormatError, argument
from rankme_stream.numerics.dtypes import Array


class RowValues(NamedTuple):
    """Where the values of rows go, and what stands for those that are null.

    Attributes
    ----------
    widths
        Lengths of the lists of a row, the outermost first; empty for a number a row.
    null
        Number that is written for a null; None where none stands for it.
    uri
        Name of the column in errors.
    """

    widths: tuple[int, ...]
    null: float | None
    uri: str

    def write(self, rows: Any, out: Array, first: int) -> None:
        """Write the rows of an array of Arrow.

        Parameters
        ----------
        rows
            Array of numbers, or of lists of them.
        out
            Shape ``(rows, values)``, written throughout.
        first
            Number of the first row, for errors.

        Raises
        ------
        SourceFormatError
            If a list is of another length, or a value is null and nothing stands for it.
        """
        values = rows
        for width in self.widths:
            inner = _all_of_width(values, width)
            if inner is None:
                self._write_some(rows, out, first)
                return
            values = inner
        if values.null_count:
            self._write_some(rows, out, first)
            return
        out[...] = numbers(values).reshape(out.shape)

    def odd(self, row: int, length: int, width: int) -> SourceFormatError:
        """Return the error for a row with a list of another length."""
        return SourceFormatError(
            f"{self.uri}: row {row:,} holds a list of {length:,} values where {width:,} are expected, and all rows "
            "must be alike: leave it out or fill it up"
        )

    def _write_some(self, rows: Any, out: Array, first: int) -> None:
        """Write rows of which some are null, or hold nulls, or are of another width."""
        flat, size = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype), 1
        values, places = rows, np.arange(len(rows))
        for width in self.widths:
            places, values = _present(values, places)
            lengths = _lengths(values)
            if (wrong := np.flatnonzero(lengths != width)).size:
                raise self.odd(first + int(places[wrong[0]]) // size, int(lengths[wrong[0]]), width)
            values = values.flatten()
            places = (places[:, None] * width + np.arange(width)).reshape(-1)
            size *= width
        places, values = _present(values, places)
        if len(places) < len(flat):
            is_null = np.ones(len(flat), bool)
            is_null[places] = False
            if self.null is None:
                row = first + int(np.argmax(is_null)) // max(1, size)
                raise SourceFormatError(
                    f"{self.uri}: row {row:,} is null or holds a null, which {out.dtype} cannot hold: give "
                    f"{argument('nodata')} with a number that stands for no data, or leave the row out"
                )
            flat[is_null] = self.null
        flat[places] = numbers(values)
        if not out.flags.c_contiguous:
            out[...] = flat.reshape(out.shape)


def numbers(values: Any) -> Array:
    """Return the numbers of an array of Arrow without nulls, where they lie."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    if not len(values):
        return np.empty(0, dtype)
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def storage_of(values: Any) -> Any:
    """Return an array of Arrow without its extension type."""
    while isinstance(values, pa.ExtensionArray):
        values = values.storage
    return values


def first_widths(rows: Any, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the lengths of the lists of the first row that is not null, -1 in ``shape`` where they are not known.

    None where every row is null or empty.
    """
    widths: list[int] = []
    values = rows
    for _ in shape:
        _, values = _present(storage_of(values), np.arange(len(values)))
        lengths = _lengths(values)
        filled = np.flatnonzero(lengths)
        if not filled.size:
            return None
        widths.append(int(lengths[filled[0]]))
        values = values[int(filled[0]) : int(filled[0]) + 1].flatten()
    return tuple(widths)


def _all_of_width(values: Any, width: int) -> Any:
    """Return the values of lists that are all of one width and not null; None where they are not."""
    if values.null_count:
        return None
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten() if values.type.list_size == width else None
    offsets = values.offsets
    edges = np.frombuffer(
        offsets.buffers()[1], offsets.type.to_pandas_dtype(), len(offsets), offsets.offset * offsets.type.byte_width
    )
    if not (np.diff(edges) == width).all():
        return None
    return values.values.slice(int(edges[0]), len(values) * width)


def _present(values: Any, places: Array) -> tuple[Array, Any]:
    """Return the entries that are not null, and their places."""
    if not values.null_count:
        return places, values
    is_valid = values.is_valid()
    return places[is_valid.to_numpy(zero_copy_only=False)], values.filter(is_valid)


def _lengths(lists: Any) -> Array:
    """Return the length of each list, of lists that are not null."""
    if pa.types.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size)
    return np.diff(np.asarray(lists.offsets))
