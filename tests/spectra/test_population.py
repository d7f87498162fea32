"""Value and interval for a population from few rows: what they are made of, what withholds them, when they hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rankme_stream.spectra import contour, population
from rankme_stream.spectra.contour import NoEstimateError, log_rankme
from rankme_stream.spectra.population import Population, PopulationEstimate, SampledRows

REPLICATES = 16


def sampled(rows: np.ndarray, size: int = 1, kept: int | None = None) -> SampledRows:
    unit = np.arange(len(rows)) // size
    replicate = unit % REPLICATES
    gram = rows.T @ rows
    values, vectors = np.linalg.eigh(gram)
    parts = [rows[replicate == number] for number in range(REPLICATES)]
    return SampledRows(
        values,
        vectors,
        len(rows),
        [np.linalg.eigvalsh(gram - part.T @ part) for part in parts],
        [len(part) for part in parts],
        rows[:kept],
        unit[:kept],
        replicate[:kept],
        independent_rows=float(len(rows)),
    )


def student_rows(n_rows: int, n_features: int, seed: int, mean: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((n_rows, n_features)) * np.arange(1, n_features + 1) ** -0.5
    return rows * np.sqrt(3.0 / generator.chisquare(5, n_rows))[:, None] + mean * np.eye(n_features)[0]


def log_rank(values: np.ndarray) -> float:
    p = np.sqrt(values) / np.sqrt(values).sum()
    return float(-(p * np.log(p)).sum())


def test_the_value_is_that_of_the_held_out_units_and_the_interval_reaches_both_estimates():
    rows = sampled(student_rows(96, 32, 0), 2)
    found = Population.measure(rows)
    estimate = found.estimate(log_rankme)
    whole = log_rankme(contour.of_equal_lengths(rows.values, 96))
    without = [
        log_rankme(contour.of_equal_lengths(one, 96 - n)) for one, n in zip(rows.without, rows.rows_of, strict=True)
    ]
    assert estimate.value == log_rankme(found.held_out.contour)
    assert estimate.plain == pytest.approx(log_rank(rows.values), abs=1e-6)
    assert estimate.jackknife == pytest.approx(16 * whole - 15 * np.mean(without), abs=1e-9)
    least_error = math.sqrt(15 / 16 * np.var(without) * 16)
    assert estimate.standard_error >= least_error * (1.0 - 1e-12)
    lower, upper = estimate.interval(0.95)
    assert lower < min(estimate.value, estimate.jackknife) < max(estimate.value, estimate.jackknife) < upper
    assert found.reason_withheld is None


def test_the_interval_is_longer_on_the_side_to_which_the_error_is_skewed():
    even = PopulationEstimate(1.0, 2.0, 1.9, 0.1, 15, 2.0, 0.0)
    lower, upper = even.interval(0.95)
    assert (lower, upper) == pytest.approx((1.9 - 0.21314, 2.0 + 0.21314), abs=1e-5)
    longer = 0.5 * (1.0 + 2.0 * 2.13145**2) / 3.0 * 0.1
    assert replace(even, skewness=0.5).interval(0.95) == pytest.approx((lower, upper + longer), abs=1e-5)
    assert replace(even, skewness=-0.5).interval(0.95) == pytest.approx((lower - longer, upper), abs=1e-5)


def test_an_estimate_for_all_rows_ends_at_the_rows_read():
    found = Population.measure(sampled(student_rows(80, 32, 1)))  # RankMe of such rows is skewed to the lower side
    none, half, all_rows = (found.estimate(log_rankme, fraction=share) for share in (0.0, 0.5, 1.0))
    assert all_rows.value == pytest.approx(all_rows.plain, abs=1e-6)
    assert all_rows.interval(0.95) == pytest.approx((all_rows.plain, all_rows.plain), abs=1e-6)
    assert none.plain < half.value < none.value
    assert half.standard_error == pytest.approx(none.standard_error * math.sqrt(0.5), rel=1e-12)


def test_copies_across_units_widen_the_interval():
    once = student_rows(64, 16, 2)
    rows = np.concatenate([once, once])
    found = Population.measure(sampled(rows))
    assert found.copies.close_pairs_per_row == 0.5
    alone = replace(found, copies=replace(found.copies, pairs_per_row=0.0))
    assert found.estimate(log_rankme).standard_error == pytest.approx(
        math.sqrt(1.0 + 2.0 * found.copies.pairs_per_row) * alone.estimate(log_rankme).standard_error, rel=1e-12
    )


def test_the_error_is_that_of_rows_of_similar_length_where_leverages_fit_no_eigenvalues(monkeypatch):
    rows = sampled(student_rows(96, 32, 3))
    by_leverage = Population.measure(rows).estimate(log_rankme).standard_error

    def none(*_):
        raise NoEstimateError("no")

    monkeypatch.setattr(population, "of_given_lengths", none)
    similar = Population.measure(rows).estimate(log_rankme).standard_error
    assert similar != by_leverage
    assert similar == pytest.approx(by_leverage, rel=0.7)


def test_what_withholds_an_estimate_is_said():
    rows = student_rows(96, 32, 4)
    assert "fewer than 32 units" in str(Population.measure(sampled(rows, 4)).reason_withheld)
    dependent = replace(sampled(rows), independent_rows=30.0)
    assert "count as 30 independent ones, and 37 are needed" in str(Population.measure(dependent).reason_withheld)
    rows[1:48:2] = rows[0:48:2]
    part = Population.measure(sampled(np.concatenate([rows, student_rows(200, 32, 5)]), kept=96)).reason_withheld
    assert part == "the rows have copies among themselves, and only 96 of them were compared; leave copies out"
    with pytest.raises(NoEstimateError, match=r"fewer than 1\.25 rows"):
        Population.measure(sampled(student_rows(38, 32, 6)))


def test_a_tail_without_variance_withholds_what_long_rows_raise_and_nothing_else():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((240, 24)) / generator.random(240)[:, None] ** 0.4  # squared lengths of index 1.25
    found = Population.measure(sampled(rows))
    assert found.tail_index < 1.8
    assert found.estimate(log_rankme).skewness < 0.0  # long rows lower the number, and are not gated
    about_a_mean = Population.measure(sampled(rows + 1e3 * np.eye(24)[0]))
    assert about_a_mean.tail_index == pytest.approx(found.tail_index, rel=0.3)
    with pytest.raises(NoEstimateError, match=r"too heavy a tail \(index 1\.\d, an interval needs 2\)"):
        about_a_mean.estimate(log_rankme)


def test_the_interval_holds_where_a_mean_hides_the_tail_of_the_lengths():
    moment = np.diag(1.0 / np.arange(1, 25))
    moment[0, 0] += 100.0
    truth, held, plain = log_rank(np.linalg.eigvalsh(moment)), 0, []
    for seed in range(30):
        found = Population.measure(sampled(student_rows(72, 24, seed, mean=10.0)))
        if found.tail_index < 2.0:
            continue
        estimate = found.estimate(log_rankme)
        lower, upper = estimate.interval(0.95)
        held += lower <= truth <= upper
        plain.append(estimate.plain - truth)
    assert held >= len(plain) - 2 > 8
    assert np.mean(plain) < -0.1
