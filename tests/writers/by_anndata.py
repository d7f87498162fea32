"""Stores written by anndata."""

from __future__ import annotations

from pathlib import Path

import anndata
import pandas
import pytest

from tests.writers.frame import N_FEATURES, check, rows_of


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rows_are_read_to_the_same_bits(tmp_path: Path, zarr_format: int) -> None:
    rows, embedding = rows_of(), rows_of(seed=1)[:, :8].copy()
    names = [str(number) for number in range(len(rows))]
    written = anndata.AnnData(
        rows,
        obs=pandas.DataFrame(index=names),
        var=pandas.DataFrame(index=[str(number) for number in range(N_FEATURES)]),
        obsm={"X_pca": embedding},
    )
    with anndata.settings.override(zarr_write_format=zarr_format):
        written.write_zarr(tmp_path / "x.zarr")
    check(f"{tmp_path}/x.zarr::X", rows)
    check(f"{tmp_path}/x.zarr::obsm/X_pca", embedding)
