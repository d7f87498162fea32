"""Chunk grid of a zarr array, and which of its chunks are known to be unwritten."""

from __future__ import annotations

import re
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs import codec_fields
from rankme_stream.sources.zarr.shard_index import ShardIndex, shard_index

_MOST = 2**60  # values or chunks
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")  # as keys hold it: "01" is another name


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
        Layout of the shard index; None without shards.
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
        """Whether a key holds chunks by an index."""
        return self.index is not None

    def longest_value(self, longest_chunk: int) -> int:
        """Return the most bytes under a key, of chunks of at most ``longest_chunk`` bytes each."""
        n_chunks = (self.outer[0] // self.inner[0]) * (self.outer[1] // self.inner[1])
        return n_chunks * longest_chunk + (self.index.n_bytes if self.index else 0)

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
        if not (separator and _NUMBER.fullmatch(first) and _NUMBER.fullmatch(second)):
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
        return _checked(ChunkGrid(shape, outer, outer, folder, separator, None, is_line), uri)
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
        return _checked(ChunkGrid(shape, outer, outer, prefix, separator, None, is_line), uri)
    inner = _pair(codecs[0][1]["chunk_shape"], uri, is_line=is_line)
    if outer[0] % inner[0] or outer[1] % inner[1]:
        raise SourceFormatError(
            f"{uri} declares shards of shape {outer}, which chunks of {inner} do not fill: rewrite it"
        )
    index = shard_index(outer, inner, codecs[0][1], uri)
    return _checked(ChunkGrid(shape, outer, inner, prefix, separator, index, is_line), uri)


def _pair(lengths: Iterable[int], uri: str, *, least: int = 1, is_line: bool = False) -> tuple[int, int]:
    chunks = (*lengths, *([1] if is_line else []))
    if not all(type(n) is int for n in chunks) or len(chunks) != 2 or min(chunks) < least:
        raise SourceFormatError(f"{uri} declares chunks of shape {chunks}, not two positive lengths: rewrite it")
    return chunks[0], chunks[1]


def _checked(grid: ChunkGrid, uri: str) -> ChunkGrid:
    """Return a grid whose numbers fit 64 bits, as arrays and chunks that exist do; refuse others."""
    if grid.separator not in ("/", "."):
        raise SourceFormatError(f"{uri} has chunk keys with the separator {grid.separator!r}: rewrite its metadata")
    n_values, n_chunks = grid.shape[0] * grid.shape[1], -(-grid.shape[0] // grid.inner[0]) * grid.n_inner_columns
    if max(n_values, n_chunks, grid.outer[0] * grid.outer[1]) >= _MOST:
        raise SourceFormatError(
            f"{uri} declares shape {grid.shape} in chunks of {grid.outer}, more than 2^60 values: rewrite its metadata"
        )
    return grid


class MissingChunks:
    """Inner chunks known to be unwritten, as runs of their numbers in row order; thread-safe.

    Parameters
    ----------
    grid
        Grid of the chunks.

    Notes
    -----
    Only chunks with rows requested so far (see `request`) are recorded, so a missing shard counts its inner chunks in
    those rows and no others. A run takes 16 bytes, whatever its length.
    """

    def __init__(self, grid: ChunkGrid) -> None:
        self._grid = grid
        self._starts, self._stops = array("q"), array("q")  # of runs that neither overlap nor touch, ascending
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
        self.add_keys(i * self._grid.n_outer_columns + j, i * self._grid.n_outer_columns + j + 1)

    def add_keys(self, start: int, stop: int) -> None:
        """Record that nothing is stored under the keys with numbers ``[start, stop)`` in row order."""
        width, n_inner = self._grid.n_outer_columns, self._grid.n_inner_columns
        while start < stop:
            i, j = divmod(start, width)
            if j == 0 and stop - start >= width:
                n_rows = (stop - start) // width
                low, high = self._inner(i, 0)[0].start, self._inner(i + n_rows - 1, 0)[0].stop
                self._add(low * n_inner, high * n_inner)
                start += n_rows * width
                continue
            last = min(width, j + stop - start) - 1
            rows, columns = self._inner(i, j)
            for row in rows:
                self._add(row * n_inner + columns.start, row * n_inner + self._inner(i, last)[1].stop)
            start += last + 1 - j

    def add_index(self, i: int, j: int, entries: Array) -> None:
        """Record the inner chunks that the index of the shard at ``(i, j)`` marks as empty."""
        empty = ShardIndex.is_empty(entries)
        if not empty.any():
            return
        rows, columns = self._inner(i, j)
        n_rows, n_columns = empty.shape
        for row in rows:
            for column in columns:
                if empty[row % n_rows, column % n_columns]:
                    number = row * self._grid.n_inner_columns + column
                    self._add(number, number + 1)

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` with a missing chunk, ascending, merged."""
        merged: list[tuple[int, int]] = []
        if not self._starts:  # nearly always, and asked for every block
            return merged
        n_rows, width = self._grid.inner[0], self._grid.n_inner_columns
        with self._lock:
            first = bisect_right(self._stops, start // n_rows * width)
            last = bisect_left(self._starts, -(-stop // n_rows) * width)
            runs = list(zip(self._starts[first:last], self._stops[first:last], strict=True))
        for run_start, run_stop in runs:
            low = max(start, run_start // width * n_rows)
            high = min(stop, -(-run_stop // width) * n_rows, self._grid.shape[0])
            if low >= high:
                continue
            if merged and merged[-1][1] >= low:
                low = merged.pop()[0]
            merged.append((low, high))
        return merged

    def first(self) -> str | None:
        """Return the name of the first missing chunk; None when none is known."""
        return self._grid.inner_key(*divmod(self._starts[0], self._grid.n_inner_columns)) if self._starts else None

    def _inner(self, i: int, j: int) -> tuple[range, range]:
        grid, (start, stop) = self._grid, self._requested or (0, self._grid.shape[0])
        n_rows, n_columns = grid.outer[0] // grid.inner[0], grid.outer[1] // grid.inner[1]
        rows = range(max(i * n_rows, start // grid.inner[0]), min((i + 1) * n_rows, -(-stop // grid.inner[0])))
        return rows, range(j * n_columns, min((j + 1) * n_columns, grid.n_inner_columns))

    def _add(self, start: int, stop: int) -> None:
        """Record chunks by their numbers; a run that touches others takes them in."""
        if start >= stop:
            return
        with self._lock:
            first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
            before = sum(self._stops[first:last]) - sum(self._starts[first:last])
            if first < last:
                start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
            self._starts[first:last], self._stops[first:last] = array("q", [start]), array("q", [stop])
            self._count += stop - start - before
