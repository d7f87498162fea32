"""The page of `benchmarks accuracy`: tables and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.experiment import table

ROWS = 40  # a feature
LIKELY = ("sample", "row sketch")  # their intervals hold with a confidence of 95 %; those of other ways are certain
WIDE_FROM = 4096  # least number of features for which singular values are planted, and no dense SVD is computed
ALL_TO = 4096  # most features for which every way is tried; above, an exact pass is timed once, since all cost the same
_BOUNDS = (0.01, 0.001)
_LEAST_SHOWN = 1e-6  # least error in the plots


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    rows = result["rows"]
    stated = [row for row in rows if row["held"] is not None]
    certain = [row["held"] for row in stated if row["method"] not in LIKELY]
    likely = [row["held"] for row in stated if row["method"] in LIKELY]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["spectrum"], row["features"]), []).append(row)
    lines = [
        "# Error, interval, time and memory of every way to RankMe",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Rows: {ROWS} D in float32, from "
        f"{WIDE_FROM:,} features on 2 D in float64. Every way runs in a process of its own; seconds leave out its "
        "start. The true value is from an SVD in float64 of the stored values, or planted. Errors and half-widths are "
        "relative to it. Samples withhold an interval, and a value, where the rows are too few. "
        f"Above {ALL_TO:,} features an exact pass is timed once; two passes, and other libraries at the larger rank, "
        "are not tried.",
        "",
        f"Intervals of exact passes and sketches: {sum(certain)} of {len(certain)} held. Intervals of samples and row "
        f"sketches, at 95 %: {sum(likely)} of {len(likely)}.",
        *_cheapest_lines(groups),
        *_rank_lines(groups),
    ]
    for (spectrum, n_features), group in groups.items():
        lines += table(
            f"{spectrum}, {n_features:,} features, RankMe {group[0]['true']:.6g}",
            ["way", "value", "error", "half-width", "held", "half-width / error", "s", "peak, MB", "rows"],
            [_cells(row) for row in group],
        )
    return "\n".join(lines)


def _cheapest_lines(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    return table(
        "The cheapest way to 1 % and 0.1 %",
        ["spectrum", "D", "RankMe", "half-width 1 %", "half-width 0.1 %", "error 1 %", "error 0.1 %"],
        [
            [
                spectrum, f"{n_features:,}", f"{group[0]['true']:.4g}",
                *(_cheapest(group, key, bound) for key in ("half_width", "error") for bound in _BOUNDS),
            ]
            for (spectrum, n_features), group in groups.items()
        ],
    )  # fmt: skip


def _cheapest(rows: Sequence[dict[str, Any]], key: str, bound: float) -> str:
    """Name the fastest way whose error or half-width is within a bound."""
    within = [row for row in rows if row[key] is not None and row[key] <= bound and row["held"] is not False]
    if not within:
        return "none" if any(row["size"] is None for row in rows) else "no sketch; an exact pass was not tried"
    best = min(within, key=lambda row: row["elapsed_s"])
    return f"{_label(best)} ({best['elapsed_s']:.2f} s)"


def _rank_lines(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    approximate = _approximate([row for group in groups.values() for row in group])
    sketches = [name for name in dict.fromkeys(row["method"] for row in approximate) if name not in LIKELY]
    return table(
        "Least rank of those tried with an error / a half-width within 1 %",
        ["spectrum", "D", *sketches],
        [
            [
                spectrum, f"{n_features:,}",
                *(" / ".join(_rank_needed(group, name, key) for key in ("error", "half_width")) for name in sketches),
            ]
            for (spectrum, n_features), group in groups.items()
        ],
    )  # fmt: skip


def _rank_needed(group: Sequence[dict[str, Any]], method: str, key: str) -> str:
    """Return the least rank tried for which an error or a half-width is within 1 %."""
    of_method = [row for row in group if row["method"] == method]
    ranks = [row["size"] for row in of_method if row[key] is not None and row[key] <= _BOUNDS[0]]
    return f"{min(ranks):,}" if ranks else "-"


def _approximate(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["size"] is not None]


def _label(row: dict[str, Any]) -> str:
    return row["method"] if row["size"] is None else f"{row['method']} {row['size']:,}"


def _cells(row: dict[str, Any]) -> list[str]:
    width, error = row["half_width"], row["error"]
    ratio = "" if width is None or not error else f"{width / error:.3g}"
    return [
        _label(row), "-" if row["value"] is None else f"{row['value']:.6g}", "-" if error is None else f"{error:.1e}",
        "" if width is None else f"{width:.1e}", {None: "", True: "yes", False: "NO"}[row["held"]], ratio,
        f"{row['elapsed_s']:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['rows']:,}",
    ]  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw error against time and half-width against error."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    figure = Figure(figsize=(21, 6), layout="constrained")
    times, widths, ranks = figure.subplots(1, 3)
    rows = [row for row in _approximate(result["rows"]) if row["error"]]
    for number, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        of_method = [row for row in rows if row["method"] == name]
        stated = [row for row in of_method if row["half_width"]]
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "color": f"C{number}", "label": name, "alpha": 0.6}
        times.loglog([row["elapsed_s"] for row in of_method], [row["error"] for row in of_method], **style)
        if stated:
            widths.loglog([row["error"] for row in stated], [row["half_width"] for row in stated], **style)
    ends = [_LEAST_SHOWN, 1.0]
    widths.loglog(ends, ends, "k--", label="half-width = error")
    times.set(xlabel="seconds", ylabel="relative error", title="error against time", ylim=(_LEAST_SHOWN, None))
    widths.set(xlabel="relative error", ylabel="relative half-width", title="stated half-width against true error")
    widths.set_xlim(_LEAST_SHOWN, None)
    for number, spectrum in enumerate(dict.fromkeys(row["spectrum"] for row in rows)):
        for name, line in (("rsvd", ":"), ("rsvd, 3 passes", "-")):
            curve = [row for row in result["rows"] if (row["spectrum"], row["method"]) == (spectrum, name)]
            curve = [row for row in curve if row["features"] == curve[0]["features"]]
            parts, label = [row["size"] / row["features"] for row in curve], f"{spectrum}, {name}"
            ranks.loglog(parts, [row["half_width"] for row in curve], line, color=f"C{number}", marker="o", label=label)
    ranks.axhline(_BOUNDS[0], color="k", linestyle="--")
    ranks.set(xlabel="rank / D", ylabel="relative half-width", title="rank needed for a stated 1 %")
    times.legend(fontsize="small", loc="lower left")
    widths.legend(fontsize="small", loc="lower right")
    ranks.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=100)
