"""The page of `benchmarks selection`: tables, sentences made from their figures, and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.experiment import table
from benchmarks.selection import selectors
from benchmarks.selection.probing import DEGREES, DRAWS, FEW, IN, IN_FEW, NOISE, SOURCE_CLASSES
from benchmarks.selection.selectors import OUT, RANKME, TARGETS
from benchmarks.selection.trainings import CENTRE, VIEWED, VIEWS, Setting

_LABELS = {IN: "in distribution", IN_FEW: f"in distribution, {FEW} labels a class", OUT: OUT}
_SHORT = {"embeddings": "emb.", "representations": "rep."}
_DEVIATIONS = 2.0  # between seeds: a sweep whose means span less has little to choose

Rows = Sequence[Mapping[str, Any]]


def judge(rows: Rows) -> dict[str, Any]:
    """Return by set of images the verdicts on sweeps and pools, the spreads, and the paths of the centres."""
    sets = {}
    for images in dict.fromkeys(row["images"] for row in rows):
        of_images = [row for row in rows if row["images"] == images]
        losses = list(dict.fromkeys(row["loss"] for row in of_images))
        sweeps, pools, paths = [], [], {}
        for loss in losses:
            of_loss = [row for row in of_images if row["loss"] == loss]
            for sweep in dict.fromkeys(row["sweep"] for row in of_loss if row["sweep"] != CENTRE):
                among = sorted((row for row in of_loss if row["sweep"] in (CENTRE, sweep)), key=_value)
                sweeps.append(selectors.candidates(f"{loss}, {sweep.replace('_', ' ')}", among))
            pools.append(selectors.candidates(f"{loss}, all", of_loss))
            paths[loss] = selectors.path(of_loss)
        pools += [selectors.candidates("all losses", of_images)] * (len(losses) > 1)
        sets[images] = {
            "sweeps": [selectors.verdict(among, target) for target in TARGETS for among in sweeps],
            "pools": [selectors.verdict(among, target) for target in TARGETS for among in pools],
            "means": [_means(sweeps, target) for target in TARGETS],
            "spreads": [selectors.spread(among) for among in [*sweeps, *pools]],
            "paths": paths,
            "trainings": len({(row["loss"], row["sweep"], row["value"], row["seed"]) for row in of_images}),
            "diverged": sum(row["accuracy"] is None for row in of_images),
        }
    return sets


def _value(row: Mapping[str, Any]) -> float:
    return -math.inf if row["value"] is None else float(row["value"])


def _means(sweeps: Sequence[selectors.Candidates], target: str) -> dict[str, Any]:
    """Return every selector's correlation and loss, each a mean over the sweeps with its interval over seeds."""
    means: dict[str, Any] = {"target": target, "selectors": []}
    for key in selectors.SELECTORS:
        pairs = [list(zip(among.merit[key], among.accuracy[target], strict=True)) for among in sweeps]
        lost = np.array([[selectors.points_lost(*pair) for pair in sweep] for sweep in pairs])
        correlations = np.array([[selectors.spearman(*pair) for pair in sweep] for sweep in pairs])
        defined = correlations[np.isfinite(correlations).all(axis=1)]
        means["selectors"].append({
            "metric": key[0], "kind": key[1], "lost": selectors.interval(lost.mean(axis=0), least=0.0),
            "spearman": selectors.interval(defined.mean(axis=0) if len(defined) else [math.nan], least=-1.0, most=1.0),
        })  # fmt: skip
    return means


def markdown(result: dict[str, Any]) -> str:
    """Return the page: sentences first, then the tables that they are made from."""
    centre = Setting("")
    lines = [
        "# Does RankMe choose good hyperparameters?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. {result['seeds']} seeds of {result['steps']:,} "
        "steps for every setting, on one thread each; a convolutional encoder (64 features: the representations) and a "
        "projector of two layers (256: the embeddings). `rankme score` gives the metrics, of the training images as "
        f"they are; LiDAR is that of {VIEWS} random views of each of {VIEWED} of them. A logistic regression on the "
        f"frozen representations gives the accuracies. Networks see digits 0 to {SOURCE_CLASSES - 1}. Accuracy out of "
        f"distribution is the mean of three: test images rotated by {DEGREES:.0f} degrees, test images with noise of "
        f"{NOISE}, and the digits from {SOURCE_CLASSES} on, with {FEW} labels of each ({DRAWS} draws).",
        "",
        f"Every sweep changes one hyperparameter of the centre: learning rate {centre.learning_rate:g}, weight decay "
        f"{centre.weight_decay:g}, temperature {centre.temperature:g}, variance {centre.variance:g}, invariance "
        f"{centre.invariance:g}, covariance {centre.covariance:g}, redundancy {centre.redundancy:g}. Brackets after a "
        "correlation are the least and the greatest of the seeds, after a loss of accuracy the 95 % interval of the "
        "mean over seeds (Student's t). The merit of alpha-ReQ is its nearness to 1.",
    ]  # fmt: skip
    for images, found in result["sets"].items():
        size = result["sizes"][images]
        lines += [
            "", f"# {images}", "",
            f"{size['side']} x {size['side']} pixels; {size['train']:,} training images, {size['test']:,} test images, "
            f"{size['other_train']:,} and {size['other_test']:,} of the digits held out. {found['trainings']} "
            f"trainings, {found['diverged']} diverged.", "",
            *(f"- {sentence}" for sentence in findings(found)),
        ]  # fmt: skip
        lines += _tables(found)
    return "\n".join(lines)


def _tables(found: Mapping[str, Any]) -> list[str]:
    names = [f"{metric}, {_SHORT[kind]}" for metric, kind in selectors.SELECTORS]
    lines = table(
        "Average over the sweeps", ["accuracy", "", *names, "centre", "chance", "worst"],
        [
            [
                _LABELS[mean["target"]], what, *(_spanned(one[key]) for one in mean["selectors"]),
                *(f"{_mean_loss(found, mean['target'], name):.2f}" if key == "lost" else ""
                  for name in ("centre", "chance", "worst")),
            ]
            for mean in found["means"] for what, key in (("Spearman", "spearman"), ("points lost", "lost"))
        ],
    )  # fmt: skip
    for target in TARGETS:
        rows = [row for part in ("sweeps", "pools") for row in found[part] if row["target"] == target]
        lines += table(
            f"Spearman's correlation with accuracy, {_LABELS[target]}", ["sweep", "settings", *names],
            [[row["name"], row["settings"], *(_correlation(one) for one in row["selectors"])] for row in rows],
        )  # fmt: skip
        lines += table(
            f"Points of accuracy lost, {_LABELS[target]}", ["sweep", *names, "centre", "chance", "worst"],
            [
                [
                    row["name"], *(_spanned(one["lost"]) for one in row["selectors"]),
                    *(_spanned(row[name]) for name in ("centre", "chance", "worst")),
                ]
                for row in rows
            ],
        )  # fmt: skip
    columns = [(name, what) for name in (*TARGETS, "RankMe") for what in ("settings", "seeds")]
    lines += table(
        "Between settings (range of means) and between seeds (standard deviation)",
        ["sweep", *(f"{_LABELS.get(name, 'RankMe, embeddings')}: {what}" for name, what in columns)],
        [
            [row["name"], *(_number(row[name][what]) for name, what in columns)]
            for row in found["spreads"]
        ],
    )  # fmt: skip
    for loss, path in found["paths"].items():
        keys = [key for key in path[0] if key != "step"]
        lines += table(
            f"Along the training of the centre, {loss}", ["steps", *(_LABELS.get(key, key) for key in keys)],
            [[f"{at['step']:,}", *(_number(at[key], 1) for key in keys)] for at in path],
        )  # fmt: skip
    return lines


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spanned(found: Mapping[str, float | None]) -> str:
    text = _number(found["value"])
    if found["lower"] is None:
        return text
    return f"{text} [{_number(found['lower'])}, {_number(found['upper'])}]"


def _correlation(one: Mapping[str, Any]) -> str:
    seeds = [value for value in one["seeds"] if value is not None]
    text = _number(one["spearman"], 2)
    return f"{text} [{min(seeds):.2f}, {max(seeds):.2f}]" if seeds else text


def _rankme_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a verdict's entry for RankMe of embeddings."""
    return next(one for one in row["selectors"] if (one["metric"], one["kind"]) == RANKME)


def findings(found: Mapping[str, Any]) -> list[str]:
    """Return sentences on RankMe of embeddings for one set of images, made from its tables."""
    sentences = []
    spreads = {row["name"]: row for row in found["spreads"]}
    for target in TARGETS:
        rows = [row for row in found["sweeps"] if row["target"] == target]
        sentences += _signs(rows, target, {row["name"]: spreads[row["name"]][target] for row in rows})
        sentences += _choices(rows, target)
        sentences.append(_best(next(mean for mean in found["means"] if mean["target"] == target)))
        for row in (row for row in found["pools"] if row["target"] == target):
            one = _rankme_of(row)
            sentences.append(
                f"{_LABELS[target].capitalize()}, {row['name']} ({row['settings']} settings): Spearman "
                f"{_correlation(one)}; RankMe's choice loses {_spanned(one['lost'])} points, the centre "
                f"{_number(row['centre']['value'])}, chance {_number(row['chance']['value'])}, the worst "
                f"{_number(row['worst']['value'])}."
            )
    for loss, path in found["paths"].items():
        sentences += _undertrained(loss, path)
    return sentences


def _signs(rows: Rows, target: str, spreads: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Say in how many sweeps RankMe rises with accuracy, and where seeds differ about as much as settings."""

    def names(kept: Sequence[str]) -> str:
        return f" ({'; '.join(kept)})" if kept else ""

    values = {row["name"]: _rankme_of(row)["spearman"] for row in rows}
    negative = [name for name, value in values.items() if value is not None and value <= 0.0]
    undefined = [name for name, value in values.items() if value is None]
    alike = [
        name for name, one in spreads.items()
        if one["seeds"] is not None and one["settings"] is not None and one["settings"] < _DEVIATIONS * one["seeds"]
    ]  # fmt: skip
    positive = len(values) - len(negative) - len(undefined)
    text = f"{_LABELS[target].capitalize()}: RankMe rises with accuracy in {positive} of {len(values)} sweeps"
    text += f", not in {len(negative)}{names(negative)}"
    text += f"; {len(undefined)} have no correlation{names(undefined)}" if undefined else ""
    sentences = [f"{text}."]
    if alike:
        sentences.append(
            f"{_LABELS[target].capitalize()}: in {len(alike)} of {len(values)} sweeps{names(alike)} the means of the "
            f"settings span less than {_DEVIATIONS:.0f} deviations between seeds, so there is little to choose."
        )
    return sentences


def _choices(rows: Rows, target: str) -> list[str]:
    """Say where RankMe chose worse than a random choice does on average, and worse than the untuned setting."""
    sentences = []
    for name, words in (("chance", "the mean of the settings"), ("centre", "the untuned centre")):
        worse = [
            f"{row['name']} by {lost - row[name]['value']:.2f}"
            for row in rows
            if (lost := _rankme_of(row)["lost"]["value"]) is not None and lost > row[name]["value"]
        ]  # fmt: skip
        text = f"{_LABELS[target].capitalize()}: RankMe's choice is below {words} in {len(worse)} of {len(rows)} sweeps"
        sentences.append(f"{text} (points: {'; '.join(worse)})." if worse else f"{text}.")
    return sentences


def _mean_loss(found: Mapping[str, Any], target: str, name: str) -> float:
    """Return the mean loss of the centre, of chance or of the worst setting over the sweeps."""
    losses = [row[name]["value"] for row in found["sweeps"] if row["target"] == target]
    return float(np.mean(losses))


def _best(mean: Mapping[str, Any]) -> str:
    """Order the selectors by the points that they lose."""
    ordered = [one for one in mean["selectors"] if one["lost"]["value"] is not None]
    ordered.sort(key=lambda one: one["lost"]["value"])
    text = f"{_LABELS[mean['target']].capitalize()}, points lost on average over the sweeps: "
    text += ", ".join(f"{one['metric']} of {one['kind']} {one['lost']['value']:.2f}" for one in ordered)
    missing = [f"{one['metric']} of {one['kind']}" for one in mean["selectors"] if one not in ordered]
    return f"{text}; without a value in some sweep: {', '.join(missing)}." if missing else f"{text}."


def _undertrained(loss: str, path: Rows) -> list[str]:
    """Say at which steps RankMe is above that of the finished network although the accuracy is below."""
    end, sentences = path[-1], []
    for kind in selectors.KINDS:
        key = f"RankMe, {kind}"
        complete = [at for at in path if None not in (at[key], at[IN_FEW])]
        early = [at for at in complete if end in complete and at[key] > end[key] and at[IN_FEW] < end[IN_FEW]]
        if early:
            most = max(early, key=lambda at: at[key])
            steps = ", ".join(f"{at['step']:,}" for at in early)
            sentences.append(
                f"{loss}, undertrained: after {steps} of {end['step']:,} steps RankMe of {kind} is above that of the "
                f"finished network and accuracy below; after {most['step']:,} it is {most[key]:.1f} against "
                f"{end[key]:.1f}, and the accuracy with {FEW} labels a class "
                f"{most[IN_FEW]:.1f} against {end[IN_FEW]:.1f} percent."
            )
    return sentences


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw accuracy against RankMe of embeddings: a row a set of images, a column a loss, and the paths."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    sets = list(result["sets"])
    losses = list(dict.fromkeys(row["loss"] for row in result["rows"]))
    figure = Figure(figsize=(5 * (len(losses) + 1), 4.5 * len(sets)), layout="constrained")
    axes = figure.subplots(len(sets), len(losses) + 1, squeeze=False)
    for images, line in zip(sets, axes, strict=True):
        for loss, cell in zip(losses, line, strict=False):
            rows = [row for row in result["rows"] if (row["images"], row["loss"]) == (images, loss)]
            _scatter(cell, rows, f"{images}, {loss}")
        for loss, points in result["sets"][images]["paths"].items():
            line[-1].plot([at["RankMe, embeddings"] for at in points], [at[IN_FEW] for at in points], "o-", label=loss)
            for at in points:
                line[-1].annotate(f"{at['step']}", (at["RankMe, embeddings"], at[IN_FEW]), fontsize=7)
        line[-1].set(title=f"{images}, along the training of the centre (steps)")
        for cell in line:
            cell.set(xlabel="RankMe, embeddings", ylabel=f"accuracy, {FEW} labels a class, %")
            cell.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _scatter(cell: Any, rows: Rows, title: str) -> None:
    last = max(row["step"] for row in rows)
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        ends = [row for row in rows if row["sweep"] == sweep and row["step"] == last and row["accuracy"] is not None]
        ranks = [selectors.merit(row, *RANKME) for row in ends]
        marker = "k*" if sweep == CENTRE else "o"
        cell.plot(ranks, [row["accuracy"][IN_FEW] for row in ends], marker, label=sweep.replace("_", " "), alpha=0.7)
    cell.set(title=title)
