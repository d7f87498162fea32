"""What does a 0.5 % interval from a sample cost beside a pass over every row, and what does finding rare units cost?

``python -m benchmarks sampled`` samples 400,000 x 768 float16 (zstd, chunks of 64 to 4,096 rows) and 10^9 x 128 (chunks
of 16,384 rows, hard links to 16 distinct ones) for several seeds in this process, to find a share of rare units of 1 %
and of 5 %. It times a pass over every row of the first store, and over a tenth of the second (all of it with
``--full``). Reads come from the page cache.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.speed.billion import Dump
from rankme_stream.measuring.sampling import sequential
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices import host
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.spectra import metrics

_TOLERANCE, _RARE = 5e-3, (0.01, 0.05)
_ROWS_SHARE, _CHUNKS, _SOLVING_S, _SPEED = 0.05, 1.0, 0.3, 200  # targets
_ROWS_AT_ONCE = 20_000  # written


class _Store(NamedTuple):
    """A store in tables: its rows, its features, and the rows of a chunk."""

    n_rows: int
    n_features: int
    chunk_rows: int

    @property
    def size(self) -> str:
        return f"{self.n_rows:,} x {self.n_features}"


def sampled(uri: str, rare: float, n_seeds: int) -> list[dict[str, Any]]:
    """Sample a store once for each seed in this process, from the page cache."""
    samples = []
    for seed in range(n_seeds):
        clock = _Clock()
        with ExitStack() as patches:
            for owner, name in (
                (sequential, "look_at"), (host, "eigenvalues"), (host, "eigenvalues_with_leading")
            ):  # fmt: skip
                patches.enter_context(mock.patch.object(owner, name, clock.wrap(getattr(owner, name))))
            measurement = rs.measure(uri, sample=True, tolerance=_TOLERANCE, rare=rare, seed=seed)
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
                "chunk_rows_needed": _chunk_rows_needed(uri, rare, seed, sampling["units_read"]),
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


def _chunk_rows_needed(uri: str, rare: float, seed: int, n_units: int) -> int:
    """Return the number of rows in the chunks that hold the rows of each look, each chunk counted once a look."""
    source = rs.open_source(uri)
    n_rows, n_features = source.shape
    design = draw_design(rows=(0, n_rows), n_features=n_features, seed=seed, rare=rare)
    bounds = source.bounds(0, n_rows)
    assert isinstance(bounds, range)
    looks = [0, *(look for look in design.looks() if look <= n_units)]
    needed = 0
    for start, stop in pairwise(looks):
        rows = [design.rows(unit) for unit in design.units(start, stop)]
        chunks = {chunk for low, high in rows for chunk in range(low // bounds.step, (high - 1) // bounds.step + 1)}
        needed += sum(min(n_rows, (chunk + 1) * bounds.step) - chunk * bounds.step for chunk in chunks)
    return needed


def whole(uri: str, n_rows: int) -> dict[str, Any]:
    """Read the first rows in this process, all of them."""
    measurement = rs.measure(uri, rows=(0, n_rows))
    return {"rows": n_rows, "elapsed_s": measurement.measured["elapsed_s"], "rankme": measurement.rankme.value}


@contextmanager
def _written(store: _Store) -> Iterator[str]:
    """Write Gaussian rows of a decaying spectrum, all of them distinct, to a temporary folder; yield its URI."""
    generator, scales = np.random.default_rng(0), np.arange(1, store.n_features + 1, dtype=np.float32) ** -0.5
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(
            Path(folder) / "store.zarr", shape=store[:2], chunks=(store.chunk_rows, store.n_features), dtype="float16",
            compressors=ZstdCodec(),
        )  # fmt: skip
        step = -(-_ROWS_AT_ONCE // store.chunk_rows) * store.chunk_rows
        for start in range(0, store.n_rows, step):
            rows = generator.standard_normal((min(step, store.n_rows - start), store.n_features), dtype=np.float32)
            array[start : start + len(rows)] = (rows * scales).astype(np.float16)
        yield str(Path(folder) / "store.zarr")


def wide(store: _Store, n_seeds: int) -> list[dict[str, Any]]:
    """Sample a wide store, and read every row of it."""
    with _written(store) as uri:
        rs.measure(uri)  # brings it into the page cache
        every = whole(uri, store.n_rows)
        return [_described(store, rare, sampled(uri, rare, n_seeds), every, every["rankme"]) for rare in _RARE]


def narrow(n_rows: int, rows_timed: int, n_seeds: int) -> list[dict[str, Any]]:
    """Sample the narrow store, that of `benchmarks billion`, and read its first rows."""
    dump = Dump(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        uri = str(dump.write(Path(folder)))
        every = whole(uri, rows_timed)
        gram = dump.gram(n_rows)
        exact = metrics.rankme(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)))
        store = _Store(n_rows, gram.shape[0], rs.open_source(uri).bounds(0, n_rows)[0])
        return [_described(store, rare, sampled(uri, rare, n_seeds), every, exact) for rare in _RARE]


def _described(
    store: _Store, rare: float, samples: list[dict[str, Any]], every: dict[str, Any], exact: float
) -> dict[str, Any]:
    """Summarize samples of a store beside a pass over every row."""
    every_s = every["elapsed_s"] * store.n_rows / every["rows"]
    return {
        **store._asdict(),
        "size": store.size,
        "rare": rare,
        "exact": exact,
        "every_s": every_s,
        "rows_timed": every["rows"],
        "samples": samples,
        "elapsed_s": median(one["elapsed_s"] for one in samples),
        "cpu_s": median(one["cpu_s"] for one in samples),
        "speed": every_s / median(one["elapsed_s"] for one in samples),
        "share": max(one["rows"] for one in samples) / store.n_rows,
        "chunks": max(one["rows_decoded"] / one["chunk_rows_needed"] for one in samples),
        "decoded": median(one["rows_decoded"] for one in samples) / store.n_rows,
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
        ["store", "rows of a chunk", "rare share", "every row, s", "a sample, s", "CPU, s", "times faster",
         "rows read, largest", "rows decoded / all rows", "a look, s", "its eigenvalues, s", "intervals that held"],
        [
            [one["size"], f"{one['chunk_rows']:,}", f"{one['rare']:.0%}", f"{one['every_s']:.1f}",
             f"{one['elapsed_s']:.2f}", f"{one['cpu_s']:.2f}", f"{one['speed']:.0f}", f"{one['share']:.4%}",
             f"{one['decoded']:.2%}", f"{one['look_s']:.2f}", f"{one['solving_s']:.2f}",
             f"{one['held']} of {len(one['samples'])}"]
            for one in stores
        ],
    )  # fmt: skip
    timed = {one["size"]: one["rows_timed"] for one in stores if one["rows_timed"] < one["n_rows"]}
    lines += [
        "",
        *[f"Every row of {size}: from the time of the first {rows:,}." for size, rows in timed.items()],
        "A look is the work after reading: merging, eigenvalues, RankMe's interval. Eigenvalues: their CPU seconds "
        "over the number of cores. The chunks of a look are decoded again where the next look has rows in them.",
    ]
    of_one_percent = [one for one in stores if one["rare"] == _RARE[0]]
    *wide_stores, narrow_store = of_one_percent
    rows_share, solving_s = (max(one[name] for one in wide_stores) for name in ("share", "solving_s"))
    chunks = max(one["chunks"] for one in stores)
    targets = [
        (f"rows of {wide_stores[0]['size']}", f"at most {_ROWS_SHARE:.0%}", f"{rows_share:.2%}",
         rows_share <= _ROWS_SHARE),
        ("rows decoded / rows of the chunks that hold the looks", f"at most {_CHUNKS:g}", f"{chunks:.2f}",
         chunks <= _CHUNKS),
        ("seconds of eigenvalues a look", f"at most {_SOLVING_S}", f"{solving_s:.2f}", solving_s <= _SOLVING_S),
        (f"{narrow_store['size']}, every row / a sample", f"at least {_SPEED}", f"{narrow_store['speed']:.0f}",
         narrow_store["speed"] >= _SPEED),
    ]  # fmt: skip
    lines += table(
        "Targets and measurements", ["quantity", "target", "measured", "met"],
        [[*cells, "yes" if is_met else "**no**"] for *cells, is_met in targets],
    )  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page."""
    minutes = {"quick": "15 s", "default": "10 minutes", "full": "25 minutes"}
    experiment = Experiment("sampled", __doc__, minutes)
    experiment.start()
    wide_stores = [_Store(400_000, 768, chunk_rows) for chunk_rows in (64, 256, 1_024, 4_096)]
    n_rows, rows_timed, n_seeds = 10**9, 10**8, 5
    if experiment.size == "full":
        rows_timed = n_rows
    if experiment.size == "quick":
        wide_stores = [_Store(60_000, 64, chunk_rows) for chunk_rows in (100, 1_000)]
        n_rows, rows_timed, n_seeds = 3 * 10**5, 10**5, 2
    parts = [
        experiment.part(f"{store.size}, chunks of {store.chunk_rows:,}", wide, store, n_seeds) for store in wide_stores
    ]
    parts.append(experiment.part(f"{n_rows:,} rows", narrow, n_rows, rows_timed, n_seeds))
    experiment.finish({"n_seeds": n_seeds, "stores": [store for part in parts for store in part]}, markdown)
    return 0
