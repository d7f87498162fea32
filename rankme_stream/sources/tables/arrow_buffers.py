"""Buffers of a column in a batch of Arrow, read from the file, or decompressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rankme_stream.errors import CorruptChunkError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.stored_file import OpenFile
from rankme_stream.sources.tables.arrow_fields import FieldPlace, Level
from rankme_stream.sources.tables.arrow_messages import Batch

_SLACK = 2**12  # bytes that a compressed buffer may hold beside what is in use


class ColumnBatch(NamedTuple):
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
    levels
        Levels of the column.
    uri
        Name of the column in errors.
    """

    first_row: int
    n_rows: int
    spans: tuple[tuple[tuple[int, int], ...], ...]
    nodes: tuple[tuple[int, int], ...]
    codec: str | None
    levels: tuple[Level, ...]
    uri: str

    @property
    def n_stored(self) -> int:
        """Bytes as stored."""
        return sum(stop - start for spans in self.spans for start, stop in spans)

    @property
    def most_bytes(self) -> int:
        """Most bytes that its buffers take, with what they are decompressed from; 0 where nothing is compressed."""
        if self.codec is None:
            return 0
        return self.n_stored + sum(2 * n_bytes + _SLACK for n_bytes in self.buffer_bytes())

    def buffer_bytes(self) -> list[int]:
        """Return the bytes of the buffers without compression: two for each level."""
        found = []
        for level, (n_entries, _) in zip(self.levels, self.nodes, strict=True):
            found += [-(-n_entries // 8), (n_entries + 1) * entry_bytes(level)]
        return found


def column_batches(batches: Sequence[Batch], place: FieldPlace, uri: str) -> list[ColumnBatch]:
    """Return what is kept of the batches that have rows; one that contradicts the schema raises CorruptChunkError."""
    found, row = [], 0
    for batch in batches:
        checked = _column_batch(batch, place, row, uri)  # of no rows, too: they may be lost
        if batch.n_rows:
            found.append(checked)
        row += batch.n_rows
    return found


def _column_batch(batch: Batch, place: FieldPlace, row: int, uri: str) -> ColumnBatch:
    """Return what is kept of a batch; refuse one that is not what the schema says."""
    shift = int(batch.n_views[: place.n_views].sum())
    n_buffers = place.n_buffers + int(batch.n_views.sum())
    if len(batch.nodes) != place.n_nodes or len(batch.buffers) != n_buffers:
        raise CorruptChunkError(
            f"{uri}: the batch from row {row:,} on has {len(batch.nodes)} fields and {len(batch.buffers)} "
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
            f"{uri}: the batch from row {row:,} on has {batch.n_rows:,} rows, and {nodes[0][0]:,} of this "
            "column: write the file again"
        )
    return ColumnBatch(row, batch.n_rows, tuple(spans), nodes, batch.codec, place.levels, uri)


class BatchReader:
    """Buffers of a column in a batch, read from the file, or decompressed once and kept."""

    def __init__(self, file: OpenFile, batch: ColumnBatch) -> None:
        self.batch, self._file = batch, file
        self.has_nulls = any(n_null for _, n_null in batch.nodes)
        self._decompressed: dict[tuple[int, int], Array] = {}

    def offsets(self, depth: int, begin: int, n_entries: int) -> Array:
        """Return where the lists of entries begin, and the last ends; shape ``(entries + 1,)``, int64."""
        width = entry_bytes(self.batch.levels[depth])
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
            f"{self.batch.uri} is damaged in rows {first:,}-{first + n_rows - 1:,}: {fault}; copy or write it again"
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
        most = 2 * self.batch.buffer_bytes()[2 * depth + number] + _SLACK
        try:
            return read_buffer(self._file, self.batch.spans[depth][number], self.batch.codec, most, self.batch.uri)
        except ValueError as error:
            raise self.damaged(str(error)) from error


def read_buffer(file: OpenFile, span: tuple[int, int], codec: str | None, most: int, place: str) -> Array:
    """Return the bytes of a buffer, without its compression.

    Parameters
    ----------
    span
        Bytes [start, stop) of the file.
    most
        Most bytes that it may take; more are refused before memory is.

    Raises
    ------
    ValueError
        If it states more, or cannot be decompressed.
    """
    stored = np.empty(span[1] - span[0], np.uint8)
    file.read_into(stored, span[0], place)
    if codec is None or not len(stored):
        return stored
    size = int.from_bytes(stored[:8].tobytes(), "little", signed=True)
    if size == -1:
        return stored[8:]
    if not 0 <= size <= most:
        raise ValueError(f"a buffer states {size:,} bytes where {most:,} are the most")
    try:
        found = pa.decompress(pa.py_buffer(stored[8:]), decompressed_size=size, codec=codec)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"a buffer cannot be decompressed ({' '.join(str(error).split())})") from error
    if len(found) != size:
        raise ValueError(f"a buffer states {size:,} bytes and has {len(found):,}")
    return np.frombuffer(found, np.uint8)


def entry_bytes(level: Level) -> int:
    """Return the bytes of an entry: of its offset, or of its number."""
    kind = level.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 8 if pa.types.is_large_list(kind) else 4
    return 0 if kind.num_fields else int(kind.bit_width) // 8
