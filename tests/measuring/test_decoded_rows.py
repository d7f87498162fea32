"""Rows whose stored numbers are decoded: every kind of pass gives the numbers of the values; and rows of zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import MagnitudeError, NonFiniteError, UsageError, ZeroRowError
from rankme_stream.numerics.decoding import Decoding
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.sources import ArraySource, NpySource
from tests.dumps import store

DECODING = Decoding(scale=0.0123, offset=0.4, nodata=(-128,), source="scale_factor, add_offset, _FillValue")


class Packed(ArraySource):
    """Rows of int8 in memory that stand for other values."""

    def __init__(self, rows: np.ndarray, decoding: Decoding = DECODING) -> None:
        super().__init__(rows)
        self.stored = replace(self.stored, decoding=decoding)


@pytest.fixture(scope="module")
def stored():
    rows = np.random.default_rng(0).integers(-127, 128, (3000, 24)).astype(np.int8)
    rows[:, 6:] //= 16
    rows[7] = -128
    rows[2900, 3] = -128
    return rows


@pytest.fixture(scope="module")
def values(stored):
    return np.delete(stored, [7, 2900], axis=0) * 0.0123 + 0.4


def overlap(found, wanted):
    return found.lower <= wanted.upper and wanted.lower <= found.upper


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "tsqr"}, {"normalize": True, "dims": (5,)}, {"workers": 2},
     {"method": "rsvd", "rank": 8, "oversampling": 2},
     {"method": "row-sketch", "rank": 400}, {"method": "frequent-directions", "rank": 8}, {"precision": "float32"},
     {"sample": True, "max_rows": 2000}, {"groups": "rows:500"}, {"population": True}],
    ids=lambda options: ",".join(map(str, options.values())),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
def test_every_kind_of_pass_is_of_the_values(stored, values, options):
    found, wanted = rs.measure(Packed(stored), nonfinite="skip", **options), rs.measure(values)
    for name in ("rankme", "centered_rankme", "participation_ratio"):
        assert overlap(found[name], wanted[name]), name
    assert found.source["decoding"].startswith("int8 * 0.0123")


def test_the_exact_pass_gives_the_bits_of_the_values(stored, values):
    kept = np.delete(stored, [7, 2900], axis=0)
    assert rs.measure(Packed(kept)).rankme == rs.measure(values).rankme


def test_a_checkpoint_and_its_parts(stored, values, tmp_path):
    np.save(tmp_path / "a.npy", stored)
    source = NpySource(tmp_path / "a.npy")
    source.stored = replace(source.stored, decoding=DECODING)
    parts = [rs.segment(source, part=(i, 2), state=tmp_path / f"{i}", nonfinite="skip") for i in range(2)]
    merged = rs.measure_state(rs.merge_states(parts))
    assert overlap(merged.rankme, rs.measure(values).rankme)
    assert merged.source["decoding"] == Packed(stored).stored.description
    assert merged.rules == {"missing": "error", "nonfinite": "skip", "zeros": "count"}


def test_rows_without_data_are_refused_and_named(stored):
    with pytest.raises(NonFiniteError, match=r"row 7 holds no data \(-128\)"):
        rs.measure(Packed(stored))


def test_rows_left_out_are_zeros_although_a_stored_zero_means_something(values):
    rows = np.full((50, 3), -128, np.int8)
    rows[::2] = np.random.default_rng(1).integers(-9, 9, (25, 3))
    assert overlap(rs.measure(Packed(rows), nonfinite="skip").rankme, rs.measure(rows[::2] * 0.0123 + 0.4).rankme)


def test_values_beyond_the_range_are_refused():
    rows = np.ones((5, 2), np.int8)
    rows[3, 1] = 100
    with pytest.raises(MagnitudeError, match="row 3 holds values beyond 2"):
        rs.measure(Packed(rows, Decoding(scale=2.0**478)))


@pytest.mark.parametrize("left_out", ["skip", "error", "count"])
def test_rows_of_zeros(left_out):
    rows = np.random.default_rng(2).standard_normal((400, 5)).astype(np.float32)
    rows[100:120] = 0.0
    if left_out == "error":
        with pytest.raises(ZeroRowError, match="row 100 is zero throughout"):
            rs.measure(rows, zeros="error")
        return
    measurement = rs.measure(rows, zeros=left_out)
    kept = np.delete(rows, range(100, 120), axis=0) if left_out == "skip" else rows
    assert measurement["participation_ratio"].value == pytest.approx(rs.measure(kept)["participation_ratio"].value)
    assert (measurement.rows_read, measurement.audit.rows_zero) == (len(kept), 20)
    remarks = measurement.to_dict()["remarks"]
    assert bool(remarks) == (left_out == "count")
    assert all("5 % of the rows are zero throughout" in remark for remark in remarks)


def test_rows_of_zeros_in_a_stream_groups_states_and_samples(tmp_path):
    rows = np.random.default_rng(3).standard_normal((2000, 4)).astype(np.float32)
    rows[::3] = 0.0
    wanted = rs.measure(np.delete(rows, range(0, 2000, 3), axis=0)).rankme
    assert rs.measure([rows[:300], rows[300:]], zeros="skip").rankme == rs.measure(rows, zeros="skip").rankme
    path = str(store(tmp_path / "a.zarr", rows))
    found = rs.measure(path, zeros="skip", groups="rows:1000", checkpoint=tmp_path / "kept")
    assert overlap(found.rankme, wanted)
    assert sum(one["rankme"].details["n_rows"] for one in found.groups.values()) == found.rows_read
    state = rs.load_state(tmp_path / "kept")
    assert overlap(rs.measure_state(state).rankme, wanted)
    with pytest.raises(UsageError, match="another pass"):
        rs.measure(path, groups="rows:1000", checkpoint=tmp_path / "kept")
    found = rs.measure(rows, zeros="skip", sample=True, max_rows=1800, tolerance=0.1)
    assert overlap(found.rankme, wanted)


@pytest.mark.parametrize("rule", ["count", "skip"])
def test_a_pass_over_unit_rows_and_zeros_goes_on(tmp_path, rule):
    """Rows of zeros have no direction, so they are not among the unit rows."""
    rows = np.random.default_rng(5).standard_normal((300, 5)).astype(np.float32)
    rows[7] = 0.0
    path = str(store(tmp_path / "a.zarr", rows))
    options = {"normalize": True, "zeros": rule, "method": "gram"}
    first = rs.measure(path, checkpoint=tmp_path / "kept", **options)
    again = rs.measure(path, checkpoint=tmp_path / "kept", **options)
    assert again.normalized == first.normalized
    parts = [rs.segment(path, part=(i, 2), state=tmp_path / f"{i}", **options) for i in range(2)]
    assert rs.measure_state(rs.merge_states(parts)).normalized == first.normalized


def test_constant_rows_are_remarked(tmp_path):
    rows = np.random.default_rng(4).standard_normal((300, 6)).astype(np.float32)
    rows[40:60] = -9999.0
    measurement = rs.measure(str(store(tmp_path / "a.zarr", rows)))
    assert (measurement.audit.rows_constant, measurement.audit.first_constant) == (20, 40)
    assert "6.7 % of the rows hold one number in all features, the first is row 40" in str(measurement)
    assert rs.measure(rows[:, :1]).audit.rows_constant == 0


def test_fewer_rows_than_features_are_remarked():
    assert "is at most 4, the number of rows, whatever the embeddings." in str(rs.measure(np.eye(4, 9)))


def test_integers_are_said_to_be_as_stored():
    assert "values: int16 as stored: no scale is declared" in str(rs.measure(np.eye(5, dtype=np.int16)))
    assert "values:" not in str(rs.measure(np.eye(5)))
    assert named_type("int16").decoding is None
