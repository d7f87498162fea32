"""Decoding of stored numbers: the values, and the numbers that are no data, against numpy in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import named_type

ALL_BYTES = np.arange(256, dtype=np.uint8)


def decoded(name, stored, **decoding):
    return replace(named_type(name), decoding=Decoding(**decoding)).values(np.asarray(stored))


def test_an_affine_map_is_a_product_and_a_sum_in_float64():
    stored = ALL_BYTES.view(np.int8)[None, :]
    assert np.array_equal(decoded("int8", stored, scale=0.1, offset=1 / 3), stored * 0.1 + 1 / 3)


def test_rows_longer_than_what_is_decoded_at_once():
    stored = np.random.default_rng(0).integers(-(2**15), 2**15, (3, 40_000)).astype(np.int16)
    assert np.array_equal(decoded("int16", stored, scale=1e-3), stored * 1e-3)


def test_a_power_keeps_the_sign():
    stored = ALL_BYTES.view(np.int8)[None, :]
    expected = np.sign(stored) * (np.abs(stored.astype(float)) / 127.5) ** 2
    assert np.array_equal(decoded("int8", stored, power=2.0, divisor=127.5), expected)


@pytest.mark.parametrize(
    ("name", "dtype", "nodata"),
    [("int8", np.int8, -128), ("uint8", np.uint8, 255), ("int16", np.int16, -32768), ("float32", np.float32, -9999.0),
     ("float16", np.float16, -9999.0), ("float64", np.float64, 1e300), ("int64", np.int64, -(2**53))],
)  # fmt: skip
def test_rows_that_hold_no_data(name, dtype, nodata):
    stored = np.ones((5, 3), dtype)
    stored[1] = dtype(nodata)
    stored[3, 2] = dtype(nodata)
    values = decoded(name, stored, scale=2.0, nodata=(nodata,))
    assert np.isnan(values[[1, 3]]).all()
    assert (values[[0, 2, 4]] == 2.0).all()


def test_a_number_that_the_type_does_not_hold_stands_for_nothing():
    stored = np.array([[-1, 1], [127, -128]], np.int8)
    assert np.array_equal(decoded("int8", stored, nodata=(255.0, 0.5)), stored)


def test_numbers_outside_the_valid_range_are_no_data():
    stored = np.array([[0, 5], [5, 9], [10, 5], [3, 4]], np.int16)
    values = decoded("int16", stored, valid=(0.5, 9.5))
    assert np.isnan(values[[0, 2]]).all()
    assert np.array_equal(values[[1, 3]], stored[[1, 3]])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_bit_patterns_are_those_of_ml_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = named_type(name)
    stored = np.arange(2 ** (8 * kind.dtype.itemsize), dtype=kind.dtype)[:, None]
    with np.errstate(invalid="ignore"):
        expected = stored.view(getattr(ml_dtypes, name)).astype(np.float64)
    finite = np.isfinite(expected)
    assert np.array_equal(kind.values(stored)[finite], expected[finite])
    assert np.array_equal(np.flatnonzero(~finite), np.flatnonzero(kind.nonfinite_rows(stored)))
    assert np.array_equal(np.flatnonzero(expected == 0), kind.zero_rows(stored))
    assert np.array_equal(np.sign(kind.values(stored)[finite]), np.sign(expected[finite]))


def test_the_values_of_float8_are_those_of_their_definition():
    kind = named_type("float8_e4m3fn")
    one, largest, least, nan = 0x38, 0x7E, 0x01, 0x7F
    assert kind.values(np.array([[one, largest, least | 0x80]], np.uint8)).tolist() == [[1.0, 448.0, -(2.0**-9)]]
    assert kind.nonfinite_rows(np.array([[one], [nan]], np.uint8)).tolist() == [False, True]
    assert named_type("float8_e5m2").values(np.array([[0x3C, 0x7B, 0x81]], np.uint8)).tolist() == [
        [1.0, 57344.0, -(2.0**-16)]
    ]


def test_bit_patterns_hold_no_data_as_they_round_it():
    kind = replace(named_type("bfloat16"), decoding=Decoding(nodata=(-9999.0,)))
    stored = (np.array([[1.0, -9984.0], [1.0, -9920.0]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert kind.nonfinite_rows(stored).tolist() == [True, False]


@pytest.mark.parametrize(("offset", "zero"), [(0.0, 0), (-12.5, 25), (12.5, -25)])
def test_zero_rows_are_rows_whose_values_are_zero(offset, zero):
    kind = replace(named_type("int8"), decoding=Decoding(scale=0.5, offset=offset))
    stored = np.array([[zero] * 3, [zero, zero, 1], [7] * 3], np.int8)
    assert kind.zero_rows(stored).tolist() == [0]
    assert kind.constant_rows(stored).tolist() == [0, 2]


def test_a_float32_panel_does_not_hold_what_is_decoded():
    assert named_type("int8").fits_float32
    assert named_type("float8_e5m2").fits_float32
    assert not replace(named_type("int8"), decoding=Decoding(scale=0.1)).fits_float32


def test_magnitudes_beyond_the_range_are_found():
    kind = replace(named_type("int8"), decoding=Decoding(scale=2.0**475))
    assert kind.largest_magnitude(np.array([[3, -5]], np.int8)) == 5 * 2.0**475
    assert replace(named_type("int8"), decoding=Decoding(scale=2.0)).largest_magnitude(np.array([[3]], np.int8)) == 0.0


def test_the_words_name_map_gaps_and_source():
    decoding = Decoding(scale=0.5, offset=0.25, nodata=(-128,), valid=(None, 120), source="scale_factor, _FillValue")
    assert replace(named_type("int8"), decoding=decoding).description == (
        "int8 * 0.5 + 0.25, no data (-128, above 120), by scale_factor, _FillValue"
    )
    assert replace(named_type("float16"), decoding=decoding).fault == (
        "is not finite or holds no data (-128, above 120), by scale_factor, _FillValue"
    )
    exact = Decoding(scale=0.1, power=0.3, divisor=127.5, nodata=(1e20,), valid=(-127.0, None))
    assert exact.describe("v") == "sign(v) * |v / 127.5|^0.3 * 0.1, no data (1e+20, below -127)"
    assert named_type("int8").description == "int8 as stored: no scale is declared"
    assert named_type("float32").description == "float32 as stored"
    assert replace(named_type("float32"), note="float32, of int8").description == "float32, of int8"
