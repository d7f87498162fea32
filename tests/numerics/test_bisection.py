"""Bisection finds roots with a closed form, and takes the steps that it took where it was written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankme_stream.numerics.bisection import HALVINGS, bisect, bisect_each, from_low, mean, neighbours


@pytest.mark.parametrize("middle", [mean, from_low])
def test_a_root_with_a_closed_form_is_found_to_the_last_bit(middle):
    low, high = bisect(lambda x: x * x < 2.0, 0.0, 2.0, middle=middle)
    assert low * low < 2.0 <= high * high
    assert high == math.nextafter(low, 2.0)
    assert low <= math.sqrt(2.0) <= high


def test_every_halving_halves():
    low, high = bisect(lambda x: x < 1.0 / 3.0, 0.0, 1.0, 20)
    assert high - low == 2.0**-20
    assert low < 1.0 / 3.0 <= high


@pytest.mark.parametrize("halvings", [0, 1, 40, 80, HALVINGS])
def test_the_steps_are_those_of_the_loop_written_out(halvings):
    generator = np.random.default_rng(7)
    for _ in range(50):
        ends = np.sort(generator.standard_normal(2)) * 10.0 ** generator.integers(-200, 200)
        root = float(generator.uniform(*ends))
        low, high = by_sum = by_length = tuple(ends.tolist())
        for _ in range(halvings):
            point = (by_sum[0] + by_sum[1]) / 2.0
            by_sum = (point, by_sum[1]) if point < root else (by_sum[0], point)
            point = by_length[0] + (by_length[1] - by_length[0]) / 2.0
            by_length = (point, by_length[1]) if point < root else (by_length[0], point)
        assert bisect(lambda x, root=root: x < root, low, high, halvings, middle=mean) == by_sum
        assert bisect(lambda x, root=root: x < root, low, high, halvings) == by_length


def test_many_intervals_are_halved_as_one_is():
    roots = np.random.default_rng(8).uniform(0.0, 3.0, 100)
    low, high = bisect_each(lambda x: x < roots, np.zeros(100), np.full(100, 3.0), 60)
    alone = [bisect(lambda x, root=root: x < root, 0.0, 3.0, 60) for root in roots.tolist()]
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == alone


@pytest.mark.parametrize("root", [5e-324, 1e-310, 1.0, math.pi, 1e300])
def test_neighbours_are_the_two_doubles_around_the_root(root):
    low, high = neighbours(lambda x: x < root, 0.0, 1.7e308)
    assert (low, high) == (math.nextafter(root, 0.0), root)
    assert neighbours(lambda x: x < root, root, root) == (root, root)
