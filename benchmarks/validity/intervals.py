"""Whether the intervals hold the truth, how wide they are, how sharp the bounds are, and what probing costs.

``python -m benchmarks intervals`` checks every interval of thousands of small matrices against exact arithmetic,
measures half-widths on larger ones, drives the rounding errors towards their bounds, and times float32 passes and
their probes. A run that is killed continues where it was when ``--out`` names the same folder.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import binom
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.validity import ball_arithmetic, planted, sharpness
from rankme_stream.accumulators.error_probes import CONFIDENCE, ErrorProbes
from rankme_stream.spectra import metrics
from rankme_stream.testing import matrix_with_spectrum

_U64, _U32 = 2.0**-53, 2.0**-24
_SHOWN = 20  # misses that the Markdown shows; the JSON has them all
_BLOCK = 100  # seeds of the coverage that are kept together
_CHANCE = 1e-3  # that float32 intervals of the confidence stated miss more often than is allowed here
_DUMP = Path(rs.__file__).parent / "cli" / "data" / "minilm-docstrings-4096.zarr"
_SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "k^-1/2": lambda k: (k + 1.0) ** -0.5,
    "k^-1": lambda k: 1.0 / (k + 1.0),
    "k^-2": lambda k: (k + 1.0) ** -2.0,
    "rank 40 + 1e-8": lambda k: np.where(k < 40, 1.0, 1e-8),
    "exponential": lambda k: np.exp(-k / 20.0),
}
_METHODS = (("gram", "float64"), ("tsqr", "float64"), ("gram", "float32"))


def draw_tall(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a matrix as ``planted.draw`` does, of up to 2,048 rows whose roundings do not cancel one another."""
    generator = np.random.default_rng(seed)
    n_rows, n_features = int(generator.integers(256, 2049)), int(generator.integers(1, 5))
    storage = str(generator.choice(["float16", "float32", "float64"]))
    rows = np.tile(generator.random(n_features) + 0.5, (n_rows, 1))
    for column in rows.T:
        kind = generator.integers(5)  # 0 and 1 leave it constant
        if kind == 2:
            column *= generator.choice([-1.0, 1.0], n_rows)
        elif kind == 3:
            column += generator.standard_normal(n_rows) * 10.0 ** generator.uniform(-6, 0)
        elif kind == 4:
            column[1:] *= 2.0**-12 if storage == "float16" else 2.0**-26.4
        column *= 10.0 ** generator.uniform(-3, 0)
    stored = rows.astype(planted.STORAGE[storage]).astype(np.float64)
    return stored, {"seed": seed, "family": TALL, "storage": storage, "scale": 0, "shape": [n_rows, n_features]}


TALL = "constant columns, up to 2,048 rows"
DRAWS: dict[str, tuple[Callable[[int], tuple[np.ndarray, dict[str, Any]]], int, int]] = {  # seeds in full, and quick
    "D up to 10": (partial(planted.draw, max_features=10), 2200, 40),
    "D up to 48": (partial(planted.draw, max_features=48), 60, 1),
    TALL: (draw_tall, 300, 3),
}


def coverage(draws: str, seeds: Iterable[int]) -> dict[str, Any]:
    """Check every interval of the matrices that the seeds give, by every kind of accumulator."""
    counts = {kind: Counter() for kind in planted.KINDS}
    ratios: dict[str, dict[str, float]] = {kind: {} for kind in planted.KINDS}
    misses: list[dict[str, Any]] = []
    undecided: list[dict[str, Any]] = []
    for seed in seeds:
        rows, made = DRAWS[draws][0](seed)
        truth = ball_arithmetic.truth(rows, unit_roundoff=planted.ROUNDOFF[made["storage"]])
        for kind, count in counts.items():
            note = made | {"kind": kind, "draws": draws}
            count["matrices"] += 1
            try:
                groups = planted.intervals_of(rows, kind, storage=made["storage"], seed=seed)
            except rs.RankMeError as error:
                count["refused"] += 1
                if "float32" not in str(error):  # nothing else is wrong with these matrices
                    misses.append(note | {"group": "all", "metric": "all", "error": str(error)})
                continue
            count["spectra"] += 2
            for group, name, estimate in ((g, n, e) for g, found in groups.items() for n, e in found.items()):
                number = _true_number(truth, group, name)
                outcome, worst = _check(number, estimate)
                count["numbers"] += 1
                count[outcome] += 1
                if worst:
                    count[f"worst case {worst}"] += 1
                if "undecided" in (outcome, worst):
                    undecided.append(note | {"group": group, "metric": name})
                if "missed" in (outcome, worst):
                    at = {"truth": str(number), "value": estimate.value, "ends": [estimate.lower, estimate.upper]}
                    misses.append(note | {"group": group, "metric": name} | at)
                if name == "rankme" and outcome == "held" and estimate.value is not None:
                    ratio = ball_arithmetic.inside_error(number, estimate.value) / estimate.half_width
                    ratios[kind][made["family"]] = max(ratio, ratios[kind].get(made["family"], 0.0))
    return {"counts": counts, "ratios": ratios, "misses": misses, "undecided": undecided}


def _true_number(truth: ball_arithmetic.Truth, group: str, name: str) -> ball_arithmetic.Number:
    if group == "presets":
        return truth.presets[name]
    return truth.metrics["normalized_rankme" if (group, name) == ("unit", "rankme") else name]


def _check(number: ball_arithmetic.Number, estimate: rs.Estimate) -> tuple[str, str]:
    """Return the outcome for the interval and for the ends of the worst case, if there are any."""
    if number is None:
        return ("undefined" if estimate.value is None else "missed"), ""
    if estimate.lower is None or estimate.upper is None:
        return "withheld", ""
    outcome = _place(number, estimate.lower, estimate.upper)
    if outcome == "held" and estimate.value is None:  # one end is stated, and holds
        outcome = "withheld"
    ends = estimate.details.get("worst_case")
    return outcome, _place(number, *ends) if ends else ""


def _place(number: Any, lower: float, upper: float) -> str:
    try:
        return "held" if ball_arithmetic.contains(number, lower, upper) else "missed"
    except ArithmeticError:
        return "undecided"


def join_coverage(blocks: list[dict[str, Any]], chance: float = _CHANCE) -> dict[str, Any]:
    """Add up blocks of the coverage and say which kinds miss more often than they may."""
    counts = {kind: sum((Counter(block["counts"][kind]) for block in blocks), Counter()) for kind in planted.KINDS}
    ratios = {
        kind: {
            family: max((block["ratios"][kind].get(family, 0.0) for block in blocks), default=0.0)
            for family in (*planted.FAMILIES, TALL)
        }
        for kind in planted.KINDS
    }
    misses = [miss for block in blocks for miss in block["misses"]]
    undecided = [one for block in blocks for one in block["undecided"]]
    failed = []
    for kind, count in counts.items():
        spectra = {(m["seed"], m["draws"], m["group"] == "unit") for m in misses if m["kind"] == kind}
        measured = kind == "gram float32"
        count["spectra missed"] = len(spectra)
        count["spectra allowed"] = int(binom.ppf(1 - chance, count["spectra"], 1 - CONFIDENCE)) if measured else 0
        if len(spectra) > count["spectra allowed"]:
            failed.append(kind)
    return {"counts": counts, "ratios": ratios, "misses": misses, "undecided": undecided, "failed": failed}


def half_widths(source: Any, name: str, reference: float | None) -> list[dict[str, Any]]:
    """Relative half-width and error of RankMe by each method; without a reference the number of tsqr is taken."""
    found = {methods: _measured(source, *methods)[1] for methods in _METHODS}
    reference = reference or found["tsqr", "float64"].rankme.value
    rows = []
    for methods, measurement in found.items():
        rankme, row = measurement.rankme, {"spectrum": name, "method": " ".join(methods)}
        if rankme.value is not None:
            row |= {"half_width": rankme.half_width / reference, "error": abs(rankme.value - reference) / reference}
            row["ratio"] = row["error"] / row["half_width"]
            if "worst_case" in rankme.details:
                ends = rankme.details["worst_case"]
                row["worst_case"] = max(ends[1] - rankme.value, rankme.value - ends[0]) / reference
        rows.append(row)
    return rows


def _measured(source: Any, method: str, precision: str) -> tuple[float, rs.Measurement]:
    """Return the CPU seconds of a pass, which other work on the machine sways least, and what it gave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rs.ToleranceWarning)
        measurement = rs.measure(source, method=method, precision=precision)
        return measurement.measured["cpu_s"], measurement


def _planted_rows(name: str, n_rows: int, n_features: int) -> tuple[np.ndarray, float]:
    """Return rows of that spectrum and their RankMe."""
    values = _SPECTRA[name](np.arange(float(n_features)))
    rows = matrix_with_spectrum(values, n_rows=n_rows, n_features=n_features)
    return rows, float(metrics.rankme(np.sort(values)[::-1]))


def probing_cost(n_rows: int, n_features: int, repeats: int) -> dict[str, Any]:
    """Time float32 passes, what of it their probes take, and float64 passes, in turn."""
    generator = np.random.default_rng(0)
    piece = generator.standard_normal((min(n_rows, 100_000), n_features), dtype=np.float32).astype(np.float16)
    rows = np.tile(piece, (n_rows // len(piece), 1))
    seconds: dict[str, list[float]] = {"float32": [], "probes": [], "float64": []}
    spent: list[float] = []
    observe = ErrorProbes.observe

    def timed(*arguments: Any, **options: Any) -> None:
        began = time.thread_time()
        observe(*arguments, **options)
        spent.append(time.thread_time() - began)

    _measured(rows[: len(piece)], "gram", "float32")
    for _ in range(repeats):
        spent.clear()
        with mock.patch.object(ErrorProbes, "observe", timed):
            seconds["float32"].append(_measured(rows, "gram", "float32")[0])
        seconds["probes"].append(sum(spent))
        seconds["float64"].append(_measured(rows, "gram", "float64")[0])
    return {"rows": len(rows), "features": n_features, "seconds": seconds,
            "probes": _ratio(seconds["probes"], seconds["float32"]),
            "float32": _ratio(seconds["float32"], seconds["float64"])}  # fmt: skip


def auto_cost(name: str, n_rows: int, n_features: int, repeats: int) -> dict[str, Any]:
    """Time ``precision="auto"`` against float64, in turn, float32 rows."""
    if name == "gaussian":
        rows = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
    else:
        piece = _planted_rows(name, min(n_rows, 20_000), n_features)[0].astype(np.float32)
        rows = np.tile(piece, (n_rows // len(piece), 1))
    seconds: dict[str, list[float]] = {"auto": [], "float64": []}
    taken = {}
    _measured(rows, "auto", "float64")
    for _ in range(repeats):
        for precision in seconds:
            elapsed, measurement = _measured(rows, "auto", precision)
            seconds[precision].append(elapsed)
            taken[precision] = ", then ".join(f"{one['method']} {one['precision']}" for one in measurement.passes)
    return {"spectrum": name, "rows": n_rows, "features": n_features, "seconds": seconds, "taken": taken,
            "ratio": _ratio(seconds["auto"], seconds["float64"])}  # fmt: skip


def _ratio(ours: list[float], theirs: list[float]) -> list[float]:
    """Median, least and largest of the ratios of neighbouring times."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [median(ratios), min(ratios), max(ratios)]


def run(experiment: Experiment, quick: bool, dumps: list[str]) -> dict[str, Any]:
    """Run the sections in order; the timings come last."""

    def part(name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        with threadpool_limits(1, user_api="blas"):  # as measure() does
            return experiment.part(name, make, *arguments)

    blocks = []
    for draws, (_, *n_seeds) in DRAWS.items():
        for start in range(0, n_seeds[quick], _BLOCK):
            seeds = range(start, min(n_seeds[quick], start + _BLOCK))
            blocks.append(part(f"coverage, {draws}, seeds {start}-{seeds[-1]}", coverage, draws, seeds))
    width_shape = (2_000, 64) if quick else (20_000, 768)

    def planted_half_widths(name: str) -> list[dict[str, Any]]:
        rows, reference = _planted_rows(name, *width_shape)
        return half_widths(rows, name, reference)

    widths = [row for name in _SPECTRA for row in part(f"half-widths, {name}", planted_half_widths, name)]
    for uri in [f"{_DUMP}::embeddings", *dumps]:
        label = uri.rstrip("/").split("/")[-1]
        widths += part(f"half-widths, {uri}", half_widths, uri, label, None)
    sharp = [
        row
        for name in ("gram", "solver", "tsqr", "float32")
        for row in part(f"sharpness, {name}", sharpness.largest_ratios, name, quick)
    ]
    sizes = [(20_000, 64)] if quick else [(600_000, 768), (3_000_000, 256)]
    repeats = 1 if quick else 5
    probing = [part(f"cost, {n:,} x {d}", probing_cost, n, d, repeats) for n, d in sizes]
    shape, repeats = ((20_000, 32), 1) if quick else ((800_000, 768), 3)
    auto = [part(f"auto, {name}", auto_cost, name, *shape, repeats) for name in ("gaussian", *_SPECTRA)]
    return {"coverage": join_coverage(blocks), "shape": width_shape, "half_widths": widths, "sharpness": sharp,
            "probing_cost": probing, "auto_cost": auto}  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    found = result["coverage"]
    columns = ("matrices", "refused", "numbers", "held", "undefined", "withheld", "undecided", "missed")
    worst = ("worst case held", "worst case missed")
    lines = ["# What the intervals hold", "", f"`{result['command']}`, {result['date']}, {result['machine']}."]
    lines += table(
        "Intervals that hold the true value, by exact arithmetic",
        ["arithmetic", *columns, *worst, "spectra missed / allowed"],
        [
            [kind, *(f"{count.get(name, 0):,}" for name in (*columns, *worst)),
             f"{count['spectra missed']} / {count['spectra allowed']}"]
            for kind, count in found["counts"].items()
        ],
    )  # fmt: skip
    lines += [
        "",
        "Refused: a matrix whose squares overflow float32. Undefined: no true value exists, and none was stated.",
        "Withheld: a true value exists, and the arithmetic could not tell it. Undecided: a ball across a limit.",
    ]
    for what in ("misses", "undecided"):
        lines += ["", f"First of {len(found[what])} {what}:", ""] if found[what] else []
        lines += [f"- `{json.dumps(one)}`" for one in found[what][:_SHOWN]]
    lines += table(
        "Largest error of RankMe as a share of its half-width",
        ["family", *found["ratios"]],
        [
            [family, *(_short(of[family]) for of in found["ratios"].values())]
            for family in found["ratios"]["gram float64"]
        ],
    )
    keys = ("half_width", "error", "ratio", "worst_case")
    rows, features = result["shape"]
    lines += table(
        f"Relative half-width of RankMe, {rows:,} x {features:,} float64 where planted",
        ["spectrum", "method", "half-width", "error", "error / half-width", "half-width, worst case"],
        [
            [row["spectrum"], row["method"], *(_short(row.get(key)) for key in keys)]
            for row in result["half_widths"]
        ],
    )  # fmt: skip
    lines += table(
        "Largest ratio of error to bound that inputs chosen to reach it gave",
        ["bound", "inputs", "largest ratio", "reached by"],
        [[row["bound"], row["tried"], _short(row["ratio"]), row["where"]] for row in result["sharpness"]],
    )
    lines += table(
        "CPU time of float32 passes, float16 rows in memory: median of the ratios of neighbours (least to most)",
        ["rows", "features", "CPU seconds", "probes / pass", "float32 / float64"],
        [
            [f"{row['rows']:,}", row["features"], f"{median(row['seconds']['float32']):.2f}",
             _spread(row["probes"]), _spread(row["float32"])]
            for row in result["probing_cost"]
        ],
    )  # fmt: skip
    lines += table(
        "CPU time with `precision=\"auto\"` over that with float64, float32 rows in memory: median (least to most)",
        ["spectrum", "rows", "features", "CPU seconds", "auto took", "float64 took", "ratio"],
        [
            [row["spectrum"], f"{row['rows']:,}", row["features"], f"{median(row['seconds']['auto']):.2f}",
             row["taken"]["auto"], row["taken"]["float64"], _spread(row["ratio"])]
            for row in result["auto_cost"]
        ],
    )  # fmt: skip
    return "\n".join(lines)


def _spread(ratio: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*ratio)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.2g}"


def main() -> int:
    """Run every section, print the tables, write them where asked; 1 if an interval missed that may not."""
    experiment = Experiment("intervals", __doc__, {"quick": "15 s", "default": "15 minutes"})
    experiment.parser.add_argument(
        "--dump", action="append", default=[], metavar="URI", help="measure half-widths on it as well"
    )
    arguments = experiment.start()
    result = experiment.finish(run(experiment, experiment.size == "quick", arguments.dump), markdown)
    return 1 if result["coverage"]["failed"] else 0
