"""Rows of a zarr array of two dimensions or more, v2 or v3, sharded or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from rankme_stream.errors import RankMeError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.content import content_digest
from rankme_stream.sources.features_axis import axis_of_features
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.stored_sizes import StoredSizes
from rankme_stream.sources.stores.file_errors import file_error
from rankme_stream.sources.value_types import identity_of
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_reader import ChunkReader
from rankme_stream.sources.zarr.chunk_storage import ChunkStorage, FolderChunks, StoreChunks
from rankme_stream.sources.zarr.codecs.chain import codec_chain, integrity
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.foreign_array import ForeignArray
from rankme_stream.sources.zarr.grids.grid_metadata import chunk_grid, drop_growth
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.locate import (
    METADATA_ERRORS,
    locate,
    open_array,
    refuse_metadata,
    reopening_argument,
)
from rankme_stream.sources.zarr.misplaced_chunks import MisplacedChunks
from rankme_stream.sources.zarr.storage_facts import storage_of_grid, uncoded_bytes
from rankme_stream.sources.zarr.values.meaning import DeclaredArray, meaning_of
from rankme_stream.sources.zarr.values.surroundings import Surroundings

_KEYS_TRIED = 8  # of missing chunks, under the names that other settings would give them


class ZarrSource:
    """Zarr array, one axis of which is the features; the other axes are flattened to rows in storage order.

    Parameters
    ----------
    source
        ``store.zarr``, ``store.zarr::group/array``, a URL that fsspec opens, a ``zarr.Array``, a store of zarr, or an
        array of another format.
    options
        What the caller says about the array.
    scaled
        Of an array of scales, the number of axes of the rows that it scales, and the axis of their features. It has
        the same axis of features, or none, which is taken as one feature.
    looks_around
        Whether the error where there is no array says what is there, which takes requests.

    Attributes
    ----------
    axis, n_axes
        Number of the axis of the features, and of all axes.
    scales
        Array of scales that an option or the metadata name; None without.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If nothing is there, or it may not be read.
    SourceFormatError
        If it is a group, its metadata are broken, a codec is unknown, it is not a non-empty array of numbers of two
        dimensions or more, or it is not clear which axis is the features.
    UsageError
        If there is no such axis as the options name.
    """

    def __init__(
        self,
        source: object,
        options: ArrayOptions = NO_OPTIONS,
        *,
        scaled: tuple[int, int] | None = None,
        looks_around: bool = True,
    ) -> None:
        self._foreign = source if isinstance(source, ForeignArray) else None
        store: Store
        if isinstance(source, ForeignArray):
            store, path, self.uri = source.store(), source.path, source.uri
            self._reopening_argument = source.chunks.reopen(options)
        else:
            store, path, self.uri = locate(source, options.path)
            self._reopening_argument = reopening_argument(source, store, path, options)
        self._store = AuditingStore(store, self.uri)
        self._chunks = self._chunk_storage(store)
        array = open_array(self._store, path, self.uri, looks_around=looks_around)
        if array.ndim < (2 if scaled is None else 1):
            raise SourceFormatError(
                f"{self.uri} has shape {array.shape}; (rows, features) is needed: reshape or choose another array"
            )
        if 0 in array.shape:
            raise SourceFormatError(f"{self.uri} has shape {array.shape}, so holds no values: write rows first")
        self.n_axes, self._document = array.ndim, document_of(array, path)
        try:
            dtype = np.dtype(array.dtype)
            metadata = self._metadata()
            self._codecs = codec_chain(metadata)
            self.integrity: str = integrity(self._codecs)
            attributes = _attributes(array)
            if scaled is not None:
                self.axis = scaled[1] if array.ndim == scaled[0] else array.ndim
            else:
                names = _axis_names(metadata, attributes)
                self.axis = axis_of_features(options.features_axis, array.shape, names, self.uri)
            self._grid = chunk_grid(metadata, self.axis, path=path, uri=self.uri)
            self.shape: tuple[int, int] = self._grid.shape
            around = Surroundings(self._store, path, array.metadata.zarr_format)
            self.stored, self.scales = meaning_of(
                DeclaredArray(metadata, attributes, dtype, self.shape, around, self.uri), options
            )
            more = {} if self._foreign is None else self._foreign.codecs
            decoder = ChunkDecoder(metadata, self._grid.chunk_shape, dtype, self.uri, more)
            fill = _fill(array.fill_value, dtype).view(self.stored.dtype)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        self._is_coded, self._missing = not decoder.is_plain, MissingChunks(self._grid)
        self._n_bytes: int | None = None  # stored, as the last look at all chunks found
        self._misplaced: MisplacedChunks | None = None
        if self._foreign is None:
            self._misplaced = MisplacedChunks(self._store, self.uri, metadata, path)
            self._misplaced.check_first(self._grid.key(0, 0))
        self._store.audit(self._grid, self._missing, self._grid.longest_value(decoder.longest))
        self._reader = ChunkReader(self._chunks.values(self._grid), self._grid, decoder, self._missing, fill, self.uri)

    def use_buffers(self, buffers: threading.local) -> None:
        """Decode chunks in memory that several sources share, which each thread keeps once."""
        self._reader.buffers = buffers

    @property
    def chunks_missing(self) -> int:
        """Number of chunks known so far to be unwritten."""
        return self._missing.count

    @property
    def first_missing(self) -> str | None:
        """Key of the first of these chunks."""
        return self._missing.first()

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return the row offsets strictly inside ``(start, stop)`` where a chunk, or any loose row, begins."""
        return range(start + 1, stop) if self._reader.has_loose_rows else self._grid.bounds(start, stop)

    def read(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Return rows ``[start, stop)``, native byte order, C order, in ``out`` when given.

        Raises
        ------
        CorruptChunkError
            If a chunk does not decode to the size in its metadata; the message has its key and rows.
        SourcePermissionError, StorageError
            If a chunk may not be read, or the storage fails.
        """
        if out is None:
            out = np.empty((stop - start, self.shape[1]), self.stored.dtype)
        if stop > start:
            self._missing.request(start, stop)
            self._reader.read(start, stop, out)
            self._check_missing()
        return out

    def coordinates(self, start: int, stop: int) -> Array:
        """Return where rows ``[start, stop)`` lie in the array: places along the axes other than the features'.

        Returns
        -------
        Array
            Shape ``(stop - start, n_axes - 1)``, int64. ``values[tuple(coordinates.T)]`` is one of an array of such
            axes for each row, such as a label.
        """
        return self._grid.row_coordinates(start, stop)

    def read_memory(self, n_rows: int) -> int:
        """Return an upper estimate of the bytes that reading ``n_rows`` rows from a bound takes, result included.

        Notes
        -----
        Chunks are decoded one at a time, whole even where they reach past the array. Of a store, not a folder, up to
        ``async.concurrency`` keys are requested at once: their stored bytes are held until they are decoded.
        """
        return self._reader.read_memory(n_rows, self.stored.dtype.itemsize)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges within ``[start, stop)`` known so far to be unwritten, ascending, merged."""
        return self._missing.ranges(start, stop)

    @property
    def tail_start(self) -> int:
        """First row of the last chunk or shard, or the number of rows if that one is full.

        0 where one version stands for all rows: in a file of many chunks, and in a commit of icechunk.
        """
        changes_as_a_whole = self._foreign is not None or self._store.changes_as_a_whole
        return 0 if changes_as_a_whole else self._grid.tail_start

    @property
    def row_order(self) -> tuple[object, ...] | None:
        """What the order of the rows depends on, beside their number; None where it is that of C."""
        return self._grid.row_order

    def argument_of(self, path: str) -> Opening:
        """Return what opens another array of the store in this process, by its path in the store, or by its folder."""
        return self._chunks.argument_of(path)

    def reopen(self) -> Any:
        """Return an argument that opens the array in another process; None if the store lives in this one."""
        return self._reopening_argument

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        properties = {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": self._codecs}
        return properties | identity_of(self.stored)

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the layout and of coordinates, size and time of each stored chunk of rows ``[start, stop)``.

        Notes
        -----
        Also records missing chunks; in a local store, missing inner chunks of shards too. Where a store gives no time
        or tag, or cannot list, three rows are read and hashed as well: other chunks rewritten go unnoticed there.
        """
        self._missing.request(start, stop)
        digest = blake2b(digest_size=16)
        digest.update(self._layout(stop))
        try:
            found = self._chunks.scan(self._missing, start, stop)
        except RankMeError:
            raise
        except OSError as error:
            raise file_error(f"{error.filename or 'a chunk'} of {self.uri}", error) from error
        digest.update(found.stamps)
        self._n_bytes = found.n_bytes if (start, stop) == (0, self.shape[0]) else self._n_bytes
        self._check_missing()
        if not found.is_stamped:
            digest.update(content_digest(self, start, stop, drawn=1).encode())
        return digest.hexdigest()

    def stored_sizes(self, start: int, stop: int) -> list[StoredSizes]:
        """Return the stored sizes of the chunks of rows ``[start, stop)``: of files, or as the last fingerprint found.

        None of arrays whose chunks are not coded, so that all have one size, and of shards on a server, whose index
        would have to be asked for.
        """
        grid = self._grid
        if not self._is_coded or start >= stop:
            return []
        units = grid.units(start, stop)
        columns = self._chunks.sizes(units)
        if columns is None:
            return []
        n_bytes = np.where((columns > 0).all(axis=1), columns.sum(axis=1), 0)
        edges = np.array([start, *grid.bounds(start, stop), stop], np.int64)
        for place, unit in enumerate(units):
            box = grid.box(unit, 0)
            if len(range(*edges[place : place + 2])) < prod(box.shape) // box.shape[grid.features_axis]:
                n_bytes[place] = 0
        return [StoredSizes(edges, n_bytes)]

    def storage(self) -> Storage:
        """Return chunks, shards, compression and order, and the bytes: of coded chunks as a fingerprint found them."""
        n_bytes = self._n_bytes if self._is_coded else uncoded_bytes(self._grid, self.stored.dtype.itemsize)
        found = storage_of_grid(self._grid, 3 if self._document.endswith("zarr.json") else 2, self._codecs, n_bytes)
        return found if self._foreign is None else self._foreign.chunks.storage(found)

    def _check_missing(self) -> None:
        """Refuse an array whose missing chunks lie under other keys; looked for once, when the first is missing."""
        misplaced = self._misplaced
        if misplaced is None or not self._missing.count:
            return
        first_row, _ = self._missing.ranges(0, self.shape[0])[0]
        rows = self._grid.outer_rows(0, self.shape[0])
        tried = [self._grid.outer_rows(first_row, first_row + 1)[0], *rows[:: -(-len(rows) // _KEYS_TRIED)]]
        misplaced.check(self._grid.key(i, 0) for i in tried)
        self._misplaced = None

    def _layout(self, stop: int) -> bytes:
        """Return the current metadata without the attributes and what changes when rows are added after ``stop``."""
        try:
            metadata = self._metadata()
            drop_growth(metadata, self._grid, stop, self.uri)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        metadata.pop("attributes", None)
        axis = () if self._grid.has_features_last else (self.axis,)
        return json.dumps(
            [metadata, self.stored.name, *axis, *identity_of(self.stored).values()], sort_keys=True
        ).encode()

    def _metadata(self) -> dict[str, Any]:
        """Return the metadata document of the array as it is now, with the codecs that zarr itself cannot open."""
        metadata: dict[str, Any] = json.loads(self._store.fetch(self._document))
        return metadata if self._foreign is None else metadata | {"filters": self._foreign.filters}

    def _chunk_storage(self, store: Store) -> ChunkStorage:
        """Return where the chunks are stored."""
        if self._foreign is not None:
            return self._foreign.chunks
        if self._store.root is not None:
            return FolderChunks(self._store.root, self.uri)
        return StoreChunks(self._store, store)


def document_of(array: zarr.Array[Any], path: str) -> str:
    """Return the key of the metadata document of an array."""
    name = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    return f"{path}/{name}" if path else name


def _axis_names(metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[str | None] | None:
    """Return the names of the axes, of zarr v3 or by the convention of xarray; None where there are none."""
    names = metadata.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list):
        return None
    return [name if isinstance(name, str) else None for name in names]


def _fill(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return the fill value, shape ``(1,)``, in native byte order; zero where there is none."""
    if value is None:
        return np.zeros(1, dtype.newbyteorder("="))
    return np.array([value], dtype).astype(dtype.newbyteorder("="))


def _attributes(array: zarr.Array[Any]) -> Mapping[str, Any]:
    """Return the attributes of an array; raise TypeError if they are no object."""
    attributes: object = array.metadata.attributes
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes are a {type(attributes).__name__}, not an object")
    return attributes
