"""A zarr store that notes which chunks are asked for and are not there."""

from __future__ import annotations

import os
from asyncio import Semaphore, gather
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore, ZipStore

from rankme_stream.errors import SourcePermissionError
from rankme_stream.sources.zarr.chunk_grid import ChunkGrid, MissingChunks
from rankme_stream.sources.zarr.codecs import check_blosc

_ASKED_ONE_BY_ONE = 1000  # chunks; a listing of more takes fewer requests: a thousand names each
_AT_ONCE = 32
_STAMPS = (
    "ETag", "etag", "md5Hash", "Content-MD5", "blob_id", "mtime", "LastModified", "last_modified", "Last-Modified",
    "updated", "created",
)  # fmt: skip


def _stamp(described: Mapping[str, Any]) -> str:
    """Return size and tag or time of a file, whatever its file system calls them."""
    when = next((described[name] for name in _STAMPS if described.get(name) is not None), "")
    return f"{described.get('size')} {when}"


def _stamp_of_archive(store: Store) -> str:
    """Return size and time of a zip file; nothing for other stores."""
    if not isinstance(store, ZipStore):
        return ""
    found = os.stat(store.path)
    return f"{found.st_size} {found.st_mtime_ns}"


class AuditingStore(WrapperStore[Store]):
    """A store that notes which chunks are asked for and are not there, and refuses chunks cut short."""

    def __init__(self, store: Store, uri: str) -> None:
        super().__init__(store)
        self._uri = uri
        self._grid: ChunkGrid | None = None
        self._missing: MissingChunks | None = None
        self._has_blosc = False

    @property
    def root(self) -> str | None:
        """Folder of a local store; a class made from that of local stores may answer otherwise than its files do."""
        return os.fspath(self._store.root) if type(self._store) is LocalStore else None

    @property
    def is_archive(self) -> bool:
        """Whether all chunks lie in one file."""
        return isinstance(self._store, ZipStore)

    def audit(self, grid: ChunkGrid, missing: MissingChunks, *, has_blosc: bool) -> None:
        """Start noting missing chunks."""
        self._grid, self._missing, self._has_blosc = grid, missing, has_blosc

    def fetch(self, key: str) -> bytes:
        """Return what is stored under ``key``, empty when nothing is."""
        found = sync(self.get(key, default_buffer_prototype()))
        return b"" if found is None else found.to_bytes()

    async def scan(self, start: int, stop: int) -> str:
        """Find the chunks of rows ``[start, stop)``; record the missing, return a hash of the others.

        Of place, size and time or tag, as far as the store tells; where it tells none, of the store's name.
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
        """Yield place and stamp of the chunks of some rows of the grid that are there, ascending."""
        assert self._grid is not None
        found: dict[tuple[int, int], str] = {}
        if isinstance(self._store, FsspecStore):
            found = await self._described(self._store, rows)
        else:
            whole = _stamp_of_archive(self._store) or self._uri
            async for key in self._store.list_prefix(self._grid.prefix):
                if (place := self._grid.coordinates(key)) is not None:
                    found[place] = whole
        for place in sorted(found):
            if place[0] in rows and place[1] < self._grid.n_outer_columns:
                yield place, found[place]

    async def _described(self, store: FsspecStore, rows: range) -> dict[tuple[int, int], str]:
        """Return the stamps of chunks in a file system: asked for one by one where they are few, else listed."""
        assert self._grid is not None
        grid, found = self._grid, {}
        store.fs.invalidate_cache()  # of listings, which some keep for the whole process
        if len(rows) * grid.n_outer_columns > _ASKED_ONE_BY_ONE:
            folder = f"{store.path}/{grid.prefix}".rpartition("/")[0]
            listed = await store.fs._find(folder, detail=True, withdirs=False)
            for name, described in listed.items():
                if (place := grid.coordinates(name.removeprefix(f"{store.path}/"))) is not None:
                    found[place] = _stamp(described)
            if found:  # else a server that lists nothing, perhaps
                return found
        at_once = Semaphore(_AT_ONCE)

        async def ask(place: tuple[int, int]) -> None:
            async with at_once:
                with suppress(FileNotFoundError):
                    found[place] = _stamp(await store.fs._info(f"{store.path}/{grid.key(*place)}"))

        await gather(*(ask((i, j)) for i in rows for j in range(grid.n_outer_columns)))
        return found

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is stored under ``key``, as the wrapped store does."""
        try:
            found = await self._store.get(key, prototype, byte_range)
        except PermissionError as error:
            raise SourcePermissionError(f"{key} of {self._uri} may not be read: check its permissions") from error
        if self._grid is not None and self._missing is not None:
            place = self._grid.coordinates(key)
            if place is not None and found is None:
                self._missing.add_key(*place)
            elif place is not None and found is not None:
                self._inspect(place, found, byte_range, self._grid, self._missing)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several values, each through `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **_: Any
    ) -> AsyncIterator[list[tuple[int, Buffer | None]]]:
        """Yield parts of a shard, each through `get`.

        zarr from 3.3 on would ask the wrapped store, for several in one with what lies between, of which `get` and
        what is foretold of memory would not know; and raise groups of errors.
        """
        at_once = Semaphore(_AT_ONCE)

        async def part(place: int, byte_range: ByteRequest | None) -> tuple[int, Buffer | None]:
            async with at_once:
                return place, await self.get(key, prototype, byte_range)

        yield await gather(*(part(place, byte_range) for place, byte_range in enumerate(byte_ranges)))

    def _inspect(
        self,
        place: tuple[int, int],
        found: Buffer,
        byte_range: ByteRequest | None,
        grid: ChunkGrid,
        missing: MissingChunks,
    ) -> None:
        index, n_bytes = grid.index, len(found)
        if index is None:
            if self._has_blosc and byte_range is None and not grid.is_sharded:
                check_blosc(found.as_numpy_array())
            return
        if byte_range is None:
            missing.add_index(*place, index.check_shard(found.as_numpy_array(), has_blosc=self._has_blosc))
            return
        is_index = isinstance(byte_range, SuffixByteRequest) or (
            isinstance(byte_range, RangeByteRequest) and index.is_at_start and byte_range.start == 0
        )
        if is_index:
            index.check_length(n_bytes)
            missing.add_index(*place, index.entries(found.to_bytes()))
        elif isinstance(byte_range, RangeByteRequest):
            # zarr takes an empty answer for an unwritten chunk and fills it in.
            if n_bytes != byte_range.end - byte_range.start or n_bytes == 0:
                raise ValueError(
                    f"shard index points to bytes {byte_range.start}-{byte_range.end} past the shard's end"
                )
            if self._has_blosc:
                check_blosc(found.as_numpy_array())
