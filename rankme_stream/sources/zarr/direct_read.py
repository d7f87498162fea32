"""Chunks of a zarr array in a folder, decoded directly into the rows requested."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.codecs import Decode


class _StoredChunk(NamedTuple):
    """First row and column of a chunk, with its offset and length in the file; None is the length of the file."""

    row: int
    column: int
    offset: int
    n_bytes: int | None


class ChunkFiles:
    """Reader of chunk files without an event loop, and without a buffer between codec and rows; thread-safe.

    Parameters
    ----------
    root
        Folder of the store.
    decode
        Decoder of a chunk, from `codecs.decoder`; None where stored bytes are the values.
    dtype
        Type of the values, in native byte order.
    """

    def __init__(self, root: str, grid: ChunkGrid, decode: Decode | None, dtype: np.dtype[np.generic]) -> None:
        self._root, self._grid, self._decode, self._dtype = root, grid, decode, dtype
        self._buffers = threading.local()
        self._chunk_bytes = grid.inner[0] * grid.inner[1] * dtype.itemsize

    @property
    def has_loose_rows(self) -> bool:
        """Whether rows can be read without the rest of their chunk: no codec, and all features side by side."""
        return self._decode is None and self._grid.inner[1] == self._grid.shape[1]

    def read_memory(self, n_rows: int) -> int:
        """Return the peak bytes of reading ``n_rows`` rows: the rows, an encoded chunk, a decoded one, an index."""
        result = n_rows * self._grid.shape[1] * self._dtype.itemsize
        index = 3 * self._grid.index.n_bytes if self._grid.index else 0
        return result + index + (0 if self.has_loose_rows else self._chunk_bytes + _encoded_bytes(self._chunk_bytes))

    def read(self, start: int, stop: int, out: Array) -> bool:
        """Write rows ``[start, stop)`` into ``out``, C order.

        Returns
        -------
        bool
            False if a chunk is missing, may not be read or does not decode; the content of ``out`` is then undefined.
        """
        grid = self._grid
        if not out.flags.c_contiguous:
            return False
        try:
            for i in grid.outer_rows(start, stop):
                for j in range(grid.n_outer_columns):
                    file = os.open(os.path.join(self._root, grid.key(i, j)), os.O_RDONLY)
                    try:
                        for chunk in self._chunks(file, i, j, start, stop):
                            self._read_chunk(file, chunk, start, out)
                    finally:
                        os.close(file)
        except (OSError, ValueError, RuntimeError, MemoryError, zlib.error):  # from the file, a check or a codec
            vars(self._buffers).clear()  # zarr, which reads next, needs as much memory
            return False
        return True

    def _chunks(self, file: int, i: int, j: int, start: int, stop: int) -> Iterator[_StoredChunk]:
        """Yield the chunks of a key that hold some of rows ``[start, stop)``."""
        grid, index = self._grid, self._grid.index
        if index is None:
            yield _StoredChunk(i * grid.inner[0], j * grid.inner[1], 0, None)
            return
        n_bytes = os.fstat(file).st_size
        index.check_length(n_bytes)
        encoded = self._buffer("index", index.n_bytes)
        _read_into(file, 0 if index.is_at_start else n_bytes - index.n_bytes, encoded)
        index.check_sum(encoded)
        entries = index.entries(encoded)
        first, last = i * grid.outer[0], (i + 1) * grid.outer[0]
        for row in range(max(first, start - start % grid.inner[0]), min(last, stop), grid.inner[0]):
            for column in range(j * grid.outer[1], min((j + 1) * grid.outer[1], grid.shape[1]), grid.inner[1]):
                entry = entries[(row - first) // grid.inner[0], column % grid.outer[1] // grid.inner[1]]
                offset, length = entry.tolist()
                if not 0 < length <= _encoded_bytes(self._chunk_bytes) or offset + length > n_bytes:
                    raise ValueError("a chunk that is missing, too large, or outside its shard")
                yield _StoredChunk(row, column, offset, length)

    def _read_chunk(self, file: int, chunk: _StoredChunk, start: int, out: Array) -> None:
        """Decode one chunk; directly into ``out`` if all of its rows are requested and no chunk lies beside it."""
        row, n_bytes = chunk.row, chunk.n_bytes
        n_rows, n_columns = self._grid.inner
        low, high = max(row, start), min(row + n_rows, start + len(out))
        wanted = out[low - start : high - start, chunk.column : chunk.column + n_columns]
        is_loose = self.has_loose_rows
        is_whole = wanted.shape == (n_rows, n_columns) and n_columns == out.shape[1]
        target = wanted if is_whole or is_loose else self._buffer("chunk", self._chunk_bytes)
        values = target.reshape(-1).view(np.uint8)
        if self._decode is None:
            if (os.fstat(file).st_size if n_bytes is None else n_bytes) != self._chunk_bytes:
                raise ValueError("a chunk of another size")
            _read_into(file, chunk.offset + (low - row) * (self._chunk_bytes // n_rows) * is_loose, values)
        else:
            # A buffer larger than any encoded chunk makes a query of the file's size unnecessary.
            encoded = self._buffer("encoded", _encoded_bytes(self._chunk_bytes) if n_bytes is None else n_bytes)
            self._decode(encoded[: os.preadv(file, [encoded.data], chunk.offset)], values)
        if target is not wanted:
            rows = values.view(self._dtype).reshape(n_rows, n_columns)[low - row : high - row, : wanted.shape[1]]
            if wanted.shape[1] == n_columns:  # whole rows, copied in half the time of single values
                piece = np.dtype((np.void, n_columns * self._dtype.itemsize))
                wanted.view(piece)[...] = rows.view(piece)
            else:
                wanted[...] = rows

    def _buffer(self, name: str, n_bytes: int) -> Array:
        """Return a buffer of this thread; it is replaced only when a larger one is needed."""
        buffer: Array | None = getattr(self._buffers, name, None)
        if buffer is None or buffer.size < n_bytes:
            buffer = np.empty(n_bytes, np.uint8)
            setattr(self._buffers, name, buffer)
        return buffer[:n_bytes]


def _encoded_bytes(n_bytes: int) -> int:
    return n_bytes + n_bytes // 64 + 4096


def _read_into(file: int, offset: int, out: Array) -> None:
    if os.preadv(file, [out.data], offset) != len(out):
        raise ValueError("the file ends early")
