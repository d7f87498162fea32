"""Doubles as decimal text, in exact arithmetic, so that what is printed holds what is stored."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

_EXACT = Context(prec=1500)  # more digits than the sum of any two doubles has
_SPELLED_OUT = 2  # zeros that a rounded number may end with; more are written as a power of ten
_SMALLEST_FIXED = -15  # power of ten below which a number with its error is written as a power of ten


def rounded_down(end: float, digits: int) -> str:
    """Return a lower end to that many significant digits; the text is no larger than the end."""
    return _text(end, digits, ROUND_FLOOR)


def rounded_up(end: float, digits: int) -> str:
    """Return an upper end to that many significant digits; the text is no smaller than the end."""
    return _text(end, digits, ROUND_CEILING)


def between(lower: float, upper: float, decimals: int) -> str:
    """Return ``[lower, upper]`` with that many digits after the point, ends rounded outward."""
    unit = Decimal(1).scaleb(-decimals)
    low = Decimal(lower).quantize(unit, ROUND_FLOOR, _EXACT)
    high = Decimal(upper).quantize(unit, ROUND_CEILING, _EXACT)
    return f"[{_EXACT.plus(low):f}, {_EXACT.plus(high):f}]"


def with_error(value: float, lower: float, upper: float, digits: int) -> tuple[str, str]:
    """Return a value with the digits that its interval supports, and ``± error``, which together hold the interval.

    ``value`` is not zero. It is written with ``digits`` significant digits at most; the error is left out where the
    interval is the number printed.
    """
    exact, least, most = Decimal(value), Decimal(lower), Decimal(upper)
    error, decimals = _largest_distance(exact, least, most), digits - 1 - exact.adjusted()
    if error:
        decimals = min(decimals, -error.adjusted())
    printed = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN, _EXACT)
    error = _largest_distance(printed, least, most)
    if not error:
        return f"{value:.{digits}g}", ""
    text = f"{printed:.{max(0, decimals)}f}" if printed.adjusted() > _SMALLEST_FIXED else f"{printed:e}"
    return text, f"± {error_text(error)}"


def error_text(error: float | Decimal) -> str:
    """Return an error, not zero, to two digits as a power of ten; the text is no smaller than the error."""
    return _power_of_ten(_rounded(Decimal(error), 2, ROUND_CEILING), 1)


def _largest_distance(value: Decimal, lower: Decimal, upper: Decimal) -> Decimal:
    return max(_EXACT.subtract(upper, value), _EXACT.subtract(value, lower))


def _rounded(number: Decimal, digits: int, rounding: str) -> Decimal:
    return number.quantize(Decimal(1).scaleb(number.adjusted() - digits + 1), rounding, _EXACT)


def _text(end: float, digits: int, rounding: str) -> str:
    if not math.isfinite(end) or end == 0.0:
        return f"{end + 0.0:g}"
    rounded = _EXACT.normalize(_rounded(Decimal(end), digits, rounding))
    is_fixed = -5 < rounded.adjusted() < digits + _SPELLED_OUT
    return f"{rounded:f}" if is_fixed else _power_of_ten(rounded, len(rounded.as_tuple().digits) - 1)


def _power_of_ten(number: Decimal, decimals: int) -> str:
    power = number.adjusted()
    return f"{number.scaleb(-power, _EXACT):.{decimals}f}e{power:+03d}"
