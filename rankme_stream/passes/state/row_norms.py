"""Sums of the norms of rows, and rows scaled to unit length, for the metrics of directions alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
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

    @classmethod
    def of(cls, panel: Any, device: Device = HOST) -> RowNorms:
        """Return the sums of a panel on a device, shape ``(rows, 1 + D)``."""
        xp, rows = device.xp, panel[:, 1:]
        exponent = math.frexp(max(float(xp.max(rows)), -float(xp.min(rows))))[1]
        if abs(exponent) > _LARGE_EXPONENT:  # fourth powers would leave the range of float64
            half = -exponent // 2  # 2^-exponent alone may leave it
            rows = rows * 2.0**half * 2.0 ** (-exponent - half)
        else:
            exponent = 0
        squares = device.squared_lengths(rows)
        return cls(float(xp.sum(squares)), float(squares @ squares), exponent)

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
