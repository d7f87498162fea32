"""The page of `benchmarks scaling`: tables and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.experiment import table

_RATIO = 1.3  # target for the time of a pass over the limit of its layout
_COST = ["pass, s", "CPU, s", "peak, MB", "from outside, MB", "predicted, MB"]


def _cost(row: dict[str, Any]) -> list[str]:
    peaks = [f"{row[key] / 1e6:,.0f}" for key in ("peak_bytes", "sampled_bytes", "predicted_bytes")]
    return [f"{row['elapsed_s']:.2f}", f"{row['cpu_s']:.2f}", *peaks[:2], peaks[2] + ("" if is_below(row) else ": NO")]


def is_below(row: dict[str, Any]) -> bool:
    """Return whether the peak of a row is below its prediction."""
    return max(row["peak_bytes"], row["sampled_bytes"]) <= row["predicted_bytes"]


def all_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of every table."""
    return [row for key in ("rows", "widths", "types", "methods", "workers", "layouts") for row in result[key]]


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    every, layouts = all_rows(result), result["layouts"]
    return "\n".join([
        "# Time and memory of a pass by rows, width, type, arithmetic, workers and chunks",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; `rankme score` in processes of their own, "
        f"float16 in zstd unless a table says otherwise. Times are medians of {result['repeats']}, peaks the largest; "
        f"{sum(row['quiet'] for row in every)} of {result['repeats'] * len(every)} runs had the machine to themselves. "
        "Reads come from the page cache: stores are hard links to a few distinct chunks or shards, with flat keys.",
        "",
        f"Peak memory was below the prediction in {sum(map(is_below, every))} of {len(every)} rows.",
        *_row_lines(result),
        *_width_lines(result),
        *_case_lines(result),
        *_layout_lines(layouts),
        *_where_lines(layouts),
    ])  # fmt: skip


def _row_lines(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    return [
        *table(
            f"Rows, {rows[0]['features']} features",
            ["rows", *_COST],
            [[f"{row['rows']:,}", *_cost(row)] for row in rows],
        ),
        "",
        f"Time grows with rows to the power of {result['exponents']['time, rows']:.3f} (1 expected).",
    ]


def _width_lines(result: dict[str, Any]) -> list[str]:
    fitted, widths = result["exponents"], result["widths"]
    low, middle, high = (widths[k]["features"] for k in (0, len(widths) // 2, -1))
    lines = table(
        "Width",
        ["features", "rows", *_COST, "solving, s", "model, s", "pass / model", "CPU us a row", "model us a row"],
        [
            [f"{row['features']:,}", f"{row['rows']:,}", *_cost(row), f"{row['solving_s']:.2f}",
             f"{row['model_s']:.2f}", f"{row['elapsed_s'] / row['model_s']:.2f}", f"{1e6 * row['cpu_per_row_s']:.3g}",
             f"{1e6 * row['model_per_row_s']:.3g}"]
            for row in widths
        ],
    )  # fmt: skip
    return [
        *lines,
        "",
        "Model: decoding, casting and multiplying by the fastest candidates of `benchmarks/speed/lower_limits.py` "
        "on all cores, then solving (eigenvalues, raw and centred at once, and metrics). Times a row leave out "
        "solving. Products take D^2 a row, the other parts D.",
        "",
        f"CPU time a row grows with the width to the power of {fitted['CPU a row, narrow']:.2f} from {low:,} to "
        f"{middle:,} features (model {fitted['model, narrow']:.2f}) and {fitted['CPU a row, wide']:.2f} from there to "
        f"{high:,} (model {fitted['model, wide']:.2f}).",
    ]


def _case_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for title, key in (("Type", "types"), ("Arithmetic", "methods"), ("Workers", "workers")):
        first = result[key][0]
        lines += table(
            f"{title}, {first['rows']:,} x {first['features']:,}",
            [title.lower(), *_COST],
            [[row["name"], *_cost(row)] for row in result[key]],
        )
    return lines


def _layout_lines(layouts: list[dict[str, Any]]) -> list[str]:
    lines = table(
        "Chunks",
        ["features", "rows", "chunk", *_COST, "work, s", "reading, s", "bare loop, s", "bare loop / limit",
         "pass / limit", "fastest reader"],
        [
            [row["features"], f"{row['rows']:,}", row["name"], *_cost(row), f"{row['limit_s']:.2f}",
             f"{row['reading_s']:.2f}", f"{row['bare_s']:.2f}", _spread(row["bare_ratios"]), _ratio(row),
             row["best"]["decode"]]
            for row in layouts
        ],
    )  # fmt: skip
    met = sum(row["ratio"] <= _RATIO for row in layouts)
    return [
        *lines,
        "",
        "Work: decoding, casting and multiplying by the fastest candidates, on all cores. Reading: our reader alone, "
        "in the plan's blocks on as many threads as workers; a few huge chunks cannot be decoded at once. The larger "
        f"of the two is the limit of the layout. Target: at most {_RATIO} times the limit, met by {met} of "
        f"{len(layouts)}. Pass, limit and loops take turns, and a ratio is the median over neighbouring runs (least "
        "to most).",
        "",
        "Bare loop: each thread reads, audits, casts, multiplies and adds one block after the other, with our own "
        "parts and nothing else. Its time beyond the limit is the price of the audit, and of parts that share caches "
        "and the interpreter. The time of a pass beyond the bare loop is the price of its own order: blocks read "
        "ahead, a tree of sums that does not depend on the number of threads, rows left out and counted, start and "
        "solving.",
    ]


def _ratio(row: dict[str, Any]) -> str:
    return _spread(row["ratios"]) + ("" if row["ratio"] <= _RATIO else ": NO")


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _where_lines(layouts: list[dict[str, Any]]) -> list[str]:
    """Return the table of CPU seconds of a pass beside the lower limits of its parts."""
    own = {"decode": "reading and decoding", "cast": "cast", "product": "product"}
    rest = ("audit", "adding", "counting", "rest of the loop")
    lines = table(
        "CPU time of a pass over each layout by part, seconds (lower limit)",
        ["features", "chunk", "all", *own.values(), *rest, "everything else"],
        [
            [row["features"], row["name"], f"{row['where_s']['total']:.2f} ({sum(row['parts_s'].values()):.2f})",
             *[f"{row['where_s'][name]:.2f} ({row['parts_s'][part]:.2f})" for part, name in own.items()],
             *[f"{row['where_s'][name]:.2f}" for name in rest],
             f"{row['where_s']['total'] - sum(row['where_s'][name] for name in (*own.values(), *rest)):.2f}"]
            for row in layouts
        ],
    )  # fmt: skip
    return [
        *lines,
        "",
        "One pass a layout, in a process that had made one before. In brackets: the fastest candidate alone, with all "
        "cores busy. In a pass the parts share caches, memory and the interpreter.",
    ]


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw time against rows, time a row against width, and the ratios of the layouts."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    figure = Figure(figsize=(16, 5), layout="constrained")
    rows, widths, chunks = figure.subplots(1, 3)
    sizes = [row["rows"] for row in result["rows"]]
    rows.loglog(sizes, [row["elapsed_s"] for row in result["rows"]], "o-")
    rows.set_xticks(sizes, [f"{size / 1e6:g} M" for size in sizes], minor=False)
    rows.set_xticks([], minor=True)
    rows.set(xlabel="rows", ylabel="seconds", title=f"rows to the power of {result['exponents']['time, rows']:.3f}")
    for key, label in (("cpu_per_row_s", "pass, without solving"), ("model_per_row_s", "model")):
        per_row = [1e6 * row[key] for row in result["widths"]]
        widths.loglog([row["features"] for row in result["widths"]], per_row, "o-", label=label)
    widths.set(xlabel="features", ylabel="CPU microseconds a row", title="width")
    widths.legend()
    names = [f"{row['name']}, D = {row['features']}" for row in result["layouts"]]
    chunks.barh(names, [row["ratio"] for row in result["layouts"]])
    chunks.axvline(_RATIO, color="black", linestyle="--")
    chunks.invert_yaxis()
    chunks.set(xlabel="pass / limit of the layout", title="chunks")
    figure.savefig(path, dpi=100)
