"""Delete-one jackknife: bias and standard error of a value from replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rankme_stream.numerics.quantiles import student_quantile
from rankme_stream.spectra.estimates import Estimate
from rankme_stream.spectra.spread import widened_estimate


@dataclass(frozen=True)
class JackknifeSpread:
    """Bias and standard error of a sample's value from its replicates, as an estimate for infinitely many rows.

    Attributes
    ----------
    bias
        Bias to first order.
    second_order_bias
        Bias that remains after correcting by ``bias``, to second order.
    n_replicates
        B, on which the second-order bias depends together with the share of the rows that was read.
    rounding
        Factor by which the error of the arithmetic may enter both biases: 2 (B - 1) times for R_n and the R_(-b),
        B/(B-2) (2 B + 2) times more for the second order; together below 5 (B - 1).
    """

    bias: float
    second_order_bias: float
    standard_error: float
    n_replicates: int
    rounding: float

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom of the standard error."""
        return self.n_replicates - 1

    def noise(self, fraction: float) -> float:
        """Return the factor by which the error of the arithmetic enters the correction, if ``fraction`` was read."""
        return max(0.0, 1.0 - fraction) * self.rounding

    def widened(self, factor: float) -> JackknifeSpread:
        """Return the same with a standard error ``factor`` times as large."""
        return replace(self, standard_error=factor * self.standard_error)

    def for_all_rows(self, fraction: float) -> JackknifeSpread:
        """Return the spread as an estimate for all rows, of which ``fraction`` was read."""
        rest = max(0.0, 1.0 - fraction)
        second = rest * (1.0 - fraction * (self.n_replicates - 1) / self.n_replicates)
        return replace(
            self, bias=rest * self.bias, second_order_bias=second * self.second_order_bias,
            standard_error=math.sqrt(rest) * self.standard_error, rounding=rest * self.rounding,
        )  # fmt: skip

    def for_more_rows(self, times: float) -> JackknifeSpread:
        """Return the spread of a value computed from ``times`` as many rows."""
        b = self.n_replicates
        return replace(
            self,
            bias=self.bias / times,
            second_order_bias=self.second_order_bias * ((2.0 - 1.0 / b) / times - (1.0 - 1.0 / b) / times**2),
            standard_error=self.standard_error / math.sqrt(times),
            rounding=self.rounding / times,
        )

    def widen(self, estimate: Estimate, fraction: float, confidence: float) -> Estimate:
        """Return the estimate for all rows (``Spread.widen``): bias corrected to second order, interval to match."""
        if estimate.value is None:
            return replace(estimate, lower=None, upper=None, confidence=None, covers=())
        spread, ends = self.for_all_rows(fraction), None
        half_width = student_quantile(self.degrees_of_freedom, confidence) * spread.standard_error
        first, second = -spread.bias, -spread.bias - spread.second_order_bias  # corrections to first and second order
        value, low, high = estimate.value + second, min(first, second), max(first, second)
        if estimate.lower is not None and estimate.upper is not None:
            half_width += spread.rounding * max(estimate.upper - estimate.value, estimate.value - estimate.lower)
            ends = estimate.lower + low - half_width, estimate.upper + high + half_width
        return widened_estimate(estimate, value, ends, standard_error=spread.standard_error, confidence=confidence)


def first_order_bias(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Return the bias of the whole from the values without each part; ``shares`` are the parts' shares of the rows."""
    terms = [(1.0 - share) * value for share, value in zip(shares, without, strict=True)]
    return math.fsum([*terms, -(len(without) - 1) * whole])


def pseudo_values(whole: float, without: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return the value that each part stands for, from the same arguments as `first_order_bias`.

    Their mean is the corrected value, and their variance over the number of parts that of the whole.
    """
    ratios = [1.0 / share for share in shares]
    return [h * whole - (h - 1.0) * value for h, value in zip(ratios, without, strict=True)]


def standard_error(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Return the standard error of the whole, from the same arguments as `first_order_bias`."""
    pseudo = pseudo_values(whole, without, shares)
    mean = math.fsum(pseudo) / len(pseudo)
    squares = [(one - mean) ** 2 / (1.0 / share - 1.0) for one, share in zip(pseudo, shares, strict=True)]
    return math.sqrt(math.fsum(squares) / len(pseudo))


def largest_deviation(values: Sequence[float]) -> float:
    """Return the largest distance from the mean in standard deviations, (B - 1)/sqrt(B) at most; 0 if all agree.

    Grubbs' statistic: one of 16 values alone gives 3.75, two alike 2.56 at most.

    References
    ----------
    F. E. Grubbs, Sample criteria for testing outlying observations, Ann. Math. Statist. 21 (1950).
    """
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return max(abs(value - mean) for value in values) / math.sqrt(variance) if variance > 0.0 else 0.0
