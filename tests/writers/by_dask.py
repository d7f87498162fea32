"""Stores written by dask."""

from __future__ import annotations

from pathlib import Path

import dask.array
import pytest

from tests.writers.frame import CHUNK, check, rows_of


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("columns", [24, 7])
def test_rows_are_read_to_the_same_bits(tmp_path: Path, dtype: str, columns: int) -> None:
    rows = rows_of(dtype)
    dask.array.from_array(rows, chunks=(CHUNK, columns)).to_zarr(str(tmp_path / "x.zarr"), component="emb")
    check(f"{tmp_path}/x.zarr::emb", rows)
