"""Labels of rows in a zarr store: an array of one dimension, a categorical, or an array with a mask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankme_stream.errors import MissingChunksError, SourceFormatError, argument
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_reader import ChunkReader
from rankme_stream.sources.zarr.codecs.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.grids.grid_metadata import chunk_grid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.locate import METADATA_ERRORS, locate, open_array, refuse_metadata
from rankme_stream.sources.zarr.misplaced_chunks import MisplacedChunks
from rankme_stream.sources.zarr.source import document_of
from rankme_stream.sources.zarr.stored_values import FolderValues, StoreValues

_LONGEST = 4096  # characters; numpy keeps a block of labels at the length of the longest
_MOST_CATEGORIES = 10**6
_COLUMNS = ("codes", "categories"), ("values", "mask")  # arrays of a categorical, and of a nullable array


def check_length(n_characters: int, uri: str) -> None:
    """Refuse labels of so many characters if they are too long."""
    if n_characters > _LONGEST:
        raise SourceFormatError(
            f"{uri} holds labels of {n_characters:,} characters; at most {_LONGEST:,} are read: use shorter names"
        )


class ZarrLabels:
    """One-dimensional zarr array of labels.

    Labels that the attributes ``_FillValue`` and ``missing_value``, or ``fill_value`` of zarr v2 as xarray writes it,
    name as missing are masked.

    Parameters
    ----------
    store, path, uri
        Store, path of the array in it, and its name for errors.
    missing
        Chunks that were never written: ``error``, ``skip`` or ``fill``, as in ``open_labels``.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If nothing is there, or it may not be read.
    SourceFormatError
        If it is a group, its metadata are broken, or the array is not one-dimensional.
    """

    names = None

    def __init__(self, store: AuditingStore, path: str, uri: str, missing: str = "error") -> None:
        self.uri, self._rule = uri, missing
        array = open_array(store, path, uri, ndim=1)
        if array.ndim != 1:
            raise SourceFormatError(
                f"{self.uri} has shape {array.shape}; labels are an array of one dimension, one for each row"
            )
        self.n_rows = int(array.shape[0])
        try:
            metadata = json.loads(store.fetch(document_of(array, path)))
            dtype = np.dtype(array.dtype)
            grid = chunk_grid(metadata, 1, path=path, uri=self.uri)
            decoder = ChunkDecoder(metadata, grid.chunk_shape, dtype, self.uri)
            self.attributes: Mapping[str, Any] = dict(array.metadata.attributes)
            self._is_unsigned = str(self.attributes.get("_Unsigned", "")).lower()
            fill = np.asarray(array.fill_value if array.fill_value is not None else _zero(dtype), dtype)
            self._none = self._absent(metadata, dtype)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        self._fill = fill[()]
        self._missing = MissingChunks(grid)
        MisplacedChunks(store, self.uri, metadata, path).check_first(grid.key(0, 0))
        store.audit(grid, self._missing, grid.longest_value(decoder.longest))
        root = store.root
        values = StoreValues(store, grid.index) if root is None else FolderValues(root, self.uri)
        if dtype.kind == "U":
            check_length(dtype.itemsize // 4, self.uri)
        is_text = dtype.kind in "OT"
        self._held = np.dtype(object) if is_text else dtype.newbyteorder("=")
        self._reader = ChunkReader(values, grid, decoder, self._missing, fill.astype(self._held), self.uri)

    def _absent(self, metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> Array:
        """Return the labels that the metadata name as missing."""
        if dtype.kind not in "iu":
            return np.empty(0, dtype)
        attributes = self.attributes
        declared: list[Any] = []
        for name in ("_FillValue", "missing_value"):
            value = attributes.get(name, [])
            declared += value if isinstance(value, list) else [value]
        if metadata["zarr_format"] == 2 and "_ARRAY_DIMENSIONS" in attributes and metadata["fill_value"] is not None:
            declared.append(metadata["fill_value"])
        try:
            numbers = [int(one) for one in declared if float(one) == int(one)]
        except (TypeError, ValueError, OverflowError):
            numbers = []
        if len(numbers) < len(declared):
            raise SourceFormatError(
                f"{self.uri} names {declared[0]!r} as its missing label, which is no whole number: write it as one"
            )
        return np.array([one % 2 ** (8 * dtype.itemsize) for one in numbers], np.uint64).astype(dtype)

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``.

        Raises
        ------
        MissingChunksError
            If a chunk was never written, by the rule ``error``, and the fill value is a label.
        CorruptChunkError
            If a chunk does not decode to the size in its metadata.
        SourcePermissionError, StorageError
            If a chunk may not be read, or the storage fails.
        """
        self._missing.request(start, stop)
        labels = np.empty((stop - start, 1), self._held)
        self._reader.read(start, stop, labels)
        gaps = self._missing.ranges(start, stop)
        is_none = np.isin(labels[:, 0], self._none) if len(self._none) else np.zeros(stop - start, bool)
        if gaps and self._rule == "error" and self._fill not in self._none:
            raise MissingChunksError(
                f"{self.uri}: chunk {self._missing.first()} (labels {gaps[0][0]:,}-{gaps[0][1] - 1:,}) is missing; "
                f"zarr leaves out chunks of nothing but the fill value {self._fill!r}: pass "
                f"{argument('missing', 'fill')} if that is their label, {argument('missing', 'skip')} to give them "
                "none, or write the chunk"
            )
        for first, last in gaps if self._rule == "skip" else ():
            is_none[first - start : last - start] = True
        found = labels[:, 0]
        if self._is_unsigned in ("true", "false") and self._held.kind in "iu":
            found = found.view(f"{'u' if self._is_unsigned == 'true' else 'i'}{self._held.itemsize}")
        return np.ma.MaskedArray(found, is_none) if is_none.any() else found


class CategoricalLabels:
    """Numbers of categories, and the names of these: ``codes`` and ``categories`` of AnnData; -1 is no label."""

    def __init__(self, codes: ZarrLabels, categories: ZarrLabels | NullableLabels) -> None:
        self.uri, self.n_rows, self._codes = codes.uri, codes.n_rows, codes
        if categories.n_rows > _MOST_CATEGORIES:
            raise SourceFormatError(f"{categories.uri} holds {categories.n_rows:,} categories; use coarser labels")
        names = categories.read(0, categories.n_rows)
        if np.ma.getmaskarray(names).any() or names.dtype.kind not in "iuUOTb":
            raise SourceFormatError(f"{categories.uri} holds categories that are not all integers or strings")
        self.names: Sequence[str] = [str(name) for name in names.tolist()]
        if len({*self.names}) < len(self.names):
            raise SourceFormatError(f"{categories.uri} holds a category twice: write the categories again")

    def read(self, start: int, stop: int) -> Array:
        """Return the number of the category of each of the rows ``[start, stop)``; masked where it is -1."""
        codes = self._codes.read(start, stop)
        if codes.dtype.kind not in "iu":
            raise SourceFormatError(f"{self.uri} holds codes of dtype {codes.dtype}, not integers: write them again")
        numbers = np.ma.getdata(codes)
        for code in [int(numbers.min()), int(numbers.max())] if numbers.size else ():
            if not -1 <= code < len(self.names):
                raise SourceFormatError(
                    f"{self.uri} holds the code {code}, and there are {len(self.names):,} categories: write it again"
                )
        is_none = np.ma.getmaskarray(codes) | (numbers == -1)
        return np.ma.MaskedArray(numbers, is_none) if is_none.any() else numbers


class NullableLabels:
    """Labels, and a mask that is true where there is none: ``values`` and ``mask`` of AnnData."""

    names = None

    def __init__(self, values: ZarrLabels, mask: ZarrLabels) -> None:
        self.uri, self.n_rows, self._values, self._mask = values.uri, values.n_rows, values, mask
        if mask.n_rows != values.n_rows:
            raise SourceFormatError(f"{mask.uri} holds {mask.n_rows:,} values, and there are {values.n_rows:,} labels")

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``, masked where the mask is true."""
        values, mask = self._values.read(start, stop), self._mask.read(start, stop)
        return np.ma.MaskedArray(np.ma.getdata(values), np.ma.getmaskarray(values) | mask.astype(bool))


def open_zarr_labels(
    source: object, missing: str = "error", path: str | None = None
) -> ZarrLabels | CategoricalLabels | NullableLabels:
    """Open labels of a zarr store: an array, or a group of arrays that holds a column of AnnData.

    The ``codes`` of a categorical and the ``values`` of a nullable array are read with what stands beside them.

    Raises
    ------
    SourceError
        As `ZarrLabels`.
    """
    store, path, uri = locate(source, path)
    search = AuditingStore(store, uri)
    folder, _, name = path.rpartition("/")
    beside = next((columns[1] for columns in _COLUMNS if columns[0] == name), None)
    if beside is not None and folder and search.holds_array(f"{folder}/{beside}"):
        path, uri = folder, uri.removesuffix(f"/{name}")
    elif search.holds_array(path):
        codes = ZarrLabels(AuditingStore(store, uri), path, uri, missing)
        named = codes.attributes.get("categories")  # of AnnData before 0.7
        if not isinstance(named, str):
            return codes
        place = next((one for one in (named.strip("/"), f"{folder}/{named}") if search.holds_array(one)), named)
        return CategoricalLabels(codes, ZarrLabels(AuditingStore(store, uri), place, f"{uri} ({place})", "fill"))

    def column(inner: str, rule: str = missing) -> ZarrLabels:
        return ZarrLabels(AuditingStore(store, uri), _joined(path, inner), f"{uri}/{inner}", rule)

    def has(*inner: str) -> bool:
        return all(search.holds_array(_joined(path, one)) for one in inner)

    def nullable(*folders: str) -> NullableLabels:
        values, mask = ("/".join([*folders, one]) for one in _COLUMNS[1])
        return NullableLabels(column(values), column(mask, "fill"))

    if has("codes") and has("categories/values", "categories/mask"):
        return CategoricalLabels(column("codes"), nullable("categories"))
    if has("codes", "categories"):
        return CategoricalLabels(column("codes"), column("categories", "fill"))
    if has("values", "mask"):
        return nullable()
    return ZarrLabels(AuditingStore(store, uri), path, uri, missing)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _zero(dtype: np.dtype[Any]) -> Any:
    return "" if dtype.kind in "OTU" else 0
