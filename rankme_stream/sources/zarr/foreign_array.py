"""Arrays of other formats, described as zarr describes its own, whose chunks lie in a file of the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.storage import Storage
from rankme_stream.sources.zarr.chunk_storage import ChunkStorage
from rankme_stream.sources.zarr.codecs.chunk_decoder import Codecs


class ForeignChunks(ChunkStorage, Protocol):
    """Chunks of an array in a file."""

    def storage(self, found: Storage) -> Storage:
        """Return how they are stored, by what the metadata of zarr say of it."""

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
