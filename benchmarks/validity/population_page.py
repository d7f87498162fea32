"""The page of `benchmarks population` and its figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.harness.experiment import table
from benchmarks.validity.holm import HOLDS, SIGNIFICANCE

_POOLED = (0.94, 0.99)
_BIASED = 1 / 3  # target: bias of the value, at most this share of the median half-width
_FEWEST = 5  # intervals of which a bias is shown
_TITLES = {
    "rankme": "RankMe",
    "variance_effective_rank": "Variance effective rank",
    "participation_ratio": "Participation ratio",
}
_REAL_TARGETS = {2.0: (0.025, 0.01), 4.0: (0.01, 0.005)}  # rows per feature: largest half-width, largest error
_DRAWN = (
    "Gaussian, s ~ k^-1/2",
    "Student-5",
    "mean 10 times the spread",
    "clusters of uneven size and scale",
    "pairs of copies",
    "real, unit rows",
)


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    seeds = ", ".join(f"{count} at {width} features" for width, count in result["seeds"].items())
    return "\n".join([
        "# Numbers for a population from few rows of it",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; intervals at 95 %, seeds of each kind and "
        f"number of rows: {seeds}.",
        "",
        *_summary(result),
        *[line for width in result["seeds"] for metric in _TITLES for line in _kind_lines(result, int(width), metric)],
        "",
        "Each cell: intervals that hold of those stated, mean error of the value ± median half-width, and in brackets "
        "the mean error of the rows as they come, all in % of the truth; NO where the interval is shown to hold too "
        "seldom, BIAS where the mean error is shown to be above a third of the half-width.",
        *_reason_lines(result["cells"]),
        *_real_lines(result["real"]),
    ])  # fmt: skip


def _summary(result: dict[str, Any]) -> list[str]:
    stated = [cell for cell in result["cells"] if cell["stated"]]
    low, high = _POOLED
    dependent = [cell for cell in result["rejected"] if not cell["is_independent"]]
    lines = [
        f"- Cells shown to hold less often than {HOLDS:.0%} (one-sided exact binomial test, Holm over {len(stated)} "
        f"cells at {SIGNIFICANCE}): {len(result['rejected'])}, {len(dependent)} of them of dependent rows."
    ]
    for metric, title in _TITLES.items():
        of_metric = [cell for cell in stated if cell["metric"] == metric]
        trials = sum(cell["trials"] for cell in result["cells"] if cell["metric"] == metric)
        count, held = (sum(cell[key] for cell in of_metric) for key in ("stated", "held"))
        lines.append(
            f"- {title}: {count:,} of {trials:,} stated, {held / max(1, count):.2%} of them held (target: {low:.0%} to "
            f"{high:.0%}); bias shown to be above a third of the half-width in {sum(map(_is_biased, of_metric))} of "
            f"{len(of_metric)} cells."
        )
    return lines


def _is_biased(cell: Mapping[str, Any]) -> bool:
    """Return whether the bias is shown to be above a third of the half-width."""
    return cell["stated"] >= _FEWEST and abs(cell["bias"]) - 2 * cell["bias_error"] > _BIASED * cell["half_width"]


def _kind_lines(result: dict[str, Any], width: int, metric: str) -> list[str]:
    cells = {
        (cell["kind"], cell["ratio"]): cell
        for cell in result["cells"]
        if (cell["width"], cell["metric"]) == (width, metric)
    }
    return table(
        f"{_TITLES[metric]}, {width} features",
        ["rows", *[f"{ratio:g} a feature" for ratio in result["ratios"]]],
        [
            [
                _label(cells[kind, result["ratios"][0]]),
                *[_text(cells[kind, ratio], cells[kind, ratio] in result["rejected"]) for ratio in result["ratios"]],
            ]
            for kind in dict.fromkeys(kind for kind, _ in cells)
        ],
    )


def _label(cell: Mapping[str, Any]) -> str:
    is_narrower = cell["n_features"] < cell["width"]
    return cell["kind"] + f", {cell['n_features']} features" * is_narrower


def _text(cell: Mapping[str, Any], is_rejected: bool) -> str:
    plain = f"({100 * cell['plain']:+.1f})"
    if not cell["stated"]:
        return f"withheld {plain}"
    return (
        f"{cell['held']} of {cell['stated']}: {100 * cell['bias']:+.2f} ± {100 * cell['half_width']:.2f} {plain}"
        + " NO" * is_rejected
        + " BIAS" * _is_biased(cell)
    )


def _reason_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    reasons: Counter[str] = Counter()
    for cell in cells:
        if cell["metric"] == "rankme":
            reasons.update(cell["reasons"])
    return table("Why RankMe was withheld", ["reason", "samples"], [[*one] for one in reasons.most_common()])


def _real_lines(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines:
        return []
    shown = table(
        f"Real embeddings, a sample for RankMe of all {lines[0]['shape'][0]:,} x {lines[0]['shape'][1]}",
        ["rows", "rows a feature", "stated, held", "half-width", "mean error (sd)", "largest error",
         "as they come (req-metrics): mean error", "reptrix: mean error"],
        [_real_cells(line) for line in lines],
    )  # fmt: skip
    return [
        *shown,
        "",
        "Errors are relative to the same quantity of all rows. reptrix' RankMe is another quantity (centred rows, "
        "squared singular values). Both are computed here by the formulas that these libraries document, with a "
        "float64 decomposition. NO: above the target, " + "; ".join(
            f"at {ratio:g} rows a feature half-width {width:.1%}, error {error:.1%}"
            for ratio, (width, error) in _REAL_TARGETS.items()
        ) + ".",
    ]  # fmt: skip


def _real_cells(line: Mapping[str, Any]) -> list[str]:
    trials, truth = line["trials"], line["truth"]
    stated = [one["ours"][:3] for one in trials if one["ours"][1] is not None]
    peers = [
        f"{fmean(one['peers'][name] for one in trials) / truth[name] - 1:+.2%}" for name in ("req-metrics", "reptrix")
    ]
    head, exact = [line["rows"], f"{line['ratio']:g}"], truth["req-metrics"]
    if not stated:
        return [*head, f"0 of {len(trials)}", "", "", "", *peers]
    errors = [value / exact - 1 for value, _, _ in stated]
    held = sum(lower <= exact <= upper for _, lower, upper in stated)
    width = max((upper - lower) / 2 / exact for _, lower, upper in stated)
    spread = f" ({stdev(errors):.2%})" if len(errors) > 1 else ""
    largest = max(map(abs, errors))
    widest, most = _REAL_TARGETS.get(line["ratio"], (1.0, 1.0))
    return [
        *head, f"{len(stated)} of {len(trials)}, {held}", f"{width:.2%}" + ": NO" * (width > widest),
        f"{fmean(errors):+.2%}{spread}", f"{largest:.2%}" + ": NO" * (largest > most), *peers,
    ]  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the bias of RankMe against the rows per feature for six kinds of rows, at the smallest width."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    width = min(cell["width"] for cell in result["cells"])
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 3, sharex=True).flat, _DRAWN, strict=True):
        cells = [
            cell for cell in result["cells"] if (cell["width"], cell["metric"], cell["kind"]) == (width, "rankme", kind)
        ]
        ratios = [cell["ratio"] for cell in cells]
        stated = [cell for cell in cells if cell["stated"] >= _FEWEST]
        for key, label, style in (("plain", "as they come", "s:"), ("jackknife", "jackknife", "^--")):
            axes.plot(ratios, [100 * cell[key] for cell in cells], style, label=label)
        axes.errorbar(
            [cell["ratio"] for cell in stated], [100 * cell["bias"] for cell in stated],
            [100 * cell["half_width"] for cell in stated], fmt="o-", capsize=3, label="population=True, ± half-width",
        )  # fmt: skip
        axes.axhline(0.0, color="k", linewidth=0.5)
        axes.set(title=_label(cells[0]), xscale="log", xlabel="rows per feature", ylabel="mean error of RankMe, %")
        axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
