"""Files of equal bytes, as far as sizes, tags of servers and a few places tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from zlib import crc32

from rankme_stream.sources.stores.file_errors import file_error
from rankme_stream.sources.stores.folder_listing import FoundFile
from rankme_stream.sources.stores.regular_file import regular_file

_PLACES = 3
_BYTES = 4096  # at each place


def equal_files(files: Sequence[FoundFile]) -> list[list[FoundFile]]:
    """Return the files of which others have the same size and bytes, with these others; no files that none has.

    On a server equal tags tell it, without a request; here a checksum of some bytes at three places of files of one
    size, so that files which differ elsewhere alone count as equal.

    Raises
    ------
    SourceError, StorageError
        If a file can no longer be read.
    """
    alike: dict[tuple[int, str], list[FoundFile]] = {}
    for file in files:
        alike.setdefault((0, file.tag) if "://" in file.address else (_size(file), ""), []).append(file)
    found: dict[tuple[int, str | int], list[FoundFile]] = {}
    for (n_bytes, tag), group in alike.items():
        for file in group if len(group) > 1 and (tag or n_bytes) else ():
            found.setdefault((n_bytes, tag or _sampled(file, n_bytes)), []).append(file)
    return [group for group in found.values() if len(group) > 1]


def _size(file: FoundFile) -> int:
    try:
        return os.stat(file.address).st_size
    except OSError as error:
        raise file_error(file.address, error) from error


def _sampled(file: FoundFile, n_bytes: int) -> int:
    """Return a checksum of the bytes at a few places of a file of this machine, the end among them."""
    found, step = 0, max(0, n_bytes - _BYTES) // _PLACES
    try:
        with regular_file(file.address) as opened:
            for place in range(1, _PLACES + 1):
                found = crc32(os.pread(opened.fileno(), _BYTES, place * step), found)
    except OSError as error:
        raise file_error(file.address, error) from error
    return found
