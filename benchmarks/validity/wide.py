"""How much memory and time do sketches of 65,536 features take, and do their intervals hold?

A D x D matrix takes 34 GB there. ``python -m benchmarks wide`` scores Z = H diag(s) H, with Hadamard matrices H of size
131,072 and 65,536, whose singular values are exactly s. Its rows are computed on reading: row i is the Walsh-Hadamard
transform of s with its entries moved to ``j XOR i``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table
from rankme_stream.accumulators.method import MethodName
from rankme_stream.errors import LimitError
from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.spectra import metrics

_MEMORY = 4 * 10**9
SPECTRA = ("k^-1/2", "k^-1", "exponential")


def planted(name: str, n_features: int) -> np.ndarray:
    """Return the singular values of a spectrum."""
    k = np.arange(1.0, n_features + 1)
    return {"k^-1/2": k**-0.5, "k^-1": 1.0 / k, "exponential": np.exp(-k * 650.0 / n_features)}[name]


def transformed(values: np.ndarray) -> np.ndarray:
    """Return the Walsh-Hadamard transform of values, scaled to keep their norm; their number is a power of two."""
    out, half = values.copy(), 1
    while half < out.size:
        pairs = out.reshape(-1, 2, half)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    return out / np.sqrt(out.size)


class Walsh:
    """Source of 2 D rows of D features with given singular values, D a power of two; rows i and i + D are equal."""

    integrity = "none"
    chunks_missing = 0
    first_missing: str | None = None

    def __init__(self, name: str, n_features: int) -> None:
        self.uri = f"Walsh {name} {n_features}"
        self.shape = (2 * n_features, n_features)
        self.stored = StoredType("float64", np.dtype(np.float64))
        self._row = transformed(planted(name, n_features)) / np.sqrt(2.0 * n_features)
        self._columns = np.arange(n_features)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return a bound after every row."""
        return range(start + 1, stop)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return rows, computed here."""
        if out is None:
            out = np.empty((stop - start, self.shape[1]))
        for row in range(start, stop):
            np.take(self._row, self._columns ^ (row % self.shape[1]), out=out[row - start])
        return out

    def read_memory(self, n_rows: int) -> int:
        """Return the bytes of the rows and of the indices of one."""
        return (n_rows + 2) * self.shape[1] * 8

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return an empty list: no chunk is missing."""
        return []

    @property
    def tail_start(self) -> int:
        """Return the number of rows: the source does not grow."""
        return self.shape[0]

    def reopen(self) -> None:
        """Return None: no other process can open the rows."""

    def identity(self) -> dict[str, object]:
        """Return type, width and name."""
        return {"dtype": "float64", "n_features": self.shape[1], "codecs": self.uri}

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the name and the range."""
        return blake2b(f"{self.uri} {start} {stop}".encode(), digest_size=16).hexdigest()


def scored(name: str, n_features: int, method: str, rank: int, passes: int = 1) -> dict[str, Any]:
    """Score rows in a process of its own, and compare the estimates with the true values."""
    call = f"score({name!r}, {n_features}, {method!r}, {rank}, {passes})"
    process = processes.run([sys.executable, "-c", f"from {__name__} import score; {call}"])
    printed: dict[str, Any] = json.loads(process.output)
    exact = planted(name, n_features)
    true = {
        "rankme": metrics.rankme(exact), "effective_rank": metrics.effective_rank(exact),
        "stable_rank": metrics.stable_rank(exact),
    }  # fmt: skip
    estimates = {key: [printed["estimates"][key][end] for end in ("lower", "value", "upper")] for key in true}
    held = {key: low * (1 - 1e-9) <= true[key] <= high * (1 + 1e-9) for key, (low, _, high) in estimates.items()}
    return {
        "spectrum": name, "features": n_features, "method": method, "rank": rank, "passes": passes, "true": true,
        "estimates": estimates, "held": held, "elapsed_s": printed["elapsed_s"], "sampled_bytes": process.peak_bytes,
        "peak_bytes": printed["peak_bytes"], "predicted_bytes": printed["predicted_bytes"],
    }  # fmt: skip


def score(name: str, n_features: int, method: MethodName, rank: int, passes: int) -> None:
    """Print the estimates of a sketch, its time and its memory as JSON."""
    measurement = rs.measure(
        Walsh(name, n_features), method=method, rank=rank, passes=passes, memory_limit=_MEMORY, tolerance=1e-12
    )
    result = measurement.to_dict()
    print(json.dumps({
        "estimates": result["estimates"], "elapsed_s": result["measured"]["elapsed_s"],
        "peak_bytes": result["measured"]["peak_bytes"], "predicted_bytes": measurement.plan.predicted_peak_bytes,
    }))  # fmt: skip


def refused(n_features: int, memory: int) -> str:
    """Return the error message of an exact pass that does not fit in memory."""
    try:
        rs.measure(Walsh("k^-1/2", n_features), memory_limit=memory)
    except LimitError as error:
        return str(error)
    return "not refused"


def measured(experiment: Experiment, n_features: int, ranks: tuple[int, int], memory: int) -> dict[str, Any]:
    """Run every part of the benchmark."""
    kinds = [("rsvd", ranks[0], 1), ("rsvd", ranks[0], 3), ("frequent-directions", ranks[1], 1)]
    rows = [
        experiment.part(f"{name}, {kind} {rank}, {passes}", scored, name, n_features, kind, rank, passes)
        for name in SPECTRA
        for kind, rank, passes in kinds
    ]
    return {"rows": rows, "refused": experiment.part("refused", refused, n_features, memory)}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# Sketches of very wide rows",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Rows of known singular values, twice as many "
        f"as features, computed on reading; memory limit {_MEMORY / 1e9:.0f} GB.",
    ]
    lines += table(
        "RankMe",
        ["features", "spectrum", "method", "rank", "passes", "true", "lower", "value", "upper", "held",
         "stable rank, true", "lower", "upper", "s", "peak, MB", "predicted, MB"],
        [
            [
                f"{row['features']:,}", row["spectrum"], row["method"], row["rank"], row["passes"],
                f"{row['true']['rankme']:,.1f}", *(f"{end:,.1f}" for end in row["estimates"]["rankme"]),
                "yes" if all(row["held"].values()) else "NO", f"{row['true']['stable_rank']:.5g}",
                f"{row['estimates']['stable_rank'][0]:.5g}", f"{row['estimates']['stable_rank'][2]:.5g}",
                f"{row['elapsed_s']:.0f}", f"{max(row['peak_bytes'], row['sampled_bytes']) / 1e6:,.0f}",
                f"{row['predicted_bytes'] / 1e6:,.0f}",
            ]
            for row in result["rows"]
        ],
    )  # fmt: skip
    lines += ["", f"Error message without a sketch: `{result['refused']}`"]
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page."""
    experiment = Experiment("wide", __doc__, {"quick": "20 s", "default": "25 minutes", "full": "1.5 hours"})
    experiment.start()
    sizes: dict[str, tuple[int, tuple[int, int], int]] = {
        "quick": (512, (40, 40), 10 * 2**20), "default": (65_536, (118, 64), _MEMORY),
        "full": (65_536, (502, 256), _MEMORY),
    }  # fmt: skip
    experiment.finish(measured(experiment, *sizes[experiment.size]), markdown)
    return 0
