"""The table prints what the interval supports, and no more."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.results.measurement import estimate_to_dict
from rankme_stream.results.table import format_estimate
from rankme_stream.spectra.estimates import Estimate


def estimate(value, lower, upper):
    return {"value": value, "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("value", "lower", "upper", "text"),
    [
        (303.36482369, 303.36480, 303.36485, ("303.36482", "± 3.0e-05")),
        (303.36482369, 303.36482369, 303.36482369, ("303.3648237", "± 1.1e-08")),
        (0.0, 0.0, 0.0, ("0", "")),
        (2.5, 2.5, 2.5, ("2.5", "")),
        (304.0, 250.0, 350.0, ("300", "± 5.0e+01")),
        (12.0, 2.16, 30.2, ("2.1 to 31", "")),
        (12.0, 0.0, 30.0, ("0 to 30", "")),
        (381, 381.0, 381.0, ("381", "")),
        (381, 380.0, 384.0, ("380 to 384", "")),
        (None, 6177180.3, "inf", (">= 6.17e+06", "")),
        ("inf", "inf", "inf", ("inf", "")),
        (None, None, None, ("-", "")),
        (0.0, 0.0, 5e-324, ("0 to 5e-324", "")),
        (1.0, 1.0, 1.0 + 2.0**-52, ("1.000000000", "± 2.3e-16")),
        (1e-310, 1e-310, 1.1e-310, ("1.00e-310", "± 1.0e-311")),
        (0.0, -1e-9, 1e-9, ("-1.1e-09 to 1.1e-09", "")),
        (-0.0501, -0.0502, -0.0500, ("-0.0501", "± 1.1e-04")),
    ],
)
def test_numbers_are_shown_with_the_digits_that_hold(value, lower, upper, text):
    assert format_estimate(estimate(value, lower, upper)) == text


@given(st.floats(1e-9, 1e9), st.floats(1e-14, 0.4))
def test_the_printed_half_width_holds_the_interval(value, relative):
    lower, upper = value * (1 - relative), value * (1 + relative)
    printed, half_width = format_estimate(estimate(value, lower, upper))
    half = float(half_width.removeprefix("± "))
    assert holds(printed, half_width, lower, upper)
    assert half <= 20 * (upper - lower) + 1e-9 * value


def holds(printed: str, error: str, lower: float, upper: float) -> bool:
    """Return whether the printed interval contains the interval, in exact arithmetic."""
    low, _, high = printed.partition(" to ")
    off = Fraction(error.removeprefix("± ")) if error else 0
    if low.startswith(">= "):
        return Fraction(low[3:]) <= Fraction(lower)
    return Fraction(low) - off <= Fraction(lower) and Fraction(upper) <= Fraction(high or low) + off


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE, FINITE, FINITE)
def test_the_printed_interval_contains_the_stored_one(one, two, three):
    """Doubles of any size and sign."""
    lower, value, upper = sorted([one, two, three])
    assert holds(*format_estimate(estimate(value, lower, upper)), lower, upper)
    assert holds(*format_estimate(estimate(None, lower, "inf")), lower, math.inf)


@given(FINITE, st.integers(0, 40), st.integers(0, 40))
def test_the_printed_interval_contains_a_narrow_one(value, below, above):
    """A few units in the last place."""
    lower, upper = value - below * math.ulp(value), value + above * math.ulp(value)
    if math.isfinite(lower) and math.isfinite(upper):
        assert holds(*format_estimate(estimate(value, lower, upper)), lower, upper)


@given(FINITE)
def test_json_returns_the_same_double(value):
    plain = json.loads(json.dumps(estimate_to_dict(Estimate(value, value, value))))
    assert [plain[key].hex() for key in ("value", "lower", "upper")] == [value.hex()] * 3
