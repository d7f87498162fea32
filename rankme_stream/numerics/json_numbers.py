"""JSON from files of others: every number in it is finite, and whole numbers have a limited number of digits."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_SHOWN_DIGITS = 20


def read(text: str | bytes, most_digits: int) -> Any:
    """Return the value of a JSON document.

    Parameters
    ----------
    most_digits
        Most digits of a whole number, which Python would otherwise read in quadratic time, or refuse.

    Raises
    ------
    ValueError
        If it is no JSON, or holds NaN, infinity, a number beyond doubles or one of more digits. It is a
        ``json.JSONDecodeError`` where the text is no JSON at all.
    RecursionError
        If it is nested too deeply.
    """

    def whole(digits: str) -> int:
        if len(digits.lstrip("-")) > most_digits:
            raise ValueError(f"a whole number has more than {most_digits} digits")
        return int(digits)

    return json.loads(text, parse_float=_finite, parse_int=whole, parse_constant=_refuse)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:_SHOWN_DIGITS]} is beyond the range of doubles")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")
