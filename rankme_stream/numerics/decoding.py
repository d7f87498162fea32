"""Decoding of stored numbers into the values that their writer meant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """How a stored number v becomes a value: ``scale * code(v) + offset``, in float64, rounded after each operation.

    Attributes
    ----------
    scale, offset
        Affine map, applied last.
    power, divisor
        ``code(v)`` is ``sign(v) * (abs(v) / divisor) ** power``; v itself where both are 1.
    nodata
        Stored numbers that mean that there is no data. A row that holds one is treated like a row with NaN.
    valid
        Least and largest stored number that is data, None for no limit; others are treated like ``nodata``.
    source
        Which metadata or options say so, for the result and for messages: ``scale_factor, _FillValue``.
    """

    scale: float = 1.0
    offset: float = 0.0
    power: float = 1.0
    divisor: float = 1.0
    nodata: tuple[float, ...] = ()
    valid: tuple[float | None, float | None] = (None, None)
    source: str = ""
