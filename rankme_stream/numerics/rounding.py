"""Rounding errors of sums of doubles: their unit, their bound, and a check of a trace."""

from __future__ import annotations

import math

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.dtypes import FloatArray

U, U32 = 2.0**-53, 2.0**-24  # unit roundoff of float64 and float32
SMALLEST = 2.0**-1074  # smallest double: most that one product loses to underflow
SOLVER_MARGIN = 8.0  # empirical, for eigenvalues and factorisations of n rows, in units of (n + 32) u of the largest


def gamma(n: int, unit_roundoff: float = U) -> float:
    """Return the relative error of a sum of n rounded operations in any order: n u / (1 - n u)."""
    return n * unit_roundoff / (1.0 - n * unit_roundoff)


def solver_margin(n: int) -> float:
    """Return the relative error allowed for an eigensolver or a factorisation of ``n`` rows: 8 (n + 32) u."""
    return SOLVER_MARGIN * (n + 32) * U


def check_trace(eigenvalues: FloatArray, trace: float, allowed: float) -> None:
    """Raise ``ArithmeticCheckError`` unless eigenvalues add up to the trace of their matrix."""
    total = math.fsum(eigenvalues.tolist())
    if not abs(total - trace) <= allowed:  # "not <=" also catches NaN
        raise ArithmeticCheckError(
            f"eigenvalues add up to {total!r}, the trace is {trace!r}: LAPACK or the machine is at fault"
        )
