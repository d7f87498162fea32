"""Some units of a source, in groups, and what they tell of all rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.sampling.replicates import Jackknife, merged
from rankme_stream.passes.engines.engine import Progress, Report
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.estimates import Estimate, Metric
from rankme_stream.spectra.jackknife import Spread, with_spread
from rankme_stream.spectra.spectrum import Spectrum

# Of RankMe, relative to it. Rows of a flat Gaussian spectrum leave D/(8 n), so 8 a feature leave 1/64; a larger
# bias says that neighbouring rows are so alike that fewer count, and then it does not fall like 1/n.
_LARGEST_BIAS = 1 / 48
# In standard errors. Below it chance moves RankMe as much as the bias does, and refusing by the bias would keep the
# samples where chance made it small.
_BIAS_TOLD = 1.5
_EMPTY_GROUP = "so many rows were left out that a group has none"


class _InOrder:
    """Partial results of units, merged into their groups in the order of the units, whoever finishes first."""

    def __init__(self, groups: dict[int, PartialResult], units: Mapping[int, int]) -> None:
        self._groups, self._units = groups, units
        self._waiting = iter(units)
        self._next = next(self._waiting, None)
        self._done: dict[int, PartialResult] = {}
        self._lock = threading.Lock()

    def add(self, unit: int, partial: PartialResult) -> None:
        with self._lock:
            self._done[unit] = partial
            while self._next is not None and self._next in self._done:
                group, done = self._units[self._next], self._done.pop(self._next)
                self._groups[group] = self._groups[group].merge(done) if group in self._groups else done
                self._next = next(self._waiting, None)


def _reason_withheld(metric: Metric, spread: Spread | None) -> str | None:
    """Say why a sample does not tell a metric; None where it does."""
    if spread is None:
        return "a part of the rows tells too little of the smallest singular values"
    if abs(spread.bias) > metric.largest_bias * spread.standard_error:
        return "singular values lie too close together for their order to be told from these rows"
    return None


class _View:
    """What the units read so far tell; nothing is merged or solved twice."""

    def __init__(self, groups: Mapping[int, PartialResult], workers: int, unit_roundoff: float) -> None:
        self.groups = [groups[group] for group in sorted(groups)]
        self._workers, self._unit_roundoff = workers, unit_roundoff
        self._jackknives: dict[str, Jackknife] = {}

    @cached_property
    def whole(self) -> PartialResult:
        return merged(self.groups)

    def jackknife(self, kind: str, n_features: int | None = None) -> Jackknife:
        """Return the replicates of the rows (``raw``) or unit rows (``unit``), or of the first features of them."""
        if kind in self._jackknives and n_features is None:
            return self._jackknives[kind]
        groups = [_part(group, kind, n_features) for group in self.groups]
        whole = _part(self.whole, kind, n_features)
        made = Jackknife(groups, whole, self._workers, unit_roundoff=self._unit_roundoff)
        if n_features is None:
            self._jackknives[kind] = made
        return made

    @cached_property
    def rankme(self) -> Spread | str:
        """The spread of RankMe, or why no interval can be stated."""
        row_norms, jackknife = self.whole.row_norms, self.jackknife("raw")
        wanted = sample_design.ROWS_A_FEATURE * jackknife.whole.n_features
        if not row_norms.squares:
            return "every row that was read is zero"
        if not row_norms.effective_rows >= wanted:  # nan is too few
            few = f"the rows read weigh as {row_norms.effective_rows:,.0f} of equal length"
            return f"{few}, and an interval takes {wanted:,} (8 a feature)"
        if jackknife.has_empty_group:
            return _EMPTY_GROUP
        effective = self._effective_groups
        if not effective >= len(self.groups) / 2:
            return f"the {len(self.groups)} groups of rows weigh as {effective:.1f} of equal length, too few to compare"
        if jackknife.spectrum.raw.values[0] == 0.0:
            return "the arithmetic cannot tell the rows that were read from zeros"
        value, spread = jackknife.rankme()
        if not abs(spread.bias) <= max(_LARGEST_BIAS * value, _BIAS_TOLD * spread.standard_error):
            return (
                f"RankMe of the rows read is off by about {abs(spread.bias) / value:.0%}, too much to be corrected for"
            )
        return spread

    @property
    def _effective_groups(self) -> float:
        exponent = self.whole.row_norms.exponent
        squares = [group.row_norms.rescale(max(exponent, group.row_norms.exponent)).squares for group in self.groups]
        return math.fsum(squares) ** 2 / math.fsum(square**2 for square in squares)


def _part(partial: PartialResult, kind: str, n_features: int | None) -> Accumulator:
    accumulator = partial.accumulators[kind]
    return accumulator if n_features is None else accumulator.prefix(n_features)


class Sample:
    """Some units of a source in groups, by one arithmetic; grows.

    Attributes
    ----------
    units_read
        How many of the design's units are in.
    rows_decoded
        Rows of the chunks that were decoded for them; those decoded again later are counted again.
    done
        Rows, bytes and seconds of reading so far.
    """

    def __init__(self, runner: PassRunner, arithmetic: Arithmetic, design: SampleDesign) -> None:
        self.design = design
        self.confidence, self.population = runner.request.confidence, runner.request.population
        self.units_read = self.rows_decoded = 0
        self.done = Progress(0, 0, 0, 0.0)
        self.plan: Plan = runner.plan_sample(arithmetic, design)
        self._runner = runner
        self._groups: dict[int, PartialResult] = {}
        self._view = self._viewed()

    def _viewed(self) -> _View:
        return _View(self._groups, self.plan.workers, self._runner.source.stored.unit_roundoff)

    @property
    def whole(self) -> PartialResult:
        """What all groups came to."""
        return self._view.whole

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum of the rows read."""
        return self._view.jackknife("raw").spectrum

    @property
    def fraction(self) -> float:
        """Share of the rows wanted that was read: 0 where they stand for what the dump was drawn from."""
        return 0.0 if self.population else self.units_read / self.design.n_units

    def read_to(self, n_units: int, progress: Report | None = None) -> None:
        """Read on until so many units are in."""
        units = self.design.units(self.units_read, n_units)
        bounds = self._runner.source.bounds(*self._runner.rows)
        block_rows = max(self.plan.block_rows, largest_unit(bounds, *self._runner.rows))
        cuts = list(self.design.cuts(list(units), bounds, block_rows))
        before = self.done

        def report(now: Progress) -> None:
            self.done = Progress(
                before.rows_done + now.rows_done, before.rows_total + now.rows_total,
                before.bytes_read + now.bytes_read, before.elapsed_s + now.elapsed_s,
            )  # fmt: skip
            if progress is not None:
                progress(self.done)

        self._runner.read_units(self.plan, list(units), cuts, _InOrder(self._groups, units).add, report)
        self.units_read = n_units
        self.rows_decoded += self.design.rows_decoded(cuts, bounds)
        self._view = self._viewed()

    def widened(self, estimate: Estimate) -> Estimate:
        """Return RankMe of the rows read as an estimate for the rows wanted; no value where none can be given."""
        spread = self._view.rankme
        if isinstance(spread, str):
            return Estimate(None, reason=spread, details={"sample": estimate.value})
        return self._widened(estimate, spread, lambda found: found.for_all_rows(self.fraction))

    def arithmetic_error(self, estimate: Estimate) -> float | None:
        """Return what the arithmetic leaves of RankMe's half-width: its own, and what the bias makes of it."""
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
        """Return metrics of the rows wanted, each with an interval for arithmetic and sampling.

        Parameters
        ----------
        kind
            ``raw``, or ``unit`` for rows of unit length.
        table, estimate
            The metrics, and the function that gives them for a spectrum.
        n_features
            Take the first so many features; None takes all.
        """
        jackknife = self._view.jackknife(kind, n_features)
        return self._all(
            jackknife, table, estimate(jackknife.spectrum), lambda spread: spread.for_all_rows(self.fraction)
        )

    def of_population(
        self, kind: str, table: Mapping[str, Metric], exact: Mapping[str, Estimate], n_features: int | None = None
    ) -> dict[str, Estimate]:
        """Return metrics of all rows as estimates of what the rows were drawn from.

        From the rows of the sample to all rows, the bias falls like 1/n and the standard error like its root.
        """
        times = self.design.n_units / self.units_read
        jackknife = self._view.jackknife(kind, n_features)
        return self._all(jackknife, table, exact, lambda spread: spread.for_more_rows(times))

    def _all(
        self,
        jackknife: Jackknife,
        table: Mapping[str, Metric],
        found: Mapping[str, Estimate],
        scaled: Callable[[Spread], Spread],
    ) -> dict[str, Estimate]:
        rankme = self._view.rankme
        if isinstance(rankme, str):
            return {name: Estimate(None, reason=rankme, details=one.details) for name, one in found.items()}
        if jackknife.has_empty_group:
            return {name: Estimate(None, reason=_EMPTY_GROUP, details=one.details) for name, one in found.items()}
        spreads = jackknife.spreads(table)
        told = {}
        for name, one in found.items():
            reason = _reason_withheld(table[name], spreads.get(name))
            if one.value is None or reason is None:
                told[name] = self._widened(one, spreads.get(name), scaled)
            else:
                told[name] = Estimate(None, reason=reason, details=dict(one.details) | {"sample": one.value})
        return told

    def _widened(self, estimate: Estimate, spread: Spread | None, scaled: Callable[[Spread], Spread]) -> Estimate:
        if estimate.value is None or spread is None:
            return Estimate(None, reason=estimate.reason, details=estimate.details)
        return with_spread(estimate, scaled(spread), confidence=self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return what was sampled and how, as JSON types."""
        return {
            "unit_rows": self.design.unit_rows,
            "units": self.design.n_units,
            "units_read": self.units_read,
            "groups": sample_design.N_GROUPS,
            "seed": self.design.seed,
            "confidence": self.confidence,
            "population": self.population,
            "effective_rows": self.whole.row_norms.effective_rows,
            "rows_decoded": self.rows_decoded,
        }
