"""Singular values of the rows, raw and centred, with the set that holds the true ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.scaling import outward, outward_each
from rankme_stream.spectra.extrapolation import FoldedSketches

Evidence = Literal["certified", "measured", "empirical"]


class Tail(NamedTuple):
    """Bound ``norm`` on the Euclidean norm of the squares of all singular values past the first ``start``."""

    start: int
    norm: float


@dataclass(frozen=True)
class ConsistentSet:
    """Consistent set: the k-th true singular value lies between ``lower[k]`` and ``upper[k]``, both descending.

    ``energy``, where it says more than these ends, holds the least and the largest sum of all squares. ``tail`` bounds
    the fourth powers of some values, and is known only together with the energy. Both are of the values times
    2^``exponent``, as squares of tiny values underflow.
    """

    lower: FloatArray
    upper: FloatArray
    energy: tuple[float, float] | None = None
    tail: Tail | None = None
    exponent: int = 0
    extremes: dict[object, tuple[float, float]] = field(init=False, repr=False, compare=False, default_factory=dict)
    """Extremes found so far by ``intervals.entropy_rank``: several metrics ask for the same, which costs m^2 terms."""

    @classmethod
    def around(cls, values: FloatArray, error: float) -> ConsistentSet:
        """Return the set for singular values known to within ``error``, ends rounded outward."""
        return cls(np.maximum(_down(values - error), 0.0), _up(values + error))

    @classmethod
    def around_squares(cls, squares: FloatArray, error: float) -> ConsistentSet:
        """Return the set for singular values whose squares are known to within ``error``, ends rounded outward."""
        lower, upper = np.maximum(_down(squares - error), 0.0), np.maximum(_up(squares + error), 0.0)
        return cls(np.maximum(_down(np.sqrt(lower)), 0.0), _up(np.sqrt(upper)))

    def first(self, count: int) -> ConsistentSet:
        """Return the set of the largest ``count`` values."""
        energy = None
        if self.energy is not None:
            lower, upper = np.ldexp(self.lower, self.exponent), np.ldexp(self.upper, self.exponent)
            least = max(self.energy[0] - float((upper[count:] ** 2).sum()), float((lower[:count] ** 2).sum()))
            energy = (least, max(least, self.energy[1] - float((lower[count:] ** 2).sum())))
        tail = self.tail if self.tail is not None and self.tail.start < count else None
        return replace(self, lower=self.lower[:count], upper=self.upper[:count], energy=energy, tail=tail)

    def with_zeros(self, n_zeros: int) -> ConsistentSet:
        """Return the set in which the last ``n_zeros`` values are exactly zero."""
        if n_zeros <= 0:
            return self
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[-n_zeros:] = upper[-n_zeros:] = 0.0
        return replace(self, lower=lower, upper=upper)

    def over(self, exponent: int) -> ConsistentSet:
        """Return the set of the values divided by 2^``exponent``, ends rounded outward."""
        lower, upper = outward_each(self.lower, self.upper, exponent)
        return replace(self, lower=lower, upper=upper, exponent=self.exponent + exponent)

    def in_their_unit(self) -> ConsistentSet:
        """Return the set with energy and tail in the unit of the values, where tiny ones underflow, outward."""
        energy, tail = self.energy, self.tail
        if energy is not None:
            energy = outward(*energy, 2 * self.exponent)
        if tail is not None:
            tail = Tail(tail.start, outward(0.0, tail.norm, 2 * self.exponent)[1])
        return ConsistentSet(self.lower, self.upper, energy, tail)


@dataclass(frozen=True)
class SingularValues:
    """Computed singular values and the sets that hold the true ones.

    Attributes
    ----------
    values
        Shape ``(m,)``, descending, unit of the embeddings; inside both sets.
    consistent
        Set that intervals are taken over.
    worst_case
        Set proved by a worst-case theorem where ``consistent`` is narrower and rests on experience; otherwise None.
    folded
        Foldings of a row sketch, from which the error of its ``values`` is extrapolated; otherwise None.
    """

    values: FloatArray
    consistent: ConsistentSet
    worst_case: ConsistentSet | None = None
    folded: FoldedSketches | None = None

    @classmethod
    def of_squares(cls, squares: FloatArray, error: float, zeros: int) -> SingularValues:
        """Return the roots of squares known to within ``error``; the last ``zeros`` values are zero exactly."""
        consistent = ConsistentSet.around_squares(squares, error * (1.0 + 2.0**-40)).with_zeros(zeros)
        return cls(np.clip(np.sqrt(np.maximum(squares, 0.0)), consistent.lower, consistent.upper), consistent)

    def over(self, exponent: int) -> SingularValues:
        """Return the values divided by 2^``exponent``."""
        consistent = self.consistent.over(exponent)
        values = np.clip(np.ldexp(self.values, -exponent), consistent.lower, consistent.upper)
        worst_case = None if self.worst_case is None else self.worst_case.over(exponent)
        return SingularValues(values, consistent, worst_case, self.folded and self.folded.over(exponent))


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the rows read, with what is needed to interpret them.

    Attributes
    ----------
    raw, centered
        Singular values of the rows, and of the rows less their mean; m = min(n_rows, n_features) values each.
    n_rows, n_features
        Shape of the matrix; rows left out are not counted.
    unit_roundoff
        Unit round-off of the *stored* type: relative error made when the embeddings were written.
    row_sum
        Lower and upper bound on the Euclidean norm of the sum of all rows.
    evidence
        Evidence for the consistent sets: ``certified`` (a worst-case bound on the sums; the eigensolver's margin is
        empirical for all three), ``measured`` (the error was measured with random probes) or ``empirical``.
    confidence
        Probability that the consistent sets hold the truth; None where no theorem gives one.
    grounds
        Evidence and confidence in a sentence.
    covers
        Errors that the consistent sets allow for.
    """

    raw: SingularValues
    centered: SingularValues
    n_rows: int
    n_features: int
    unit_roundoff: float
    row_sum: tuple[float, float]
    evidence: Evidence
    confidence: float | None
    grounds: str
    covers: tuple[str, ...] = ("arithmetic",)

    def over(self, exponent: int) -> Spectrum:
        """Return the spectrum of the rows divided by 2^``exponent``; the same object for 0."""
        if exponent == 0:
            return self
        row_sum = outward(*self.row_sum, exponent)
        return replace(self, raw=self.raw.over(exponent), centered=self.centered.over(exponent), row_sum=row_sum)

    @property
    def singular_values(self) -> FloatArray:
        """The raw values, shape ``(m,)``, descending."""
        return self.raw.values

    @property
    def centered_singular_values(self) -> FloatArray:
        """The centred values, shape ``(m,)``, descending."""
        return self.centered.values


def _down(values: FloatArray) -> FloatArray:
    rounded: FloatArray = np.nextafter(values, -np.inf)
    return rounded


def _up(values: FloatArray) -> FloatArray:
    rounded: FloatArray = np.nextafter(values, np.inf)
    return rounded
