"""How the units of a sample move a number: where a few of them move it most, its error is skewed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.spectra.contour import Contour, Functional
from rankme_stream.spectra.held_out_units import IntArray, RotatedRows, Unit

_BANDS = 64  # of eigenvalues; the largest have one each
_STEP = 1e-4  # relative change of a band; the error of the slope is near its square


@dataclass(frozen=True)
class Influences:
    """Energy of units in bands of eigenvalues, from which their influence on any functional follows.

    Attributes
    ----------
    values
        Shape ``(m,)``: eigenvalues of the Gram, ascending.
    starts
        Shape ``(b,)``: the first eigenvalue of each band.
    shares
        Shape ``(units, b)``: energy of a unit in a band over that of all rows. A row counts as it would in a Gram
        without it, 1 + its leverage times what it does in that with it: the Gram follows long rows.
    n_units
        Number of units of the sample, those not kept included.
    """

    values: FloatArray
    starts: IntArray
    shares: FloatArray
    n_units: float

    @classmethod
    def of_units(cls, rotated: RotatedRows, leverages: FloatArray, units: Sequence[Unit]) -> Influences:
        """Return the energies of units; O(r m)."""
        values = rotated.values
        from_top = np.unique(np.geomspace(1, values.size + 1, _BANDS + 1).astype(np.int64)) - 1
        starts: IntArray = values.size - from_top[:0:-1]
        energy = np.add.reduceat(rotated.rows**2, starts, axis=1) * (1.0 + leverages)[:, None]
        shares = np.array([energy[unit.own].sum(axis=0) for unit in units]) / np.add.reduceat(values, starts)
        return cls(values, starts, shares, len(units) * rotated.n_rows / len(rotated.rows))

    def skewness(self, functional: Functional) -> float:
        """Return the skewness of the error of a functional: that of the influences over the root of their number.

        At most 1 in magnitude, where one unit decides. To first order, a functional moves with the energy of each band.
        """
        influences = self.shares @ self._slopes(functional)
        influences -= influences.mean()
        variance = float(np.mean(influences**2))
        if variance == 0.0:
            return 0.0
        skewness = float(np.mean(influences**3)) / math.sqrt(variance) ** 3
        return skewness / math.sqrt(self.n_units)

    def _slopes(self, functional: Functional) -> FloatArray:
        """Return the derivative of the functional by the logarithm of a factor on each band."""
        stops = [*self.starts[1:].tolist(), self.values.size]
        slopes = []
        for start, stop in zip(self.starts.tolist(), stops, strict=True):
            ends = []
            for step in (_STEP, -_STEP):
                moved = self.values.astype(np.complex128)
                moved[start:stop] *= math.exp(step)
                ends.append(functional(plain(moved)))
            slopes.append((ends[0] - ends[1]) / (2.0 * _STEP))
        return np.array(slopes)


def plain(values: Array) -> Contour:
    """Return sums over given eigenvalues in the form of a contour."""
    return Contour(np.asarray(values, dtype=np.complex128), np.full(values.size, 0.5 + 0.0j), values.size)
