"""What does a 0.5 % interval from a sample cost beside a pass over every row?

``python -m benchmarks sampled`` samples 400,000 x 768 float16 (zstd, chunks of 4,096 rows) and 10^9 x 128 (chunks of
16,384 rows, hard links to 16 distinct ones) for several seeds in this process. It times a pass over every row of the
first store, and over a tenth of the second (all of it with ``--full``). Reads come from the page cache.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from benchmarks.speed.billion import Dump
from rankme_stream.measuring.sampling import sequential
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices import host
from rankme_stream.passes.planning.sample_design import SampleDesign
from rankme_stream.spectra import metrics

_TOLERANCE = 5e-3
_ROWS_SHARE, _CHUNKS, _SOLVING_S, _SPEED = 0.03, 2.0, 0.3, 200  # targets


def sampled(uri: str, n_seeds: int) -> list[dict[str, Any]]:
    """Sample a store once for each seed in this process, from the page cache."""
    samples = []
    for seed in range(n_seeds):
        clock = _Clock()
        with ExitStack() as patches:
            for owner, name in ((sequential, "look_at"), (host, "eigenvalues")):
                patches.enter_context(mock.patch.object(owner, name, clock.wrap(getattr(owner, name))))
            measurement = rs.measure(uri, sample=True, tolerance=_TOLERANCE, seed=seed)
        sampling, rankme = measurement.sampling, measurement.rankme
        if sampling is None:
            raise SystemExit(f"{uri}: an interval of {_TOLERANCE:.1%} took every row")
        samples.append(
            {
                "seed": seed,
                "rows": measurement.rows_read,
                "unit_rows": sampling["unit_rows"],
                "units": sampling["units_read"],
                "rows_decoded": sampling["rows_decoded"],
                "chunk_rows_needed": _chunk_rows_needed(uri, sampling),
                "rankme": [rankme.value, rankme.lower, rankme.upper],
                "elapsed_s": measurement.measured["elapsed_s"],
                "cpu_s": measurement.measured["cpu_s"],
                "look_s": clock.look_s,
                "solving_s": clock.solving_s,
            }
        )
    return samples


class _Clock:
    """Wall seconds of every look, and the CPU seconds of its eigenvalues over the number of cores."""

    def __init__(self) -> None:
        self.look_s: list[float] = []
        self.solving_s: list[float] = []
        self._solving = 0.0
        self._lock = threading.Lock()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def look(*arguments: Any) -> Any:
            self._solving, began = 0.0, time.perf_counter()
            result = function(*arguments)
            self.look_s.append(time.perf_counter() - began)
            self.solving_s.append(self._solving / machine.cores())
            return result

        def solve(*arguments: Any) -> Any:
            began = time.thread_time()
            result = function(*arguments)
            with self._lock:
                self._solving += time.thread_time() - began
            return result

        return look if function is sequential.look_at else solve


def _chunk_rows_needed(uri: str, sampling: Mapping[str, Any]) -> int:
    """Return the number of rows in the chunks that hold the sampled rows, each chunk counted once."""
    source = rs.open_source(uri)
    stop = source.shape[0]
    drawn = SampleDesign(0, stop, source.shape[1], sampling["unit_rows"], sampling["seed"])
    bounds = source.bounds(0, stop)
    assert isinstance(bounds, range)
    chunks = {
        chunk
        for unit in drawn.units(0, sampling["units_read"])
        for chunk in range(drawn.rows(unit)[0] // bounds.step, (drawn.rows(unit)[1] - 1) // bounds.step + 1)
    }
    return sum(min(stop, (chunk + 1) * bounds.step) - chunk * bounds.step for chunk in chunks)


def whole(uri: str, n_rows: int) -> dict[str, Any]:
    """Read the first rows in this process, all of them."""
    measurement = rs.measure(uri, rows=(0, n_rows))
    return {"rows": n_rows, "elapsed_s": measurement.measured["elapsed_s"], "rankme": measurement.rankme.value}


def wide(layout: Layout, n_seeds: int) -> dict[str, Any]:
    """Sample the wide store, and read every row of it."""
    with layout.stored() as uri:
        rs.measure(uri)  # brings it into the page cache
        every = whole(uri, layout.n_rows)
        return _described(layout.n_rows, layout.n_features, sampled(uri, n_seeds), every, every["rankme"])


def narrow(n_rows: int, rows_timed: int, n_seeds: int) -> dict[str, Any]:
    """Sample the narrow store, that of `benchmarks billion`, and read its first rows."""
    dump = Dump(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        uri = str(dump.write(Path(folder)))
        every = whole(uri, rows_timed)
        gram = dump.gram(n_rows)
        exact = metrics.rankme(_singular_values(gram))
        return _described(n_rows, gram.shape[0], sampled(uri, n_seeds), every, exact)


def _singular_values(gram: Any) -> Any:
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def _described(
    n_rows: int, n_features: int, samples: list[dict[str, Any]], every: dict[str, Any], exact: float
) -> dict[str, Any]:
    """Summarize samples of a store beside a pass over every row."""
    every_s = every["elapsed_s"] * n_rows / every["rows"]
    return {
        "rows": n_rows,
        "features": n_features,
        "exact": exact,
        "every_s": every_s,
        "rows_timed": every["rows"],
        "samples": samples,
        "elapsed_s": median(one["elapsed_s"] for one in samples),
        "cpu_s": median(one["cpu_s"] for one in samples),
        "speed": every_s / median(one["elapsed_s"] for one in samples),
        "share": max(one["rows"] for one in samples) / n_rows,
        "chunks": max(one["rows_decoded"] / one["chunk_rows_needed"] for one in samples),
        "decoded": max(one["rows_decoded"] / one["rows"] for one in samples),
        "look_s": median(second for one in samples for second in one["look_s"]),
        "solving_s": median(second for one in samples for second in one["solving_s"]),
        "held": sum(one["rankme"][1] <= exact <= one["rankme"][2] for one in samples),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    stores = result["stores"]
    lines = [
        "# Cost of a sample beside a pass over every row",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; intervals of {_TOLERANCE:.1%} at 95 %, "
        f"{result['n_seeds']} seeds each, in one process, from the page cache.",
    ]
    lines += table(
        "Medians over the seeds, or the largest where it says so",
        ["store", "every row, s", "a sample, s", "CPU, s", "times faster", "rows read, largest", "a look, s",
         "its eigenvalues, s", "rows decoded for a row used, largest",
         "decoded / chunks that hold the sample, largest", "intervals that held"],
        [
            [f"{one['rows']:,} x {one['features']}", f"{one['every_s']:.1f}", f"{one['elapsed_s']:.2f}",
             f"{one['cpu_s']:.2f}", f"{one['speed']:.0f}", f"{one['share']:.4%}", f"{one['look_s']:.2f}",
             f"{one['solving_s']:.2f}", f"{one['decoded']:.1f}", f"{one['chunks']:.2f}",
             f"{one['held']} of {len(one['samples'])}"]
            for one in stores
        ],
    )  # fmt: skip
    lines += [
        "",
        *[
            f"Every row of {one['rows']:,}: the time of the first {one['rows_timed']:,}, times "
            f"{one['rows'] / one['rows_timed']:g}."
            for one in stores
            if one["rows_timed"] < one["rows"]
        ],
        "A look is the work after reading: merging, eigenvalues, RankMe's interval. Eigenvalues: their CPU seconds "
        "over the number of cores.",
    ]
    wide_store, narrow_store = stores
    wide_size, narrow_size = (f"{one['rows']:,} x {one['features']}" for one in stores)
    targets = [
        (f"rows of {wide_size}", f"at most {_ROWS_SHARE:.0%}", f"{wide_store['share']:.2%}",
         wide_store["share"] <= _ROWS_SHARE),
        ("chunks decoded / chunks that hold the sample", f"at most {_CHUNKS:g}", f"{wide_store['chunks']:.2f}",
         wide_store["chunks"] <= _CHUNKS),
        ("seconds of eigenvalues a look", f"at most {_SOLVING_S}", f"{wide_store['solving_s']:.2f}",
         wide_store["solving_s"] <= _SOLVING_S),
        (f"{narrow_size}, every row / a sample", f"at least {_SPEED}", f"{narrow_store['speed']:.0f}",
         narrow_store["speed"] >= _SPEED),
    ]  # fmt: skip
    lines += table(
        "Targets and measurements", ["quantity", "target", "measured", "met"],
        [[*cells, "yes" if is_met else "**no**"] for *cells, is_met in targets],
    )  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page."""
    minutes = {"quick": "10 s", "default": "3 minutes", "full": "15 minutes"}
    experiment = Experiment("sampled", __doc__, minutes)
    experiment.start()
    layout, n_rows, rows_timed, n_seeds = Layout("wide", 400_000, 768, chunk_rows=4_096), 10**9, 10**8, 7
    if experiment.size == "full":
        rows_timed = n_rows
    if experiment.size == "quick":
        layout, n_rows, rows_timed, n_seeds = Layout("small", 60_000, 64, chunk_rows=1_000), 3 * 10**5, 10**5, 2
    stores = [
        experiment.part(f"{layout.n_rows:,} x {layout.n_features}", wide, layout, n_seeds),
        experiment.part(f"{n_rows:,} rows", narrow, n_rows, rows_timed, n_seeds),
    ]
    experiment.finish({"n_seeds": n_seeds, "stores": stores}, markdown)
    return 0
