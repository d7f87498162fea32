"""Arrays of other formats, described as zarr describes its own, whose chunks lie in a file of the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.array_options import ArrayOptions, Opening
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.zarr.codecs.chunk_decoder import Codecs
from rankme_stream.sources.zarr.grids.chunk_grid import ChunkGrid
from rankme_stream.sources.zarr.grids.missing_chunks import MissingChunks
from rankme_stream.sources.zarr.stored_values import StoredValues


class ForeignChunks(Protocol):
    """Chunks of an array in a file."""

    def values(self, grid: ChunkGrid) -> StoredValues:
        """Return what is stored under the keys of a grid; called once, before the other functions."""

    def scan(self, missing: MissingChunks, start: int, stop: int) -> bytes:
        """Record the chunks of rows ``[start, stop)`` that are missing; return what changes with the file.

        Raises
        ------
        SourceError, StorageError
            If the file is not there, or may not be read.
        """

    def sizes(self, units: range) -> Array:
        """Return the stored bytes of the chunks of some units, 0 for a missing one, in shape ``(units, columns)``."""

    def storage(self, found: Storage) -> Storage:
        """Return how they are stored, by what the metadata of zarr say of it."""

    def argument_of(self, path: str) -> Opening:
        """Return what opens another array of the file."""

    def reopen(self, options: ArrayOptions) -> Any:
        """Return an argument of ``open_source`` for another process."""


@dataclass(frozen=True)
class ForeignArray:
    """Array in a file of another format.

    Parameters
    ----------
    uri
        Name for messages.
    documents
        Metadata of the array and of what lies around it, in version 2 of zarr, by their keys.
    path
        Path of the array among them.
    filters
        Configurations of its codecs, in the order of encoding, which the document does not name.
    codecs
        Codecs, by the ``id`` of these configurations, that zarr does not have.
    chunks
        Where its chunks lie.
    """

    uri: str
    documents: Mapping[str, bytes]
    path: str
    filters: list[dict[str, Any]]
    codecs: Codecs
    chunks: ForeignChunks

    def store(self) -> MemoryStore:
        """Return a store of the documents, without chunks."""
        return MemoryStore({key: cpu.Buffer.from_bytes(content) for key, content in self.documents.items()})
