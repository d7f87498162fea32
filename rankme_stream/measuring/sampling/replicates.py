r"""Estimates for all rows from a sample of them: the delete-one jackknife over the sample's replicates.

With R_n from all replicates and R_(-b) from all but replicate b, which holds m_b of the n rows,

    bias = sum_b (1 - m_b/n) R_(-b) - (B - 1) R_n,
    se^2 = 1/B sum_b (h_b R_n - (h_b - 1) R_(-b) - mean)^2 / (h_b - 1),    h_b = n/m_b,

which for equal replicates are (B-1)(mean R_(-b) - R_n) and (B-1)/B sum (R_(-b) - mean)^2. If a fraction f of the rows
was read, both the bias and the variance of R_n as an estimate for all rows are (1 - f) times that.

This is the bias to first order in 1/n. A second-order bias remains: with x = D/n, R = R_all - a x + c x^2, and
R_n - bias is off by -B/(B-1) c x^2. It falls only with the rows per feature, the standard error also with the features,
so for wide rows the bias is the larger. The mean H of R over the two halves of the replicates measures it: 2 R_n - H is
off by -2 c x^2, so the two corrected values differ by (B-2)/(B-1) c x^2. Intervals reach from one correction to the
other; that the truth lies between them, whatever the terms of higher order, is observed and not proved
(benchmarks/results/coverage.md).

Each R_(-b) has an eigensolve of its own. Moving the singular values to first order along the singular vectors of the
whole sample would cost as much (16 products against 16 eigensolves) and is wrong where leaving a replicate out removes
directions: on sorted clusters in 288 features only 84 of 100 such intervals held, measured by hand (with eigensolves:
benchmarks/results/coverage.md).

References
----------
B. Efron, C. Stein, The jackknife estimate of variance, Ann. Statist. 9 (1981); F. Busing, E. Meijer, R. van der Leeden,
Delete-m jackknife for unequal m, Stat. Comput. 9 (1999), for replicates of unequal size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.spectra import metrics
from rankme_stream.spectra.estimates import Metric, values_of
from rankme_stream.spectra.jackknife import JackknifeSpread, first_order_bias, pseudo_values, standard_error
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

T = TypeVar("T")


def merged(accumulators: Sequence[T]) -> T:
    """Return the merge, from left to right, of accumulators or of anything else that merges."""
    return reduce(lambda left, right: left.merge(right), accumulators)  # type: ignore[attr-defined]


class MeasuredSpread(NamedTuple):
    """A value of the rows read, its spread, and the value that each replicate stands for."""

    value: float
    spread: JackknifeSpread
    pseudo_values: list[float]


class Jackknife:
    """Delete-one jackknife over the replicates of a sample.

    Parameters
    ----------
    replicates
        Accumulator of each replicate.
    whole
        Their merge.
    workers
        Threads for the eigensolves.
    unit_roundoff
        Unit roundoff of the stored type.

    Notes
    -----
    4 B merges and B + 2 eigensolves for each of raw and centred rows, when first needed; B accumulators beside those
    of the replicates.
    """

    def __init__(
        self, replicates: Sequence[Accumulator], whole: Accumulator, workers: int, *, unit_roundoff: float
    ) -> None:
        self.whole = whole
        self._replicates = replicates
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._shares = [replicate.n_rows / max(1, whole.n_rows) for replicate in replicates]

    @cached_property
    def spectrum(self) -> Spectrum:
        """Spectrum of the whole sample."""
        return self.whole.spectrum(unit_roundoff=self._unit_roundoff)

    def rankme(self) -> MeasuredSpread:
        """Return RankMe of the whole sample and its spread, from the raw rows alone."""
        whole = metrics.rankme(self.spectrum.raw.values)
        parts = [metrics.rankme(values) for values in self._raw_values]
        without = parts[: len(self._replicates)]
        return MeasuredSpread(whole, self._spread(whole, parts), pseudo_values(whole, without, self._shares))

    def spreads(self, table: Mapping[str, Metric]) -> dict[str, JackknifeSpread]:
        """Return the spread of every metric of a table that has a value for every part of the sample."""
        whole = values_of(table, self.spectrum)
        parts = [values_of(table, spectrum) for spectrum in self._spectra]
        return {
            name: self._spread(value, [part[name] for part in parts])
            for name, value in whole.items()
            if all(name in part for part in parts)
        }

    def _spread(self, whole: float, parts: Sequence[float]) -> JackknifeSpread:
        """Return the spread from the values without each replicate, followed by those of the halves."""
        count = len(self._replicates)
        without, halves = parts[:count], parts[count:]
        bias = first_order_bias(whole, without, self._shares)
        error = standard_error(whole, without, self._shares)
        by_halves = 2.0 * whole - math.fsum(halves) / len(halves)
        second_order = (by_halves - (whole - bias)) * count / (count - 2)
        return JackknifeSpread(bias, second_order, error, count, 5.0 * (count - 1))

    @property
    def replicate_rows(self) -> list[int]:
        """Number of rows of each replicate."""
        return [replicate.n_rows for replicate in self._replicates]

    def values_without(self, *, centered: bool) -> list[FloatArray]:
        """Return the singular values of the rows without each replicate."""
        values = self._centered_values if centered else self._raw_values
        return values[: len(self._replicates)]

    @cached_property
    def _raw_values(self) -> list[FloatArray]:
        return self._values_of_parts(centered=False)

    @cached_property
    def _centered_values(self) -> list[FloatArray]:
        return self._values_of_parts(centered=True)

    def _values_of_parts(self, *, centered: bool) -> list[FloatArray]:
        """Return the singular values of the sample without each replicate, then of its halves."""
        values: list[FloatArray] = []
        parts = chain(_each_left_out(self._replicates), map(merged, _halves(self._replicates)))
        with blas_threads.threads(self._workers, "rankme-jackknife") as pool:
            while batch := list(islice(parts, self._workers)):  # so that no more merges are held than are solved
                values += pool.map(lambda part: part.values(centered=centered), batch)
        return values

    @cached_property
    def _spectra(self) -> list[Spectrum]:
        """Spectra of the sample without each replicate, then of its halves."""
        n_rows, sums = self.whole.n_rows, self.whole.sums()
        parts = [(n_rows - replicate.n_rows, sums - replicate.sums()) for replicate in self._replicates]
        for half in _halves(self._replicates):
            parts.append((sum(one.n_rows for one in half), np.sum([one.sums() for one in half], axis=0)))
        return [
            replace(
                self.spectrum, raw=_exact(raw), centered=_exact(centered), n_rows=count,
                row_sum=(float(np.linalg.norm(row_sum)),) * 2,
            )
            for raw, centered, (count, row_sum) in zip(
                self._raw_values, self._centered_values, parts, strict=True
            )
        ]  # fmt: skip


def _each_left_out(accumulators: Sequence[Accumulator]) -> Iterator[Accumulator]:
    """Yield, for each accumulator, the merge of all others: of a prefix and a suffix, so nothing is subtracted."""
    suffixes: list[Accumulator] = [accumulators[-1]]  # each one longer than the one before
    for one in reversed(accumulators[1:-1]):
        suffixes.append(one.merge(suffixes[-1]))
    yield suffixes.pop()
    prefix = accumulators[0]
    for one in accumulators[1:-1]:
        yield prefix.merge(suffixes.pop())
        prefix = prefix.merge(one)
    yield prefix


def _halves(replicates: Sequence[Accumulator]) -> tuple[Sequence[Accumulator], Sequence[Accumulator]]:
    """Return the first half of the replicates and the second."""
    middle = len(replicates) // 2
    return replicates[:middle], replicates[middle:]


def _exact(values: FloatArray) -> SingularValues:
    return SingularValues(values, ConsistentSet(values, values))
