"""Zarr stores of any layout that take little disk: their chunks or shards are hard links to a few distinct ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

_UNITS, _DISTINCT_VALUES = 16, 2**27  # most distinct units (chunks or shards) of a store, and most values in them
_CHUNK_VALUES = 2**21
_CODECS = {"zstd": ZstdCodec(), "blosc lz4": BloscCodec(cname="lz4"), "raw": None}


@dataclass(frozen=True)
class Layout:
    """Shape, type and chunks of a zarr array; tables show ``name``. ``chunk_rows`` 0: chunks of 2^21 values."""

    name: str
    n_rows: int
    n_features: int
    chunk_rows: int = 0
    chunk_columns: int = 0
    shard_rows: int = 0
    dtype: str = "float16"
    codec: str = "zstd"

    @contextmanager
    def stored(self) -> Iterator[str]:
        """Store Gaussian rows of decaying spectrum in a temporary folder; yield its URI."""
        chunks = (self.chunk_rows or _CHUNK_VALUES // self.n_features, self.chunk_columns or self.n_features)
        unit_rows = self.shard_rows or chunks[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store.zarr"
            array = zarr.create_array(
                path, shape=(self.n_rows, self.n_features), chunks=chunks, compressors=_CODECS[self.codec],
                dtype="uint16" if self.dtype == "bfloat16" else self.dtype, attributes={"dtype": self.dtype},
                shards=(self.shard_rows, chunks[1]) if self.shard_rows else None,
                chunk_key_encoding={"name": "default", "separator": "."},
            )  # fmt: skip
            distinct = min(_UNITS, max(1, _DISTINCT_VALUES // (unit_rows * self.n_features)))
            generator = np.random.default_rng(0)
            for start in range(0, min(self.n_rows, distinct * unit_rows), unit_rows):
                stop = min(self.n_rows, start + unit_rows)
                array[start:stop] = self._values(generator, stop - start)
            for i in range(distinct, -(-self.n_rows // unit_rows)):
                for j in range(-(-self.n_features // chunks[1])):
                    os.link(path / f"c.{i % distinct}.{j}", path / f"c.{i}.{j}")
            yield str(path)

    def _values(self, generator: np.random.Generator, n_rows: int) -> np.ndarray:
        rows = generator.standard_normal((n_rows, self.n_features), dtype=np.float32)
        rows *= np.arange(1, self.n_features + 1, dtype=np.float32) ** -0.5
        if self.dtype == "bfloat16":
            return (rows.view(np.uint32) >> 16).astype(np.uint16)
        return (np.clip(rows * 32, -127, 127) if self.dtype == "int8" else rows).astype(self.dtype)
