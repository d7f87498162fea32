"""The dumps and populations of the benchmarks of validity are what their names say, and Holm's test is Holm's."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from benchmarks.validity.hard_dumps import RareUnits, hard_dumps
from benchmarks.validity.holm import p_value, rejected
from benchmarks.validity.population import estimates_of_population
from benchmarks.validity.populations import Population, populations, unit_variances

POPULATIONS = populations(8)


def test_41_kinds_of_dumps_are_hard_to_sample():
    dumps = hard_dumps(3_200)
    assert len(dumps) == 41
    assert {draw(0).shape for draw in dumps.values()} == {(3_200, 32)}


@pytest.mark.parametrize("percent", [0.5, 1, 4])
def test_rare_units_are_exactly_their_share_and_alone_fill_all_directions(percent):
    draw = RareUnits(percent / 100)
    rows, is_rare = draw(3), draw.is_rare(3)
    fills = np.abs(rows[:, 16:]).max(axis=1) > 0.1  # the others are 0.01 times Gaussian there
    assert is_rare.sum() == 16 * round(2_500 * percent / 100)
    assert (fills == is_rare).all()
    assert (is_rare.reshape(-1, 16).sum(axis=1) % 16 == 0).all()


@pytest.mark.parametrize("one", POPULATIONS, ids=[one.name for one in POPULATIONS])
def test_the_moments_of_a_population_are_those_of_its_rows(one: Population):
    generator = np.random.default_rng(0)
    rows = np.concatenate([one.draw(100, generator) for _ in range(400)])
    size = np.trace(one.covariance)
    assert np.linalg.norm(rows.mean(axis=0) - one.mean) ** 2 < 2e-3 * size
    assert np.linalg.norm(np.cov(rows.T) - one.covariance) < (0.2 if "Student" in one.name else 0.05) * size


def test_of_two_features_of_unit_rows_each_has_the_share_of_its_standard_deviation():
    assert unit_variances(np.array([9.0, 1.0])) == pytest.approx([0.75, 0.25], rel=1e-9)


def test_the_benchmark_of_populations_has_the_numbers_of_measure():
    rows = POPULATIONS[1].draw(48, np.random.default_rng(0))
    whole = rs.measure(rows, population=True, workers=1, tolerance=10.0)
    for name, one in estimates_of_population(rows).items():
        assert one.value is not None
        assert (one.value, one.lower, one.upper) == (whole[name].value, whole[name].lower, whole[name].upper)


def test_holm_rejects_until_the_first_p_value_above_its_threshold():
    cells = [{"p": p} for p in (0.01, 0.04, 0.03, 0.005)]  # thresholds 0.0125, 0.0167, 0.025, 0.05
    assert rejected(cells) == [{"p": 0.005}, {"p": 0.01}]


def test_the_p_value_of_no_interval_is_1_and_of_all_lost_intervals_their_probability():
    assert p_value(0, 0) == 1.0
    assert p_value(0, 3) == pytest.approx(0.06**3)
