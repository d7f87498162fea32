"""The jackknife over replicates, against its formulas on dense arrays."""

from __future__ import annotations

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.measuring.sampling.replicates import Jackknife, merged
from rankme_stream.testing import with_ones

D = 16


def test_the_jackknife_is_its_formula():
    rows = np.random.default_rng(0).standard_normal((160, D)) * np.arange(1, D + 1) ** -0.5
    groups = [GramAccumulator(D) for _ in range(16)]
    for number, group in enumerate(groups):
        group.update(with_ones(rows[10 * number : 10 * number + 10]), 0)

    def rankme(part: np.ndarray) -> float:
        return rs.metrics.rankme(np.linalg.svd(part, compute_uv=False))

    whole = rankme(rows)
    without = np.array([rankme(np.delete(rows, np.s_[10 * k : 10 * k + 10], axis=0)) for k in range(16)])
    value, spread, pseudo = Jackknife(groups, merged(groups), 2, unit_roundoff=2.0**-11).rankme()
    assert value == pytest.approx(whole, rel=1e-9)
    assert spread.bias == pytest.approx(15 * (without.mean() - whole), rel=1e-6)
    assert spread.standard_error == pytest.approx((15 / 16 * ((without - without.mean()) ** 2).sum()) ** 0.5, rel=1e-6)
    assert pseudo == pytest.approx(16 * whole - 15 * without, rel=1e-6)
    assert np.std(pseudo, ddof=1) / 4 == pytest.approx(spread.standard_error, rel=1e-9)
    by_halves = 2 * whole - (rankme(rows[:80]) + rankme(rows[80:])) / 2
    assert spread.second_order_bias == pytest.approx(16 / 14 * (by_halves - (whole - spread.bias)), rel=1e-6)
