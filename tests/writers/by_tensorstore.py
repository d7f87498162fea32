"""Stores written by tensorstore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore

import rankme_stream as rs
from tests.writers.frame import CHUNK, N_FEATURES, N_ROWS, check, check_values, rows_of

SHARDS: dict[str, Any] = {
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [200, N_FEATURES]}},
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {"chunk_shape": [50, N_FEATURES], "codecs": [{"name": "bytes"}, {"name": "zstd"}]},
        }
    ],
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("zarr", {"chunks": [CHUNK, N_FEATURES]}),
    "v2, nested": ("zarr", {"chunks": [CHUNK, N_FEATURES], "dimension_separator": "/"}),
    "v2, column order": ("zarr", {"chunks": [CHUNK, 8], "order": "F"}),
    "v3": ("zarr3", {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK, N_FEATURES]}}}),
    "v3, sharded": ("zarr3", SHARDS),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_to_the_same_bits(tmp_path: Path, layout: str, dtype: str) -> None:
    driver, metadata = LAYOUTS[layout]
    rows = rows_of(dtype)
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path}/x.zarr"}, "metadata": metadata}
    written = tensorstore.open(
        spec, create=True, dtype=getattr(tensorstore, dtype), shape=[N_ROWS, N_FEATURES]
    ).result()
    written.write(rows).result()
    check(tmp_path / "x.zarr", rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_floats_that_numpy_lacks(tmp_path: Path, layout: str, dtype: str) -> None:
    driver, metadata = LAYOUTS[layout]
    rows = rows_of().astype(getattr(ml_dtypes, dtype))
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path}/x.zarr"}, "metadata": metadata}
    try:
        written = tensorstore.open(
            spec, create=True, dtype=getattr(tensorstore, dtype), shape=[N_ROWS, N_FEATURES]
        ).result()
    except ValueError as error:
        pytest.skip(f"tensorstore itself: {str(error)[:100]}")
    written.write(rows).result()
    check_values(tmp_path / "x.zarr", rows.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8"])
def test_a_copy_is_read_by_tensorstore(tmp_path: Path, dtype: str) -> None:
    rows = (rows_of("float32") * 10).astype(getattr(ml_dtypes, dtype, dtype))
    rs.convert(rows, tmp_path / "copy.zarr")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/copy.zarr"}}
    found = tensorstore.open(spec).result().read().result()
    assert found.dtype == rows.dtype
    assert found.tobytes() == rows.tobytes()
