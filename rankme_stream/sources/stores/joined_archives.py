"""Zip files that were joined into one, of which every reader sees the last alone."""

from __future__ import annotations

import struct
from typing import IO

_END = struct.Struct("<4s4H2LH")  # the record at the end of a zip file, as APPNOTE.TXT describes it
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_BYTES = 20
_LONGEST_COMMENT = 2**16


def bytes_before_archive(file: IO[bytes]) -> int:
    """Return the number of bytes before the archive that a zip file ends with: 0 where it is one archive, or none."""
    n_bytes = file.seek(0, 2)
    start = max(0, n_bytes - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        return 0
    size: int
    offset: int
    *_, size, offset, _ = _END.unpack_from(tail, found)
    end = start + found
    if tail[max(0, found - _LOCATOR_BYTES) : found].startswith(b"PK\x06\x07"):
        end -= _LOCATOR_BYTES + _END_64.size
        file.seek(max(0, end))
        record = file.read(_END_64.size)
        if not record.startswith(b"PK\x06\x06") or len(record) < _END_64.size:
            return 0
        *_, size, offset = _END_64.unpack(record)
    return max(0, end - size - offset)
