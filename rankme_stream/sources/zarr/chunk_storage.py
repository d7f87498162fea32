"""Where the chunks of an array are stored: files of a folder, or values of a store."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Protocol

from zarr.core.sync import sync

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.folder_scan import folder_sizes, scan_folder
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.stored_values import FolderValues, StoredValues, StoreValues


class Scan(NamedTuple):
    """What a look at all chunks of some rows found.

    Attributes
    ----------
    stamps
        Bytes that change with what is stored: coordinates, size and time or tag of each chunk.
    is_stamped
        Whether a chunk rewritten in place changes them.
    n_bytes
        Stored bytes of all that is there; None where a size is not stated.
    """

    stamps: bytes
    is_stamped: bool
    n_bytes: int | None


class ChunkStorage(Protocol):
    """Storage of the chunks of one array."""

    def values(self, grid: ChunkGrid) -> StoredValues:
        """Return what is stored under the keys of a grid; called once, before the other functions."""

    def scan(self, missing: MissingChunks, start: int, stop: int) -> Scan:
        """Look for the chunks of rows ``[start, stop)``; record those that are missing.

        Raises
        ------
        SourceError, StorageError, OSError
            If the storage fails, or may not be read.
        """

    def sizes(self, units: range) -> Array | None:
        """Return the stored bytes of the chunks of some units, 0 for a missing one, in shape ``(units, columns)``.

        None where finding them would take requests.
        """

    def argument_of(self, path: str) -> Opening:
        """Return what opens another array of the same storage, by its path there."""


class FolderChunks:
    """Chunks in a folder of this machine."""

    def __init__(self, root: str, uri: str) -> None:
        self._root, self._uri = root, uri

    def values(self, grid: ChunkGrid) -> StoredValues:
        """Return files."""
        self._grid = grid
        return FolderValues(self._root, self._uri)

    def scan(self, missing: MissingChunks, start: int, stop: int) -> Scan:
        """Look for the files; missing inner chunks of shards are recorded too."""
        found, n_bytes = scan_folder(self._root, self._grid, missing, start, stop)
        return Scan(found.encode(), True, n_bytes)

    def sizes(self, units: range) -> Array | None:
        """Return sizes of files, or of inner chunks of shards."""
        return folder_sizes(self._root, self._grid, units)

    def argument_of(self, path: str) -> Opening:
        """Return the path of another array."""
        return Opening(os.path.abspath(os.path.join(self._root, path)), NO_OPTIONS)


class StoreChunks:
    """Chunks in a store; ``located`` is what opens it in this process."""

    def __init__(self, store: AuditingStore, located: Any) -> None:
        self._store, self._located = store, located

    def values(self, grid: ChunkGrid) -> StoredValues:
        """Return values that are requested."""
        self._grid = grid
        return StoreValues(self._store, grid.index)

    def scan(self, missing: MissingChunks, start: int, stop: int) -> Scan:
        """Ask the store for its keys; ``missing`` is the record that it was given by ``audit``."""
        found, is_stamped, n_bytes = sync(self._store.scan(start, stop))
        return Scan(found.encode(), is_stamped, n_bytes)

    def sizes(self, units: range) -> Array | None:
        """Return sizes as the last ``scan`` found them; None for shards, whose index would have to be requested."""
        return None if self._grid.index is not None else self._store.sizes(units)

    def argument_of(self, path: str) -> Opening:
        """Return the store with the path of another array."""
        return Opening(self._located, ArrayOptions(path=path))
