"""Norms of rows: their sums, the largest of each unit of a sample, and rows scaled to unit length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.passes.state.typed_json import Signed

_SMALL_SQUARE = 2.0**-900  # below it squares lose digits to underflow
_LARGE_EXPONENT = 200


@dataclass(frozen=True)
class RowNorms:
    """Sums of |z|^2 and |z|^4 over rows z divided by 2^exponent; those of different rows merge."""

    squares: float = 0.0
    fourth_powers: float = 0.0
    exponent: Signed = 0

    def merge(self, other: RowNorms) -> RowNorms:
        """Return the sums of both sets of rows."""
        if not self.squares or not other.squares:
            return other if not self.squares else self
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self.rescale(exponent), other.rescale(exponent)
        return RowNorms(mine.squares + theirs.squares, mine.fourth_powers + theirs.fourth_powers, exponent)

    def rescale(self, exponent: int) -> RowNorms:
        """Return the sums for rows divided by 2^``exponent``, which is no less than the present exponent."""
        shift = 2 * (self.exponent - exponent)
        return RowNorms(math.ldexp(self.squares, shift), math.ldexp(self.fourth_powers, 2 * shift), exponent)

    @property
    def effective_rows(self) -> float:
        """Number of rows of equal length that weigh as evenly: (sum w)^2 / sum w^2, w = |z|^2; 0 for rows of zeros."""
        return self.squares / self.fourth_powers * self.squares if self.fourth_powers else 0.0


class UnitNorms:
    """Sums of the norms of rows of consecutive units, and the largest norm of each unit.

    Parameters
    ----------
    n_rows, unit_rows
        Rows to come, and in a unit; the last unit may have fewer.

    Attributes
    ----------
    sums
        Sums over the rows so far.
    """

    def __init__(self, n_rows: int, unit_rows: int) -> None:
        self.sums = RowNorms()
        self._logs, self._unit_rows = np.full(n_rows, -np.inf), unit_rows

    def add(self, first: int, panel: Any, device: Device = HOST) -> None:
        """Add rows from number ``first`` on: a panel on a device, shape ``(rows, 1 + D)``."""
        xp, rows = device.xp, panel[:, 1:]
        exponent = math.frexp(max(float(xp.max(rows)), -float(xp.min(rows))))[1]
        if abs(exponent) > _LARGE_EXPONENT:  # fourth powers would leave the range of float64
            half = -exponent // 2  # 2^-exponent alone may leave it
            rows = rows * 2.0**half * 2.0 ** (-exponent - half)
        else:
            exponent = 0
        squares = device.download(device.squared_lengths(rows))
        self.sums = self.sums.merge(RowNorms(float(np.sum(squares)), float(squares @ squares), exponent))
        with np.errstate(divide="ignore"):  # rows of zeros
            self._logs[first : first + len(squares)] = np.log(squares) + 2 * exponent * math.log(2.0)

    @property
    def maxima(self) -> FloatArray:
        """Logarithm of the largest |z|^2 of each unit, shape ``(units,)``; -inf for a unit of zeros."""
        return np.maximum.reduceat(self._logs, np.arange(0, len(self._logs), self._unit_rows))


def rows_error(n_features: int) -> float:
    """Return the relative error of a scaled row: D/2 units for the sum, four for root, reciprocal and product."""
    return (n_features / 2 + 4) * U


def scale_rows(panel: Any, out: Any, device: Device = HOST) -> None:
    """Write the rows of a panel, scaled to unit length, into ``out``; rows of zeros are left out.

    Parameters
    ----------
    panel, out
        Shape ``(rows, 1 + D)``, first column ones, on the device.
    """
    xp, rows = device.xp, panel[:, 1:]
    squares = device.squared_lengths(rows)
    scales = 1.0 / xp.sqrt(xp.maximum(squares, xp.full_like(squares, _SMALL_SQUARE)))
    device.scale(rows, scales, out[:, 1:])
    out[:, 0] = panel[:, 0]
    for row in np.flatnonzero(device.download(squares < _SMALL_SQUARE)).tolist():
        values = device.download(rows[row, :])
        largest = np.abs(values).max()
        if largest == 0.0:
            out[row, :] = 0.0
            continue
        enlarged = np.ldexp(values, -int(np.frexp(largest)[1]))
        out[row, 1:] = device.upload(enlarged / np.sqrt(enlarged @ enlarged))
