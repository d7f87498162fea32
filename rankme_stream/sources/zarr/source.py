"""Rows of a zarr array, v2 or v3, sharded or not."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceFormatError, StorageError
from rankme_stream.numerics.dtypes import Array, StoredType, stored_type
from rankme_stream.sources.file_errors import file_error
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_grid import ChunkGrid, MissingChunks, chunk_grid, scan_folder
from rankme_stream.sources.zarr.codecs import (
    chunk_codecs,
    codec_chain,
    codec_fields,
    decoder,
    integrity,
    is_blosc_outermost,
)
from rankme_stream.sources.zarr.direct_read import ChunkFiles
from rankme_stream.sources.zarr.locate import (
    METADATA_ERRORS,
    locate,
    open_array,
    refuse_metadata,
    reopening_argument,
)
from rankme_stream.sources.zarr.remote_faults import in_one_line

DECODE_ERRORS = (
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
_ZARR_SWAPS_BYTES = [int(part) for part in re.findall(r"\d+", zarr.__version__)[:2]] >= [3, 3]


def _decoding_chunks(codecs: Sequence[tuple[str, Mapping[str, Any]]], dtype: np.dtype[Any]) -> int:
    """Return the largest number of chunks in memory while one is decoded, the stored one not counted.

    Notes
    -----
    The decoded chunk is one; another lies between successive codecs. zlib and gzip join pieces, and gzip reads from a
    copy. A codec ``bytes`` whose byte order differs from the array's takes a view of the decoded chunk before zarr 3.3,
    and a copy from 3.3 on, after the memory of the other codecs is freed.
    """
    names = [name.removeprefix("numcodecs.") for name, _ in codecs]
    n_chunks = 1 + len(codecs) // 3 + (2 if "gzip" in names else "zlib" in names)
    orders = [configuration.get("endian") for name, configuration in codecs if name == "bytes"]
    swaps = any(dtype.newbyteorder(order) != dtype for order in orders if order in ("little", "big"))
    return max(n_chunks, 2) if swaps and _ZARR_SWAPS_BYTES and len(codecs) > 1 else n_chunks


class ZarrSource:
    """Two-dimensional zarr array.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array``, a URL that fsspec opens, or a ``zarr.Array``.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If nothing is there, or it may not be read.
    SourceFormatError
        If it is a group, its metadata are broken, a codec is unknown, or it is not a non-empty two-dimensional array of
        numbers.
    """

    def __init__(self, source: object) -> None:
        store, path, self.uri = locate(source)
        self._reopening_argument = reopening_argument(source, store, path)
        self._store = AuditingStore(store, self.uri)
        self._array = open_array(self._store, path, self.uri)
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
        name = "zarr.json" if self._array.metadata.zarr_format == 3 else ".zarray"
        self._document = f"{path}/{name}" if path else name
        try:
            metadata = json.loads(self._store.fetch(self._document))
            self._codecs = codec_chain(metadata)
            self.integrity: str = integrity(self._codecs)
            self._grid: ChunkGrid = chunk_grid(metadata, path=path, uri=self.uri)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        self._missing = MissingChunks(self._grid)
        self._store.audit(self._grid, self._missing, has_blosc=is_blosc_outermost(self._codecs))
        self._files = self._open_files(metadata)

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""
        return self._missing.count

    @property
    def first_missing(self) -> str | None:
        """Key of the first of these chunks."""
        return self._missing.first()

    @property
    def decoder(self) -> str:
        """Library that decodes chunks: ``numcodecs``, called directly on files, or ``zarr``."""
        return "zarr" if self._files is None else "numcodecs"

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a chunk, or any loose row, begins."""
        n_rows = 1 if self._files is not None and self._files.has_loose_rows else self._grid.inner[0]
        return range((start // n_rows + 1) * n_rows, stop, n_rows)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        CorruptChunkError
            If a chunk does not decode; the message has its key and rows.
        SourcePermissionError, StorageError
            If a chunk may not be read, or the storage fails.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        if stop <= start:
            return out
        self._missing.request(start, stop)
        if self._files is None:
            self._read_in_zarr(start, stop, 0, out)
        elif not self._files.read(start, stop, out):
            n_rows, n_columns = self._grid.inner
            edges = [start, *range((start // n_rows + 1) * n_rows, stop, n_rows), stop]
            for first, last in pairwise(edges):  # one chunk of rows at a time, as `read_memory` predicts
                rows = out[first - start : last - start]
                if not self._files.read(first, last, rows):
                    for low in range(0, self.shape[1], n_columns):
                        self._read_in_zarr(first, last, low, rows[:, low : low + n_columns])
        return out

    def _read_in_zarr(self, start: int, stop: int, low: int, out: Array) -> None:
        """Read rows and features through zarr, which records missing chunks and reports faults."""
        stored = out.view(self._dtype())
        try:
            self._select(self._array, start, stop, low, low + out.shape[1], stored)
        except RankMeError:
            raise
        except DECODE_ERRORS as error:
            self._refuse_chunk(start, stop, error)
        if not stored.dtype.isnative:
            out.byteswap(inplace=True)

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the bytes that reading ``n_rows`` rows from a bound takes, result included.

        Notes
        -----
        Files that are read directly take one chunk at a time. zarr holds up to ``async.concurrency`` chunks at once,
        each encoded and decoded, whole even where they reach past the array; of a shard, it holds the encoded chunks
        requested, one more copy of the rows, and again as many chunks while decoding.
        """
        if self._files is not None:
            return self._files.read_memory(n_rows)
        grid, itemsize = self._grid, self.stored.dtype.itemsize
        n_tasks = int(zarr.config.get("async.concurrency") or 10)
        chunk = grid.inner[0] * grid.inner[1] * itemsize
        touched = -(-n_rows // grid.inner[0]) * grid.n_inner_columns
        result = n_rows * self.shape[1] * itemsize
        stages = _decoding_chunks(chunk_codecs(self._codecs), self._dtype())
        if not grid.is_sharded:
            return result + min(touched, n_tasks) * ((1 + stages) * chunk + _CHUNK_SLACK_BYTES)
        per_shard = (grid.outer[0] // grid.inner[0]) * (grid.outer[1] // grid.inner[1])
        in_flight = min(touched, n_tasks * per_shard)
        index = (grid.index.n_bytes if grid.index else 0) * 3 * min(touched, n_tasks)
        selected = in_flight * (2 * chunk + _CHUNK_SLACK_BYTES)
        return result + index + selected + min(in_flight, n_tasks * n_tasks) * stages * chunk

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""
        return self._missing.ranges(start, stop)

    @property
    def tail_start(self) -> int:
        """First row of the last chunk or shard, or the number of rows if that one is full; 0 in a zip file."""
        return 0 if self._store.is_archive else self.shape[0] // self._grid.outer[0] * self._grid.outer[0]

    def reopen(self) -> Any:
        """Return an argument that opens the array in another process; None if the store lives in this one."""
        return self._reopening_argument

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        return {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": self._codecs}

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the layout and of coordinates, size and time of each stored chunk of rows ``[start, stop)``.

        Notes
        -----
        Also records missing chunks; in a local store, missing inner chunks of shards too. Where a store gives no size
        and time, or cannot list, its name is hashed instead: a chunk rewritten in place goes unnoticed there.
        """
        self._missing.request(start, stop)
        digest = blake2b(digest_size=16)
        digest.update(self._layout())
        try:
            if self._store.root is not None:
                digest.update(self._list(start, stop))
            elif self._store.supports_listing:
                digest.update(sync(self._store.scan(start, stop)).encode())
            else:
                digest.update(self.uri.encode())
        except RankMeError:
            raise
        except OSError as error:
            raise file_error(f"{error.filename or 'a chunk'} of {self.uri}", error) from error
        return digest.hexdigest()

    def _layout(self) -> bytes:
        """Return the current metadata without the number of rows and the attributes."""
        try:
            metadata = json.loads(self._store.fetch(self._document))
            del metadata["shape"][0]
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        metadata.pop("attributes", None)
        return json.dumps([metadata, self.stored.name], sort_keys=True).encode()

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self._array.dtype)

    def _open_files(self, metadata: dict[str, Any]) -> ChunkFiles | None:
        """Return a direct reader of a folder's files, if its codecs can be called directly and its index is known."""
        can_decode, decode = decoder(metadata)
        has_index = self._grid.index is not None or "sharding_indexed" not in [codec_fields(c)[0] for c in self._codecs]
        if self._store.root is None or not (can_decode and has_index and self._dtype().isnative):
            return None
        return ChunkFiles(self._store.root, self._grid, decode, self.stored.dtype)

    def _list(self, start: int, stop: int) -> bytes:
        """Record which chunks of rows ``[start, stop)`` a folder lacks; return a hash of the others."""
        assert self._store.root is not None
        return scan_folder(self._store.root, self._grid, self._missing, start, stop).encode()

    @staticmethod
    def _select(array: zarr.Array[Any], start: int, stop: int, low: int, high: int, out: Array) -> None:
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(out)
        array.get_basic_selection((slice(start, stop), slice(low, high)), out=buffer)

    def _refuse_chunk(self, start: int, stop: int, error: BaseException) -> NoReturn:
        # Reads chunk by chunk to name the one that fails; the first read decoded many at once.
        n_rows, n_columns = self._grid.inner
        for i in range(start // n_rows, -(-stop // n_rows)):
            first, last = max(start, i * n_rows), min(stop, (i + 1) * n_rows)
            for j in range(self._grid.n_inner_columns):
                low, high = j * n_columns, min((j + 1) * n_columns, self.shape[1])
                try:
                    self._select(
                        self._array, first, last, low, high, np.empty((last - first, high - low), self._dtype())
                    )
                except RankMeError:
                    raise
                except DECODE_ERRORS as reason:
                    self._store.check_length(first // self._grid.outer[0], low // self._grid.outer[1])
                    raise CorruptChunkError(
                        f"chunk {self._grid.inner_key(i, j)} of {self.uri} (rows {first:,}-{last:,}) does not decode: "
                        f"{in_one_line(reason)}; write it again, or leave these rows out"
                    ) from reason
        raise StorageError(
            f"rows {start:,}-{stop:,} of {self.uri} did not decode ({in_one_line(error)}), though each chunk alone "
            "does: something writes to the store, or the storage is failing"
        ) from error
