"""The Gram matrix of the rows with a column of ones in front, summed in float64; and multiplied in it."""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Self

import numpy as np

from rankme_stream.accumulators.accumulator import ScaledGram, check_device
from rankme_stream.accumulators.row_accumulator import DividedAccumulator, RowAccumulator
from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.errors import ArithmeticCheckError, UsageError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, check_trace, gamma
from rankme_stream.numerics.symmetric import BlockIndex, Triangle
from rankme_stream.spectra.spectrum import Evidence, SingularValues, Spectrum

_NUMBERS = ("chain", "rows_error")
_ROWS_AT_ONCE = 256
_SOLVED_THERE_FROM = 512  # features; the host solves smaller eigenproblems


class GramSums(RowAccumulator):
    """Sums of A'A over panels of A = [1 Z]: row count, column sums and Gram of Z in one symmetric matrix.

    Notes
    -----
    rows * (D+1)^2 flops; 4 to 8 (D+1)^2 bytes: one triangle, in blocks (`Triangle`).

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """

    counted = ("chain",)

    def __init__(self, n_features: int, workspace: Workspace | None = None, *, rows_error: float = 0.0) -> None:
        super().__init__(n_features, workspace, rows_error)
        self._gram = Triangle(n_features + 1, device=self.device)
        self._solver = self.device if n_features >= _SOLVED_THERE_FROM else HOST

    @property
    def n_rows(self) -> int:
        """Number of rows absorbed: the product of the column of ones with itself, exact up to 2^53."""
        return round(self._gram.corner)

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if type(other) is not type(self) or other.n_features != self.n_features:
            raise UsageError(f"a Gram of width {other.n_features} cannot join one of width {self.n_features}")
        check_device(self.device, other.device)
        mine, theirs = self._with_one_exponent(other)
        return self._with(mine._gram + theirs._gram, mine.totals.merge(theirs.totals))

    def set_nonzero(self, nonzero: Array) -> None:
        """Note the features that are nonzero in some row of the slabs queued."""
        self.totals = self.totals.with_nonzero(nonzero)

    def _scale_arrays(self, factor: float) -> None:
        self._gram = self._gram.scaled(factor)

    def prefix(self, n_features: int) -> Self:
        """Return the accumulator of the first features alone, on the host."""
        held = self.on_host()
        made = held._with(held._gram.prefix(n_features + 1), held.totals.prefix(n_features))
        made._solver = self._solver if n_features >= _SOLVED_THERE_FROM else HOST
        return made

    def on_host(self) -> Self:
        """Return the same sums on the host, itself if they are there; the device still solves large eigenproblems.

        Beside these, which take most of the time, everything is done on the host: a card would compile a kernel for
        each of a dozen operations before its first spectrum.
        """
        if self.device is HOST:
            return self
        made = self._with(self._gram.on_host(), self.totals)
        made._workspace = Workspace()
        return made

    def _with(self, gram: Triangle, totals: RowTotals) -> Self:
        made = copy(self)
        made._gram, made.totals = gram, totals
        return made

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows and the sets that hold the true ones; changes nothing.

        By Weyl's theorem an eigenvalue moves by no more than the norm of the error, which is gamma_n tr/(1 - gamma_n)
        for the sums, and (3 gamma_n + 4 u) tr for the centred matrix, with the trace of the *raw* one. The loss to
        underflow and an empirical margin (D + 32) u l_1 for the eigensolver are added.

        Raises
        ------
        ArithmeticCheckError
            If the eigenvalues do not add up to the trace, or the Gram is not finite.

        Notes
        -----
        8/3 D^3 flops, raw and centred on a thread each, or one after another on a card; 32 D^2 bytes on the host beside
        the accumulator, and 8 D^2 more if that is on a card.
        """
        if self.device is not HOST:
            return self.on_host().spectrum(unit_roundoff=unit_roundoff)
        computed_trace = math.fsum(self._gram.diagonal()[1:].tolist())
        if not math.isfinite(computed_trace):
            raise ArithmeticCheckError("the Gram matrix is not finite although every row was; please report this")
        totals = self.totals.completed(n_rows=self.n_rows, sums=self._scaled_sums())
        g, lost, n_rows = gamma(max(1, totals.chain)), totals.lost, totals.n_rows
        fast, fast_sums = self._measured_errors()
        trace = computed_trace / (1.0 - g) + math.sqrt(self.n_features) * (fast + lost)
        rows = totals.gram_error(trace)
        gram = self._gram.lower()[1:, 1:]
        sums_error = (g + totals.rows_error) * math.sqrt(max(1, n_rows)) * math.sqrt(trace) + fast_sums + lost
        sums_error += 4.0 * U * totals.norm
        error = g * trace + fast + rows + lost
        centered_error = (3.0 * g + 4.0 * U) / (1.0 - g) * trace + fast + rows + 3.0 * lost
        if n_rows:
            centered_error += fast_sums * (2.0 * totals.norm + fast_sums) / n_rows
        centered = self._about_the_mean(gram.copy(), totals.sums)
        centered_trace = math.fsum(np.maximum(np.diagonal(centered), 0.0))
        threads = 2 if self._solver is HOST else 1  # a card solves one at a time anyway
        with blas_threads.threads(threads, "rankme-solve") as pool:
            raw = pool.submit(self._eigenvalues, gram, computed_trace) if threads > 1 else None
            centered_values, centered_margin = self._eigenvalues(centered, centered_trace, computed_trace)
            values, margin = raw.result() if raw is not None else self._eigenvalues(gram, computed_trace)
        evidence, confidence, grounds = self._grounds()
        error = self._checked_error(values, error + margin)
        centered_error = self._checked_error(centered_values, centered_error + centered_margin)
        return Spectrum(
            raw=SingularValues.of_squares(values[: totals.size], error, totals.n_zeros(centered=False)),
            centered=SingularValues.of_squares(
                centered_values[: totals.size], centered_error, totals.n_zeros(centered=True)
            ),
            n_rows=n_rows,
            n_features=self.n_features,
            unit_roundoff=unit_roundoff,
            row_sum=totals.norm_ends(sums_error),
            evidence=evidence,
            confidence=confidence,
            grounds=grounds,
        ).over(totals.exponent)

    def _about_the_mean(self, gram: FloatArray, sums: FloatArray) -> FloatArray:
        """Subtract n_rows mu mu' from the Gram of the rows, in place."""
        if self.n_rows:
            mean, row = (sums / self.n_rows)[:, None], sums[None, :]
            for start in range(0, self.n_features, _ROWS_AT_ONCE):  # no third D x D for the outer product
                some = slice(start, min(start + _ROWS_AT_ONCE, self.n_features))
                gram[some, :] -= mean[some, :] * row
        return gram

    def _scatter(self, *, centered: bool) -> FloatArray:
        held = self.on_host()
        gram: FloatArray = held._gram.lower()[1:, 1:]
        return held._about_the_mean(gram, held._scaled_sums()) if centered else gram

    def scaled_gram(self, *, centered: bool) -> ScaledGram:
        """Return the Gram matrix of the rows, or of the rows about their mean, on the host."""
        return ScaledGram(self._scatter(centered=centered), self.totals.exponent)

    def about_mean(self) -> tuple[FloatArray, float]:
        """Return the Gram of the rows about their mean, lower triangle, shape ``(D, D)``, and a bound on its error.

        The bound is on the Frobenius norm, in float64: (3 gamma_n + 4 u) times the trace of the raw Gram, because the
        mean is subtracted from the sums.
        """
        g = gamma(max(1, self.totals.chain))
        trace = math.fsum(self._gram.diagonal()[1:].tolist()) / (1.0 - g)
        error = (3.0 * g + 4.0 * U) / (1.0 - g) * trace + 3.0 * self.totals.lost
        factor = 2.0**-self.totals.exponent  # twice, as its square underflows
        lost = 2.0 * self.n_features * SMALLEST if self.totals.exponent else 0.0
        return self._scatter(centered=True) * factor * factor, error * factor * factor + lost

    @property
    def mean_error(self) -> float:
        """Bound on the error of the mean row, in float64: (gamma_n + u) times the root of the mean square length."""
        g = gamma(max(1, self.totals.chain))
        trace = math.fsum(self._gram.diagonal()[1:].tolist()) / (1.0 - g)
        error = (g + U) * math.sqrt(trace / max(1, self.n_rows))
        return math.ldexp(error, -self.totals.exponent) + math.sqrt(self.n_features) * SMALLEST

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values alone, shape ``(min(n_rows, D),)``; 4/3 D^3 flops."""
        found = self._solved(self._scatter(centered=centered))[: min(self.n_rows, self.n_features)]
        return np.ldexp(np.sqrt(np.maximum(found, 0.0)), -self.totals.exponent)

    def _scaled_sums(self) -> FloatArray:
        return self._gram.first_column()[1:]

    def _measured_errors(self) -> tuple[float, float]:
        """Return bounds on the errors beyond float64: Frobenius of the Gram, Euclidean of the column sums."""
        return 0.0, 0.0

    def _checked_error(self, values: FloatArray, error: float) -> float:
        """Return the error, unless a negative eigenvalue shows that it cannot be that small."""
        least = float(values[-1])
        if least < -error:
            raise ArithmeticCheckError(
                f"an eigenvalue is {least:.3g} where {-error:.3g} is the least that rounding allows: BLAS, LAPACK or "
                "the machine is at fault"
            )
        return error

    def _grounds(self) -> tuple[Evidence, float | None, str]:
        return (
            "certified", 1.0,
            f"certified: worst case of sums of {self.totals.chain:,} operations, margin (D + 32) u for the eigensolver",
        )  # fmt: skip

    def _solved(self, lower: FloatArray) -> FloatArray:
        """Return the eigenvalues, descending, of a symmetric matrix on the host."""
        return self._solver.eigenvalues(self._solver.upload(lower))

    def _eigenvalues(self, lower: FloatArray, trace: float, scale: float | None = None) -> tuple[FloatArray, float]:
        """Return eigenvalues, descending, and their error margin; features that are all zero give exact zeros."""
        values = np.zeros(self.n_features)
        alive = np.flatnonzero(np.diagonal(lower) > 0.0)
        if alive.size == 0:
            return values, 0.0
        if alive.size < self.n_features:
            lower = np.take(np.take(lower, alive, axis=0), alive, axis=1)
        found = self._solved(lower)
        values[: alive.size] = found
        values[::-1].sort()
        margin = (self.n_features + 32) * U * max(float(found[0]), 0.0)
        allowed = self.n_features * (margin + 4 * U * (scale or trace) + SMALLEST)
        check_trace(found, trace, allowed)
        return values, margin

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host; ``from_arrays`` gives the same bits back."""
        assert self.totals.knows_nonzero
        numbers = self._numbers(("n_features", *_NUMBERS))
        return numbers | {"gram": self._gram.to_array(), "nonzero": self.totals.nonzero.copy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        accumulator = cls(int(arrays["n_features"]), Workspace(device))
        accumulator._take(arrays, _NUMBERS)
        accumulator._gram = Triangle.from_array(arrays["gram"], device)
        return accumulator


class GramAccumulator(GramSums, DividedAccumulator):
    """Gram sums of float64 products, whose error is bounded; threads may share the parts of an update."""

    @property
    def parts(self) -> list[BlockIndex]:
        """Independent parts of an update, those with most work first."""
        return self._gram.block_indices

    def update_part(self, part: BlockIndex, panel: Any, workspace: Workspace) -> None:
        """Do one part of ``update``; threads may do different parts at once, each part panel after panel."""
        self._gram.add_product(part, panel, workspace)

    def takes_slabs(self, *, may_be_tiny: bool) -> bool:
        """Return whether slabs may be queued: no row to come changes the exponent, and one block holds the sums."""
        is_settled = self.exponent == 0 and not (may_be_tiny and self.totals.is_zero)
        return is_settled and self._gram.is_whole

    def queue(self, slab: Any, panel_rows: int, overflowed: Any) -> None:
        """Queue the addition of a float64 slab on a card; ``overflowed`` stays as it is."""
        if slab.shape[0] == 0:
            return
        assert self.exponent == 0
        self._gram.add_panels(slab, panel_rows, self._workspace)
        self.totals = self.totals.with_queued(slab.shape[0], panel_rows)
