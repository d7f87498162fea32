"""Delete-one jackknife: bias and standard error of a value from replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rankme_stream.numerics.quantiles import student_quantile
from rankme_stream.spectra.estimates import Estimate


@dataclass(frozen=True)
class Spread:
    """Bias and standard error of a sample's value, as an estimate for infinitely many rows.

    Attributes
    ----------
    bias
        Bias to first order.
    second_order_bias
        Bias that remains after correcting by ``bias``, to second order.
    n_replicates
        B, on which the second-order bias depends together with the share of the rows that was read.
    noise
        Factor by which the error of the arithmetic may enter both biases: 2 (B - 1) times for R_n and the R_(-b),
        B/(B-2) (2 B + 2) times more for the second order; together below 5 (B - 1).
    """

    bias: float
    second_order_bias: float
    standard_error: float
    n_replicates: int
    noise: float

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom of the standard error."""
        return self.n_replicates - 1

    def for_all_rows(self, fraction: float) -> Spread:
        """Return the spread as an estimate for all rows, of which ``fraction`` was read."""
        rest = max(0.0, 1.0 - fraction)
        second = rest * (1.0 - fraction * (self.n_replicates - 1) / self.n_replicates)
        return replace(
            self, bias=rest * self.bias, second_order_bias=second * self.second_order_bias,
            standard_error=math.sqrt(rest) * self.standard_error, noise=rest * self.noise,
        )  # fmt: skip

    def for_more_rows(self, times: float) -> Spread:
        """Return the spread of a value computed from ``times`` as many rows."""
        b = self.n_replicates
        return replace(
            self,
            bias=self.bias / times,
            second_order_bias=self.second_order_bias * ((2.0 - 1.0 / b) / times - (1.0 - 1.0 / b) / times**2),
            standard_error=self.standard_error / math.sqrt(times),
            noise=self.noise / times,
        )


def first_order_bias(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Return the bias of the whole from the values without each part; ``shares`` are the parts' shares of the rows."""
    terms = [(1.0 - share) * value for share, value in zip(shares, without, strict=True)]
    return math.fsum([*terms, -(len(without) - 1) * whole])


def standard_error(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Return the standard error of the whole, from the same arguments as `first_order_bias`."""
    ratios = [1.0 / share for share in shares]
    pseudo = [h * whole - (h - 1.0) * value for h, value in zip(ratios, without, strict=True)]
    mean = math.fsum(pseudo) / len(pseudo)
    return math.sqrt(
        math.fsum((one - mean) ** 2 / (h - 1.0) for one, h in zip(pseudo, ratios, strict=True)) / len(pseudo)
    )


def with_spread(estimate: Estimate, spread: Spread, *, confidence: float) -> Estimate:
    """Return an estimate for more rows than were read: bias corrected to second order, interval widened to match.

    Parameters
    ----------
    estimate
        Estimate for the rows read, with the interval of the arithmetic.
    spread
        Bias and standard error of that value as an estimate for the other rows.
    confidence
        Confidence of the sampling part; that of the result is less by what the arithmetic's interval lacks to 1.
    """
    if estimate.value is None:
        return replace(estimate, lower=None, upper=None, confidence=None, covers=())
    details = {name: detail for name, detail in estimate.details.items() if name != "worst_case"}
    details |= {"sample": estimate.value, "standard_error": spread.standard_error}
    half_width = student_quantile(spread.degrees_of_freedom, confidence) * spread.standard_error
    first, second = -spread.bias, -spread.bias - spread.second_order_bias  # corrections to first and second order
    value, low, high = estimate.value + second, min(first, second), max(first, second)
    if estimate.lower is None or estimate.upper is None:
        return Estimate(value, details=details)
    half_width += spread.noise * max(estimate.upper - estimate.value, estimate.value - estimate.lower)
    return Estimate(
        value,
        estimate.lower + low - half_width,
        estimate.upper + high + half_width,
        None if estimate.confidence is None else confidence + estimate.confidence - 1.0,
        (*estimate.covers, "sampling"),
        details=details,
    )
