"""Spread of the jackknife: corrections for all rows, for more rows, and the interval."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.spectra.estimates import Estimate
from rankme_stream.spectra.jackknife import JackknifeSpread, largest_deviation, pseudo_values, standard_error


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_a_bias_of_second_order_is_taken_off_whole(fraction):
    def rankme(rows: float) -> float:
        return 100.0 - 30.0 / rows + 8.0 / rows**2

    n, count = 4.0, 16
    bias = (count - 1) * (rankme(n * (count - 1) / count) - rankme(n))
    left = count / (count - 2) * (2 * rankme(n) - rankme(n / 2) - (rankme(n) - bias))
    spread = JackknifeSpread(bias, left, 0.0, count, 0.0)
    wanted = rankme(n / fraction) if fraction else 100.0
    assert rankme(n) - spread.for_all_rows(fraction).bias != pytest.approx(wanted, rel=1e-6)
    assert spread.widen(Estimate(rankme(n)), fraction, 0.95).value == pytest.approx(wanted, rel=1e-12)
    every = spread.for_more_rows(5.0)  # from n rows to five times as many
    assert every.widen(Estimate(rankme(5 * n)), 0.0, 0.95).value == pytest.approx(100.0, rel=1e-12)


def test_an_interval_reaches_from_one_correction_to_the_other_and_further_by_chance_and_arithmetic():
    spread = JackknifeSpread(-2.0, 0.5, 1.0, 16, 75.0)
    found = spread.widen(Estimate(100.0, 99.99, 100.01, 1.0, ("arithmetic",)), 0.0, 0.95)
    by_chance = 2.1314495455597742  # quantile 0.975 of Student's t of 15 degrees
    assert found.value == pytest.approx(101.5)
    assert found.lower == pytest.approx(99.99 + 1.5 - by_chance - 0.75, rel=1e-9)
    assert found.upper == pytest.approx(100.01 + 2.0 + by_chance + 0.75, rel=1e-9)
    assert (found.covers, found.confidence) == (("arithmetic", "sampling"), 0.95)
    wider = spread.widened(2.0).widen(Estimate(100.0, 99.99, 100.01, 1.0, ("arithmetic",)), 0.0, 0.95)
    assert wider.half_width == pytest.approx(found.half_width + by_chance, rel=1e-9)
    assert spread.noise(0.25) == 0.75 * 75.0


def test_pseudo_values_of_a_mean_are_the_parts():
    """The jackknife of a mean is the mean: parts of unequal size stand for their own means."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 50, 16)
    parts = [generator.standard_normal(size) for size in sizes]
    every = np.concatenate(parts)
    without = [float(np.concatenate(parts[:k] + parts[k + 1 :]).mean()) for k in range(16)]
    shares = (sizes / sizes.sum()).tolist()
    assert pseudo_values(float(every.mean()), without, shares) == pytest.approx([part.mean() for part in parts])
    equal = [float(np.delete(every[:160].reshape(16, 10), k, axis=0).mean()) for k in range(16)]
    by_parts = every[:160].reshape(16, 10).mean(axis=1)
    assert standard_error(float(every[:160].mean()), equal, [1 / 16] * 16) == pytest.approx(by_parts.std(ddof=1) / 4)


def test_the_largest_deviation_is_at_most_that_of_one_alone():
    alone = [0.0] * 15 + [1.0]
    assert largest_deviation(alone) == pytest.approx(15 / 4)
    assert largest_deviation([*alone[1:], -1.0]) < 3.3
    some = np.random.default_rng(0).standard_normal(16)
    wanted = np.abs(some - some.mean()).max() / some.std(ddof=1)
    assert largest_deviation(some.tolist()) == pytest.approx(wanted)
    assert largest_deviation((5.0 - 3.0 * some).tolist()) == pytest.approx(wanted)
    assert largest_deviation([2.0] * 16) == 0.0
