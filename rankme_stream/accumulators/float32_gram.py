"""The Gram matrix of the rows, multiplied in float32, with an error that probes measure."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from rankme_stream.accumulators.error_probes import CONFIDENCE, N_PROBES, SAFETY, ErrorProbes, Residual
from rankme_stream.accumulators.gram import GramSums
from rankme_stream.errors import ArithmeticCheckError, MagnitudeError, argument
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U32, gamma
from rankme_stream.numerics.symmetric import Triangle
from rankme_stream.spectra.spectrum import Evidence

_IMPOSSIBLE = 3.0  # times the worst case; a larger estimate is no chance: P(chi-square_8 > 9 x 8) < 1e-11


def overflow_error(start: int, stop: int) -> MagnitudeError:
    """Return the error of a panel of rows [start, stop) whose float32 product overflowed."""
    return MagnitudeError(
        f"rows {start:,}-{stop - 1:,} hold values whose squares overflow float32; "
        f"pass {argument('precision', 'float64')}, or scale by a power of two, which changes no rank"
    )


class Float32GramAccumulator(GramSums):
    """Gram sums of float32 products of short panels, summed in float64, with an error measured by probes.

    float16, bfloat16 and float32 values are exact in float32; others are rounded, which the probes measure as well.
    Panels of a 16-bit type are multiplied as they are on devices that sum them in float32. Tiny rows are not scaled up:
    what float32 loses of them to underflow is measured as well.

    Parameters
    ----------
    seed
        Seed of the probes, the same for all that merge.

    Attributes
    ----------
    probes
        Probes of every panel; None for a state of an earlier version, which did not probe every panel.
    """

    def __init__(
        self, n_features: int, workspace: Workspace | None = None, *, rows_error: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(n_features, workspace, rows_error=rows_error)
        self.probes: ErrorProbes | None = ErrorProbes(n_features, seed, self.device)
        self._residual: Residual | None = None  # that of more features, if these are the first of them

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, of float64, float32 or a 16-bit type, and their products with the probes."""
        rows, width = panel.shape
        if rows == 0:
            return
        assert self.probes is not None  # an older state is merged, never continued
        rounded = panel
        if panel.dtype == self.device.xp.float64:
            rounded = self._workspace.array("panel32", (rows, width), dtype=np.float32)
            self.device.narrow(panel, rounded)
        product = self._workspace.kept(("product32", width), lambda: Triangle(width, np.float32, self.device))
        for index in product.block_indices:
            product.set_product(index, rounded)
        if not np.isfinite(product.diagonal()).all():
            raise overflow_error(start, start + rows)
        self.probes.observe(panel, self._workspace)
        self._gram.add(product)
        self.count(panel)

    def takes_slabs(self, *, may_be_tiny: bool) -> bool:
        """Return whether slabs may be queued: if one block holds the sums; tiny rows are not scaled up here."""
        return self._gram.is_whole

    def queue(self, slab: Any, panel_rows: int, overflowed: Any) -> None:
        """Queue the addition of a slab of any type of panel on a card, and of its products with the probes."""
        if slab.shape[0] == 0:
            return
        assert self.probes is not None
        self._gram.add_float32_panels(slab, panel_rows, overflowed, self._workspace)
        self.probes.observe_panels(slab, panel_rows, self._workspace)
        self.totals = self.totals.with_queued(slab.shape[0], panel_rows)

    def on_host(self) -> Self:
        """Return the same sums and probes on the host, itself if they are there."""
        made = super().on_host()
        if made is not self and self.probes is not None:
            made.probes = self.probes.on_host()
        return made

    def check(self, start: int, stop: int) -> None:
        """Raise ``ArithmeticCheckError`` if the products are further off than float32 can be."""
        if self.probes is None or not self.n_rows:
            return
        found, (allowed, _) = self.probes.residual(self._gram, self.totals).estimate, self._worst_case()
        if not found <= _IMPOSSIBLE * allowed:
            raise ArithmeticCheckError(
                f"rows {start:,}-{stop - 1:,}: the product is {found:.2g} off where the arithmetic allows "
                f"{allowed:.2g}: BLAS or the machine is at fault"
            )

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        merged = super().merge(other)
        merged.probes = None if self.probes is None or other.probes is None else self.probes.merge(other.probes)
        if self._residual is not None and other._residual is not None:
            merged._residual = self._residual.merge(other._residual)
        return merged

    def prefix(self, n_features: int) -> Self:
        """Return the accumulator of the first features alone; the error of a part is at most that of the whole."""
        held = self.on_host()
        made = super(Float32GramAccumulator, held).prefix(n_features)
        if held.probes is not None and held._residual is None:
            made._residual = held.probes.residual(held._gram, held.totals)
        return made

    def _worst_case(self) -> tuple[float, float]:
        """Return bounds on the float32 errors of Gram and column sums for any order of summation.

        Two roundings a value, then those of the sum, relative to |Z|_F^2; and what underflow takes.
        """
        trace = 1.01 * math.fsum(self._gram.diagonal()[1:].tolist())
        relative, n_values = gamma(self.totals.chain + 3, U32), self.n_rows * (self.n_features + 1)
        lost = 2.0**-126 * (n_values + 2.0 * math.sqrt(n_values * trace))
        return relative * trace + lost, relative * math.sqrt(self.n_rows * trace) + lost

    def _measured_errors(self) -> tuple[float, float]:
        if self.probes is None:
            return self._worst_case()
        residual = self.probes.residual(self._gram, self.totals) if self._residual is None else self._residual
        gram, sums = residual.bounds()
        lost = self.n_rows * (self.n_features + 1) * 2.0**-149  # for residuals whose squares underflow
        return gram + lost, sums + lost

    def _checked_error(self, values: FloatArray, error: float) -> float:
        """Return the error, or a larger one where a negative eigenvalue shows that the measured error is too small."""
        return max(error, -SAFETY * float(values[-1])) if float(values[-1]) < -error else error

    def _grounds(self) -> tuple[Evidence, float | None, str]:
        if self.probes is None:
            return (
                "certified", 1.0,
                f"certified: worst case of float32 sums of {self.totals.chain:,} operations; an earlier version did "
                "not probe every panel",
            )  # fmt: skip
        return (
            "measured", CONFIDENCE,
            f"measured with {N_PROBES} Gaussian probes on every panel, times {SAFETY:g}; confidence over their seed, "
            f"{self.probes.seed}",
        )  # fmt: skip

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays; ``from_arrays`` gives the same bits back."""
        return super().to_arrays() | ({} if self.probes is None else self.probes.to_arrays())

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        accumulator = super().from_arrays(arrays, device)
        accumulator.probes = ErrorProbes.from_arrays(accumulator.n_features, arrays, device)
        return accumulator
