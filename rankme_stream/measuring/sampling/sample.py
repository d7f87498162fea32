"""Sample of a source: units of its rows in replicates, and estimates from them for all rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.sampling.replicates import Jackknife, merged
from rankme_stream.measuring.sampling.unit_reader import KeptRows, UnitReader
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.estimates import Estimate, Metric
from rankme_stream.spectra.jackknife import Spread, with_spread
from rankme_stream.spectra.spectrum import Spectrum

# Largest bias of RankMe, relative to it. The bias of rows with a flat Gaussian spectrum is D/(8 n), so 8 rows per
# feature leave 1/64. A larger bias shows that neighbouring rows are so alike that fewer count; it does not fall like
# 1/n.
_LARGEST_BIAS = 1 / 48
# Smallest bias to refuse, in standard errors. Below it chance moves RankMe as much as the bias does, and refusing by
# the bias would keep the samples in which chance made it small.
_SMALLEST_REFUSED_BIAS = 1.5
_EMPTY_REPLICATE = "so many rows were left out that a replicate has none"


def _reason_withheld(metric: Metric, spread: Spread | None) -> str | None:
    """Return the reason not to state a metric of a sample, or None."""
    if spread is None:
        return "a sample does not determine the smallest singular values"
    if abs(spread.bias) > metric.largest_bias * spread.standard_error:
        return "singular values lie too close together for these rows to determine their order"
    return None


class _View:
    """Results of the units read so far; nothing is merged or solved twice."""

    def __init__(self, replicates: Mapping[int, PartialResult], workers: int, unit_roundoff: float) -> None:
        self.replicates = [replicates[number] for number in sorted(replicates)]
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._jackknives: dict[str, Jackknife] = {}

    @cached_property
    def whole(self) -> PartialResult:
        return merged(self.replicates)

    def jackknife(self, kind: str, n_features: int | None = None) -> Jackknife:
        """Return the jackknife of the rows (``raw``) or unit rows (``unit``), or of their first features."""
        if kind in self._jackknives and n_features is None:
            return self._jackknives[kind]
        replicates = [_accumulator(replicate, kind, n_features) for replicate in self.replicates]
        whole = _accumulator(self.whole, kind, n_features)
        jackknife = Jackknife(replicates, whole, self._workers, unit_roundoff=self._unit_roundoff)
        if n_features is None:
            self._jackknives[kind] = jackknife
        return jackknife

    @cached_property
    def rankme(self) -> Spread | str:
        """Spread of RankMe, or the reason why no interval can be stated."""
        row_norms, jackknife = self.whole.row_norms, self.jackknife("raw")
        wanted = sample_design.ROWS_PER_FEATURE * jackknife.whole.n_features
        if not row_norms.squares:
            return "every row that was read is zero"
        if not row_norms.effective_rows >= wanted:  # nan is too few
            few = f"the rows read carry the weight of only {row_norms.effective_rows:,.0f} rows of equal length"
            return f"{few}, and an interval needs {wanted:,} (8 per feature)"
        if jackknife.has_empty_replicate:
            return _EMPTY_REPLICATE
        effective, count = self._effective_replicates, len(self.replicates)
        if not effective >= count / 2:
            return f"the {count} replicates carry the weight of only {effective:.1f} equal ones, too few to compare"
        if jackknife.spectrum.raw.values[0] == 0.0:
            return "the arithmetic cannot distinguish the rows that were read from zeros"
        value, spread = jackknife.rankme()
        if not abs(spread.bias) <= max(_LARGEST_BIAS * value, _SMALLEST_REFUSED_BIAS * spread.standard_error):
            return f"RankMe of the rows read is biased by about {abs(spread.bias) / value:.0%}, too much to correct"
        return spread

    @property
    def _effective_replicates(self) -> float:
        exponent = self.whole.row_norms.exponent
        norms = [replicate.row_norms for replicate in self.replicates]
        squares = [one.rescale(max(exponent, one.exponent)).squares for one in norms]
        return math.fsum(squares) ** 2 / math.fsum(square**2 for square in squares)


def _accumulator(partial: PartialResult, kind: str, n_features: int | None) -> Accumulator:
    accumulator = partial.accumulators[kind]
    return accumulator if n_features is None else accumulator.prefix(n_features)


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
        self.units_read = 0
        self.plan: Plan = runner.with_probes(runner.plan_sample(arithmetic, design, held_bytes=held_bytes))
        self._reader, self._unit_roundoff = UnitReader(runner, self.plan, design), runner.source.stored.unit_roundoff
        self._view = self._new_view()

    def _new_view(self) -> _View:
        return _View(self._reader.replicates, self.plan.workers, self._unit_roundoff)

    @property
    def whole(self) -> PartialResult:
        """Merge of all replicates."""
        return self._view.whole

    @property
    def spectrum(self) -> Spectrum:
        """Spectrum of the rows read."""
        return self._view.jackknife("raw").spectrum

    @property
    def fraction(self) -> float:
        """Fraction of the units that was read; 0 if the sample stands for the population of the dump."""
        return 0.0 if self.population else self.units_read / self.design.n_units

    def read_to(self, n_units: int, progress: Report | None = None) -> None:
        """Read on until ``n_units`` units are read: whole rounds of the replicates. Raises as ``UnitReader.read``."""
        self._reader.read(self.units_read, n_units, progress)
        self.units_read = n_units
        self._view = self._new_view()

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
        spread = self._view.rankme
        if isinstance(spread, str):
            return Estimate(None, reason=spread, details={"sample": estimate.value})
        return self._widen(estimate, spread, lambda spread: spread.for_all_rows(self.fraction))

    def arithmetic_error(self, estimate: Estimate) -> float | None:
        """Return the part of RankMe's half-width due to the arithmetic, directly and through the bias."""
        spread = self._view.rankme
        if estimate.half_width is None or isinstance(spread, str):
            return estimate.half_width
        return (1.0 + spread.for_all_rows(self.fraction).noise) * estimate.half_width

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
        jackknife = self._view.jackknife(kind, n_features)
        return self._widen_all(
            jackknife, table, estimate(jackknife.spectrum), lambda spread: spread.for_all_rows(self.fraction)
        )

    def of_population(
        self, kind: str, table: Mapping[str, Metric], exact: Mapping[str, Estimate], n_features: int | None = None
    ) -> dict[str, Estimate]:
        """Return metrics of all rows as estimates for their population.

        From the rows of the sample to all rows, the bias falls like 1/n and the standard error like its root.
        """
        times = self.design.n_units / self.units_read
        jackknife = self._view.jackknife(kind, n_features)
        return self._widen_all(jackknife, table, exact, lambda spread: spread.for_more_rows(times))

    def _widen_all(
        self,
        jackknife: Jackknife,
        table: Mapping[str, Metric],
        estimates: Mapping[str, Estimate],
        scale: Callable[[Spread], Spread],
    ) -> dict[str, Estimate]:
        rankme = self._view.rankme
        if isinstance(rankme, str):
            return {name: Estimate(None, reason=rankme, details=one.details) for name, one in estimates.items()}
        if jackknife.has_empty_replicate:
            return {
                name: Estimate(None, reason=_EMPTY_REPLICATE, details=one.details) for name, one in estimates.items()
            }
        spreads = jackknife.spreads(table)
        widened = {}
        for name, one in estimates.items():
            reason = _reason_withheld(table[name], spreads.get(name))
            if one.value is None or reason is None:
                widened[name] = self._widen(one, spreads.get(name), scale)
            else:
                widened[name] = Estimate(None, reason=reason, details=dict(one.details) | {"sample": one.value})
        return widened

    def _widen(self, estimate: Estimate, spread: Spread | None, scale: Callable[[Spread], Spread]) -> Estimate:
        if estimate.value is None or spread is None:
            return Estimate(None, reason=estimate.reason, details=estimate.details)
        return with_spread(estimate, scale(spread), confidence=self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return the size of the sample and its design, as JSON types."""
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
        }
