"""The page of `benchmarks intervals`."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from benchmarks.harness.experiment import table

_SHOWN = 20  # most misses on the page; the JSON has all


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join([
        "# Coverage, width and cost of intervals",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        *_coverage_lines(result["coverage"]),
        *_width_lines(result),
        *_cost_lines(result),
    ])  # fmt: skip


def _coverage_lines(coverage: dict[str, Any]) -> list[str]:
    columns = ("matrices", "refused", "numbers", "held", "undefined", "withheld", "undecided", "missed")
    worst = ("worst case held", "worst case missed")
    lines = table(
        "Intervals that hold the true value, by exact arithmetic",
        ["arithmetic", *columns, *worst, "spectra missed / allowed"],
        [
            [kind, *(f"{count.get(name, 0):,}" for name in (*columns, *worst)),
             f"{count['spectra missed']} / {count['spectra allowed']}"]
            for kind, count in coverage["counts"].items()
        ],
    )  # fmt: skip
    lines += [
        "",
        "Refused: a matrix whose squares overflow float32. Undefined: no true value exists, and none was stated.",
        "Withheld: a true value exists, and the arithmetic was too coarse to state it. Undecided: the ball of the true "
        "value lies across an end of the interval.",
    ]
    for what in ("misses", "undecided"):
        lines += ["", f"First of {len(coverage[what])} {what}:", ""] if coverage[what] else []
        lines += [f"- `{json.dumps(case)}`" for case in coverage[what][:_SHOWN]]
    return lines + table(
        "Largest error of RankMe as a share of its half-width",
        ["family", *coverage["ratios"]],
        [
            [family, *(_short(ratios[family]) for ratios in coverage["ratios"].values())]
            for family in coverage["ratios"]["gram float64"]
        ],
    )


def _width_lines(result: dict[str, Any]) -> list[str]:
    rows, features = result["shape"]
    keys = ("half_width", "error", "ratio", "worst_case")
    lines = table(
        f"Relative half-width of RankMe, {rows:,} x {features:,} float64 for planted spectra",
        ["spectrum", "method", "half-width", "error", "error / half-width", "half-width, worst case"],
        [[row["spectrum"], row["method"], *(_short(row.get(key)) for key in keys)] for row in result["half_widths"]],
    )
    return lines + table(
        "Largest ratio of error to bound, on inputs chosen to reach the bound",
        ["bound", "inputs", "largest ratio", "reached by"],
        [[row["bound"], row["tried"], _short(row["ratio"]), row["where"]] for row in result["sharpness"]],
    )


def _cost_lines(result: dict[str, Any]) -> list[str]:
    lines = table(
        "CPU time of float32 passes, float16 rows in memory: median of the ratios of neighbouring runs (least to most)",
        ["rows", "features", "CPU seconds", "probes / pass", "float32 / float64"],
        [
            [f"{row['rows']:,}", row["features"], f"{median(row['seconds']['float32']):.2f}",
             _spread(row["probes"]), _spread(row["float32"])]
            for row in result["probing_cost"]
        ],
    )  # fmt: skip
    return lines + table(
        "CPU time with `precision=\"auto\"` over that with float64, float32 rows in memory: median (least to most)",
        ["spectrum", "rows", "features", "CPU seconds", "auto took", "float64 took", "ratio"],
        [
            [row["spectrum"], f"{row['rows']:,}", row["features"], f"{median(row['seconds']['auto']):.2f}",
             row["taken"]["auto"], row["taken"]["float64"], _spread(row["ratio"])]
            for row in result["auto_cost"]
        ],
    )  # fmt: skip


def _spread(ratio: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*ratio)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.2g}"
