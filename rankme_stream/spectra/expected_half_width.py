r"""Half-width of RankMe's interval that a number of rows leads to expect, before they are read.

ln RankMe is the entropy H of p_k = s_k / sum(s). To first order, a row z moves it by 1/n of its influence

    -1/2 sum_k p_k (ln p_k + H) ((v_k' z)^2 / lambda_k - 1),

with the eigenvectors v_k and eigenvalues lambda_k = s_k^2 of the rows' second moment. The variance V of the influence
is sum_k p_k^2 (ln p_k + H)^2 / 2 for Gaussian rows, whatever their eigenvectors, and the standard error is the root of
V/n. Units of rows that are alike have the variance of the sum of their influences, over the rows of a unit.

V is zero where all singular values are equal. Then the second order counts, for a standard error of 3/(8 n) whatever
the width, which grows as the rows get fewer than a few for each feature. From ten rows a feature on, the interval also
reaches from the first-order to the second-order correction of the bias, which adds about 0.03 (D/n)^2. Both constants
are fitted to the half-widths of intervals of Gaussian rows (benchmarks/results/coverage.md). Where a share f of a dump
was read, all of it is the root of 1 - f of that.

References
----------
F. Hampel, The influence curve and its role in robust estimation, J. Am. Stat. Assoc. 69 (1974).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.quantiles import student_quantile

LEAST_ROWS_PER_FEATURE = 1.25  # with fewer no interval is stated
_DEGREES_OF_FREEDOM = 15  # of the standard error of a sample's 16 replicates
_SECOND_ORDER = 3 / 8  # standard error times n, where all singular values are equal
_FIRST_CORRECTED = 10.0  # rows per feature from which on the bias is corrected to first and to second order
_CORRECTIONS_APART = 0.03  # half of their difference, times (n/D)^2
_MOST_ROWS = 2**53
_NEGLIGIBLE = 1e-13  # second moment of a direction over the largest


def expected_half_width(
    variance: float, n_rows: int, n_features: int, *, n_all: float = math.inf, confidence: float = 0.95
) -> float:
    """Return the half-width of RankMe's interval to be expected from ``n_rows`` rows, relative to RankMe.

    Parameters
    ----------
    variance
        Variance V of a row's influence: `gaussian_variance` or `measured_variance`.
    n_rows
        More than 1.25 per feature.
    n_all
        Rows of the dump that the interval is for; infinity for the population that rows are drawn from.
    """
    share = n_features / n_rows
    quantile = student_quantile(_DEGREES_OF_FREEDOM, confidence)
    chance = quantile**2 * (variance / n_rows + (_SECOND_ORDER / n_rows) ** 2 / (1.0 - share))
    apart = _CORRECTIONS_APART * share**2 if n_rows >= _FIRST_CORRECTED * n_features else 0.0
    return math.sqrt((chance + apart**2) * max(0.0, 1.0 - n_rows / n_all))


def least_rows(
    variance: float, tolerance: float, n_features: int, *, n_all: float = math.inf, confidence: float = 0.95
) -> int | None:
    """Return the fewest rows whose expected half-width is within the tolerance; None if more than half of a dump."""
    least = math.floor(LEAST_ROWS_PER_FEATURE * n_features) + 1
    candidates = range(least, 1 + int(min(_MOST_ROWS, n_all / 2)))
    place = bisect_left(
        candidates, True,
        key=lambda n: expected_half_width(variance, n, n_features, n_all=n_all, confidence=confidence) <= tolerance,
    )  # fmt: skip
    return candidates[place] if place < len(candidates) else None


def gaussian_variance(singular_values: FloatArray) -> float:
    """Return the variance of the influence of Gaussian rows with these singular values, shape ``(D,)``, above 0."""
    weights = _weights(singular_values)
    return 2.0 * float(weights @ weights)


def measured_variance(halves: tuple[Sequence[FloatArray], Sequence[FloatArray]], unit_rows: int) -> float:
    """Return the variance of the influence of rows in units, from two halves of some that were read.

    The rows of each half are judged by the eigenvectors of the other, and each direction by its mean square there: the
    eigenvalues of so few rows spread far more than those of their population.

    Parameters
    ----------
    halves
        Runs of neighbouring rows, shape ``(rows, D)`` each; both halves hold more than D rows together.
    unit_rows
        Rows of a unit of the sample; runs are cut into units.

    Notes
    -----
    Two eigensolves of order D; the memory of twice the rows and of 4 D x D numbers.
    """
    scale = max((float(np.abs(run).max()) for half in halves for run in half if run.size), default=0.0) or 1.0
    first, second = ([run / scale for run in half] for half in halves)
    return (_variance_by(first, second, unit_rows) + _variance_by(second, first, unit_rows)) / 2.0


def _variance_by(basis_runs: Sequence[FloatArray], runs: Sequence[FloatArray], unit_rows: int) -> float:
    rows = np.concatenate(basis_runs)
    vectors = np.linalg.eigh(rows.T @ rows)[1]
    squares = [np.square(run @ vectors) for run in runs]
    n_rows = sum(map(len, runs))
    means = np.sum([one.sum(axis=0) for one in squares], axis=0) / n_rows
    kept = means > _NEGLIGIBLE * means.max()
    weights = _weights(np.sqrt(means[kept]))
    total = 0.0
    for one in squares:
        influences = (one[:, kept] / means[kept] - 1.0) @ weights
        units = np.add.reduceat(influences, np.arange(0, len(one), unit_rows)) if len(one) else influences
        total += float(units @ units)
    return total / n_rows


def _weights(singular_values: FloatArray) -> FloatArray:
    """Return the influence of a row's part along each direction."""
    p = singular_values / singular_values.sum()
    logs = np.log(p)
    weights: FloatArray = -0.5 * p * (logs - p @ logs)
    return weights
