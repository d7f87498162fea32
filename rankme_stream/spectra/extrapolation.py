"""A sketch's number extrapolated to the rows, with the error of the extrapolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from rankme_stream.numerics.dtypes import FloatArray

FOLDING_PAIRS = 8  # of foldings in two: each a random sign a row, and its opposite


# Variances of second order in the value: the sketch's own, 2^2/8 of foldings in two, 3/3^2 of that in four make 1.8.
_SECOND_ORDER = 2.0


class Scale(NamedTuple):
    """A scale on which a number of so many features is about linear in how many rows meet, and the way back."""

    there: Callable[[float, int], float]
    back: Callable[[float, int], float]


def _inverse(value: float) -> float:
    return 1.0 / value if value > 0.0 else math.inf


LOGARITHM = Scale(lambda value, _: math.log(value), lambda value, _: math.exp(value))


ITSELF = Scale(lambda value, _: value, lambda value, _: value)


INVERSE = Scale(lambda value, _: 1.0 / value, lambda value, _: _inverse(value))


OF_RATIO = Scale(  # the inverse of the participation ratio r that (r - 1)/(D - 1) is made of
    lambda value, n_features: 1.0 / (1.0 + value * (n_features - 1)),
    lambda value, n_features: (_inverse(value) - 1.0) / (n_features - 1),
)


@dataclass(frozen=True)
class FoldedSketches:
    r"""Singular values of a row sketch that was folded, and what they are to be read with.

    Rows that share a row of the sketch put G + E in place of G, E of mean zero and of a size that grows with the share
    x of all pairs of rows, by energy, that meet. A number f of the sketch is then off by about -a x - b x^2, and folded
    in two it is that of a sketch of half as many rows, where x is twice as large. So both are told by extrapolation to
    x = 0, through one, two and four. A fold with the opposite signs turns what folding added to E about: half of the
    difference of the two is what a sketch is off by in first order, the mean of the two is free of it. Other rows
    meet in every pair of foldings, so how far these means differ is what it is off by in second order: little, unless
    some directions are those of few rows.

    Attributes
    ----------
    halves
        Of foldings in two, one a row: by random signs, and by the opposite ones.
    quarters
        Of foldings in four, by patterns of signs that cancel likewise.
    meetings
        x of the sketch, of a folding in two and in four.
    error
        Most that rounding moves the square of a singular value of the sketch by.
    reason
        Why nothing can be told; None where it can.
    """

    halves: tuple[tuple[FloatArray, FloatArray], ...]
    quarters: tuple[FloatArray, ...]
    meetings: tuple[float, float, float]
    error: float
    reason: str | None = None

    def told(
        self,
        values: FloatArray,
        compute: Callable[[FloatArray], float],
        scale: Scale,
        n_features: int,
        confidence: float,
    ) -> tuple[float, float, float, float]:
        """Return a number of the rows with both ends of its interval, and how many errors of rounding it may hold.

        Parameters
        ----------
        values
            Singular values of the sketch.
        compute
            The number of singular values.
        scale, n_features
            Where it is extrapolated.
        confidence
            Probability with which the interval is to hold.

        Notes
        -----
        The ends are those of the extrapolations through two points and through three, t_7 standard errors further out.
        """
        one, two, four = self.meetings

        def scaled(found: FloatArray) -> float:
            return scale.there(compute(found), n_features)

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
        off = float(stdtrit(FOLDING_PAIRS - 1, (1.0 + confidence) / 2.0)) * error
        ends = [scale.back(end, n_features) for end in (min(value, line) - off, max(value, line) + off)]
        return scale.back(value, n_features), min(ends), max(ends), math.fsum(map(abs, weights))
