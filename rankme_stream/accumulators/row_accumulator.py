"""Base classes of the accumulators: workspace, totals of the rows, and the plain numbers of a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np

from rankme_stream.accumulators.accumulator import FILE_KEYS
from rankme_stream.accumulators.row_totals import RowTotals
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra.spectrum import Spectrum

_TOTALS = frozenset(field.name for field in fields(RowTotals))


class RowAccumulator:
    """Base of the accumulators.

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
    def device(self) -> Device:
        """Device of its arrays and of the panels that it takes."""
        return self._workspace.device

    def sums(self) -> FloatArray:
        """Return the sum of the rows, shape ``(D,)``."""
        return self.totals.sums.copy()

    def count(self, panel: Any) -> None:
        """Add the rows of ``panel`` to the totals."""
        self.totals = self.totals.with_panel(panel, self.device, self.counted)

    def check(self, start: int, stop: int) -> None:
        """Do nothing: the arithmetic is checked when the spectrum is computed."""

    def _numbers(self, names: Iterable[str]) -> dict[str, Array]:
        """Return numbers of the state under their names in files."""
        values = {name: getattr(self.totals if name in _TOTALS else self, name) for name in names}
        return {FILE_KEYS.get(name, name): np.array(value) for name, value in values.items()}

    def _take(self, arrays: dict[str, Array], names: Iterable[str]) -> None:
        """Set numbers of the state, and the arrays of the totals, from what ``to_arrays`` returned."""
        values = {name: arrays[FILE_KEYS.get(name, name)].item() for name in names}
        values |= {name: np.array(arrays[name]) for name in ("nonzero", "sums") if name in arrays}
        self.totals = replace(self.totals, **{name: value for name, value in values.items() if name in _TOTALS})
        for name in values.keys() - _TOTALS:
            setattr(self, name, values[name])


class DividedAccumulator(RowAccumulator, ABC):
    """An accumulator whose update falls into independent parts."""

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, C order, first column 1 (or a row of zeros, left out)."""
        if panel.shape[0] == 0:
            return
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


class SketchAccumulator(RowAccumulator, ABC):
    """An accumulator that is too small to determine the singular values, and bounds them instead."""

    @abstractmethod
    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return an estimate of the singular values with the set that the true ones lie in; changes nothing."""

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values of the point estimate alone."""
        spectrum = self.spectrum(unit_roundoff=U)
        return (spectrum.centered if centered else spectrum.raw).values
