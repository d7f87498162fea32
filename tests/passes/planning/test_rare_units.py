"""What a random sample of units excludes: the numbers of units, against counting and against a table."""

from __future__ import annotations

import math

import pytest

from rankme_stream.passes.planning.rare_units import log_miss, share_not_excluded, units_needed, units_of_many


@pytest.mark.parametrize(
    ("n_units", "at_95", "at_99", "excluded"),
    [(500, 225, 300, 0.0020), (1_000, 258, 368, 0.0050), (2_500, 281, 419, 0.0060), (25_000, 297, 455, 0.0062),
     (40_000, 297, 456, 0.0062), (10**6, 299, 459, 0.0062)],
)  # fmt: skip
def test_as_many_units_are_read_as_one_in_a_hundred_takes(n_units, at_95, at_99, excluded):
    assert (units_needed(n_units, 0.01, 0.05), units_needed(n_units, 0.01)) == (at_95, at_99)
    assert share_not_excluded(n_units, 480) == pytest.approx(excluded, abs=5e-5)


@pytest.mark.parametrize(
    ("share", "at_95", "at_99"),
    [(0.002, 1_497, 2_301), (0.005, 598, 919), (0.02, 149, 228), (0.05, 59, 90), (0.10, 29, 44)],
)
def test_of_many_units_the_share_decides(share, at_95, at_99):
    assert (units_of_many(share, 0.05), units_of_many(share)) == (at_95, at_99)
    assert units_needed(10**9, share) == pytest.approx(at_99, abs=1)


def test_the_least_share_takes_nearly_every_unit():
    assert units_needed(10_000, 5e-324) == pytest.approx(9_900, abs=1)
    assert units_of_many(5e-324) > 10**18


def test_the_probability_is_that_of_drawing_without_replacement():
    for n_units, n_rare, n_read in ((20, 3, 5), (50, 1, 49), (9, 4, 5)):
        missed = math.comb(n_units - n_rare, n_read) / math.comb(n_units, n_read)
        assert math.exp(log_miss(n_units, n_rare, n_read)) == pytest.approx(missed, rel=1e-12)
    assert log_miss(9, 5, 5) == -math.inf


def test_what_is_not_excluded_is_the_least_share_that_is_seen_often_enough():
    n_rare = round(share_not_excluded(2_500, 480) * 2_500)
    assert math.exp(log_miss(2_500, n_rare, 480)) <= 0.05 < math.exp(log_miss(2_500, n_rare - 1, 480))
    assert share_not_excluded(2_500, 2_500) == 0.0
    assert share_not_excluded(None, 480) == pytest.approx(share_not_excluded(10**9, 480), rel=1e-4)
