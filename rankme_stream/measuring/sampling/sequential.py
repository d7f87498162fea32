"""Sequential sampling: a sample grows in looks on a fixed schedule until its interval is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.errors import LimitError, MagnitudeError, UsageError, argument, counted
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.sampling.gates import Withheld
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.passes.engines.engine import Report
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.spectra.estimates import Estimate, estimate_rankme

# met: the interval is within the tolerance; blunt: a better arithmetic is needed; all: reading every row is better;
# spent: the allowed rows are read
Outcome = Literal["met", "blunt", "all", "spent"]

_ROWS_FOR_POPULATION = 64  # per feature


@dataclass(frozen=True)
class Look:
    """RankMe after a number of rows, and what that look says of the rows not read.

    Attributes
    ----------
    rows, units
        Numbers of rows and of units read.
    all_rows
        Number of rows that the sample stands for; infinite for a population.
    rankme
        RankMe of these.
    arithmetic_error
        Half-width that is due to the arithmetic alone.
    is_undetermined
        Whether the arithmetic cannot distinguish the rows from zeros.
    withheld
        Reason why the rows give no interval; None if they do.
    not_excluded
        Share of units, unlike all that were read, that may have been missed.
    """

    rows: int
    units: int
    all_rows: float
    rankme: Estimate
    arithmetic_error: float | None
    is_undetermined: bool
    withheld: Withheld | None
    not_excluded: float

    def is_within(self, tolerance: float) -> bool:
        """Return whether the interval's half-width is at most the tolerance, relative to RankMe."""
        value, half_width = self.rankme.value, self.rankme.half_width
        return value is not None and half_width is not None and half_width <= tolerance * abs(value)

    def is_blunt(self, tolerance: float) -> bool:
        """Return whether the error of the arithmetic leaves too little of the tolerance for that of sampling."""
        value = self.rankme.details.get("sample")
        if self.is_undetermined:
            return True
        return (
            self.arithmetic_error is not None
            and value is not None
            and self.arithmetic_error > tolerance * abs(value) / 2
        )

    def rows_wanted(self, tolerance: float) -> float | None:
        """Return the rows that the tolerance needs if errors fall like the root of 1/n - 1/N; None if unknown."""
        half_width, value = self.rankme.half_width, self.rankme.value
        if value is None or half_width is None:
            return None
        error = self.arithmetic_error or 0.0
        wanted, now = tolerance * abs(value) - error, half_width - error
        if wanted <= 0.0 or now <= 0.0:
            return self.all_rows if wanted <= 0.0 else None
        return 1.0 / ((1.0 / self.rows - 1.0 / self.all_rows) * (wanted / now) ** 2 + 1.0 / self.all_rows)

    def to_dict(self, tolerance: float) -> dict[str, Any]:
        """Return the look as a point of the convergence curve, as JSON types."""
        wanted = self.rows_wanted(tolerance) if self.withheld is None else self.withheld.rows
        return {
            "rows": self.rows,
            "value": self.rankme.value,
            "lower": self.rankme.lower,
            "upper": self.rankme.upper,
            "units": self.units,
            "withheld": None if self.withheld is None else self.withheld.reason,
            "not_excluded": self.not_excluded,
            "rows_wanted": None if wanted is None or math.isinf(wanted) else math.ceil(min(wanted, self.all_rows)),
        }


def look_at(sample: Sample) -> Look:
    """Return RankMe from a sample as read so far; without a value if the rows are too few for one."""
    estimate = estimate_rankme(sample.spectrum)
    return Look(
        rows=sample.whole.accumulators["raw"].n_rows,
        units=sample.units_read,
        all_rows=math.inf if sample.population else sample.design.n_rows,
        rankme=sample.widen_rankme(estimate),
        arithmetic_error=sample.arithmetic_error(estimate),
        is_undetermined=estimate.value is None and bool(sample.spectrum.raw.consistent.upper.any()),
        withheld=sample.withheld,
        not_excluded=sample.not_excluded,
    )


@dataclass(frozen=True)
class SequentialSample:
    """Sample that was read look by look, and the outcome; no sample, which would take memory, if it is no answer."""

    sample: Sample | None
    looks: Sequence[Look]
    outcome: Outcome

    def wants_rows(self, tolerance: float) -> bool:
        """Return whether more rows than allowed would have narrowed the interval."""
        return self.outcome == "spent" and not self.looks[-1].is_blunt(tolerance)

    @property
    def wants_every_row(self) -> bool:
        """Return whether the last look says that no sample will do."""
        withheld = self.looks[-1].withheld if self.outcome == "spent" else None
        return withheld is not None and withheld.rows == math.inf


def read_sample(
    runner: PassRunner, arithmetics: Sequence[Arithmetic], design: SampleDesign, progress: Report | None
) -> SequentialSample:
    """Read look by look until RankMe's interval is within the tolerance, or clearly will not be.

    If the arithmetic alone makes the interval too wide, the next one reads the same rows again. No more than half of
    all rows are read: beyond that, reading every row is better.

    Raises
    ------
    UsageError
        If the design's first look has more rows than are allowed.
    """
    max_rows = _most_rows(design, runner.request.max_rows)
    result: SequentialSample | None = None
    for arithmetic in arithmetics:
        is_last = arithmetic is arithmetics[-1]
        try:
            held_bytes = 0 if result is None or result.sample is None else result.sample.plan.result_bytes
            sample = Sample(runner, arithmetic, design, held_bytes=held_bytes)
            looks, outcome = _grow(sample, runner.request.tolerance, max_rows, progress, is_last=is_last)
        except MagnitudeError:
            if arithmetic.precision == "float64" or is_last:
                raise
            continue
        except LimitError as error:
            if result is None and is_last:
                raise
            runner.refused = str(error)
            continue
        if looks:
            record = {"method": sample.plan.method, "precision": sample.plan.precision}
            runner.passes.append(record | {"half_width": looks[-1].rankme.half_width})
        result = SequentialSample(None if outcome == "all" else sample, looks, outcome)
        if outcome != "blunt":
            break
    assert result is not None  # if no sample was read, the last arithmetic raised
    return result


def _most_rows(design: SampleDesign, max_rows: int | None) -> int | None:
    """Return the most rows that may be read, None for all; refuse a number too small for an interval."""
    if max_rows is None or max_rows >= design.n_rows:
        return None
    if next(design.looks(max_rows), None) is None:
        least = design.first_look * design.unit_rows
        raise UsageError(
            f"{argument('max_rows')} is {max_rows:,}, and an interval needs {least:,} rows here: "
            f"{design.rows_per_feature:g} per feature or more, in {design.first_look:,} units of "
            f"{counted(design.unit_rows, 'row')}, which find what {100 * design.rare:.3g} % of the units have "
            f"({argument('rare')}); allow that many, or leave {argument('sample')} out and read every row"
        )
    return max_rows


def _grow(
    sample: Sample, tolerance: float, max_rows: int | None, progress: Report | None, *, is_last: bool
) -> tuple[list[Look], Outcome]:
    looks: list[Look] = []
    for n_units in sample.design.looks(max_rows):
        sample.read_to(n_units, progress)
        look = look_at(sample)
        looks.append(look)
        if progress is not None:
            progress(replace(sample.progress, rankme=(look.rankme.value, look.rankme.lower, look.rankme.upper)))
        if look.is_within(tolerance):
            return looks, "met"
        if look.is_blunt(tolerance) and not is_last:
            return looks, "blunt"
        if max_rows is None and (look.rows_wanted(tolerance) or 0.0) > sample.design.n_rows / 2:
            break
    return looks, "all" if max_rows is None else "spent"


def sample_for_population(runner: PassRunner, arithmetic: Arithmetic, progress: Report | None) -> Sample | None:
    """Return a sample, of 64 D rows or of all, that shows how much the rows vary; of fewer than 20 D rows, every one.

    Return None if there is less than one unit per replicate.
    """
    design = runner.population_design()
    n_units = design.n_units
    if not design.in_runs:
        wanted = -(-_ROWS_FOR_POPULATION * design.n_features // design.unit_rows)
        n_units = min(n_units, max(wanted, sample_design.LEAST_UNITS))
        n_units = n_units // sample_design.N_REPLICATES * sample_design.N_REPLICATES
    if n_units < sample_design.N_REPLICATES:
        return None
    sample = Sample(runner, arithmetic, design)
    sample.read_to(n_units, progress)
    return sample
