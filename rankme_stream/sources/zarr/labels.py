"""Labels of rows in a one-dimensional zarr array."""

from __future__ import annotations

import json

import numpy as np

from rankme_stream.errors import CorruptChunkError, MissingChunksError, RankMeError, SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_grid import MissingChunks, chunk_grid
from rankme_stream.sources.zarr.codecs import codec_chain, is_blosc_outermost
from rankme_stream.sources.zarr.locate import METADATA_ERRORS, locate, open_array, refuse_metadata
from rankme_stream.sources.zarr.remote_faults import in_one_line
from rankme_stream.sources.zarr.source import DECODE_ERRORS


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
        self._array = open_array(audited, path, self.uri)
        if self._array.ndim != 1:
            raise SourceFormatError(
                f"{self.uri} has shape {self._array.shape}; labels are an array of one dimension, one for each row"
            )
        self.n_rows = int(self._array.shape[0])
        name = "zarr.json" if self._array.metadata.zarr_format == 3 else ".zarray"
        try:
            metadata = json.loads(audited.fetch(f"{path}/{name}" if path else name))
            grid, codecs = chunk_grid(metadata, path=path, uri=self.uri), codec_chain(metadata)
        except METADATA_ERRORS as error:
            refuse_metadata(self.uri, error)
        self._missing = MissingChunks(grid)
        audited.audit(grid, self._missing, has_blosc=is_blosc_outermost(codecs))

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``.

        Raises
        ------
        MissingChunksError
            If a chunk was never written; its fill value would be a group of its own.
        CorruptChunkError
            If a chunk does not decode.
        SourcePermissionError, StorageError
            If a chunk may not be read, or the storage fails.
        """
        self._missing.request(start, stop)
        try:
            labels: Array = np.asarray(self._array[start:stop])
        except RankMeError:
            raise
        except DECODE_ERRORS as error:
            raise CorruptChunkError(
                f"labels {start:,}-{stop:,} of {self.uri} do not decode: {in_one_line(error)}; write them again"
            ) from error
        if gaps := self._missing.ranges(start, stop):
            raise MissingChunksError(
                f"{self.uri}: chunk {self._missing.first()} (labels {gaps[0][0]:,}-{gaps[0][1] - 1:,}) is missing; "
                "write it: rows without a label belong to no group"
            )
        return labels
