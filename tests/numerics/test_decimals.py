"""Decimal text is rounded outward, in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.numerics.decimals import between, error_text, rounded_down, rounded_up

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("end", "digits", "down", "up"),
    [
        (0.1, 2, "0.1", "0.11"),  # the double is a little larger
        (0.3, 2, "0.29", "0.3"),  # and here a little smaller
        (5236.0, 3, "5230", "5240"),
        (99.96, 3, "99.9", "100"),
        (123456.0, 2, "1.2e+05", "1.3e+05"),
        (-2.5e-7, 1, "-3e-07", "-2e-07"),
        (5e-324, 2, "4.9e-324", "5e-324"),
        (math.inf, 3, "inf", "inf"),
        (-0.0, 3, "0", "0"),
    ],
)
def test_both_ways(end, digits, down, up):
    assert (rounded_down(end, digits), rounded_up(end, digits)) == (down, up)


@pytest.mark.parametrize(
    ("error", "text"), [(1e-9, "1.1e-09"), (0.125, "1.3e-01"), (9.99, "1.0e+01"), (5e-324, "5.0e-324")]
)
def test_an_error_is_rounded_up_to_two_digits(error, text):
    assert error_text(error) == text


@given(FINITE, st.integers(1, 12))
def test_ends_are_rounded_outward(end, digits):
    assert Fraction(rounded_down(end, digits)) <= Fraction(end) <= Fraction(rounded_up(end, digits))
    assert abs(Fraction(rounded_up(end, digits)) - Fraction(rounded_down(end, digits))) <= Fraction(10) ** (
        1 - digits
    ) * abs(Fraction(end))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_ends_with_so_many_decimals_are_rounded_outward(one, two):
    lower, upper = sorted([one, two])
    low, high = between(lower, upper, 3)[1:-1].split(", ")
    assert Fraction(low) <= Fraction(lower) and Fraction(upper) <= Fraction(high)
    assert "-0.000" not in (low if lower == 0 else high)
