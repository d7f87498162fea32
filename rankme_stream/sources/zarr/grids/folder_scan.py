"""Which chunks of a zarr array a folder holds, their sizes, and a hash of sizes and times."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b

import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.regular_file import regular_file
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.grids.shard_index import ShardIndex

_BATCH_ENTRIES = 8192
_ABSENT = FileNotFoundError, NotADirectoryError


def is_sparse(n_missing: int, n_present: int) -> bool:
    """Return whether so many keys were asked for in vain that the names that are there are better listed."""
    return n_missing > 1000 + 4 * n_present


def scan_folder(root: str, grid: ChunkGrid, missing: MissingChunks, start: int, stop: int) -> tuple[str, int]:
    """Find the files of rows ``[start, stop)``; record the missing ones, return a hash of the others and their bytes.

    Returns
    -------
    str, int
        Hash of coordinates, size and modification time of the files that are there, and the sum of their sizes.

    Notes
    -----
    One stat per key, about 2 us warm, in the order of rows; once most of them found nothing, one listing, so that the
    files that are there bound the work, whatever shape the metadata declare. With shards, one more read per shard, of
    its index.
    """
    width = grid.n_outer_columns
    keys = range(grid.outer_rows(start, stop).start * width, grid.outer_rows(start, stop).stop * width)
    digest, records, expected, n_bytes = blake2b(digest_size=16), list[int](), keys.start, 0
    for number, status in _present(root, grid, keys):
        missing.add_keys(expected, number)
        expected = number + 1
        records += (number, status.st_size, status.st_mtime_ns)
        n_bytes += status.st_size
        if grid.index is not None and stat.S_ISREG(status.st_mode):
            i, j = divmod(number, width)
            index = grid.index_of(i, j)
            if status.st_size >= index.n_bytes:
                encoded = _read_index(os.path.join(root, grid.key(i, j)), index, status.st_size)
                missing.add_index(i, j, index.entries(encoded))
        if len(records) >= 3 * _BATCH_ENTRIES:
            digest.update(np.array(records, dtype=np.int64).tobytes())
            records.clear()
    missing.add_keys(expected, keys.stop)
    digest.update(np.array(records, dtype=np.int64).tobytes())
    return digest.hexdigest(), n_bytes


def folder_sizes(root: str, grid: ChunkGrid, units: range) -> Array:
    """Return the stored bytes of the chunks of some units in a folder, 0 for a chunk that is not there.

    Returns
    -------
    Array
        Shape ``(len(units), grid.n_inner_columns)``, int64. Costs what `scan_folder` does.
    """
    width = grid.n_outer_columns
    first, last = grid.key_of(units.start, 0)[0], grid.key_of(units.stop - 1, 0)[0]
    sizes = np.zeros((len(units), grid.n_inner_columns), np.int64)
    for number, status in _present(root, grid, range(first * width, (last + 1) * width)):
        i, j = divmod(number, width)
        if grid.index is None:
            sizes[i - units.start, j] = status.st_size
            continue
        index = grid.index_of(i, j)
        if not stat.S_ISREG(status.st_mode) or status.st_size < index.n_bytes:
            continue  # what is wrong with it shows when it is read
        entries = index.entries(_read_index(os.path.join(root, grid.key(i, j)), index, status.st_size))
        lengths = np.where(entries[..., 1] <= status.st_size, entries[..., 1], 0).astype(np.int64)
        held, columns = grid.key_units(i), grid.key_chunk_columns(j)
        wanted = range(max(held.start, units.start), min(held.stop, units.stop))
        rows = grid.by_unit(i, j, lengths)[wanted.start - held.start : wanted.stop - held.start]
        sizes[wanted.start - units.start : wanted.stop - units.start, columns.start : columns.stop] = rows
    return sizes


def _present(root: str, grid: ChunkGrid, keys: range) -> Iterator[tuple[int, os.stat_result]]:
    """Yield number and status of the files that are there, ascending."""
    width, n_missing, n_present, listed_from = grid.n_outer_columns, 0, 0, keys.stop
    folder = os.open(root, getattr(os, "O_PATH", os.O_RDONLY))  # relative names resolve faster than whole paths
    try:
        for number in keys:
            try:
                status = os.stat(grid.key(*divmod(number, width)), dir_fd=folder)
            except _ABSENT:
                n_missing += 1
                if is_sparse(n_missing, n_present):
                    listed_from = number + 1
                    break
                continue
            n_present += 1
            yield number, status
        remaining = range(listed_from, keys.stop)
        for number in _listed(root, grid, remaining) if remaining else ():
            with suppress(*_ABSENT):
                yield number, os.stat(grid.key(*divmod(number, width)), dir_fd=folder)
    finally:
        os.close(folder)


def _listed(root: str, grid: ChunkGrid, keys: range) -> list[int]:
    """Return the numbers, ascending, of the keys whose names a folder lists."""
    numbers = array("q")
    folder = grid.prefix.rpartition("/")[0]
    depth = 1 if grid.separator == "." else len(grid.axes) - grid.is_line
    for key in _paths(root, folder, depth):
        if (coordinates := grid.coordinates(key)) is not None:
            number = coordinates[0] * grid.n_outer_columns + coordinates[1]
            if number in keys:
                numbers.append(number)
    return sorted(numbers)


def _paths(root: str, folder: str, depth: int) -> Iterator[str]:
    """Yield the paths that lie ``depth`` levels below a folder."""
    for name in _names(os.path.join(root, folder)):
        path = f"{folder}/{name}" if folder else name
        if depth == 1:
            yield path
        else:
            yield from _paths(root, path, depth - 1)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except _ABSENT:
        return []


def _read_index(path: str, index: ShardIndex, n_bytes: int) -> bytes:
    with regular_file(path) as shard:
        encoded = os.pread(shard.fileno(), index.n_bytes, 0 if index.is_at_start else n_bytes - index.n_bytes)
    return encoded.ljust(index.n_bytes, b"\0")
