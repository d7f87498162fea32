"""How much time and memory does a pass over 10^9 rows x 128 float16 take, and is its RankMe exact?

``python -m benchmarks billion`` makes a zarr store of 61,036 chunks, hard links to 16 distinct ones in a fixed random
order, and scores its first 10^6, 10^7, 10^8 and 10^9 rows with the command. The rows are multiples of 2^-14, so the
Gram matrix of each chunk is exact in float64, and that of any number of rows is exact in integers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table
from rankme_stream.spectra import metrics

_FEATURES, _CHUNK_ROWS, _DISTINCT, _SEED = 128, 16_384, 16, 1
_UNIT = 2.0**-14  # below 1/16 float16 has all multiples of it, and above it has no other numbers
_LARGEST = 8.0
_U = 2.0**-53
_GROWTH, _GROWTH_FROM = 1.05, 10**7  # target for the growth of peak memory, and the rows from which it counts
_PIECE = 2**24  # bytes of one read of the disk
_ROWS = {"quick": (50_000, 100_000, 200_000), "default": (10**6, 10**7, 10**8, 10**9)}
_DISK_BYTES = {"quick": 2**25, "default": 2**31}


@dataclass(frozen=True)
class Dump:
    """Rows made of a few distinct chunks, each used many times; both the store and the exact answer come from them."""

    n_rows: int

    @cached_property
    def distinct(self) -> list[np.ndarray]:
        """Distinct chunks in float16: Gaussian rows of decaying spectrum; each chunk has its own mean and scale."""
        generator = np.random.default_rng(_SEED)
        rotation = np.linalg.qr(generator.standard_normal((_FEATURES, _FEATURES)))[0]
        spectrum = np.arange(1.0, _FEATURES + 1.0) ** -0.5
        chunks = []
        for size in generator.uniform(0.8, 1.25, _DISTINCT):
            mean = 0.05 * generator.standard_normal(_FEATURES)
            rows = generator.standard_normal((_CHUNK_ROWS, _FEATURES)) * (4.0 * size * spectrum) @ rotation + mean
            rows = np.clip(rows, _UNIT - _LARGEST, _LARGEST - _UNIT).astype(np.float16).astype(np.float64)
            stored = (np.rint(rows / _UNIT) * _UNIT).astype(np.float16)
            assert np.array_equal(stored / np.float64(_UNIT), np.rint(rows / _UNIT))
            chunks.append(stored)
        return chunks

    @cached_property
    def order(self) -> np.ndarray:
        """Index of the distinct chunk for every chunk of the store."""
        return np.random.default_rng(_SEED).integers(_DISTINCT, size=-(-self.n_rows // _CHUNK_ROWS))

    def write(self, folder: Path) -> Path:
        """Return the path of the store in a folder; make it unless a finished one is there."""
        digest = blake2b(self.order.tobytes(), digest_size=6)
        for chunk in self.distinct:
            digest.update(chunk)
        path = folder / f"billion-{self.n_rows}-{digest.hexdigest()}.zarr"
        if path.exists():
            return path
        partial, sources = path.with_suffix(".partial"), path.with_suffix(".distinct")
        for stale in (partial, sources):
            shutil.rmtree(stale, ignore_errors=True)
        self._create(partial, self.n_rows)
        self._create(sources, _DISTINCT * _CHUNK_ROWS)[:] = np.concatenate(self.distinct)
        for chunk, index in enumerate(self.order.tolist()):
            os.link(sources / f"c.{index}.0", partial / f"c.{chunk}.0")
        shutil.rmtree(sources)
        partial.rename(path)  # a store under its final name is complete
        return path

    def _create(self, path: Path, n_rows: int) -> zarr.Array[Any]:
        return zarr.create_array(
            path, shape=(n_rows, _FEATURES), dtype="f2", chunks=(_CHUNK_ROWS, _FEATURES),
            chunk_key_encoding={"name": "default", "separator": "."},
        )  # fmt: skip

    @cached_property
    def _grams(self) -> list[np.ndarray]:
        return [_exact_gram(chunk) for chunk in self.distinct]

    def gram(self, n_rows: int) -> np.ndarray:
        """Return the Gram matrix of the first ``n_rows`` rows, each entry correctly rounded to float64."""
        whole, cut = divmod(n_rows, _CHUNK_ROWS)
        uses = np.bincount(self.order[:whole], minlength=_DISTINCT).tolist()
        total = sum(n * gram for n, gram in zip(uses, self._grams, strict=True))
        if cut:
            total = total + _exact_gram(self.distinct[self.order[whole]][:cut])
        return total.astype(np.float64) * _UNIT**2  # Python rounds integers correctly; the power of two is exact


def _exact_gram(rows: np.ndarray) -> np.ndarray:
    """Return the Gram matrix of rows in units of 2^-28, as Python integers."""
    integers = rows.astype(np.float64) / _UNIT
    # Partial sums of integers below 2^53 are exact in any order that BLAS takes.
    assert np.array_equal(integers, np.rint(integers)) and len(rows) * np.abs(integers).max() ** 2 < 2.0**53
    return (integers.T @ integers).astype(np.int64).astype(object)


def judge(result: dict[str, Any], gram: np.ndarray) -> dict[str, Any]:
    """Compare a result with the Gram matrix of its rows.

    numpy's eigenvalues are within ``error`` of the true ones: (D + 32) u l_1 for the solver, which is the empirical
    margin that the package itself uses, plus u |G|_F for the rounding of the entries. To first order RankMe then moves
    by at most ``margin``. An interval holds if it contains numpy's RankMe to within that margin.
    """
    squares = np.linalg.eigvalsh(gram)[::-1]
    error = ((len(gram) + 32) * float(squares[0]) + float(np.linalg.norm(gram))) * _U
    values = np.sqrt(squares)
    exact = metrics.rankme(values)
    shares = values / math.fsum(values)
    logarithms = np.log(shares + 1e-7) + 1.0
    slopes = exact / values.sum() * (float(shares @ logarithms) - logarithms)
    margin = float(np.abs(slopes) @ (error / (2.0 * values)))
    ours, bounds = result["estimates"]["rankme"], result["spectrum"]
    lower, upper = (np.square(bounds[end]) for end in ("lower", "upper"))
    return {
        "exact": exact,
        "margin": margin,
        "rankme": ours["value"],
        "lower": ours["lower"],
        "upper": ours["upper"],
        "holds": ours["lower"] - margin <= exact <= ours["upper"] + margin,
        "values_held": int(np.count_nonzero((lower - error <= squares) & (squares <= upper + error))),
    }


def score(dump: Dump, store: Path, n_rows: int) -> dict[str, Any]:
    """Score the first rows in a process of its own, with the chunks in the page cache."""
    sizes: dict[int, int] = {}
    stored_bytes = 0
    for number, index in enumerate(dump.order[: -(-n_rows // _CHUNK_ROWS)].tolist()):
        chunk = store / f"c.{number}.0"
        n_bytes = chunk.stat().st_size  # of every entry, so that the folder is in the cache as well
        stored_bytes += n_bytes
        if index not in sizes:
            sizes[index] = len(chunk.read_bytes())
        assert sizes[index] == n_bytes
    process = processes.run(
        [sys.executable, "-m", "rankme_stream", "score", str(store), "--rows", f"0:{n_rows}", "--json", "-"]
    )
    result = json.loads(process.output)
    return {
        "rows": n_rows,
        "rows_read": result["rows_read"],
        "process": process.to_dict(),
        "measured": result["measured"],
        "predicted_peak_bytes": result["plan"]["predicted_peak_bytes"],
        "stored_bytes": stored_bytes,
        "decoded_bytes": 2 * n_rows * _FEATURES,
        "features": _FEATURES,
        **judge(result, dump.gram(n_rows)),
    }


def read_disk(folder: Path, n_bytes: int) -> dict[str, Any]:
    """Write an incompressible file; three times drop it from the page cache and read it in large pieces."""
    generator, buffer = np.random.default_rng(0), bytearray(_PIECE)
    seconds, fetched = [], []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(n_bytes // _PIECE):
            file.write(generator.bytes(_PIECE))
        file.flush()
        os.fsync(file.fileno())
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            before, began, offset = _fetched_bytes(), time.perf_counter(), 0
            while read := os.preadv(file.fileno(), [buffer], offset):
                offset += read
            seconds.append(time.perf_counter() - began)
            fetched.append((_fetched_bytes() - before) / offset)
    return {"bytes": offset, "seconds": seconds, "bytes_per_s": offset / median(seconds), "fetched": min(fetched)}


def _fetched_bytes() -> int:
    """Return the bytes that this process read from storage; hits in the page cache are not counted."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["read_bytes"])


def has_failed(row: dict[str, Any]) -> bool:
    """Return whether an interval misses the exact answer, or rows were left out."""
    return not row["holds"] or row["values_held"] < row["features"] or row["rows_read"] != row["rows"]


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the ratio of peak memory at the last number of rows to that at the second."""
    return {
        "measured": rows[-1]["measured"]["peak_bytes"] / rows[1]["measured"]["peak_bytes"],
        "sampled": rows[-1]["process"]["peak_bytes"] / rows[1]["process"]["peak_bytes"],
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    rows, disk = result["rows"], result["disk"]
    chunks = -(-rows[-1]["rows"] // _CHUNK_ROWS)
    return "\n".join([
        f"# {rows[-1]['rows']:,} rows x {_FEATURES} float16",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; `rankme score STORE --rows 0:N` in a "
        f"process of its own, on one zarr v3 store of {chunks:,} chunks of {_CHUNK_ROWS:,} rows (zstd).",
        "",
        f"The chunks are hard links to {_DISTINCT} distinct ones, so **reads come from the page cache**: the times are "
        "those of decoding and arithmetic, on every row. *Disk-bound* is the time to read the stored bytes from this "
        f"machine's disk at {disk['bytes_per_s'] / 1e6:,.0f} MB/s, measured on an incompressible file of "
        f"{disk['bytes'] / 1e6:,.0f} MB that was written, synced, dropped from the page cache, and read in order in "
        f"pieces of {_PIECE // 2**20} MiB by one thread: {', '.join(f'{s:.2f}' for s in disk['seconds'])} s, "
        f"{disk['fetched']:.0%} of it fetched from storage (behind which the host may have a cache of its own). "
        "A pass from disk takes at least the larger of the two times.",
        *_time_lines(rows, disk),
        *_memory_lines(rows, result["growth"]),
        *_exact_lines(rows),
    ])  # fmt: skip


def _time_lines(rows: list[dict[str, Any]], disk: dict[str, Any]) -> list[str]:
    return table(
        "Time: process from start to end, and the pass within it",
        ["rows", "process, s", "pass, s", "CPU, s", "rows/s", "GB/s decoded", "stored, GB", "disk-bound, s",
         "others and host, CPU s"],
        [
            [f"{row['rows']:,}", f"{row['process']['wall_s']:.1f}", f"{row['measured']['elapsed_s']:.1f}",
             f"{row['process']['cpu_s']:.1f}", f"{row['rows'] / row['process']['wall_s']:,.0f}",
             f"{row['decoded_bytes'] / row['process']['wall_s'] / 1e9:.2f}", f"{row['stored_bytes'] / 1e9:.2f}",
             f"{row['stored_bytes'] / disk['bytes_per_s']:.1f}",
             f"{row['process']['others_s'] + row['process']['stolen_s']:.1f}"]
            for row in rows
        ],
    )  # fmt: skip


def _memory_lines(rows: list[dict[str, Any]], grown: dict[str, float]) -> list[str]:
    lines = table(
        "Peak memory, MB",
        ["rows", "in the result", "seen from outside", "predicted"],
        [
            [f"{row['rows']:,}", f"{row['measured']['peak_bytes'] / 1e6:.1f}",
             f"{row['process']['peak_bytes'] / 1e6:.1f}", f"{row['predicted_peak_bytes'] / 1e6:.1f}"]
            for row in rows
        ],
    )  # fmt: skip
    verdict = "met" if max(grown.values()) <= _GROWTH else "NOT met"
    if rows[1]["rows"] < _GROWTH_FROM:
        verdict = f"which counts from {_GROWTH_FROM:,} rows on"
    return [
        *lines,
        "",
        f"From {rows[1]['rows']:,} to {rows[-1]['rows']:,} rows it grows by a factor of {grown['measured']:.3f} "
        f"({grown['sampled']:.3f} seen from outside); target: at most {_GROWTH}, {verdict}.",
    ]


def _exact_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = table(
        "RankMe against the exact answer",
        ["rows", "RankMe", "half-width", "exact", "distance / exact", "distance / half-width", "margin",
         "interval holds", "singular values that hold"],
        [
            [f"{row['rows']:,}", f"{row['rankme']:.12f}", f"{_half_width(row):.1e}", f"{row['exact']:.12f}",
             f"{_distance(row) / row['exact']:.1e}", f"{_distance(row) / _half_width(row):.1e}", f"{row['margin']:.1e}",
             "yes" if row["holds"] else "NO", f"{row['values_held']} of {row['features']}"]
            for row in rows
        ],
    )  # fmt: skip
    return [
        *lines,
        "",
        "Exact: the Gram matrix of the rows in integers, correctly rounded to float64, then numpy's eigenvalues. "
        "Margin: the largest error of that answer, from (D + 32) u l_1 for the eigensolver and u |G|_F for the "
        "rounding. An interval holds if it contains the exact answer to within the margin; for a singular value "
        "likewise.",
    ]


def _half_width(row: dict[str, Any]) -> float:
    return max(row["upper"] - row["rankme"], row["rankme"] - row["lower"])


def _distance(row: dict[str, Any]) -> float:
    return abs(row["rankme"] - row["exact"])


def main() -> int:
    """Run, print and write the page; return 1 if an interval does not hold."""
    experiment = Experiment("billion", __doc__, {"quick": "10 s, 200,000 rows", "default": "15 minutes, 10^9 rows"})
    experiment.parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="folder that keeps the store; a complete store in it is used again"
    )
    arguments = experiment.start()
    if arguments.store:
        arguments.store.mkdir(parents=True, exist_ok=True)
    sizes = _ROWS[experiment.size]
    dump = Dump(sizes[-1])
    with nullcontext(arguments.store) if arguments.store else tempfile.TemporaryDirectory() as folder:
        disk = experiment.part("disk", read_disk, Path(folder), _DISK_BYTES[experiment.size])
        store = dump.write(Path(folder))
        rows = [experiment.part(f"{n:,} rows", score, dump, store, n) for n in sizes]
    experiment.finish({"disk": disk, "growth": growth(rows), "rows": rows}, markdown)
    return 1 if any(has_failed(row) for row in rows) else 0
