"""Chunk grid of a zarr array, and which of its chunks are known to be unwritten; pure Python and numpy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs import codec_fields
from rankme_stream.sources.zarr.shard_index import ShardIndex, shard_index

_PAGE_BITS = 2**15
_BATCH_ENTRIES = 8192


@dataclass(frozen=True)
class ChunkGrid:
    """Regular chunk grid of a zarr array of two dimensions, or of one, taken as a single feature that keys omit.

    Parameters
    ----------
    shape
        Rows and features of the array.
    outer
        Rows and features stored under one key: a chunk, or a shard.
    inner
        Rows and features decoded at once; equals ``outer`` without shards.
    prefix, separator
        A key is ``f"{prefix}{i}{separator}{j}"``.
    index
        Layout of the shard index; None without shards, or where its codecs are not supported.
    is_line
        Whether the array has one dimension: a key is ``f"{prefix}{i}"``.
    """

    shape: tuple[int, int]
    outer: tuple[int, int]
    inner: tuple[int, int]
    prefix: str
    separator: str
    index: ShardIndex | None
    is_line: bool = False

    @property
    def n_outer_columns(self) -> int:
        """Number of keys along the features."""
        return -(-self.shape[1] // self.outer[1])

    @property
    def n_inner_columns(self) -> int:
        """Number of inner chunks along the features."""
        return -(-self.shape[1] // self.inner[1])

    @property
    def is_sharded(self) -> bool:
        """Whether a key holds several chunks."""
        return self.inner != self.outer or self.index is not None

    def outer_rows(self, start: int, stop: int) -> range:
        """Return the first coordinates of the keys that hold rows ``[start, stop)``."""
        return range(start // self.outer[0], -(-stop // self.outer[0]))

    def key(self, i: int, j: int) -> str:
        """Return the key at outer coordinates ``(i, j)``."""
        return f"{self.prefix}{i}" if self.is_line else f"{self.prefix}{i}{self.separator}{j}"

    def inner_key(self, i: int, j: int) -> str:
        """Return the name of inner chunk ``(i, j)`` for a message: its key, and its coordinates in a shard."""
        per_shard = self.outer[0] // self.inner[0], self.outer[1] // self.inner[1]
        key = self.key(i // per_shard[0], j // per_shard[1])
        if not self.is_sharded:
            return key
        return f"{key} (inner chunk {i % per_shard[0]},{j % per_shard[1]})"

    def coordinates(self, key: str) -> tuple[int, int] | None:
        """Return the outer coordinates of ``key``; None for a key that is no chunk."""
        if not key.startswith(self.prefix):
            return None
        suffix = key[len(self.prefix) :] + (f"{self.separator}0" if self.is_line else "")
        first, separator, second = suffix.partition(self.separator)
        if not (separator and first.isdecimal() and second.isdecimal()):
            return None
        return int(first), int(second)


def chunk_grid(metadata: Mapping[str, Any], *, path: str, uri: str) -> ChunkGrid:
    """Return the grid in the metadata document (``zarr.json`` or ``.zarray``) of an array of one or two dimensions.

    Raises
    ------
    SourceFormatError
        For a grid that is not regular, or keys in an encoding that is not supported.
    """
    folder = f"{path}/" if path else ""
    is_line = len(metadata["shape"]) == 1
    shape = _pair(metadata["shape"], uri, least=0, is_line=is_line)
    if metadata["zarr_format"] == 2:
        outer = _pair(metadata["chunks"], uri, is_line=is_line)
        separator = str(metadata.get("dimension_separator") or ".")
        return ChunkGrid(shape, outer, outer, folder, separator, None, is_line)
    outer = _pair(metadata["chunk_grid"].get("configuration", {}).get("chunk_shape", ()), uri, is_line=is_line)
    encoding = metadata.get("chunk_key_encoding", {"name": "default"})
    name, configuration = codec_fields(encoding)
    if metadata["chunk_grid"].get("name") != "regular" or name not in ("default", "v2"):
        raise SourceFormatError(f"{uri} has a chunk grid or chunk keys of an unsupported kind: rewrite it")
    separator = str(configuration.get("separator", "/" if name == "default" else "."))
    prefix = folder + (f"c{separator}" if name == "default" else "")
    codecs = [codec_fields(codec) for codec in metadata["codecs"]]
    inner_codecs = [codec_fields(codec)[0] for name, conf in codecs for codec in conf.get("codecs", ())]
    if (shards := [name for name, _ in codecs].count("sharding_indexed")) and (
        len(codecs) > 1 or "sharding_indexed" in inner_codecs
    ):
        raise SourceFormatError(
            f"{uri} has shards inside shards or other codecs, whose missing chunks cannot be detected: rewrite it"
        )
    if not shards:
        return ChunkGrid(shape, outer, outer, prefix, separator, None, is_line)
    inner = _pair(codecs[0][1]["chunk_shape"], uri, is_line=is_line)
    index = shard_index(outer, inner, codecs[0][1])
    return ChunkGrid(shape, outer, inner, prefix, separator, index, is_line)


def _pair(lengths: Iterable[int], uri: str, *, least: int = 1, is_line: bool = False) -> tuple[int, int]:
    chunks = (*(int(n) for n in lengths), *([1] if is_line else []))
    if len(chunks) != 2 or min(chunks) < least:
        raise SourceFormatError(f"{uri} declares chunks of shape {chunks}, not two positive lengths: rewrite it")
    return chunks[0], chunks[1]


class MissingChunks:
    """Inner chunks known to be unwritten: one bit per chunk, in pages made when needed; thread-safe.

    Parameters
    ----------
    grid
        Grid of the chunks.

    Notes
    -----
    Only chunks with rows requested so far (see `request`) are recorded, so a missing shard counts its inner chunks in
    those rows and no others.
    """

    def __init__(self, grid: ChunkGrid) -> None:
        self._grid = grid
        self._pages: dict[int, bytearray] = {}
        self._lock = threading.Lock()
        self._requested: tuple[int, int] | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Number of inner chunks known to be missing."""
        return self._count

    def request(self, start: int, stop: int) -> None:
        """Extend the rows requested by ``[start, stop)``."""
        with self._lock:
            low, high = self._requested or (start, stop)
            self._requested = min(low, start), max(high, stop)

    def add_key(self, i: int, j: int) -> None:
        """Record that nothing is stored at outer coordinates ``(i, j)``."""
        rows, columns = self._inner(i, j)
        self._add((row, column) for row in rows for column in columns)

    def add_index(self, i: int, j: int, entries: Array) -> None:
        """Record the inner chunks that the index of the shard at ``(i, j)`` marks as empty."""
        empty = ShardIndex.is_empty(entries)
        if not empty.any():
            return
        rows, columns = self._inner(i, j)
        n_rows, n_columns = empty.shape
        self._add((row, column) for row in rows for column in columns if empty[row % n_rows, column % n_columns])

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` with a missing chunk, ascending, merged."""
        n_rows, width = self._grid.inner[0], self._grid.n_inner_columns
        merged: list[tuple[int, int]] = []
        for page in sorted(self._pages):
            bits = np.unpackbits(np.frombuffer(bytes(self._pages[page]), np.uint8), bitorder="little")
            chunk_rows = np.unique((np.flatnonzero(bits) + page * _PAGE_BITS) // width)
            breaks = np.flatnonzero(np.diff(chunk_rows) != 1) + 1
            for run in np.split(chunk_rows, breaks):
                low = max(start, int(run[0]) * n_rows)
                high = min(stop, (int(run[-1]) + 1) * n_rows, self._grid.shape[0])
                if low >= high:
                    continue
                if merged and merged[-1][1] >= low:
                    low = merged.pop()[0]
                merged.append((low, high))
        return merged

    def first(self) -> str | None:
        """Return the name of the first missing chunk; None when none is known."""
        if not self._pages:
            return None
        page = min(self._pages)
        bits = np.unpackbits(np.frombuffer(bytes(self._pages[page]), np.uint8), bitorder="little")
        return self._grid.inner_key(*divmod(page * _PAGE_BITS + int(np.argmax(bits)), self._grid.n_inner_columns))

    def _inner(self, i: int, j: int) -> tuple[range, range]:
        grid, (start, stop) = self._grid, self._requested or (0, self._grid.shape[0])
        n_rows, n_columns = grid.outer[0] // grid.inner[0], grid.outer[1] // grid.inner[1]
        rows = range(max(i * n_rows, start // grid.inner[0]), min((i + 1) * n_rows, -(-stop // grid.inner[0])))
        return rows, range(j * n_columns, min((j + 1) * n_columns, grid.n_inner_columns))

    def _add(self, chunks: Iterable[tuple[int, int]]) -> None:
        width = self._grid.n_inner_columns
        with self._lock:
            for row, column in chunks:
                page, bit = divmod(row * width + column, _PAGE_BITS)
                bits = self._pages.get(page)
                if bits is None:
                    bits = self._pages[page] = bytearray(_PAGE_BITS // 8)
                mask = 1 << (bit & 7)
                if not bits[bit >> 3] & mask:
                    bits[bit >> 3] |= mask
                    self._count += 1


def scan_folder(root: str, grid: ChunkGrid, missing: MissingChunks, start: int, stop: int) -> str:
    """Stat the file of every key that holds rows ``[start, stop)``; record the missing ones, hash the others.

    Returns
    -------
    str
        Hash of coordinates, size and modification time of the files that are there.

    Notes
    -----
    No listing: one stat per key, about 2 us warm, so memory does not grow with the number of keys. With shards, one
    more read per shard, of its index.
    """
    stat, width = os.stat, grid.n_outer_columns
    columns = [f"{grid.separator}{j}" for j in range(width)]
    digest = blake2b(digest_size=16)
    records: list[int] = []
    folder = os.open(root, getattr(os, "O_PATH", os.O_RDONLY))  # relative names resolve faster than whole paths
    try:
        for i in grid.outer_rows(start, stop):
            row = f"{grid.prefix}{i}"
            for j, column in enumerate(columns):
                try:
                    status = stat(row + column, dir_fd=folder)
                except (FileNotFoundError, NotADirectoryError):
                    missing.add_key(i, j)
                    continue
                records += (i * width + j, status.st_size, status.st_mtime_ns)
                if grid.index is not None and status.st_size >= grid.index.n_bytes:
                    path = os.path.join(root, row + column)
                    missing.add_index(i, j, grid.index.entries(_read_index(path, grid.index, status.st_size)))
            if len(records) >= 3 * _BATCH_ENTRIES:
                digest.update(np.array(records, dtype=np.int64).tobytes())
                records.clear()
    finally:
        os.close(folder)
    digest.update(np.array(records, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _read_index(path: str, index: ShardIndex, n_bytes: int) -> bytes:
    with open(path, "rb", buffering=0) as shard:
        encoded = os.pread(shard.fileno(), index.n_bytes, 0 if index.is_at_start else n_bytes - index.n_bytes)
    return encoded.ljust(index.n_bytes, b"\0")
