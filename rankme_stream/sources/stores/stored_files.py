"""The stored file at a path or URL."""

from __future__ import annotations

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.stores.remote_faults import without_secrets
from rankme_stream.sources.stores.stored_file import LocalFile, StoredFile


def stored_file(location: str) -> StoredFile:
    """Return the file at a path or URL; nothing is opened or requested.

    Raises
    ------
    SourceFormatError
        If its scheme is not known.
    """
    location = location.removeprefix("file://")
    if "://" in location:
        raise SourceFormatError(f"{without_secrets(location)} is not read over a network; download it first")
    return LocalFile(location)
