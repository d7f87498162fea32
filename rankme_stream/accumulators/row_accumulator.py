"""Base classes of the accumulators: workspace, totals of the rows, and the plain numbers of a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from rankme_stream.accumulators.accumulator import FILE_KEYS
from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.numerics.scaling import exponent_of
from rankme_stream.spectra.spectrum import Spectrum

_TOTALS = frozenset(field.name for field in fields(RowTotals))


class RowAccumulator(ABC):
    """Base of the accumulators.

    As long as all rows are tiny, they are summed times 2^exponent (``RowTotals``), which is exact and keeps their
    squares out of the subnormal numbers. The exponent depends on the rows alone, panel by panel.

    Parameters
    ----------
    n_features
        Width D of the rows.
    workspace
        Scratch shared with other accumulators of the same worker.
    rows_error
        Bound on the relative error of the rows given; enters the intervals.

    Attributes
    ----------
    totals
        Counts of the rows absorbed: ``nonzero`` and the fields that ``counted`` names.
    """

    counted: ClassVar[tuple[str, ...]]

    def __init__(self, n_features: int, workspace: Workspace | None, rows_error: float) -> None:
        self.totals = RowTotals.empty(n_features, rows_error)
        self._workspace = workspace or Workspace()

    @property
    def n_features(self) -> int:
        """Width D of the rows."""
        return self.totals.n_features

    @property
    def n_rows(self) -> int:
        """Number of rows absorbed."""
        return self.totals.n_rows

    @property
    def exponent(self) -> int:
        """Exponent of the state: its rows were multiplied by that power of two."""
        return self.totals.exponent

    @property
    def device(self) -> Device:
        """Device of its arrays and of the panels that it takes."""
        return self._workspace.device

    def sums(self) -> FloatArray:
        """Return the sum of the rows, shape ``(D,)``."""
        return np.ldexp(self._scaled_sums(), -self.totals.exponent)

    def _scaled_sums(self) -> FloatArray:
        """Return the sum of the rows times 2^exponent."""
        return self.totals.sums.copy()

    def exponent_with(self, panel: Any) -> int:
        """Return the exponent that the state needs before a panel, shape ``(rows, 1 + D)``, is added.

        Costs nothing once a row of usual size was met.
        """
        exponent, is_zero = self.totals.exponent, self.totals.is_zero
        if (exponent == 0 and not is_zero) or panel.dtype != self.device.xp.float64:  # narrower types have no tiny rows
            return exponent
        for rows in (panel[:1, 1:], panel[:, 1:]):
            magnitude = float(self.device.xp.max(self.device.xp.abs(rows)))
            if magnitude and exponent_of(magnitude) == 0:
                return 0
        if magnitude == 0.0:
            return exponent
        return exponent_of(magnitude) if is_zero else min(exponent, exponent_of(magnitude))

    def fit_exponent(self, panel: Any, exponent: int) -> None:
        """Bring the state and a panel to be added to an exponent, in place; nothing is done for rows of usual size."""
        self._rescale(exponent)
        if exponent:
            panel[:, 1:] *= 2.0**exponent

    def _rescale(self, exponent: int) -> None:
        """Multiply the state by a power of two; arrays are replaced, not changed."""
        if exponent != self.totals.exponent:
            self._scale_arrays(2.0 ** (exponent - self.totals.exponent))
            self.totals = self.totals.rescaled(exponent)

    @abstractmethod
    def _scale_arrays(self, factor: float) -> None:
        """Replace the state beside the totals by that of the rows times a power of two."""

    def _with_one_exponent(self, other: Self) -> tuple[Self, Self]:
        """Return both with one exponent, that of the larger rows; neither changes."""
        exponents = {one.totals.exponent for one in (self, other) if not one.totals.is_zero}
        exponent, pair = min(exponents, default=0), []
        for one in (self, other):
            if one.totals.exponent != exponent:
                one = copy(one)
                one._rescale(exponent)
            pair.append(one)
        return pair[0], pair[1]

    def count(self, panel: Any) -> None:
        """Add the rows of ``panel`` to the totals."""
        self.totals = self.totals.with_panel(panel, self.device, self.counted)

    def check(self, start: int, stop: int) -> None:  # noqa: B027 - most have nothing to check
        """Do nothing: the arithmetic is checked when the spectrum is computed."""

    def _numbers(self, names: Iterable[str]) -> dict[str, Array]:
        """Return numbers of the state under their names in files; the exponent only where it is not zero."""
        names = (*names, *(["exponent"] if self.totals.exponent else []))
        values = {name: getattr(self.totals if name in _TOTALS else self, name) for name in names}
        return {FILE_KEYS.get(name, name): np.array(value) for name, value in values.items()}

    def _take(self, arrays: dict[str, Array], names: Iterable[str]) -> None:
        """Set numbers of the state, and the arrays of the totals, from what ``to_arrays`` returned."""
        names = (*names, *(["exponent"] if "exponent" in arrays else []))
        values = {name: arrays[FILE_KEYS.get(name, name)].item() for name in names}
        values |= {name: np.array(arrays[name]) for name in ("nonzero", "sums") if name in arrays}
        self.totals = replace(self.totals, **{name: value for name, value in values.items() if name in _TOTALS})
        for name in values.keys() - _TOTALS:
            setattr(self, name, values[name])


class DividedAccumulator(RowAccumulator):
    """An accumulator whose update falls into independent parts."""

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, C order, first column 1 (or a row of zeros, left out)."""
        if panel.shape[0] == 0:
            return
        self.fit_exponent(panel, self.exponent_with(panel))
        for part in self.parts:
            self.update_part(part, panel, self._workspace)
        self.count(panel)

    @property
    @abstractmethod
    def parts(self) -> Sequence[tuple[int, int]]:
        """Independent parts of an update, those with most work first."""

    @abstractmethod
    def update_part(self, part: tuple[int, int], panel: Any, workspace: Workspace) -> None:
        """Do one part of ``update``; threads may do different parts at once, each part panel after panel."""


class SketchAccumulator(RowAccumulator):
    """An accumulator that is too small to determine the singular values, and bounds them instead."""

    @abstractmethod
    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return an estimate of the singular values with the set that the true ones lie in; changes nothing."""

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values of the point estimate alone."""
        spectrum = self.spectrum(unit_roundoff=U)
        return (spectrum.centered if centered else spectrum.raw).values
