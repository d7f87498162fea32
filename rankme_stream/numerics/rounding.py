"""Rounding errors of sums of doubles: their unit, their bound, and a check of a trace."""

from __future__ import annotations

import math

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.dtypes import FloatArray

U = 2.0**-53
SMALLEST = 2.0**-1074


def gamma(n: int, unit_roundoff: float = U) -> float:
    """Relative error of a sum that takes n rounded operations in any order: n u / (1 - n u)."""
    return n * unit_roundoff / (1.0 - n * unit_roundoff)


def check_trace(eigenvalues: FloatArray, trace: float, allowed: float) -> None:
    """Raise ``ArithmeticCheckError`` unless eigenvalues add up to the trace of their matrix."""
    total = math.fsum(eigenvalues.tolist())
    if not abs(total - trace) <= allowed:  # nor is it a number
        raise ArithmeticCheckError(
            f"eigenvalues add up to {total!r}, the trace is {trace!r}: LAPACK or the machine is at fault"
        )
