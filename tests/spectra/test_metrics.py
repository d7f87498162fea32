"""The definitions against closed forms, 60-digit golden values and formulas written out again."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankme_stream.errors import SpectrumError
from rankme_stream.spectra import metrics

RELATIVE_ERROR = 1e-12  # the stated accuracy of every formula, on the values given
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden-spectra.json").read_text())
RECIPES = {
    "s_k = 1.0/k": lambda n: 1.0 / np.arange(1, n + 1),
    "s_k = sqrt(1.0/k), doubles": lambda n: np.sqrt(1.0 / np.arange(1, n + 1)),
    "s_k = 1": np.ones,
    "40 ones, then 1e-8": lambda n: np.where(np.arange(n) < 40, 1.0, 1e-8),
    "32 ones, then 0": lambda n: np.where(np.arange(n) < 32, 1.0, 0.0),
}
GOLDEN_FUNCTIONS = {
    "rankme_eps_1e-7": metrics.rankme,
    "rankme_eps_0": metrics.effective_rank,
    "rankme_eps_1e-5": partial(metrics.rankme, eps=1e-5),
    "entropy_of_squares": metrics.variance_effective_rank,
    "participation_ratio": metrics.participation_ratio,
    "stable_rank": metrics.stable_rank,
}
OF_VALUES = {
    "rankme": metrics.rankme,
    "effective_rank": metrics.effective_rank,
    "variance_effective_rank": metrics.variance_effective_rank,
    "participation_ratio": metrics.participation_ratio,
    "stable_rank": metrics.stable_rank,
    "nesum": metrics.nesum,
    "isoscore": partial(metrics.isoscore, n_features=200),
    "numerical_rank": partial(metrics.numerical_rank, unit_roundoff=2.0**-11),
    "numpy_matrix_rank": partial(metrics.numpy_matrix_rank, n_rows=300, n_features=200, eps=2.0**-23),
    "condition_number": metrics.condition_number,
    "alpha_req": metrics.alpha_req,
}
PRESETS = {name: preset.compute for name, preset in metrics.PRESETS.items()}
SCALE_FREE = OF_VALUES | {name: compute for name, compute in PRESETS.items() if name != "tsitsulin"}

each_function = pytest.mark.parametrize("function", (OF_VALUES | PRESETS).values(), ids=(OF_VALUES | PRESETS).keys())
each_scale_free = pytest.mark.parametrize("function", SCALE_FREE.values(), ids=SCALE_FREE.keys())


def agrees(value: float) -> Any:
    return pytest.approx(value, rel=RELATIVE_ERROR, abs=0.0)


def golden_values(entry: dict[str, Any]) -> np.ndarray:
    if "formula" in entry:
        return RECIPES[entry["formula"]](entry["n"])
    return np.array([float.fromhex(text) for text in entry["singular_values"]])


def irregular(n: int = 200) -> np.ndarray:
    return np.sort(np.random.default_rng(7).lognormal(sigma=2.0, size=n))[::-1]


@pytest.mark.parametrize("key", GOLDEN_FUNCTIONS)
@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["name"])
def test_golden_spectra_are_met_to_1e_12(entry, key):
    values = golden_values(entry)
    assert values.size == entry["n"]
    assert GOLDEN_FUNCTIONS[key](values) == agrees(float(entry[key]))


def test_golden_file_holds_only_keys_that_are_tested():
    described = {"name", "n", "singular_values", "formula"}
    assert {key for entry in GOLDEN for key in entry} - described == set(GOLDEN_FUNCTIONS)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
def test_a_flat_spectrum_has_every_rank_equal_to_its_length(n):
    flat = np.full(n, 0.3)
    for name in ("effective_rank", "variance_effective_rank", "participation_ratio", "stable_rank", "nesum"):
        assert OF_VALUES[name](flat) == agrees(n)
    assert metrics.rankme(flat) == agrees(math.exp(-n * (1 / n + 1e-7) * math.log(1 / n + 1e-7)))
    assert metrics.numerical_rank(flat, unit_roundoff=2.0**-53) == n
    assert metrics.condition_number(flat) == 1.0


def test_one_value_counts_as_one():
    one = np.array([3.5])
    for name in ("effective_rank", "variance_effective_rank", "participation_ratio", "stable_rank", "nesum"):
        assert OF_VALUES[name](one) == 1.0
    assert metrics.isoscore(one, n_features=2) == 0.0
    assert metrics.condition_number(one) == 1.0


def test_zeros_add_nothing_without_eps():
    values = irregular()
    padded = np.concatenate((values, np.zeros(56)))
    for name in ("effective_rank", "variance_effective_rank", "participation_ratio", "stable_rank", "alpha_req"):
        assert OF_VALUES[name](padded) == OF_VALUES[name](values)


def test_each_zero_adds_one_eps_term_to_rankme():
    values = irregular()
    ratio = metrics.rankme(np.concatenate((values, np.zeros(56))), eps=1e-5) / metrics.rankme(values, eps=1e-5)
    assert math.log(ratio) == pytest.approx(-56 * 1e-5 * math.log(1e-5), rel=1e-9)  # a difference of entropies


def test_participation_ratio_and_stable_rank_follow_two_levels():
    values = np.array([2.0, 1.0, 1.0])
    assert metrics.participation_ratio(values) == 2.0
    assert metrics.stable_rank(values) == metrics.nesum(values) == 1.5
    assert metrics.effective_rank(values) == agrees(2.0**1.5)


@pytest.mark.parametrize("n_features", [200, 768])
def test_isoscore_is_the_rescaled_participation_ratio(n_features):
    values = irregular()
    expected = (metrics.participation_ratio(values) - 1.0) / (n_features - 1)
    assert metrics.isoscore(values, n_features=n_features) == agrees(expected)


def test_isoscore_is_one_for_a_full_flat_spectrum():
    assert metrics.isoscore(np.full(64, 5.0), n_features=64) == agrees(1.0)


def test_isoscore_keeps_its_digits_near_one_direction():
    # l = 1, x: P - 1 = 2x / (1 + x^2), which is lost when 1 is subtracted from P.
    x = 2.0**-60
    assert metrics.isoscore(np.array([1.0, 2.0**-30]), n_features=2) == agrees(2.0 * x)


def test_isoscore_is_refused_where_it_is_not_defined():
    with pytest.raises(SpectrumError, match="n_features = 1"):
        metrics.isoscore(np.array([1.0]), n_features=1)
    with pytest.raises(SpectrumError, match="fewer than the 2 singular values"):
        metrics.isoscore(np.array([2.0, 1.0]), n_features=0)


def test_numerical_rank_counts_values_above_the_rounding_of_the_stored_type():
    # |Z|_F = 5, so the threshold at u = 1/8 is 0.625, and equality does not count.
    values = np.array([4.0, math.sqrt(9.0 - 0.390625), 0.625])
    assert math.fsum(values * values) == 25.0
    assert metrics.numerical_rank(values, unit_roundoff=0.125) == 2
    assert metrics.numerical_rank(values, unit_roundoff=0.12) == 3
    assert metrics.numerical_rank(values, unit_roundoff=0.0) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_matrix_rank_agrees_with_numpy(dtype):
    left = np.random.default_rng(1).standard_normal((90, 12)).astype(dtype)
    matrix = left @ np.random.default_rng(2).standard_normal((12, 40)).astype(dtype)
    values = np.linalg.svd(matrix, compute_uv=False)
    rank = metrics.numpy_matrix_rank(values, n_rows=90, n_features=40, eps=float(np.finfo(dtype).eps))
    assert rank == np.linalg.matrix_rank(matrix) == 12


def test_numpy_matrix_rank_is_zero_for_long_float16_data():
    eps = float(np.finfo(np.float16).eps)
    shape = {"n_features": 8, "eps": eps}
    assert metrics.numpy_matrix_rank(np.ones(8), n_rows=1023, **shape) == 8
    assert metrics.numpy_matrix_rank(np.ones(8), n_rows=1024, **shape) == 0


def test_condition_number_is_infinite_with_a_zero_or_beyond_the_double_range():
    assert metrics.condition_number(np.array([8.0, 2.0])) == 4.0
    assert metrics.condition_number(np.array([8.0, 0.0])) == math.inf
    assert metrics.condition_number(np.array([1e300, 1e-300])) == math.inf


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.7])
def test_alpha_req_finds_an_exact_power_law(alpha):
    fit = metrics.alpha_req(7.0 * np.arange(1.0, 769.0) ** (-alpha / 2))
    assert fit.alpha == agrees(alpha)
    assert (fit.first, fit.last, fit.r2) == (11, 100, agrees(1.0))


def test_alpha_req_is_the_weighted_least_squares_line():
    values = irregular()
    ranks = np.arange(11, 101)
    root_weights = np.sqrt(1.0 / ranks)
    target = 2.0 * np.log(values[10:100])
    design = np.column_stack((np.ones(90), np.log(ranks)))
    (_, slope), residual, *_ = np.linalg.lstsq(design * root_weights[:, None], target * root_weights)
    mean = np.average(target, weights=1.0 / ranks)
    fit = metrics.alpha_req(values)
    assert fit.alpha == agrees(-slope)
    assert 0.5 < fit.r2 < 1.0
    assert fit.r2 == agrees(1.0 - residual[0] / np.sum((target - mean) ** 2 / ranks))


def test_alpha_req_reports_the_range_it_used():
    values = np.arange(1.0, 51.0) ** -1.0
    assert metrics.alpha_req(values)[1:3] == (11, 50)
    assert metrics.alpha_req(values, first=6, last=20)[1:3] == (6, 20)
    values[30:] = 0.0
    assert metrics.alpha_req(values)[1:3] == (11, 30)


def test_alpha_req_of_a_flat_spectrum_is_zero():
    assert metrics.alpha_req(np.full(768, 0.3)) == (0.0, 11, 100, 1.0)


def test_alpha_req_needs_three_points():
    assert metrics.alpha_req(np.arange(1.0, 14.0) ** -1.0)[1:3] == (11, 13)
    with pytest.raises(SpectrumError, match=r"^2 singular values above zero from rank 11 on"):
        metrics.alpha_req(np.arange(1.0, 13.0) ** -1.0)
    with pytest.raises(SpectrumError, match=r"^0 singular values"):
        metrics.alpha_req(np.array([1.0, 0.0]))
    with pytest.raises(SpectrumError, match="ranks count from 1"):
        metrics.alpha_req(irregular(), first=0)


def test_alpha_req_reads_values_whose_ratio_is_below_the_double_range():
    exponents = -20.0 * np.arange(100)
    values = np.ldexp(1.0, (1000 + exponents).astype(int))  # 2^1000 down to 2^-980
    ranks = np.arange(1, 101)
    x = np.log(ranks) - np.average(np.log(ranks), weights=1 / ranks)
    expected = -np.sum(x * 2.0 * exponents * math.log(2.0) / ranks) / np.sum(x * x / ranks)
    assert metrics.alpha_req(values, first=1).alpha == agrees(expected)


@each_scale_free
@pytest.mark.parametrize("exponent", [-900, -1, 1, 900])
def test_scaling_by_a_power_of_two_changes_no_bit(function, exponent):
    values = irregular()
    assert function(np.ldexp(values, exponent)) == function(values)


@each_scale_free
@pytest.mark.parametrize("largest", [np.finfo(float).max, 5e-324])
def test_both_ends_of_the_double_range_are_read_like_one(function, largest):
    if function is metrics.alpha_req:
        assert function(np.full(200, largest)) == function(np.ones(200))
    else:
        assert function(np.full(200, largest)) == agrees(function(np.ones(200)))


@pytest.mark.parametrize("largest", [np.finfo(float).max, 5e-324])
def test_the_tsitsulin_preset_survives_both_ends_of_the_double_range(largest):
    value = PRESETS["tsitsulin"](np.full(3, largest))
    # A value far below 1e-12 leaves p = 1e-12 in each term, as that formula has it.
    p = 1 / 3 + 1e-12 if largest > 1.0 else 1e-12
    assert value == agrees(math.exp(-3 * p * math.log(p)))


@each_function
def test_the_values_given_are_left_unchanged(function):
    values = irregular()
    before = values.copy()
    values.flags.writeable = False
    function(values)
    assert np.array_equal(values, before)


def exp_entropy(p):
    return np.exp(-np.sum(p * np.log(p)))


def reptrix(s):
    eigenvalues = (s**2)[:2048]
    return exp_entropy(eigenvalues / np.sum(eigenvalues) + 1e-7)


FORMULAS = {
    "paper": lambda s: exp_entropy(s / np.sum(s) + 1e-7),
    "roy-vetterli": lambda s: exp_entropy(s / np.sum(s)),
    "stable-pretraining": lambda s: exp_entropy(s / np.sum(s) + 1e-5),
    "reptrix": reptrix,
    "tsitsulin": lambda s: exp_entropy(s / np.sum(s + 1e-12) + 1e-12),
}


@pytest.mark.parametrize("scale", [1e-9, 1.0, 37.0])
@pytest.mark.parametrize("n", [1, 200, 3000])
@pytest.mark.parametrize("name", FORMULAS)
def test_presets_follow_the_formulas_of_their_libraries(name, n, scale):
    values = scale * irregular(n)
    assert metrics.PRESETS[name].compute(values) == agrees(float(FORMULAS[name](values)))


def test_presets_are_named_by_their_key_and_frozen():
    assert set(metrics.PRESETS) == set(FORMULAS)
    assert all(name == preset.name and preset.definition for name, preset in metrics.PRESETS.items())
    assert [name for name, preset in metrics.PRESETS.items() if preset.centered] == ["reptrix"]
    with pytest.raises(TypeError):
        metrics.PRESETS["paper"] = metrics.PRESETS["reptrix"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        metrics.PRESETS["paper"].centered = True  # type: ignore[misc]


BAD_VALUES = {
    "negative": ([2.0, 1.0, -0.5], r"singular_values\[2\] is -0\.5.*non-negative"),
    "nan": ([2.0, math.nan, 1.0], r"singular_values\[1\] is nan.*finite"),
    "infinite": ([math.inf, 1.0], r"singular_values\[0\] is inf.*finite"),
    "ascending": ([2.0, 0.5, 1.0], r"singular_values\[2\] is 1\.0.*descending"),
    "empty": ([], "no singular values"),
    "two dimensions": ([[2.0, 1.0]], r"shape \(1, 2\)"),
    "no dimension": (2.0, r"shape \(\)"),
    "all zero": ([0.0, 0.0], "^all singular values are zero$"),
}


@each_function
@pytest.mark.parametrize(("values", "text"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_values_that_are_no_spectrum_are_refused_with_place_and_value(function, values, text):
    with pytest.raises(SpectrumError, match=text):
        function(np.array(values))


@pytest.mark.parametrize("setting", [-1e-7, math.nan, math.inf])
def test_settings_that_are_negative_or_not_finite_are_refused(setting):
    with pytest.raises(SpectrumError, match="eps is"):
        metrics.rankme(np.ones(2), eps=setting)
    with pytest.raises(SpectrumError, match="unit_roundoff is"):
        metrics.numerical_rank(np.ones(2), unit_roundoff=setting)
