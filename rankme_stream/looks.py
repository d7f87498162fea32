"""A sample read look by look until its interval is narrow enough."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rankme_stream import sampling
from rankme_stream.accumulators import Accumulator
from rankme_stream.engines import local
from rankme_stream.errors import UsageError
from rankme_stream.estimates import Estimate, Metric, estimate_rankme
from rankme_stream.jackknife import Jackknife, Spread, merged, with_spread
from rankme_stream.ladder import Reader, Rung
from rankme_stream.planning import Plan, largest_unit
from rankme_stream.sampling import Design
from rankme_stream.spectrum import Spectrum

_ROWS_FOR_POPULATION = 64  # a feature

Outcome = Literal["met", "blunt", "all", "spent"]  # blunt: a better arithmetic is needed; all: every row had better be


@dataclass(frozen=True)
class Look:
    """RankMe after so many rows, and the half-width that the arithmetic alone leaves it."""

    rows: int
    rankme: Estimate
    arithmetic: float | None

    def is_within(self, tolerance: float) -> bool:
        """Whether the interval's half-width is at most so much, relative to RankMe."""
        value, half_width = self.rankme.value, self.rankme.half_width
        return value is not None and half_width is not None and half_width <= tolerance * abs(value)

    def is_blunt(self, tolerance: float) -> bool:
        """Whether the arithmetic alone leaves so much that the sampling error cannot fit in as well."""
        value = self.rankme.details.get("sample")
        return self.arithmetic is not None and value is not None and self.arithmetic > tolerance * abs(value) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return it as a point of the convergence curve."""
        rankme = self.rankme
        return {"rows": self.rows, "value": rankme.value, "lower": rankme.lower, "upper": rankme.upper}


class _InOrder:
    """Partial results of units, merged into their groups in the order of the units, whoever finishes first."""

    def __init__(self, groups: dict[int, local.Partial], units: Mapping[int, int]) -> None:
        self._groups, self._units = groups, units
        self._waiting = iter(units)
        self._next = next(self._waiting, None)
        self._done: dict[int, local.Partial] = {}
        self._lock = threading.Lock()

    def add(self, unit: int, partial: local.Partial) -> None:
        with self._lock:
            self._done[unit] = partial
            while self._next is not None and self._next in self._done:
                group, done = self._units[self._next], self._done.pop(self._next)
                self._groups[group] = self._groups[group].merge(done) if group in self._groups else done
                self._next = next(self._waiting, None)


class Sample:
    """Some units of a source in groups, by one arithmetic; grows look by look.

    Attributes
    ----------
    units_read
        How many of the design's units are in.
    rows_decoded
        Rows of the chunks that were decoded for them, those decoded again by a later look counted again.
    looks
        RankMe after each look.
    """

    def __init__(self, reader: Reader, rung: Rung, design: Design, *, confidence: float, population: bool) -> None:
        self.design, self.confidence, self.population = design, confidence, population
        self.units_read = self.rows_decoded = 0
        self.looks: list[Look] = []
        self._reader = reader
        self._groups: dict[int, local.Partial] = {}
        self._last = local.Progress(0, 0, 0, 0.0)
        self.plan: Plan = reader.plan(rung, (design.unit_rows, sampling.N_GROUPS))

    @property
    def groups(self) -> list[local.Partial]:
        """What each group came to."""
        return [self._groups[group] for group in sorted(self._groups)]

    @property
    def whole(self) -> local.Partial:
        """What all groups came to."""
        return merged(self.groups)

    @property
    def fraction(self) -> float:
        """Share of the rows wanted that was read: 0 where they stand for what the dump was drawn from."""
        return 0.0 if self.population else self.units_read / self.design.n_units

    def read_until(
        self,
        tolerance: float,
        max_rows: int | None,
        progress: Callable[[local.Progress], None] | None,
        *,
        is_last: bool,
    ) -> Outcome:
        """Read look by look until RankMe's interval is within the tolerance, or it is clear that it will not be.

        ``is_last`` keeps on when the arithmetic alone is too coarse, for there is no better one.
        """
        n_rows = self.design.row_stop - self.design.row_start
        for n_units in self.design.looks(max_rows):
            self.read_to(n_units, progress)
            look = self.look(progress)
            if look.is_within(tolerance):
                return "met"
            if look.is_blunt(tolerance) and not is_last:
                return "blunt"
            if max_rows is None and self._rows_wanted(look, tolerance) > n_rows / 2:
                return "all"
        return "all" if max_rows is None else "spent"

    def read_to(self, n_units: int, progress: Callable[[local.Progress], None] | None = None) -> None:
        """Read on until so many units are in."""
        units = self.design.units(self.units_read, n_units)
        bounds = self._reader.source.bounds(*self._reader.rows)
        block_rows = max(self.plan.block_rows, largest_unit(bounds, *self._reader.rows))
        cuts = list(self.design.cuts(list(units), bounds, block_rows))
        before = self._last

        def report(done: local.Progress) -> None:
            self._last = local.Progress(
                before.rows_done + done.rows_done, before.rows_total + done.rows_total,
                before.bytes_read + done.bytes_read, before.elapsed_s + done.elapsed_s,
            )  # fmt: skip
            if progress is not None:
                progress(self._last)

        self._reader.read_units(self.plan, list(units), cuts, _InOrder(self._groups, units).add, report)
        self.units_read = n_units
        self.rows_decoded += self.design.rows_decoded(cuts, bounds)

    def look(self, progress: Callable[[local.Progress], None] | None = None) -> Look:
        """Return RankMe as it is now, and note it; without an interval where the rows are too few for one."""
        whole = self.whole
        estimate = estimate_rankme(self.spectrum())
        arithmetic = estimate.half_width
        reason = self.too_few(whole)
        if reason is not None:
            estimate = Estimate(None, reason=reason, details={"sample": estimate.value})
        elif estimate.value is not None:
            jackknife = self.jackknife("raw")
            estimate = self._widened(estimate, jackknife.rankme(), jackknife)
        look = Look(whole.accumulators["raw"].n_rows, estimate, arithmetic)
        self.looks.append(look)
        if progress is not None:
            progress(replace(self._last, rankme=(estimate.value, estimate.lower, estimate.upper)))
        return look

    def _rows_wanted(self, look: Look, tolerance: float) -> float:
        """Rows that the tolerance probably takes, if errors fall like the root of 1/n - 1/N; 0 where none is known."""
        half_width, value = look.rankme.half_width, look.rankme.value
        if value is None or half_width is None:
            return 0.0
        wanted, now = tolerance * abs(value), half_width
        if look.arithmetic is not None:
            wanted, now = wanted - look.arithmetic, now - look.arithmetic
        if wanted <= 0.0:
            return math.inf
        all_rows = math.inf if self.population else self.design.row_stop - self.design.row_start
        left = (1.0 / look.rows - 1.0 / all_rows) * (wanted / now) ** 2 if now > 0.0 else math.inf
        return 1.0 / (left + 1.0 / all_rows)

    def too_few(self, whole: local.Partial) -> str | None:
        """Return why no interval can be stated: too few rows, or rows of too uneven lengths; None where one can."""
        wanted = sampling.ROWS_A_FEATURE * self.design.n_features
        effective = whole.lengths.effective_rows
        if effective >= wanted or not whole.lengths.squares:
            return None
        return f"{effective:,.0f} effective rows were read, and an interval takes {wanted:,} (8 a feature)"

    def jackknife(self, kind: str, n_features: int | None = None) -> Jackknife:
        """Return the replicates of the rows (``raw``) or unit rows (``unit``), or of the first features of them."""
        accumulators = [group.accumulators[kind] for group in self.groups]
        if n_features is not None:
            accumulators = [one.prefix(n_features) for one in accumulators]
        return Jackknife(accumulators, self.plan.workers)

    def spectrum(self) -> Spectrum:
        """Return the spectrum of the rows read."""
        return self._spectrum(self.whole.accumulators["raw"])

    def _spectrum(self, accumulator: Accumulator) -> Spectrum:
        return accumulator.spectrum(unit_roundoff=self._reader.source.stored.unit_roundoff)

    def estimates(
        self,
        kind: str,
        table: Mapping[str, Metric],
        estimate: Callable[[Spectrum], dict[str, Estimate]],
        n_features: int | None = None,
    ) -> dict[str, Estimate]:
        """Return the metrics of a table, each with an interval for arithmetic and sampling."""
        jackknife = self.jackknife(kind, n_features)
        spectrum = self._spectrum(jackknife.whole)
        found = estimate(spectrum)
        reason = self.too_few(self.whole)
        if reason is not None:
            return {name: Estimate(None, reason=reason, details=one.details) for name, one in found.items()}
        spreads = jackknife.spreads(table, spectrum)
        return {name: self._widened(one, spreads.get(name), jackknife) for name, one in found.items()}

    def of_population(
        self,
        kind: str,
        table: Mapping[str, Metric],
        exact: Mapping[str, Estimate],
        n_features: int | None = None,
    ) -> dict[str, Estimate]:
        """Return metrics of all rows as estimates of what the rows were drawn from.

        Bias and standard error fall like 1/n and its root from the rows of the sample to all.
        """
        jackknife = self.jackknife(kind, n_features)
        spectrum = self._spectrum(jackknife.whole)
        reason = self.too_few(self.whole)
        if reason is not None:
            return {name: Estimate(None, reason=reason, details=one.details) for name, one in exact.items()}
        times = self.design.n_units / self.units_read
        spreads = {name: spread.of_more(times) for name, spread in jackknife.spreads(table, spectrum).items()}
        degrees = jackknife.degrees_of_freedom
        return {
            name: with_spread(one, spreads.get(name), confidence=self.confidence, degrees=degrees)
            for name, one in exact.items()
        }

    def _widened(self, estimate: Estimate, spread: Spread | None, jackknife: Jackknife) -> Estimate:
        rest = None if spread is None else spread.of_rest(self.fraction)
        return with_spread(estimate, rest, confidence=self.confidence, degrees=jackknife.degrees_of_freedom)

    def describe(self) -> dict[str, Any]:
        """Return its arithmetic and what its last look left open, as for a pass over all rows."""
        half_width = self.looks[-1].rankme.half_width
        return {"method": self.plan.method, "precision": self.plan.precision, "half_width": half_width}

    def to_dict(self) -> dict[str, Any]:
        """Return what was sampled and how, as JSON types."""
        return {
            "unit_rows": self.design.unit_rows,
            "units": self.design.n_units,
            "units_read": self.units_read,
            "groups": sampling.N_GROUPS,
            "seed": self.design.seed,
            "confidence": self.confidence,
            "population": self.population,
            "effective_rows": self.whole.lengths.effective_rows,
            "rows_decoded": self.rows_decoded,
        }


def sample_for_population(reader: Reader, rung: Rung, design: Design, *, confidence: float) -> Sample | None:
    """Read what tells how much the rows vary: up to 64 D of them, or all; None if that is less than a unit a group."""
    n_units = min(design.n_units, -(-_ROWS_FOR_POPULATION * design.n_features // design.unit_rows))
    n_units = n_units // sampling.N_GROUPS * sampling.N_GROUPS
    if n_units == 0:
        return None
    sample = Sample(reader, rung, design, confidence=confidence, population=True)
    sample.read_to(n_units)
    return sample


def read_sample(
    reader: Reader,
    rungs: Sequence[Rung],
    design: Design,
    *,
    tolerance: float,
    confidence: float,
    population: bool,
    max_rows: int | None,
    progress: Callable[[local.Progress], None] | None,
) -> tuple[Sample, bool]:
    """Read look by look until RankMe's interval is within the tolerance, and say whether that is the answer.

    Returns
    -------
    sample
        The last one; by a better arithmetic than the first where that left too wide an interval.
    is_answer
        False where more than half of all rows would be needed: then they had better be read all, once.

    Raises
    ------
    UsageError
        If the design's first look holds more rows than are allowed.
    """
    if max_rows is not None and next(design.looks(max_rows), None) is None:
        least = design.first_look * design.unit_rows
        raise UsageError(
            f"max_rows is {max_rows:,}, and an interval takes {least:,} rows of these: 10 a feature, in "
            f"{sampling.N_GROUPS} groups of units of {design.unit_rows:,} rows; allow that many, or leave sample out "
            "and read every row"
        )
    for rung in rungs:
        sample = Sample(reader, rung, design, confidence=confidence, population=population)
        outcome = sample.read_until(tolerance, max_rows, progress, is_last=rung is rungs[-1])
        if sample.looks:
            reader.passes.append(sample.describe())
        if outcome != "blunt":
            break
    return sample, outcome != "all"
