"""Stores written by zarrs, the codec pipeline in Rust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr
import zarrs  # noqa: F401  (registers its pipeline)
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from tests.writers.frame import CHUNK, N_FEATURES, check, rows_of

LAYOUTS: dict[str, dict[str, Any]] = {
    "zstd": {"compressors": ZstdCodec()},
    "gzip": {"compressors": GzipCodec()},
    "blosc": {"compressors": BloscCodec()},
    "none": {"compressors": None},
    "sharded": {"shards": (2 * CHUNK, N_FEATURES)},
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_to_the_same_bits(tmp_path: Path, layout: str, dtype: str) -> None:
    rows = rows_of(dtype)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.create_array(
            tmp_path / "x.zarr", shape=rows.shape, chunks=(CHUNK, N_FEATURES), dtype=dtype, **LAYOUTS[layout]
        )
        array[:] = rows
    check(tmp_path / "x.zarr", rows)
