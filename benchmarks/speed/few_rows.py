"""What do fewer rows than features cost, beside numpy's singular values and eigenvalues of the same matrix?

``python -m benchmarks few_rows`` measures arrays in memory of 48 x 3,000, 2,000 x 3,000 and 2,000 x 40,000 and times,
one after another in each of several rounds, in one process and with one BLAS thread each:

- ``measure``: ``rankme_stream.measure``, every metric with its interval, the CPU time of all threads;
- its spectrum alone: raw and centred singular values with their boxes;
- numpy: ``linalg.svd`` without vectors, and ``linalg.eigvalsh`` of the products of rows with rows, ``X @ X.T``;
- a floor: ``measure`` of 4 x 6 numbers, which is what any measurement costs before it computes.

The ratio of a round is that of its own times; stated is the median. The memory of a process that does nothing else is
compared with its plan.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from rankme_stream.accumulators.kept_rows import TurnedRows
from rankme_stream.accumulators.row_gram import row_gram_spectrum
from rankme_stream.numerics import blas_threads

SHAPES = ((48, 3_000), (2_000, 3_000), (2_000, 40_000))
_QUICK = ((48, 300), (60, 1_100))
_SVD_VALUES = 2 * 10**7  # of a matrix whose SVD is timed in every round; of a larger one in the first alone
_PEAK = """
import json, sys
import numpy as np
import rankme_stream as rs
rows = np.random.default_rng(0).standard_normal((int(sys.argv[1]), int(sys.argv[2])), dtype=np.float32)
found = rs.measure(rows)
print(json.dumps([found.measured["peak_bytes"], found.plan.predicted_peak_bytes]))
"""


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process for some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compared(n_rows: int, n_features: int, rounds: int) -> dict[str, Any]:
    """Return the CPU seconds of each way, round by round, and the memory predicted and measured."""
    rows = np.random.default_rng(0).standard_normal((n_rows, n_features))
    tiny = rows[:4, :6].copy()
    found = rs.measure(rows)
    ways: dict[str, Callable[[], object]] = {
        "measure": lambda: rs.measure(rows),
        "floor": lambda: rs.measure(tiny),
        "spectrum": lambda: row_gram_spectrum(TurnedRows([rows]), unit_roundoff=2.0**-53),
        "eigvalsh": lambda: np.linalg.eigvalsh(rows @ rows.T),
        "svd": lambda: np.linalg.svd(rows, compute_uv=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with blas_threads.one_thread():
        ways["eigvalsh"]()  # loads the library
        for number in range(rounds):
            for name, work in ways.items():
                if name != "svd" or number == 0 or rows.size <= _SVD_VALUES:
                    seconds[name].append(cpu(work))
    command = [sys.executable, "-c", _PEAK, str(n_rows), str(n_features)]
    peak, predicted = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    values = np.linalg.eigvalsh(rows @ rows.T)[::-1]
    dense = rs.metrics.rankme(np.sqrt(np.maximum(values, 0.0)))
    assert found.rankme.lower is not None and found.rankme.upper is not None
    if found.method != "row-gram" or not found.rankme.lower <= dense <= found.rankme.upper:
        raise SystemExit(f"RankMe of {n_rows} x {n_features} is {dense!r}, and {found.rankme} was stated")
    return {
        "shape": [n_rows, n_features], "seconds": seconds, "half_width": found.rankme.half_width / dense,
        "peak_bytes": peak, "predicted_bytes": predicted,
    }  # fmt: skip


def _ratio(seconds: dict[str, list[float]], way: str, other: str) -> float:
    """Return the median over rounds of the ratio of two ways."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds[way], seconds[other], strict=False))


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = ["# Cost of fewer rows than features", ""]
    lines += [f"`{result['command']}`, {result['date']}, {result['machine']}; CPU seconds, medians of rounds."]
    shown, memory = [], []
    for one in result["matrices"]:
        n_rows, n_features = one["shape"]
        seconds, name = one["seconds"], f"{n_rows:,} x {n_features:,}"
        shown.append(
            [name, *(f"{statistics.median(seconds[way]):.4f}" for way in ("measure", "floor", "spectrum"))]
            + [f"{statistics.median(seconds[way]):.4f}" for way in ("eigvalsh", "svd")]
            + [f"{_ratio(seconds, 'measure', 'eigvalsh'):.2f}", f"{_ratio(seconds, 'spectrum', 'eigvalsh'):.2f}"]
            + [f"{_ratio(seconds, 'measure', 'svd'):.2f}", f"{one['half_width']:.1e}"]
        )
        memory.append([name, *(f"{one[key] / 2**20:,.0f}" for key in ("peak_bytes", "predicted_bytes"))])
    lines += table(
        "CPU time",
        ["rows x features", "measure", "floor", "its spectrum", "numpy eigvalsh(X X')", "numpy svd",
         "measure / eigvalsh", "spectrum / eigvalsh", "measure / svd", "relative half-width of RankMe"],
        shown,
    )  # fmt: skip
    lines += table("Memory, MiB, of a process that measures float32 rows", ["rows x features", "peak", "plan"], memory)
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    experiment = Experiment("few_rows", __doc__, {"quick": "10 s", "default": "5 minutes"})
    experiment.start()
    is_quick = experiment.size == "quick"
    matrices = [
        experiment.part(f"{n_rows} x {n_features}", compared, n_rows, n_features, 2 if is_quick else 5)
        for n_rows, n_features in (_QUICK if is_quick else SHAPES)
    ]
    experiment.finish({"matrices": matrices}, markdown)
