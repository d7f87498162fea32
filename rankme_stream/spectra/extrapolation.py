"""Extrapolation of a metric from a row sketch to the rows, with its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.quantiles import student_quantile

FOLDING_PAIRS = 8  # pairs of foldings in two: by random signs of the rows, and by the opposite signs

# Second-order variance of the value: 1 of the sketch, 2^2/8 of foldings in two, 3/3^2 of foldings in four: 1.8.
_SECOND_ORDER = 2.0


class Scale(NamedTuple):
    """Scale on which a metric is about linear in the share of row pairs that meet; both take (value, n_features)."""

    forward: Callable[[float, int], float]
    inverse: Callable[[float, int], float]


def _reciprocal(value: float) -> float:
    return 1.0 / value if value > 0.0 else math.inf


IDENTITY = Scale(lambda value, _: value, lambda value, _: value)
LOGARITHM = Scale(lambda value, _: math.log(value), lambda value, _: math.exp(value))
RECIPROCAL = Scale(lambda value, _: 1.0 / value, lambda value, _: _reciprocal(value))
ISOSCORE_RECIPROCAL = Scale(  # reciprocal of the participation ratio P in the IsoScore (P - 1)/(D - 1)
    lambda value, n_features: 1.0 / (1.0 + value * (n_features - 1)),
    lambda value, n_features: (_reciprocal(value) - 1.0) / (n_features - 1),
)


@dataclass(frozen=True)
class FoldedSketches:
    r"""Singular values of a row sketch after folding it, from which the error of the sketch is estimated.

    Rows that meet in one row of the sketch turn the Gram matrix G into G + E: E has mean zero and a size that grows
    with x, the share of all pairs of rows, by energy, that meet. The sketch's value of a metric is then off by about
    -a x - b x^2. Folded in two, the sketch is one of half as many rows, with x twice as large; so a and b follow from
    the sketch and its foldings in two and four, by extrapolation to x = 0. Folding with the opposite signs reverses
    what folding added to E: half the difference of the two values is the sketch's error of first order, and their
    mean is free of it. In every pair of foldings other rows meet, so the variance of these means is the error of
    second order: small, unless few rows make up some directions.

    Attributes
    ----------
    halves
        Singular values of foldings in two, in pairs: by random signs, and by the opposite signs.
    quarters
        Singular values of foldings in four, by patterns of signs that cancel likewise.
    meetings
        x of the sketch, of a folding in two and of one in four.
    error
        Bound on what rounding adds to the square of a singular value of the sketch, times 2^exponent as the energy is
        (``ConsistentSet``).
    reason
        Why a metric cannot be extrapolated; None where it can.
    """

    halves: tuple[tuple[FloatArray, FloatArray], ...]
    quarters: tuple[FloatArray, ...]
    meetings: tuple[float, float, float]
    error: float
    reason: str | None = None

    def over(self, exponent: int) -> FoldedSketches:
        """Return the singular values divided by 2^``exponent``."""
        halves = tuple((np.ldexp(one, -exponent), np.ldexp(two, -exponent)) for one, two in self.halves)
        return replace(self, halves=halves, quarters=tuple(np.ldexp(one, -exponent) for one in self.quarters))

    def extrapolate(
        self,
        values: FloatArray,
        compute: Callable[[FloatArray], float],
        scale: Scale,
        n_features: int,
        confidence: float,
    ) -> tuple[float, float, float, float]:
        """Return the metric of the rows, the ends of its interval, and the factor that amplifies rounding errors.

        Parameters
        ----------
        values
            Singular values of the sketch.
        compute
            Metric of singular values.
        scale, n_features
            Scale on which the metric is extrapolated, and the number of features it takes.
        confidence
            Confidence of the interval.

        Notes
        -----
        The ends are those of the extrapolations through two points and through three, t_7 standard errors further out.
        """
        one, two, four = self.meetings

        def scaled(singular_values: FloatArray) -> float:
            return scale.forward(compute(singular_values), n_features)

        whole = scaled(values)
        pairs = np.array([[scaled(side) for side in pair] for pair in self.halves])
        means = whole, float(pairs.mean()), math.fsum(map(scaled, self.quarters)) / len(self.quarters)
        weights = (
            two * four / ((two - one) * (four - one)),
            -one * four / ((two - one) * (four - two)),
            one * two / ((four - one) * (four - two)),
        )
        value = math.fsum(weight * mean for weight, mean in zip(weights, means, strict=True))
        line = whole + (whole - means[1]) * one / (two - one)
        variance = float((((pairs[:, 0] - pairs[:, 1]) / 2.0) ** 2).mean())
        variance += _SECOND_ORDER * float(pairs.mean(axis=1).var(ddof=1))
        error = math.sqrt(variance * one / (two - one))
        margin = student_quantile(FOLDING_PAIRS - 1, confidence) * error
        ends = [scale.inverse(end, n_features) for end in (min(value, line) - margin, max(value, line) + margin)]
        return scale.inverse(value, n_features), min(ends), max(ends), math.fsum(map(abs, weights))
