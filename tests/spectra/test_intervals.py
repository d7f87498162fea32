"""The extremes over a consistent set against brute force, and every interval against exact truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.validity import ball_arithmetic, planted
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import MagnitudeError
from rankme_stream.spectra import intervals, metrics
from rankme_stream.spectra.spectrum import ConsistentSet
from rankme_stream.testing import with_ones


def entropy_rank(x: np.ndarray, eps: float, eps_in_sum: float, squares: bool) -> float:
    """The formula once more, for rows of candidates."""
    x = x**2 if squares else x
    p = x / (x.sum(axis=-1, keepdims=True) + x.shape[-1] * eps_in_sum) + eps
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.exp(-np.where(p > 0.0, p * np.log(p), 0.0).sum(axis=-1))


CASES: dict[str, tuple[Callable[[ConsistentSet], intervals.Interval], Callable[[np.ndarray], np.ndarray]]] = {
    f"entropy eps={eps:g} in sum {inside:g} squares {squares}": (
        partial(intervals.entropy_rank, eps=eps, eps_in_sum=inside, squares=squares),
        partial(entropy_rank, eps=eps, eps_in_sum=inside, squares=squares),
    )
    for squares in (False, True)
    for eps, inside in [(0.0, 0.0), (1e-7, 0.0), (1e-5, 0.0), (0.3, 0.0), (1e-2, 0.1)]
    if not (squares and inside)
} | {
    "participation ratio": (
        intervals.participation_ratio, lambda x: (x**2).sum(axis=-1) ** 2 / (x**4).sum(axis=-1)
    ),
    "stable rank": (intervals.stable_rank, lambda x: (x**2).sum(axis=-1) / (x**2).max(axis=-1)),
    "condition number": (
        lambda box: tuple(math.log(end) for end in intervals.condition_number(box)),
        lambda x: np.log(x.max(axis=-1) / np.maximum(x.min(axis=-1), 5e-324)),
    ),
}  # fmt: skip
each_case = pytest.mark.parametrize(("extremes", "function"), CASES.values(), ids=CASES.keys())


def boxes(m: int, seed: int, *, positive: bool = False) -> ConsistentSet:
    """Return a consistent set of some shape: narrow, wide, reaching zero, flat, graded."""
    generator = np.random.default_rng(seed)
    center = np.sort(generator.random(m) ** generator.integers(1, 8))[::-1] + (1e-3 if positive else 0.0)
    width = 10.0 ** generator.uniform(-4, 0) * generator.random()
    floor = 1e-3 if positive else 0.0
    if seed % 4 == 0:  # of squares: wide for the small values only
        return ConsistentSet(np.maximum(np.sqrt(np.maximum(center**2 - width, 0.0)), floor), np.sqrt(center**2 + width))
    return ConsistentSet(np.maximum(center - width, floor), center + width)


def levels(box: ConsistentSet) -> np.ndarray:
    """Candidates for the largest value: a dense sweep of clip(t, lower, upper) over every t but zero."""
    t = np.unique(np.concatenate([box.lower, box.upper, np.linspace(box.lower[-1], box.upper[0], 20_001)]))
    return np.clip(t[t > 0.0, None], box.lower, box.upper)


@each_case
@pytest.mark.parametrize("m", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("seed", range(6))
def test_the_extremes_over_a_box_are_those_of_brute_force(extremes, function, m, seed):
    box = boxes(m, seed, positive=function is CASES["condition number"][1])
    lower, upper = extremes(box)
    corners = np.array(list(itertools.product(*zip(box.lower, box.upper, strict=True))))
    corners = corners[corners.any(axis=1)]
    least = function(corners).min()
    most = max(function(corners).max(), function(levels(box)).max())
    tiny = 1e-11 * max(1.0, abs(upper))
    assert lower <= least + tiny
    assert most - tiny <= upper
    # tight: an interval shrunk by 1e-6 of its width at either end would lose a point of the box
    assert least <= lower + 1e-6 * (upper - lower) + tiny
    assert most >= upper - 1e-6 * (upper - lower) - tiny


@each_case
@pytest.mark.parametrize("m", [40, 300])
def test_no_point_of_a_large_box_is_outside(extremes, function, m):
    generator = np.random.default_rng(m)
    box = boxes(m, m, positive=function is CASES["condition number"][1])
    lower, upper = extremes(box)
    slack = 1e-11 * max(1.0, abs(upper))
    for _ in range(10):  # 10 x 10,000 points
        inside = box.lower + generator.random((4_000, m)) * (box.upper - box.lower)
        cut = generator.integers(0, m + 1, (4_000, 1))
        vertices = np.where(np.arange(m) < cut, box.upper, box.lower)
        near = np.clip(generator.uniform(box.lower[-1], box.upper[0], (2_000, 1)), box.lower, box.upper)
        near += 1e-3 * generator.standard_normal(near.shape) * (box.upper - box.lower)
        for points in (inside, vertices, np.clip(near, box.lower, box.upper)):
            found = function(points[points.any(axis=1)])
            assert lower - slack <= found.min()
            assert found.max() <= upper + slack


def test_the_exponent_is_extreme_where_each_weight_asks():
    box = boxes(60, 1, positive=True)
    lower, upper = intervals.alpha_req(box)
    ranks = np.arange(11, 61)

    def exponent(values: np.ndarray) -> float:
        return -2.0 * float(np.polyfit(np.log(ranks), np.log(values), 1, w=np.sqrt(1.0 / ranks))[0])

    generator = np.random.default_rng(0)
    low, high = box.lower[10:], box.upper[10:]
    found = [exponent(np.where(generator.random(50) < 0.5, low, high)) for _ in range(2_000)]
    assert lower <= min(found)
    assert max(found) <= upper
    early = np.arange(50) < np.flatnonzero(metrics.alpha_weights(11, 60) < 0.0)[0]
    attained = sorted(exponent(np.where(early == pick, low, high)) for pick in (True, False))
    assert (lower, upper) == pytest.approx(attained, rel=1e-9)


def test_an_exponent_over_values_that_may_be_zero_is_everything():
    values = np.ones(60)
    box = ConsistentSet(np.where(np.arange(60) < 50, 0.9, 0.0), values * 1.1)
    assert intervals.alpha_req(box) == intervals.EVERYTHING


def test_counts_over_a_box_are_the_certain_and_the_possible():
    box = ConsistentSet(np.array([1.0, 0.2, 0.05, 0.0]), np.array([1.1, 0.3, 0.2, 0.01]))
    assert intervals.numerical_rank(box, unit_roundoff=0.1) == (2.0, 3.0)


def test_a_point_box_gives_the_metric_itself():
    values = np.sort(np.random.default_rng(2).random(300))[::-1]
    box = ConsistentSet(values, values)
    for name, function in (
        ("rankme", partial(intervals.entropy_rank, eps=1e-7)),
        ("variance_effective_rank", partial(intervals.entropy_rank, squares=True)),
        ("participation_ratio", intervals.participation_ratio),
        ("stable_rank", intervals.stable_rank),
    ):
        lower, upper = function(box)
        assert lower <= getattr(metrics, name)(values) <= upper
        assert upper - lower < 1e-11 * upper


@pytest.mark.parametrize("exponent", [-1000, -540, 500, 1000])
def test_scale_changes_no_interval(exponent):
    box = boxes(30, 3)
    scaled = ConsistentSet(np.ldexp(box.lower, exponent), np.ldexp(box.upper, exponent))
    for function in (intervals.entropy_rank, intervals.participation_ratio, intervals.stable_rank):
        assert function(scaled) == pytest.approx(function(box), rel=1e-12)


def misses(seed: int, max_features: int) -> list[tuple[str, ...]]:
    """Every interval of every kind of accumulator that does not hold the exact truth."""
    rows, made = planted.draw(seed, max_features=max_features)
    truth = ball_arithmetic.truth(rows, unit_roundoff=planted.ROUNDOFF[made["storage"]])
    found = []
    for kind in planted.KINDS:
        try:
            sides = planted.intervals_of(rows, kind, storage=made["storage"], seed=seed)
        except MagnitudeError:
            assert kind == "gram float32" and made["scale"] > 100
            continue
        for side, estimates in sides.items():
            for name, estimate in estimates.items():
                key = "normalized_rankme" if (side, name) == ("unit", "rankme") else name
                true = truth.presets[name] if side == "presets" else truth.metrics[key]
                if true is None:
                    assert estimate.value is None, (made, kind, side, name)
                elif estimate.lower is None:
                    assert "arithmetic" in estimate.reason, (made, kind, side, name)
                elif not ball_arithmetic.contains(true, estimate.lower, estimate.upper) or not (
                    "worst_case" not in estimate.details
                    or ball_arithmetic.contains(true, *estimate.details["worst_case"])
                ):
                    found.append((str(made), kind, side, name))
    return found


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_every_interval_of_planted_matrices_holds_the_exact_truth(start):
    assert [miss for seed in range(start, start + 50) for miss in misses(seed, 9)] == []


@given(st.integers(10_000, 2**32))
def test_intervals_hold_for_any_seed(seed):
    assert misses(seed, 6) == []


def test_intervals_hold_at_the_largest_width_that_is_exactly_known():
    assert misses(5_003, 48) == []


@pytest.mark.parametrize("seed", range(6))
def test_qr_intervals_hold_where_every_dot_product_rounds_one_way(seed):
    generator = np.random.default_rng(seed)
    rows = np.empty((int(generator.choice([600, 2048, 4096])), 2))
    rows[:, 0] = generator.random() + 0.5
    rows[:, 1] = 10.0 ** generator.uniform(-3, 0) * generator.choice([-1.0, 1.0], len(rows))
    truth = ball_arithmetic.truth(rows)
    for panel_rows in (512, 2048, 4096):
        accumulator = TsqrAccumulator(2)
        for start in range(0, len(rows), panel_rows):
            accumulator.update(with_ones(rows[start : start + panel_rows]), start)
        spectrum = accumulator.spectrum(unit_roundoff=2.0**-53)
        for side, values in ((spectrum.raw, truth.singular_values), (spectrum.centered, truth.centered)):
            for box in (side.consistent, side.worst_case):
                for value, lower, upper in zip(values, box.lower, box.upper, strict=True):
                    assert ball_arithmetic.contains(value, float(lower), float(upper)), (panel_rows, box)
