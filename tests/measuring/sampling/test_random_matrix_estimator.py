"""From 1.25 rows a feature on, random-matrix theory states an interval for a population, or says why it does not."""

from __future__ import annotations

import json
import warnings

import jsonschema
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import ToleranceWarning
from rankme_stream.spectra import metrics
from tests.result_schema import SCHEMA

D = 32
VALUES = np.arange(1, D + 1) ** -0.5
TRUE = metrics.rankme(VALUES)
SUMS = {
    "rankme", "effective_rank", "centered_rankme", "centered_effective_rank", "variance_effective_rank",
    "participation_ratio", "isoscore",
}  # fmt: skip


def drawn(n_rows: int, seed: int, n_features: int = D) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n_rows, n_features)) * np.arange(1, n_features + 1) ** -0.5


def quietly(rows, **options) -> rs.Measurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)
        return rs.measure(rows, **{"population": True, "tolerance": 0.02} | options)


@pytest.mark.parametrize("n_rows", [53, 101, 313])
def test_intervals_of_few_rows_hold_the_population_and_use_every_row(n_rows):
    held = 0
    for seed in range(6):
        found = quietly(drawn(n_rows, seed))
        assert (found.rows_read, found.sampling["units_read"], found.sampling["units"]) == (n_rows,) * 3
        assert found.sampling["estimator"] == "random-matrix"
        assert found.rankme.value > found.rankme.details["sample"]
        held += found.rankme.lower <= TRUE <= found.rankme.upper
    jsonschema.validate(found.to_dict(), SCHEMA)
    assert held >= 5  # each with 0.95: fewer with probability 3 %


def test_metrics_that_are_sums_over_all_eigenvalues_are_stated_and_the_others_say_what_they_need():
    found = quietly(drawn(100, 0), normalize=True, dims=(5, 20))
    for estimates in (found.estimates, found.dims[20]):
        assert {name for name, one in estimates.items() if one.value is not None} == SUMS
        assert all(one.covers == ("arithmetic", "sampling") for one in estimates.values() if one.value is not None)
    assert found.estimates["nesum"].reason == "100 rows are fewer than 20 per feature, and this number needs 640"
    assert found.estimates["condition_number"].reason == "a sample does not determine the smallest singular values"
    assert found.dims[20]["alpha_req"].reason == "100 rows are fewer than 10 per feature, and this number needs 200"
    assert {name for name, one in found.normalized.items() if one.value is not None} == {"rankme", "vendi"}
    assert {name for name, one in found.presets.items() if one.value is None} == {"tsitsulin"}
    assert found.dims[5]["nesum"].value is not None  # 20 rows per feature: by the jackknife


@pytest.mark.parametrize("options", [{"workers": 3}, {"method": "tsqr"}, {"precision": "float32"}], ids=str)
def test_the_value_does_not_depend_on_threads_or_on_the_arithmetic(options):
    rows = drawn(100, 1)
    wanted, found = quietly(rows, workers=1), quietly(rows, **options)
    if "workers" in options:
        assert found.estimates == wanted.estimates
    assert found.rankme.value == pytest.approx(wanted.rankme.value, rel=1e-5)
    assert found.rankme.upper - found.rankme.lower >= (wanted.rankme.upper - wanted.rankme.lower) * (1.0 - 1e-5)


@pytest.mark.parametrize("scale", [2.0**-700, 2.0**300])
def test_the_size_of_the_rows_changes_nothing(scale):
    wanted, found = (quietly(drawn(100, 2) * factor, normalize=True) for factor in (1.0, scale))
    for name in SUMS:
        assert found.estimates[name].value == pytest.approx(wanted.estimates[name].value, rel=1e-9)
    assert found.normalized["vendi"].upper == pytest.approx(wanted.normalized["vendi"].upper, rel=1e-9)
    assert found.sampling["independent_rows"] == pytest.approx(wanted.sampling["independent_rows"], rel=1e-9)


def test_features_that_are_zero_and_rows_that_are_left_out_change_nothing():
    rows = drawn(100, 3)
    wanted = quietly(rows)
    wide = np.zeros((100, D + 7))
    wide[:, :D] = rows
    assert quietly(wide).estimates["effective_rank"].value == pytest.approx(
        wanted.estimates["effective_rank"].value, rel=1e-9
    )
    faulty = np.insert(rows, [0, 50, 100], np.nan, axis=0)
    assert quietly(faulty, nonfinite="skip").rankme.value == pytest.approx(wanted.rankme.value, rel=2e-2)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (drawn(39, 0), "39 rows of 32 features give no interval: there are fewer than 1.25 rows a feature"),
        (np.repeat(drawn(30, 0), 4, axis=0), "without one of its units the rows do not span the features"),
        (drawn(8, 0)[np.arange(160) // 20] + 0.1 * drawn(160, 1), "they are copies of one another, sorted, or of very"),
        (np.zeros((100, D)), "every row that was read is zero"),
    ],
    ids=["too few", "copies", "sorted", "zeros"],
)
def test_rows_that_count_as_too_few_have_no_number_and_a_reason(rows, text):
    found = quietly(rows, normalize=True)
    assert found.rankme.value is None
    assert text in found.rankme.reason
    assert all(one.value is None for one in found.normalized.values())
    jsonschema.validate(found.to_dict(), SCHEMA)


def test_a_heavy_tail_withholds_a_population_only_where_long_rows_raise_its_number():
    generator = np.random.default_rng(0)
    rows = drawn(120, 4) / np.sqrt(generator.chisquare(3, 120))[:, None]
    found = quietly(rows)
    assert found.sampling["tail"]["index"] < 2.0
    assert found.rankme.lower <= TRUE <= found.rankme.upper
    about_a_mean = quietly(rows + 50.0 * np.eye(D)[0])
    assert about_a_mean.rankme.value is None
    assert "such rows have too heavy a tail (index 1." in about_a_mean.rankme.reason


def test_rows_stored_in_runs_of_copies_are_remarked_upon():
    remark = "Rows stored together are alike (copies, or sorted): they count as"
    copied, single = quietly(np.repeat(drawn(72, 0), 4, axis=0)), quietly(drawn(288, 0))
    assert copied.sampling["independent_rows"] == pytest.approx(72, rel=0.4)
    assert single.sampling["independent_rows"] == pytest.approx(288, rel=0.2)
    assert remark in str(copied)
    assert remark not in str(single)


def test_a_sample_of_a_small_dump_holds_all_of_its_rows():
    held = 0
    for seed in range(6):
        rows = drawn(1200, seed, 64)
        truth = rs.measure(rows).rankme.value
        found = quietly(rows, population=False, sample=True, tolerance=0.05, seed=seed)
        assert (found.sampling["estimator"], found.rows_read) == ("random-matrix", 384)
        held += found.rankme.lower <= truth <= found.rankme.upper
    assert held >= 5
    assert "Corrected by random-matrix theory: the rows read, 6 per feature, have RankMe" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_rows_of_few_directions_are_like_too_many_others_below_twenty_per_feature():
    for n_rows, is_stated in ((200, False), (639, False), (640, True)):
        found = quietly(drawn(n_rows, 0, 3) @ np.eye(3, D))  # three directions
        assert (found.rankme.reason is None) is is_stated
        assert found.sampling["estimator"] == ("jackknife" if is_stated else "random-matrix")


@pytest.mark.parametrize("n_features", [1, 4, 6])
def test_a_population_of_few_features_needs_no_more_rows_than_twenty_for_each(n_features):
    found = quietly(drawn(20 * n_features, 0, n_features), tolerance=1.0)
    assert (found.sampling["estimator"], found.sampling["unit_rows"]) == ("jackknife", 1)


def test_rows_that_are_almost_zero_give_no_warning():
    generator = np.random.default_rng([2, 33, 13])
    rows = generator.standard_normal((33, 2))
    rows[::2] *= 1e-100
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = quietly(rows)
    assert found.rankme.value is None
