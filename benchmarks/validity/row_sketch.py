"""How often do the intervals of a row sketch hold the true value, and what does a sketch cost beside a Gram pass?

``python -m benchmarks row_sketch`` draws a dump of every kind once, sketches it with many seeds at 8, 16 and 32 rows a
feature, and counts how often the intervals hold the values of all rows, raw and centred. Real embeddings are sorted by
package; they come from the bundled dump, or from ``--dump GROUP``, a zarr group with ``embeddings`` and ``package``.
Then it times a sketch, a Gram pass and reading alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from benchmarks.validity import holm, random_dumps
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchAccumulator
from rankme_stream.numerics import machine
from rankme_stream.passes.state.row_norms import rows_error, scale_rows
from rankme_stream.spectra.estimates import METRICS, NORMALIZED, estimate_all, estimate_normalized
from rankme_stream.testing import with_ones

_POOLED = (0.94, 0.99)
_OF_ROWS = tuple(name for name, metric in METRICS.items() if metric.scale)
_OF_UNIT_ROWS = tuple(name for name, metric in NORMALIZED.items() if metric.scale)
_TRIALS = 25  # seeds of one task of the pool
_PANEL_ROWS = 1024
_REAL, _REAL_ROWS = "real, sorted by package", 48  # name, and least rows a feature


@dataclass(frozen=True)
class Size:
    """Dumps of one width, of every kind or of those whose names start as in ``some``, and their sketches."""

    n_features: int
    n_rows: int
    real_features: int
    sketches: tuple[int, ...]
    n_seeds: int
    has_unit_rows: bool
    some: tuple[str, ...] = ()
    dump: str | None = None

    def kinds(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return a function for each kind that makes its dump."""
        kinds = _kinds(self.n_features, self.n_rows) | {_REAL: lambda: _real(self.dump, self.real_features)}
        return {name: make for name, make in kinds.items() if name.startswith(self.some or "")}


def _kinds(n_features: int, n_rows: int) -> dict[str, Callable[[], np.ndarray]]:
    k = np.arange(1, n_features + 1, dtype=np.float32)
    half, few = k**-0.5, round(2.5 * n_features)
    spectra = {
        "flat": k**0, "s ~ k^-1/4": k**-0.25, "s ~ k^-1/2": half, "s ~ k^-1": 1 / k,
        "s ~ exp(-8 k/D)": np.exp(-8 * k / n_features),
    }  # fmt: skip

    def gaussian() -> np.ndarray:
        return random_dumps.gaussian(n_rows, half)(0)

    def clusters() -> np.ndarray:
        return random_dumps.clusters(n_rows, half, is_sorted=True)(0)

    return {
        f"Gaussian, {name}": partial(random_dumps.gaussian(n_rows, spectrum), 0) for name, spectrum in spectra.items()
    } | {
        "clusters, sorted": clusters,
        "the same about a mean of 5": lambda: clusters() + np.float32(5.0),
        "near-duplicates in runs of 64": partial(random_dumps.near_duplicates(n_rows, half, 64), 0),
        f"near-duplicates of {few} rows": lambda: _copies(n_rows, half, few),
        "heavy tails, t with 6 degrees": partial(random_dumps.heavy_tailed(n_rows, half), 0),
        "half of the directions by 1 row in 500": lambda: _rare(gaussian(), k > n_features // 2, 500),
        "one row in 100 10 times as long": lambda: _giants(gaussian(), 100, 10.0),
        "one row in 1,000 50 times as long": lambda: _giants(gaussian(), 1000, 50.0),
        "the same about a mean of 1,000": lambda: _giants(gaussian(), 1000, 50.0) + np.float32(1000.0),
    }


def _giants(rows: np.ndarray, one_in: int, times: float) -> np.ndarray:
    """Return rows of which every ``one_in``-th is made longer."""
    rows[::one_in] *= np.float32(times)
    return rows


def _rare(rows: np.ndarray, is_rare: np.ndarray, one_in: int) -> np.ndarray:
    """Return rows of which every ``one_in``-th has the rare features only, and the others have none of these."""
    others = rows[::one_in] * is_rare * np.float32(10.0)
    rows *= ~is_rare
    rows[::one_in] = others
    return rows


def _copies(n_rows: int, spectrum: np.ndarray, count: int) -> np.ndarray:
    """Return a few rows repeated in random order, each copy changed by one hundredth."""
    generator = np.random.default_rng(0)
    few = generator.standard_normal((count, spectrum.size))[generator.integers(count, size=n_rows)]
    return ((few + 0.01 * generator.standard_normal(few.shape)) * spectrum).astype(np.float32)


def _real(dump: str | None, n_features: int) -> np.ndarray:
    """Return real embeddings sorted by package; the first features, so few that there are enough rows a feature."""
    group = zarr.open_group(dump or random_dumps.BUNDLED, mode="r")
    rows = np.asarray(group["embeddings"])
    if "package" in group:
        rows = rows[np.argsort(np.asarray(group["package"]), kind="stable")]
    return rows[:, : min(n_features, len(rows) // _REAL_ROWS)]


@cache
def _dump(name: str, size: Size) -> tuple[np.ndarray, dict[str, float]]:
    """Return the panel of a dump and its true values, those of unit rows included where the size has them."""
    rows = size.kinds()[name]()
    exact = rs.measure(rows, normalize=size.has_unit_rows, workers=1, tolerance=1.0)
    values = {name: exact[name].value for name in _OF_ROWS}
    values |= {f"normalized.{name}": one.value for name, one in exact.normalized.items() if name in _OF_UNIT_ROWS}
    return with_ones(rows), {name: float(value) for name, value in values.items() if value is not None}


def trials(name: str, rows_a_feature: int, seeds: range, size: Size) -> list[dict[str, Any]]:
    """Sketch a dump once for each seed; return every metric as [sketch's number, value, lower, upper, reason]."""
    panel, truth = _dump(name, size)
    n_features = panel.shape[1] - 1
    sketch_size = METHODS["row-sketch"].sketch_size(max(256, rows_a_feature * n_features), 0, n_features)
    by_seed = []
    for seed in seeds:
        raw = RowSketchAccumulator(n_features, sketch_size=sketch_size, seed=seed)
        unit = RowSketchAccumulator(n_features, sketch_size=sketch_size, seed=seed, rows_error=rows_error(n_features))
        scaled = np.empty((_PANEL_ROWS, 1 + n_features))
        for start in range(0, len(panel), _PANEL_ROWS):
            rows = panel[start : start + _PANEL_ROWS]
            raw.update(rows, start)
            if size.has_unit_rows:
                scale_rows(rows, scaled[: len(rows)])
                unit.update(scaled[: len(rows)], start)
        estimates = estimate_all(raw.spectrum(unit_roundoff=2.0**-24))
        if size.has_unit_rows:
            of_unit_rows = estimate_normalized(unit.spectrum(unit_roundoff=2.0**-24))
            estimates |= {f"normalized.{metric}": one for metric, one in of_unit_rows.items()}
        numbers = {
            metric: [one.details.get("sketch"), one.value, one.lower, one.upper, one.reason]
            for metric, one in estimates.items()
            if metric in truth
        }
        by_seed.append(numbers)
    return by_seed


def of_kind(pool: ProcessPoolExecutor, name: str, rows_a_feature: int, size: Size) -> list[dict[str, Any]]:
    """Return the cells of a kind at one size of the sketch, one for each metric."""
    runs = [range(start, min(size.n_seeds, start + _TRIALS)) for start in range(0, size.n_seeds, _TRIALS)]
    parts = pool.map(trials, *zip(*[(name, rows_a_feature, seeds, size) for seeds in runs], strict=True))
    every = [one for part in parts for one in part]
    panel, truth = _dump(name, size)
    shape = {"kind": name, "rows": len(panel), "features": panel.shape[1] - 1, "a_feature": rows_a_feature}
    return [shape | _cell(metric, exact, [one[metric] for one in every]) for metric, exact in truth.items()]


def _cell(metric: str, exact: float, every: Sequence[Sequence[Any]]) -> dict[str, Any]:
    stated = np.array([one[:4] for one in every if one[1] is not None], float).reshape(-1, 4)
    cell = {"metric": metric, "truth": exact, "trials": len(every), "stated": len(stated)}
    cell["reason"] = next((one[4] for one in every if one[1] is None), None)
    if not len(stated):
        return cell
    sketched, value, lower, upper = stated.T
    held = int(((lower <= exact) & (exact <= upper)).sum())
    half_width = float(np.median((upper - lower) / 2))
    return cell | {
        "held": held, "p": holm.p_value(held, len(stated)), "half_width": half_width / abs(exact),
        "sharpness": half_width / float(np.quantile(np.abs(value - exact), 0.95)),
        "bias": float((value - exact).mean() / abs(exact)),
        "uncorrected": float((sketched - exact).mean() / abs(exact)),
    }  # fmt: skip


def rejected(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return the cells that are shown to hold less often than they should, by Holm's step-down test, as text."""
    bad = holm.rejected([cell for cell in cells if cell["stated"]])
    return [
        f"{cell['kind']}, {cell['metric']}, {cell['a_feature']}: {cell['held']} of {cell['stated']}" for cell in bad
    ]


def timed(layout: Layout, n_runs: int) -> dict[str, Any]:
    """Time reading alone and passes over a store, in turn and on one thread; return the fastest of ``n_runs``."""
    with layout.stored() as uri:
        rs.measure(uri, workers=1)  # brings it into the page cache
        seconds: dict[str, list[float]] = {"read": [], "gram": [], "row-sketch": [], "telling": []}
        for _ in range(n_runs):
            source = rs.open_source(uri)
            bounds = [0, *source.bounds(0, layout.n_rows), layout.n_rows]
            began = time.perf_counter()
            with threadpool_limits(1):
                for start, stop in pairwise(bounds):
                    source.read(start, stop)
            seconds["read"].append(time.perf_counter() - began)
            for method in ("gram", "row-sketch"):
                measurement = rs.measure(uri, method=method, workers=1, tolerance=1.0)
                seconds[method].append(measurement.measured["elapsed_s"])
            seconds["telling"].append(_solving_s(layout.n_features))
    return {"name": layout.name} | {name: min(runs) for name, runs in seconds.items()}


def _solving_s(n_features: int) -> float:
    """Return the seconds to fold a sketch and to solve for its estimates."""
    sketch = RowSketchAccumulator(n_features, sketch_size=8 * n_features)
    for start in range(0, 64 * n_features, 1024):
        sketch.update(with_ones(np.random.default_rng(start).standard_normal((1024, n_features))), start)
    began = time.perf_counter()
    with threadpool_limits(1):
        assert estimate_all(sketch.spectrum(unit_roundoff=2.0**-11))["rankme"].value is not None
    return time.perf_counter() - began


def measured(experiment: Experiment, sizes: Sequence[Size], layouts: Sequence[Layout], n_runs: int) -> dict[str, Any]:
    """Run every part of the benchmark."""
    cells: list[dict[str, Any]] = []
    with ProcessPoolExecutor(machine.cores(), get_context("spawn"), threadpool_limits, (1,)) as pool:
        for size in sizes:
            for name in size.kinds():
                for rows_a_feature in size.sketches:
                    what = f"{name}, {size.n_features} features, {rows_a_feature} rows a feature"
                    cells += experiment.part(what, of_kind, pool, name, rows_a_feature, size)
    times = [experiment.part(layout.name, timed, layout, n_runs) for layout in layouts]
    stated = [cell for cell in cells if cell["stated"]]
    return {
        "sizes": [asdict(size) for size in sizes], "cells": cells, "times": times,
        "pooled": sum(cell["held"] for cell in stated) / sum(cell["stated"] for cell in stated),
        "rejected": rejected(stated),
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    stated = [cell for cell in result["cells"] if cell["stated"]]
    widest = max(cell["sharpness"] for cell in stated if cell["metric"] == "rankme")
    low, high = _POOLED
    seeds = " or ".join(f"{size['n_seeds'] - 1} ({size['n_features']} features)" for size in result["sizes"])
    return "\n".join([
        "# How often the intervals of a row sketch hold, and its cost",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; a dump of each kind, sketched with the seeds 0 "
        f"to {seeds}; intervals at 95 %.",
        "",
        f"- Cells (a dump, a size of the sketch, a metric) shown to hold less often than {holm.HOLDS:.0%} (one-sided "
        f"exact binomial test, Holm over {len(stated)} cells at {holm.SIGNIFICANCE}): {len(result['rejected'])}"
        + "".join(f"; {cell}" for cell in result["rejected"])
        + ".",
        f"- Pooled: {result['pooled']:.2%} of {sum(cell['stated'] for cell in stated):,} (target: {low:.0%} to "
        f"{high:.0%}).",
        f"- Median half-width of RankMe's interval: at most {widest:.2f} times the 95 % quantile of the errors.",
        *_rankme_lines(result["cells"]),
        *_metric_lines(result["cells"]),
        *_time_lines(result["times"]),
    ])  # fmt: skip


def _rankme_lines(cells: Sequence[dict[str, Any]]) -> list[str]:
    header = ["dump", "rows x features", "sketch rows a feature", "held", "half-width", "/ 95 % of errors", "bias",
              "bias of the sketch"]  # fmt: skip
    return table("RankMe", header, [_rankme_cells(cell) for cell in cells if cell["metric"] == "rankme"])


def _rankme_cells(cell: dict[str, Any]) -> list[str]:
    start = [cell["kind"], f"{cell['rows']:,} x {cell['features']}", str(cell["a_feature"])]
    if not cell["stated"]:
        return [*start, f"none: {cell['reason']}", "", "", "", ""]
    return [
        *start, f"{cell['held']} of {cell['stated']}", f"{cell['half_width']:.2%}",
        f"{cell['sharpness']:.2f}", f"{cell['bias']:+.3%}", f"{cell['uncorrected']:+.2%}",
    ]  # fmt: skip


def _metric_lines(cells: Sequence[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(cell["metric"] for cell in cells))
    by_sketch: dict[tuple[str, int, int], dict[str, str]] = {}
    for cell in cells:
        held = by_sketch.setdefault((cell["kind"], cell["features"], cell["a_feature"]), {})
        held[cell["metric"]] = f"{cell['held']} of {cell['stated']}" if cell["stated"] else "none"
    return table(
        "Every metric with an interval: intervals that held",
        ["dump", "features", "sketch rows a feature", *names],
        [[*sketch, *(held.get(name, "") for name in names)] for sketch, held in by_sketch.items()],
    )


def _time_lines(times: Sequence[dict[str, Any]]) -> list[str]:
    return table(
        "Seconds of one thread: rows in float16, zstd, from the page cache",
        ["rows", "reading and decoding", "Gram", "row sketch", "folding and solving in it", "Gram / row sketch"],
        [
            [
                one["name"], *(f"{one[key]:.2f}" for key in ("read", "gram", "row-sketch", "telling")),
                f"{one['gram'] / one['row-sketch']:.2f}",
            ]
            for one in times
        ],
    )  # fmt: skip


def main() -> int:
    """Run, print and write the page; return 1 if intervals hold too seldom."""
    experiment = Experiment("row_sketch", __doc__, {"quick": "15 s", "default": "20 minutes"})
    experiment.parser.add_argument("--dump", help="zarr group of real embeddings instead of the bundled ones")
    arguments = experiment.start()
    is_quick = experiment.size == "quick"
    some = ("Gaussian", "clusters", "near-duplicates in", "real")
    sizes = [
        Size(64, 25_600, 64, (8, 16, 32), 300, True, dump=arguments.dump),
        Size(256, 32_768, 384, (8,), 100, False, some, arguments.dump),
    ]
    layouts = [Layout(f"{n:,} x 768", n, 768) for n in (100_000, 400_000)]
    if is_quick:
        sizes, layouts = [Size(32, 4_096, 32, (8,), 4, True, dump=arguments.dump)], [Layout("20,000 x 64", 20_000, 64)]
    result = experiment.finish(measured(experiment, sizes, layouts, 1 if is_quick else 2), markdown)
    return 0 if not result["rejected"] or is_quick else 1
