"""The page of `benchmarks coverage`, and the targets that it compares coverage, width and bias with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.experiment import table
from benchmarks.validity.coverage_kinds import FIRST_LOOK, STATED_SHARE
from benchmarks.validity.holm import HOLDS, SIGNIFICANCE
from rankme_stream.spectra.estimates import METRICS

CONFIDENCE = 0.95
_FEWEST = 20  # intervals of a judged cell: fewer give no 95 % quantile of the errors, and a mean that is mostly chance
_SHARP = 1.5  # target: median half-width, at most so many 95 % quantiles of the errors
_BIASED = 0.1  # target: bias of the corrected value, at most this share of the median half-width
_SEEN = 0.95  # target: seeds whose first look sees a rare unit of the stated share, or reads on


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    cells = result["cells"]
    ordinary = [cell for cell in cells if not cell["is_hard"]]
    return "\n".join([
        "# How often the intervals of a sample hold",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Intervals for RankMe of all rows at "
        f"{CONFIDENCE:.0%}, a dump and a sample a seed: ordinary dumps of {result['n_rows']:,} rows x "
        f"{result['n_features']} features unless a name says otherwise, seeds 0 to {result['n_seeds'] - 1} (a tenth of "
        f"them for wider rows); hard dumps of {result['hard_rows']:,} x 32, seeds 0 to {result['n_hard_seeds'] - 1}.",
        "",
        *_summary(result, ordinary),
        *_cell_lines("Dumps that are hard to sample", [cell for cell in cells if cell["is_hard"]], result["rejected"]),
        "",
        "A sample ends at the first look that states an interval (first look), or one within the tolerance. Right: all "
        "seeds but those whose interval does not hold; a sample that would need more than half of the rows reads every "
        "row instead, and is right. Of samples: held, of those that ended before. Rows read counts every row where "
        f"every row is read. Not judged: rare units of a smaller share than the {STATED_SHARE:.0%} that a sample is "
        "asked to find; what it says of them is how many of the units may be unlike all that were read.",
        *_cell_lines("Ordinary dumps", ordinary, result["rejected"]),
        *_precision_lines(ordinary),
        *_population_lines(result["populations"]),
        *_metric_lines(result["metrics"]),
    ])  # fmt: skip


def is_met(result: dict[str, Any]) -> bool:
    """Return whether no cell is shown to hold too seldom, and rare units of the stated share are seen."""
    return not result["rejected"] and all(map(_is_seen, _found(result)))


def _summary(result: dict[str, Any], ordinary: Sequence[dict[str, Any]]) -> list[str]:
    judged = [cell for cell in result["cells"] if cell["is_judged"]]
    precise = [cell for cell in ordinary if cell["stated"] >= _FEWEST]
    sampled = [cell for cell in judged if cell["stated"]]
    lines = [
        f"- Cells shown to be right in fewer than {HOLDS:.0%} of all seeds (one-sided exact binomial test, Holm over "
        f"{len(judged)} cells at {SIGNIFICANCE}): {len(result['rejected'])}.",
        f"- The same of the intervals from samples alone, over {len(sampled)} cells: "
        f"{len(result['rejected_of_stated'])}.",
        f"- Pooled over ordinary dumps: {_pooled(ordinary)}. Over hard dumps that are judged: "
        f"{_pooled([cell for cell in judged if cell['is_hard']])}.",
    ]
    for row in _found(result):
        lines.append(
            f"- {row['kind'].capitalize()}: {row['seen']} of {row['trials']} first looks see a rare unit, "
            f"{row['reads_on']} of the others read on at half a percent; target {_SEEN:.0%}"
            + ("." if _is_seen(row) else ": NO.")
        )
    return [
        *lines,
        f"- Ordinary dumps, median half-width above {_SHARP} times the 95 % quantile of the errors: "
        f"{sum(map(_is_blunt, precise))} of {len(precise)} (cells of at least {_FEWEST} intervals).",
        f"- Ordinary dumps, bias of the corrected value shown to be above {_BIASED} of the median half-width: "
        f"{sum(map(_is_biased, precise))} of {len(precise)}.",
    ]


def _found(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the counts of the kinds whose rare units have just the share that is to be found."""
    return [row for row in result["rare"] if row["share"] == STATED_SHARE]


def _is_seen(row: Mapping[str, Any]) -> bool:
    return row["seen"] + row["reads_on"] >= _SEEN * row["trials"]


def _pooled(cells: Sequence[Mapping[str, Any]]) -> str:
    trials, right, stated, held = (sum(cell[key] for cell in cells) for key in ("trials", "right", "stated", "held"))
    return f"{right / trials:.2%} right of all, {held / max(1, stated):.2%} of {stated:,} intervals from samples"


def _is_blunt(cell: Mapping[str, Any]) -> bool:
    return cell["sharpness"] > _SHARP


def _is_biased(cell: Mapping[str, Any]) -> bool:
    return abs(cell["bias"]) > _BIASED + 2 * cell["bias_error"]


def _ends(cell: Mapping[str, Any]) -> str:
    return "first look" if cell["tolerance"] == FIRST_LOOK else f"{100 * cell['tolerance']:g} %"


def _cell_lines(title: str, cells: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> list[str]:
    header = ["dump", "ends at", "right, of all", "held, of samples", "half-width", "rows of a sample", "rows read"]
    return table(title, header, [_cells(cell, cell in bad) for cell in cells])


def _cells(cell: Mapping[str, Any], is_rejected: bool) -> list[str]:
    mark = "" if cell["is_judged"] else " (not judged)"
    right = f"{cell['right']} of {cell['trials']}{mark}" + ": NO" * is_rejected
    read = f"{cell['share_read']:.1%}"
    if not cell["stated"]:
        return [cell["kind"], _ends(cell), right, "0 of 0", "", "", read]
    return [
        cell["kind"], _ends(cell), right, f"{cell['held']} of {cell['stated']}", f"{cell['half_width']:.2%}",
        f"{cell['rows']:,.0f}", read,
    ]  # fmt: skip


def _precision_lines(cells: Sequence[dict[str, Any]]) -> list[str]:
    return table(
        "Ordinary dumps: width and bias",
        ["dump", "ends at", "half-width / 95 % of errors", "bias / half-width"],
        [
            [
                cell["kind"], _ends(cell), f"{cell['sharpness']:.2f}" + ": NO" * _is_blunt(cell),
                f"{cell['bias']:+.2f} ± {cell['bias_error']:.2f}" + ": NO" * _is_biased(cell),
            ]
            for cell in cells if cell["stated"] >= _FEWEST
        ],
    )  # fmt: skip


def _population_lines(populations: list[dict[str, Any]]) -> list[str]:
    return table(
        "RankMe of the distribution that the rows were drawn from: intervals that held",
        ["dump", "from the last look", "from every row"],
        [
            [row["kind"], *[f"{row[key]} of {row[f'{key}_stated']}" for key in ("part", "all")]]
            for row in populations
        ],
    )  # fmt: skip


def _metric_lines(held: list[dict[str, Any]]) -> list[str]:
    names = [name for name in METRICS if any(name in row for row in held)]
    return table(
        "Every metric at the last look, 64 rows a feature or half of all: intervals that held",
        ["dump", *names],
        [
            [row["kind"], *[f"{row[name][0]} of {row[name][1]}" if name in row else "" for name in names]]
            for row in held
        ],
    )
