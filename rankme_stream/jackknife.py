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
from functools import cached_property, partial, reduce
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

from rankme_stream import metrics, planning
from rankme_stream.accumulators import Accumulator
from rankme_stream.arrays import FloatArray
from rankme_stream.estimates import Estimate, Metric, values_of
from rankme_stream.spectrum import Box, SingularValues, Spectrum

T = TypeVar("T")
_Side = tuple[list[FloatArray], list[FloatArray]]

_PARTS = 4  # left out one at a time for the bias of wide rows: a half alone would be noisier, and further from all rows


@dataclass(frozen=True)
class Spread:
    """How far a number of a sample is off: its bias, and its standard error, as if of infinitely many rows.

    ``noise`` is how many times the error of the arithmetic the bias may hold: 2 (B - 1), for R_n and for the R_(-b).
    """

    bias: float
    standard_error: float
    degrees_of_freedom: int
    noise: float

    def of_rest(self, fraction: float) -> Spread:
        """Return those of an estimate for all rows when ``fraction`` of them were read."""
        left = max(0.0, 1.0 - fraction)
        return replace(
            self, bias=left * self.bias, standard_error=math.sqrt(left) * self.standard_error, noise=left * self.noise
        )

    def of_more(self, times: float) -> Spread:
        """Return those of a number of so many times the rows."""
        return replace(
            self,
            bias=self.bias / times,
            standard_error=self.standard_error / math.sqrt(times),
            noise=self.noise / times,
        )


def _bias(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Bias of the whole from the values without each part, whose shares of the rows are given."""
    terms = [(1.0 - share) * value for share, value in zip(shares, without, strict=True)]
    return math.fsum([*terms, -(len(without) - 1) * whole])


def _error(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Standard error of the whole from the same."""
    ratios = [1.0 / share for share in shares]
    pseudo = [h * whole - (h - 1.0) * value for h, value in zip(ratios, without, strict=True)]
    mean = math.fsum(pseudo) / len(pseudo)
    return math.sqrt(
        math.fsum((one - mean) ** 2 / (h - 1.0) for one, h in zip(pseudo, ratios, strict=True)) / len(pseudo)
    )


def merged(accumulators: Sequence[T]) -> T:
    """Return the merge of accumulators, or anything that merges, from left to right."""
    return reduce(lambda left, right: left.merge(right), accumulators)  # type: ignore[attr-defined]


class Jackknife:
    """Replicates of a sample whose groups are given as accumulators.

    Parameters
    ----------
    groups
        One accumulator each.
    whole
        Their merge.
    workers
        Threads that solve.
    unit_roundoff
        Of the stored type.

    Notes
    -----
    3 B merges; up to 256 features B eigensolves a side (raw, centred), beyond one eigenbasis, B products of 2 D^3 flops
    and four eigensolves a side. A side is solved when it is first asked for, once.
    """

    def __init__(
        self, groups: Sequence[Accumulator], whole: Accumulator, workers: int, *, unit_roundoff: float
    ) -> None:
        self.whole = whole
        self._groups = groups
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._solves = whole.n_features <= planning.ALL_LEFT_OUT_UP_TO
        self._shares = [group.n_rows / max(1, whole.n_rows) for group in groups]

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the whole sample."""
        return self.whole.spectrum(unit_roundoff=self._unit_roundoff)

    def rankme(self) -> tuple[float, Spread]:
        """Return RankMe of the whole sample and its spread, from the raw side alone."""
        whole = metrics.rankme(self.spectrum.raw.values)
        without, coarse = ([metrics.rankme(values) for values in found] for found in self._raw)
        return whole, self._spread(whole, without, coarse)

    def spreads(self, table: Mapping[str, Metric]) -> dict[str, Spread]:
        """Return the spread of every metric of a table that all replicates have."""
        whole = values_of(table, self.spectrum)
        without, coarse = ([values_of(table, one) for one in found] for found in self._replicates)
        return {
            name: self._spread(value, [one[name] for one in without], [one[name] for one in coarse])
            for name, value in whole.items()
            if all(name in one for one in (*without, *coarse))
        }

    def _spread(self, whole: float, without: Sequence[float], coarse: Sequence[float]) -> Spread:
        shares = self._shares if self._solves else [part.n_rows / self.whole.n_rows for part in self._parts]
        error = _error(whole, without, self._shares)
        return Spread(_bias(whole, coarse, shares), error, len(self._groups) - 1, 2.0 * (len(shares) - 1))

    @property
    def has_empty_group(self) -> bool:
        """Whether some group has no row."""
        return not all(self._shares)

    @cached_property
    def _left(self) -> list[Accumulator]:
        """All groups but each; for wide rows all parts but each."""
        return _each_left_out(self._groups if self._solves else self._parts)

    @cached_property
    def _parts(self) -> list[Accumulator]:
        size = len(self._groups) // _PARTS
        return [merged(self._groups[start : start + size]) for start in range(0, len(self._groups), size)]

    @cached_property
    def _left_sums(self) -> list[tuple[int, FloatArray]]:
        """Rows, and their sum, of what is left without each group."""
        n_rows, sums = self.whole.n_rows, self.whole.sums()
        return [(n_rows - group.n_rows, sums - group.sums()) for group in self._groups]

    @cached_property
    def _raw(self) -> _Side:
        return self._side(centered=False)

    def _side(self, *, centered: bool) -> _Side:
        """Singular values without each group, for the standard error, and without each part, for the bias."""
        solving = [partial(one.values, centered=centered) for one in self._left]
        if self._solves:
            values = self._threads(solving)
            return values, values
        directions, *coarse = self._threads([partial(self.whole.directions, centered=centered), *solving])
        squares = self._threads([partial(group.squares_along, directions) for group in self._groups])
        whole = np.sum(squares, axis=0)
        without = []
        for square, (n_rows, sums) in zip(squares, self._left_sums, strict=True):
            left = whole - square
            if centered:
                left -= (sums @ directions) ** 2 / n_rows
            without.append(np.sqrt(np.sort(np.maximum(left, 0.0))[::-1]))
        return without, coarse

    def _threads(self, calls: Sequence[Callable[[], FloatArray]]) -> list[FloatArray]:
        with ThreadPoolExecutor(self._workers, thread_name_prefix="rankme-jackknife") as pool:
            return [done.result() for done in [pool.submit(call) for call in calls]]

    @cached_property
    def _replicates(self) -> tuple[list[Spectrum], list[Spectrum]]:
        centered = self._side(centered=True)
        without = self._spectra(self._raw[0], centered[0], self._left_sums)
        if self._solves:
            return without, without
        sums = [(one.n_rows, one.sums()) for one in self._left]
        return without, self._spectra(self._raw[1], centered[1], sums)

    def _spectra(
        self, raw: Sequence[FloatArray], centered: Sequence[FloatArray], sums: Sequence[tuple[int, FloatArray]]
    ) -> list[Spectrum]:
        return [
            replace(
                self.spectrum, raw=_exact(values), centered=_exact(about_mean), n_rows=n_rows,
                row_sum=(float(np.linalg.norm(row_sum)),) * 2,
            )
            for values, about_mean, (n_rows, row_sum) in zip(raw, centered, sums, strict=True)
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
    half_width += spread.noise * max(estimate.upper - estimate.value, estimate.value - estimate.lower)
    return Estimate(
        value,
        estimate.lower - spread.bias - half_width,
        estimate.upper - spread.bias + half_width,
        None if estimate.confidence is None else confidence + estimate.confidence - 1.0,
        (*estimate.covers, "sampling"),
        details=details,
    )
