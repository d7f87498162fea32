"""Zarr store that finds missing chunks, and says why something cannot be read."""

from __future__ import annotations

import json
import os
from array import array
from asyncio import gather
from collections.abc import AsyncIterator, Mapping
from hashlib import blake2b
from itertools import islice, product
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore, ZipStore

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.descriptions import stamp_of
from rankme_stream.sources.stores.file_errors import file_error, is_storage_fault
from rankme_stream.sources.stores.guarded_store import GuardedStore
from rankme_stream.sources.stores.regular_file import regular_file
from rankme_stream.sources.zarr.float_types import is_document, shown
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.folder_scan import is_sparse
from rankme_stream.sources.zarr.grids.grid_metadata import with_regular_grid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks

_LONGEST_DOCUMENT = 2**26  # bytes of metadata
_STAT_ONE_BY_ONE = 1000  # chunks; for more, a listing takes fewer requests: a thousand names each
_AT_ONCE = 32


def _read_document(path: str, prototype: BufferPrototype) -> Buffer | None:
    """Return what a regular file holds; None if there is none, as zarr's own stores do."""
    try:
        with regular_file(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes > _LONGEST_DOCUMENT:
                raise ValueError(f"a document of {n_bytes:,} bytes, longer than metadata ever are")
            return prototype.buffer.from_bytes(file.read(n_bytes))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


class AuditingStore(WrapperStore[Store]):
    """Store that finds missing chunks, and reads nothing but regular files where it is a folder.

    Attributes
    ----------
    root
        Folder of a local store; None for a subclass of it, which may answer differently from its files.
    archive
        Path of a zip file; None for other stores.
    """

    def __init__(self, store: Store, uri: str) -> None:
        self.root = os.fspath(store.root) if type(store) is LocalStore else None
        self.archive = store.path if isinstance(store, ZipStore) else None
        super().__init__(store if self.root is not None else GuardedStore(store, uri))
        self._uri = uri
        self._grid: ChunkGrid | None = None
        self._missing: MissingChunks | None = None
        self._longest = 0
        self._sizes, self._sized = array("q"), range(0)

    @property
    def read_only(self) -> bool:
        """True: nothing is written, whatever the store allows."""
        return True

    @property
    def changes_as_a_whole(self) -> bool:
        """Whether one version stands for all chunks, as in a zip file and in a commit."""
        return isinstance(self._store, GuardedStore) and self._store.changes_as_a_whole

    @property
    def denied(self) -> SourcePermissionError | None:
        """Refusal of a server that was taken for the absence of a metadata document; None if there was none."""
        return self._store.denied if isinstance(self._store, GuardedStore) else None

    def audit(self, grid: ChunkGrid, missing: MissingChunks, longest: int) -> None:
        """Say which chunks `scan` looks for, where it records the missing ones, and how many bytes a key may hold."""
        self._grid, self._missing, self._longest = grid, missing, longest
        if isinstance(self._store, GuardedStore):
            self._store.longest = longest

    def fetch(self, key: str) -> bytes:
        """Return the bytes stored under ``key``; empty when there are none; raise what a server refuses."""
        value = sync(self._opened_get(key))
        if value is None and self.denied is not None:
            raise self.denied
        return b"" if value is None else value.to_bytes()

    def fetch_if_allowed(self, key: str) -> bytes:
        """Return the bytes stored under ``key``; empty where there are none, or they may not be read.

        Of a folder, ``key`` may also be the absolute path of a document.
        """
        try:
            value = sync(self._opened_get(key))
        except SourcePermissionError:
            return b""
        return b"" if value is None else value.to_bytes()

    async def _opened_get(self, key: str) -> Buffer | None:
        await self._ensure_open()  # a zip file is not before it is asked for an array
        return await self._stored(key, default_buffer_prototype(), None)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder of the store, sorted; none if there is no such folder."""

        async def listed() -> list[str]:
            await self._ensure_open()
            return [key.strip("/").rpartition("/")[2] async for key in self.list_dir(folder)]

        try:
            return sorted({*sync(listed())})
        except (FileNotFoundError, NotADirectoryError):
            return []

    def holds_array(self, path: str) -> bool:
        """Return whether metadata of an array, broken ones too, lie at a path."""
        folder = f"{path}/" if path else ""
        try:
            if self.fetch(f"{folder}.zarray"):
                return True
            document = self.fetch(f"{folder}zarr.json")
            return bool(document) and json.loads(document)["node_type"] != "group"
        except RankMeError:
            raise
        except (OSError, ValueError, LookupError, TypeError):
            return True

    def check_length(self, key: str, n_bytes: int) -> None:
        """Raise StorageError if a server states another length for an object than that of the bytes that it sent."""
        if isinstance(self._store, GuardedStore):
            sync(self._store.check_length(key, n_bytes))

    async def scan(self, start: int, stop: int) -> tuple[str, bool, int | None]:
        """Find the chunks of rows ``[start, stop)``; record the missing ones, return a hash of the others.

        The hash covers coordinates, size and time or tag. The second result is whether the store gives time or tag of
        each: a chunk rewritten in place changes the hash. The third are the bytes of all; None where a size is not
        stated.
        """
        assert self._grid is not None and self._missing is not None
        rows, width = self._grid.outer_rows(start, stop), self._grid.n_outer_columns
        self._sized = range(rows.start * width, rows.stop * width)
        self._sizes = array("q", bytes(8 * len(self._sized)))
        digest, is_stamped, expected, n_present = blake2b(digest_size=16), True, rows.start * width, 0
        async for (i, j), stamp in self._stamps(rows):
            self._missing.add_keys(expected, i * width + j)
            expected = i * width + j + 1
            digest.update(f"{i} {j} {stamp}\n".encode())
            is_stamped, n_present = is_stamped and bool(stamp), n_present + 1
        self._missing.add_keys(expected, rows.stop * width)
        sizes = np.frombuffer(self._sizes, np.int64)
        n_bytes = int(sizes.sum()) if np.count_nonzero(sizes) == n_present else None
        return digest.hexdigest(), is_stamped, n_bytes

    async def _stamps(self, rows: range) -> AsyncIterator[tuple[tuple[int, int], str]]:
        """Yield coordinates and stamp of the present chunks of some rows of the grid, ascending."""
        assert self._grid is not None and isinstance(self._store, GuardedStore)
        self._store.forget()
        version = await self._store.version()
        stamps = await self._described(self._store, rows)
        for coordinates in sorted(stamps):
            if coordinates[0] in rows and coordinates[1] < self._grid.n_outer_columns:
                yield coordinates, version or stamps[coordinates]

    async def _described(self, store: GuardedStore, rows: range) -> dict[tuple[int, int], str]:
        """Return the stamps of the present chunks: one request each if they are few, otherwise from a listing."""
        assert self._grid is not None
        grid, stamps = self._grid, dict[tuple[int, int], str]()
        says = store.descriptions
        if says.lists_fast or len(rows) * grid.n_outer_columns > _STAT_ONE_BY_ONE:
            try:
                listed = await store.listing(grid.prefix)
            except SourceError:  # from a server that cannot list, or may not
                if says.lists_fast:
                    raise
                listed = {}
            for key, described in listed.items():
                if (coordinates := grid.coordinates(key)) is not None:
                    stamps[coordinates] = self._stamp(key, coordinates, described)
            if says.lists_fast or (stamps and says.lists_all):
                return stamps

        async def request(i: int, j: int) -> None:
            key = grid.key(i, j)
            if (described := await store.describe(key)) is not None:
                stamps[i, j] = self._stamp(key, (i, j), described)

        places = (place for place in product(rows, range(grid.n_outer_columns)) if place not in stamps)
        n_asked = 0
        while batch := list(islice(places, _AT_ONCE)):
            await gather(*(request(i, j) for i, j in batch))
            n_asked += len(batch)
            if is_sparse(n_asked - len(stamps), len(stamps)):
                raise SourceError(
                    f"{self._uri} lacks {n_asked - len(stamps):,} of the first {n_asked:,} chunks of these rows, and "
                    "the server does not list which are there: choose rows that are, or copy the store to a disk"
                )
        return stamps

    def _stamp(self, key: str, place: tuple[int, int], described: Mapping[str, Any]) -> str:
        """Return the stamp of a chunk and note its size; refuse one that is too long before it is read."""
        assert self._grid is not None
        size = described.get("size")
        if isinstance(size, int):
            if size > self._longest:
                raise CorruptChunkError(
                    f"chunk {key} of {self._uri} is stored in {size:,} bytes, and its metadata allow "
                    f"{self._longest:,}; write it again, or leave these rows out"
                )
            number = place[0] * self._grid.n_outer_columns + place[1]
            if number in self._sized:
                self._sizes[number - self._sized.start] = size
        return stamp_of(described)

    def sizes(self, units: range) -> Array:
        """Return the bytes under the keys of some units, one of an unsharded array each, as the last `scan` found them.

        Returns
        -------
        Array
            Shape ``(len(units), columns)``, int64; 0 for a key that is not there, or whose size was not said.
        """
        assert self._grid is not None
        width, found = self._grid.n_outer_columns, np.zeros(len(units) * self._grid.n_outer_columns, np.int64)
        first = units.start * width
        known = range(max(first, self._sized.start), min(units.stop * width, self._sized.stop))
        if known:
            held = np.frombuffer(self._sizes, np.int64)
            found[known.start - first : known.stop - first] = held[known.start - self._sized.start :][: len(known)]
        return found.reshape(-1, width)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the value under ``key`` as the wrapped store does, but with a grid and types that every zarr opens."""
        value = await self._stored(key, prototype, byte_range)
        if value is None or byte_range is not None or not is_document(key):
            return value
        document = value.to_bytes()
        readable = shown(with_regular_grid(document) if key.endswith("zarr.json") else document)
        return value if readable is document else prototype.buffer.from_bytes(readable)

    async def _stored(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """Return the value under ``key``; of a folder, only regular files are read."""
        try:
            if self.root is not None and byte_range is None:
                return _read_document(os.path.join(self.root, key), prototype)
            value = await self._store.get(key, prototype, byte_range)
        except RankMeError:
            raise
        except OSError as error:
            if isinstance(error, PermissionError) or is_storage_fault(error):
                raise file_error(f"{key} of {self._uri}", error) from error
            raise
        return value
