"""Stores written by xarray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from tests.writers.frame import CHUNK, N_FEATURES, check, rows_of


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rows_are_read_to_the_same_bits(tmp_path: Path, zarr_format: int, dtype: str) -> None:
    rows = rows_of(dtype)
    dataset = xarray.Dataset(
        {"emb": (("row", "feature"), rows), "label": (("row",), np.arange(len(rows)) % 3)},
        coords={"feature": np.arange(N_FEATURES)},
    )
    encoding = {"emb": {"chunks": (CHUNK, N_FEATURES)}}
    dataset.to_zarr(tmp_path / "x.zarr", zarr_format=zarr_format, encoding=encoding)
    check(f"{tmp_path}/x.zarr::emb", rows)
