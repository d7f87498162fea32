"""Quantiles of distributions; ``scipy.special``, a twentieth of the start of the command, is imported by the first."""

from __future__ import annotations


def student_quantile(degrees_of_freedom: int, confidence: float) -> float:
    """Return the magnitude that a variable of Student's distribution does not exceed, with a confidence."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1.0 + confidence) / 2.0))


def chi_square_quantile(degrees_of_freedom: int, probability: float) -> float:
    """Return the number below which a variable of the chi-square distribution is, with a probability."""
    from scipy.special import gammaincinv

    return 2.0 * float(gammaincinv(degrees_of_freedom / 2.0, probability))
