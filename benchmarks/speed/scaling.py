"""How do time and peak memory of a pass grow with rows, width, type, arithmetic, workers and chunks?

``python -m benchmarks scaling`` scores zarr stores with the command, each in a process of its own. It compares the time
with the lower limit of decoding, casting and multiplying (``benchmarks/speed/lower_limits.py``), and the peak with the
plan's prediction. The chunks or shards of a store are hard links to a few distinct ones, so all reads come from the
page cache.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.harness import processes
from benchmarks.harness.cpu_profile import where_time_goes
from benchmarks.harness.experiment import Experiment
from benchmarks.harness.synthetic_stores import Layout
from benchmarks.speed import lower_limits, scaling_page
from benchmarks.speed.bare_loop import bare_loop_s
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.spectra.estimates import estimate_all
from rankme_stream.testing import with_ones


@dataclass(frozen=True)
class Plan:
    """The stores that one size of the benchmark measures."""

    repeats: int
    rows: Sequence[Layout]
    widths: Sequence[Layout]
    types: Sequence[Layout]
    methods: Sequence[tuple[Layout, Sequence[str]]]
    workers: Sequence[tuple[Layout, Sequence[str]]]
    layouts: Sequence[Layout]
    limit: dict[str, Any]


def _arithmetics(layout: Layout) -> list[tuple[Layout, Sequence[str]]]:
    return [
        (replace(layout, name="gram float64"), ("--method", "gram")),
        (replace(layout, name="gram float32"), ("--method", "gram", "--precision", "float32")),
        (replace(layout, name="tsqr float64"), ("--method", "tsqr")),
    ]


def _workers(layout: Layout, counts: Sequence[int]) -> list[tuple[Layout, Sequence[str]]]:
    return [(replace(layout, name=f"{count}"), ("--workers", f"{count}")) for count in counts]


def plan(quick: bool) -> Plan:
    """Return the plan of one size."""
    if quick:
        small = Layout("small", 2**15, 64, 2**11)
        return Plan(
            repeats=1,
            rows=[replace(small, n_rows=n) for n in (2**15, 2**16)],
            widths=[replace(small, n_features=d) for d in (32, 128)],
            types=[replace(small, dtype="bfloat16", name="bfloat16")],
            methods=_arithmetics(small)[-1:],
            workers=_workers(small, [1]),
            layouts=[replace(small, name="512 x 16 in shards", chunk_rows=2**9, chunk_columns=16, shard_rows=2**12)],
            limit={"seconds": 0.005, "rounds": 1},
        )
    wide = Layout("wide", 400_000, 768)
    million = Layout("", 16_000_000, 128)  # a pass of several seconds, so that its start weighs little
    huge = replace(million, n_rows=24_000_000, chunk_rows=1_000_000)
    return Plan(
        repeats=3,
        rows=[Layout("", 500_000 * 2**k, 256) for k in range(5)],
        widths=[Layout("", min(2**30 // d, 2**39 // d**2), d) for d in (64, 128, 256, 512, 1024, 2048, 4096)],
        types=[Layout(t, 2_000_000, 256, dtype=t) for t in ("float16", "bfloat16", "float32", "float64", "int8")],
        methods=_arithmetics(wide),
        workers=_workers(wide, [1, 2]),
        layouts=[
            replace(million, name="100 rows", n_rows=8_000_000, chunk_rows=100),
            replace(million, name="1,000 rows", chunk_rows=1_000),
            replace(million, name="10,000 rows", chunk_rows=10_000),
            replace(million, name="10,000 rows, raw", chunk_rows=10_000, codec="raw"),
            replace(million, name="10,000 rows, blosc lz4", chunk_rows=10_000, codec="blosc lz4"),
            replace(huge, name="1,000,000 rows"),
            replace(huge, name="1,000,000 rows, raw", codec="raw"),
            replace(million, name="4,096 x 16", chunk_rows=4_096, chunk_columns=16),
            replace(huge, name="1,000,000 x 16", chunk_columns=16),
            replace(million, name="1,000 rows in shards of 100,000", chunk_rows=1_000, shard_rows=100_000),
            replace(wide, name="1,000 rows", n_rows=1_200_000, chunk_rows=1_000),
            replace(wide, name="100,000 rows", n_rows=1_200_000, chunk_rows=100_000),
            replace(wide, name="4,096 x 96", n_rows=1_200_000, chunk_rows=4_096, chunk_columns=96),
            replace(wide, name="1,000 rows in shards of 50,000", n_rows=1_200_000, chunk_rows=1_000, shard_rows=50_000),
        ],
        limit={"rounds": 3},
    )


def score(uri: str, options: Sequence[str], repeats: int) -> dict[str, Any]:
    """Score a store in processes of their own; return medians of the times and the largest of the peaks."""
    return _scored(processes.quiet_runs(lambda: _pass(uri, options), repeats) if repeats > 1 else [_pass(uri, options)])


def _pass(uri: str, options: Sequence[str] = ()) -> processes.Run:
    return processes.run([sys.executable, "-m", "rankme_stream", "score", uri, "--json", "-", *options])


def _scored(runs: Sequence[processes.Run]) -> dict[str, Any]:
    results = [json.loads(one.output) for one in runs]
    if any(len(result["passes"]) != 1 for result in results):
        raise SystemExit(f"a run read the rows more than once: {results[0]['passes']}")
    measured, plans = ([result[key] for result in results] for key in ("measured", "plan"))
    return {
        "elapsed_s": median(one["elapsed_s"] for one in measured),
        "cpu_s": median(one["cpu_s"] for one in measured),
        "rounds_s": [one["elapsed_s"] for one in measured],
        "process_s": median(one.wall_s for one in runs),
        "quiet": sum(one.is_quiet for one in runs),
        "peak_bytes": max(one["peak_bytes"] for one in measured),
        "sampled_bytes": max(one.peak_bytes for one in runs),
        "predicted_bytes": min(one["predicted_peak_bytes"] for one in plans),
        "block_rows": plans[0]["block_rows"],
    }


def passed(layout: Layout, options: Sequence[str], repeats: int) -> dict[str, Any]:
    """Score the store of a layout."""
    with layout.stored() as uri:
        return _described(layout) | score(uri, options, repeats)


def _described(layout: Layout) -> dict[str, Any]:
    return {"name": layout.name, "rows": layout.n_rows, "features": layout.n_features}


def width(layout: Layout, size: Plan) -> dict[str, Any]:
    """Score one store, and time the parts that its cost model adds up."""
    with layout.stored() as uri:
        row = _described(layout) | score(uri, (), size.repeats) | _limit(uri, size)
    row |= solving(layout.n_features)
    row |= {"model_s": row["limit_s"] + row["solving_s"]}
    return row | {
        "cpu_per_row_s": (row["cpu_s"] - row["solving_cpu_s"]) / layout.n_rows,
        "model_per_row_s": sum(row["parts_s"].values()) / layout.n_rows,
    }


def solving(n_features: int) -> dict[str, float]:
    """Time the step from a Gram matrix to every metric, BLAS on one thread; D = 4,096: longer than to read 8 D rows."""
    generator, accumulator = np.random.default_rng(0), GramAccumulator(n_features)
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, n_features + 1024, 1024):  # more rows than features: no eigenvalue is zero
            accumulator.update(with_ones(generator.standard_normal((1024, n_features))), start)
        wall, cpu = time.perf_counter(), time.process_time()
        estimate_all(accumulator.spectrum(unit_roundoff=2.0**-11))
        return {"solving_s": time.perf_counter() - wall, "solving_cpu_s": time.process_time() - cpu}


def laid_out(layout: Layout, size: Plan) -> dict[str, Any]:
    """Score one store beside the limit of its layout: the work of all cores, or reading if that takes longer.

    Pass, limit and reading take turns, and ratios compare neighbouring runs, because the speed of a machine drifts.
    """
    with layout.stored() as uri:
        runs, limits, read_s, bare_s = [], [], [], []
        for _ in range(size.repeats):
            runs += processes.quiet_runs(lambda: _pass(uri), 1)
            limits.append(_limit(uri, size))
            read_s.append(bare_loop_s(uri, reading_alone=True))
            bare_s.append(bare_loop_s(uri))
        where_s = where_time_goes(uri)
    row = _described(layout) | _scored(runs)
    row |= {"where_s": where_s, "reading_s": median(read_s), "bare_s": median(bare_s)}
    middle = sorted(limits, key=lambda one: one["limit_s"])[len(limits) // 2]
    bounds = [max(one["limit_s"], read) for one, read in zip(limits, read_s, strict=True)]
    ratios = [elapsed / bound for elapsed, bound in zip(row["rounds_s"], bounds, strict=True)]
    bare_ratios = [loop / bound for loop, bound in zip(bare_s, bounds, strict=True)]
    return row | middle | {"ratios": ratios, "ratio": median(ratios), "bare_ratios": bare_ratios}


def _limit(uri: str, size: Plan) -> dict[str, Any]:
    result = lower_limits.limit(uri, **size.limit)
    return {
        "limit_s": result["limit_s"],
        "parts_s": {name: part["cpu_s"] for name, part in result["parts"].items()},
        "best": {name: part["best"] for name, part in result["parts"].items()},
    }


def measured(experiment: Experiment, size: Plan) -> dict[str, Any]:
    """Run every part of the benchmark; each row of a table is one."""

    def parts(title: str, cases: Sequence[tuple[Layout, Sequence[str]]]) -> list[dict[str, Any]]:
        return [
            experiment.part(f"{title}, {_label(layout)}", passed, layout, options, size.repeats)
            for layout, options in cases
        ]

    result: dict[str, Any] = {"repeats": size.repeats}
    result["rows"] = parts("rows", [(layout, ()) for layout in size.rows])
    result["types"] = parts("type", [(layout, ()) for layout in size.types])
    result["methods"] = parts("arithmetic", size.methods)
    result["workers"] = parts("workers", size.workers)
    result["widths"] = [experiment.part(f"width, {_label(one)}", width, one, size) for one in size.widths]
    result["layouts"] = [experiment.part(f"layout, {_label(one)}", laid_out, one, size) for one in size.layouts]
    return result | {"exponents": exponents(result)}


def _label(layout: Layout) -> str:
    return f"{layout.name}, {layout.n_rows:,} x {layout.n_features:,}".removeprefix(", ")


def exponents(result: dict[str, Any]) -> dict[str, float]:
    """Fit exponents by least squares of logarithms; the narrow and the wide half share the middle width."""
    widths = result["widths"]
    middle = len(widths) // 2
    fitted = {"time, rows": _slope(result["rows"], "rows", "elapsed_s")}
    for half, rows in (("narrow", widths[: middle + 1]), ("wide", widths[middle:])):
        fitted[f"CPU a row, {half}"] = _slope(rows, "features", "cpu_per_row_s")
        fitted[f"model, {half}"] = _slope(rows, "features", "model_per_row_s")
    return fitted


def _slope(rows: Sequence[dict[str, Any]], x: str, y: str) -> float:
    return float(np.polyfit(np.log([row[x] for row in rows]), np.log([row[y] for row in rows]), 1)[0])


def main() -> int:
    """Run, print and write the page, and draw the plot; return 1 if a peak is above its prediction."""
    experiment = Experiment("scaling", __doc__, {"quick": "15 s", "default": "40 minutes"})
    experiment.start()
    result = experiment.finish(measured(experiment, plan(experiment.size == "quick")), scaling_page.markdown)
    if experiment.out:
        scaling_page.plot(result, experiment.out / "scaling.png")
    return 0 if all(map(scaling_page.is_below, scaling_page.all_rows(result))) else 1
