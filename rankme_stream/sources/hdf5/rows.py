"""Rows of a dataset in an HDF5 or netCDF 4 file: shown to the zarr reader as an array whose chunks lie in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.hdf5.chunk_index import Index, RegularIndex
from rankme_stream.sources.hdf5.described import Described, described
from rankme_stream.sources.hdf5.filters import CODECS, Filter, configurations
from rankme_stream.sources.hdf5.stored_chunks import StoredChunks
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.zarr import ZarrSource
from rankme_stream.sources.zarr.chunk_storage import Scan
from rankme_stream.sources.zarr.foreign_array import ForeignArray
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks

_PART_BYTES = 2**20  # of an array in one block that are taken as a chunk


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> ZarrSource:
    """Open the rows of a dataset; without its path, of the only one that fits.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is no HDF5 or damaged, or holds no such dataset of numbers.
    UsageError
        If there is no such axis as the options name.
    """
    found = described(file, inside.strip("/"))
    chunks = _DatasetChunks(file, found)
    facts = found.facts
    array = ForeignArray(chunks.uri, _documents(facts, chunks.shape), facts["path"], chunks.filters, CODECS, chunks)
    n_axes = max(2, len(facts["shape"]))
    return ZarrSource(array, replace(options, path=None), scaled=(n_axes, n_axes - 1) if is_scales else None)


class _DatasetChunks:
    """Chunks of a dataset; see ``ForeignChunks`` of the zarr reader.

    Attributes
    ----------
    shape
        Shape of a chunk.
    filters
        Configurations of the codecs.
    """

    def __init__(self, file: StoredFile, found: Described) -> None:
        self._file, self._found, facts = file, found, found.facts
        self.uri = f"{file.uri}::{facts['path']}"
        self._itemsize = np.dtype(facts["item"]).itemsize
        self.shape = facts["chunks"] or _parts(facts["shape"], self._itemsize)
        self.filters = configurations(
            [Filter(code, tuple(values), name) for code, values, name in facts["filters"]],
            np.dtype(facts["item"]), facts["chunks"] or (), self.uri,
        )  # fmt: skip

    def values(self, grid: ChunkGrid) -> StoredChunks:
        """Return what is stored under the keys of a grid."""
        self._grid, self._index = grid, self._indexed(grid)
        return StoredChunks(self._file, self._index, grid)

    def scan(self, missing: MissingChunks, start: int, stop: int) -> Scan:
        """Record the chunks of rows ``[start, stop)`` that are missing; the file's size and time stand for all."""
        keys, width = self._grid.outer_rows(start, stop), self._grid.n_outer_columns
        for first, last in self._index.gaps(keys.start * width, keys.stop * width):
            missing.add_keys(first, last)
        stamps = blake2b(f"{self._found.stamp} {self._file.stamp()}".encode(), digest_size=16).digest()
        return Scan(stamps, True, self._index.n_bytes)

    def sizes(self, units: range) -> Array:
        """Return the stored bytes of the chunks of some units, 0 for a missing one, in shape ``(units, columns)``."""
        width = self._grid.n_outer_columns
        return self._index.places(units.start * width, units.stop * width).sizes.reshape(-1, width)

    def storage(self, found: Storage) -> Storage:
        """Return how the dataset is stored; requests are not known before the chunks that touch are."""
        facts = found.facts if self._found.facts["chunks"] else (("layout", "one block"), *found.facts[2:])
        return found._replace(format="HDF5", facts=facts, n_requests=None)

    def argument_of(self, path: str) -> Opening:
        """Return what opens another dataset of the file."""
        return Opening(f"{self._file.address}::{path.strip('/')}", NO_OPTIONS)

    def reopen(self, options: ArrayOptions) -> Any:
        """Return the address with the path of the dataset, and the options if there are any."""
        address = f"{self._file.address}::{self._found.facts['path']}"
        return address if options == NO_OPTIONS else Opening(address, options)

    def _indexed(self, grid: ChunkGrid) -> Index:
        """Return where the chunks lie, by their numbers along rows and features."""
        facts = self._found.facts
        counts = [-(-length // n) for length, n in zip(facts["shape"], self.shape, strict=True)]
        axis = min(grid.features_axis, len(counts))
        order = [place for place in range(len(counts)) if place != axis] + [axis] * (axis < len(counts))
        ordered = [counts[place] for place in order]
        if not facts["chunks"]:
            strides = [prod(facts["shape"][place + 1 :]) * self._itemsize for place in order]
            steps = [stride * self.shape[place] for stride, place in zip(strides, order, strict=True)]
            end = (facts["offset"] or 0) + prod(facts["shape"]) * self._itemsize
            if facts["offset"] is not None and end > facts["end"]:
                raise CorruptChunkError(
                    f"{self.uri} reaches to byte {end:,} of a file of {facts['end']:,}: copy or write it again"
                )
            return RegularIndex(facts["offset"], prod(self.shape) * self._itemsize, end, ordered, steps)
        index = self._found.index
        if order != sorted(order):

            def number(numbers: Array) -> Array:
                places = np.unravel_index(numbers, counts)
                return np.ravel_multi_index([places[place] for place in order], ordered)

            index = index.renumbered(number)
        try:
            index.close()
        except ValueError as error:
            raise CorruptChunkError(f"{self.uri} is damaged: {error}; write it again") from None
        return index


def _parts(shape: Sequence[int], itemsize: int) -> list[int]:
    """Return the shape of parts of an array in one block: whole along its last axes, so that each is one block."""
    lengths, n_bytes = [1] * len(shape), itemsize
    for axis in range(len(shape) - 1, -1, -1):
        lengths[axis] = max(1, min(shape[axis], _PART_BYTES // n_bytes))
        if lengths[axis] < shape[axis]:
            break
        n_bytes *= lengths[axis]
    return lengths


def _documents(facts: Mapping[str, Any], chunk: Sequence[int]) -> dict[str, bytes]:
    """Return the documents of zarr v2 that say the same of the dataset and of what lies around it."""
    attributes = facts["attributes"] | ({"_ARRAY_DIMENSIONS": facts["names"]} if facts["names"] else {})
    found: dict[str, Any] = {
        f"{facts['path']}/.zarray": _document(facts["shape"], chunk, facts["dtype"], facts["fill"]),
        f"{facts['path']}/.zattrs": attributes,
    }
    for path, values in facts["groups"]:
        folder = f"{path}/" if path else ""
        found |= {f"{folder}.zgroup": {"zarr_format": 2}, f"{folder}.zattrs": values}
    for path, (shape, dtype) in facts["beside"].items():
        found[f"{path}/.zarray"] = _document(shape, shape, dtype, None)
    return {key: json.dumps(document).encode() for key, document in found.items()}


def _document(shape: Sequence[int], chunk: Sequence[int], dtype: str, fill: Any) -> dict[str, Any]:
    return {
        "zarr_format": 2, "shape": list(shape), "chunks": list(chunk), "dtype": dtype, "fill_value": fill,
        "order": "C", "filters": None, "compressor": None, "dimension_separator": ".",
    }  # fmt: skip
