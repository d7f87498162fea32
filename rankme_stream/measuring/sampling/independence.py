"""How many independent rows the rows of a sample count as, from how the Gram matrices of its replicates differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rankme_stream.numerics.dtypes import FloatArray

_ROUNDING = 1e-11  # of |G|^2; a noise below it is none


@dataclass(frozen=True)
class Independence:
    r"""How far the rows of a sample are alike within its units.

    With G_a the Gram of replicate a, which has n_a of the n rows, the mean of <G_a, G_b> over pairs of different
    replicates is unbiased for tr(M^2), M the second moment of a row. For independent rows of any law,

        E(|G|^2/n^2 - tr M^2) = (E|z|^4 - tr M^2)/n,

    so the ratio of both sides is the number of rows that a row counts as one of.

    Attributes
    ----------
    effective_rows
        (tr G/n)^2 / (|G/n|^2 - tr M^2): rows of one length, each in a direction of its own, that would leave as much
        noise in the Gram; inf where no noise is seen. It says little of rows with a large mean.
    independent_rows
        Independent rows with the lengths of these that would leave as much; at most n.
    """

    effective_rows: float
    independent_rows: float


def independence(
    values: FloatArray, without: Sequence[FloatArray], rows_of: Sequence[int], effective_lengths: float
) -> Independence:
    """Return how far rows are independent.

    Since sum <G, G_a> = |G|^2, sum |G_a|^2 = sum |G - G_a|^2 - (B - 2) |G|^2: the singular values that the jackknife
    has anyway are enough.

    Parameters
    ----------
    values
        Singular values of all rows, descending, not all of them zero.
    without, rows_of
        Singular values of the rows without each of B replicates, and the rows of each replicate.
    effective_lengths
        (sum |z|^2)^2 / sum |z|^4 over all rows (`RowNorms.effective_rows`).
    """
    largest, n_rows = float(values[0]), math.fsum(rows_of)
    energy = math.fsum(((values / largest) ** 2).tolist())  # tr G, in units of the largest squared value
    squared, *others = (math.fsum(((one / largest) ** 4).tolist()) / energy**2 for one in (values, *without))
    parts = math.fsum(others) - (len(others) - 2) * squared
    pairs = 1.0 - math.fsum((rows / n_rows) ** 2 for rows in rows_of)
    between = (squared - parts) / pairs  # all in units of (tr G)^2
    noise, of_lengths = squared - between, 1.0 / effective_lengths - between / n_rows
    if noise <= _ROUNDING * squared:
        return Independence(math.inf, n_rows)
    return Independence(1.0 / noise, min(n_rows, n_rows * of_lengths / noise))
