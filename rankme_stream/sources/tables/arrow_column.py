"""A column of an Arrow file or stream: numbers are read from the file where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.arrow_buffers import BatchReader, column_batches
from rankme_stream.sources.tables.arrow_fields import FieldPlace
from rankme_stream.sources.tables.arrow_messages import Batch
from rankme_stream.sources.tables.columns import Column
from rankme_stream.sources.tables.list_values import RowValues

_AT_ONCE = 2**20  # bytes of values of rows that are read with what is null in them
_ROWS_TRIED = 2**12


class _Entries(NamedTuple):
    """Entries of a level, from one on, and which are null because what holds them is."""

    depth: int
    begin: int
    n_entries: int
    is_null: Array | None = None


class ArrowColumn:
    """Column of an Arrow file; any rows of it can be read, by several threads at once.

    Parameters
    ----------
    place
        Where it lies in every batch.
    batches
        Batches of the file.

    Attributes
    ----------
    widths
        Lengths of the lists of a row, the outermost first; empty for a number a row.

    Raises
    ------
    SourceFormatError
        If no row has a value.
    CorruptChunkError
        If a batch is not what the schema says.
    """

    def __init__(self, file: StoredFile, column: Column, place: FieldPlace, batches: Sequence[Batch]) -> None:
        self.uri, self._file, self._levels = f"{file.uri}::{column.name}", file, place.levels
        self._n_above = len(column.path) - 1  # structures that hold it
        self._batches = column_batches(batches, place, self.uri)
        n_rows = sum(batch.n_rows for batch in batches)
        self._starts = np.array([batch.first_row for batch in self._batches] + [n_rows])
        assert column.dtype is not None  # of columns that were chosen
        self._dtype = column.dtype
        self.widths = column.widths if -1 not in column.widths else self._found_widths()
        self._row_values = prod(self.widths)

    @property
    def edges(self) -> Array:
        """First row of each batch, and the end; shape ``(batches + 1,)``."""
        return self._starts

    @property
    def is_direct(self) -> bool:
        """Whether a read may begin at any row: nothing is compressed."""
        return all(batch.codec is None for batch in self._batches)

    @property
    def memory(self) -> int:
        """Most bytes that reading takes beside its result."""
        largest = max((batch.most_bytes for batch in self._batches), default=0)
        return largest + 16 * max(_AT_ONCE, self._row_values * self._dtype.itemsize)

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""
        return sum(batch.n_stored for batch in self._batches)

    def write(self, start: int, stop: int, out: Array, values: RowValues) -> None:
        """Write rows [start, stop) into ``out``.

        Raises
        ------
        SourceFormatError, CorruptChunkError, StorageError, SourcePermissionError
            If a row is of another width, what is stored is damaged, or the storage fails.
        """
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        row = start
        with self._file.opened() as file:
            while row < stop:
                batch = self._batches[number]
                end = min(stop, batch.first_row + batch.n_rows)
                self._write(BatchReader(file, batch), row, out[row - start : end - start], values)
                row, number = end, number + 1

    def _write(self, reader: BatchReader, row: int, out: Array, values: RowValues) -> None:
        """Write rows of a batch, at once where they are dense, or by way of arrays of Arrow where some are null."""
        first = row - reader.batch.first_row
        if reader.has_nulls or not out.flags.c_contiguous:
            step = max(1, _AT_ONCE // max(1, self._row_values * self._dtype.itemsize))
            for low in range(0, len(out), step):
                some = out[low : low + step]
                entries = _Entries(0, first + low, len(some))
                values.write(self._array(reader, entries, row + low, values), some, row + low)
            return
        begin, n_entries = first, len(out)
        for depth, width in enumerate(self.widths, self._n_above):
            kind = self._levels[depth].type
            if pa.types.is_fixed_size_list(kind):
                begin *= int(kind.list_size)
            else:
                edges = reader.offsets(depth, begin, n_entries)
                if (wrong := np.flatnonzero(np.diff(edges) != width)).size:
                    at = int(wrong[0])
                    raise values.odd(row + at * len(out) // n_entries, int(edges[at + 1] - edges[at]), width)
                begin = int(edges[0])
            n_entries *= width
        reader.numbers_into(len(self._levels) - 1, begin, out)

    def _array(self, reader: BatchReader, at: _Entries, row: int, values: RowValues) -> Any:
        """Return entries of a level as an array of Arrow, with what is null in them."""
        depth, begin, n_entries, _ = at
        kind, is_null = self._levels[depth].type, _either(at.is_null, reader.nulls(depth, begin, n_entries))
        if depth == len(self._levels) - 1:
            held = np.empty(n_entries, self._dtype)
            reader.numbers_into(depth, begin, held)
            return pa.array(held, mask=is_null)
        if pa.types.is_struct(kind):
            return self._array(reader, _Entries(depth + 1, begin, n_entries, is_null), row, values)
        if pa.types.is_fixed_size_list(kind):
            size = int(kind.list_size)
            inner = self._array(reader, _Entries(depth + 1, begin * size, n_entries * size), row, values)
            return pa.FixedSizeListArray.from_arrays(inner, size, mask=None if is_null is None else pa.array(is_null))
        edges = reader.offsets(depth, begin, n_entries)
        width, first = self.widths[depth - self._n_above], int(edges[0])
        if (np.diff(edges) < 0).any():
            raise reader.damaged("lists end before they begin")
        if edges[-1] - first > n_entries * width:
            at_most = int(np.argmax(np.diff(edges)))
            raise values.odd(
                row + at_most // prod(self.widths[: depth - self._n_above]), int(np.diff(edges).max()), width
            )
        inner = self._array(reader, _Entries(depth + 1, first, int(edges[-1]) - first), row, values)
        mask = None if is_null is None else pa.array(is_null)
        return pa.LargeListArray.from_arrays(pa.array(edges - first, pa.int64()), inner, mask=mask)

    def _found_widths(self) -> tuple[int, ...]:
        """Return the lengths of the lists of the first row that has values."""
        with self._file.opened() as file:
            for batch in self._batches:
                reader = BatchReader(file, batch)
                for low in range(0, batch.n_rows, _ROWS_TRIED):
                    found = self._first_widths(reader, low, min(_ROWS_TRIED, batch.n_rows - low))
                    if found is not None:
                        return found
        raise SourceFormatError(f"{self.uri} has no row with values, so that there is no width to read")

    def _first_widths(self, reader: BatchReader, begin: int, n_entries: int) -> tuple[int, ...] | None:
        widths: list[int] = []
        for depth in range(self._n_above, len(self._levels) - 1):
            kind = self._levels[depth].type
            if pa.types.is_fixed_size_list(kind):
                widths.append(int(kind.list_size))
                begin, n_entries = begin * widths[-1], widths[-1]
                continue
            edges = reader.offsets(depth, begin, n_entries)
            filled = np.flatnonzero(np.diff(edges) > 0)
            if not filled.size:
                return None
            begin, end = (int(edge) for edge in edges[filled[0] : filled[0] + 2])
            n_entries = end - begin
            widths.append(n_entries)
        return tuple(widths)


def _either(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    either: Array = np.logical_or(first, second)
    return either
