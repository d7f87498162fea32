"""Protocol of what a sample says about a number: how far it is from that of the rows that the sample stands for."""

from __future__ import annotations

from typing import Protocol

from rankme_stream.spectra.estimates import Estimate


class Spread(Protocol):
    """Bias and chance error of a sample's value, as an estimate for infinitely many rows."""

    @property
    def standard_error(self) -> float:
        """Standard error as an estimate for infinitely many rows, in the unit of the value."""
        ...

    def noise(self, fraction: float) -> float:
        """Return the factor by which the error of the arithmetic enters the correction, if ``fraction`` was read."""
        ...

    def widened(self, factor: float) -> Spread:
        """Return the same with a standard error ``factor`` times as large."""
        ...

    def for_more_rows(self, times: float) -> Spread:
        """Return the spread of a value that was computed from ``times`` as many rows."""
        ...

    def widen(self, estimate: Estimate, fraction: float, confidence: float) -> Estimate:
        """Return the estimate for all rows, of which ``fraction`` was read, from that for the rows read.

        Parameters
        ----------
        estimate
            Value of the rows read, with the interval of the arithmetic.
        fraction
            Share of the rows that was read; 0 for infinitely many.
        confidence
            Confidence of the sampling part; that of the result is less by what the arithmetic's interval lacks to 1.
        """
        ...


def widened_estimate(
    read: Estimate, value: float, ends: tuple[float, float] | None, *, standard_error: float, confidence: float
) -> Estimate:
    """Return an estimate for other rows than those read; ``ends`` of its interval are None where these had none."""
    details = {name: detail for name, detail in read.details.items() if name != "worst_case"}
    details |= {"sample": read.value, "standard_error": standard_error}
    if ends is None:
        return Estimate(value, details=details)
    of_both = None if read.confidence is None else confidence + read.confidence - 1.0
    return Estimate(value, *ends, of_both, (*read.covers, "sampling"), details=details)
