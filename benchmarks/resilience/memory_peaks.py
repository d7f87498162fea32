"""Does a process ever hold more memory than its plan foretold, or than its limit and 50 MiB?

``python -m benchmarks memory_peaks`` draws a dump and options at random, runs ``rankme score`` on it in a process of
its own, samples the anonymous memory of that process every 10 ms, and compares the peak with ``predicted_peak_bytes``
of the result. About half of the cases are given a limit; a refused run must keep below it as well. The page also tells
how much of the prediction is used: a prediction that is far too large would hold trivially.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table

CASES = {"quick": 3, "default": 300, "full": 2000}
ALLOWANCE = 50 * 2**20  # above the limit: 50 MiB for what no plan sees, such as imports of a library
_VALUES = 2**24  # in a dump at most
_FLOPS = 3e10  # of a pass or an eigensolve at most: a second or two
_TIMEOUT_S = 300
_ENDED = (0, 4)  # measured, or measured with too wide an interval; 4 without a result is a refusal
_TYPES = ("f2", "f4", "f8", "i1", "i4", "bfloat16", ">f2", ">f4", ">f8", ">i4")
_METHODS = ("auto", "gram", "float32", "tsqr", "rsvd", "frequent-directions", "row-sketch", "sample", "population")
_FORMATS = ("npy", "npy in columns", "zarr 2", "zarr 3", "zarr 3 in shards")
_CODECS = ("none", "zstd", "gzip", "blosc")


@dataclass(frozen=True)
class Case:
    """A dump and the options of its measurement; ``limit_mib`` is None without a limit."""

    seed: int
    rows: int
    features: int
    kind: str
    format: str
    codec: str
    chunk: tuple[int, int]
    options: tuple[str, ...]
    limit_mib: int | None

    @property
    def title(self) -> str:
        """Name of the case in one line."""
        stored = self.format if self.format.startswith("npy") else f"{self.format} {self.codec} {self.chunk}"
        limit = "" if self.limit_mib is None else f" --memory {self.limit_mib}MiB"
        return f"{self.rows} x {self.features} {self.kind} {stored}: {' '.join(self.options)}{limit}"


def draw(seed: int) -> Case:
    """Return a random case, the same for the same seed."""
    generator = random.Random(seed)
    pick = generator.choice
    method = pick(_METHODS)
    exact = method not in ("rsvd", "frequent-directions", "row-sketch")
    widest = {"tsqr": 1200, "row-sketch": 300, "sample": 600, "population": 600}.get(method, 2400)
    narrowest = 24 if exact or method == "row-sketch" else 200
    features = round(_spread(narrowest, widest, generator))
    options, rank = _of_method(method, features, generator)
    fewest = 4 * 8 * features + 1024 if method == "row-sketch" else 50
    most = min(_VALUES // features, int(_FLOPS / (features * (rank or features))), 400_000)
    rows = round(_spread(max(fewest, most // 50), max(fewest + 1, most), generator))
    options += ["--workers", str(pick([1, 1, 2, 2, 3, 4]))] if generator.random() < 0.9 else []
    if exact and method != "population" and generator.random() < 0.3:
        options += ["--dims", str(max(1, features // 2))]
    if not {"sample", "population"} & {method} and generator.random() < 0.25:
        options += ["--group-by", f"rows:{pick([3, 50, 700, 5000])}"]
    if method != "sample" and generator.random() < 0.2:
        options += ["--checkpoint", "kept.state"]
    options += ["--normalize"] if generator.random() < 0.5 else []
    chunk = (
        min(rows, pick([7, 100, 1000, 10_000, 100_000])),
        features if generator.random() < 0.7 else -(-features // 3),
    )
    limit = round(_spread(110, 600, generator)) if generator.random() < 0.5 else None
    return Case(seed, rows, features, pick(_TYPES), pick(_FORMATS), pick(_CODECS), chunk, tuple(options), limit)


def _spread(least: float, most: float, generator: random.Random) -> float:
    """Return a number between two, of any magnitude alike."""
    return math.exp(generator.uniform(math.log(least), math.log(most)))


def _of_method(method: str, features: int, generator: random.Random) -> tuple[list[str], int]:
    """Return the options that choose a method, and the rank of its sketch, 0 if it is none."""
    tolerance = ["--tolerance", generator.choice(["1e-9", "0.01", "9"])]
    rank = generator.randint(16, features // 2 - 10) if method in ("rsvd", "frequent-directions") else 0
    if method in ("sample", "population"):
        return [f"--{method}", *tolerance, "--method", generator.choice(["auto", "gram", "tsqr"])], rank
    if method == "float32":
        return ["--precision", generator.choice(["float32", "auto"]), *tolerance], rank
    passes = ["--passes", str(generator.randint(1, 3))] if method == "rsvd" else []
    return ["--method", method, *tolerance, *passes, *(["--rank", str(rank)] if rank else [])], rank


def write(case: Case, folder: Path) -> Path:
    """Write the dump of a case and return its path."""
    dtype = np.dtype("u2" if case.kind == "bfloat16" else case.kind)
    pattern = np.random.default_rng(case.seed).standard_normal((min(case.rows, 1000), case.features), dtype=np.float32)
    if case.kind == "bfloat16":
        pattern = (pattern.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype.kind == "i":
        pattern = pattern * 20
    block = pattern.astype(dtype)
    if case.format.startswith("npy"):
        path = folder / "dump.npy"
        kept = np.lib.format.open_memmap(
            path, "w+", dtype, (case.rows, case.features), fortran_order=case.format == "npy in columns"
        )
        _fill(kept, block)
        kept.flush()
        return path
    path = folder / "dump.zarr"
    version = 2 if case.format == "zarr 2" else 3
    shards = {"shards": (4 * case.chunk[0], case.chunk[1])} if case.format == "zarr 3 in shards" else {}
    array = zarr.create_array(
        path, shape=(case.rows, case.features), dtype=dtype, chunks=case.chunk, zarr_format=version,
        compressors=_compressor(case.codec, version),
        attributes={"dtype": "bfloat16"} if case.kind == "bfloat16" else {}, **shards,
    )  # fmt: skip
    _fill(array, block)
    return path


def _fill(array: Any, block: np.ndarray[Any, Any]) -> None:
    step = -(-50_000 // len(block)) * len(block)
    tile = np.tile(block, (min(step, -(-array.shape[0] // len(block)) * len(block)) // len(block), 1))
    for start in range(0, array.shape[0], len(tile)):
        stop = min(array.shape[0], start + len(tile))
        array[start:stop] = tile[: stop - start]


def _compressor(codec: str, version: int) -> Any:
    if codec == "none":
        return None
    if version == 2:
        from numcodecs import Blosc, GZip, Zstd

        return {"zstd": Zstd, "gzip": GZip, "blosc": Blosc}[codec]()
    return {"zstd": ZstdCodec, "gzip": GzipCodec, "blosc": BloscCodec}[codec]()


def run(case: Case) -> dict[str, Any]:
    """Run a case; return its peak, its prediction and its limit in bytes, and whether it was refused."""
    with tempfile.TemporaryDirectory(prefix="rankme-memory-peaks-") as name:
        path = write(case, Path(name))
        options = [str(Path(name, word)) if word == "kept.state" else word for word in case.options]
        if case.limit_mib is not None:
            options += ["--memory", f"{case.limit_mib}MiB"]
        command = [sys.executable, "-m", "rankme_stream", "score", str(path), *options, "--json", "-", "--quiet"]
        done = processes.run(command, timeout_s=_TIMEOUT_S, allowed=_ENDED)
    limit = None if case.limit_mib is None else case.limit_mib * 2**20
    found: dict[str, Any] = {"case": asdict(case), "title": case.title, "peak": done.peak_bytes, "limit": limit}
    if not done.output.strip():
        return found | {"predicted": None, "purposes": {}}
    plan = json.loads(done.output)["plan"]
    return found | {"predicted": plan["predicted_peak_bytes"], "purposes": plan["memory"]}


def fault(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a case; None if its memory was as promised."""
    if row["limit"] is not None and row["peak"] > row["limit"] + ALLOWANCE:
        return "above its limit"
    if row["predicted"] is None:
        return None
    if row["peak"] > row["predicted"]:
        return "above its prediction"
    return "foretold above its limit" if row["limit"] is not None and row["predicted"] > row["limit"] else None


def markdown(result: dict[str, Any]) -> str:
    """Return the page of the results."""
    rows = result["cases"]
    measured = [row for row in rows if row["predicted"] is not None]
    ratios = sorted(row["predicted"] / row["peak"] for row in measured)
    faults = [(fault(row), row) for row in rows if fault(row)]
    lines = [
        "# Memory: peak against plan",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}.",
        "",
        f"{len(rows):,} random cases in processes of their own, {len(rows) - len(measured):,} of them refused for "
        f"their limit. {len(faults):,} held more than was foretold, or than their limit and 50 MiB.",
    ]
    if ratios:
        least, median, most = ratios[0], ratios[len(ratios) // 2], ratios[-1]
        lines.append(f"The prediction is {least:.2f} to {most:.2f} times the peak, {median:.2f} in the median.")
    header = ("case", "peak MiB", "predicted MiB", "")
    if faults:
        lines += table("Faults", header, [(*_cells(row), reason) for reason, row in faults])
    loosest = sorted(measured, key=lambda row: -row["predicted"] / row["peak"])[:5]
    tightest = sorted(measured, key=lambda row: row["predicted"] / row["peak"])[:5]
    for title, some in (("Tightest predictions", tightest), ("Loosest predictions", loosest)):
        lines += table(title, header, [(*_cells(row), f"{row['predicted'] / row['peak']:.2f}") for row in some])
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    predicted = "refused" if row["predicted"] is None else f"{row['predicted'] / 2**20:.0f}"
    return f"`{row['title']}`", f"{row['peak'] / 2**20:.0f}", predicted


def main() -> int:
    """Run the benchmark and return its exit code: 1 if a case held more memory than was foretold."""
    experiment = Experiment(
        "memory_peaks", __doc__, {"quick": "15 s", "default": "20 minutes on 2 cores", "full": "2 hours on 2 cores"}
    )
    experiment.parser.add_argument("--seed", type=int, default=0, help="seed of the first case (default: 0)")
    experiment.parser.add_argument("--cases", type=int, help="number of cases")
    arguments = experiment.start()
    count = CASES[experiment.size] if arguments.cases is None else arguments.cases
    make: Callable[[int], dict[str, Any]] = lambda seed: run(draw(seed))  # noqa: E731
    rows = [experiment.part(f"case {seed}", make, seed) for seed in range(arguments.seed, arguments.seed + count)]
    result = experiment.finish({"seed": arguments.seed, "cases": rows}, markdown)
    return int(any(fault(row) for row in result["cases"]))


if __name__ == "__main__":
    raise SystemExit(main())
