"""compare(): results of several runs -> a ranking, what intervals cannot tell apart, and how it goes with scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankme_stream.errors import UsageError
from rankme_stream.results.comparable_run import LIDAR, ComparableRun, check_metric, mixture, names_of, remarks
from rankme_stream.results.comparison import Comparison, Member, Sweep
from rankme_stream.results.correlations import Correlation, Scored, losses
from rankme_stream.results.downstream_scores import Score
from rankme_stream.results.ranking import Standing, ranked, select_highest

_CORRELATIONS = ("spearman", "kendall")
_LEFT_OUT = ("dims.", "presets.")  # of the statistics, but for the metric that was asked for


@dataclass(frozen=True)
class Named:
    """Some runs that are compared with each other."""

    sweep: str | None
    runs: Sequence[ComparableRun] = field(repr=False)
    names: Sequence[str]
    scores: Sequence[Score] | None

    def standings(self, metric: str) -> list[Standing]:
        """Rank the runs by a metric that all have."""
        return ranked({name: run.numbers[metric] for name, run in zip(self.names, self.runs, strict=True)})

    @property
    def hyperparameters(self) -> dict[str, float] | None:
        """Of every run, by name; None where there are none."""
        values = [one.hyperparameter for one in self.scores or ()]
        given = {name: value for name, value in zip(self.names, values, strict=False) if value is not None}
        return given or None

    def mixture(self, metric: str) -> list[str]:
        """Return why these runs must not be compared by a metric."""
        return mixture(self.runs, self.names, metric)


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
    """Rank runs by a metric; runs of one sweep with each other.

    Parameters
    ----------
    runs
        At least one.
    metric
        Any that all runs have: ``rankme``, ``normalized.vendi``, ``dims.64.rankme``, ``presets.reptrix``.
    scores
        Of every run, in the order of the runs, from ``scores.matched``; then every metric is set against them.
    selects
        Also select a run of each sweep by the rule of ``ranking.select_highest``.
    allow_mixed
        Note what forbids a comparison (``runs.mixture``) instead of refusing it.
    confidence, seed
        Of the bootstrap intervals of correlations.
    left_out
        Sources without a result, to be told of: ``source`` and ``error`` of each.

    Raises
    ------
    UsageError
        If there is no such metric, a run lacks it, or the runs must not be compared.
    """
    check_metric(metric)
    names = names_of(runs)
    for name, run in zip(names, runs, strict=True):
        if metric not in run.numbers:
            raise UsageError(f"the result of {name} has no {metric}: score it again with {_option_for(metric)}")
    whole = Named(None, runs, names, scores)
    groups = _sweeps(whole)
    mixed = [
        line if group.sweep is None else f"sweep {group.sweep}: {line}"
        for group in groups
        for line in group.mixture(metric)
    ]
    if mixed and not allow_mixed:
        raise UsageError(
            f"these runs must not be compared by {metric}: {'; '.join(mixed)}; --allow-mixed compares them all the same"
        )
    statistics = _Statistics(metric, seed, confidence, allow_mixed)
    of_each = [None if group.scores is None else statistics.of(group) for group in groups]
    definitions = {run.definitions[metric] for run in runs}
    return Comparison(
        metric,
        definitions.pop() if len(definitions) == 1 else None,
        mixed,
        remarks(runs, names),
        [_sweep(group, metric, selects, found) for group, found in zip(groups, of_each, strict=True)],
        statistics.overall(whole, of_each) if scores is not None and len(groups) > 1 else None,
        left_out,
    )


def _option_for(metric: str) -> str:
    if metric == LIDAR:
        return "--group-by"
    return f"--dims {metric.split('.')[1]}" if metric.startswith("dims.") else "--normalize"


def _sweeps(whole: Named) -> list[Named]:
    if whole.scores is None:
        return [whole]
    members: dict[str | None, list[int]] = {}
    for place, score in enumerate(whole.scores):
        members.setdefault(score.sweep, []).append(place)
    return [
        Named(
            sweep,
            [whole.runs[place] for place in places],
            [whole.names[place] for place in places],
            [whole.scores[place] for place in places],
        )
        for sweep, places in members.items()
    ]


def _sweep(group: Named, metric: str, selects: bool, statistics: dict[str, Any] | None) -> Sweep:
    standings = group.standings(metric)
    runs = dict(zip(group.names, group.runs, strict=True))
    scores = dict(zip(group.names, group.scores or (), strict=False))
    return Sweep(
        group.sweep,
        [Member(one, runs[one.name].uri, runs[one.name].place, scores.get(one.name)) for one in standings],
        select_highest(standings, group.hyperparameters) if selects else None,
        statistics,
    )


@dataclass(frozen=True)
class _Statistics:
    """Every metric of a sweep against its scores, as JSON types."""

    metric: str
    seed: int
    confidence: float
    allow_mixed: bool

    def of(self, group: Named) -> dict[str, Any]:
        """Return correlations and losses of every metric that all runs of a sweep have."""
        scores = self._scores(group)
        any_run = losses(scores, group.names)
        scored = self._scored(group)
        return {
            "runs": len(group.runs),
            "oracle_score": any_run["oracle_score"],
            "lost_by_chance": any_run["lost_by_chance"],
            "metrics": {name: self._of_metric(group, name, scored, scores) for name in self._metrics(group)},
        }

    def overall(self, whole: Named, of_each: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        """Return correlations over the runs of all sweeps together, and the means of what each sweep loses."""
        scored, sweeps = self._scored(whole), [one for one in of_each if one is not None]
        found = {}
        for name in self._metrics(whole):
            reason = self._reason(whole, name)
            lost = [one["metrics"][name]["lost"] for one in sweeps]
            found[name] = self._correlations(whole, name, scored, reason) | {
                "lost": None if None in lost else math.fsum(lost) / len(lost)
            }
        lost_by_chance = math.fsum(one["lost_by_chance"] for one in sweeps) / len(sweeps)
        return {"runs": len(whole.runs), "sweeps": len(sweeps), "lost_by_chance": lost_by_chance, "metrics": found}

    def _scores(self, group: Named) -> dict[str, float]:
        assert group.scores is not None
        return {name: one.score for name, one in zip(group.names, group.scores, strict=True)}

    def _scored(self, group: Named) -> Scored:
        return Scored(list(self._scores(group).values()), seed=self.seed, confidence=self.confidence)

    def _metrics(self, group: Named) -> list[str]:
        return [
            name
            for name in group.runs[0].numbers
            if all(name in run.numbers for run in group.runs)
            and (name == self.metric or not name.startswith(_LEFT_OUT))
        ]

    def _reason(self, group: Named, metric: str) -> str | None:
        """Return why a metric is not set against the scores."""
        mixed = group.mixture(metric)
        if mixed and not self.allow_mixed:
            return mixed[0]
        absent = sum(run.numbers[metric].value is None for run in group.runs)
        return f"{absent} of {len(group.runs)} runs have no value" if absent else None

    def _of_metric(self, group: Named, metric: str, scored: Scored, scores: Mapping[str, float]) -> dict[str, Any]:
        reason = self._reason(group, metric)
        found = self._correlations(group, metric, scored, reason)
        selection = None if reason else select_highest(group.standings(metric), group.hyperparameters)
        if selection is None:
            return found | {"selected": [], "selected_score": None, "lost": None}
        lost = losses(scores, selection.names)
        return found | {
            "selected": list(selection.names), "selected_score": lost["selected_score"], "lost": lost["lost"],
        }  # fmt: skip

    def _correlations(self, group: Named, metric: str, scored: Scored, reason: str | None) -> dict[str, Any]:
        if reason is not None:
            return {name: Correlation(None, reason=reason).to_dict() for name in _CORRELATIONS}
        values = [value for run in group.runs if (value := run.numbers[metric].value) is not None]
        return {name: one.to_dict() for name, one in scored.correlations(values).items()}
