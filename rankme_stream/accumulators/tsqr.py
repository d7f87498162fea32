"""The R factor of the rows with a column of ones in front, in float64, without ever forming Q."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from rankme_stream.arrays import Array, FloatArray
from rankme_stream.devices import host
from rankme_stream.errors import UsageError
from rankme_stream.spectrum import Spectrum

_UNIT_ROUNDOFF = 2.0**-53
_GROWTH = 16.0


class TsqrAccumulator:
    """Keeps R with R'R = A'A for A = [1 Z], by Householder steps that never square a singular value.

    R is ``[[sqrt N, sqrt N mu'], [0, R_c]]``: R_c is the R factor of the centred rows, and R without its
    first column has the singular values of Z.

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
    steps
        Successive QR steps that a row went through at most; the error grows like its square root.

    Notes
    -----
    2 rows (D+1)^2 flops a panel, 2/3 (D+1)^3 a merge; 8 (D+1)^2 bytes.

    References
    ----------
    J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
    factorizations, SIAM J. Sci. Comput. 34 (2012), arXiv 0808.2664.
    """

    def __init__(self, n_features: int, workspace: host.Workspace | None = None) -> None:
        self.n_features = n_features
        self.n_rows = 0
        self.steps = 0
        self._workspace = workspace or host.Workspace()
        self._r: FloatArray = np.zeros((n_features + 1, n_features + 1), order="F")

    def update(self, panel: FloatArray, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, C order, first column 1 (or a row of zeros, left out)."""
        if len(panel) == 0:
            return
        below = self._workspace.array("tsqr_panel", panel.shape, order="F")
        below[...] = panel
        host.stack_triangle(self._r, below, 0, self._workspace)
        self.n_rows += round(float(panel[:, 0].sum()))
        self.steps += 1

    def merge(self, other: TsqrAccumulator) -> TsqrAccumulator:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if other.n_features != self.n_features:
            raise UsageError(f"an R of width {other.n_features} cannot join one of width {self.n_features}")
        if self.steps == 0 or other.steps == 0:  # the empty accumulator is the identity, bit for bit
            return (other if self.steps == 0 else self)._copy()
        merged = self._copy()
        merged._workspace = host.Workspace()
        host.stack_triangle(merged._r, other._r.copy(order="F"), self.n_features + 1, merged._workspace)
        merged._workspace = self._workspace
        merged.n_rows = self.n_rows + other.n_rows
        merged.steps = max(self.steps, other.steps) + 1
        return merged

    def _copy(self) -> TsqrAccumulator:
        copy = TsqrAccumulator.__new__(TsqrAccumulator)
        copy.n_features, copy.n_rows, copy.steps = self.n_features, self.n_rows, self.steps
        copy._workspace, copy._r = self._workspace, self._r.copy(order="F")
        return copy

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows; changes nothing.

        Notes
        -----
        16/3 D^3 flops and 16 D^2 bytes beside the accumulator. The resolution is *empirical*: 16 u sqrt(steps) |Z|_F,
        an order above the growth seen, plus the margin (D + 32) u s_1 of the final singular values.
        """
        size = min(self.n_rows, self.n_features)
        r = np.triu(self._r)
        alive = np.flatnonzero(r[:, 1:].any(axis=0))
        values = np.zeros(self.n_features)
        if alive.size:
            values[: alive.size] = host.singular_values(r[:, 1 + alive])
        centered = host.singular_values(r[1:, 1:])
        frobenius = math.hypot(*values.tolist())
        largest = float(values[0])
        error = _UNIT_ROUNDOFF * (
            _GROWTH * math.sqrt(max(1, self.steps)) * frobenius + (self.n_features + 32) * largest
        )
        return Spectrum(
            singular_values=values[:size],
            centered_singular_values=centered[:size],
            n_rows=self.n_rows,
            n_features=self.n_features,
            unit_roundoff=unit_roundoff,
            known_zeros=max(0, size - alive.size),
            resolution=error,
            centered_resolution=error,
        )

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays; ``from_arrays`` gives the same bits back."""
        upper = self._r[np.triu_indices(self.n_features + 1)]
        return {"n_features": np.array(self.n_features), "n_rows": np.array(self.n_rows),
                "steps": np.array(self.steps), "r": upper}  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Return the accumulator that ``to_arrays`` described."""
        accumulator = cls(int(arrays["n_features"]))
        accumulator.n_rows, accumulator.steps = int(arrays["n_rows"]), int(arrays["steps"])
        accumulator._r[np.triu_indices(accumulator.n_features + 1)] = arrays["r"]
        return accumulator
