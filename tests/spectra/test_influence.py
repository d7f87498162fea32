"""Skewness of an error from the influences of units, against the derivative of the number itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankme_stream.spectra import contour
from rankme_stream.spectra.held_out_units import RotatedRows, Unit, held_out_units
from rankme_stream.spectra.influence import Influences, plain

NONE = np.zeros(0, dtype=np.int64)


def heavy_rows(n_rows: int, n_features: int) -> np.ndarray:
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((n_rows, n_features)) * np.arange(1, n_features + 1) ** -0.5
    return rows * np.sqrt(5.0 / generator.chisquare(5, n_rows))[:, None]


def influences_of(rows: np.ndarray, size: int, kept: int | None = None) -> tuple[Influences, RotatedRows, np.ndarray]:
    values, vectors = np.linalg.eigh(rows.T @ rows)
    rotated = RotatedRows.rotate(values, vectors, len(rows), rows[:kept])
    units = [Unit(np.arange(start, start + size), NONE) for start in range(0, len(rotated.rows), size)]
    leverages = held_out_units(rotated, units).leverages
    return Influences.of_units(rotated, leverages, units), rotated, leverages


def entropy_slopes(values: np.ndarray, power: float) -> np.ndarray:
    """Derivative of the entropy of values**power by each value."""
    p = values**power / (values**power).sum()
    return -power * p * (np.log(p) - (p * np.log(p)).sum()) / values


@pytest.mark.parametrize("functional, power", [(contour.log_rankme, 0.5), (contour.log_entropy_rank, 1.0)])
@pytest.mark.parametrize("n_features, tolerance", [(12, 1e-6), (200, 0.01)])
def test_the_skewness_is_that_of_the_derivative_along_each_unit(functional, power, n_features, tolerance):
    found, rotated, leverages = influences_of(heavy_rows(4 * n_features, n_features), 4)
    of_rows = (rotated.rows**2 @ entropy_slopes(rotated.values, power)) * (1.0 + leverages)
    of_units = of_rows.reshape(-1, 4).sum(axis=1)
    of_units -= of_units.mean()
    expected = np.mean(of_units**3) / np.mean(of_units**2) ** 1.5 / math.sqrt(of_units.size)
    assert found.skewness(functional) == pytest.approx(expected, abs=tolerance)
    assert abs(expected) > 0.05


def test_units_not_kept_count():
    rows = heavy_rows(96, 12)
    part, _, _ = influences_of(rows, 2, kept=48)
    assert part.n_units == 48


def test_one_unit_that_decides_gives_one_and_equal_units_give_none():
    rows = np.tile(np.eye(8), (10, 1))
    assert influences_of(rows, 8)[0].skewness(contour.log_rankme) == 0.0
    rows[0, 0] = 40.0
    assert influences_of(rows, 1)[0].skewness(contour.log_entropy_rank) == pytest.approx(-1.0, abs=0.05)


def test_plain_sums_are_sums():
    values = np.array([0.5, 1.0, 4.0])
    assert plain(values).total(np.sqrt(values).astype(complex)) == pytest.approx(np.sqrt(values).sum(), rel=1e-15)
