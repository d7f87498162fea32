"""Sums over the eigenvalues of a population are recovered from those of a sample, to the last digits of the theory."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from rankme_stream.spectra import contour
from rankme_stream.spectra.contour import NoEstimateError
from tests.forward_equations import expected_path

K = np.arange(1, 97)
PLANTED = {
    "flat": np.ones(96), "k^-1/2": 1.0 / K, "k^-1": 1.0 / K**2, "collapsed": np.where(K <= 30, 1.0, 1e-6),
    "exponential": np.exp(-K / 8.0),
}  # fmt: skip
_CHI_SQUARE = np.random.default_rng(3).chisquare(5, (32, 4000))
STUDENT = np.sort((5.0 / _CHI_SQUARE).ravel()).reshape(32, -1).mean(axis=1)
LENGTHS = {"equal": np.ones(1), "Student-5": STUDENT / STUDENT.mean()}


def entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


def log_rankme(values: np.ndarray, eps: float = 0.0) -> float:
    s = np.sqrt(values)
    return entropy(s / s.sum() + eps)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_spectrum_is_recovered_from_the_eigenvalues_that_the_forward_equations_expect(name, lengths):
    planted, tau = PLANTED[name], LENGTHS[lengths]
    for rows_per_feature in (1.25, 3.0):
        path = expected_path(planted, 1.0 / rows_per_feature, tau)
        found = contour.given_lengths(path, 1.0 / rows_per_feature, tau, np.ones(tau.size))
        assert found.defect < 1e-12
        assert contour.log_rankme(found) == pytest.approx(log_rankme(planted), abs=1e-12)
        assert contour.log_rankme(found, eps=1e-7) == pytest.approx(log_rankme(planted, 1e-7), abs=1e-12)
        assert contour.log_entropy_rank(found) == pytest.approx(entropy(planted / planted.sum()), abs=1e-11)
        if lengths == "equal":
            same = contour.equal_lengths(path, 1.0 / rows_per_feature)
            assert np.abs(same.w / found.w - 1.0).max() < 1e-13
        elif name != "collapsed":
            plain = contour.equal_lengths(path, 1.0 / rows_per_feature)
            assert contour.log_rankme(plain) < log_rankme(planted) - 0.01  # the lengths matter


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6, 1e10, 9e12])
def test_one_integrates_to_one_and_as_many_rows_as_read_give_the_plain_value(condition):
    values = np.geomspace(1.0 / condition, 1.0, 80)
    for n_rows in (100, 160, 800):
        assert contour.of_equal_lengths(values, n_rows).defect < 1e-6
        same = contour.of_equal_lengths(values, n_rows, n_rows)
        assert contour.log_rankme(same, eps=1e-7) == pytest.approx(log_rankme(values, 1e-7), abs=5e-6)
        assert contour.log_entropy_rank(same) == pytest.approx(entropy(values / values.sum()), abs=5e-6)


def test_more_rows_lie_between_the_sample_and_its_population():
    values = np.geomspace(1e-3, 1.0, 50)
    plain, *more = (contour.log_rankme(contour.of_equal_lengths(values, 100, n)) for n in (100, 200, 1_000, math.inf))
    assert plain < more[0] < more[1] < more[2]
    assert more[1] - plain == pytest.approx(0.9 * (more[2] - plain), rel=0.05)  # to first order in 1/N


def test_zero_eigenvalues_count_as_eps_alone():
    values = np.geomspace(1e-4, 1.0, 40)
    with_zeros = np.concatenate([np.full(20, 1e-17), values])
    with_eps = partial(contour.log_rankme, eps=1e-5)
    few, many = contour.of_equal_lengths(values, 90), contour.of_equal_lengths(with_zeros, 90)
    assert with_eps(many) == with_eps(few)
    assert with_eps(many, zeros=20) == pytest.approx(with_eps(few) - 20 * 1e-5 * math.log(1e-5), rel=1e-14)


def test_equal_lengths_given_as_lengths_and_lengths_in_any_unit_give_the_same():
    values = np.geomspace(1e-3, 1.0, 40)
    plain = contour.log_rankme(contour.of_equal_lengths(values, 70))
    assert contour.log_rankme(
        contour.of_given_lengths(values, 70, np.full(3, 7.0), np.ones(3))
    ) == pytest.approx(plain, abs=1e-12)  # fmt: skip
    uneven = contour.of_given_lengths(values, 70, np.array([1.0, 4.0]), np.array([3.0, 1.0]))
    scaled = contour.of_given_lengths(7.0 * values, 70, np.array([10.0, 40.0]), np.array([0.75, 0.25]))
    assert contour.log_rankme(uneven) == pytest.approx(contour.log_rankme(scaled), abs=1e-12)
    assert contour.log_rankme(uneven) > plain + 0.01


@pytest.mark.parametrize("functional", [contour.log_rankme, contour.log_entropy_rank])
def test_matched_rows_give_the_value_that_they_match(functional):
    values = np.geomspace(1e-3, 1.0, 40)
    target = functional(contour.of_equal_lengths(values, 66.0))
    assert contour.matched_rows(values, 80, functional, target) == pytest.approx(66.0, rel=1e-6)
    assert contour.matched_rows(values, 80, functional, math.inf) == pytest.approx(1.02 * 40, rel=1e-6)


def test_what_allows_no_estimate_says_why():
    values = np.geomspace(1e-3, 1.0, 40)
    with pytest.raises(NoEstimateError, match="no more rows than features"):
        contour.of_equal_lengths(values, 40)
    for bad in (np.zeros(3), np.array([1.0, np.nan]), np.zeros(0)):
        with pytest.raises(NoEstimateError, match="all zero or not finite"):
            contour.of_equal_lengths(bad, 40)
    path = contour.path_around(values, 0.5 * values[0])
    with pytest.raises(NoEstimateError, match="no estimate follows"):
        contour.contour_of(path, path.z.conj(), np.ones_like(path.z))
    wrong = contour.Contour(path.z, np.zeros_like(path.z), 40)
    with pytest.raises(NoEstimateError, match="does not converge"):
        contour.converged(lambda digits, factor: wrong)
