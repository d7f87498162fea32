"""Stored numbers are read as their metadata mean, or refused by the name of what is not understood."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numcodecs
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import RankMeError, SourceFormatError, UsageError
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.sources import open_source
from tests import packed_dumps

NUMBERS = np.random.default_rng(0).integers(-127, 128, (90, 6)).astype("i1")
FLOATS = np.random.default_rng(1).standard_normal((90, 6))


def write(path: Path, numbers: np.ndarray, attributes: dict[str, Any] | None = None, **settings: Any) -> Path:
    options = {"shape": numbers.shape, "chunks": (20, numbers.shape[1]), "dtype": numbers.dtype} | settings
    zarr.create_array(path, attributes=attributes or {}, **options)[:] = numbers
    return path


def values_of(source: rs.Source) -> np.ndarray:
    return source.stored.values(source.read(0, source.shape[0]))


def decoding_of(path: object, **options: Any) -> Decoding | None:
    return open_source(path, **options).stored.decoding


@pytest.mark.parametrize("case", packed_dumps.CASES, ids=", ".join)
def test_a_packed_dump_has_the_numbers_of_its_values(tmp_path, case):
    meant = packed_dumps.write(tmp_path / "a.zarr", *case)
    np.testing.assert_allclose(values_of(open_source(tmp_path / "a.zarr")), meant, rtol=0, atol=1e-12)
    if case[2] != "all":  # the fewest whole passes in which each kind of metadata is
        return
    found = rs.measure(tmp_path / "a.zarr", nonfinite="skip", workers=1)
    kept = meant[~np.isnan(meant).any(axis=1)]
    assert (found.rows_read, found.audit.rows_nonfinite) == (len(kept), len(meant) - len(kept))
    for values, estimate in ((kept, found.rankme), (kept - kept.mean(0), found["centered_rankme"])):
        wanted = rs.metrics.rankme(np.linalg.svd(values, compute_uv=False))
        assert abs(estimate.value / wanted - 1) <= 1e-9
        assert estimate.lower - 1e-12 <= wanted <= estimate.upper + 1e-12


@pytest.mark.parametrize(
    "options",
    [{"method": "tsqr"}, {"workers": 2, "groups": "rows:500"}, {"normalize": True, "dims": (5,)}, {"rows": (100, 1300)},
     {"method": "rsvd", "rank": 4, "oversampling": 2}, {"precision": "float32"},
     {"sample": True, "max_rows": 1400, "tolerance": 0.5}],
    ids=lambda options: ",".join(map(str, options.values())),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
def test_every_kind_of_pass_is_of_the_values(tmp_path, options):
    numbers = np.random.default_rng(2).integers(-127, 128, (1500, 12)).astype("i1")
    path = write(tmp_path / "a", numbers, {"scale_factor": 0.05, "add_offset": 2.0}, chunks=(100, 12), shards=(300, 12))
    found, wanted = rs.measure(path, **options), rs.measure(numbers * 0.05 + 2.0, **options)
    for name in ("rankme", "centered_rankme"):
        assert found[name].lower <= wanted[name].upper and wanted[name].lower <= found[name].upper
    for name, group in found.groups.items():
        assert abs(group["rankme"].value - wanted.groups[name]["rankme"].value) <= 1e-9 * group["rankme"].value
    assert found.measured["peak_bytes"] > 0 < rs.plan(path).to_dict()["predicted_peak_bytes"]


@pytest.mark.skipif(not hasattr(zarr.codecs, "ScaleOffset"), reason="zarr >= 3.2")
def test_numbers_that_codecs_of_zarr_decode_are_said_to_be(tmp_path):
    pytest.importorskip("cast_value_rs")
    from zarr.codecs import CastValue, ScaleOffset

    filters = [ScaleOffset(offset=1.0, scale=50.0), CastValue(data_type="int8", rounding="nearest-even")]
    source = open_source(write(tmp_path / "a", FLOATS.astype("f4") / 4, filters=filters))
    assert source.stored.description == "float32, decoded from int8 by scale_offset and cast_value"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_fill_values_are_no_data_only_where_xarray_or_cf_say_so(tmp_path, zarr_format):
    def found(name: str, fill: float | None, attributes: dict[str, Any], dtype: str = "f4") -> tuple[float, ...]:
        path = write(tmp_path / name, FLOATS.astype(dtype), attributes, fill_value=fill, zarr_format=zarr_format)
        decoding = decoding_of(path)
        return () if decoding is None else decoding.nodata

    xarray = {"_ARRAY_DIMENSIONS": ["sample", "feature"]}
    packed = {"scale_factor": 0.1}
    is_v2 = zarr_format == 2
    assert found("of zarr-python", 0.0, {}) == ()
    assert found("by hand", -9999.0, {}) == ()
    assert found("of zarr-python, for xarray", 0.0, xarray) == ()
    assert found("of xarray", -9999.0, xarray) == ((-9999.0,) if is_v2 else ())
    assert found("of CF", -128, packed, "i1") == ((-128.0,) if is_v2 else ())
    assert found("of CF by zarr-python", 0, packed, "i1") == ()
    assert found("packed by xarray", 0, packed | xarray, "i1") == ((0.0,) if is_v2 else ())
    assert found("beside the attribute", -1, packed | xarray | {"_FillValue": -128}, "i1") == (-128.0,)
    assert found("NaN", float("nan"), xarray) == ()


def encoded(value: float) -> str:
    return base64.b64encode(struct.pack("<d", value)).decode()


@pytest.mark.parametrize(
    ("attributes", "nodata"),
    [
        ({"_FillValue": encoded(-9999.0)}, (-9999.0,)),
        ({"_FillValue": encoded(float("nan"))}, ()),
        ({"_FillValue": "NaN"}, ()),
        ({"_FillValue": -9999.0}, (-9999.0,)),
        ({"missing_value": [-1.0, 1e20]}, (-1.0, float(np.float32(1e20)))),
        ({"missing_value": -999.9, "_FillValue": encoded(-999.9)}, (float(np.float32(-999.9)),)),
        ({"nodata": "-32767"}, (-32767.0,)),
        ({"no_data_value": -5}, (-5.0,)),
        ({"NoData": "nan"}, ()),
        ({"nodatavals": [-5, -5]}, (-5.0,)),
        ({"GDAL_NODATA": -5.5}, (-5.5,)),
        ({"missing_value": []}, ()),
        ({"missing_value": None}, ()),
    ],
    ids=str,
)
def test_no_data_is_read_in_every_spelling_and_as_the_type_holds_it(tmp_path, attributes, nodata):
    decoding = decoding_of(write(tmp_path / "a", FLOATS.astype("f4"), attributes))
    assert (() if decoding is None else decoding.nodata) == nodata


@pytest.mark.parametrize(
    ("dtype", "attributes", "valid"),
    [
        ("i1", {"valid_range": [-127, 127]}, (-127, 127)),
        ("i1", {"valid_min": -127, "valid_max": 99, "scale_factor": 0.1}, (-127, 99)),
        ("i1", {"valid_min": -5, "valid_range": [-7, 7]}, (-5, 7)),
        ("i1", {"_Unsigned": "true", "valid_range": [0, -2]}, (0, 254)),
        ("f4", {"valid_max": 0.1}, (None, float(np.float32(0.1)))),
        ("i2", {"valid_max": 1.5}, (None, 1.5)),
    ],
)
def test_numbers_outside_valid_limits_are_no_data(tmp_path, dtype, attributes, valid):
    assert decoding_of(write(tmp_path / "a", NUMBERS.astype(dtype), attributes)).valid == valid


@pytest.mark.parametrize(
    ("dtype", "attributes", "named"),
    [
        ("i1", {"scale_factor": "0.1"}, "scale_factor"),
        ("i1", {"scale_factor": 0}, "scale_factor"),
        ("i1", {"scale_factor": [0.1, 0.2]}, "scale_factor"),
        ("i1", {"add_offset": True}, "add_offset"),
        ("i1", {"_Unsigned": "maybe"}, "_Unsigned"),
        ("i1", {"_FillValue": -9999}, "_FillValue"),
        ("u1", {"nodata": -1}, "nodata"),
        ("i1", {"missing_value": 0.5}, "missing_value"),
        ("f4", {"_FillValue": "AAAA"}, "_FillValue"),
        ("f4", {"nodata": "sea"}, "nodata"),
        ("i1", {"scale_factor": 0.1, "valid_range": [-12.5, 12.5]}, "valid_range"),
        ("i1", {"valid_range": [5, -5]}, "valid_range"),
        ("i1", {"valid_range": 5}, "valid_range"),
        ("i1", {"dequantization": "((x/127.5)**2)*sign(x)"}, "dequantization"),
        ("i1", {"quantization": {"bits": 8}}, "quantization"),
        ("i1", {"zero_point": 3}, "zero_point"),
        ("u1", {"scale": 0.1}, "scale"),
        ("u2", {"original_dtype": "torch.bfloat16"}, "original_dtype"),
        ("u1", {"dtype": "float8_e4m3"}, "dtype"),
        ("u2", {"dtype": "tf32"}, "dtype"),
        ("u2", {"dtype": {"name": "bfloat16"}}, "dtype"),
        ("u2", {"dtype": "int16"}, "dtype"),
        ("u2", {"dtype": "float32"}, "dtype"),
        ("u2", {"dtype": "float16", "scale_factor": 0.1}, "dtype"),
        ("f2", {"dtype": "bfloat16"}, "dtype"),
    ],
    ids=str,
)
def test_what_is_declared_and_not_understood_is_refused_by_name(tmp_path, dtype, attributes, named):
    path = write(tmp_path / "a", NUMBERS.astype(dtype), attributes)
    with pytest.raises(SourceFormatError, match=f"declares {named} = ") as refusal:
        open_source(path)
    assert "\n" not in str(refusal.value)


def test_a_type_of_another_width_is_no_remedy(tmp_path):
    for spelling, is_as_wide in (("float32", False), ("float8_e5m2", True)):
        path = write(tmp_path / spelling, NUMBERS, {"original_dtype": spelling})
        with pytest.raises(SourceFormatError, match=r"declares original_dtype.*decode") as refusal:
            open_source(path)
        assert (f'dtype="{spelling}"' in str(refusal.value)) == is_as_wide


@pytest.mark.parametrize(
    ("dtype", "attributes"),
    [
        ("f2", {"dtype": "float32"}),
        ("f4", {"dtype": "bfloat16"}),
        ("f4", {"dtype": "torch.float32"}),
        ("i1", {"dtype": "|i1"}),
        ("i1", {"dtype": "float32", "scale_factor": 1.0}),
        ("f4", {"quantization": "info"}),
        ("i1", {"quantization": None}),
        ("f8", {"_Unsigned": "true"}),
    ],
    ids=str,
)
def test_what_is_declared_of_numbers_that_are_the_values_changes_nothing(tmp_path, dtype, attributes):
    if dtype == "i1" and attributes.get("dtype") == "float32":
        attributes = attributes | {"scale_factor": 2.0}
    source = open_source(write(tmp_path / "a", NUMBERS.astype(dtype), attributes))
    assert source.stored.name == np.dtype(dtype).name
    assert (source.stored.decoding is not None) == ("scale_factor" in attributes)


@pytest.mark.parametrize("held", ["<u2", ">u2", "<i2"])
@pytest.mark.parametrize(
    "spelling",
    [
        "bfloat16",
        "bf16",
        "BFLOAT16",
        "torch.bfloat16",
        "jnp.bfloat16",
        "<class 'ml_dtypes.bfloat16'>",
        "dtype(bfloat16)",
    ],
)
def test_bfloat16_is_read_by_every_usual_spelling(tmp_path, held, spelling):
    rows = FLOATS.astype(ml_dtypes.bfloat16)
    path = write(tmp_path / "a", rows.view("u2").astype(held), {"dtype": spelling}, zarr_format=2)
    source = open_source(path)
    assert source.stored.name == "bfloat16"
    np.testing.assert_array_equal(values_of(source), rows.astype("f8"))


@pytest.mark.parametrize(
    ("name", "held", "spelling"),
    [
        ("float16", "u2", "half"),
        ("float32", "u4", "float32"),
        ("float64", "i8", "<f8"),
        ("float8_e4m3fn", "u1", "torch.float8_e4m3fn"),
        ("float8_e5m2", "i1", "F8_E5M2"),
    ],
)
def test_floats_in_integers_of_their_width_are_read_where_they_are_declared(tmp_path, name, held, spelling):
    rows = FLOATS.astype(getattr(ml_dtypes, name, name))
    by_attribute = write(tmp_path / "a", rows.view(held), {"dtype": spelling})
    by_option = write(tmp_path / "b", rows.view(held))
    for source in (open_source(by_attribute), open_source(by_option, dtype=spelling)):
        assert source.stored.name == name
        np.testing.assert_array_equal(values_of(source), rows.astype("f8"))


def declare_type(path: Path, name: str, fill: object) -> None:
    """Write the type of numbers, and the fill value, as tensorstore does."""
    document = next(path.glob(".zarray"), path / "zarr.json")
    metadata = json.loads(document.read_text())
    metadata["data_type" if document.name == "zarr.json" else "dtype"] = name
    document.write_text(json.dumps(metadata | {"fill_value": fill}))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("fill", [1.5, 0.0, "NaN"])
def test_types_that_zarr_python_cannot_open_are_read(tmp_path, zarr_format, name, fill):
    rows = FLOATS.astype(getattr(ml_dtypes, name))
    bits = rows.view(f"u{rows.itemsize}")
    path = write(tmp_path / "a", bits, zarr_format=zarr_format)
    declare_type(path, name, fill)
    source = open_source(path)
    assert source.stored.name == name
    np.testing.assert_array_equal(values_of(source), rows.astype("f8"))
    next(path.glob("c/0/0"), path / "0.0").unlink()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(values_of(open_source(path))[:20], np.full((20, 6), float(fill)))


def test_types_that_zarr_python_cannot_open_are_listed_in_a_group(tmp_path):
    group = zarr.open_group(tmp_path / "g", mode="w")
    group.create_array("a", shape=(4, 2), dtype="u2", chunks=(4, 2))[:] = 1
    declare_type(tmp_path / "g" / "a", "bfloat16", "0x3fc0")
    with pytest.raises(SourceFormatError, match=r"use e\.g\. '.*::a'"):
        open_source(tmp_path / "g")
    assert open_source(f"{tmp_path / 'g'}::a").stored.name == "bfloat16"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_bytes_without_a_type_are_read_with_one(tmp_path, zarr_format):
    rows = FLOATS.astype(ml_dtypes.bfloat16)
    path = write(tmp_path / "a", rows.view("V2"), zarr_format=zarr_format)
    np.save(tmp_path / "a.npy", rows)
    for where in (path, tmp_path / "a.npy"):
        with pytest.raises(SourceFormatError, match='dtype="bfloat16"'):
            open_source(where)
        np.testing.assert_array_equal(values_of(open_source(where, dtype="bf16")), rows.astype("f8"))
        with pytest.raises(SourceFormatError, match=re.escape("it has 4 bytes each")):
            open_source(where, dtype="float32")


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_rows_in_memory_are_read_in_the_types_of_ml_dtypes(name):
    rows = FLOATS.astype(getattr(ml_dtypes, name))
    wanted = rs.measure(rows.astype("f8")).rankme
    for found in (rs.measure(rows).rankme, rs.measure(iter((rows[:40], rows[40:]))).rankme):
        assert found.lower <= wanted.upper and wanted.lower <= found.upper


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_numbers_that_a_codec_decodes_are_not_scaled_again(tmp_path, zarr_format):
    path = tmp_path / "a"
    if zarr_format == 2:
        scaled = numcodecs.FixedScaleOffset(offset=1, scale=50, dtype="f4", astype="u1")
        write(path, FLOATS.astype("f4") / 2, zarr_format=2, filters=[scaled])
    else:
        write(path, np.zeros((90, 6), "u1"), compressors=None)
        document = json.loads((path / "zarr.json").read_text())
        codec = {
            "name": "numcodecs.fixedscaleoffset",
            "configuration": {"offset": 1, "scale": 50, "dtype": "f4", "astype": "u1"},
        }
        document |= {"data_type": "float32", "fill_value": 0.0, "codecs": [codec, {"name": "bytes"}]}
        (path / "zarr.json").write_text(json.dumps(document))
    source = open_source(path)
    assert source.stored.description == "float32, decoded from uint8 by fixedscaleoffset"
    assert source.stored.decoding is None
    zarr.open_array(path).attrs["scale_factor"] = 0.02
    with pytest.raises(SourceFormatError, match="its codec 'fixedscaleoffset' scales as well"):
        open_source(path)


@pytest.mark.parametrize(
    ("attributes", "options", "wanted"),
    [
        ({}, {"nodata": -128}, Decoding(nodata=(-128.0,), source="option nodata")),
        (
            {"_FillValue": -1, "scale_factor": 2.0},
            {"nodata": float("nan")},
            Decoding(2.0, source="scale_factor, option nodata"),
        ),
        ({"_FillValue": 4711}, {"nodata": -128}, Decoding(nodata=(-128.0,), source="option nodata")),
        (
            {"nodata": -128, "dequantization": "(x/127.5)^2"},
            {"decode": "power:2:127.5"},
            Decoding(power=2.0, divisor=127.5, nodata=(-128.0,), source="nodata, option decode"),
        ),
        (
            {"scale_factor": 0.1, "add_offset": 3},
            {"decode": "power:2:127.5"},
            Decoding(power=2.0, divisor=127.5, source="option decode"),
        ),
        (
            {"scale_factor": 0.1, "quantization": "int8"},
            {"decode": "linear"},
            Decoding(0.1, source="scale_factor, option decode"),
        ),
        ({"dequantize": "?"}, {"decode": "linear"}, None),
        ({"dtype": "float32"}, {"dtype": "int8"}, None),
    ],
    ids=str,
)
def test_options_replace_what_they_concern(tmp_path, attributes, options, wanted):
    assert decoding_of(write(tmp_path / "a", NUMBERS, attributes), **options) == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat17"},
        {"decode": "log"},
        {"decode": "power:2"},
        {"decode": "power:0:127.5"},
        {"decode": "power:2:x"},
        {"decode": "bits:0"},
        {"decode": "linear:1"},
        {"decode": "bits", "nodata": 1},
        {"decode": "power:2:1", "scales": "s"},
        {"nodata": 128},
        {"nodata": 0.5},
        {"nodata": "sea"},
        {"decode": ""},
    ],
    ids=str,
)
def test_an_option_that_is_not_understood_is_a_wrong_usage(tmp_path, options):
    path = write(tmp_path / "a", NUMBERS)
    np.save(tmp_path / "a.npy", NUMBERS)
    for where in (path, tmp_path / "a.npy"):
        with pytest.raises(UsageError, match=next(iter(options))):
            open_source(where, **options)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("i1", "int8 as stored: no scale is declared"),
        ("u1", "uint8 as stored: neither a scale nor packed bits are declared"),
        ("f4", "float32 as stored"),
    ],
)
def test_numbers_without_a_declaration_are_said_to_be_as_stored(tmp_path, dtype, words):
    path = write(tmp_path / "a", NUMBERS.astype(dtype))
    np.save(tmp_path / "a.npy", NUMBERS.astype(dtype))
    for where in (path, tmp_path / "a.npy"):
        assert open_source(where).stored.description == words


@pytest.mark.parametrize("kind", ["file", "array"])
def test_floats_are_not_taken_for_integers(tmp_path, kind):
    rows = np.ones((9, 4), np.float32)
    np.save(tmp_path / "a.npy", rows)
    source = {"file": tmp_path / "a.npy", "array": write(tmp_path / "a.zarr", rows)}[kind]
    for dtype in ("int32", "uint32"):
        with pytest.raises(SourceFormatError, match=r"holds float32, whose bits are no integers: leave dtype="):
            open_source(source, dtype=dtype)
    assert np.array_equal(values_of(open_source(source, dtype="float32")), rows)


@pytest.mark.parametrize("kind", ["safetensors", "zarr"])
def test_floats_that_numpy_lacks_are_not_taken_for_integers(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zarr":
        declare_type(write(path, np.ones((9, 4), np.uint16)), "bfloat16", 0)
    else:
        header = json.dumps({"w": {"dtype": "BF16", "shape": [9, 4], "data_offsets": [0, 72]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(72))
    with pytest.raises(SourceFormatError, match=r"holds bfloat16, whose bits are no integers: leave dtype="):
        open_source(path, dtype="int16")
    assert open_source(path, dtype="bfloat16").stored.name == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        ("i1", {"decode": "linear"}, "int8 as stored, by option decode"),
        ("i1", {"nodata": "nan"}, "int8 as stored, every number is data, by option nodata"),
        ("u1", {"decode": "bits"}, "int8, -1 and +1 for the bits of uint8, by option decode"),
        ("f4", {"decode": "linear"}, "float32 as stored, in which option decode changes nothing"),
    ],
)
def test_numbers_that_an_option_settles_are_said_to_be(tmp_path, dtype, options, words):
    path = write(tmp_path / "a", NUMBERS.astype(dtype))
    np.save(tmp_path / "a.npy", NUMBERS.astype(dtype))
    for where in (path, tmp_path / "a.npy"):
        assert open_source(where, **options).stored.description == words


def test_what_lies_around_an_array_at_the_top_of_a_store_is_said_not_to_be_seen():
    unseen = "; groups above the address and arrays beside it were not looked at"
    for dtype, says_so in (("i1", True), ("u1", True), ("i2", False), ("f4", False)):
        store = zarr.storage.MemoryStore()
        for path, expected in (("a", False), (None, says_so)):
            array = zarr.create_array(store, name=path, shape=NUMBERS.shape, dtype=dtype, overwrite=True)
            array[:] = NUMBERS
            assert open_source(array).stored.description.endswith(unseen) == expected


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_another_meaning_is_another_dump(tmp_path, zarr_format):
    found = []
    for number, attributes in enumerate(({}, {"scale_factor": 0.1}, {"scale_factor": 0.2}, {"_FillValue": 7})):
        path = write(tmp_path / "a", NUMBERS, attributes, zarr_format=zarr_format, overwrite=bool(number))
        source = open_source(path)
        found.append((json.dumps(source.identity()), source.fingerprint(0, 0)))
    for names in zip(*found, strict=True):
        assert len(set(names)) == len(names)


def test_a_checkpoint_of_another_meaning_is_refused(tmp_path):
    path = write(tmp_path / "a", NUMBERS, {"scale_factor": 0.1})
    rs.measure(path, checkpoint=tmp_path / "state")
    rs.measure(path, checkpoint=tmp_path / "state")
    zarr.open_array(path).attrs["add_offset"] = 3.0
    with pytest.raises(RankMeError, match=r"values int8 \* 0.1, by scale_factor there and int8 \* 0.1 \+ 3, by"):
        rs.measure(path, checkpoint=tmp_path / "state")
    with pytest.raises(RankMeError, match=r"checkpoint|state"):
        rs.measure(open_source(path, nodata=-128), checkpoint=tmp_path / "state", nonfinite="skip")
