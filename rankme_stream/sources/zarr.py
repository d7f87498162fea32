"""Rows of a zarr array, v2 or v3, sharded or not; the only module that imports zarr."""

from __future__ import annotations

import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import BaseZarrError, NodeNotFoundError, ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, WrapperStore, ZipStore

from rankme_stream.arrays import Array, StoredType, stored_type
from rankme_stream.chunks import ChunkGrid, MissingChunks, chunk_grid, scan_folder
from rankme_stream.codecs import check_blosc, chunk_codecs, codec_chain, integrity, is_blosc_outermost
from rankme_stream.errors import (
    CorruptChunkError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
)

_METADATA_ERRORS = (BaseZarrError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
_DECODE_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OSError,
    EOFError,
    AttributeError,
    OverflowError,
    AssertionError,
    SystemError,
    zlib.error,
    struct.error,
)
_CHUNK_SLACK_BYTES = 2**16
_LISTED = 20


class ZarrSource:
    """A two-dimensional zarr array.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array``, a URL that fsspec opens, or a ``zarr.Array``.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        Nothing is there, or it may not be read.
    SourceFormatError
        A group, broken metadata, a codec that is not known, or not a non-empty two-dimensional array of numbers.
    """

    def __init__(self, source: object) -> None:
        store, path, self.uri = _locate(source)
        self._store = _AuditingStore(store, self.uri)
        self._array = _open_array(self._store, path, self.uri)
        if self._array.ndim != 2:
            raise SourceFormatError(
                f"{self.uri} has shape {self._array.shape}; (rows, features) is needed: reshape or choose another array"
            )
        n_rows, n_features = (int(n) for n in self._array.shape)
        if n_rows == 0 or n_features == 0:
            raise SourceFormatError(f"{self.uri} has shape {self._array.shape}, so holds no values: write rows first")
        self.shape: tuple[int, int] = n_rows, n_features
        declared = self._array.attrs.asdict().get("dtype")
        self.stored: StoredType = stored_type(self._dtype(), uri=self.uri, declared=declared)
        names = ("zarr.json",) if self._array.metadata.zarr_format == 3 else (".zarray", ".zattrs")
        self._documents = [f"{path}/{name}" if path else name for name in names]
        try:
            metadata = json.loads(self._store.fetch(self._documents[0]))
            self._codecs = codec_chain(metadata)
            self.integrity: str = integrity(self._codecs)
            self._grid: ChunkGrid = chunk_grid(metadata, path=path, uri=self.uri)
        except _METADATA_ERRORS as error:
            _refuse_metadata(self.uri, error)
        self._missing = MissingChunks(self._grid)
        self._store.audit(self._grid, self._missing, has_blosc=is_blosc_outermost(self._codecs))

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""
        return self._missing.count

    @property
    def first_missing(self) -> str | None:
        """Key of the first of them."""
        return self._missing.first()

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Row offsets strictly inside ``(start, stop)`` where an (inner) chunk begins."""
        n_rows = self._grid.inner[0]
        return range((start // n_rows + 1) * n_rows, stop, n_rows)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        CorruptChunkError
            A chunk does not decode; names its key and rows.
        SourcePermissionError
            A chunk may not be read.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        if stop <= start:
            return out
        self._missing.ask(start, stop)
        stored = out.view(self._dtype())
        try:
            self._select(start, stop, 0, self.shape[1], stored)
        except SourcePermissionError:
            raise
        except _DECODE_ERRORS as error:
            self._refuse_chunk(start, stop, error)
        if not stored.dtype.isnative:
            out.byteswap(inplace=True)
        return out

    def read_memory(self, n_rows: int) -> int:
        """Upper estimate of the bytes that a read of ``n_rows`` rows from a bound needs, result included.

        Notes
        -----
        zarr holds up to ``async.concurrency`` chunks at once, each encoded and decoded, whole even where they reach
        past the array; of a shard, the encoded chunks asked for and one more copy of the rows, and again as many
        chunks in decoding.
        """
        grid, itemsize = self._grid, self.stored.dtype.itemsize
        n_tasks = int(zarr.config.get("async.concurrency") or 10)
        chunk = grid.inner[0] * grid.inner[1] * itemsize
        touched = -(-n_rows // grid.inner[0]) * grid.n_inner_columns
        result = n_rows * self.shape[1] * itemsize
        stages = 1 + len(chunk_codecs(self._codecs)) // 3
        if not grid.is_sharded:
            return result + min(touched, n_tasks) * ((1 + stages) * chunk + _CHUNK_SLACK_BYTES)
        per_shard = (grid.outer[0] // grid.inner[0]) * (grid.outer[1] // grid.inner[1])
        in_flight = min(touched, n_tasks * per_shard)
        index = (grid.index.n_bytes if grid.index else 0) * 3 * min(touched, n_tasks)
        selected = in_flight * (2 * chunk + _CHUNK_SLACK_BYTES)
        return result + index + selected + min(in_flight, n_tasks * n_tasks) * stages * chunk

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""
        return self._missing.ranges(start, stop)

    def identity(self) -> dict[str, object]:
        """What two sources must share to be parts of one data set."""
        return {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": self._codecs}

    def fingerprint(self, start: int, stop: int) -> str:
        """Hash of the metadata and of place, size and time of each stored chunk of rows ``[start, stop)``.

        Notes
        -----
        Finds missing chunks on the way; in a local store also missing inner chunks of shards. Elsewhere it is a hash
        of the keys listed, or of the metadata alone where the store cannot list: a chunk rewritten in place is not
        seen there.
        """
        self._missing.ask(start, stop)
        digest = blake2b(digest_size=16)
        for key in self._documents:
            digest.update(self._store.fetch(key))
        root = self._store.root
        try:
            if root is not None:
                digest.update(scan_folder(root, self._grid, self._missing, start, stop).encode())
            elif self._store.supports_listing:
                digest.update(sync(self._store.scan(start, stop)))
        except PermissionError as error:
            raise SourcePermissionError(f"chunks of {self.uri} may not be read: {error}") from error
        return digest.hexdigest()

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self._array.dtype)

    def _select(self, start: int, stop: int, low: int, high: int, out: Array) -> None:
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(out)
        self._array.get_basic_selection((slice(start, stop), slice(low, high)), out=buffer)

    def _refuse_chunk(self, start: int, stop: int, error: BaseException) -> NoReturn:
        # Chunk by chunk, for the name of the one that fails; the first read decodes many at once.
        n_rows, n_columns = self._grid.inner
        for i in range(start // n_rows, -(-stop // n_rows)):
            first, last = max(start, i * n_rows), min(stop, (i + 1) * n_rows)
            for j in range(self._grid.n_inner_columns):
                low, high = j * n_columns, min((j + 1) * n_columns, self.shape[1])
                try:
                    self._select(first, last, low, high, np.empty((last - first, high - low), self._dtype()))
                except SourcePermissionError:
                    raise
                except _DECODE_ERRORS as reason:
                    raise CorruptChunkError(
                        f"chunk {self._grid.inner_key(i, j)} of {self.uri} (rows {first:,}-{last:,}) does not decode: "
                        f"{_line(reason)}; write it again, or leave these rows out"
                    ) from reason
        raise CorruptChunkError(
            f"rows {start:,}-{stop:,} of {self.uri} did not decode ({_line(error)}), though each chunk alone does: "
            "something writes to the store, or the storage is failing"
        ) from error


class _AuditingStore(WrapperStore[Store]):
    """A store that notes which chunks are asked for and are not there, and refuses chunks cut short."""

    def __init__(self, store: Store, uri: str) -> None:
        super().__init__(store)
        self._uri = uri
        self._grid: ChunkGrid | None = None
        self._missing: MissingChunks | None = None
        self._has_blosc = False

    @property
    def root(self) -> str | None:
        """Folder of a local store."""
        return os.fspath(self._store.root) if isinstance(self._store, LocalStore) else None

    def audit(self, grid: ChunkGrid, missing: MissingChunks, *, has_blosc: bool) -> None:
        """Start noting missing chunks."""
        self._grid, self._missing, self._has_blosc = grid, missing, has_blosc

    def fetch(self, key: str) -> bytes:
        """Return what is stored under ``key``, empty when nothing is."""
        found = sync(self.get(key, default_buffer_prototype()))
        return b"" if found is None else found.to_bytes()

    async def scan(self, start: int, stop: int) -> bytes:
        """List the chunks of rows ``[start, stop)``; record the missing, return one bit a chunk."""
        assert self._grid is not None and self._missing is not None
        rows, width = self._grid.outer_rows(start, stop), self._grid.n_outer_columns
        present = np.zeros(len(rows) * width, np.bool_)
        async for key in self._store.list_prefix(self._grid.prefix):
            place = self._grid.coordinates(key)
            if place is not None and place[0] in rows and place[1] < width:
                present[(place[0] - rows.start) * width + place[1]] = True
        for flat in np.flatnonzero(~present):
            i, j = divmod(int(flat), width)
            self._missing.add_key(rows.start + i, j)
        return np.packbits(present).tobytes()

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


def is_zarr_node(source: object) -> bool:
    """Tell whether ``source`` is an opened zarr array or group."""
    return isinstance(source, zarr.Array | zarr.Group)


def _locate(source: object) -> tuple[Store, str, str]:
    if isinstance(source, zarr.Array | zarr.Group):
        store = source.store_path.store
        if not store.read_only:
            store = store.with_read_only(True)
        return store, source.path, f"{source.store}::{source.path}" if source.path else str(source.store)
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else source
    if not isinstance(uri, str):
        raise SourceFormatError(f"rows cannot be read from a {type(source).__name__}")
    location, _, path = uri.partition("::")
    path = path.strip("/")
    try:
        if "://" in location:
            return FsspecStore.from_url(location, read_only=True), path, uri
        os.stat(location)
        with os.scandir(location) if os.path.isdir(location) else open(location, "rb"):
            pass
        if os.path.isdir(location):
            return LocalStore(location, read_only=True), path, uri
        if not zipfile.is_zipfile(location):
            raise SourceFormatError(f"{location} is neither a zarr store nor a .npy file: convert it first")
        return ZipStore(location, mode="r", read_only=True), path, uri
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(f"there is no {location}") from error
    except PermissionError as error:
        raise SourcePermissionError(f"{location} may not be read: check its permissions") from error
    except ImportError as error:
        raise SourceFormatError(f"{uri} needs fsspec and the package for its protocol: {error}") from error
    except (ValueError, OSError) as error:
        raise SourceFormatError(f"{uri} cannot be opened: {_line(error)}") from error


def _open_array(store: _AuditingStore, path: str, uri: str) -> zarr.Array[Any]:
    try:
        node = zarr.open(store=store, path=path, mode="r")
    except SourcePermissionError:
        raise
    except (FileNotFoundError, NodeNotFoundError) as error:
        raise SourceNotFoundError(f"there is no zarr array at {uri}: check the path after '::'") from error
    except (*_METADATA_ERRORS, OSError, RuntimeError) as error:
        _refuse_metadata(uri, error)
    if isinstance(node, zarr.Array):
        return node
    raise SourceFormatError(_group_message(node, path, uri))


def _group_message(group: Any, path: str, uri: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # of things beside the arrays; this names the arrays
            members = [member for _, member in group.members(max_depth=None) if isinstance(member, zarr.Array)]
    except _METADATA_ERRORS as error:
        return f"{uri} is a group, whose members cannot be listed ({_line(error)}): name an array after '::'"
    if not members:
        return f"{uri} is a group without arrays: check the path"
    store = uri.partition("::")[0]
    listed = ", ".join(f"{member.path} {member.shape} {member.dtype}" for member in members[:_LISTED])
    more = f", and {len(members) - _LISTED} more" if len(members) > _LISTED else ""
    fit = [member.path for member in members if member.ndim == 2 and np.dtype(member.dtype).kind in "iuf"]
    remedy = f"use e.g. '{store}::{fit[0]}'" if fit else "none of them is a two-dimensional array of numbers"
    return f"{uri} is a group of arrays, not an array: {listed}{more}; {remedy}"


def _refuse_metadata(uri: str, error: BaseException) -> NoReturn:
    if isinstance(error, SourceFormatError):
        raise error
    raise SourceFormatError(f"{uri} has metadata that cannot be read here: {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
