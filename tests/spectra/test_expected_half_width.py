"""Half-widths that some rows lead to expect: their laws, and the variance of a row's influence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankme_stream.spectra.expected_half_width import (
    expected_half_width,
    gaussian_variance,
    least_rows,
    measured_variance,
)

D = 48
DECAY = np.arange(1.0, D + 1.0) ** -0.5


def halves(rows, unit_rows=1):
    runs = np.split(rows, len(rows) // unit_rows)
    return runs[::2], runs[1::2]


def test_equal_singular_values_have_no_influence_and_units_of_measure_do_not_matter():
    assert gaussian_variance(np.full(D, 3.0)) == pytest.approx(0.0, abs=1e-28)
    assert gaussian_variance(5e9 * DECAY) == pytest.approx(gaussian_variance(DECAY), rel=1e-12)


def test_the_variance_is_that_of_ln_rankme_of_gaussian_rows():
    """The delta method against the logarithm of RankMe itself, of many samples of 40 D rows."""
    generator, n = np.random.default_rng(3), 40 * D
    found = []
    for _ in range(150):
        s = np.sqrt(np.linalg.eigvalsh(np.cov(generator.standard_normal((n, D)) * DECAY, rowvar=False)))
        p = s / s.sum()
        found.append(-(p @ np.log(p)))
    assert np.std(found) * math.sqrt(n) == pytest.approx(math.sqrt(gaussian_variance(DECAY)), rel=0.15)


@pytest.mark.parametrize("rotated", [False, True])
def test_the_influence_of_gaussian_rows_has_their_variance_in_any_basis(rotated):
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((8 * D, D)) * DECAY
    if rotated:
        rows = rows @ np.linalg.qr(generator.standard_normal((D, D)))[0]
    assert measured_variance(halves(rows), 1) == pytest.approx(gaussian_variance(DECAY), rel=0.25)


def test_units_of_copies_count_as_one_row():
    rows = np.random.default_rng(2).standard_normal((4 * D, D)) * DECAY
    of_copies = measured_variance(halves(np.repeat(rows, 4, axis=0), 4), 4)
    assert of_copies == pytest.approx(4.0 * measured_variance(halves(rows), 1), rel=1e-6)


def test_sources_of_unlike_scale_have_a_larger_variance_than_their_spectrum_tells():
    generator = np.random.default_rng(4)
    rows = generator.standard_normal((16 * D, D)) * DECAY
    rows[generator.random(len(rows)) < 0.1, : D // 8] *= 8.0
    spectrum = np.sqrt(np.linalg.eigvalsh(rows.T @ rows))
    assert measured_variance(halves(rows), 1) > 2.0 * gaussian_variance(spectrum)


def test_directions_without_rows_and_tiny_numbers_do_no_harm():
    rows = np.random.default_rng(5).standard_normal((8 * D, D)) * DECAY
    padded = np.concatenate([rows, np.zeros_like(rows)], axis=1) * 1e-200
    assert measured_variance(halves(padded), 1) == pytest.approx(measured_variance(halves(rows), 1), rel=1e-9)


@pytest.mark.parametrize("variance", [0.0, 1e-3, 0.2])
def test_more_rows_lead_to_expect_less_and_every_row_of_a_dump_nothing(variance):
    of_population = [expected_half_width(variance, n, D) for n in (2 * D, 4 * D, 8 * D, 40 * D)]
    assert of_population == sorted(of_population, reverse=True)
    assert expected_half_width(variance, 8 * D, D, n_all=16 * D) == pytest.approx(of_population[2] * math.sqrt(0.5))
    assert expected_half_width(variance, 8 * D, D, n_all=8 * D) == 0.0
    assert expected_half_width(variance, 8 * D, D, confidence=0.99) > of_population[2]


@pytest.mark.parametrize("variance", [0.0, 1e-3, 0.2])
def test_the_least_rows_are_the_fewest_that_meet_the_tolerance(variance):
    for tolerance in (0.02, 0.003):
        n = least_rows(variance, tolerance, D)
        assert expected_half_width(variance, n, D) <= tolerance
        assert n == math.floor(1.25 * D) + 1 or expected_half_width(variance, n - 1, D) > tolerance


def test_more_than_half_of_a_dump_means_every_row():
    n = least_rows(0.2, 0.003, D)
    assert least_rows(0.2, 0.003, D, n_all=n) is None
    assert least_rows(0.2, 0.003, D, n_all=4 * n) < n
    assert least_rows(0.0, 0.9, D, n_all=D) is None
