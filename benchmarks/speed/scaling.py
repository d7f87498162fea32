"""How the time and memory of a pass grow with rows, width, type, arithmetic, workers and chunks; and their limit.

``python -m benchmarks scaling`` lets the command score zarr stores, each in a process of its own, and sets the time
beside what decoding, casting and multiplying cost at least (``benchmarks/speed/lower_limits.py``) and the
peak beside the plan. Units of a store (chunks, or shards) are hard links to a few distinct ones, so all reads come from
the page cache.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.cpu_profile import where_time_goes
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from benchmarks.speed import lower_limits
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.spectra.estimates import estimate_all
from rankme_stream.testing import with_ones

_RATIO = 1.3  # of a pass to the limit of its layout, wanted


@dataclass(frozen=True)
class Plan:
    """What one size of the benchmark measures."""

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
    """Return what is measured."""
    if quick:
        small = Layout("small", 2**15, 64, 2**11)
        return Plan(
            repeats=1,
            rows=[replace(small, n_rows=n) for n in (2**15, 2**16)],
            widths=[replace(small, n_features=d) for d in (32, 64, 128)],
            types=[replace(small, dtype="bfloat16", name="bfloat16")],
            methods=_arithmetics(small)[-1:],
            workers=_workers(small, [1]),
            layouts=[
                replace(small, name="2,048 x 16", chunk_columns=16),
                replace(small, name="512 rows in shards of 4,096", chunk_rows=2**9, shard_rows=2**12),
            ],
            limit={"seconds": 0.005, "rounds": 1},
        )
    wide = Layout("wide", 400_000, 768)
    million = Layout("", 16_000_000, 128)  # a pass of several seconds, of which the start takes little
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
    """Score a store in processes of their own; medians of the times, the largest of the peaks."""
    return _scored(processes.quiet_runs(lambda: _pass(uri, options), repeats) if repeats > 1 else [_pass(uri, options)])


def _pass(uri: str, options: Sequence[str] = ()) -> processes.Run:
    return processes.run([sys.executable, "-m", "rankme_stream", "score", uri, "--json", "-", *options])


def _scored(made: Sequence[processes.Run]) -> dict[str, Any]:
    results = [json.loads(one.output) for one in made]
    if any(len(result["passes"]) != 1 for result in results):
        raise SystemExit(f"the rows were read twice: {results[0]['passes']}")
    measured, plans = ([result[key] for result in results] for key in ("measured", "plan"))
    return {
        "elapsed_s": median(one["elapsed_s"] for one in measured),
        "cpu_s": median(one["cpu_s"] for one in measured),
        "rounds_s": [one["elapsed_s"] for one in measured],
        "process_s": median(one.wall_s for one in made),
        "quiet": sum(one.is_quiet for one in made),
        "peak_bytes": max(one["peak_bytes"] for one in measured),
        "sampled_bytes": max(one.peak_bytes for one in made),
        "predicted_bytes": min(one["predicted_peak_bytes"] for one in plans),
        "block_rows": plans[0]["block_rows"],
    }


def passed(layout: Layout, options: Sequence[str], repeats: int) -> dict[str, Any]:
    """Score one store."""
    with layout.stored() as uri:
        return _described(layout) | score(uri, options, repeats)


def _described(layout: Layout) -> dict[str, Any]:
    return {"name": layout.name, "rows": layout.n_rows, "features": layout.n_features}


def width(layout: Layout, asked: Plan) -> dict[str, Any]:
    """Score one store, and time the parts that the model of its cost adds up."""
    with layout.stored() as uri:
        row = _described(layout) | score(uri, (), asked.repeats) | _limit(uri, asked)
    row |= solving(layout.n_features)
    row |= {"model_s": row["limit_s"] + row["solving_s"]}
    return row | {
        "cpu_per_row_s": (row["cpu_s"] - row["solving_cpu_s"]) / layout.n_rows,
        "model_per_row_s": sum(row["parts_s"].values()) / layout.n_rows,
    }


def solving(n_features: int) -> dict[str, float]:
    """Seconds from a Gram matrix to every metric, BLAS on one thread; at D = 4,096 more than reading 8 D rows takes."""
    generator, accumulator = np.random.default_rng(0), GramAccumulator(n_features)
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, n_features + 1024, 1024):  # more rows than features: no eigenvalue is zero
            accumulator.update(with_ones(generator.standard_normal((1024, n_features))), start)
        wall, cpu = time.perf_counter(), time.process_time()
        estimate_all(accumulator.spectrum(unit_roundoff=2.0**-11))
        return {"solving_s": time.perf_counter() - wall, "solving_cpu_s": time.process_time() - cpu}


def laid_out(layout: Layout, asked: Plan) -> dict[str, Any]:
    """Score one store beside the limit of its layout: the work of all cores, or the reading if that is longer.

    Pass, limit and reading take turns, and a ratio is of neighbours: machines drift.
    """
    with layout.stored() as uri:
        made, found, read_s, bare_s = [], [], [], []
        for _ in range(asked.repeats):
            made += processes.quiet_runs(lambda: _pass(uri), 1)
            found.append(_limit(uri, asked))
            read_s.append(bare(uri, reading_alone=True))
            bare_s.append(bare(uri))
        where_s = where_time_goes(uri)
    row = _described(layout) | _scored(made)
    row |= {"where_s": where_s, "reading_s": median(read_s), "bare_s": median(bare_s)}
    middle = sorted(found, key=lambda one: one["limit_s"])[len(found) // 2]
    bounds = [max(one["limit_s"], read) for one, read in zip(found, read_s, strict=True)]
    ratios = [elapsed / bound for elapsed, bound in zip(row["rounds_s"], bounds, strict=True)]
    bare_ratios = [loop / bound for loop, bound in zip(bare_s, bounds, strict=True)]
    return row | middle | {"ratios": ratios, "ratio": median(ratios), "bare_ratios": bare_ratios}


def _limit(uri: str, asked: Plan) -> dict[str, Any]:
    found = lower_limits.limit(uri, **asked.limit)
    return {
        "limit_s": found["limit_s"],
        "parts_s": {name: part["cpu_s"] for name, part in found["parts"].items()},
        "best": {name: part["best"] for name, part in found["parts"].items()},
    }


def bare(uri: str, *, reading_alone: bool = False) -> float:
    """Wall seconds of the plainest loop over our own parts: each thread takes the next block and reads it.

    Unless reading is alone, it audits, casts, multiplies and adds the block as well, slab by slab. There is no check
    of the store, nothing read ahead, no fixed tree of segments, no rows left out, no solving.
    """
    source, planned = rs.open_source(uri), rs.plan(uri)
    n_rows, n_features = source.shape
    bounds = source.bounds(0, n_rows)
    every = max(1, planned.block_rows // bounds.step) if isinstance(bounds, range) else 1
    blocks = iter([*pairwise([0, *bounds[every - 1 :: every], n_rows])])
    lock = threading.Lock()

    def read() -> None:
        buffer, work = np.empty(0, source.stored.dtype), _work(source.stored, planned)
        while True:
            with lock:
                start, stop = next(blocks, (0, 0))
            if stop == 0:
                return
            if buffer.size < (stop - start) * n_features:
                buffer = np.empty((stop - start) * n_features, source.stored.dtype)
            rows = source.read(start, stop, buffer[: (stop - start) * n_features].reshape(-1, n_features))
            for row in () if reading_alone else range(0, len(rows), planned.slab_rows):
                work(rows[row : row + planned.slab_rows])

    began = time.perf_counter()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(planned.workers) as pool:
        for done in [pool.submit(read) for _ in range(planned.workers)]:
            done.result()
    return time.perf_counter() - began


def _work(stored: StoredType, planned: rs.Plan) -> Callable[[np.ndarray], None]:
    n_features, panel_rows = planned.n_features, planned.grid.panel_rows
    bits = np.empty((planned.slab_rows, n_features), np.int32)
    slab = np.ones((planned.slab_rows, 1 + n_features))
    gram, product = np.zeros((2, 1 + n_features, 1 + n_features))

    def work(rows: np.ndarray) -> None:
        assert stored.nonfinite_rows(rows) is None
        assert not len(stored.zero_rows(rows))
        stored.to_float64(rows, slab[: len(rows), 1:], bits[: len(rows)])
        for start in range(0, len(rows), panel_rows):
            panel = slab[start : min(start + panel_rows, len(rows))]
            np.matmul(panel.T, panel, out=product)
            np.add(gram, product, out=gram)

    return work


def measured(experiment: Experiment, asked: Plan) -> dict[str, Any]:
    """Measure everything, a part a row."""

    def parts(title: str, cases: Sequence[tuple[Layout, Sequence[str]]]) -> list[dict[str, Any]]:
        return [
            experiment.part(f"{title}, {_label(layout)}", passed, layout, options, asked.repeats)
            for layout, options in cases
        ]

    result: dict[str, Any] = {"repeats": asked.repeats}
    result["rows"] = parts("rows", [(layout, ()) for layout in asked.rows])
    result["types"] = parts("type", [(layout, ()) for layout in asked.types])
    result["methods"] = parts("arithmetic", asked.methods)
    result["workers"] = parts("workers", asked.workers)
    result["widths"] = [experiment.part(f"width, {_label(one)}", width, one, asked) for one in asked.widths]
    result["layouts"] = [experiment.part(f"layout, {_label(one)}", laid_out, one, asked) for one in asked.layouts]
    return result | {"exponents": exponents(result)}


def _label(layout: Layout) -> str:
    return f"{layout.name}, {layout.n_rows:,} x {layout.n_features:,}".removeprefix(", ")


def exponents(result: dict[str, Any]) -> dict[str, float]:
    """Fit the exponents by least squares in logarithms; the halves of the widths share the middle one."""
    widths = result["widths"]
    middle = len(widths) // 2
    found = {"time, rows": _slope(result["rows"], "rows", "elapsed_s")}
    for half, rows in (("narrow", widths[: middle + 1]), ("wide", widths[middle:])):
        found[f"CPU a row, {half}"] = _slope(rows, "features", "cpu_per_row_s")
        found[f"model, {half}"] = _slope(rows, "features", "model_per_row_s")
    return found


def _slope(rows: Sequence[dict[str, Any]], x: str, y: str) -> float:
    return float(np.polyfit(np.log([row[x] for row in rows]), np.log([row[y] for row in rows]), 1)[0])


_COST = ["pass, s", "CPU, s", "peak, MB", "from outside, MB", "predicted, MB"]


def _cost(row: dict[str, Any]) -> list[str]:
    peaks = [f"{row[key] / 1e6:,.0f}" for key in ("peak_bytes", "sampled_bytes", "predicted_bytes")]
    return [f"{row['elapsed_s']:.2f}", f"{row['cpu_s']:.2f}", *peaks[:2], peaks[2] + ("" if is_below(row) else ": NO")]


def is_below(row: dict[str, Any]) -> bool:
    """Whether the peak of that row is below its prediction."""
    return max(row["peak_bytes"], row["sampled_bytes"]) <= row["predicted_bytes"]


def _all_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for key in ("rows", "widths", "types", "methods", "workers", "layouts") for row in result[key]]


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    fitted, every = result["exponents"], _all_rows(result)
    widths, layouts = result["widths"], result["layouts"]
    low, middle, high = (widths[k]["features"] for k in (0, len(widths) // 2, -1))
    lines = [
        "# How a pass scales",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; `rankme score` in processes of their own, "
        f"float16 in zstd unless told. Times are medians of {result['repeats']}, peaks the largest; "
        f"{sum(row['quiet'] for row in every)} of {result['repeats'] * len(every)} runs had the machine to themselves. "
        "Reads come from the page cache: stores are hard links to a few distinct chunks or shards, with flat keys.",
        "",
        f"Peak memory was below the prediction in {sum(map(is_below, every))} of {len(every)} rows.",
    ]
    lines += table(
        f"Rows, {result['rows'][0]['features']} features",
        ["rows", *_COST],
        [[f"{row['rows']:,}", *_cost(row)] for row in result["rows"]],
    )
    lines += ["", f"Time grows with rows to the power of {fitted['time, rows']:.3f} (1 expected)."]
    lines += table(
        "Width",
        ["features", "rows", *_COST, "solving, s", "model, s", "pass / model", "CPU us a row", "model us a row"],
        [
            [f"{row['features']:,}", f"{row['rows']:,}", *_cost(row), f"{row['solving_s']:.2f}",
             f"{row['model_s']:.2f}", f"{row['elapsed_s'] / row['model_s']:.2f}", f"{1e6 * row['cpu_per_row_s']:.3g}",
             f"{1e6 * row['model_per_row_s']:.3g}"]
            for row in widths
        ],
    )  # fmt: skip
    lines += [
        "",
        "Model: decoding, casting and multiplying by the fastest candidates of `benchmarks/speed/lower_limits.py` "
        "on all cores, then solving (eigenvalues, raw and centred at once, and metrics). A row is without solving. "
        "Products take D^2 a row, the rest D.",
        "",
        f"CPU time a row grows with the width to the power of {fitted['CPU a row, narrow']:.2f} from {low:,} to "
        f"{middle:,} features (model {fitted['model, narrow']:.2f}) and {fitted['CPU a row, wide']:.2f} from there to "
        f"{high:,} (model {fitted['model, wide']:.2f}).",
    ]
    for title, key in (("Type", "types"), ("Arithmetic", "methods"), ("Workers", "workers")):
        first = result[key][0]
        lines += table(
            f"{title}, {first['rows']:,} x {first['features']:,}",
            [title.lower(), *_COST],
            [[row["name"], *_cost(row)] for row in result[key]],
        )
    lines += table(
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
    lines += [
        "",
        "Work: decoding, casting and multiplying by the fastest candidates, on all cores. Reading: our reader alone, "
        "in the plan's blocks on as many threads as workers; few huge chunks cannot decode at once. The larger is the "
        f"layout's limit; wanted: {_RATIO} times that at most, met by {met} of {len(layouts)}. Pass, limit and loops "
        "take turns, and a ratio is the median of neighbours (least to most).",
        "",
        "Bare loop: each thread reads, audits, casts, multiplies and adds one block after the other, with our own "
        "parts and nothing else. What it takes beyond the limit is the price of the audit and of parts that share "
        "caches and the interpreter; what a pass takes beyond the bare loop is the price of its own order: blocks "
        "read ahead, a tree of sums that any number of threads leaves alone, rows left out and counted, start and "
        "solving.",
    ]
    return "\n".join([*lines, *_where_lines(layouts)])


def _ratio(row: dict[str, Any]) -> str:
    return _spread(row["ratios"]) + ("" if row["ratio"] <= _RATIO else ": NO")


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _where_lines(layouts: list[dict[str, Any]]) -> list[str]:
    """Set CPU seconds of a pass beside what its parts cost at least."""
    own = {"decode": "reading and decoding", "cast": "cast", "product": "product"}
    rest = ("audit", "adding", "counting", "rest of the loop")
    lines = table(
        "Where the CPU time of a pass over each layout goes, seconds (at least)",
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
        "One pass a layout, in a process that had made one before. In brackets the fastest candidate alone, with all "
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


def main() -> int:
    """Measure, print the tables, write and draw them where asked; 1 if a peak is above its prediction."""
    experiment = Experiment("scaling", __doc__, {"quick": "15 s", "default": "40 minutes"})
    experiment.start()
    result = experiment.finish(measured(experiment, plan(experiment.size == "quick")), markdown)
    if experiment.out:
        plot(result, experiment.out / "scaling.png")
    return 0 if all(map(is_below, _all_rows(result))) else 1
