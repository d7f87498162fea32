r"""What a sample of the rows tells of all of them: the delete-one-group jackknife.

With R_n of all groups and R_(-b) of all but group b, m_b of the n rows,

    bias = sum_b (1 - m_b/n) R_(-b) - (B - 1) R_n,
    se^2 = 1/B sum_b (h_b R_n - (h_b - 1) R_(-b) - mean)^2 / (h_b - 1),    h_b = n/m_b,

which for equal groups are (B-1)(mean R_(-b) - R_n) and (B-1)/B sum (R_(-b) - mean)^2. Where f of the rows were read,
both the bias and the variance of R_n as an estimate for all rows are (1 - f) times that.

Up to 256 features each R_(-b) is solved for. Beyond, its singular values are moved to first order along the singular
vectors v_k of the whole sample, l_k = sum of (z v_k)^2 over the rows left: that gives the standard error with one
eigenbasis. The bias is of second order and comes from leaving out a quarter of the groups at a time instead.

References
----------
B. Efron, C. Stein, The jackknife estimate of variance, Ann. Statist. 9 (1981); F. Busing, E. Meijer, R. van der Leeden,
Delete-m jackknife for unequal m, Stat. Comput. 9 (1999), for groups of unequal size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, TypeVar

import numpy as np
from scipy.special import stdtrit

from rankme_stream import metrics
from rankme_stream.accumulators import Accumulator
from rankme_stream.arrays import FloatArray
from rankme_stream.estimates import Estimate, Metric, values_of
from rankme_stream.spectrum import Box, SingularValues, Spectrum

T = TypeVar("T")

_SOLVED_UP_TO = 256  # features: then 2 x 16 eigensolves take less time than reading a unit from a disk
_PARTS = 4  # left out one at a time for the bias of wide rows: a half alone would be noisier, and further from all rows


@dataclass(frozen=True)
class Spread:
    """How far a number of a sample is off: its bias, and its standard error, as if of infinitely many rows."""

    bias: float
    standard_error: float
    degrees_of_freedom: int

    def of_rest(self, fraction: float) -> Spread:
        """Return those of an estimate for all rows when ``fraction`` of them were read."""
        left = max(0.0, 1.0 - fraction)
        return replace(self, bias=left * self.bias, standard_error=math.sqrt(left) * self.standard_error)

    def of_more(self, times: float) -> Spread:
        """Return those of a number of so many times the rows."""
        return replace(self, bias=self.bias / times, standard_error=self.standard_error / math.sqrt(times))


@dataclass(frozen=True)
class _Left:
    """Something of the groups that are left when one is out, and the share of the rows that is out."""

    left: Sequence[Any]
    out: Sequence[float]

    def bias(self, whole: float, values: Sequence[float]) -> float:
        terms = [(1.0 - share) * value for share, value in zip(self.out, values, strict=True)]
        return math.fsum([*terms, -(len(values) - 1) * whole])

    def standard_error(self, whole: float, values: Sequence[float]) -> float:
        ratios = [1.0 / share for share in self.out]
        pseudo = [h * whole - (h - 1.0) * value for h, value in zip(ratios, values, strict=True)]
        mean = math.fsum(pseudo) / len(pseudo)
        terms = [(one - mean) ** 2 / (h - 1.0) for one, h in zip(pseudo, ratios, strict=True)]
        return math.sqrt(math.fsum(terms) / len(terms))


def merged(accumulators: Sequence[T]) -> T:
    """Return the merge of accumulators, or anything that merges, from left to right."""
    return reduce(lambda left, right: left.merge(right), accumulators)  # type: ignore[attr-defined]


class Jackknife:
    """Replicates of a sample whose groups are given as accumulators.

    Parameters
    ----------
    groups
        One accumulator each, of two rows or more.
    workers
        Threads that solve.

    Notes
    -----
    3 B merges; up to 256 features B eigensolves a side (raw, centred), beyond one eigenbasis, B products of 2 D^3 flops
    and four eigensolves a side.
    """

    def __init__(self, groups: Sequence[Accumulator], workers: int) -> None:
        self._groups = groups
        self._workers = workers
        self.whole: Accumulator = merged(groups)
        self._solves = self.whole.n_features <= _SOLVED_UP_TO
        n_rows = self.whole.n_rows
        self._without = _Left(_each_left_out(groups) if self._solves else groups, [g.n_rows / n_rows for g in groups])
        self._coarse = self._without
        if not self._solves:
            size = len(groups) // _PARTS
            parts = [merged(groups[start : start + size]) for start in range(0, len(groups), size)]
            self._coarse = _Left(_each_left_out(parts), [part.n_rows / n_rows for part in parts])

    @cached_property
    def value(self) -> float:
        """RankMe of the whole sample."""
        return metrics.rankme(self.whole.values(centered=False))

    def rankme(self) -> Spread:
        """Return the spread of RankMe, from the raw side alone."""
        without = [metrics.rankme(values) for values in self._values_without(centered=False)]
        coarse = without
        if not self._solves:
            coarse = [metrics.rankme(values) for values in self._solved(self._coarse.left, centered=False)]
        return self._spread(self.value, without, coarse)

    def spreads(self, table: Mapping[str, Metric], whole: Spectrum) -> dict[str, Spread]:
        """Return the spread of every metric of a table that all replicates have.

        Parameters
        ----------
        whole
            Spectrum of the whole sample.
        """
        values = values_of(table, whole)
        without = [values_of(table, one) for one in self._replicates(whole, self._left_sums(), self._values_without)]
        coarse = without
        if not self._solves:
            accumulators = self._coarse.left
            sums = [(one.n_rows, one.sums()) for one in accumulators]
            coarse = [
                values_of(table, one)
                for one in self._replicates(whole, sums, lambda **side: self._solved(accumulators, **side))
            ]
        spreads = {}
        for name, value in values.items():
            if all(name in one for one in (*without, *coarse)):
                spreads[name] = self._spread(value, [one[name] for one in without], [one[name] for one in coarse])
        return spreads

    def _spread(self, whole: float, without: Sequence[float], coarse: Sequence[float]) -> Spread:
        error = self._without.standard_error(whole, without)
        return Spread(self._coarse.bias(whole, coarse), error, len(self._groups) - 1)

    def _left_sums(self) -> list[tuple[int, FloatArray]]:
        """Rows, and their sum, of what is left without each group."""
        n_rows, sums = self.whole.n_rows, self.whole.sums()
        return [(n_rows - group.n_rows, sums - group.sums()) for group in self._groups]

    def _values_without(self, *, centered: bool) -> list[FloatArray]:
        if self._solves:
            return self._solved(self._without.left, centered=centered)
        directions = self.whole.directions(centered=centered)
        squares = self._threads(lambda group: group.squares_along(directions), self._groups)
        whole = np.sum(squares, axis=0)
        found = []
        for square, (n_rows, sums) in zip(squares, self._left_sums(), strict=True):
            left = whole - square
            if centered:
                left -= (sums @ directions) ** 2 / n_rows
            found.append(np.sqrt(np.sort(np.maximum(left, 0.0))[::-1]))
        return found

    def _solved(self, accumulators: Sequence[Accumulator], *, centered: bool) -> list[FloatArray]:
        return self._threads(lambda one: one.values(centered=centered), accumulators)

    def _threads(self, function: Callable[[Accumulator], FloatArray], over: Sequence[Accumulator]) -> list[FloatArray]:
        with ThreadPoolExecutor(self._workers, thread_name_prefix="rankme-jackknife") as pool:
            return list(pool.map(function, over))

    def _replicates(
        self, whole: Spectrum, sums: Sequence[tuple[int, FloatArray]], values: Callable[..., list[FloatArray]]
    ) -> list[Spectrum]:
        sides = zip(values(centered=False), values(centered=True), sums, strict=True)
        return [
            replace(
                whole, raw=_exact(raw), centered=_exact(centered), n_rows=n_rows,
                row_sum=(float(np.linalg.norm(row_sum)),) * 2,
            )
            for raw, centered, (n_rows, row_sum) in sides
        ]  # fmt: skip


def _each_left_out(accumulators: Sequence[Accumulator]) -> list[Accumulator]:
    """Return the merge of all but each: by prefixes and suffixes, so nothing is ever subtracted."""
    before: list[Accumulator] = [accumulators[0]]
    for one in accumulators[1:-1]:
        before.append(before[-1].merge(one))
    after: list[Accumulator] = [accumulators[-1]]
    for one in reversed(accumulators[1:-1]):
        after.append(one.merge(after[-1]))
    after.reverse()  # after[i] is everything from i + 1 on
    middle = [head.merge(tail) for head, tail in zip(before[:-1], after[1:], strict=True)]
    return [after[0], *middle, before[-1]]


def _exact(values: FloatArray) -> SingularValues:
    return SingularValues(values, Box(values, values))


def with_spread(estimate: Estimate, spread: Spread, *, confidence: float) -> Estimate:
    """Return an estimate for other rows than were read: corrected for the bias, its interval widened by the error.

    Parameters
    ----------
    estimate
        Of the rows read, with the interval of the arithmetic.
    spread
        Of the number as an estimate for what it is to stand for.
    confidence
        Probability with which the sampling part is to hold; what the arithmetic's interval lacks is taken off it.
    """
    if estimate.value is None:
        return replace(estimate, lower=None, upper=None, confidence=None, covers=())
    details = {name: detail for name, detail in estimate.details.items() if name != "worst_case"}
    details |= {"sample": estimate.value, "standard_error": spread.standard_error}
    half_width = float(stdtrit(spread.degrees_of_freedom, (1.0 + confidence) / 2.0)) * spread.standard_error
    value = estimate.value - spread.bias
    if estimate.lower is None or estimate.upper is None:
        return Estimate(value, details=details)
    return Estimate(
        value,
        estimate.lower - spread.bias - half_width,
        estimate.upper - spread.bias + half_width,
        None if estimate.confidence is None else confidence + estimate.confidence - 1.0,
        (*estimate.covers, "sampling"),
        details=details,
    )
