"""Scatter of rows about the means of their groups: a sum of products that merges and bounds its error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, gamma
from rankme_stream.numerics.symmetric import Triangle


@dataclass(eq=False)
class WithinScatter:
    """Sum over groups of (Z - mean)'(Z - mean).

    Attributes
    ----------
    sums
        Triangle of the sum.
    n_groups, n_rows
        Number of groups in the sum, and of their rows.
    chain
        Longest chain of rounded operations that an entry went through here.
    given_error
        Bound on the Frobenius norm of the errors of the terms, beside those of the chain.
    """

    sums: Triangle
    n_groups: int = 0
    n_rows: int = 0
    chain: int = 0
    given_error: float = 0.0

    @classmethod
    def empty(cls, n_features: int) -> WithinScatter:
        """Return the sum over no group, for rows of width ``n_features``."""
        return cls(Triangle(n_features))

    @property
    def n_features(self) -> int:
        """Width D of the rows."""
        return self.sums.n

    def add_rows(self, rows: FloatArray, workspace: Workspace) -> None:
        """Add products of centred rows, shape ``(n, D)``, of one group or of several."""
        for start in range(0, len(rows), PANEL_ROWS):
            panel = rows[start : start + PANEL_ROWS]
            for index in self.sums.block_indices:
                self.sums.add_product(index, panel, workspace)
            self.chain = max(self.chain, len(panel)) + (self.chain > 0)
            self.given_error += len(panel) * self.n_features * SMALLEST

    def add_matrix(self, lower: Any, error: float) -> None:
        """Add a matrix whose lower triangle is right to within ``error``."""
        self.sums.add(Triangle.of(lower))
        self.chain += 1
        self.given_error += error

    def count(self, n_rows: int, error: float = 0.0) -> None:
        """Count a group that was added, and the error that the rounding of its mean may have caused."""
        self.n_groups += 1
        self.n_rows += n_rows
        self.given_error += error

    def merge(self, other: WithinScatter) -> WithinScatter:
        """Return the sum of both; neither changes."""
        return WithinScatter(
            sums=self.sums + other.sums,
            n_groups=self.n_groups + other.n_groups,
            n_rows=self.n_rows + other.n_rows,
            chain=max(self.chain, other.chain) + 1,
            given_error=self.given_error + other.given_error,
        )

    @property
    def error(self) -> float:
        """Bound on the Frobenius norm of the error of ``lower``: gamma tr for sums of semidefinite matrices."""
        g = gamma(max(1, self.chain))
        trace = math.fsum(self.sums.diagonal()) + self.given_error * math.sqrt(self.n_features)
        return (g / (1.0 - g) * trace + self.given_error) * (1.0 + 2.0**-40)

    def lower(self) -> FloatArray:
        """Return a fresh matrix, shape ``(D, D)``, with this lower triangle."""
        lower: FloatArray = self.sums.lower()
        return lower

    def to_arrays(self) -> dict[str, Array]:
        """Return the scatter as arrays; ``from_arrays`` gives the same bits back."""
        counts = np.array([self.n_groups, self.n_rows, self.chain])
        return {"counts": counts, "given_error": np.array(self.given_error), "sums": self.sums.to_array()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> WithinScatter:
        """Return the scatter that ``to_arrays`` described."""
        n_groups, n_rows, chain = arrays["counts"].tolist()
        sums, given_error = Triangle.from_array(arrays["sums"]), float(arrays["given_error"])
        return cls(sums, n_groups, n_rows, chain, given_error)


def join_scatters(scatters: Iterable[WithinScatter]) -> WithinScatter:
    """Return the sum of scatters, added from left to right."""
    whole, *others = scatters
    for other in others:
        whole = whole.merge(other)
    return whole
