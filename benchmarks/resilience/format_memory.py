"""Does a file of any format that is ten times the memory limit stream within it?

``python -m benchmarks format_memory`` writes a file of every format, ten times as large as the limit, and runs
``rankme score --memory`` on it in a process of its own, whose anonymous memory is sampled every 10 ms. The peak must
keep within the limit and 50 MiB, for what no plan sees, and within what the plan foretold; the number must be that of
the same rows in a ``.npy`` file. Formats whose own writer is not installed are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.harness.stored_formats import STORED_FORMATS, rows_for
from benchmarks.resilience.memory_peaks import ALLOWANCE
from benchmarks.speed.formats import why_not

WIDTH = 256
_TIMEOUT_S = 600
_QUICK = ("npy", "npz, deflated", "parquet", "hdf5, gzip")
_PATTERN_ROWS = 5_000


def scored(name: str, limit: int, times: float) -> dict[str, Any]:
    """Write a file, so many times as large as the limit, and score it within the limit."""
    stored = STORED_FORMATS[name]
    dtype = np.dtype(stored.dtype)
    pattern = np.random.default_rng(0).standard_normal((_PATTERN_ROWS, WIDTH), dtype=np.float32)
    n_rows = int(times * limit) // (WIDTH * dtype.itemsize) + 1
    with tempfile.TemporaryDirectory(prefix="rankme-format-memory-") as folder:
        path = Path(folder) / f"rows{stored.ending}"
        pattern = rows_for(stored, pattern)
        stored.write(path, np.resize(pattern, (n_rows, WIDTH)))
        n_bytes, options = path.stat().st_size, stored.options(pattern)
        command = [sys.executable, "-m", "rankme_stream", "score", stored.address(path), "--memory", str(limit)]
        command += [word for option, value in options.items() for word in (f"--{option}", str(value))]
        command += ["--json", "-", "--quiet"]
        done = processes.run(command, timeout_s=_TIMEOUT_S, allowed=(0,))
    result = json.loads(done.output)
    return {
        "n_rows": n_rows, "dtype": dtype.name, "file_bytes": n_bytes, "limit": limit, "peak": done.peak_bytes,
        "predicted": result["plan"]["predicted_peak_bytes"], "seconds": done.wall_s,
        "rankme": result["estimates"]["rankme"]["value"],
    }  # fmt: skip


def faults(files: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what is wrong with each format, where anything is."""
    found: dict[str, str] = {}
    numbers: dict[tuple[str, int], float] = {}
    for name, one in files.items():
        wanted = numbers.setdefault((one["dtype"], one["n_rows"]), one["rankme"])
        if one["peak"] > one["limit"] + ALLOWANCE:
            found[name] = "above its limit"
        elif one["peak"] > one["predicted"]:
            found[name] = "above its prediction"
        elif one["rankme"] != wanted:
            found[name] = f"{one['rankme']} instead of {wanted}"
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    files, wrong = result["files"], faults(result["files"])
    lines = [
        "# Memory of every format",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. One process each, rows of width {WIDTH}; the "
        f"same rows give the same number in every format. {len(wrong)} of {len(files)} formats held more than their "
        "limit and 50 MiB, or than was foretold.",
    ]
    mib = [
        [name, *(f"{one[key] / 2**20:,.0f}" for key in ("file_bytes", "limit", "predicted", "peak")),
         f"{one['seconds']:.1f}", wrong.get(name, "")]
        for name, one in files.items()
    ]  # fmt: skip
    lines += table("Peaks, MiB", ["format", "file", "limit", "predicted", "peak", "seconds", ""], mib)
    if result["left_out"]:
        lines += table("Left out", ["format", "why"], [*result["left_out"].items()])
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if a format held more than it may."""
    minutes: dict[Size, str] = {"quick": "10 s", "default": "15 minutes"}
    experiment = Experiment("format_memory", __doc__, minutes)
    experiment.parser.add_argument("--format", action="append", choices=STORED_FORMATS, help="of these formats only")
    chosen = experiment.start().format
    is_quick = experiment.size == "quick"
    wanted = chosen or (_QUICK if is_quick else [*STORED_FORMATS])
    left_out = {name: why for name in wanted if (why := why_not(name))}
    size = (224 * 2**20, 0.1 if is_quick else 10)
    files = {name: experiment.part(name, scored, name, *size) for name in wanted if name not in left_out}
    result = experiment.finish({"files": files, "left_out": left_out}, markdown)
    return int(bool(faults(result["files"])))
