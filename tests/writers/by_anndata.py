"""Stores written by anndata."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas
import pytest
import scipy.sparse

import rankme_stream as rs
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


def test_rows_of_a_file_of_hdf5_are_read_and_sparse_ones_refused(tmp_path: Path) -> None:
    rows, embedding = rows_of(), rows_of(seed=1)[:, :8].copy()
    written = anndata.AnnData(
        scipy.sparse.csr_matrix(rows), obs=pandas.DataFrame(index=[str(number) for number in range(len(rows))]),
        obsm={"X_pca": embedding}, layers={"dense": rows},
    )  # fmt: skip
    written.write_h5ad(tmp_path / "x.h5ad")
    check(f"{tmp_path}/x.h5ad::layers/dense", rows)
    check(f"{tmp_path}/x.h5ad::obsm/X_pca", embedding)
    with pytest.raises(rs.RankMeError, match="sparse matrix of AnnData"):
        rs.open_source(f"{tmp_path}/x.h5ad::X")


@pytest.mark.parametrize("labels", ["cell", "cell/codes"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_cells_without_a_type_are_in_no_group(tmp_path: Path, zarr_format: int, labels: str) -> None:
    rows, number = rows_of(), np.arange(600) % 4
    cells = np.array(["B", "T", "NK", None], dtype=object)[number]
    written = anndata.AnnData(
        rows, obs=pandas.DataFrame({"cell": pandas.Categorical(cells)}, index=[str(one) for one in range(len(rows))])
    )
    with anndata.settings.override(zarr_write_format=zarr_format):
        written.write_zarr(tmp_path / "x.zarr")
    measured = rs.measure(f"{tmp_path}/x.zarr::X", groups=f"{tmp_path}/x.zarr::obs/{labels}")
    assert sorted(measured.groups) == ["B", "NK", "T"]
    wanted = rs.measure(rows[number == 1]).rankme
    assert abs(measured.groups["T"]["rankme"].value - wanted.value) <= 1e-9 * wanted.value
    assert measured["lidar"].details["rows_unlabelled"] == 150
