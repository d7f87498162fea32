"""Declarations that meet: of types, scales and missing numbers, in one array, in groups and in several parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import MagnitudeError, SourceFormatError

GEOEMB = "geoemb:quantization"
RNG = np.random.default_rng(0)


def write(path: Path, numbers: np.ndarray, attributes: dict[str, Any] | None = None, **settings: Any) -> Path:
    options = {"shape": numbers.shape, "chunks": (20, *numbers.shape[1:]), "dtype": numbers.dtype} | settings
    zarr.create_array(path, attributes=attributes or {}, **options)[:] = numbers
    return path


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i2"])
def test_groups_are_of_the_values_in_every_type(tmp_path, dtype):
    numbers = (RNG.standard_normal((300, 6)) * 50).astype(dtype)
    path = write(tmp_path / "g.zarr", numbers, {"scale_factor": 0.5, "add_offset": 3.0})
    found = rs.measure(path, groups="rows:150")
    values = numbers.astype(np.float64) * 0.5 + 3.0
    wanted = rs.metrics.rankme(np.linalg.svd(values[:150], compute_uv=False))
    assert abs(found.groups["0:150"]["rankme"].value - wanted) <= 1e-9 * wanted
    assert abs(found["lidar"].value - rs.measure(values, groups="rows:150")["lidar"].value) <= 1e-6


def test_a_type_of_the_values_beside_a_quantization_of_the_codes_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "q.zarr", mode="w")
    group.attrs[GEOEMB] = {
        "method": "linear", "quantized_dtype": "uint16", "original_dtype": "float16",
        "scale": {"type": "scalar", "scale": 0.01, "offset": 0.5},
    }  # fmt: skip
    codes = RNG.integers(0, 4000, (60, 5)).astype("u2")
    array = group.create_array("emb", shape=codes.shape, dtype="u2", attributes={"dtype": "float16"})
    array[:] = codes
    with pytest.raises(SourceFormatError, match=r"dtype.*float16.*beside a geoemb:quantization of uint16"):
        rs.open_source(f"{tmp_path}/q.zarr::emb")
    source = rs.open_source(f"{tmp_path}/q.zarr::emb", dtype="uint16")
    assert np.array_equal(source.stored.values(source.read(0, 60)), codes * 0.01 + 0.5)


def test_float8_beside_scales_is_refused_as_int8_is(tmp_path):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    bits = RNG.integers(0, 100, (60, 5)).astype("u1")
    group.create_array("emb", shape=bits.shape, dtype="u1", attributes={"dtype": "float8_e4m3fn"})[:] = bits
    group.create_array("scales", shape=(60,), dtype="f4")[:] = 2.0
    with pytest.raises(SourceFormatError, match=r"beside the array 'scales'"):
        rs.open_source(f"{tmp_path}/s.zarr::emb")
    scaled = rs.open_source(f"{tmp_path}/s.zarr::emb", scales="scales")
    plain = rs.open_source(f"{tmp_path}/s.zarr::emb", decode="linear")
    assert np.array_equal(scaled.read(0, 60), 2 * plain.stored.values(plain.read(0, 60)))


@pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
def test_a_missing_number_beside_bits_by_attribute_is_refused(tmp_path, name):
    """The writer may mean the stored integer or the float that its bits are."""
    numbers = np.full((40, 3), 16256, "i2")  # 1 in bfloat16
    path = write(tmp_path / "b.zarr", numbers, {"dtype": "bfloat16", name: -999})
    with pytest.raises(SourceFormatError, match=rf"declares {name} beside dtype = bfloat16 of int16"):
        rs.open_source(path)
    assert rs.open_source(path, nodata=float("nan")).stored.name == "bfloat16"


@pytest.mark.parametrize("which", ["codes", "scales"])
def test_integers_beyond_float64_are_refused_with_scales_too(tmp_path, which):
    codes, scales = np.ones((30, 4), "i8"), np.ones(30, "i8")
    (codes[7] if which == "codes" else scales)[:] = 2**60
    np.save(tmp_path / "codes.npy", codes)
    np.save(tmp_path / "scales.npy", scales)
    source = rs.open_source(tmp_path / "codes.npy", scales=str(tmp_path / "scales.npy"))
    with pytest.raises(MagnitudeError, match=r"row [07] holds integers beyond 2\^53"):
        rs.measure(source)


@pytest.mark.parametrize("sentinel", [2**63 - 1, -(2**63) + 2, 2**53 + 1])
@pytest.mark.parametrize("how", ["attribute", "option"])
def test_sentinels_that_float64_rounds_are_recognised(tmp_path, sentinel, how):
    numbers = RNG.integers(-99, 99, (50, 4))
    numbers[7] = sentinel
    path = write(tmp_path / "i.zarr", numbers, {"_FillValue": sentinel} if how == "attribute" else {})
    source = rs.open_source(path, **({"nodata": sentinel} if how == "option" else {}))
    found = rs.measure(source, nonfinite="skip")
    assert (found.rows_read, found.audit.first_nonfinite) == (49, 7)
    assert f"no data ({sentinel})" in found.source["decoding"]


@pytest.mark.parametrize("name", ["scale_factor", "add_offset", "_FillValue", "valid_max"])
def test_numbers_that_no_float_holds_are_refused_by_name_or_mean_nothing(tmp_path, name):
    path = write(tmp_path / "h.zarr", RNG.integers(-9, 9, (50, 4)).astype("i2"), {name: 10**400})
    if name == "valid_max":
        assert rs.measure(path).audit.rows_nonfinite == 0
    else:
        with pytest.raises(SourceFormatError, match=name):
            rs.open_source(path)


def test_parts_that_were_made_otherwise_are_refused(tmp_path):
    codes = RNG.integers(-9, 9, (50, 4)).astype("i1")
    np.save(tmp_path / "a.npy", codes)
    np.save(tmp_path / "s.npy", np.ones(50, "f4"))
    np.save(tmp_path / "b.npy", codes.astype("f8"))
    scaled = rs.open_source(tmp_path / "a.npy", scales=str(tmp_path / "s.npy"))
    with pytest.raises(
        SourceFormatError, match=r"b\.npy holds numbers of decoding none, .* of decoding int8 \* scales"
    ):
        rs.open_source([scaled, str(tmp_path / "b.npy")])


def test_a_dump_grows_by_a_part_with_other_codecs(tmp_path):
    rows = RNG.standard_normal((140_000, 4)).astype("f4")
    first = str(write(tmp_path / "a.zarr", rows[:70_000], chunks=(10_000, 4)))
    rs.measure(rs.open_source([first]), checkpoint=tmp_path / "kept")
    second = str(write(tmp_path / "b.zarr", rows[70_000:], chunks=(5_000, 4), compressors=None, shards=(10_000, 4)))
    grown = rs.measure(rs.open_source([first, second]), checkpoint=tmp_path / "kept")
    assert grown.measured["bytes_read"] < rows.nbytes
    assert grown.rankme == rs.measure(rows).rankme
