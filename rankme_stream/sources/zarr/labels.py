"""Labels of rows in a one-dimensional zarr array."""

from __future__ import annotations

import json

import numpy as np

from rankme_stream.errors import MissingChunksError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_decoder import ChunkDecoder
from rankme_stream.sources.zarr.chunk_grid import MissingChunks, chunk_grid
from rankme_stream.sources.zarr.chunk_reader import ChunkReader
from rankme_stream.sources.zarr.locate import METADATA_ERRORS, locate, open_array, refuse_metadata
from rankme_stream.sources.zarr.misplaced_chunks import MisplacedChunks
from rankme_stream.sources.zarr.source import document_of
from rankme_stream.sources.zarr.stored_values import FolderValues, StoreValues

_LONGEST = 4096  # characters; numpy keeps a block of labels at the length of the longest


def check_length(n_characters: int, uri: str) -> None:
    """Refuse labels of so many characters if they are too long."""
    if n_characters > _LONGEST:
        raise SourceFormatError(
            f"{uri} holds labels of {n_characters:,} characters; at most {_LONGEST:,} are read: use shorter names"
        )


class ZarrLabels:
    """One-dimensional zarr array of labels; every chunk that is read must be present.

    Parameters
    ----------
    source
        ``store.zarr::labels``, a URL that fsspec opens, or a ``zarr.Array``.

    Raises
    ------
    SourceNotFoundError, SourcePermissionError
        If nothing is there, or it may not be read.
    SourceFormatError
        If it is a group, its metadata are broken, or the array is not one-dimensional.
    """

    def __init__(self, source: object) -> None:
        store, path, self.uri = locate(source)
        audited = AuditingStore(store, self.uri)
        array = open_array(audited, path, self.uri)
        if array.ndim != 1:
            raise SourceFormatError(
                f"{self.uri} has shape {array.shape}; labels are an array of one dimension, one for each row"
            )
        self.n_rows = int(array.shape[0])
        try:
            metadata = json.loads(audited.fetch(document_of(array, path)))
            dtype = np.dtype(array.dtype)
            grid = chunk_grid(metadata, path=path, uri=self.uri)
            decoder = ChunkDecoder(metadata, grid.inner[:1], dtype, self.uri)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        self._missing = MissingChunks(grid)
        MisplacedChunks(audited, self.uri, metadata, path).check_first(grid.key(0, 0))
        audited.audit(grid, self._missing, grid.longest_value(decoder.longest))
        root = audited.root
        values = StoreValues(audited, grid.index) if root is None else FolderValues(root, self.uri)
        if dtype.kind == "U":
            check_length(dtype.itemsize // 4, self.uri)
        is_text = dtype.kind in "OT"
        self._held = np.dtype(object) if is_text else dtype.newbyteorder("=")
        self._reader = ChunkReader(values, grid, decoder, self._missing, np.zeros((), self._held), self.uri)

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``.

        Raises
        ------
        MissingChunksError
            If a chunk was never written; its fill value would be a group of its own.
        CorruptChunkError
            If a chunk does not decode to the size in its metadata.
        SourcePermissionError, StorageError
            If a chunk may not be read, or the storage fails.
        """
        self._missing.request(start, stop)
        labels = np.empty((stop - start, 1), self._held)
        self._reader.read(start, stop, labels)
        if gaps := self._missing.ranges(start, stop):
            raise MissingChunksError(
                f"{self.uri}: chunk {self._missing.first()} (labels {gaps[0][0]:,}-{gaps[0][1] - 1:,}) is missing; "
                "write it: rows without a label belong to no group"
            )
        return labels[:, 0]
