"""Result of a comparison of runs, with its JSON form and its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankme_stream.errors import printable
from rankme_stream.numerics.decimals import between
from rankme_stream.results.downstream_scores import Score
from rankme_stream.results.measurement import SCHEMA_VERSION
from rankme_stream.results.ranking import Selection, Standing
from rankme_stream.results.table import format_estimate


@dataclass(frozen=True)
class Member:
    """Run of a sweep: its standing, URI, the origin of its result, and its downstream score."""

    standing: Standing
    uri: str
    origin: str
    score: Score | None

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON types."""
        one = self.standing
        plain: dict[str, Any] = {
            "rank": one.rank,
            "name": one.name,
            "uri": self.uri,
            "result": self.origin,
            "estimate": dict(one.number.estimate),
            "groups": list(one.sets),
            "overlaps": list(one.overlaps),
            "tied_with_best": one.is_tied_with_best,
        }
        if self.score is not None:
            plain |= {"score": self.score.score, "hyperparameter": self.score.hyperparameter}
        return plain


@dataclass(frozen=True)
class Sweep:
    """Runs that are ranked with each other: the best first, those without a value last."""

    name: str | None
    members: Sequence[Member]
    selection: Selection | None
    statistics: Mapping[str, Any] | None

    @property
    def selected(self) -> Member | None:
        """Run selected; None unless a selection was requested and some run has a value."""
        if self.selection is None:
            return None
        return next(one for one in self.members if one.standing.name == self.selection.names[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the sweep as JSON types."""
        return {
            "sweep": self.name,
            "runs": [member.to_dict() for member in self.members],
            "selection": None if self.selection is None else self._selected(self.selection),
            "statistics": None if self.statistics is None else dict(self.statistics),
        }

    def _selected(self, selection: Selection) -> dict[str, Any]:
        assert self.selected is not None
        return {
            "rule": "highest",
            "name": selection.names[0],
            "uri": self.selected.uri,
            "decided_by": selection.decided_by,
            "equal": list(selection.names[1:]),
            "tied": list(selection.tied),
        }


@dataclass(frozen=True)
class Comparison:
    """Result of ``compare``.

    Attributes
    ----------
    metric, definition
        Metric compared, and its formula; None where runs differ in the formula and that was allowed.
    mixed
        Differences that forbid the comparison and were allowed.
    remarks
        Other differences.
    sweeps
        Sweeps; a single one without a name where there are no scores, or their file has no such column.
    overall
        Statistics of the runs of several sweeps together.
    left_out
        Sources without a result, as ``rankme score`` writes them: ``source`` and ``error``.
    """

    metric: str
    definition: str | None
    mixed: Sequence[str]
    remarks: Sequence[str]
    sweeps: Sequence[Sweep]
    overall: Mapping[str, Any] | None
    left_out: Sequence[Mapping[str, Any]]

    @property
    def selected(self) -> Sequence[str]:
        """URI of the run selected in each sweep; the origin of its result where several results have that URI."""
        uses = Counter(member.uri for sweep in self.sweeps for member in sweep.members)
        selected = [sweep.selected for sweep in self.sweeps if sweep.selected is not None]
        return [one.uri if uses[one.uri] == 1 else one.origin for one in selected]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types, as docs/comparing.md describes."""
        return {
            "schema_version": SCHEMA_VERSION,
            "metric": self.metric,
            "definition": self.definition,
            "mixed": list(self.mixed),
            "remarks": list(self.remarks),
            "left_out": [dict(one) for one in self.left_out],
            "sweeps": [sweep.to_dict() for sweep in self.sweeps],
            "overall": None if self.overall is None else dict(self.overall),
        }

    def __str__(self) -> str:
        """Return the table that ``rankme compare`` prints."""
        lines = [printable(f"{self.metric}: {self.definition or 'by several definitions'}; the highest first")]
        for sweep in self.sweeps:
            lines += ["", *_ranking_lines(sweep, self.metric)]
        lines += ["", *_notes(self)]
        for sweep in self.sweeps:
            if sweep.statistics is not None:
                title = "Against the scores" + ("" if sweep.name is None else f", sweep {sweep.name}")
                lines += ["", *_statistics_lines(title, sweep.statistics)]
        if self.overall is not None:
            title = f"Against the scores, {self.overall['sweeps']} sweeps together; lost: the mean over sweeps"
            lines += ["", *_statistics_lines(title, self.overall)]
        return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows in columns below the titles in the first row; columns with nothing below the title are left out."""
    safe = [[printable(cell) for cell in row] for row in rows]
    kept = [column for column in zip(*safe, strict=True) if any(column[1:])]
    wide = [[cell.ljust(max(map(len, column))) for cell in column] for column in kept]
    return [f"  {'  '.join(row)}".rstrip() for row in zip(*wide, strict=True)]


def _ranking_lines(sweep: Sweep, metric: str) -> list[str]:
    ranked = [one.standing for one in sweep.members if one.standing.rank is not None]
    is_certain = all(one.number.estimate["confidence"] == 1.0 for one in ranked)
    rows = [("rank", "run", metric, "interval", "confidence", "sets", "hyperparameter", "score")]
    for member in sweep.members:
        one = member.standing
        value, interval = format_estimate(one.number.estimate)
        score = member.score
        rows.append(
            (
                "-" if one.rank is None else str(one.rank),
                one.name,
                value,
                interval or ("" if one.rank is not None else str(one.number.estimate["reason"])),
                "" if is_certain or one.rank is None else _confidence(one.number.estimate["confidence"]),
                " ".join(one.sets),
                "" if score is None or score.hyperparameter is None else f"{score.hyperparameter:g}",
                "" if score is None else f"{score.score:g}",
            )
        )
    title = [] if sweep.name is None else [printable(f"Sweep {sweep.name}")]
    selected = [] if sweep.selection is None else ["", printable(f"  Selected: {_reasons(sweep.selection)}")]
    return [*title, *_columns(rows), *selected]


def _confidence(confidence: float | None) -> str:
    return "none stated" if confidence is None else f"{confidence:g}"


def _reasons(selection: Selection) -> str:
    name, n_tied = selection.names[0], len(selection.tied)
    match selection.decided_by:
        case "interval":
            return f"{name}, above all others."
        case "hyperparameter":
            return f"{name}, of the smallest hyperparameter among the {n_tied} runs tied for the highest."
        case "value":
            return f"{name}, of the highest value; undecided among the {n_tied} runs tied for it."
        case "order":
            equal = ", ".join(selection.names[1:])
            return f"{name}, named first; undecided: {equal} of the same value."


def _notes(comparison: Comparison) -> list[str]:
    members = [member.standing for sweep in comparison.sweeps for member in sweep.members]
    lines = []
    if any(one.sets for one in members):
        lines.append("  Runs with a letter in common cannot be told apart: their intervals overlap.")
    if len(members) > 1 and not any(one.sets for one in members):
        lines.append("  No two intervals overlap.")
    lines += [f"  Compared all the same: {line}." for line in comparison.mixed]
    lines += [f"  Note: {line}." for line in comparison.remarks]
    lines += [f"  Left out: {_left_out(one['source']['uri'], one['error']['message'])}." for one in comparison.left_out]
    return [printable(line) for line in lines]


def _left_out(uri: str, message: str) -> str:
    return message if message.startswith(uri) else f"{uri}: {message}"


def _statistics_lines(title: str, statistics: Mapping[str, Any]) -> list[str]:
    rows = [("metric", "Spearman", "", "Kendall", "", "lost", "")]
    for metric, one in statistics["metrics"].items():
        spearman, kendall = _correlation(one["spearman"]), _correlation(one["kendall"])
        lost = "-" if one["lost"] is None else f"{one['lost']:.4g}"
        rows.append((metric, *spearman, *kendall, lost, one["spearman"].get("reason", "")))
    oracle = f" of the oracle's {statistics['oracle_score']:.6g}" if "oracle_score" in statistics else ""
    return [
        printable(f"{title}: {statistics['runs']} runs"),
        *_columns(rows),
        f"  A run drawn at random loses {statistics['lost_by_chance']:.4g}{oracle} on average.",
    ]


def _correlation(one: Mapping[str, Any]) -> tuple[str, str]:
    value = "-" if one["value"] is None else f"{one['value']:.3f}"
    return value, "" if one["lower"] is None else between(one["lower"], one["upper"], 3)
