"""Gates of a look: what a sample must not say, the reasons that it gives, and what it does not exclude."""

from __future__ import annotations

import json
import math
import warnings

import jsonschema
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import ToleranceWarning
from rankme_stream.measuring.sampling import gates
from rankme_stream.measuring.sampling.replicates import MeasuredSpread
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.results.table import table
from rankme_stream.spectra.jackknife import JackknifeSpread, largest_deviation
from rankme_stream.spectra.tail_index import TailIndex, hill
from tests.result_schema import SCHEMA


def gaussian(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, n_features))


def sampled(rows: np.ndarray, max_rows: int, **options) -> rs.Measurement:
    """Return the result of a sample of ``max_rows``, whatever its tolerance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)
        return rs.measure(rows, sample=True, max_rows=max_rows, tolerance=1e-9, **options)


def test_a_tail_below_two_needs_every_row():
    light, heavy = TailIndex(2.0, 43), TailIndex(1.9999, 43)
    assert gates.heavy_tail(light, 1e6) is None
    assert gates.heavy_tail(hill(np.zeros(464)), 1e6) is None  # lengths that are all alike
    found = gates.heavy_tail(heavy, 1e6)
    assert found.reason.endswith("a few rows that a sample misses decide RankMe; only reading every row is sure to do")
    assert "(index 1.99, an interval needs 2)" in found.reason
    assert found.rows == math.inf
    assert "every row" not in gates.heavy_tail(heavy, math.inf).reason  # of a population there are infinitely many


def test_one_replicate_alone_is_refused_and_two_are_not():
    alone, two = np.zeros(16), np.zeros(16)
    alone[5] = two[3] = two[9] = -1.0
    found = gates.seen_once(largest_deviation(alone.tolist()), 16)
    assert "one of 16 replicates differs from all others by 3.8 standard" in found.reason
    for values in (two.tolist(), [4.0] * 16, gaussian(16, 1).ravel().tolist()):
        assert gates.seen_once(largest_deviation(values), 16) is None


@pytest.mark.parametrize(
    ("bias", "standard_error", "passes"),
    [(2.0, 1.0, True), (-2.0, 1.0, True), (2.2, 3.0, False), (-2.2, 3.0, False), (2.2, 4.0, True), (40.0, 60.0, False)],
)
def test_a_bias_is_large_beside_rankme_and_beside_chance(bias, standard_error, passes):
    spread = JackknifeSpread(bias, 0.0, standard_error, 16, 75.0)
    assert (gates.large_bias(MeasuredSpread(100.0, spread, [])) is None) == passes


def test_a_row_of_a_kind_that_was_seen_once_withholds_everything():
    """Rows of rank four, and one of another four directions among the 464 of the first look: half of RankMe is its."""
    rows = np.c_[gaussian(40_000, 4), np.zeros((40_000, 4))]
    design = draw_design(rows=(0, len(rows)), n_features=8, seed=0)
    assert (design.unit_rows, design.first_look) == (1, 464)
    assert sampled(rows, 464).rankme.value == pytest.approx(4.0, abs=0.05)
    rows[next(iter(design.units(0, 464)))] = np.r_[np.zeros(4), gaussian(1, 4, seed=1)[0]]
    found = sampled(rows, 464)
    assert "one of 16 replicates differs from all others by 3.7 standard deviations" in found.rankme.reason
    assert found.sampling["largest_replicate"] == pytest.approx(3.75, abs=0.05)
    assert {one.reason for one in found.estimates.values()} == {found.rankme.reason}
    assert found.rankme.details["sample"] > 4.0  # as it comes


def test_what_two_rows_of_hundreds_have_alone_is_a_bias():
    rows = np.c_[gaussian(40_000, 4), np.zeros((40_000, 4))]
    drawn = draw_design(rows=(0, len(rows)), n_features=8, seed=0).units(0, 464)
    chosen = [next(unit for unit, replicate in drawn.items() if replicate == number) for number in (3, 7)]
    rows[chosen] = np.c_[np.zeros((2, 4)), gaussian(2, 4, seed=1)]
    assert "too much to correct; more rows are needed" in sampled(rows, 464).rankme.reason


def test_lengths_with_a_heavy_tail_are_withheld():
    lengths = np.random.default_rng(3).pareto(2.5, 40_000) + 1.0  # index 1.25 of |z|^2
    rows = gaussian(40_000, 8) * lengths[:, None]
    found = sampled(rows, 1_856)
    assert len(found.convergence) == 3
    for point in found.convergence:
        assert "the lengths of the rows have too heavy a tail (index 1." in point["withheld"]
        assert point["rows_wanted"] is None
    assert found.sampling["tail"]["index"] == pytest.approx(1.25, abs=0.3)
    assert found.sampling["tail"]["largest"] == math.isqrt(4 * 1_856)
    assert str(found.shortfalls[0]).endswith("leave sample out, so that every row is read")
    assert sampled(gaussian(40_000, 8), 464).sampling["tail"]["index"] > 3.0


def test_uneven_rows_without_a_heavy_tail_say_how_many_would_do():
    rows = gaussian(40_000, 64)
    rows[::5] *= 3.0  # a fifth of the rows, nine times the weight: two of five rows count
    found = sampled(rows, 640)
    assert "carry the weight of only 2" in found.rankme.reason
    assert found.rankme.reason.endswith("and an interval needs 512 (8 per feature); about 1,400 rows would do")
    assert found.convergence[0]["rows_wanted"] == 1_400
    assert sampled(rows, 1_400).rankme.value is not None
    few = sampled(rows[:2_560], 640)
    assert few.rankme.reason.endswith(
        "(8 per feature); only reading every row is sure to do"
    )  # more than half of 2,560


def test_rows_of_one_length_have_no_tail():
    rows = np.sign(gaussian(30_000, 8))
    found = rs.measure(rows, sample=True, tolerance=0.02)
    assert found.rankme.value is not None
    assert found.sampling["tail"]["index"] == "inf"
    document = json.loads(found.to_json())
    jsonschema.validate(document, SCHEMA)
    assert str(found) == table(document)


def test_a_result_says_what_it_does_not_exclude():
    rows = gaussian(40_000, 64)
    found = rs.measure(rows, sample=True, tolerance=0.05)
    assert found.sampling["rare"] == {
        "asked": 0.01, "not_excluded": pytest.approx(0.00465, abs=5e-6), "confidence": 0.95, "units": 640,
    }  # fmt: skip
    assert found.convergence[-1]["not_excluded"] == found.sampling["rare"]["not_excluded"]
    line = (
        "Holds unless some units (1 row each) differ from all 640 that were read: fewer than 0.47 % of them all (95 %)."
    )
    assert line in str(found)
    many = rs.measure(rows, population=True)  # every row, of infinitely many
    assert "differ from all 256 that were compared: fewer than 1.2 % of them all" in str(many)
    assert many.sampling["rare"]["not_excluded"] == pytest.approx(1 - 0.05 ** (1 / 256), rel=1e-9)


def test_a_share_that_is_asked_for_is_found():
    rows = gaussian(40_000, 64)
    units = {rare: rs.measure(rows, sample=True, rare=rare, tolerance=0.05).sampling for rare in (0.05, 0.01, 0.002)}
    assert [units[rare]["unit_rows"] for rare in (0.05, 0.01, 0.002)] == [4, 1, 1]
    for rare, sampling in units.items():
        assert sampling["rare"]["not_excluded"] <= rare == sampling["rare"]["asked"]
    assert units[0.002]["units_read"] > 2_000


def units_of(rows: np.ndarray, n_units: int, number: int) -> list[int]:
    """Return the units, which are rows here, that the first ``n_units`` deal to a replicate."""
    design = draw_design(rows=(0, len(rows)), n_features=rows.shape[1], seed=0)
    assert design.unit_rows == 1
    return [unit for unit, replicate in design.units(0, n_units).items() if replicate == number]


def test_a_sample_with_an_empty_replicate_has_no_value():
    rows = gaussian(40_000, 64)
    rows[units_of(rows, 640, 3)] = np.nan
    found = sampled(rows, 640, nonfinite="skip")
    assert "a replicate has none" in found.rankme.reason
    assert found.sampling["largest_replicate"] is None


def test_unit_rows_of_replicates_of_zero_rows_are_withheld_alone():
    rows = gaussian(40_000, 64)
    for number in (3, 9):  # one alone would be refused
        rows[units_of(rows, 640, number)] = 0.0
    found = sampled(rows, 640, normalize=True)
    assert "a replicate has none" in found.normalized["vendi"].reason
    assert found.audit.rows_zero == 80
    assert found.rankme.value is not None
    assert "the first that was read is row" in str(found)


def test_a_sample_whose_weight_lies_in_one_replicate_has_no_value():
    rows = np.zeros((20_000, 16))
    some = units_of(rows, 3_712, 3)
    rows[some] = gaussian(len(some), 16)
    found = sampled(rows, 3_712)
    assert "the 16 replicates carry the weight of only 1.0 equal ones" in found.rankme.reason
    assert found.sampling["widened"] == 1.0  # without that replicate there is no RankMe


def test_a_sample_of_zeros_does_not_speak_for_the_dump():
    rows = np.zeros((50_000, 8))
    rows[-4:] = 1.0
    found = sampled(rows, 1_000)
    assert not found.tolerance_met
    assert {one.reason for one in found.estimates.values()} == {"every row that was read is zero"}
    assert rs.measure(rows, sample=True).rankme.value == pytest.approx(1.0, abs=1e-3)
