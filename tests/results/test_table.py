"""The table prints what the interval supports, and no more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.results.table import format_estimate


def estimate(value, lower, upper):
    return {"value": value, "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("value", "lower", "upper", "text"),
    [
        (303.36482369, 303.36480, 303.36485, ("303.36482", "± 3.0e-05")),
        (303.36482369, 303.36482369, 303.36482369, ("303.3648237", "")),
        (304.0, 250.0, 350.0, ("300", "± 5.8e+01")),
        (12.0, 2.16, 30.2, ("2.1 to 31", "")),
        (12.0, 0.0, 30.0, ("0 to 30", "")),
        (381, 381.0, 381.0, ("381", "")),
        (381, 380.0, 384.0, ("380 to 384", "")),
        (None, 6177180.3, "inf", (">= 6.17e+06", "")),
        ("inf", "inf", "inf", ("inf", "")),
        (None, None, None, ("-", "")),
        (0.0, 0.0, 5e-324, ("0", "")),
        (1.0, 1.0, 1.0 + 2.0**-52, ("1.000000000", "± 2.3e-16")),
        (1e-310, 1e-310, 1.1e-310, ("1e-310", "")),
        (0.0, -1e-9, 1e-9, ("-1e-09 to 1e-09", "")),
        (-0.0501, -0.0502, -0.0500, ("-0.0501", "± 1.1e-04")),
    ],
)
def test_numbers_are_shown_with_the_digits_that_hold(value, lower, upper, text):
    assert format_estimate(estimate(value, lower, upper)) == text


@given(st.floats(1e-9, 1e9), st.floats(1e-14, 0.4))
def test_the_printed_half_width_holds_the_interval(value, relative):
    lower, upper = value * (1 - relative), value * (1 + relative)
    printed, half_width = format_estimate(estimate(value, lower, upper))
    middle, half = float(printed), float(half_width.removeprefix("± "))
    slack = math.ulp(upper)
    assert middle - half <= lower + slack
    assert upper - slack <= middle + half
    assert half <= 20 * (upper - lower) + 1e-9 * value
