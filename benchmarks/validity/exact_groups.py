"""True LiDAR of a small stored matrix, as a ball, from rational means and scatters of its groups."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from flint import arb, fmpq, fmpq_mat, fmpz_poly

from benchmarks.validity.ball_arithmetic import eigenvalues, exp_entropy, precision
from rankme_stream.groups.lidar import DELTA, EPSILON


def lidar(matrix: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> arb | None:
    """Enclose LiDAR of a matrix whose entries are exactly the stored values; None where it is not defined.

    Parameters
    ----------
    matrix
        Shape ``(n_rows, n_features)``; more than about five features take seconds.
    labels
        Group of each row; groups of one row are left out.
    """
    n_features = matrix.shape[1]
    groups = [matrix[labels == name] for name in np.unique(labels)]
    groups = [[[Fraction(value) for value in row] for row in group.tolist()] for group in groups if len(group) > 1]
    if len(groups) < 2:
        return None
    means = [[sum(column) / len(group) for column in zip(*group, strict=True)] for group in groups]
    center = [sum(column) / len(means) for column in zip(*means, strict=True)]
    between = _scatter([_difference(mean, center) for mean in means])
    largest = max(abs(value) for line in between for value in line)
    if largest == 0:
        return None
    within = _scatter([_difference(row, mean) for group, mean in zip(groups, means, strict=True) for row in group])
    for k in range(n_features):
        within[k][k] += Fraction(DELTA)
    shares = [[value / largest for value in line] for line in between]  # LiDAR has no unit
    with precision():
        relative = _matrix(within).inv() * _matrix(shares)
        return exp_entropy(eigenvalues(fmpz_poly(relative.charpoly().numer())), EPSILON)


def _difference(one: list[Fraction], other: list[Fraction]) -> list[Fraction]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _scatter(rows: list[list[Fraction]]) -> list[list[Fraction]]:
    """Return the mean of the outer products of rows with themselves."""
    columns = list(zip(*rows, strict=True))
    return [[_inner(x, y) / len(rows) for y in columns] for x in columns]


def _inner(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))


def _matrix(lines: list[list[Fraction]]) -> fmpq_mat:
    entries = [fmpq(value.numerator, value.denominator) for line in lines for value in line]
    return fmpq_mat(len(lines), len(lines), entries)
