"""The stored file at a path or URL."""

from __future__ import annotations

from rankme_stream.sources.stores.remote_file import RemoteFile
from rankme_stream.sources.stores.stored_file import LocalFile, StoredFile


def stored_file(location: str) -> StoredFile:
    """Return the file at a path or URL; nothing is opened or requested."""
    location = location.removeprefix("file://")
    return RemoteFile(location) if "://" in location else LocalFile(location)
