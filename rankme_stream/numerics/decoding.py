"""Decoding of stored numbers into the values that their writer meant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Decoding:
    """How a stored number v becomes a value: ``scale * code(v) + offset``, in float64, rounded after each operation.

    Attributes
    ----------
    scale, offset
        Affine map, applied last; finite, and the scale not zero.
    power, divisor
        ``code(v)`` is ``sign(v) * (abs(v) / divisor) ** power``; v itself where both are 1.
    nodata
        Stored numbers that mean that there is no data. A row that holds one is treated like a row with NaN.
    valid
        Least and largest stored number that is data, None for no limit; others are treated like ``nodata``.
    source
        Metadata or options that say so, for the result and for messages: ``scale_factor, _FillValue``.
    """

    scale: float = 1.0
    offset: float = 0.0
    power: float = 1.0
    divisor: float = 1.0
    nodata: tuple[float, ...] = ()
    valid: tuple[float | None, float | None] = (None, None)
    source: str = ""

    @property
    def is_linear(self) -> bool:
        """Whether the code of a number is the number."""
        return self.power == 1.0 and self.divisor == 1.0

    def apply(self, numbers: npt.NDArray[np.float64]) -> None:
        """Replace numbers by their values."""
        if not self.is_linear:
            signs = np.sign(numbers)
            np.abs(numbers, out=numbers)
            numbers /= self.divisor
            numbers **= self.power
            numbers *= signs
        if self.scale != 1.0:
            numbers *= self.scale
        if self.offset != 0.0:
            numbers += self.offset

    def lacks_data(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the stored numbers that are no data; None, quickly, where none is.

        Numbers are compared as their type holds them: -9999 in float16 is -10000.
        """
        dtype, (low, high) = numbers.dtype, self.valid
        masks = [numbers == dtype.type(value) for value in self.nodata if _holds(dtype, value)]
        if low is not None:
            masks.append(numbers < (math.ceil(low) if dtype.kind in "iu" else low))
        if high is not None:
            masks.append(numbers > (math.floor(high) if dtype.kind in "iu" else high))
        found = [mask for mask in masks if mask.any()]
        return np.logical_or.reduce(found) if found else None

    @property
    def absence(self) -> str:
        """The stored numbers that are no data, in words and parentheses; empty where every number is data."""
        low, high = self.valid
        absent = [f"{shown(value)}" for value in self.nodata]
        absent += [f"below {shown(low)}"] if low is not None else []
        absent += [f"above {shown(high)}"] if high is not None else []
        return f"({', '.join(absent)})" if absent else ""

    def describe(self, name: str) -> str:
        """Return in words what numbers of a type become: ``int8 * 0.0123 + 0.5, no data (-128), by scale_factor``."""
        code = name if self.is_linear else f"sign({name}) * |{name} / {shown(self.divisor)}|^{shown(self.power)}"
        code += f" * {shown(self.scale)}" if self.scale != 1.0 else ""
        code += f" + {shown(self.offset)}" if self.offset != 0.0 else ""
        gaps = f", no data {self.absence}" if self.absence else ""
        return f"{code}{gaps}{f', by {self.source}' if self.source else ''}"


def shown(value: float) -> str:
    """Return the shortest text that reads back as a number; whole numbers without a point."""
    return repr(value).removesuffix(".0")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Return whether a type holds a number: an integer in its range, or any number where it is a float."""
    if dtype.kind == "f":
        return True
    return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
