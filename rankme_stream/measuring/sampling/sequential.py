"""How far a sample grows: looks on a fixed schedule, until the interval is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.errors import LimitError, MagnitudeError, UsageError
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.passes.engines.engine import Report
from rankme_stream.passes.planning import sample_design
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.spectra.estimates import Estimate, estimate_rankme

# met: the tolerance; blunt: a better arithmetic is needed; all: every row had better be read; spent: no row is left
Outcome = Literal["met", "blunt", "all", "spent"]

_ROWS_FOR_POPULATION = 64  # a feature


@dataclass(frozen=True)
class Look:
    """RankMe after so many rows, and the half-width that the arithmetic alone leaves it.

    ``is_undetermined`` where the arithmetic cannot tell the rows from rows of zeros.
    """

    rows: int
    rankme: Estimate
    arithmetic_error: float | None
    is_undetermined: bool

    def is_within(self, tolerance: float) -> bool:
        """Whether the interval's half-width is at most so much, relative to RankMe."""
        value, half_width = self.rankme.value, self.rankme.half_width
        return value is not None and half_width is not None and half_width <= tolerance * abs(value)

    def is_blunt(self, tolerance: float) -> bool:
        """Whether the arithmetic alone leaves so much that the sampling error cannot fit in as well."""
        value = self.rankme.details.get("sample")
        if self.is_undetermined:
            return True
        return (
            self.arithmetic_error is not None
            and value is not None
            and self.arithmetic_error > tolerance * abs(value) / 2
        )

    def rows_wanted(self, tolerance: float, n_rows: float) -> float:
        """Rows that the tolerance probably takes, if errors fall like the root of 1/n - 1/N; 0 where none is known."""
        half_width, value = self.rankme.half_width, self.rankme.value
        if value is None or half_width is None:
            return 0.0
        error = self.arithmetic_error or 0.0
        wanted, now = tolerance * abs(value) - error, half_width - error
        if wanted <= 0.0 or now <= 0.0:
            return math.inf if wanted <= 0.0 else 0.0
        return 1.0 / ((1.0 / self.rows - 1.0 / n_rows) * (wanted / now) ** 2 + 1.0 / n_rows)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a point of the convergence curve."""
        rankme = self.rankme
        return {"rows": self.rows, "value": rankme.value, "lower": rankme.lower, "upper": rankme.upper}


def look_at(sample: Sample) -> Look:
    """Return RankMe as a sample tells it now; without a value where the rows are too few for one."""
    estimate = estimate_rankme(sample.spectrum)
    is_undetermined = estimate.value is None and bool(sample.spectrum.raw.consistent.upper.any())
    n_rows = sample.whole.accumulators["raw"].n_rows
    return Look(n_rows, sample.widened(estimate), sample.arithmetic_error(estimate), is_undetermined)


@dataclass(frozen=True)
class SequentialSample:
    """A sample that was read look by look, and how that ended."""

    sample: Sample
    looks: Sequence[Look]
    outcome: Outcome

    def wants_rows(self, tolerance: float) -> bool:
        """Whether more rows would have helped, and were not allowed."""
        return self.outcome == "spent" and not self.looks[-1].is_blunt(tolerance)

    @property
    def is_answer(self) -> bool:
        """Whether the sample is the answer; otherwise every row had better be read."""
        return self.outcome != "all"


def read_sample(
    runner: PassRunner, arithmetics: Sequence[Arithmetic], design: SampleDesign, progress: Report | None
) -> SequentialSample:
    """Read look by look until RankMe's interval is within the tolerance, or it is clear that it will not be.

    Where the arithmetic alone leaves too wide an interval, the same rows are read again by the next one. More than half
    of all rows are not read: then every row had better be.

    Raises
    ------
    UsageError
        If the design's first look holds more rows than are allowed.
    """
    max_rows = _most_rows(design, runner.request.max_rows)
    reading: SequentialSample | None = None
    for arithmetic in arithmetics:
        is_last = arithmetic is arithmetics[-1]
        try:
            sample = Sample(runner, arithmetic, design)
            looks, outcome = _grow(sample, runner.request.tolerance, max_rows, progress, is_last=is_last)
        except MagnitudeError:
            if arithmetic.precision == "float64" or is_last:
                raise
            continue
        except LimitError as error:
            if reading is None and is_last:
                raise
            runner.refused = str(error)
            continue
        if looks:
            described = {"method": sample.plan.method, "precision": sample.plan.precision}
            runner.passes.append(described | {"half_width": looks[-1].rankme.half_width})
        reading = SequentialSample(sample, looks, outcome)
        if outcome != "blunt":
            break
    assert reading is not None  # the last arithmetic raises
    return reading


def _most_rows(design: SampleDesign, max_rows: int | None) -> int | None:
    """Return the most rows that may be read, None for all; refuse so few that they give no interval."""
    if max_rows is None or max_rows >= design.row_stop - design.row_start:
        return None
    if next(design.looks(max_rows), None) is None:
        least = design.first_look * design.unit_rows
        raise UsageError(
            f"max_rows is {max_rows:,}, and an interval takes {least:,} rows of these: 10 a feature, in "
            f"{sample_design.N_GROUPS} groups of units of {design.unit_rows:,} rows; allow that many, or leave sample "
            "out and read every row"
        )
    return max_rows


def _grow(
    sample: Sample, tolerance: float, max_rows: int | None, progress: Report | None, *, is_last: bool
) -> tuple[list[Look], Outcome]:
    n_rows = sample.design.row_stop - sample.design.row_start
    looks: list[Look] = []
    for n_units in sample.design.looks(max_rows):
        sample.read_to(n_units, progress)
        look = look_at(sample)
        looks.append(look)
        if progress is not None:
            progress(replace(sample.done, rankme=(look.rankme.value, look.rankme.lower, look.rankme.upper)))
        if look.is_within(tolerance):
            return looks, "met"
        if look.is_blunt(tolerance) and not is_last:
            return looks, "blunt"
        all_rows = math.inf if sample.population else n_rows
        if max_rows is None and look.rows_wanted(tolerance, all_rows) > n_rows / 2:
            break
    return looks, "all" if max_rows is None else "spent"


def sample_for_population(
    runner: PassRunner, arithmetic: Arithmetic, design: SampleDesign, progress: Report | None
) -> Sample | None:
    """Return a sample that shows how much the rows vary: of up to 64 D of them, or all.

    None if that is less than a unit a replicate.
    """
    wanted = -(-_ROWS_FOR_POPULATION * design.n_features // design.unit_rows)
    n_units = min(design.n_units, max(wanted, design.first_look)) // sample_design.N_GROUPS * sample_design.N_GROUPS
    if n_units == 0:
        return None
    sample = Sample(runner, arithmetic, design)
    sample.read_to(n_units, progress)
    return sample
