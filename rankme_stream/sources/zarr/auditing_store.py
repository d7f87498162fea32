"""Zarr store that records which of the chunks requested are missing."""

from __future__ import annotations

import os
from asyncio import Semaphore, gather
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore, ZipStore

from rankme_stream.errors import RankMeError, SourceError, SourcePermissionError
from rankme_stream.sources.file_errors import file_error
from rankme_stream.sources.zarr.chunk_grid import ChunkGrid, MissingChunks
from rankme_stream.sources.zarr.codecs import check_blosc
from rankme_stream.sources.zarr.remote_store import RemoteStore, with_retries

_STAT_ONE_BY_ONE = 1000  # chunks; for more, a listing takes fewer requests: a thousand names each
_AT_ONCE = 32
_STAMPS = (
    "ETag", "etag", "md5Hash", "Content-MD5", "blob_id", "mtime", "LastModified", "last_modified", "Last-Modified",
    "updated", "created",
)  # fmt: skip


def _stamp(described: Mapping[str, Any]) -> str:
    """Return size and tag or time of a file, under any of the names that file systems use."""
    when = next((described[name] for name in _STAMPS if described.get(name) is not None), "")
    return f"{described.get('size')} {when}"


def _stamp_of_archive(store: Store) -> str:
    """Return size and time of a zip file; the empty string for other stores."""
    if not isinstance(store, ZipStore):
        return ""
    status = os.stat(store.path)
    return f"{status.st_size} {status.st_mtime_ns}"


class AuditingStore(WrapperStore[Store]):
    """Store that records which of the chunks requested are missing, and refuses truncated chunks."""

    def __init__(self, store: Store, uri: str) -> None:
        super().__init__(with_retries(store, uri))
        self._uri = uri
        self._grid: ChunkGrid | None = None
        self._missing: MissingChunks | None = None
        self._has_blosc = False

    @property
    def root(self) -> str | None:
        """Folder of a local store; None for a subclass of it, which may answer differently from its files."""
        return os.fspath(self._store.root) if type(self._store) is LocalStore else None

    @property
    def is_archive(self) -> bool:
        """Whether all chunks are in one file."""
        return isinstance(self._store, ZipStore)

    @property
    def denied(self) -> SourcePermissionError | None:
        """Refusal of a server that was taken for the absence of a metadata document; None if there was none."""
        return self._store.denied if isinstance(self._store, RemoteStore) else None

    def audit(self, grid: ChunkGrid, missing: MissingChunks, *, has_blosc: bool) -> None:
        """Start recording missing chunks."""
        self._grid, self._missing, self._has_blosc = grid, missing, has_blosc

    def fetch(self, key: str) -> bytes:
        """Return the bytes stored under ``key``; empty when there are none; raise what a server refuses."""
        value = sync(self.get(key, default_buffer_prototype()))
        if value is None and self.denied is not None:
            raise self.denied
        return b"" if value is None else value.to_bytes()

    def check_length(self, i: int, j: int) -> None:
        """Raise StorageError if a server sends another number of bytes for a chunk or shard than it states."""
        assert self._grid is not None
        if isinstance(self._store, RemoteStore):
            sync(self._store.check_length(self._grid.key(i, j)))

    async def scan(self, start: int, stop: int) -> str:
        """Find the chunks of rows ``[start, stop)``; record the missing ones, return a hash of the others.

        The hash covers coordinates, size and time or tag, or the store's name where the store gives no size and time.
        """
        assert self._grid is not None and self._missing is not None
        rows, width = self._grid.outer_rows(start, stop), self._grid.n_outer_columns
        present = np.zeros(len(rows) * width, np.bool_)
        digest = blake2b(digest_size=16)
        async for (i, j), stamp in self._stamps(rows):
            present[(i - rows.start) * width + j] = True
            digest.update(f"{i} {j} {stamp}\n".encode())
        for flat in np.flatnonzero(~present):
            i, j = divmod(int(flat), width)
            self._missing.add_key(rows.start + i, j)
        return digest.hexdigest()

    async def _stamps(self, rows: range) -> AsyncIterator[tuple[tuple[int, int], str]]:
        """Yield coordinates and stamp of the present chunks of some rows of the grid, ascending."""
        assert self._grid is not None
        stamps: dict[tuple[int, int], str] = {}
        if isinstance(self._store, RemoteStore):
            self._store.forget()
        if isinstance(self._store, RemoteStore) and self._store.describes:
            stamps = await self._remote_stamps(self._store, rows)
        else:
            whole = _stamp_of_archive(self._store) or self._uri
            async for key in self._store.list_prefix(self._grid.prefix):
                if (coordinates := self._grid.coordinates(key)) is not None:
                    stamps[coordinates] = whole
        for coordinates in sorted(stamps):
            if coordinates[0] in rows and coordinates[1] < self._grid.n_outer_columns:
                yield coordinates, stamps[coordinates]

    async def _remote_stamps(self, store: RemoteStore, rows: range) -> dict[tuple[int, int], str]:
        """Return the stamps of chunks on a server: one request each if they are few, otherwise from a listing."""
        assert self._grid is not None
        grid, stamps = self._grid, {}
        if len(rows) * grid.n_outer_columns > _STAT_ONE_BY_ONE:
            try:
                listed = await store.listing(grid.prefix)
            except SourceError:  # from a server that cannot list, or may not
                listed = {}
            for key, described in listed.items():
                if (coordinates := grid.coordinates(key)) is not None:
                    stamps[coordinates] = _stamp(described)
            if stamps and store.lists_all:
                return stamps
        at_once = Semaphore(_AT_ONCE)

        async def request(i: int, j: int) -> None:
            async with at_once:
                if (described := await store.describe(grid.key(i, j))) is not None:
                    stamps[i, j] = _stamp(described)

        columns = range(grid.n_outer_columns)
        await gather(*(request(i, j) for i in rows for j in columns if (i, j) not in stamps))
        return stamps

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the value under ``key`` as the wrapped store does, after checking it."""
        try:
            value = await self._store.get(key, prototype, byte_range)
        except RankMeError:
            raise
        except OSError as error:
            raise file_error(f"{key} of {self._uri}", error) from error
        if self._grid is not None and self._missing is not None:
            coordinates = self._grid.coordinates(key)
            if coordinates is not None and value is None:
                self._missing.add_key(*coordinates)
            elif coordinates is not None and value is not None:
                self._inspect(coordinates, value, byte_range, self._grid, self._missing)
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several values, each through `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **_: Any
    ) -> AsyncIterator[list[tuple[int, Buffer | None]]]:
        """Yield parts of a shard, each through `get`.

        From 3.3 on, zarr would read several parts from the wrapped store in one request, with the bytes between them:
        `get` would not see these parts and the predicted memory would not include them. It also raises error groups.
        """
        at_once = Semaphore(_AT_ONCE)

        async def part(number: int, byte_range: ByteRequest | None) -> tuple[int, Buffer | None]:
            async with at_once:
                return number, await self.get(key, prototype, byte_range)

        yield await gather(*(part(number, byte_range) for number, byte_range in enumerate(byte_ranges)))

    def _inspect(
        self,
        coordinates: tuple[int, int],
        value: Buffer,
        byte_range: ByteRequest | None,
        grid: ChunkGrid,
        missing: MissingChunks,
    ) -> None:
        """Check a chunk, or a shard or part of one; record the missing chunks of a shard."""
        index, n_bytes = grid.index, len(value)
        if index is None:
            if self._has_blosc and byte_range is None and not grid.is_sharded:
                check_blosc(value.as_numpy_array())
            return
        if byte_range is None:
            missing.add_index(*coordinates, index.check_shard(value.as_numpy_array(), has_blosc=self._has_blosc))
            return
        is_index = isinstance(byte_range, SuffixByteRequest) or (
            isinstance(byte_range, RangeByteRequest) and index.is_at_start and byte_range.start == 0
        )
        if is_index:
            index.check_length(n_bytes)
            missing.add_index(*coordinates, index.entries(value.to_bytes()))
        elif isinstance(byte_range, RangeByteRequest):
            # zarr would take an empty answer for an unwritten chunk and fill it in.
            if n_bytes != byte_range.end - byte_range.start or n_bytes == 0:
                raise ValueError(
                    f"shard index points to bytes {byte_range.start}-{byte_range.end} past the shard's end"
                )
            if self._has_blosc:
                check_blosc(value.as_numpy_array())
