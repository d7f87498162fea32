"""Index of a zarr shard: which inner chunks it holds, and whether they lie inside the shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs.chain import codec_fields
from rankme_stream.sources.zarr.codecs.unpack import strip_crc32c

_MOST_CHUNKS = 2**24  # of a shard: an index of 256 MiB
_EMPTY = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class ShardIndex:
    """Layout of the index of a shard.

    Parameters
    ----------
    counts
        Number of chunks of a shard along each axis of the array.
    n_bytes
        Size of the index, its checksum included.
    is_at_start
        Whether the index is at the start of the shard; otherwise it is at the end.
    dtype
        Type of an entry, ``<u8`` or ``>u8``.
    has_crc32c
        Whether the index ends in a checksum.
    """

    counts: tuple[int, ...]
    n_bytes: int
    is_at_start: bool
    dtype: str
    has_crc32c: bool

    def check_sum(self, encoded: Array) -> None:
        """Raise ValueError when the index has a checksum that does not match."""
        if self.has_crc32c:
            strip_crc32c(encoded)

    def entries(self, encoded: bytes | Array) -> Array:
        """Return offset and length of every chunk, shape ``(*counts, 2)``, uint64."""
        flat = np.frombuffer(encoded, dtype=self.dtype, count=2 * prod(self.counts)).astype(np.uint64)
        return flat.reshape(*self.counts, 2)

    def with_counts(self, counts: tuple[int, ...]) -> ShardIndex:
        """Return the layout of the index of a shard of other length."""
        if counts == self.counts:
            return self
        return replace(self, counts=counts, n_bytes=self.n_bytes - 16 * (prod(self.counts) - prod(counts)))

    def check_length(self, n_bytes: int) -> None:
        """Raise ValueError when ``n_bytes`` cannot hold the index."""
        if n_bytes < self.n_bytes:
            raise ValueError(f"shard of {n_bytes:,} bytes is shorter than its index of {self.n_bytes:,}")

    @staticmethod
    def is_empty(entries: Array) -> Array:
        """Return a mask of the inner chunks never written, whose fields are both 2**64-1."""
        return np.asarray((entries == _EMPTY).all(axis=-1))


def shard_index(counts: Sequence[int], sharding: Mapping[str, Any], uri: str) -> ShardIndex:
    """Return the layout of the index from the configuration of the sharding codec.

    Parameters
    ----------
    counts
        Number of chunks of a shard along each axis of the array.
    sharding
        Configuration in the metadata document.
    uri
        Name for errors.

    Raises
    ------
    SourceFormatError
        If the index is packed by codecs other than ``bytes`` and ``crc32c``, or is longer than any.
    """
    if prod(counts) > _MOST_CHUNKS:
        raise SourceFormatError(f"{uri} declares shards of {prod(counts):,} chunks, more than 2^24: rewrite it")
    n_bytes, dtype, has_crc32c = 16 * prod(counts), "<u8", False
    for name, configuration in map(codec_fields, sharding.get("index_codecs", ("bytes", "crc32c"))):
        if name == "bytes":
            dtype = ">u8" if configuration.get("endian") == "big" else "<u8"
        elif name == "crc32c":
            n_bytes, has_crc32c = n_bytes + 4, True
        else:
            raise SourceFormatError(f"{uri} packs its shard index by {name!r}, which is not read here: rewrite it")
    return ShardIndex(tuple(counts), n_bytes, sharding.get("index_location") == "start", dtype, has_crc32c)
