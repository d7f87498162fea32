r"""What a sample of the rows tells of all of them: the delete-one-group jackknife.

With R_n of all groups and R_(-b) of all but group b, m_b of the n rows,

    bias = sum_b (1 - m_b/n) R_(-b) - (B - 1) R_n,
    se^2 = 1/B sum_b (h_b R_n - (h_b - 1) R_(-b) - mean)^2 / (h_b - 1),    h_b = n/m_b,

which for equal groups are (B-1)(mean R_(-b) - R_n) and (B-1)/B sum (R_(-b) - mean)^2. Where f of the rows were read,
both the bias and the variance of R_n as an estimate for all rows are (1 - f) times that.

That is the bias to first order, in 1/n. What is left is of second order: with x = D/n, R = R_all - a x + c x^2, and
R_n - bias is off by -B/(B-1) c x^2. It falls with the rows a feature alone and the standard error with the features
too, so for wide rows it is the larger. The mean H of R over the two halves of the groups tells it: 2 R_n - H is off by
-2 c x^2, and the difference of the two corrected values is (B-2)/(B-1) c x^2. Intervals reach from the one correction
to the other; that the truth lies there, whatever the terms of higher order, is seen and not proved
(benchmarks/results/coverage.md).

Each R_(-b) is solved for. Moving the singular values to first order along the singular vectors of the whole sample
would cost as much (16 products against 16 eigensolves) and is wrong where leaving a group out takes directions away: of
sorted clusters in 288 features 84 of 100 intervals held so, by hand (solved for: benchmarks/results/coverage.md).

References
----------
B. Efron, C. Stein, The jackknife estimate of variance, Ann. Statist. 9 (1981); F. Busing, E. Meijer, R. van der Leeden,
Delete-m jackknife for unequal m, Stat. Comput. 9 (1999), for groups of unequal size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import Metric, values_of
from rankme_stream.spectra.jackknife import Spread, first_order_bias, standard_error
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

T = TypeVar("T")


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
    4 B merges and B + 2 eigensolves a side (raw, centred) when it is first asked for; B accumulators beside the groups.
    """

    def __init__(
        self, groups: Sequence[Accumulator], whole: Accumulator, workers: int, *, unit_roundoff: float
    ) -> None:
        self.whole = whole
        self._groups = groups
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._shares = [group.n_rows / max(1, whole.n_rows) for group in groups]

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the whole sample."""
        return self.whole.spectrum(unit_roundoff=self._unit_roundoff)

    def rankme(self) -> tuple[float, Spread]:
        """Return RankMe of the whole sample and its spread, from the raw side alone."""
        whole = metrics.rankme(self.spectrum.raw.values)
        return whole, self._spread(whole, [metrics.rankme(values) for values in self._raw])

    def spreads(self, table: Mapping[str, Metric]) -> dict[str, Spread]:
        """Return the spread of every metric of a table that all replicates have."""
        whole = values_of(table, self.spectrum)
        parts = [values_of(table, one) for one in self._replicates]
        return {
            name: self._spread(value, [one[name] for one in parts])
            for name, value in whole.items()
            if all(name in one for one in parts)
        }

    def _spread(self, whole: float, parts: Sequence[float]) -> Spread:
        """Return the spread from the values without each group and then those of the halves."""
        count = len(self._groups)
        without, halves = parts[:count], parts[count:]
        bias = first_order_bias(whole, without, self._shares)
        error = standard_error(whole, without, self._shares)
        by_halves = 2.0 * whole - math.fsum(halves) / len(halves)
        left = (by_halves - (whole - bias)) * count / (count - 2)
        return Spread(bias, left, error, count, 5.0 * (count - 1))

    @property
    def has_empty_group(self) -> bool:
        """Whether some group has no row."""
        return not all(self._shares)

    @cached_property
    def _raw(self) -> list[FloatArray]:
        return self._values_without(centered=False)

    def _values_without(self, *, centered: bool) -> list[FloatArray]:
        """Singular values of all groups but each, and of the halves of the groups."""
        found: list[FloatArray] = []
        left = chain(_each_left_out(self._groups), map(merged, _halved(self._groups)))
        with blas_threads.threads(self._workers, "rankme-jackknife") as pool:
            while some := list(islice(left, self._workers)):  # no more merges are held than are solved
                found += pool.map(lambda one: one.values(centered=centered), some)
        return found

    @cached_property
    def _replicates(self) -> list[Spectrum]:
        n_rows, sums = self.whole.n_rows, self.whole.sums()
        parts = [(n_rows - group.n_rows, sums - group.sums()) for group in self._groups]
        for half in _halved(self._groups):
            parts.append((sum(group.n_rows for group in half), np.sum([group.sums() for group in half], axis=0)))
        return [
            replace(
                self.spectrum, raw=_exact(raw), centered=_exact(centered), n_rows=count,
                row_sum=(float(np.linalg.norm(row_sum)),) * 2,
            )
            for raw, centered, (count, row_sum) in zip(
                self._raw, self._values_without(centered=True), parts, strict=True
            )
        ]  # fmt: skip


def _each_left_out(accumulators: Sequence[Accumulator]) -> Iterator[Accumulator]:
    """Yield the merge of all but each: by prefixes and suffixes, so nothing is ever subtracted."""
    after: list[Accumulator] = [accumulators[-1]]  # of the last ones, one more each
    for one in reversed(accumulators[1:-1]):
        after.append(one.merge(after[-1]))
    yield after.pop()
    before = accumulators[0]
    for one in accumulators[1:-1]:
        yield before.merge(after.pop())
        before = before.merge(one)
    yield before


def _halved(groups: Sequence[Accumulator]) -> tuple[Sequence[Accumulator], Sequence[Accumulator]]:
    """Return the first half and the others."""
    middle = len(groups) // 2
    return groups[:middle], groups[middle:]


def _exact(values: FloatArray) -> SingularValues:
    return SingularValues(values, ConsistentSet(values, values))
