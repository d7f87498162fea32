"""What few rows a feature say of a metric of their population, as `Spread`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from rankme_stream.spectra.contour import Contour, nonzero_eigenvalues
from rankme_stream.spectra.contour_sums import ContourSum
from rankme_stream.spectra.estimates import Estimate
from rankme_stream.spectra.influence import plain
from rankme_stream.spectra.population import Population, PopulationEstimate
from rankme_stream.spectra.spread import widened_estimate


@dataclass(frozen=True)
class ContourSpread:
    """`Spread` of a metric by random-matrix theory.

    Attributes
    ----------
    population
        What the rows say of their population.
    metric
        The metric in the form that a contour gives.
    n_features
        Width D of the rows, features that are zero throughout included.
    factor
        Factor by which the standard error is larger.
    """

    population: Population
    metric: ContourSum
    n_features: int
    factor: float = 1.0

    @cached_property
    def estimate(self) -> PopulationEstimate:
        """Estimate for infinitely many rows.

        Raises
        ------
        NoEstimateError
            If the rows give none.
        """
        return self.population.estimate(self._logarithm)

    def _logarithm(self, contour: Contour) -> float:
        return self.metric.logarithm(contour, self.n_features - contour.n_values)

    def _value(self, logarithm: float) -> float:
        return self.metric.value(logarithm, self.n_features)

    @property
    def standard_error(self) -> float:
        """Standard error as an estimate for infinitely many rows, in the unit of the value."""
        return self._error(self.estimate.value, self.factor * self.estimate.standard_error)

    def _error(self, logarithm: float, error: float) -> float:
        return (self._value(logarithm + error) - self._value(logarithm - error)) / 2.0

    def noise(self, fraction: float) -> float:
        """Return the factor by which the error of the arithmetic enters the correction, if ``fraction`` was read.

        That of the jackknife: values of all rows but one replicate enter B - 1 times, and so do those of the whole.
        """
        return max(0.0, 1.0 - fraction) * 5.0 * self.estimate.degrees_of_freedom

    def widened(self, factor: float) -> ContourSpread:
        """Return the same with a standard error ``factor`` times as large."""
        return replace(self, factor=factor * self.factor)

    def for_more_rows(self, times: float) -> ContourSpread:
        """Return the same: the value rests on the rows of the sample alone."""
        return self

    def widen(self, estimate: Estimate, fraction: float, confidence: float) -> Estimate:
        """Return the estimate for all rows, of which ``fraction`` was read, or for the population, for 0.

        Parameters
        ----------
        estimate
            Value of the rows read, with the interval of the arithmetic.
        confidence
            Confidence of the sampling part; that of the result is less by what the arithmetic's interval lacks to 1.
        """
        if estimate.value is None:
            return replace(estimate, lower=None, upper=None, confidence=None, covers=())
        found = self.estimate if fraction == 0.0 else self.population.estimate(self._logarithm, fraction=fraction)
        found = replace(found, standard_error=self.factor * found.standard_error)
        low, high = found.interval(confidence)
        value, lower, upper = map(self._value, (found.value, low - self._left_out, high + self._left_out))
        error, ends = self._error(found.value, found.standard_error), None
        if estimate.lower is not None and estimate.upper is not None:
            half_width = max(estimate.upper - estimate.value, estimate.value - estimate.lower)
            rounding = (1.0 + self.noise(fraction)) * half_width
            ends = lower - rounding, upper + rounding
        return widened_estimate(estimate, value, ends, standard_error=error, confidence=confidence)

    @cached_property
    def _left_out(self) -> float:
        """What the eigenvalues that contours leave out as zeros add to the value of the rows read."""
        values = self.population.sampled.values
        values = values[values > 0.0]
        kept = nonzero_eigenvalues(values)
        if kept.size == values.size:
            return 0.0
        return abs(self._logarithm(plain(values)) - self._logarithm(plain(kept)))
