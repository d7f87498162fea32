"""The R factor of the rows with a column of ones in front, in float64, without ever forming Q."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Self

import numpy as np

from rankme_stream.accumulators.accumulator import ScaledGram, check_device
from rankme_stream.accumulators.method import ExactMethod, Precision, Size
from rankme_stream.accumulators.qr_error import grounds, growth, singular_values_within, step_error
from rankme_stream.accumulators.row_accumulator import RowAccumulator
from rankme_stream.errors import UsageError, argument
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U
from rankme_stream.spectra.spectrum import Spectrum

_NUMBERS = ("n_rows", "steps", "longest", "worst_case", "rows_error")


class TsqrAccumulator(RowAccumulator):
    """Keeps R with R'R = A'A for A = [1 Z], by Householder steps that never square a singular value.

    R is ``[[sqrt N, sqrt N mu'], [0, R_c]]``: R_c is the R factor of the centred rows, and R without its
    first column has the singular values of Z.

    Attributes
    ----------
    steps
        Largest number of successive QR steps that a row went through.
    longest
        Number of rows of the longest step.
    worst_case
        Sum of the worst-case errors of the steps, relative to |Z|_F.

    Notes
    -----
    2 rows (D+1)^2 flops a panel, 2/3 (D+1)^3 a merge; 8 (D+1)^2 bytes.

    References
    ----------
    J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
    factorizations, SIAM J. Sci. Comput. 34 (2012), arXiv 0808.2664; N. J. Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., SIAM 2002, chapter 19.
    """

    counted = ("n_rows",)

    def __init__(self, n_features: int, workspace: Workspace | None = None, *, rows_error: float = 0.0) -> None:
        super().__init__(n_features, workspace, rows_error)
        self.steps = self.longest = 0
        self.worst_case = 0.0
        self._r: Any = self.device.zeros((n_features + 1, n_features + 1), order="F")

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, C order, first column 1 (or a row of zeros, left out)."""
        rows, width = panel.shape
        if rows == 0:
            return
        self.fit_exponent(panel, self.exponent_with(panel))
        self.device.stack_rows(self._r, panel, self._workspace)
        self.count(panel)
        self.steps += 1
        reflected = self.device.reflected_rows(rows, width)
        self.longest = max(self.longest, reflected)
        self.worst_case += step_error(reflected, width)

    def merge(self, other: TsqrAccumulator) -> TsqrAccumulator:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if other.n_features != self.n_features:
            raise UsageError(f"an R of width {other.n_features} cannot join one of width {self.n_features}")
        check_device(self.device, other.device)
        if self.steps == 0 or other.steps == 0:  # the empty accumulator is the identity, bit for bit
            return (other if self.steps == 0 else self)._copy()
        mine, theirs = self._with_one_exponent(other)
        merged: TsqrAccumulator = mine._copy()
        self.device.stack_triangle(merged._r, theirs._r, Workspace(self.device))
        merged.totals = mine.totals.merge(theirs.totals)
        merged.steps = max(self.steps, other.steps) + 1
        width = self.n_features + 1
        reflected = self.device.reflected_rows(width, width)
        merged.longest = max(self.longest, other.longest, reflected)
        merged.worst_case = max(self.worst_case, other.worst_case) + step_error(reflected, width)
        return merged

    def prefix(self, n_features: int) -> TsqrAccumulator:
        """Return the accumulator of the first features alone."""
        made = copy(self)
        made.totals = self.totals.prefix(n_features)
        made._r = self.device.zeros((n_features + 1, n_features + 1), order="F")
        made._r[...] = self._r[: n_features + 1, : n_features + 1]
        return made

    def _copy(self) -> TsqrAccumulator:
        return self.prefix(self.n_features)

    def _scale_arrays(self, factor: float) -> None:
        self._r = self._copy()._r
        self._r[:, 1:] *= factor

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows; changes nothing.

        The intervals rest on (2 longest + 16 sqrt(steps)) u |Z|_F, which is *empirical*: several times the growth
        observed on rows constructed to accumulate rounding. The worst case is the sum of ``step_error`` over the steps.
        Both are relative to the raw |Z|_F, centred or not, and both take the margin (D + 32) u s_1 for the last
        singular values.

        Notes
        -----
        16/3 D^3 flops and 16 D^2 bytes beside the accumulator.
        """
        totals, xp = self.totals, self.device.xp
        r = xp.triu(self._r)
        first_row = self.device.download(r[0, 1:])
        alive = np.flatnonzero(totals.nonzero)
        values = np.zeros(self.n_features)
        if alive.size:
            kept = xp.take(r, self.device.upload(1 + alive), axis=1)
            values[: alive.size] = self.device.singular_values(kept)[: alive.size]
        centered = self.device.singular_values(r[1:, 1:])
        frobenius = math.hypot(*values.tolist()) * (1.0 + 2.0**-20)
        lost = math.sqrt(max(1, self.n_rows)) * (self.n_features + 1) * SMALLEST * max(1, self.steps)
        shared = (self.n_features + 32) * U * float(values[0]) + totals.rows_error * frobenius + lost
        practical = growth(self.longest, self.steps) * U * frobenius + shared
        worst = self.worst_case * frobenius + shared
        row_sum = math.hypot(*first_row.tolist()) * math.sqrt(self.n_rows)
        row_sum_error = 2.0 * practical * math.sqrt(self.n_rows)
        return Spectrum(
            raw=singular_values_within(values[: totals.size], practical, worst, totals.n_zeros(centered=False)),
            centered=singular_values_within(centered[: totals.size], practical, worst, totals.n_zeros(centered=True)),
            n_rows=self.n_rows,
            n_features=self.n_features,
            unit_roundoff=unit_roundoff,
            row_sum=(max(0.0, row_sum - row_sum_error), row_sum + row_sum_error),
            evidence="empirical",
            confidence=None,
            grounds=grounds(self.longest, self.steps),
        ).over(totals.exponent)

    def _factor(self, *, centered: bool) -> Any:
        r = self.device.xp.triu(self._r)
        return r[1:, 1:] if centered else r[:, 1:]

    def scaled_gram(self, *, centered: bool) -> ScaledGram:
        """Return R'R, on the host, of the rows or of the rows about their mean; 2 D^3 flops."""
        factor = self.device.download(self._factor(centered=centered))
        return ScaledGram(factor.T @ factor, self.totals.exponent)

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values alone, shape ``(min(n_rows, D),)``; 8/3 D^3 flops."""
        found = self.device.singular_values(self._factor(centered=centered))[: self.totals.size]
        return np.ldexp(found, -self.totals.exponent)

    def _scaled_sums(self) -> FloatArray:
        first_row = self.device.download(self._r[0, :])
        return np.asarray(first_row[0] * first_row[1:])

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host; ``from_arrays`` gives the same bits back."""
        width = self.n_features + 1
        upper, r = np.empty(width * (width + 1) // 2), self.device.download(self._r)
        for row, entries in enumerate(_rows_of_triangle(width)):
            upper[entries] = r[row, row:]
        arrays = {"n_features": np.array(self.n_features), "r": upper, "nonzero": self.totals.nonzero.copy()}
        return arrays | self._numbers(_NUMBERS)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        accumulator = cls(int(arrays["n_features"]), Workspace(device))
        accumulator._take(arrays, _NUMBERS)
        r = np.zeros((accumulator.n_features + 1,) * 2)
        for row, entries in enumerate(_rows_of_triangle(len(r))):
            r[row, row:] = arrays["r"][entries]
        accumulator._r[...] = device.upload(r)
        return accumulator


def _rows_of_triangle(width: int) -> Iterator[slice]:
    """Yield the slice of each row of an upper triangle among its entries, which are stored row by row."""
    start = 0
    for length in range(width, 0, -1):
        yield slice(start, start + length)
        start += length


class TsqrMethod(ExactMethod):
    """Tall-skinny QR, which never squares a singular value."""

    name = "tsqr"
    uses_qr = True
    remedy = f"pass a larger {argument('tolerance')}"

    def accumulator(self, precision: Precision) -> Callable[..., TsqrAccumulator]:
        """Return the class that keeps R."""
        return TsqrAccumulator

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the triangle and the mask of features."""
        return {"r": (size.width * (size.width + 1) // 2,), "nonzero": (size.n_features,)}

    def flops(self, n_rows: int, size: Size) -> int:
        """Return 2 N D^2."""
        return 2 * n_rows * size.n_features**2

    def state_bytes(self, size: Size) -> int:
        """Return the bytes of R as a whole matrix."""
        return size.square_bytes

    def merging_bytes(self, size: Size) -> int:
        """Return the bytes of the factor below the other and of what LAPACK makes of both."""
        return 2 * size.square_bytes

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes of a panel in Fortran order and of two blocks of reflectors."""
        return 8 * panel_rows * size.width + 2 * 8 * 64 * size.width

    def card_scratch_bytes(self, size: Size, panel_rows: int) -> int:
        """Return the bytes of R above the panel, what a library makes of it, and Q."""
        return 3 * (8 * panel_rows * size.width + size.square_bytes) + size.square_bytes

    def panel_rows(self, n_features: int) -> int:
        """Return the rows of a panel: QR is as fast with 512 to 4,096, and its error bound grows with them."""
        return 512
