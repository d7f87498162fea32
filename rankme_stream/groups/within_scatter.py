"""How rows lie about the means of their groups: a sum of squares and products that merges and knows its error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, gamma
from rankme_stream.numerics.symmetric import Triangle

_PANEL_ROWS = 1024


class WithinScatter:
    """Sum over groups of (Z - mean)'(Z - mean), of zeros to begin with.

    Parameters
    ----------
    n_features
        Width D of the rows.

    Attributes
    ----------
    n_groups, n_rows
        That it is a sum over.
    chain
        The longest chain of rounded operations that an entry went through here.
    given_error
        Bound on the Frobenius norm of the errors of what was added, beside those of the chain.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_groups = self.n_rows = self.chain = 0
        self.given_error = 0.0
        self._sums = Triangle(n_features)

    def add_rows(self, rows: FloatArray, workspace: Workspace) -> None:
        """Add products of centred rows, shape ``(n, D)``, of one group or of several."""
        for start in range(0, len(rows), _PANEL_ROWS):
            panel = rows[start : start + _PANEL_ROWS]
            for place in self._sums.places:
                self._sums.add_product(place, panel, workspace)
            self.chain = max(self.chain, len(panel)) + (self.chain > 0)
            self.given_error += len(panel) * self.n_features * SMALLEST

    def add_matrix(self, lower: Any, error: float) -> None:
        """Add a matrix, of which the lower triangle is right to within an error."""
        self._sums.add(Triangle.of(lower))
        self.chain += 1
        self.given_error += error

    def count(self, n_rows: int, error: float = 0.0) -> None:
        """Count a group that was added, and what the rounding of its mean may have cost."""
        self.n_groups += 1
        self.n_rows += n_rows
        self.given_error += error

    def merge(self, other: WithinScatter) -> WithinScatter:
        """Return the sum of both; neither changes."""
        made = WithinScatter.__new__(WithinScatter)
        made.n_features = self.n_features
        made.n_groups, made.n_rows = self.n_groups + other.n_groups, self.n_rows + other.n_rows
        made.chain = max(self.chain, other.chain) + 1
        made.given_error = self.given_error + other.given_error
        made._sums = self._sums + other._sums
        return made

    @property
    def error(self) -> float:
        """Bound on the Frobenius norm of the error of ``lower``: gamma tr for sums of semidefinite matrices."""
        g = gamma(max(1, self.chain))
        trace = math.fsum(self._sums.diagonal()) + self.given_error * math.sqrt(self.n_features)
        return (g / (1.0 - g) * trace + self.given_error) * (1.0 + 2.0**-40)

    def lower(self) -> FloatArray:
        """Return a fresh matrix, shape ``(D, D)``, with this lower triangle."""
        lower: FloatArray = self._sums.lower()
        return lower

    def to_arrays(self) -> dict[str, Array]:
        """Return it as arrays; ``from_arrays`` gives the same bits back."""
        counts = np.array([self.n_groups, self.n_rows, self.chain])
        return {"counts": counts, "given_error": np.array(self.given_error), "sums": self._sums.to_array()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> WithinScatter:
        """Return what ``to_arrays`` described."""
        made = cls.__new__(cls)
        made.n_groups, made.n_rows, made.chain = arrays["counts"].tolist()
        made.given_error, made._sums = float(arrays["given_error"]), Triangle.from_array(arrays["sums"])
        made.n_features = made._sums.n
        return made


def join_scatters(scatters: Iterable[WithinScatter]) -> WithinScatter:
    """Return the sum of some, from left to right."""
    whole, *others = scatters
    for other in others:
        whole = whole.merge(other)
    return whole
