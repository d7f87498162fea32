"""Quality of a metric that chooses among trainings: rank correlation with accuracy, and the accuracy lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.selection.probing import IN, IN_FEW, NOISED, OTHER, ROTATED
from benchmarks.selection.trainings import CENTRE

OUT = "out of distribution"
TARGETS = (IN, IN_FEW, OUT)
KINDS = ("embeddings", "representations")


def nearness_to_one(alpha: float) -> float:
    """Return the merit of an alpha-ReQ (Agrawal et al., NeurIPS 2022): its distance to 1, negated."""
    return -abs(alpha - 1.0)


MERITS: Mapping[
    str, tuple[str, Callable[[float], float]]
] = {  # key in the JSON result, and its merit: the larger, the better
    "RankMe": ("rankme", float),
    "alpha-ReQ": ("alpha_req", nearness_to_one),
    "LiDAR": ("lidar", float),
    "participation ratio": ("participation_ratio", float),
}
SELECTORS = tuple((metric, kind) for metric in MERITS for kind in KINDS)
RANKME = ("RankMe", "embeddings")
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Candidates:
    """Trainings among which one setting is chosen.

    Attributes
    ----------
    name
        Name of the sweep.
    settings
        Names of the settings, which are the columns of the arrays.
    accuracy
        Percentages by target, shape (seeds, settings); NaN where a training diverged.
    merit
        Merits by metric and kind, of the same shape; NaN where there is no value.
    centres
        Columns of the untuned settings, one for each loss.
    """

    name: str
    settings: Sequence[str]
    accuracy: Mapping[str, np.ndarray]
    merit: Mapping[tuple[str, str], np.ndarray]
    centres: Sequence[int]


def candidates(name: str, rows: Sequence[Mapping[str, Any]]) -> Candidates:
    """Return the candidates among rows: of every setting and seed, the dump at the end of the training."""
    last = max(row["step"] for row in rows)
    ends = {(_setting(row), row["seed"]): row for row in rows if row["step"] == last}
    settings = list(dict.fromkeys(setting for setting, _ in ends))
    seeds = sorted({seed for _, seed in ends})

    def columns(value: Callable[..., float], *chosen: str) -> np.ndarray:
        return np.array([[value(ends[setting, seed], *chosen) for setting in settings] for seed in seeds])

    return Candidates(
        name,
        [f"{loss} {sweep}" if value is None else f"{loss} {sweep} {value:g}" for loss, sweep, value in settings],
        {target: columns(accuracy, target) for target in TARGETS},
        {chosen: columns(merit, *chosen) for chosen in SELECTORS},
        [column for column, (_, sweep, _) in enumerate(settings) if sweep == CENTRE],
    )


def _setting(row: Mapping[str, Any]) -> tuple[str, str, float | None]:
    return row["loss"], row["sweep"], row["value"]


def accuracy(row: Mapping[str, Any], target: str) -> float:
    """Return the accuracy of a row in percent; out of distribution, the mean of three; NaN if it diverged."""
    by_target = row["accuracy"]
    if by_target is None:
        return math.nan
    return fmean(by_target[part] for part in (ROTATED, NOISED, OTHER)) if target == OUT else float(by_target[target])


def merit(row: Mapping[str, Any], metric: str, kind: str) -> float:
    """Return the merit of a row by a metric, NaN where the metric has no value; larger is better."""
    name, better = MERITS[metric]
    value = None if row["metrics"] is None else row["metrics"][kind].get(name)
    return math.nan if value is None else better(float(value))


def spearman(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Spearman's correlation over the settings that have both; NaN if fewer than three, or if all are equal."""
    return _correlation(stats.spearmanr, merits, accuracies)


def kendall(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Kendall's tau-b; NaN where `spearman` is NaN."""
    return _correlation(stats.kendalltau, merits, accuracies)


def _correlation(statistic: Callable[..., Any], merits: np.ndarray, accuracies: np.ndarray) -> float:
    both = np.isfinite(merits) & np.isfinite(accuracies)
    x, y = merits[both], accuracies[both]
    if x.size < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return math.nan
    return float(statistic(x, y).statistic)


def points_lost(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return how many points of accuracy the setting of the largest merit is below the best; ties count by their mean.

    A setting without a merit or an accuracy is not chosen; NaN where no setting has both.
    """
    has_both = np.isfinite(merits) & np.isfinite(accuracies)
    if not has_both.any():
        return math.nan
    chosen = has_both & (merits == merits[has_both].max())
    return float(np.nanmax(accuracies) - accuracies[chosen].mean())


def interval(values: Sequence[float], *, least: float, most: float = math.inf) -> dict[str, float | None]:
    """Return the mean over seeds and its 95 % interval by Student's t, cut off at the least and most possible values.

    Everything is None where a seed has no value; the ends are None where there is one seed.
    """
    column = np.asarray(values, np.float64)
    mean = float(column.mean())
    if not math.isfinite(mean):
        return {"value": None, "lower": None, "upper": None}
    if column.size < 2:
        return {"value": mean, "lower": None, "upper": None}
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, column.size - 1) * column.std(ddof=1) / math.sqrt(column.size))
    return {"value": mean, "lower": max(least, mean - half), "upper": min(most, mean + half)}


def verdict(among: Candidates, target: str) -> dict[str, Any]:
    """Return the quality of every metric, and the loss of the untuned setting, of chance and of the worst choice.

    The result has JSON types. ``spearman`` and ``kendall`` correlate means over seeds, ``seeds`` has the correlation of
    each seed, and ``lost`` is a mean over seeds.
    """
    accuracies = among.accuracy[target]
    judged: dict[str, Any] = {"name": among.name, "target": target, "settings": len(among.settings), "selectors": []}
    for metric, kind in SELECTORS:
        merits = among.merit[metric, kind]
        judged["selectors"].append({
            "metric": metric, "kind": kind,
            "spearman": json_number(spearman(merits.mean(axis=0), accuracies.mean(axis=0))),
            "kendall": json_number(kendall(merits.mean(axis=0), accuracies.mean(axis=0))),
            "seeds": [json_number(spearman(*pair)) for pair in zip(merits, accuracies, strict=True)],
            "lost": interval([points_lost(*pair) for pair in zip(merits, accuracies, strict=True)], least=0.0),
        })  # fmt: skip
    best = np.nanmax(accuracies, axis=1)
    for name, reached in (
        ("centre", np.nanmean(accuracies[:, among.centres], axis=1)), ("chance", np.nanmean(accuracies, axis=1)),
        ("worst", np.nanmin(accuracies, axis=1)),
    ):  # fmt: skip
        judged[name] = interval(best - reached, least=0.0)
    return judged


def spread(among: Candidates) -> dict[str, Any]:
    """Return the range of the settings' means, and the pooled deviation between seeds, of accuracies and of RankMe."""
    columns = {**among.accuracy, "RankMe": among.merit[RANKME]}
    return {
        "name": among.name,
        **{name: {"settings": _range(values), "seeds": _between_seeds(values)} for name, values in columns.items()},
    }


def _range(values: np.ndarray) -> float | None:
    means = values.mean(axis=0)
    means = means[np.isfinite(means)]
    return float(np.ptp(means)) if means.size else None


def _between_seeds(values: np.ndarray) -> float | None:
    finite = values[:, np.isfinite(values).all(axis=0)]
    return float(np.sqrt(finite.var(axis=0, ddof=1).mean())) if finite.size and len(finite) > 1 else None


def path(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return means over seeds at every dumped step of the centre's training."""
    points = []
    for step in sorted({row["step"] for row in rows if row["sweep"] == CENTRE}):
        at = [row for row in rows if row["sweep"] == CENTRE and row["step"] == step]
        points.append({
            "step": step,
            **{f"RankMe, {kind}": json_number(fmean(merit(row, "RankMe", kind) for row in at)) for kind in KINDS},
            **{target: json_number(fmean(accuracy(row, target) for row in at)) for target in TARGETS},
        })  # fmt: skip
    return points


def json_number(value: float) -> float | None:
    """Return a number for JSON: None for NaN or infinity."""
    return float(value) if math.isfinite(value) else None
