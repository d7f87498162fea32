"""The delete-group jackknife: bias and spread of a number from its replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtrit

from rankme_stream.spectra.estimates import Estimate


@dataclass(frozen=True)
class Spread:
    """How far a number of a sample is off: its bias, and its standard error, as if of infinitely many rows.

    ``left`` is what the correction by the bias leaves, to second order, and ``n_groups`` tells how it goes with the
    share that was read. ``noise`` is how many times the error of the arithmetic both may hold: 2 (B - 1) for R_n and
    the R_(-b), B/(B-2) (2 B + 2) more for what is left, which together are below 5 (B - 1).
    """

    bias: float
    left: float
    standard_error: float
    n_groups: int
    noise: float

    @property
    def degrees_of_freedom(self) -> int:
        """Of the standard error."""
        return self.n_groups - 1

    def of_rest(self, fraction: float) -> Spread:
        """Return those of an estimate for all rows when ``fraction`` of them were read."""
        rest = max(0.0, 1.0 - fraction)
        second = rest * (1.0 - fraction * (self.n_groups - 1) / self.n_groups)
        return replace(
            self, bias=rest * self.bias, left=second * self.left,
            standard_error=math.sqrt(rest) * self.standard_error, noise=rest * self.noise,
        )  # fmt: skip

    def of_more(self, times: float) -> Spread:
        """Return those of a number of so many times the rows."""
        return replace(
            self,
            bias=self.bias / times,
            left=self.left * ((2.0 - 1.0 / self.n_groups) / times - (1.0 - 1.0 / self.n_groups) / times**2),
            standard_error=self.standard_error / math.sqrt(times),
            noise=self.noise / times,
        )


def _bias(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Bias of the whole from the values without each part, whose shares of the rows are given."""
    terms = [(1.0 - share) * value for share, value in zip(shares, without, strict=True)]
    return math.fsum([*terms, -(len(without) - 1) * whole])


def standard_error(whole: float, without: Sequence[float], shares: Sequence[float]) -> float:
    """Return the standard error of the whole from the values without each part, whose shares are given."""
    ratios = [1.0 / share for share in shares]
    pseudo = [h * whole - (h - 1.0) * value for h, value in zip(ratios, without, strict=True)]
    mean = math.fsum(pseudo) / len(pseudo)
    return math.sqrt(
        math.fsum((one - mean) ** 2 / (h - 1.0) for one, h in zip(pseudo, ratios, strict=True)) / len(pseudo)
    )


def with_spread(estimate: Estimate, spread: Spread, *, confidence: float) -> Estimate:
    """Return an estimate for other rows than were read: corrected to second order, its interval widened by the error.

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
    first, second = -spread.bias, -spread.bias - spread.left  # corrections to first and to second order
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
