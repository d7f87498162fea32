"""Do intervals hold the true value, how wide and how sharp are they, and what do float32 passes and probes cost?

``python -m benchmarks intervals`` checks every interval of thousands of small matrices against exact arithmetic,
measures half-widths on larger ones, drives the rounding errors towards their bounds, and times float32 passes and
their probes. A run that is killed goes on with its next part when ``--out`` names the same folder.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import binom
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment
from benchmarks.validity import ball_arithmetic, intervals_page, planted, random_dumps, sharpness
from rankme_stream.accumulators.error_probes import CONFIDENCE, ErrorProbes
from rankme_stream.spectra import metrics
from rankme_stream.testing import matrix_with_spectrum

_U64, _U32 = 2.0**-53, 2.0**-24
_BLOCK = 100  # seeds of one part of the coverage
_CHANCE = 1e-3  # of a false alarm: float32 intervals that hold with their confidence miss too often here
_SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "k^-1/2": lambda k: (k + 1.0) ** -0.5,
    "k^-1": lambda k: 1.0 / (k + 1.0),
    "k^-2": lambda k: (k + 1.0) ** -2.0,
    "rank 40 + 1e-8": lambda k: np.where(k < 40, 1.0, 1e-8),
    "exponential": lambda k: np.exp(-k / 20.0),
}
_ARITHMETICS = (("gram", "float64"), ("tsqr", "float64"), ("gram", "float32"))


def draw_tall(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a matrix as ``planted.draw`` does, with up to 2,048 rows whose rounding errors do not cancel."""
    generator = np.random.default_rng(seed)
    n_rows, n_features = int(generator.integers(256, 2049)), int(generator.integers(1, 5))
    storage = str(generator.choice(["float16", "float32", "float64"]))
    rows = np.tile(generator.random(n_features) + 0.5, (n_rows, 1))
    for column in rows.T:
        kind = generator.integers(5)  # 0 and 1 leave the column constant
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
DRAWS: dict[
    str, tuple[Callable[[int], tuple[np.ndarray, dict[str, Any]]], int, int]
] = {  # number of seeds by default, and with --quick
    "D up to 10": (partial(planted.draw, max_features=10), 2200, 40),
    "D up to 48": (partial(planted.draw, max_features=48), 60, 1),
    TALL: (draw_tall, 300, 3),
}


def coverage(draws: str, seeds: Iterable[int]) -> dict[str, Any]:
    """Check every interval of the matrices of some seeds, for every kind of accumulator."""
    tally = _Tally()
    for seed in seeds:
        rows, made = DRAWS[draws][0](seed)
        truth = ball_arithmetic.truth(rows, unit_roundoff=planted.ROUNDOFF[made["storage"]])
        for kind, count in tally.counts.items():
            case = made | {"kind": kind, "draws": draws}
            count["matrices"] += 1
            try:
                groups = planted.intervals_of(rows, kind, storage=made["storage"], seed=seed)
            except rs.RankMeError as error:
                count["refused"] += 1
                if "float32" not in str(error):  # no other error is expected
                    tally.misses.append(case | {"group": "all", "metric": "all", "error": str(error)})
                continue
            count["spectra"] += 2
            for group, estimates in groups.items():
                for name, estimate in estimates.items():
                    metric_case = case | {"group": group, "metric": name}
                    tally.add(metric_case, _true_number(truth, group, name), estimate)
    return vars(tally)


class _Tally:
    """Counts, largest ratios of error to half-width, misses and undecided cases of one part of the coverage."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in planted.KINDS}
        self.ratios: dict[str, dict[str, float]] = {kind: {} for kind in planted.KINDS}
        self.misses: list[dict[str, Any]] = []
        self.undecided: list[dict[str, Any]] = []

    def add(self, case: dict[str, Any], number: ball_arithmetic.Number, estimate: rs.Estimate) -> None:
        """Check one estimate of a metric."""
        outcome, worst = _check(number, estimate)
        count = self.counts[case["kind"]]
        count["numbers"] += 1
        count[outcome] += 1
        if worst:
            count[f"worst case {worst}"] += 1
        if "undecided" in (outcome, worst):
            self.undecided.append(case)
        if "missed" in (outcome, worst):
            ends = {"truth": str(number), "value": estimate.value, "ends": [estimate.lower, estimate.upper]}
            self.misses.append(case | ends)
        if case["metric"] == "rankme" and outcome == "held" and estimate.value is not None:
            ratio = ball_arithmetic.inside_error(number, estimate.value) / estimate.half_width
            ratios = self.ratios[case["kind"]]
            ratios[case["family"]] = max(ratio, ratios.get(case["family"], 0.0))


def _true_number(truth: ball_arithmetic.Truth, group: str, name: str) -> ball_arithmetic.Number:
    if group == "presets":
        return truth.presets[name]
    return truth.metrics["normalized_rankme" if (group, name) == ("unit", "rankme") else name]


def _check(number: ball_arithmetic.Number, estimate: rs.Estimate) -> tuple[str, str]:
    """Return the outcome for the interval, and for the ends of the worst case if it has any."""
    if number is None:
        return ("undefined" if estimate.value is None else "missed"), ""
    if estimate.lower is None or estimate.upper is None:
        return "withheld", ""
    outcome = _outcome(number, estimate.lower, estimate.upper)
    if outcome == "held" and estimate.value is None:  # one end is stated, and it holds
        outcome = "withheld"
    ends = estimate.details.get("worst_case")
    return outcome, _outcome(number, *ends) if ends else ""


def _outcome(number: Any, lower: float, upper: float) -> str:
    try:
        return "held" if ball_arithmetic.contains(number, lower, upper) else "missed"
    except ArithmeticError:
        return "undecided"


def join_coverage(blocks: list[dict[str, Any]], chance: float = _CHANCE) -> dict[str, Any]:
    """Add up parts of the coverage, and add the kinds that miss more often than allowed as ``failed``."""
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
        is_estimated = kind == "gram float32"  # its error is estimated by probes; that of other kinds is bounded
        count["spectra missed"] = len(spectra)
        count["spectra allowed"] = int(binom.ppf(1 - chance, count["spectra"], 1 - CONFIDENCE)) if is_estimated else 0
        if len(spectra) > count["spectra allowed"]:
            failed.append(kind)
    return {"counts": counts, "ratios": ratios, "misses": misses, "undecided": undecided, "failed": failed}


def half_widths(source: Any, name: str, reference: float | None) -> list[dict[str, Any]]:
    """Return relative half-width and error of RankMe by arithmetic; the reference is that of tsqr unless given."""
    measurements = {arithmetic: _measured(source, *arithmetic)[1] for arithmetic in _ARITHMETICS}
    reference = reference or measurements["tsqr", "float64"].rankme.value
    rows = []
    for arithmetic, measurement in measurements.items():
        rankme, row = measurement.rankme, {"spectrum": name, "method": " ".join(arithmetic)}
        if rankme.value is not None:
            row |= {"half_width": rankme.half_width / reference, "error": abs(rankme.value - reference) / reference}
            row["ratio"] = row["error"] / row["half_width"]
            if "worst_case" in rankme.details:
                ends = rankme.details["worst_case"]
                row["worst_case"] = max(ends[1] - rankme.value, rankme.value - ends[0]) / reference
        rows.append(row)
    return rows


def _measured(source: Any, method: str, precision: str) -> tuple[float, rs.Measurement]:
    """Return the CPU seconds of a pass, on which other work has the least effect, and its result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rs.ToleranceWarning)
        measurement = rs.measure(source, method=method, precision=precision)
        return measurement.measured["cpu_s"], measurement


def _planted_rows(name: str, n_rows: int, n_features: int) -> tuple[np.ndarray, float]:
    """Return rows of a spectrum and their RankMe."""
    values = _SPECTRA[name](np.arange(float(n_features)))
    rows = matrix_with_spectrum(values, n_rows=n_rows, n_features=n_features)
    return rows, float(metrics.rankme(np.sort(values)[::-1]))


def probing_cost(n_rows: int, n_features: int, repeats: int) -> dict[str, Any]:
    """Time float32 passes, their probes alone, and float64 passes, in turn."""
    generator = np.random.default_rng(0)
    piece = generator.standard_normal((min(n_rows, 100_000), n_features), dtype=np.float32).astype(np.float16)
    rows = np.tile(piece, (n_rows // len(piece), 1))
    seconds: dict[str, list[float]] = {"float32": [], "probes": [], "float64": []}
    probe_s: list[float] = []
    observe = ErrorProbes.observe

    def timed(*arguments: Any, **options: Any) -> None:
        began = time.thread_time()
        observe(*arguments, **options)
        probe_s.append(time.thread_time() - began)

    _measured(rows[: len(piece)], "gram", "float32")
    for _ in range(repeats):
        probe_s.clear()
        with mock.patch.object(ErrorProbes, "observe", timed):
            seconds["float32"].append(_measured(rows, "gram", "float32")[0])
        seconds["probes"].append(sum(probe_s))
        seconds["float64"].append(_measured(rows, "gram", "float64")[0])
    return {"rows": len(rows), "features": n_features, "seconds": seconds,
            "probes": _ratio(seconds["probes"], seconds["float32"]),
            "float32": _ratio(seconds["float32"], seconds["float64"])}  # fmt: skip


def auto_cost(name: str, n_rows: int, n_features: int, repeats: int) -> dict[str, Any]:
    """Time ``precision="auto"`` against float64, in turn, on float32 rows."""
    if name == "gaussian":
        rows = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
    else:
        piece = _planted_rows(name, min(n_rows, 20_000), n_features)[0].astype(np.float32)
        rows = np.tile(piece, (n_rows // len(piece), 1))
    seconds: dict[str, list[float]] = {"auto": [], "float64": []}
    passes = {}
    _measured(rows, "auto", "float64")
    for _ in range(repeats):
        for precision in seconds:
            elapsed, measurement = _measured(rows, "auto", precision)
            seconds[precision].append(elapsed)
            passes[precision] = ", then ".join(f"{one['method']} {one['precision']}" for one in measurement.passes)
    return {"spectrum": name, "rows": n_rows, "features": n_features, "seconds": seconds, "taken": passes,
            "ratio": _ratio(seconds["auto"], seconds["float64"])}  # fmt: skip


def _ratio(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the median, the least and the largest ratio of neighbouring times."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [median(ratios), min(ratios), max(ratios)]


def run(experiment: Experiment, quick: bool, dumps: list[str]) -> dict[str, Any]:
    """Run every part of the benchmark, the timings last."""

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
    for uri in [f"{random_dumps.BUNDLED}::embeddings", *dumps]:
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


def main() -> int:
    """Run, print and write the page; return 1 if more intervals missed than are allowed to."""
    experiment = Experiment("intervals", __doc__, {"quick": "15 s", "default": "15 minutes"})
    experiment.parser.add_argument(
        "--dump", action="append", default=[], metavar="URI", help="dump to measure half-widths on as well"
    )
    arguments = experiment.start()
    result = experiment.finish(run(experiment, experiment.size == "quick", arguments.dump), intervals_page.markdown)
    return 1 if result["coverage"]["failed"] else 0
