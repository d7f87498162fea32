"""Files written by netCDF4."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pytest

import rankme_stream as rs
from tests.writers.frame import N_FEATURES, check, check_values, rows_of


@pytest.mark.parametrize("compression", [None, "zlib", "zstd", "szip"])
def test_rows_are_read_to_the_same_bits(tmp_path: Path, compression: str | None) -> None:
    rows = rows_of()
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as file:
        file.createDimension("sample", None)
        file.createDimension("feature", N_FEATURES)
        file.createVariable("z", "f4", ("sample", "feature"), compression=compression, shuffle=True)[:] = rows
    check(tmp_path / "x.nc", rows)


def test_packed_numbers_and_those_that_mean_no_data_are_those_of_netcdf4(tmp_path: Path) -> None:
    values = np.ma.array(rows_of(np.float64), mask=False)
    values[7, 3] = np.ma.masked
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as file:
        file.createDimension("sample", 600)
        file.createDimension("feature", N_FEATURES)
        packed = file.createVariable("z", "i2", ("sample", "feature"), fill_value=-32768)
        packed.scale_factor, packed.add_offset = 2.0**-8, 0.5
        packed[:] = values
        wanted = np.ma.filled(packed[:].astype(np.float64), np.nan)
    check_values(tmp_path / "x.nc", wanted)


def test_features_are_found_by_their_dimension(tmp_path: Path) -> None:
    cube = rows_of().reshape(20, 30, N_FEATURES)
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as file:
        for name, length in (("band", N_FEATURES), ("y", 20), ("x", 30)):
            file.createDimension(name, length)
        file.createVariable("z", "f4", ("band", "y", "x"))[:] = np.moveaxis(cube, -1, 0)
    source = rs.open_source(tmp_path / "x.nc", features_axis="band")
    np.testing.assert_array_equal(source.read(0, 600), rows_of())


def test_netcdf_3_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("x", 3)
    with pytest.raises(rs.RankMeError, match="nccopy -k nc4"):
        rs.open_source(tmp_path / "x.nc")
