"""Powers of two by which tiny rows are multiplied before they are squared, and singular values divided afterwards."""

from __future__ import annotations

import math

import numpy as np

from rankme_stream.numerics.dtypes import FloatArray

_STEP = 480  # rows are brought to magnitudes of 2^-240 to 2^240, whose fourth powers are within the doubles
EXPONENTS = (0, _STEP, 2 * _STEP)  # the least double is 2^-1074


def exponent_of(magnitude: float) -> int:
    """Return the multiple of 480 that brings values of up to ``magnitude`` above 2^-240; 0 if they are above it."""
    return _STEP * max(0, -round(math.frexp(magnitude)[1] / _STEP))


def scaled(values: FloatArray, exponent: int) -> FloatArray:
    """Return values times 2^``exponent``; the same array for 0."""
    return np.ldexp(values, exponent) if exponent else values


def outward(lower: float, upper: float, exponent: int) -> tuple[float, float]:
    """Return the ends of an interval, not negative, divided by 2^``exponent``; one that becomes subnormal moves out."""
    low, high = outward_each(np.array([lower]), np.array([upper]), exponent)
    return float(low[0]), float(high[0])


def outward_each(lower: FloatArray, upper: FloatArray, exponent: int) -> tuple[FloatArray, FloatArray]:
    """Return the ends of several intervals as ``outward`` does."""
    low, high = np.ldexp(lower, -exponent), np.ldexp(upper, -exponent)
    low = np.where(np.ldexp(low, exponent) > lower, np.nextafter(low, 0.0), low)
    return low, np.where(np.ldexp(high, exponent) < upper, np.nextafter(high, np.inf), high)
