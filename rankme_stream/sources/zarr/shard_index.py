"""Index of a zarr shard: which inner chunks it holds, and whether they lie inside the shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs import check_blosc, codec_fields, strip_crc32c

_EMPTY = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class ShardIndex:
    """Layout of the index of a shard.

    Parameters
    ----------
    n_rows, n_columns
        Number of inner chunks of a shard along each axis.
    n_bytes
        Size of the index, its checksum included.
    is_at_start
        Whether the index is at the start of the shard; otherwise it is at the end.
    dtype
        Type of an entry, ``<u8`` or ``>u8``.
    has_crc32c
        Whether the index ends in a checksum.
    """

    n_rows: int
    n_columns: int
    n_bytes: int
    is_at_start: bool
    dtype: str
    has_crc32c: bool

    def check_sum(self, encoded: Array) -> None:
        """Raise ValueError when the index has a checksum that does not match."""
        if self.has_crc32c:
            strip_crc32c(encoded)

    def entries(self, encoded: bytes | Array) -> Array:
        """Return offset and length of every inner chunk, shape ``(n_rows, n_columns, 2)``, uint64."""
        n_entries = self.n_rows * self.n_columns
        flat = np.frombuffer(encoded, dtype=self.dtype, count=2 * n_entries).astype(np.uint64)
        return flat.reshape(self.n_rows, self.n_columns, 2)

    def check_length(self, n_bytes: int) -> None:
        """Raise ValueError when ``n_bytes`` cannot hold the index."""
        if n_bytes < self.n_bytes:
            raise ValueError(f"shard of {n_bytes:,} bytes is shorter than its index of {self.n_bytes:,}")

    def check_shard(self, shard: Array, *, has_blosc: bool) -> Array:
        """Return the entries of a whole shard; raise ValueError when a chunk does not lie inside it."""
        self.check_length(len(shard))
        entries = self.entries((shard[: self.n_bytes] if self.is_at_start else shard[-self.n_bytes :]).tobytes())
        for offset, length in entries[~self.is_empty(entries)].tolist():
            if length == 0 or offset + length > len(shard):
                raise ValueError(f"shard index points to {length:,} bytes from {offset:,} of {len(shard):,}")
            if has_blosc:
                check_blosc(shard[offset : offset + length])
        return entries

    @staticmethod
    def is_empty(entries: Array) -> Array:
        """Return a mask of the inner chunks never written, whose fields are both 2**64-1."""
        return np.asarray((entries == _EMPTY).all(axis=-1))


def shard_index(outer: tuple[int, int], inner: tuple[int, int], sharding: Mapping[str, Any]) -> ShardIndex | None:
    """Return the layout of the index from the configuration of the sharding codec.

    Parameters
    ----------
    outer, inner
        Rows and features of a shard, and of a chunk inside.
    sharding
        Configuration in the metadata document.

    Returns
    -------
    ShardIndex or None
        None if the index is packed by codecs other than ``bytes`` and ``crc32c``: its empty entries are then unknown.
    """
    n_rows, n_columns = outer[0] // inner[0], outer[1] // inner[1]
    n_bytes, dtype, has_crc32c = 16 * n_rows * n_columns, "<u8", False
    for name, configuration in map(codec_fields, sharding.get("index_codecs", ("bytes", "crc32c"))):
        if name == "bytes":
            dtype = ">u8" if configuration.get("endian") == "big" else "<u8"
        elif name == "crc32c":
            n_bytes, has_crc32c = n_bytes + 4, True
        else:
            return None
    return ShardIndex(n_rows, n_columns, n_bytes, sharding.get("index_location") == "start", dtype, has_crc32c)
