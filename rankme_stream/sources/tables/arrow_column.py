"""A column of an Arrow file or stream: numbers are read from the file where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile
from rankme_stream.sources.tables.arrow_fields import FieldPlace, Level
from rankme_stream.sources.tables.arrow_messages import Batch
from rankme_stream.sources.tables.columns import Column
from rankme_stream.sources.tables.list_values import RowValues

_AT_ONCE = 2**20  # bytes of values of rows that are read with what is null in them
_ROWS_TRIED = 2**12
_SLACK = 2**12  # bytes that a compressed buffer may hold beside what is in use


class _Held(NamedTuple):
    """What is kept of a batch for a column.

    Attributes
    ----------
    first_row, n_rows
        Rows of the table.
    spans
        Bytes [start, stop) of the file of each buffer of the levels; a list for each level.
    nodes
        Entries, and nulls, of each level.
    codec
        Compression.
    """

    first_row: int
    n_rows: int
    spans: tuple[tuple[tuple[int, int], ...], ...]
    nodes: tuple[tuple[int, int], ...]
    codec: str | None


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
        self._batches: list[_Held] = []
        row = 0
        for batch in batches:
            if batch.n_rows:
                self._batches.append(self._held(batch, place, row))
            row += batch.n_rows
        self._starts = np.array([batch.first_row for batch in self._batches] + [row])
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
        largest = 0
        for batch in self._batches:
            if batch.codec is not None:
                stored = sum(stop - start for spans in batch.spans for start, stop in spans)
                largest = max(largest, stored + 2 * sum(self._buffer_bytes(batch)) + 2 * _SLACK * len(self._levels))
        return largest + 16 * max(_AT_ONCE, self._row_values * self._dtype.itemsize)

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""
        return sum(stop - start for batch in self._batches for spans in batch.spans for start, stop in spans)

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
                self._write(_BatchReader(file, batch, self), row, out[row - start : end - start], values)
                row, number = end, number + 1

    def _write(self, reader: _BatchReader, row: int, out: Array, values: RowValues) -> None:
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

    def _array(self, reader: _BatchReader, at: _Entries, row: int, values: RowValues) -> Any:
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

    def _held(self, batch: Batch, place: FieldPlace, row: int) -> _Held:
        """Return what is kept of a batch; refuse one that is not what the schema says."""
        shift = int(batch.n_views[: place.n_views].sum())
        n_buffers = place.n_buffers + int(batch.n_views.sum())
        if len(batch.nodes) != place.n_nodes or len(batch.buffers) != n_buffers:
            raise CorruptChunkError(
                f"{self.uri}: the batch from row {row:,} on has {len(batch.nodes)} fields and {len(batch.buffers)} "
                f"buffers where the schema has {place.n_nodes} and {n_buffers}: write the file again"
            )
        spans = []
        for level in place.levels:
            n_of_level = 1 if pa.types.is_struct(level.type) or pa.types.is_fixed_size_list(level.type) else 2
            found = batch.buffers[level.buffer + shift : level.buffer + shift + n_of_level]
            spans.append(tuple((batch.body + int(at), batch.body + int(at) + int(size)) for at, size in found))
        nodes = tuple((int(batch.nodes[level.node, 0]), int(batch.nodes[level.node, 1])) for level in place.levels)
        if nodes[0][0] != batch.n_rows:
            raise CorruptChunkError(
                f"{self.uri}: the batch from row {row:,} on has {batch.n_rows:,} rows, and {nodes[0][0]:,} of this "
                "column: write the file again"
            )
        return _Held(row, batch.n_rows, tuple(spans), nodes, batch.codec)

    def _buffer_bytes(self, batch: _Held) -> list[int]:
        """Return the bytes of the buffers of a batch without compression."""
        found = []
        for level, (n_entries, _) in zip(self._levels, batch.nodes, strict=True):
            found += [-(-n_entries // 8), (n_entries + 1) * _width(level)]
        return found

    def _found_widths(self) -> tuple[int, ...]:
        """Return the lengths of the lists of the first row that has values."""
        with self._file.opened() as file:
            for batch in self._batches:
                reader = _BatchReader(file, batch, self)
                for low in range(0, batch.n_rows, _ROWS_TRIED):
                    found = self._first_widths(reader, low, min(_ROWS_TRIED, batch.n_rows - low))
                    if found is not None:
                        return found
        raise SourceFormatError(f"{self.uri} has no row with values, so that there is no width to read")

    def _first_widths(self, reader: _BatchReader, begin: int, n_entries: int) -> tuple[int, ...] | None:
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


class _BatchReader:
    """Buffers of a column in a batch, read from the file, or decompressed once and kept."""

    def __init__(self, file: OpenFile, batch: _Held, column: ArrowColumn) -> None:
        self.batch, self._file, self._column = batch, file, column
        self.has_nulls = any(n_null for _, n_null in batch.nodes)
        self._decompressed: dict[tuple[int, int], Array] = {}

    def offsets(self, depth: int, begin: int, n_entries: int) -> Array:
        """Return where the lists of entries begin, and the last ends; shape ``(entries + 1,)``, int64."""
        width = _width(self._column._levels[depth])
        edges = np.empty(n_entries + 1, np.dtype(f"<i{width}"))
        if self.batch.nodes[depth][0]:
            self._fill(depth, 1, begin * width, edges)
        else:
            edges[...] = 0
        if edges[0] < 0:
            raise self.damaged("a list begins before the first value")
        return edges.astype(np.int64)

    def numbers_into(self, depth: int, begin: int, out: Array) -> None:
        """Read numbers."""
        if begin + out.size > self.batch.nodes[depth][0]:
            raise self.damaged("a list ends behind the last value")
        if out.size:
            self._fill(depth, 1, begin * out.itemsize, out)

    def nulls(self, depth: int, begin: int, n_entries: int) -> Array | None:
        """Return which entries are null; None if none is."""
        if not self.batch.nodes[depth][1] or not n_entries:
            return None
        bits = np.empty(-(-(begin + n_entries) // 8) - begin // 8, np.uint8)
        self._fill(depth, 0, begin // 8, bits)
        is_null: Array = np.unpackbits(bits, bitorder="little")[begin % 8 :][:n_entries] == 0
        return is_null

    def damaged(self, fault: str) -> CorruptChunkError:
        """Return the error for a batch that contradicts itself."""
        first, n_rows = self.batch.first_row, self.batch.n_rows
        return CorruptChunkError(
            f"{self._column.uri} is damaged in rows {first:,}-{first + n_rows - 1:,}: {fault}; copy or write it again"
        )

    def _fill(self, depth: int, number: int, at: int, out: Array) -> None:
        """Read bytes of a buffer from an offset in it."""
        start, stop = self.batch.spans[depth][number]
        if self.batch.codec is None:
            if start + at + out.nbytes > stop:
                raise self.damaged("a buffer is too short")
            self._file.read_into(out, start + at, f"rows from {self.batch.first_row:,} on")
            return
        whole = self._decompressed.get((depth, number))
        if whole is None:
            whole = self._decompressed[depth, number] = self._decompress(depth, number)
        if at + out.nbytes > len(whole):
            raise self.damaged("a buffer is too short")
        out.reshape(-1).view(np.uint8)[...] = whole[at : at + out.nbytes]

    def _decompress(self, depth: int, number: int) -> Array:
        """Return a buffer without its compression, if it is of the size that its entries take."""
        start, stop = self.batch.spans[depth][number]
        if stop - start < 8:
            raise self.damaged("a buffer is too short")
        stored = np.empty(stop - start, np.uint8)
        self._file.read_into(stored, start, f"rows from {self.batch.first_row:,} on")
        size = int(stored[:8].view("<i8")[0])
        if size == -1:
            return stored[8:]
        most = self._column._buffer_bytes(self.batch)[2 * depth + number]
        if not 0 <= size <= 2 * most + _SLACK:
            raise self.damaged(f"a buffer states {size:,} bytes where {most:,} are expected")
        try:
            found = pa.decompress(pa.py_buffer(stored[8:]), decompressed_size=size, codec=self.batch.codec)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(f"a buffer cannot be decompressed ({' '.join(str(error).split())})") from error
        return np.frombuffer(found, np.uint8)


def _either(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    either: Array = np.logical_or(first, second)
    return either


def _width(level: Level) -> int:
    """Return the bytes of an entry: of its offset, or of its number."""
    kind = level.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 8 if pa.types.is_large_list(kind) else 4
    return 0 if kind.num_fields else int(kind.bit_width) // 8
