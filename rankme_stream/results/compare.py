"""Comparison of several runs: their ranking, overlapping intervals, and correlation with downstream scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankme_stream.errors import UsageError, argument
from rankme_stream.results.comparable_run import (
    LIDAR,
    ComparableRun,
    check_metric,
    incompatibilities,
    names_of,
    remarks,
)
from rankme_stream.results.comparison import Comparison, Member, Sweep
from rankme_stream.results.correlations import Correlation, Scored, losses
from rankme_stream.results.downstream_scores import Score
from rankme_stream.results.ranking import Standing, ranked, select_highest

_CORRELATIONS = ("spearman", "kendall")
_LEFT_OUT = ("dims.", "presets.")  # left out of the statistics, unless it is the metric compared


@dataclass(frozen=True)
class RunSet:
    """Runs that are compared with each other: one sweep, or all of them."""

    sweep: str | None
    runs: Sequence[ComparableRun] = field(repr=False)
    names: Sequence[str]
    scores: Sequence[Score] | None

    def standings(self, metric: str) -> list[Standing]:
        """Return the ranking of the runs by a metric that all have."""
        return ranked({name: run.numbers[metric] for name, run in zip(self.names, self.runs, strict=True)})

    @property
    def hyperparameters(self) -> dict[str, float] | None:
        """Hyperparameter of every run, by name; None where there are none."""
        values = [one.hyperparameter for one in self.scores or ()]
        given = {name: value for name, value in zip(self.names, values, strict=False) if value is not None}
        return given or None

    def incompatibilities(self, metric: str) -> list[str]:
        """Return the reasons why these runs must not be compared by a metric."""
        return incompatibilities(self.runs, self.names, metric)


def compare(
    runs: Sequence[ComparableRun],
    *,
    metric: str = "rankme",
    scores: Sequence[Score] | None = None,
    selects: bool = False,
    allow_mixed: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    left_out: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """Rank runs by a metric, sweep by sweep.

    Parameters
    ----------
    runs
        At least one run.
    metric
        Metric that all runs have: ``rankme``, ``normalized.vendi``, ``dims.64.rankme``, ``presets.reptrix``.
    scores
        Score of every run, in their order, from ``downstream_scores.match_scores``; every metric is then correlated
        with them.
    selects
        Also select a run of each sweep by the rule of ``ranking.select_highest``.
    allow_mixed
        Note what forbids a comparison (``comparable_run.incompatibilities``) instead of refusing it.
    confidence, seed
        Confidence and seed of the bootstrap intervals of correlations.
    left_out
        Sources without a result, to be listed: ``source`` and ``error`` of each.

    Raises
    ------
    UsageError
        If there is no such metric, a run lacks it, or the runs must not be compared.
    """
    check_metric(metric)
    names = names_of(runs)
    for name, run in zip(names, runs, strict=True):
        if metric not in run.numbers:
            raise UsageError(f"the result of {name} has no {metric}: score it again{_option_for(metric)}")
    whole = RunSet(None, runs, names, scores)
    sweeps = _sweeps(whole)
    mixed = [
        line if one.sweep is None else f"sweep {one.sweep}: {line}"
        for one in sweeps
        for line in one.incompatibilities(metric)
    ]
    if mixed and not allow_mixed:
        raise UsageError(
            f"these runs must not be compared by {metric}: {'; '.join(mixed)}; {argument('allow_mixed', True)} "
            "compares them all the same"
        )
    statistics = _Statistics(metric, seed, confidence, allow_mixed)
    by_sweep = [None if one.scores is None else statistics.of(one) for one in sweeps]
    definitions = {run.definitions[metric] for run in runs}
    return Comparison(
        metric=metric,
        definition=definitions.pop() if len(definitions) == 1 else None,
        mixed=mixed,
        remarks=remarks(runs, names),
        sweeps=[_sweep(one, metric, selects, found) for one, found in zip(sweeps, by_sweep, strict=True)],
        overall=statistics.overall(whole, by_sweep) if scores is not None and len(sweeps) > 1 else None,
        left_out=left_out,
    )


def _option_for(metric: str) -> str:
    if metric == LIDAR:
        return f" with {argument('groups')}"
    if metric.startswith("dims."):
        return f" with {argument('dims')} {metric.split('.')[1]}"
    return f" with {argument('normalize')}" if metric.startswith("normalized.") else ""


def _sweeps(whole: RunSet) -> list[RunSet]:
    if whole.scores is None:
        return [whole]
    members: dict[str | None, list[int]] = {}
    for index, score in enumerate(whole.scores):
        members.setdefault(score.sweep, []).append(index)
    return [
        RunSet(
            sweep,
            [whole.runs[index] for index in indices],
            [whole.names[index] for index in indices],
            [whole.scores[index] for index in indices],
        )
        for sweep, indices in members.items()
    ]


def _sweep(compared: RunSet, metric: str, selects: bool, statistics: dict[str, Any] | None) -> Sweep:
    standings = compared.standings(metric)
    runs = dict(zip(compared.names, compared.runs, strict=True))
    scores = dict(zip(compared.names, compared.scores or (), strict=False))
    return Sweep(
        compared.sweep,
        [Member(one, runs[one.name].uri, runs[one.name].origin, scores.get(one.name)) for one in standings],
        select_highest(standings, compared.hyperparameters) if selects else None,
        statistics,
    )


@dataclass(frozen=True)
class _Statistics:
    """Correlations and losses of every metric against the scores, as JSON types."""

    metric: str
    seed: int
    confidence: float
    allow_mixed: bool

    def of(self, sweep: RunSet) -> dict[str, Any]:
        """Return correlations and losses of every metric that all runs of a sweep have."""
        scores = self._scores(sweep)
        any_run = losses(scores, sweep.names)
        scored = self._scored(sweep)
        return {
            "runs": len(sweep.runs),
            "oracle_score": any_run["oracle_score"],
            "lost_by_chance": any_run["lost_by_chance"],
            "metrics": {name: self._of_metric(sweep, name, scored, scores) for name in self._metrics(sweep)},
        }

    def overall(self, whole: RunSet, by_sweep: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        """Return correlations over the runs of all sweeps together, and the mean loss over sweeps."""
        scored, sweeps = self._scored(whole), [one for one in by_sweep if one is not None]
        by_metric = {}
        for name in self._metrics(whole):
            reason = self._reason(whole, name)
            lost = [one["metrics"][name]["lost"] for one in sweeps]
            by_metric[name] = self._correlations(whole, name, scored, reason) | {
                "lost": None if None in lost else math.fsum(lost) / len(lost)
            }
        lost_by_chance = math.fsum(one["lost_by_chance"] for one in sweeps) / len(sweeps)
        return {"runs": len(whole.runs), "sweeps": len(sweeps), "lost_by_chance": lost_by_chance, "metrics": by_metric}

    def _scores(self, compared: RunSet) -> dict[str, float]:
        assert compared.scores is not None
        return {name: one.score for name, one in zip(compared.names, compared.scores, strict=True)}

    def _scored(self, compared: RunSet) -> Scored:
        return Scored(list(self._scores(compared).values()), seed=self.seed, confidence=self.confidence)

    def _metrics(self, compared: RunSet) -> list[str]:
        return [
            name
            for name in compared.runs[0].numbers
            if all(name in run.numbers for run in compared.runs)
            and (name == self.metric or not name.startswith(_LEFT_OUT))
        ]

    def _reason(self, compared: RunSet, metric: str) -> str | None:
        """Return the reason not to correlate a metric with the scores, or None."""
        mixed = compared.incompatibilities(metric)
        if mixed and not self.allow_mixed:
            return mixed[0]
        absent = sum(run.numbers[metric].value is None for run in compared.runs)
        return f"{absent} of {len(compared.runs)} runs have no value" if absent else None

    def _of_metric(self, sweep: RunSet, metric: str, scored: Scored, scores: Mapping[str, float]) -> dict[str, Any]:
        reason = self._reason(sweep, metric)
        correlations = self._correlations(sweep, metric, scored, reason)
        selection = None if reason else select_highest(sweep.standings(metric), sweep.hyperparameters)
        if selection is None:
            return correlations | {"selected": [], "selected_score": None, "lost": None}
        lost = losses(scores, selection.names)
        return correlations | {
            "selected": list(selection.names), "selected_score": lost["selected_score"], "lost": lost["lost"],
        }  # fmt: skip

    def _correlations(self, compared: RunSet, metric: str, scored: Scored, reason: str | None) -> dict[str, Any]:
        if reason is not None:
            return {name: Correlation(None, reason=reason).to_dict() for name in _CORRELATIONS}
        values = [value for run in compared.runs if (value := run.numbers[metric].value) is not None]
        return {name: one.to_dict() for name, one in scored.correlations(values).items()}
