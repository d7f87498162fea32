"""Value and interval for the population of a sample of few rows: 1.25 rows a feature and more.

Two estimates fail on different rows. Held-out units (`held_out_units`) need no model of lengths or of copies; they are
off where directions and lengths depend on each other, as in sorted clusters. The jackknife of the contour for rows of
similar length is right to first order in 1/n whatever the rows are; its second order is large where lengths vary much.
The value is that of the held-out units; the interval goes from the smaller to the larger of both and some standard
errors beyond. All numbers are logarithms: of RankMe, of another effective rank.

A sample without the long rows of its population may have a low value and a small error. So the interval is longer on
the side to which the influences of the units are skewed (N. J. Johnson, J. Am. Stat. Assoc. 73, 1978), and nothing is
stated where that is the upper side and the tail of the leverages so heavy that they have no variance. Where long rows
lower the value, as those of an elliptical population do, a heavy tail does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.quantiles import student_quantile
from rankme_stream.spectra.contour import (
    Contour,
    Functional,
    NoEstimateError,
    matched_rows,
    of_equal_lengths,
    of_given_lengths,
)
from rankme_stream.spectra.copies import Copies, find_copies
from rankme_stream.spectra.held_out_units import HeldOut, IntArray, RotatedRows, held_out_units
from rankme_stream.spectra.influence import Influences
from rankme_stream.spectra.tail_index import hill

LEAST_UNITS = 32
ROWS_IN_EFFECT = 1.15  # per feature, of Gaussian rows and of independent rows
MOST_COPIES_NOT_COMPARED = 0.02  # of the rows: copies among rows that were not kept
LEAST_TAIL_INDEX = 2.0  # of leverages: below, they have no variance
_LENGTH_BINS = 64
# The skewness of n numbers is sqrt(n) at most, that of numbers with a heavy tail is larger. Chosen by simulation of
# rows about a mean far larger than their spread, with lengths of Student-3 to Student-8.
_SKEWNESS_MISSED = 2.0


@dataclass(frozen=True)
class SampledRows:
    """Rows of a sample and their Gram: of the rows, of the rows less their mean, of unit rows, or of leading features.

    Attributes
    ----------
    values, vectors
        Eigenvalues of the Gram, ascending, ``(D,)``, and its eigenvectors in columns, ``(D, D)``; any unit.
    n_rows
        n, rows in the Gram; one less, if it is that of the rows less their mean.
    without
        Eigenvalues of the Gram without each of B replicates, in the same unit.
    rows_of
        Rows of each replicate.
    rows
        Shape ``(r, D)``, float64, in the unit of the Gram: rows of whole units, all or a random part, as they enter it.
    unit, replicate
        Shape ``(r,)``: number of the unit and of the replicate of each.
    independent_rows
        n/deff: rows of the same lengths that would leave as much noise in the Gram, if they were independent.
    """

    values: FloatArray
    vectors: FloatArray
    n_rows: int
    without: Sequence[FloatArray]
    rows_of: Sequence[int]
    rows: FloatArray
    unit: IntArray
    replicate: IntArray
    independent_rows: float


@dataclass(frozen=True)
class PopulationEstimate:
    """A value for the population, or for all rows of a dump; logarithms throughout.

    Attributes
    ----------
    plain
        Value of the rows read as they are.
    value
        Value by held-out units.
    jackknife
        Value by the jackknife of the contour for rows of similar length.
    standard_error
        Standard error of ``value``.
    degrees_of_freedom
        B - 1.
    largest_deviation
        Largest distance of a replicate's pseudo-value from their mean, in standard deviations; 3.75 at most for B = 16.
    skewness
        Skewness of the error, from -1 to 1.
    """

    plain: float
    value: float
    jackknife: float
    standard_error: float
    degrees_of_freedom: int
    largest_deviation: float
    skewness: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the ends: both estimates, quantile times standard error beyond, and more on the skewed side."""
        quantile = student_quantile(self.degrees_of_freedom, confidence)
        margin = quantile * self.standard_error
        skewed = _SKEWNESS_MISSED * self.skewness * (1.0 + 2.0 * quantile**2) / 6.0 * self.standard_error
        lower = min(self.value, self.jackknife) - margin + min(0.0, skewed)
        return lower, max(self.value, self.jackknife) + margin + max(0.0, skewed)


@dataclass(frozen=True)
class Population:
    """What a sample of few rows says of its population: contours from which every metric is computed.

    Attributes
    ----------
    sampled
        Rows it was measured on.
    held_out
        Contour of the held-out units, their leverages, and n_w, ``held_out.equivalent_rows``.
    copies
        Copies that were found.
    influences
        What each unit adds to the Gram.
    tail_index
        Index of the tail of the largest leverage of each unit.
    """

    sampled: SampledRows
    held_out: HeldOut
    copies: Copies
    influences: Influences
    tail_index: float

    @classmethod
    def measure(cls, sampled: SampledRows) -> Population:
        """Return what a sample says of its population.

        Raises
        ------
        NoEstimateError
            If it says nothing: fewer than 1.25 rows a feature; a unit without which the rows do not span; too many
            copies; an integral that does not converge.

        Notes
        -----
        O(r D^2 + r^2 D + p r u D) for units of u rows and p of 16 to 40 points.
        """
        rotated = RotatedRows.rotate(sampled.values, sampled.vectors, sampled.n_rows, sampled.rows)
        copies = find_copies(rotated, sampled.unit)
        held_out = held_out_units(rotated, copies.units)
        with np.errstate(divide="ignore"):  # rows of zeros have none
            # those of rows near zero may be rounded to below 0
            tail = hill(np.log([max(0.0, held_out.leverages[unit.own].max()) for unit in copies.units]))
        influences = Influences.of_units(rotated, held_out.leverages, copies.units)
        return cls(sampled, held_out, copies, influences, tail.index)

    @property
    def reason_withheld(self) -> str | None:
        """Why nothing is stated although there is an estimate; None if it is stated."""
        features = self.held_out.contour.n_values
        if len(self.copies.units) < LEAST_UNITS:
            return f"there are fewer than {LEAST_UNITS} units of rows"
        rows = min(self.held_out.equivalent_rows, self.sampled.independent_rows)
        if rows < ROWS_IN_EFFECT * features:
            return (
                f"the rows count as {rows:,.0f} independent ones, and {ROWS_IN_EFFECT * features:,.0f} are needed: "
                "they are copies of one another, sorted, or of very uneven length"
            )
        share_kept = len(self.sampled.rows) / self.sampled.n_rows
        if share_kept < 1.0 and self.copies.close_pairs_per_row / share_kept > MOST_COPIES_NOT_COMPARED:
            return (
                f"the rows have copies among themselves, and only {len(self.sampled.rows):,} of them were compared; "
                "leave copies out"
            )
        return None

    def estimate(self, functional: Functional, *, fraction: float = 0.0) -> PopulationEstimate:
        """Return the estimate of a functional, such as `contour.log_rankme`.

        Parameters
        ----------
        fraction
            Share of all rows that was read, if the estimate is for all rows of a dump; 0 for the population.

        Raises
        ------
        NoEstimateError
            If rows that the sample lacks may raise the number by more than those read show, or a contour is none.
        """
        skewness = self.influences.skewness(functional)
        if skewness > 0.0 and self.tail_index < LEAST_TAIL_INDEX:
            raise NoEstimateError(
                f"the more a row differs from all others, the more it raises this number, and such rows have too heavy "
                f"a tail (index {self.tail_index:.1f}, an interval needs {LEAST_TAIL_INDEX:g}): a sample may lack them"
            )
        rest = 1.0 - fraction
        n_rows, values = self.sampled.n_rows, self.sampled.values
        plain = functional(of_equal_lengths(values, n_rows, n_rows))
        population = functional(self.held_out.contour)
        value = population
        if fraction > 0.0:
            matched = matched_rows(values, n_rows, functional, population)
            value = functional(of_equal_lengths(values, matched, matched / fraction))
        whole, without = functional(self._similar[0]), np.array([functional(one) for one in self._similar[1:]])
        b = len(without)
        pseudo = b * whole - (b - 1) * without
        deviation, scale = float(np.abs(pseudo - pseudo.mean()).max()), float(pseudo.std(ddof=1))
        # Each estimate has its own error: that of the jackknife is the larger where a few rows are unlike all others.
        error = max(self._error(functional, population), scale / math.sqrt(b))
        return PopulationEstimate(
            plain=plain,
            value=value,
            jackknife=plain + rest * (float(pseudo.mean()) - plain),
            standard_error=math.sqrt(rest * (1.0 + 2.0 * self.copies.pairs_per_row)) * error,
            degrees_of_freedom=b - 1,
            largest_deviation=deviation / scale if scale > 0.0 else 0.0,
            skewness=skewness,
        )

    @cached_property
    def _similar(self) -> list[Contour]:
        """Contours for rows of similar length: of all rows, and of those without each replicate."""
        n_rows = self.sampled.n_rows
        return [of_equal_lengths(self.sampled.values, n_rows)] + [
            of_equal_lengths(values, n_rows - left_out)
            for values, left_out in zip(self.sampled.without, self.sampled.rows_of, strict=True)
        ]

    @cached_property
    def _by_leverage(self) -> list[Contour] | None:
        """Contours without each replicate, with leverages as lengths; None if one of them is none."""
        try:
            return [
                of_given_lengths(
                    values, self.sampled.n_rows - left_out, *_bins(self.held_out.leverages[self.sampled.replicate != b])
                )
                for b, (values, left_out) in enumerate(zip(self.sampled.without, self.sampled.rows_of, strict=True))
            ]
        except NoEstimateError:
            return None

    def _error(self, functional: Functional, value: float) -> float:
        """Return the delete-group error; by rows of similar length, as many as give ``value``, if need be."""
        if self._by_leverage is not None:
            return _delete_group_error([functional(one) for one in self._by_leverage])
        share = matched_rows(self.sampled.values, self.sampled.n_rows, functional, value) / self.sampled.n_rows
        parts = zip(self.sampled.without, self.sampled.rows_of, strict=True)
        try:
            return _delete_group_error(
                [functional(of_equal_lengths(one, share * (self.sampled.n_rows - out))) for one, out in parts]
            )
        except NoEstimateError:
            return 0.0  # that of the jackknife is left


def _bins(leverages: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return means of equally many leverages each, ascending, and how many; quantiles would lose the tail."""
    bins = np.array_split(np.sort(leverages), min(_LENGTH_BINS, leverages.size))
    return np.array([one.mean() for one in bins]), np.array([float(one.size) for one in bins])


def _delete_group_error(values: Sequence[float]) -> float:
    b = len(values)
    return math.sqrt((b - 1) / b * float(np.sum((np.array(values) - np.mean(values)) ** 2)))
