"""The page of `benchmarks coverage`, and the targets that it compares coverage, width and bias with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.experiment import table
from rankme_stream.spectra.estimates import METRICS

CONFIDENCE = 0.95
HOLDS = 0.94  # a cell fails if its coverage is shown to be lower
SIGNIFICANCE = 0.05  # of the tests of all cells together (Holm)
_POOLED = (0.94, 0.99)
_FEWEST = 20  # intervals of a judged cell: fewer give no 95 % quantile of the errors, and a mean that is mostly chance
_SHARP = 1.5  # target: median half-width, at most so many 95 % quantiles of the errors
_BIASED = 0.1  # target: bias of the corrected value, at most this share of the median half-width


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    stated = [cell for cell in result["cells"] if cell["stated"]]
    judged = [cell for cell in stated if cell["stated"] >= _FEWEST]
    low, high = _POOLED
    return "\n".join([
        "# How often the intervals of a sample hold",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {result['n_rows']:,} rows x "
        f"{result['n_features']} features unless a name says otherwise, seeds 0 to {result['n_seeds'] - 1}, a dump and "
        f"a sample each; intervals for RankMe of all rows at {CONFIDENCE:.0%}.",
        "",
        f"- Cells shown to hold less often than {HOLDS:.0%} (one-sided exact binomial test, Holm over "
        f"{len(stated)} cells at {SIGNIFICANCE}): {len(result['rejected'])}.",
        f"- Pooled: {result['pooled']:.2%} (target: {low:.0%} to {high:.0%}).",
        f"- Median half-width above {_SHARP} times the 95 % quantile of the errors: {sum(map(_is_blunt, judged))} of "
        f"{len(judged)} (cells of at least {_FEWEST} intervals).",
        f"- Bias of the corrected value shown to be above {_BIASED} of the median half-width: "
        f"{sum(map(_is_biased, judged))} of {len(judged)}.",
        *_cell_lines(result),
        *_population_lines(result["populations"]),
        *_metric_lines(result["metrics"]),
    ])  # fmt: skip


def _is_blunt(cell: Mapping[str, Any]) -> bool:
    return cell["stated"] >= _FEWEST and cell["sharpness"] > _SHARP


def _is_biased(cell: Mapping[str, Any]) -> bool:
    return cell["stated"] >= _FEWEST and abs(cell["bias"]) > _BIASED + 2 * cell["bias_error"]


def _cell_lines(result: dict[str, Any]) -> list[str]:
    header = ["dump", "rows read", "held", "half-width", "/ 95 % of errors", "bias / half-width", "uncorrected"]
    return [
        *table("RankMe", header, [_cells(cell, cell in result["rejected"]) for cell in result["cells"]]),
        "",
        "Held: among the samples that state an interval; none does below 8 effective rows a feature. Early stopping "
        "ends at the first look whose half-width is at most that of the middle look of one more such dump.",
    ]


def _cells(cell: Mapping[str, Any], is_rejected: bool) -> list[str]:
    if not cell["stated"]:
        return [cell["kind"], cell["rows"], f"0 of {cell['stated']}", "", "", "", ""]
    size = cell["rows"] if cell["rows"][0].isdigit() else f"{cell['rows']}, {cell['mean_rows']:,.0f}"
    return [
        cell["kind"], size, f"{cell['held']} of {cell['stated']}" + ": NO" * is_rejected,
        f"{cell['half_width']:.2%}", f"{cell['sharpness']:.2f}" + ": NO" * _is_blunt(cell),
        f"{cell['bias']:+.2f} ± {cell['bias_error']:.2f}" + ": NO" * _is_biased(cell),
        f"{cell['uncorrected_bias']:+.2f}",
    ]  # fmt: skip


def _population_lines(populations: list[dict[str, Any]]) -> list[str]:
    return table(
        "RankMe of the distribution that the rows were drawn from: intervals that held",
        ["dump", "from the last look", "from every row"],
        [[row["kind"], *[f"{row[key]} of {row['stated']}" for key in ("part", "all")]] for row in populations],
    )


def _metric_lines(held: list[dict[str, Any]]) -> list[str]:
    names = [name for name in METRICS if any(name in row for row in held)]
    return table(
        "Every metric at the last look: intervals that held",
        ["dump", *names],
        [
            [row["kind"], *[f"{row[name][0]} of {row[name][1]}" if name in row else "" for name in names]]
            for row in held
        ],
    )
