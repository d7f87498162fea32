"""How well a metric chooses among trainings: rank correlations with accuracy, and the accuracy that a choice loses."""

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
    """Return what alpha-ReQ is judged by (Agrawal et al., NeurIPS 2022): its distance to 1, negated."""
    return -abs(alpha - 1.0)


MERITS: Mapping[str, tuple[str, Callable[[float], float]]] = {  # the larger, the better
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
        Of the sweep.
    settings
        What differs, in words; the columns.
    accuracy
        By target, shape (seeds, settings), percent; NaN where a training diverged.
    merit
        By metric and kind, the same shape; NaN where there is no value.
    centres
        The columns of the settings that nobody tuned, one for each loss.
    """

    name: str
    settings: Sequence[str]
    accuracy: Mapping[str, np.ndarray]
    merit: Mapping[tuple[str, str], np.ndarray]
    centres: Sequence[int]


def candidates(name: str, rows: Sequence[Mapping[str, Any]]) -> Candidates:
    """Return the trainings of these rows, the dumps at their ends; one row for every setting and seed."""
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
        [place for place, (_, sweep, _) in enumerate(settings) if sweep == CENTRE],
    )


def _setting(row: Mapping[str, Any]) -> tuple[str, str, float | None]:
    return row["loss"], row["sweep"], row["value"]


def accuracy(row: Mapping[str, Any], target: str) -> float:
    """Return the percentage right of a row; out of distribution, the mean of three."""
    found = row["accuracy"]
    if found is None:
        return math.nan
    return fmean(found[part] for part in (ROTATED, NOISED, OTHER)) if target == OUT else float(found[target])


def merit(row: Mapping[str, Any], metric: str, kind: str) -> float:
    """Return a row's metric as a thing of which more is better, NaN where it has no value."""
    name, better = MERITS[metric]
    value = None if row["metrics"] is None else row["metrics"][kind].get(name)
    return math.nan if value is None else better(float(value))


def spearman(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return the rank correlation of the settings that have both; NaN of fewer than three, or where all are alike."""
    return _correlation(stats.spearmanr, merits, accuracies)


def kendall(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Kendall's tau-b; NaN where `spearman` is."""
    return _correlation(stats.kendalltau, merits, accuracies)


def _correlation(statistic: Callable[..., Any], merits: np.ndarray, accuracies: np.ndarray) -> float:
    both = np.isfinite(merits) & np.isfinite(accuracies)
    x, y = merits[both], accuracies[both]
    if x.size < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return math.nan
    return float(statistic(x, y).statistic)


def lost(merits: np.ndarray, accuracies: np.ndarray) -> float:
    """Return by how many points the setting of the largest merit is below the best; ties count with their mean.

    A setting without a merit or an accuracy is not chosen; NaN where none can be.
    """
    able = np.isfinite(merits) & np.isfinite(accuracies)
    if not able.any():
        return math.nan
    chosen = able & (merits == merits[able].max())
    return float(np.nanmax(accuracies) - accuracies[chosen].mean())


def interval(values: Sequence[float], *, least: float, most: float = math.inf) -> dict[str, float | None]:
    """Return the mean over seeds and its 95 % interval by Student's t, cut at the ends of the quantity.

    None where a seed has no value, or for the ends where there is one seed.
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
    """Return what every metric, the untuned setting, chance and the worst choice come to, as JSON types.

    ``spearman`` and ``kendall`` are of the means over seeds, ``seeds`` of each seed; ``lost`` is a mean over seeds.
    """
    accuracies = among.accuracy[target]
    found: dict[str, Any] = {"name": among.name, "target": target, "settings": len(among.settings), "selectors": []}
    for metric, kind in SELECTORS:
        merits = among.merit[metric, kind]
        found["selectors"].append({
            "metric": metric, "kind": kind,
            "spearman": number(spearman(merits.mean(axis=0), accuracies.mean(axis=0))),
            "kendall": number(kendall(merits.mean(axis=0), accuracies.mean(axis=0))),
            "seeds": [number(spearman(*pair)) for pair in zip(merits, accuracies, strict=True)],
            "lost": interval([lost(*pair) for pair in zip(merits, accuracies, strict=True)], least=0.0),
        })  # fmt: skip
    best = np.nanmax(accuracies, axis=1)
    for name, reached in (
        ("centre", np.nanmean(accuracies[:, among.centres], axis=1)), ("chance", np.nanmean(accuracies, axis=1)),
        ("worst", np.nanmin(accuracies, axis=1)),
    ):  # fmt: skip
        found[name] = interval(best - reached, least=0.0)
    return found


def spread(among: Candidates) -> dict[str, Any]:
    """Return, of accuracies and of RankMe, the range of the settings' means and the pooled deviation between seeds."""
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
    whole = values[:, np.isfinite(values).all(axis=0)]
    return float(np.sqrt(whole.var(axis=0, ddof=1).mean())) if whole.size and len(whole) > 1 else None


def path(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over seeds along the training of the centre, step by step."""
    found = []
    for step in sorted({row["step"] for row in rows if row["sweep"] == CENTRE}):
        at = [row for row in rows if row["sweep"] == CENTRE and row["step"] == step]
        found.append({
            "step": step,
            **{f"RankMe, {kind}": number(fmean(merit(row, "RankMe", kind) for row in at)) for kind in KINDS},
            **{target: number(fmean(accuracy(row, target) for row in at)) for target in TARGETS},
        })  # fmt: skip
    return found


def number(value: float) -> float | None:
    """Return a number as JSON has it: None for NaN."""
    return float(value) if math.isfinite(value) else None
