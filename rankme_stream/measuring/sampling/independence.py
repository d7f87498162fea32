"""Number of independent rows that the rows of a sample count as, from the Gram matrices of its replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankme_stream.accumulators.accumulator import HasGram, ScaledGram

_ROUNDING = 1e-12  # of |G|^2; a noise below it is none


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


def independence(whole: HasGram, replicates: Sequence[HasGram], effective_lengths: float) -> Independence:
    """Return how far rows are independent.

    Parameters
    ----------
    whole, replicates
        Accumulator of all rows, not all of them zero, and of each replicate.
    effective_lengths
        (sum |z|^2)^2 / sum |z|^4 over all rows (`RowNorms.effective_rows`).

    Notes
    -----
    One pass over each Gram; by QR, 2 D^3 flops each.
    """
    n_rows = whole.n_rows
    gram = whole.scaled_gram(centered=False)
    trace = math.fsum(np.diagonal(gram.lower).tolist())
    squared = _squared_norm(gram, trace, gram.exponent)
    parts = math.fsum(_squared_norm(one.scaled_gram(centered=False), trace, gram.exponent) for one in replicates)
    pairs = 1.0 - math.fsum((one.n_rows / n_rows) ** 2 for one in replicates)
    between = (squared - parts) / pairs  # all in units of (tr G)^2
    noise, of_lengths = squared - between, 1.0 / effective_lengths - between / n_rows
    if noise <= _ROUNDING * squared:
        return Independence(math.inf, n_rows)
    return Independence(1.0 / noise, min(float(n_rows), n_rows * of_lengths / noise))


def _squared_norm(gram: ScaledGram, trace: float, exponent: int) -> float:
    """Return the squared Frobenius norm of a Gram over a trace, which is that of rows times 2^``exponent``."""
    scaled = np.tril(gram.lower)
    own = math.fsum(np.diagonal(scaled).tolist())
    if own == 0.0:
        return 0.0
    scaled /= own  # so that no square leaves the range of float64
    diagonal = np.diagonal(scaled)
    squared = float(2.0 * np.vdot(scaled, scaled) - np.vdot(diagonal, diagonal))
    return squared * math.ldexp(own / trace, 2 * (exponent - gram.exponent)) ** 2
