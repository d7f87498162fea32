"""Rows in memory as a sample of their population: dealt to replicates as they come, some of them kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.measuring.sampling.jackknife_estimator import JackknifeEstimator
from rankme_stream.measuring.sampling.look_estimator import LookEstimator
from rankme_stream.measuring.sampling.random_matrix_estimator import RandomMatrixEstimator
from rankme_stream.measuring.sampling.unit_reader import KeptRows
from rankme_stream.measuring.sampling.units_read import UnitsRead
from rankme_stream.numerics import counter_rng
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.passes.planning.sample_design import N_REPLICATES, POPULATION_ROWS
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms, UnitNorms

_KEPT_ROWS = 4  # per feature
_FEATURES_PER_ROW = 32  # of a unit: 40 units of 1.25 rows a feature


@dataclass(frozen=True)
class RowsInMemory:
    """Rows seen so far; never changed, only replaced.

    Runs of rows, so short that 1.25 rows a feature are 40 of them, are dealt to 16 replicates in turn.

    Attributes
    ----------
    replicates
        Partial result of each replicate; none before the first row.
    kept, key
        Rows of a random part of the units, 4 D or a little more, and for each the random number of its unit, by which
        it was chosen: the smallest stay.
    n_units
        Units seen.
    """

    replicates: Mapping[int, PartialResult]
    kept: KeptRows
    key: FloatArray
    n_units: int = 0

    @classmethod
    def none(cls, n_features: int) -> RowsInMemory:
        """Return no rows."""
        none = np.empty(0, dtype=np.int64)
        return cls({}, KeptRows(np.empty((0, n_features)), none, none), np.empty(0))

    @property
    def n_features(self) -> int:
        """Width D of the rows."""
        return int(self.kept.rows.shape[1])

    def with_rows(self, rows: FloatArray, make: Callable[[], Accumulator]) -> RowsInMemory:
        """Return these rows and more, shape ``(n, D)``, float64, finite; ``make`` returns an accumulator of none."""
        unit_rows = max(1, self.n_features // _FEATURES_PER_ROW)
        unit = np.arange(len(rows)) // unit_rows
        replicate = (self.n_units + unit) % N_REPLICATES
        replicates = {number: _partial(rows[replicate == number], unit_rows, make()) for number in range(N_REPLICATES)}
        keys = counter_rng.uniforms(int(unit[-1]) + 1, seed=0, counter=self.n_units)
        kept = KeptRows(rows, unit, replicate)
        return self.merge(RowsInMemory(replicates, kept, keys[unit], keys.size))

    def merge(self, other: RowsInMemory) -> RowsInMemory:
        """Return both sets of rows; neither changes."""
        replicates = {
            number: self.replicates[number].merge(partial) if self.replicates else partial
            for number, partial in other.replicates.items()
        }
        key = np.concatenate([self.key, other.key])
        most = _KEPT_ROWS * self.n_features
        stays = key <= np.partition(key, most - 1)[most - 1] if key.size > most else np.ones(key.size, dtype=bool)
        kept = KeptRows(
            np.concatenate([self.kept.rows, other.kept.rows])[stays],
            np.concatenate([self.kept.unit, self.n_units + other.kept.unit])[stays],
            np.concatenate([self.kept.replicate, other.kept.replicate])[stays],
        )
        return RowsInMemory(replicates, kept, key[stays], self.n_units + other.n_units)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(one.accumulators["raw"].n_rows for one in self.replicates.values())

    def estimator(self, workers: int, unit_roundoff: float) -> LookEstimator:
        """Return the estimator of the population, which solves on some threads; roundoff of the type of the rows."""
        units = UnitsRead(self.replicates, workers, unit_roundoff)
        if self.n_rows >= POPULATION_ROWS * self.n_features:
            return JackknifeEstimator(units, math.inf)
        return RandomMatrixEstimator(units, self.kept, math.inf)


def _partial(rows: FloatArray, unit_rows: int, accumulator: Accumulator) -> PartialResult:
    """Return the partial result of some rows, whole units but for the last, in an accumulator that has none yet."""
    if not len(rows):
        return PartialResult({"raw": accumulator}, Audit(), RowNorms())
    norms = UnitNorms(len(rows), unit_rows)
    for start in range(0, len(rows), PANEL_ROWS):
        panel = np.ones((len(rows[start : start + PANEL_ROWS]), 1 + rows.shape[1]))
        panel[:, 1:] = rows[start : start + PANEL_ROWS]
        norms.add(start, panel)
        accumulator.update(panel, start)
    return PartialResult({"raw": accumulator}, Audit(), norms.sums, unit_maxima=norms.maxima)
