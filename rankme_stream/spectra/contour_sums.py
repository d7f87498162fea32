"""Metrics that random-matrix theory gives of a population: smooth functions of sums over all eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rankme_stream.spectra.contour import Contour, log_entropy_rank, log_rankme


def _exp(logarithm: float, n_features: int) -> float:
    return math.exp(logarithm)


@dataclass(frozen=True)
class ContourSum:
    """A metric that is a smooth function of sums over all eigenvalues.

    Attributes
    ----------
    logarithm
        Returns the logarithm of a number from a contour, and from how many eigenvalues are zero, which it goes not
        round.
    value
        Returns the metric from that logarithm and the number of features.
    most_features
        Width up to which it is a sum over all eigenvalues.
    """

    logarithm: Callable[[Contour, int], float]
    value: Callable[[float, int], float] = _exp
    most_features: float = math.inf


def entropy(eps: float = 0.0, *, squares: bool = False, most_features: float = math.inf) -> ContourSum:
    """Return exp(-sum p ln p) with p = s/sum(s) + eps, or p = s^2/sum(s^2) + eps."""

    function = log_entropy_rank if squares else log_rankme
    return ContourSum(lambda contour, zeros: function(contour, eps=eps, zeros=zeros), most_features=most_features)


def _log_participation_ratio(contour: Contour, zeros: int) -> float:
    return 2.0 * math.log(contour.total(contour.w)) - math.log(contour.total(contour.w**2))


PARTICIPATION_RATIO = ContourSum(_log_participation_ratio)
ISOSCORE = ContourSum(_log_participation_ratio, lambda logarithm, n_features: math.expm1(logarithm) / (n_features - 1))
