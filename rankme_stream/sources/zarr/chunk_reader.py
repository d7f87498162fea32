"""Chunks of a zarr array decoded into the rows requested: the one way in which stored values become numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, product
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rankme_stream.errors import CorruptChunkError, LimitError, RankMeError, StorageError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.storage_order import boxes
from rankme_stream.sources.stores.file_errors import file_error, is_storage_fault
from rankme_stream.sources.stores.regular_file import reason
from rankme_stream.sources.stores.remote_faults import in_one_line
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.grids.chunk_grid import Box, ChunkGrid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.grids.shard_index import ShardIndex
from rankme_stream.sources.zarr.stored_values import READ_ERRORS, StoredValue, StoredValues

_FEATURES_AT_ONCE = 16  # copied together where the features do not come last: more would push each other out of caches


class _StoredChunk(NamedTuple):
    """Unit of a chunk and its number along the features, with its offset and length under its key.

    The length None is that of the value.
    """

    unit: int
    column: int
    offset: int
    n_bytes: int | None


class ChunkReader:
    """Reader of chunks that takes memory for one decoded chunk, whatever is stored; thread-safe.

    Parameters
    ----------
    values
        What is stored under the keys.
    decoder
        Decoder of the largest chunk.
    missing
        Record of the chunks that are found missing.
    fill
        Value of missing chunks.
    uri
        Name for errors.

    Attributes
    ----------
    has_loose_rows
        Whether rows are read without the rest of their chunk: in a file, uncoded, all features side by side.
    buffers
        Memory that each thread keeps from one chunk to the next.
    """

    def __init__(
        self, values: StoredValues, grid: ChunkGrid, decoder: ChunkDecoder, missing: MissingChunks, fill: Any, uri: str
    ) -> None:
        self._values, self._grid, self._decoder = values, grid, decoder
        self._missing, self._fill, self._uri = missing, fill, uri
        self.buffers = threading.local()
        self.has_loose_rows = values.has_loose_bytes and decoder.is_plain and grid.has_whole_rows

    def read_memory(self, n_rows: int, itemsize: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows: the rows, stored bytes, and a chunk that is decoded."""
        grid, longest = self._grid, self._decoder.longest
        touched = -(-n_rows // grid.least_rows) * grid.n_inner_columns
        held = self._values.memory(min(touched, self._values.at_once * grid.chunks_per_key), longest)
        index = 3 * grid.index.n_bytes * min(touched, self._values.at_once) if grid.index else 0
        decoding = 0 if self.has_loose_rows else self._decoder.n_bytes + longest + self._decoder.scratch_bytes
        return n_rows * grid.shape[1] * itemsize + held + index + decoding

    def read(self, start: int, stop: int, out: Array) -> None:
        """Write rows ``[start, stop)`` into ``out``, and the fill value where a chunk is missing, which is recorded.

        Raises
        ------
        CorruptChunkError
            If a chunk cannot be read, does not decode, or has another size than its metadata say.
        SourceError, StorageError
            If the store refuses or fails.
        LimitError
            If there is no memory for a chunk.
        """
        grid = self._grid
        if self._values.read_rows(self._decoder, start, stop, out):
            return
        for batch in _batches(product(grid.outer_rows(start, stop), range(grid.n_outer_columns)), self._values.at_once):
            if not self._can_read(batch, start, out):
                for place in batch:
                    self._read_keys([place], start, out)

    def _can_read(self, places: Sequence[tuple[int, int]], start: int, out: Array) -> bool:
        """Read what some keys hold; return False where once more may help: faults of disks and memory may pass."""
        try:
            self._read_keys(places, start, out)
        except CorruptChunkError:
            return False
        except StorageError:
            if not self._values.has_loose_bytes:
                raise  # a server was asked for as long as is stated
            return False
        return True

    def _read_keys(self, places: Sequence[tuple[int, int]], start: int, out: Array) -> None:
        """Read what some keys hold of the rows."""
        grid = self._grid
        found: list[tuple[StoredValue, list[_StoredChunk]]] = []
        with ExitStack() as stack:
            opened = self._values.open([grid.key(i, j) for i, j in places], stack)
            for one, (i, j) in zip(opened, places, strict=True):
                if isinstance(one, Exception):
                    unit = grid.unit_at(max(start, grid.key_rows(i)[0]))
                    self._refuse(unit, grid.key_chunk_columns(j).start, start, out, one)
                if one is None:
                    self._missing.add_key(i, j)
                    first, last = grid.key_rows(i)
                    out[max(0, first - start) : last - start, grid.key_columns(j)] = self._fill
                elif grid.index is None:
                    found.append((one, [_StoredChunk(i, j, 0, None)]))
                else:
                    found.append((one, self._inner_chunks(one, i, j, start, out)))
            if grid.index is not None:
                self._values.fetch(
                    [
                        (one, [(chunk.offset, chunk.n_bytes) for chunk in chunks if chunk.n_bytes])
                        for one, chunks in found
                    ]
                )
            for one, chunks in found:
                for chunk in chunks:
                    try:
                        self._read_chunk(one, chunk, start, out)
                    except (*READ_ERRORS, MemoryError) as error:
                        if chunk.n_bytes is None:
                            self._values.check_length(grid.key(chunk.unit, chunk.column), one)
                        self._refuse(chunk.unit, chunk.column, start, out, error)

    def _inner_chunks(self, shard: StoredValue, i: int, j: int, start: int, out: Array) -> list[_StoredChunk]:
        """Return the chunks of a shard that hold some of the rows; fill and record the missing ones."""
        grid, chunks = self._grid, []
        units, columns, rows = grid.key_units(i), grid.key_chunk_columns(j), grid.key_rows(i)
        wanted = grid.units(max(start, rows[0]), min(start + len(out), rows[1]))
        unit, column = wanted.start, columns.start
        try:
            entries = grid.by_unit(i, j, self._index_entries(shard, i, j))
            for unit in wanted:
                for column in columns:
                    entry = entries[unit - units.start, column - columns.start]
                    if ShardIndex.is_empty(entry):
                        box = grid.box(unit, column)
                        empty = slice(max(0, box.row - start), box.row + box.n_rows - start)
                        out[empty, box.column : box.column + box.n_columns] = self._fill
                        continue
                    offset, length = entry.tolist()
                    if not 0 < length <= self._decoder.longest or offset + length > (shard.n_bytes or 2**63):
                        raise ValueError(
                            f"shard index points to {length:,} bytes from {offset:,}: outside the shard, or more than "
                            f"the {self._decoder.longest:,} that a chunk can take"
                        )
                    chunks.append(_StoredChunk(unit, column, offset, length))
        except (*READ_ERRORS, MemoryError) as error:
            self._refuse(unit, column, start, out, error)
        return chunks

    def _index_entries(self, shard: StoredValue, i: int, j: int) -> Array:
        """Return offset and length of every chunk of a shard; record the empty ones."""
        index, n_bytes = self._grid.index_of(i, j), shard.n_bytes
        encoded = self._buffer("index", index.n_bytes)
        at_end = -index.n_bytes if n_bytes is None else max(0, n_bytes - index.n_bytes)
        index.check_length(shard.read_into(0 if index.is_at_start else at_end, encoded))
        index.check_sum(encoded)
        entries = index.entries(encoded)
        self._missing.add_index(i, j, entries)
        return entries

    def _read_chunk(self, stored: StoredValue, chunk: _StoredChunk, start: int, out: Array) -> None:
        """Decode one chunk; directly into ``out`` if all of it is requested and it lies there as it is stored."""
        box = self._grid.box(chunk.unit, chunk.column)
        decoder = self._decoder.of_shape(box.shape[:-1] if self._grid.is_line else box.shape).without(stored.skipped)
        low, high = max(box.row, start), min(box.row + box.n_rows, start + len(out))
        wanted = out[low - start : high - start, box.column : box.column + box.n_columns]
        is_loose = self.has_loose_rows and out.flags.c_contiguous
        is_whole = wanted.size == decoder.n_values and wanted.flags.c_contiguous and self._grid.has_features_last
        target = wanted if is_whole or is_loose else self._chunk_buffer(out.dtype, decoder)
        if decoder.is_plain:
            n_bytes = stored.n_bytes if chunk.n_bytes is None else chunk.n_bytes
            if n_bytes != decoder.n_bytes:
                raise ValueError(f"{n_bytes:,} bytes where {decoder.n_bytes:,} were expected")
            skipped = (low - box.row) * (decoder.n_bytes // box.shape[0]) * is_loose
            _read_all(stored, chunk.offset + skipped, target.reshape(-1).view(np.uint8))
        else:
            decoder.decode(self._encoded(stored, chunk, decoder), target.reshape(-1))
        if target is not wanted:
            self._copy(target.reshape(box.shape), box, slice(low - box.row, high - box.row), wanted)

    def _copy(self, decoded: Array, box: Box, rows: slice, out: Array) -> None:
        """Copy some rows of a decoded chunk, in the order of their numbers, into ``out``."""
        at_once = box.n_columns
        if not self._grid.has_features_last:
            decoded, at_once = np.moveaxis(decoded, self._grid.features_axis, -1), _FEATURES_AT_ONCE
        elif at_once == box.shape[-1] and out.flags.c_contiguous and not out.dtype.hasobject:
            piece = np.dtype((np.void, at_once * out.dtype.itemsize))
            decoded, out = decoded.view(piece), out.view(piece)  # whole rows in half the time of single values
        row = 0
        for part in boxes(box.lengths, rows.start, rows.stop):
            source = decoded[part]
            n_rows = prod(source.shape[:-1])
            target = out[row : row + n_rows].reshape(*source.shape[:-1], -1)
            row += n_rows
            for first in range(0, box.n_columns, at_once):
                last = min(first + at_once, box.n_columns)
                target[..., first:last] = source[..., first:last]

    def _encoded(self, stored: StoredValue, chunk: _StoredChunk, decoder: ChunkDecoder) -> Array:
        """Return the stored bytes of a chunk."""
        n_bytes = stored.n_bytes if chunk.n_bytes is None else chunk.n_bytes
        assert n_bytes is not None  # only of shards, whose index gives the length of a chunk
        if n_bytes > decoder.longest:
            raise ValueError(f"{n_bytes:,} bytes, more than the {decoder.longest:,} that it can be stored in")
        encoded = self._buffer("encoded", n_bytes)
        _read_all(stored, chunk.offset, encoded)
        return encoded

    def _chunk_buffer(self, dtype: np.dtype[Any], decoder: ChunkDecoder) -> Array:
        if dtype.hasobject:
            return np.empty(decoder.n_values, dtype)
        return self._buffer("chunk", decoder.n_bytes).view(dtype)

    def _buffer(self, name: str, n_bytes: int) -> Array:
        """Return a buffer of this thread; it is replaced only when a larger one is needed."""
        buffer: Array | None = getattr(self.buffers, name, None)
        if buffer is None or buffer.size < n_bytes:
            buffer = np.empty(n_bytes, np.uint8)
            setattr(self.buffers, name, buffer)
        return buffer[:n_bytes]

    def _refuse(self, unit: int, column: int, start: int, out: Array, error: BaseException) -> NoReturn:
        """Raise the error of the source that says which chunk it is."""
        if isinstance(error, RankMeError):
            raise error
        box = self._grid.box(unit, column)
        rows = f"rows {max(start, box.row):,}-{min(start + len(out), box.row + box.n_rows):,}"
        place = f"chunk {self._grid.name(unit, column)} of {self._uri} ({rows})"
        if isinstance(error, OSError) and is_storage_fault(error):
            raise file_error(place, error) from error
        if isinstance(error, MemoryError):
            raise LimitError(
                f"{place} takes {self._decoder.n_bytes:,} bytes, and so much memory is not free"
            ) from error
        failure = (
            f"cannot be read: {reason(error)}"
            if isinstance(error, OSError)
            else f"does not decode: {in_one_line(error)}"
        )
        raise CorruptChunkError(f"{place} {failure}; write it again, or leave these rows out") from error


def _batches(items: Iterable[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _read_all(stored: StoredValue, offset: int, out: Array) -> None:
    if (n_bytes := stored.read_into(offset, out)) != len(out):
        raise ValueError(f"it ends early: {len(out):,} bytes expected, {n_bytes:,} found")
