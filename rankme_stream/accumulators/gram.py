"""The Gram matrix of the rows with a column of ones in front, in float64."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from rankme_stream.arrays import Array, FloatArray
from rankme_stream.devices import host
from rankme_stream.errors import ArithmeticCheckError, UsageError
from rankme_stream.spectrum import Spectrum

_UNIT_ROUNDOFF = 2.0**-53


class GramAccumulator:
    """Sums A'A over panels of A = [1 Z]: row count, column sums and Gram of Z in one symmetric matrix.

    Parameters
    ----------
    n_features
        Width D of the rows.
    workspace
        Scratch shared with other accumulators of the same worker.

    Attributes
    ----------
    n_rows
        Rows counted so far.
    chain
        The longest chain of rounded operations that an entry went through: rows of a panel, additions of panels,
        merges. gamma_n of Higham's bound takes it as n.

    Notes
    -----
    rows * (D+1)^2 flops; 8 (D+1)^2 bytes, one triangle used.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """

    def __init__(self, n_features: int, workspace: host.Workspace | None = None) -> None:
        self.n_features = n_features
        self.n_rows = 0
        self.chain = 0
        self._workspace = workspace or host.Workspace()
        self._gram: FloatArray = np.zeros((n_features + 1, n_features + 1))

    def update(self, panel: FloatArray, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, C order, first column 1 (or a row of zeros, left out)."""
        if len(panel) == 0:
            return
        product = self._workspace.array("gram", self._gram.shape)
        host.symmetric_product(panel, product)
        self._gram += product  # the upper triangles stay zero
        self.n_rows += round(float(panel[:, 0].sum()))
        self.chain = max(self.chain, len(panel)) + (self.chain > 0)

    def merge(self, other: GramAccumulator) -> GramAccumulator:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if other.n_features != self.n_features:
            raise UsageError(f"a Gram of width {other.n_features} cannot join one of width {self.n_features}")
        merged = GramAccumulator.__new__(GramAccumulator)
        merged.n_features = self.n_features
        merged.n_rows = self.n_rows + other.n_rows
        merged.chain = max(self.chain, other.chain) + (self.chain > 0 and other.chain > 0)
        merged._workspace = self._workspace
        merged._gram = self._gram + other._gram
        return merged

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows; changes nothing.

        Raises
        ------
        ArithmeticCheckError
            If the eigenvalues do not add up to the trace, or the Gram is not finite.

        Notes
        -----
        8/3 D^3 flops and 24 D^2 bytes beside the accumulator.
        """
        gram = self._gram[1:, 1:]
        trace = math.fsum(np.diagonal(gram))
        if not math.isfinite(trace):
            raise ArithmeticCheckError("the Gram matrix is not finite although every row was; please report this")
        n = max(1, self.chain)
        gamma = n * _UNIT_ROUNDOFF / (1 - n * _UNIT_ROUNDOFF)
        size = min(self.n_rows, self.n_features)
        values, margin = self._eigenvalues(gram, trace)
        centered = gram.copy()
        if self.n_rows:
            sums = self._gram[1:, 0]
            for column in range(self.n_features):  # column by column: no second D x D for the outer product
                centered[column] -= (sums[column] / self.n_rows) * sums
        centered_trace = math.fsum(np.maximum(np.diagonal(centered), 0.0))
        centered_values, centered_margin = self._eigenvalues(centered, centered_trace, trace)
        return Spectrum(
            singular_values=np.sqrt(np.maximum(values[:size], 0.0)),
            centered_singular_values=np.sqrt(np.maximum(centered_values[:size], 0.0)),
            n_rows=self.n_rows,
            n_features=self.n_features,
            unit_roundoff=unit_roundoff,
            known_zeros=max(0, size - int(np.count_nonzero(np.diagonal(gram)))),
            resolution=math.sqrt(gamma * trace / (1 - gamma) + margin),
            centered_resolution=math.sqrt((3 * gamma + 4 * _UNIT_ROUNDOFF) * trace + centered_margin),
        )

    def _eigenvalues(self, lower: FloatArray, trace: float, scale: float | None = None) -> tuple[FloatArray, float]:
        """Eigenvalues, descending, and their error margin; features that are zero throughout give exact zeros."""
        values = np.zeros(self.n_features)
        alive = np.flatnonzero(np.diagonal(lower) > 0.0)
        if alive.size == 0:
            return values, 0.0
        found = host.eigenvalues(lower if alive.size == self.n_features else lower[np.ix_(alive, alive)])
        values[: alive.size] = found
        values[::-1].sort()
        margin = (self.n_features + 32) * _UNIT_ROUNDOFF * max(float(found[0]), 0.0)
        allowed = self.n_features * (margin + 4 * _UNIT_ROUNDOFF * (scale or trace))
        if not abs(math.fsum(found) - trace) <= allowed:
            raise ArithmeticCheckError(
                f"eigenvalues add up to {math.fsum(found)!r}, the trace is {trace!r}: LAPACK or the machine is at fault"
            )
        return values, margin

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays; ``from_arrays`` gives the same bits back."""
        lower = self._gram[np.tril_indices(self.n_features + 1)]
        return {"n_features": np.array(self.n_features), "n_rows": np.array(self.n_rows),
                "chain": np.array(self.chain), "gram": lower}  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Return the accumulator that ``to_arrays`` described."""
        accumulator = cls(int(arrays["n_features"]))
        accumulator.n_rows, accumulator.chain = int(arrays["n_rows"]), int(arrays["chain"])
        accumulator._gram[np.tril_indices(accumulator.n_features + 1)] = arrays["gram"]
        return accumulator
