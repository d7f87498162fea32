"""Encoding of chunks: zstd where asked for, then a checksum; `unpack` decodes both."""

from __future__ import annotations

from typing import NamedTuple

import google_crc32c
import numcodecs.zstd
import numpy as np

from rankme_stream.numerics.dtypes import Array


class Packed(NamedTuple):
    """Stored bytes of a chunk: its content, flat uint8, and behind it the checksum of that."""

    content: Array
    checksum: bytes

    @property
    def n_bytes(self) -> int:
        """Number of bytes of both."""
        return len(self.content) + len(self.checksum)


def packed(values: Array, level: int | None = None) -> Packed:
    """Return values in C order as they are stored, little-endian, by zstd of that level; a view of them without one."""
    content = values.astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    if level is not None:
        content = np.frombuffer(numcodecs.zstd.compress(content, level), np.uint8)
    return Packed(content, crc32c(content).to_bytes(4, "little"))


def crc32c(values: Array) -> int:
    """Return the checksum of the bytes of an array in C order."""
    return int(google_crc32c.value(values.reshape(-1).view(np.uint8)))
