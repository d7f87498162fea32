"""Rank correlations of metrics with downstream scores, and the score lost by selecting a run by a metric."""

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
_MIN_RUNS = 3  # for a correlation


@dataclass(frozen=True)
class Correlation:
    """Rank correlation with a percentile bootstrap interval over runs.

    Attributes
    ----------
    value, lower, upper
        From -1 to 1; None where there is none, and ``reason`` says why.
    resamples
        Number of resamples in which the correlation is defined; the interval is taken over these.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    resamples: int = 0
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the correlation as JSON types; the reason only where there is one."""
        plain = {name: getattr(self, name) for name in ("value", "lower", "upper", "confidence", "resamples")}
        return plain if self.reason is None else plain | {"reason": self.reason}


class Scored:
    """Scores of runs, and the resamples shared by the correlations of all metrics with them.

    Parameters
    ----------
    scores
        Score of every run, finite.
    seed
        Seed of the resamples: runs drawn with replacement, as many as there are.
    confidence
        Confidence of the intervals.

    Notes
    -----
    A resample is given by the count c_j of each run in it. The rank of run i is then 1/2 + sum_j c_j ([x_j < x_i] +
    [x_j = x_i]/2), ties at their mean, so the ranks of all resamples are one matrix product, and so are Kendall's sums
    over pairs. O(R n^2) flops and O(R n) bytes for n runs and R = 2,000 resamples.
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
        # Ranks in place of values: both statistics depend on ranks alone, and ranks are finite.
        ranks = stats.rankdata(x), stats.rankdata(self._scores)
        return {
            "spearman": self._interval(float(stats.spearmanr(*ranks).statistic), self._spearman(x)),
            "kendall": self._interval(float(stats.kendalltau(*ranks).statistic), self._kendall(x)),
        }

    def _reason(self, x: FloatArray) -> str | None:
        if x.size < _MIN_RUNS:
            return f"a correlation needs {_MIN_RUNS} runs, and there are {x.size}"
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
        """Return the ranks in every resample, less their mean; shape (R, n)."""
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
    ratio: FloatArray = np.divide(products, scale, out=np.full_like(scale, math.nan), where=scale > 0.0)
    return np.clip(ratio, -1.0, 1.0)


def losses(scores: Mapping[str, float], selected: Sequence[str]) -> dict[str, float]:
    """Return the score lost against the oracle by a selection and by a random choice.

    Parameters
    ----------
    scores
        Score of every run of a sweep, by name.
    selected
        Run selected; several between which nothing decides count with their mean.

    Returns
    -------
    dict
        ``selected_score``; ``oracle_score``, the largest; ``lost``, their difference; and ``lost_by_chance``, the
        average loss of a run drawn at random.
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
