"""How a metric of some runs goes with their downstream scores: rank correlations and what selecting by it loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from rankme_stream.numerics.dtypes import FloatArray

N_RESAMPLES = 2000
_FEWEST = 3  # runs, for a correlation


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and a percentile bootstrap interval over runs.

    Attributes
    ----------
    value, lower, upper
        From -1 to 1; None where there is none, and ``reason`` says why.
    resamples
        Those in which the correlation is defined, which the interval is of.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    resamples: int = 0
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types; the reason only where there is one."""
        plain = {name: getattr(self, name) for name in ("value", "lower", "upper", "confidence", "resamples")}
        return plain if self.reason is None else plain | {"reason": self.reason}


class Scored:
    """The scores of some runs, and the resamples that the correlations of every metric with them share.

    Parameters
    ----------
    scores
        Of every run, finite.
    seed
        Of the resamples: runs drawn with replacement, as many as there are.
    confidence
        Of the intervals.

    Notes
    -----
    A resample is how often it holds each run. The rank of run i in it is 1/2 + sum_j c_j ([x_j < x_i] + [x_j = x_i]/2),
    ties at their mean, so ranks of all resamples are one matrix product, and so are Kendall's sums over pairs.
    O(R n^2) flops and O(R n) bytes for n runs and R = 2,000 resamples.
    """

    def __init__(self, scores: Sequence[float], *, seed: int, confidence: float) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)
        self._seed, self._confidence = seed, confidence

    def correlations(self, values: Sequence[float]) -> dict[str, Correlation]:
        """Return ``spearman`` and ``kendall`` (tau-b) of the scores with a metric's values, which may be infinite."""
        x = np.asarray(values, dtype=np.float64)
        reason = self._reason(x)
        if reason is not None:
            return {name: Correlation(None, reason=reason) for name in ("spearman", "kendall")}
        # ranks in place of values: both statistics are of ranks alone, and infinities are no trouble there
        ranks = stats.rankdata(x), stats.rankdata(self._scores)
        return {
            "spearman": self._interval(float(stats.spearmanr(*ranks).statistic), self._spearman(x)),
            "kendall": self._interval(float(stats.kendalltau(*ranks).statistic), self._kendall(x)),
        }

    def _reason(self, x: FloatArray) -> str | None:
        if x.size < _FEWEST:
            return f"a correlation takes {_FEWEST} runs, and there are {x.size}"
        for what, column in (("values", x), ("scores", self._scores)):
            if (column == column[0]).all():
                return f"all {what} are the same"
        return None

    def _interval(self, value: float, resampled: FloatArray) -> Correlation:
        defined = resampled[np.isfinite(resampled)]
        if not defined.size:
            return Correlation(value, reason="no resample has a correlation")
        tail = (1.0 - self._confidence) / 2.0
        lower, upper = map(float, np.quantile(defined, [tail, 1.0 - tail]))
        return Correlation(value, lower, upper, self._confidence, int(defined.size))

    @cached_property
    def _times(self) -> FloatArray:
        n = self._scores.size
        return np.random.default_rng(self._seed).multinomial(n, [1.0 / n] * n, size=N_RESAMPLES).astype(np.float64)

    @cached_property
    def _score_ranks(self) -> FloatArray:
        return self._ranks(self._scores)

    def _ranks(self, x: FloatArray) -> FloatArray:
        """Less their mean, in every resample; shape (R, n)."""
        below = (x[:, None] < x) + 0.5 * (x[:, None] == x)
        ranks: FloatArray = self._times @ below - 0.5 * x.size
        return ranks

    def _spearman(self, x: FloatArray) -> FloatArray:
        a, b, c = self._ranks(x), self._score_ranks, self._times
        return _ratio((c * a * b).sum(axis=1), (c * a * a).sum(axis=1), (c * b * b).sum(axis=1))

    def _kendall(self, x: FloatArray) -> FloatArray:
        a, b = _signs(x), _signs(self._scores)
        return _ratio(*(self._over_pairs(one) for one in (a * b, a * a, b * b)))

    def _over_pairs(self, weights: FloatArray) -> FloatArray:
        over: FloatArray = ((self._times @ weights) * self._times).sum(axis=1)
        return over


def _signs(x: FloatArray) -> FloatArray:
    return (x[:, None] < x).astype(np.float64) - (x[:, None] > x)


def _ratio(products: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """Return products / sqrt(left right): NaN where a side is constant.

    Every sum is of multiples of 1/4 below 2^53, so a constant side is exactly zero.
    """
    scale = np.sqrt(left) * np.sqrt(right)
    found: FloatArray = np.divide(products, scale, out=np.full_like(scale, math.nan), where=scale > 0.0)
    return np.clip(found, -1.0, 1.0)


def losses(scores: Mapping[str, float], selected: Sequence[str]) -> dict[str, float]:
    """Return what of the score is lost against the oracle, by a selection and by chance.

    Parameters
    ----------
    scores
        Of every run of a sweep, by name.
    selected
        The run selected; several that nothing tells apart count with their mean.

    Returns
    -------
    dict
        ``selected_score``; ``oracle_score``, the largest; ``lost``, the difference; and ``lost_by_chance``, that of
        the mean of all scores, which a run drawn at random has on average.
    """
    oracle = max(scores.values())
    selected_score = _mean([scores[name] for name in selected])
    return {
        "selected_score": selected_score,
        "oracle_score": oracle,
        "lost": oracle - selected_score,
        "lost_by_chance": oracle - _mean(list(scores.values())),
    }


def _mean(numbers: npt.ArrayLike) -> float:
    column = np.asarray(numbers, dtype=np.float64)
    return math.fsum(column) / column.size
