"""Counts of the rows absorbed that every accumulator keeps, and bounds on the rounding errors of their sums."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, gamma


@dataclass(frozen=True)
class RowTotals:
    """Number, sum and energy of the rows absorbed, times 2^exponent, on the host; never changed, only replaced.

    An accumulator counts the fields that its product does not hold and leaves the others zero. It passes what its
    product holds to ``completed`` before it asks for a bound.

    Attributes
    ----------
    nonzero
        Mask, shape ``(D,)``, of the features that are nonzero in some row. Squares may underflow to zero, so a Gram
        matrix cannot show it.
    sums
        Sum of the rows, shape ``(D,)``.
    rows_error
        Bound on the relative error of the rows given (unit rows are rounded when they are made).
    n_rows
        Number of rows; rows of zeros that were left out are not counted.
    chain
        Longest chain of rounded operations that an entry went through: rows of a panel, additions of panels, merges.
        Higham's gamma_n takes it as n.
    energy
        Sum of the squares of all values, as computed.
    exponent
        The rows are multiplied by 2^exponent before anything is summed, so that no square of theirs underflows.
    knows_nonzero
        Whether ``nonzero`` is known of all rows: a card reports it later than it takes them.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """

    nonzero: Array
    sums: FloatArray
    rows_error: float = 0.0
    n_rows: int = 0
    chain: int = 0
    energy: float = 0.0
    exponent: int = 0
    knows_nonzero: bool = True

    @classmethod
    def empty(cls, n_features: int, rows_error: float = 0.0) -> Self:
        """Return the totals of no rows."""
        return cls(np.zeros(n_features, dtype=bool), np.zeros(n_features), rows_error)

    @property
    def n_features(self) -> int:
        """Width D of the rows."""
        return self.nonzero.size

    def with_panel(self, panel: Any, device: Device, counted: Collection[str]) -> Self:
        """Return the totals with a panel, shape ``(rows, 1 + D)``, added to ``nonzero`` and the fields ``counted``."""
        xp, rows = device.xp, panel[:, 1:]
        changes: dict[str, Any] = {"nonzero": _with_nonzero(self.nonzero, panel, device)}
        if "n_rows" in counted:
            changes["n_rows"] = self.n_rows + round(float(xp.sum(panel[:, 0])))
        if "energy" in counted:
            changes["energy"] = self.energy + float(xp.sum(device.squared_lengths(rows)))
        if "sums" in counted:
            changes["sums"] = self.sums + device.download(xp.sum(rows, axis=0))
        if "chain" in counted:
            changes["chain"] = max(self.chain, panel.shape[0]) + (self.chain > 0)
        return replace(self, **changes)

    def with_queued(self, rows: int, panel_rows: int) -> Self:
        """Return the totals with the chain of a slab: whole panels, or a shorter one; its rows are not noted yet."""
        assert rows < panel_rows or rows % panel_rows == 0
        n_panels = max(1, rows // panel_rows)
        chain = max(self.chain, min(rows, panel_rows)) + (self.chain > 0) + n_panels - 1
        return replace(self, chain=chain, knows_nonzero=False)

    def with_nonzero(self, nonzero: Array) -> Self:
        """Return the totals with the features that are nonzero in some queued row."""
        return replace(self, nonzero=self.nonzero | nonzero, knows_nonzero=True)

    def merge(self, other: Self) -> Self:
        """Return the totals of both sets of rows; the totals of no rows change no bit."""
        return replace(
            self,
            nonzero=self.nonzero | other.nonzero,
            sums=self.sums + other.sums,
            rows_error=max(self.rows_error, other.rows_error),
            n_rows=self.n_rows + other.n_rows,
            chain=max(self.chain, other.chain) + (self.chain > 0 and other.chain > 0),
            energy=self.energy + other.energy,
            knows_nonzero=self.knows_nonzero and other.knows_nonzero,
        )

    def rescaled(self, exponent: int) -> Self:
        """Return the totals of the same rows times 2^``exponent``; what is lost to underflow is within ``lost``."""
        change = exponent - self.exponent
        sums, energy = np.ldexp(self.sums, change), math.ldexp(self.energy, 2 * change)
        return replace(self, sums=sums, energy=energy, exponent=exponent)

    def prefix(self, n_features: int) -> Self:
        """Return the totals of the first features; the energy of these alone is not known, and stays that of all."""
        return replace(self, nonzero=self.nonzero[:n_features], sums=self.sums[:n_features])

    def completed(self, **held: Any) -> Self:
        """Return the totals with fields taken from the product of an accumulator.

        Raises
        ------
        ArithmeticCheckError
            If the energy is not finite.
        """
        made = replace(self, **held)
        if not math.isfinite(made.energy):
            raise ArithmeticCheckError("the energy is not finite although every row was; please report this")
        return made

    @property
    def is_zero(self) -> bool:
        """Whether every row absorbed is zero throughout."""
        return self.knows_nonzero and not self.nonzero.any()

    @property
    def size(self) -> int:
        """Number of singular values."""
        return min(self.n_rows, self.n_features)

    def n_zeros(self, *, centered: bool) -> int:
        """Return the number of singular values, at the end, that are zero exactly."""
        assert self.knows_nonzero
        dead = max(0, self.size - int(np.count_nonzero(self.nonzero)))
        return max(dead, int(centered and self.n_rows <= self.n_features))

    @property
    def lost(self) -> float:
        """Largest amount that underflow took from a sum: of each product, or of the sum when it was rescaled."""
        return self.n_rows * (self.n_features + 1) * SMALLEST

    def gram_error(self, energy: float) -> float:
        """Return the largest change that ``rows_error`` makes in the Gram matrix of rows of a given energy."""
        return 2.0 * self.rows_error * (1.0 + self.rows_error) * energy

    @cached_property
    def norm(self) -> float:
        """Euclidean norm of the sum of the rows, as computed."""
        return math.hypot(*self.sums.tolist())

    def norm_ends(self, error: float) -> tuple[float, float]:
        """Return the ends of the norm of the sum of all rows, for sums that are off by ``error``."""
        return max(0.0, self.norm - error), self.norm + error

    @property
    def g(self) -> float:
        """Relative error of an inner product over the features and of the additions after it."""
        return gamma(self.chain + self.n_features + 8)

    @property
    def most_energy(self) -> float:
        """Upper end of the energy."""
        return self.energy * (1.0 + self.g) + self.lost

    @property
    def sums_error(self) -> float:
        """Bound on the Euclidean norm of the error of ``sums``."""
        error = (self.g + self.rows_error) * math.sqrt(max(1, self.n_rows) * self.most_energy)
        return error + (4.0 * U * self.norm + self.lost)

    @property
    def row_sum(self) -> tuple[float, float]:
        """Ends of the norm of the sum of all rows."""
        return self.norm_ends(self.sums_error)

    @property
    def mean_energy(self) -> float:
        """Energy of the mean, counted once a row."""
        return self.norm**2 / max(1, self.n_rows)

    @property
    def mean_error(self) -> float:
        """Bound on the error of ``mean_energy`` and of the Gram matrix of the mean."""
        return (2.0 * self.norm + self.sums_error) * self.sums_error / max(1, self.n_rows)

    def energy_ends(self, *, centered: bool) -> tuple[float, float]:
        """Return the ends of the sum of the eigenvalues of the Gram matrix, raw or centred."""
        most = self.most_energy
        total = max(0.0, self.energy - centered * self.mean_energy)
        error = self.g * most + self.gram_error(most) + self.lost + centered * self.mean_error + 8.0 * U * most
        return max(0.0, total - error), total + error


def _with_nonzero(nonzero: Array, panel: Any, device: Device) -> Array:
    """Return a mask with the features added that are nonzero somewhere in a panel.

    Costs nothing once every feature was nonzero, as after one row of dense data.
    """
    if nonzero.all():
        return nonzero
    met: Array = nonzero | device.download(panel[0, 1:] != 0.0)
    missing = np.flatnonzero(~met)
    left = device.xp.take(panel, device.upload(1 + missing), axis=1)
    met[missing] = device.download(device.xp.any(left != 0.0, axis=0))
    return met
