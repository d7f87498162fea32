"""Sample of a source: units of its rows in replicates, and estimates from them for all rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.sampling.gates import LEAST_TAIL_INDEX, Withheld
from rankme_stream.measuring.sampling.jackknife_estimator import JackknifeEstimator
from rankme_stream.measuring.sampling.look_estimator import LookEstimator, widened, without_value
from rankme_stream.measuring.sampling.random_matrix_estimator import RandomMatrixEstimator
from rankme_stream.measuring.sampling.unit_reader import KeptRows, UnitReader
from rankme_stream.measuring.sampling.units_read import UnitsRead
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.rare_units import STATED_MISS, share_not_excluded
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.estimates import METRICS, Estimate, Metric, cut_to_possible
from rankme_stream.spectra.spectrum import Spectrum
from rankme_stream.spectra.spread import Spread


class Sample:
    """Units of a source in replicates, accumulated by one arithmetic; grows.

    Parameters
    ----------
    held_bytes
        As in ``PassRunner.plan``.

    Attributes
    ----------
    units_read
        Number of the design's units read so far.
    """

    def __init__(
        self, runner: PassRunner, arithmetic: Arithmetic, design: SampleDesign, *, held_bytes: int = 0
    ) -> None:
        self.design = design
        self.confidence, self.population = runner.request.confidence, runner.request.population
        self._rare = runner.request.rare
        self.units_read = 0
        self.plan: Plan = runner.with_probes(runner.plan_sample(arithmetic, design, held_bytes=held_bytes))
        self._reader, self._unit_roundoff = UnitReader(runner, self.plan, design), runner.source.stored.unit_roundoff
        self._units = self._new_units()
        self._estimator = self._new_estimator()
        self._before: tuple[int, float] | None = None  # rows of the look before, and their standard error

    def _new_units(self) -> UnitsRead:
        """Return the units read so far, of which nothing is computed yet."""
        return UnitsRead(self._reader.replicates, self.plan.workers, self._unit_roundoff)

    def _new_estimator(self) -> LookEstimator:
        """Return the estimator for the rows read, which has computed nothing yet."""
        most_rows = math.inf if self.population else self.design.n_rows / 2
        kept = self.kept_rows()
        if kept is None or (self._has_many_rows and not self.population):
            return JackknifeEstimator(self._units, most_rows)
        return RandomMatrixEstimator(self._units, kept, most_rows)

    @property
    def _has_many_rows(self) -> bool:
        """Whether the rows read, and those of equal length that weigh as evenly, are enough for the jackknife."""
        n_features = self.design.n_features
        return (
            self.units_read * self.design.unit_rows >= sample_design.MANY_ROWS * n_features
            and self.whole.row_norms.effective_rows >= sample_design.ROWS_PER_FEATURE * n_features
        )

    @property
    def whole(self) -> PartialResult:
        """Merge of all replicates."""
        return self._units.whole

    @property
    def spectrum(self) -> Spectrum:
        """Spectrum of the rows read."""
        return self._estimator.spectrum("raw")

    @property
    def withheld(self) -> Withheld | None:
        """Reason why the rows read give no interval for RankMe; None if they do."""
        spread = self._estimator.rankme
        return spread if isinstance(spread, Withheld) else None

    @property
    def widening(self) -> float:
        """Factor, at least 1, that takes RankMe's standard error to what the look before promised for so many rows.

        A sample stops at a look whose standard error came out small by chance. That of the look before rests on other
        rows for the most part, so that the larger of both is seldom too small. 1 where there is none of either.
        """
        error = self._estimator.standard_error
        if self._before is None or not error:
            return 1.0
        n_rows, before = self._before
        return max(1.0, before * math.sqrt(n_rows / self._units.n_rows) / error)

    @property
    def fraction(self) -> float:
        """Fraction of the units that was read; 0 if the sample stands for the population of the dump."""
        return 0.0 if self.population else self.units_read / self.design.n_units

    @property
    def not_excluded(self) -> float:
        """Share of units, unlike all that were read, that may have been missed with a probability of 5 %."""
        return share_not_excluded(None if self.population else self.design.n_units, self.units_read)

    def read_to(self, n_units: int, progress: Report | None = None) -> None:
        """Read on until ``n_units`` units are read: whole rounds of the replicates. Raises as ``UnitReader.read``."""
        error = self._estimator.standard_error if self.units_read else None
        self._before = None if error is None else (self._units.n_rows, error)
        self._reader.read(self.units_read, n_units, progress)
        self.units_read = n_units
        self._units = self._new_units()
        self._estimator = self._new_estimator()

    def kept_rows(self) -> KeptRows | None:
        """Return the rows of the units that were drawn first, up to 4 per feature; None if more are to be read."""
        return self._reader.kept_rows()

    @property
    def rows_decoded(self) -> int:
        """Number of rows in the chunks decoded for the units; a chunk decoded again counts again."""
        return self._reader.rows_decoded

    @property
    def progress(self) -> Progress:
        """Rows, bytes and seconds of reading so far."""
        return self._reader.progress

    def widen_rankme(self, estimate: Estimate) -> Estimate:
        """Return RankMe of the rows read as an estimate for those it represents; no value if none can be stated."""
        spread = self._estimator.rankme
        if isinstance(spread, Withheld):
            return without_value(estimate, spread.reason)
        if estimate.value is None:
            return Estimate(None, reason=estimate.reason, details=estimate.details)
        widest = spread.widened(self.widening).widen(estimate, self.fraction, self.confidence)
        return cut_to_possible(widest, METRICS["rankme"], self.spectrum)

    def arithmetic_error(self, estimate: Estimate) -> float | None:
        """Return the part of RankMe's half-width due to the arithmetic, directly and through the bias."""
        spread = self._estimator.rankme
        if estimate.half_width is None or isinstance(spread, Withheld):
            return estimate.half_width
        return (1.0 + spread.noise(self.fraction)) * estimate.half_width

    def estimates(
        self,
        kind: str,
        table: Mapping[str, Metric],
        estimate: Callable[[Spectrum], Mapping[str, Estimate]],
        n_features: int | None = None,
    ) -> dict[str, Estimate]:
        """Return metrics of the rows that the sample represents, with intervals for arithmetic and sampling.

        Parameters
        ----------
        kind
            ``raw``, or ``unit`` for rows of unit length.
        table, estimate
            The metrics, and the function that gives them for a spectrum.
        n_features
            Number of leading features to use; None uses all.
        """
        exact = estimate(self._estimator.spectrum(kind, n_features))
        return self._widen_all(kind, table, exact, n_features)

    def of_population(
        self, kind: str, table: Mapping[str, Metric], exact: Mapping[str, Estimate], n_features: int | None = None
    ) -> dict[str, Estimate]:
        """Return metrics of all rows as estimates for their population.

        From the rows of the sample to all rows, the bias falls like 1/n and the standard error like its root.
        """
        return self._widen_all(kind, table, exact, n_features, times=self.design.n_units / self.units_read)

    def _widen_all(
        self,
        kind: str,
        table: Mapping[str, Metric],
        estimates: Mapping[str, Estimate],
        n_features: int | None,
        *,
        times: float = 1.0,
    ) -> dict[str, Estimate]:
        """Return estimates from ``times`` as many rows as were read; RankMe of the raw rows widens or withholds all."""

        def widen(spread: Spread, estimate: Estimate) -> Estimate:
            spread = spread.widened(self.widening).for_more_rows(times)
            return spread.widen(estimate, self.fraction, self.confidence)

        return widened(self._estimator, table, estimates, widen, kind=kind, n_features=n_features)

    def to_dict(self) -> dict[str, Any]:
        """Return the size of the sample, its design and what it excludes, as JSON types."""
        tail = self._units.tail
        return {
            "unit_rows": self.design.unit_rows,
            "units": self.design.n_units,
            "units_read": self.units_read,
            "groups": sample_design.N_REPLICATES,
            "seed": self.design.seed,
            "confidence": self.confidence,
            "population": self.population,
            "effective_rows": self.whole.row_norms.effective_rows,
            "rows_decoded": self.rows_decoded,
            "rare": {
                "asked": self._rare, "not_excluded": self.not_excluded, "confidence": 1.0 - STATED_MISS,
                "units": self.units_read,
            },
            "estimator": self._estimator.name,
            "tail": {
                "index": tail.index if math.isfinite(tail.index) else "inf", "largest": tail.largest,
                "least": LEAST_TAIL_INDEX,
            },
            "widened": self.widening,
            **self._independence(),
            **self._estimator.to_dict(),
        }  # fmt: skip

    def _independence(self) -> dict[str, float | None]:
        """Return the number of independent rows that those read count as, as JSON types."""
        if not self.whole.row_norms.squares:
            return {"n_effective": None, "independent_rows": None}
        found = self._units.independence
        return {
            "n_effective": found.effective_rows if math.isfinite(found.effective_rows) else None,
            "independent_rows": found.independent_rows,
        }
