"""Stores written by xarray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError
from tests.writers.frame import CHUNK, N_FEATURES, check, check_values, rows_of


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


PACKINGS = {
    "scale": {"dtype": "int8", "scale_factor": 0.03},
    "scale, offset": {"dtype": "int16", "scale_factor": 1e-4, "add_offset": 0.25},
    "unsigned": {"dtype": "uint8", "scale_factor": 0.02, "add_offset": -2.5},
    "_Unsigned": {"dtype": "int8", "_Unsigned": "true", "scale_factor": 0.02, "add_offset": -2.5, "_FillValue": -1},
    "scale, fill": {"dtype": "int8", "scale_factor": 0.03, "_FillValue": -128},
    "float32, fill": {"dtype": "float32", "_FillValue": -9999.0},
    "float16, fill": {"dtype": "float16", "_FillValue": -9999.0},
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_rows_mean_what_xarray_reads(tmp_path: Path, packing: str, zarr_format: int) -> None:
    rows = rows_of()
    if "_FillValue" in PACKINGS[packing]:
        rows[::40] = np.nan
    encoding = {"_FillValue": None, **PACKINGS[packing], "chunks": (CHUNK, N_FEATURES)}
    dataset = xarray.Dataset({"emb": (("row", "feature"), rows)})
    dataset.to_zarr(tmp_path / "x.zarr", zarr_format=zarr_format, encoding={"emb": encoding})
    read = xarray.open_zarr(tmp_path / "x.zarr")["emb"].values.astype(np.float64)
    assert np.isnan(read).any() == ("_FillValue" in PACKINGS[packing])
    measured = check_values(f"{tmp_path}/x.zarr::emb", read)
    assert measured.source["decoding"] != f"{PACKINGS[packing]['dtype']} as stored"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_features_first_are_read_by_the_name_of_their_axis(tmp_path: Path, zarr_format: int) -> None:
    grid = rows_of().T.reshape(N_FEATURES, 20, 30)
    dataset = xarray.Dataset({"emb": (("band", "y", "x"), grid)})
    dataset.to_zarr(tmp_path / "x.zarr", zarr_format=zarr_format, encoding={"emb": {"chunks": (N_FEATURES, 8, 30)}})
    check_values(f"{tmp_path}/x.zarr::emb", rows_of(), features_axis="band")


def test_variables_that_python_holds_are_rows(tmp_path: Path) -> None:
    rows = rows_of()
    dataset = xarray.Dataset({"emb": (("sample", "feature"), rows), "label": (("sample",), np.arange(len(rows)))})
    check(dataset["emb"], rows)
    check(dataset["emb"].variable, rows)
    check(dataset, rows, key="emb")
    check(dataset["emb"].T, rows, features_axis="feature")
    check(dataset["emb"].chunk({"sample": 70, "feature": 10}), rows)
    check(dataset["emb"].T.chunk({"sample": 70}), rows, features_axis="feature")
    image = xarray.DataArray(rows.T.reshape(N_FEATURES, 20, 30), dims=("band", "y", "x"))
    check(image, rows, features_axis="band")
    check(image.chunk({"y": 4}), rows, features_axis="band")
    for made in (dataset["emb"].T, dataset["emb"].T.chunk()):
        with pytest.raises(
            SourceFormatError, match="whose names say that the features come first: give features_axis="
        ):
            rs.measure(made)
    with pytest.raises(SourceFormatError, match="has the members 'emb', 'label': name the one"):
        rs.measure(dataset)


def test_a_lazy_variable_is_read_in_parts_and_as_xarray_decodes_it(tmp_path: Path) -> None:
    rows = rows_of()
    rows[7] = np.nan
    encoding = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -32768, "chunks": (CHUNK, N_FEATURES)}
    xarray.Dataset({"emb": (("sample", "feature"), rows)}).to_zarr(tmp_path / "x.zarr", encoding={"emb": encoding})
    for chunks in (None, {}):
        opened = xarray.open_zarr(tmp_path / "x.zarr", chunks=chunks)
        values = opened["emb"].values
        source = rs.open_source(xarray.open_zarr(tmp_path / "x.zarr", chunks=chunks), key="emb")
        assert list(source.bounds(0, 300)) == [100, 200]
        assert source.read(30, 250).tobytes() == values[30:250].tobytes()
        found = rs.measure(source, nonfinite="skip")
        assert found.rows_read == len(rows) - 1
        assert found.estimates == rs.measure(values, nonfinite="skip").estimates
    raw = xarray.open_zarr(tmp_path / "x.zarr", mask_and_scale=False)
    with pytest.raises(SourceFormatError, match="has the attribute scale_factor, which was not applied: open it with"):
        rs.measure(raw["emb"])
