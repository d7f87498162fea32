"""Result of one pass: every row counted, the spectrum, and RankMe with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.spectra.estimates import Estimate, estimate_rankme, is_within
from rankme_stream.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class CompletedPass:
    """Result of one pass over the rows."""

    plan: Plan
    partial: PartialResult
    spectrum: Spectrum
    rankme: Estimate
    confidence: float

    @classmethod
    def of(
        cls, partial: PartialResult, plan: Plan, unit_roundoff: float, rules: Rules, confidence: float
    ) -> CompletedPass:
        """Return the pass with that partial result; raise if it does not count every row of the plan."""
        check_count(partial, plan.row_stop - plan.row_start, rules)
        spectrum = partial.spectrum("raw", unit_roundoff, confidence)
        return cls(plan, partial, spectrum, estimate_rankme(spectrum), confidence)

    def is_within(self, tolerance: float) -> bool:
        """Return whether the half-width of RankMe's interval, relative to RankMe, is within a tolerance."""
        return is_within(self.rankme, self.spectrum, tolerance)

    def describe(self) -> dict[str, Any]:
        """Return the arithmetic and the half-width of RankMe's interval, as JSON types."""
        record = {"method": self.plan.method, "precision": self.plan.precision, "half_width": self.rankme.half_width}
        return record | ({"turn": self.plan.pass_number} if self.plan.pass_number else {})


def check_count(partial: PartialResult, n_rows: int, rules: Rules) -> None:
    """Raise unless every row is accumulated or counted as left out."""
    left_out = partial.audit.rows_left_out(rules)
    n_kept = partial.accumulators["raw"].n_rows
    groups = partial.groups
    grouped = n_kept if groups is None else groups.n_unlabelled + sum(one.n_rows for one in groups.closed.values())
    if n_kept + left_out != n_rows or grouped != n_kept:
        raise ArithmeticCheckError("rows counted and rows read do not agree; please report this")
