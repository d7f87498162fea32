"""Hill's index: that of power tails, whatever the scale and the order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankme_stream.spectra.tail_index import hill


def test_the_index_is_its_formula():
    logarithms = np.log([1.0, 2.0, 3.0, 5.0, 8.0])  # 2 sqrt(5) is 4.5, so all but the smallest
    found = hill(logarithms[[3, 0, 4, 2, 1]])
    assert found.largest == 4
    assert found.index == pytest.approx(4 / np.log([2.0, 3.0, 5.0, 8.0]).sum(), rel=1e-14)


@pytest.mark.parametrize("index", [1.5, 2.0, 3.0])
def test_a_power_tail_has_its_index(index):
    """The quantiles of an exact Pareto law, so that nothing is left to chance."""
    m = 40_000
    logarithms = -np.log((np.arange(m) + 0.5) / m) / index
    assert hill(logarithms).index == pytest.approx(index, rel=0.01)
    assert hill(logarithms + 1_000.0).index == pytest.approx(index, rel=0.01)


def test_numbers_that_are_alike_have_no_tail():
    for logarithms in (np.zeros(100), np.r_[np.full(50, -3.0), np.full(60, 2.0)], np.empty(0), np.array([1.0])):
        assert hill(logarithms).index == math.inf


def test_zeros_do_not_count():
    some = np.random.default_rng(0).standard_normal(100)
    assert hill(np.r_[some, np.full(900, -np.inf)]) == hill(some)


def test_the_order_changes_no_bit():
    generator = np.random.default_rng(1)
    some = generator.standard_normal(500)
    assert hill(some) == hill(generator.permutation(some))
