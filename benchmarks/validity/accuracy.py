"""What an approximation costs, and what it says of itself: error, interval, time and memory of every way to RankMe.

``python -m benchmarks accuracy`` stores rows of eight known spectra, of 256 features (``--full``: and 1,024), the
bundled dump of real embeddings, and wider rows of singular values that are known without an SVD (4,096 features;
``--full``: and 16,384), and scores them exactly, by sketches of one and several passes, by samples of several sizes, by
a truncated SVD and by the randomized SVDs of scikit-learn and dask, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size, table
from benchmarks.validity import wide
from rankme_stream.errors import LimitError, UsageError
from rankme_stream.numerics import machine
from rankme_stream.spectra import metrics
from rankme_stream.testing import matrix_with_spectrum

_ROWS = 40  # times the features
_CHUNK_ROWS, _WIDE_ROWS = 1024, 256  # of a chunk
_BOUNDS = (0.01, 0.001)
_SLACK = 1e-9  # relative: of the truth, an SVD in float64

SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": np.ones_like,
    "k^-1/4": lambda k: k**-0.25,
    "k^-1/2": lambda k: k**-0.5,
    "k^-1": lambda k: k**-1.0,
    "k^-2": lambda k: k**-2.0,
    "exponential": lambda k: np.exp(-20.0 * k / k.size),
    "step": lambda k: np.where(k <= k.size / 8, 1.0, 1e-2),
    "spiked": lambda k: np.where(k <= 4, 30.0, 1.0),
}
REAL = "real embeddings"
_LEAST_SHOWN = 1e-6  # error, in the plots
_LIKELY = ("sample", "row sketch")  # whose intervals hold with 95 %
_WIDE_FROM = 4096  # features, from which on the singular values are planted and no dense SVD is taken
_EXACT_TO = 1024  # features, up to which QR and float32 are tried
_ALL_TO = 4096  # features, up to which everything is tried: above, an exact pass once, which does the same for each


@dataclass(frozen=True)
class Method:
    """One way to RankMe: its name, the part of the features or rows that it takes, and what runs it."""

    name: str
    size: int | None
    solve: Callable[[str], dict[str, Any]]


def _ours(uri: str, **options: Any) -> dict[str, Any]:
    memory = machine.memory_bytes() * 3 // 4
    try:
        found = rs.measure(uri, tolerance=1e-12, memory_limit=memory, **options)
    except (UsageError, LimitError) as error:  # too few rows for a sample of them; too little memory
        return {"value": None, "reason": str(error), "elapsed_s": 0.0, "rows": 0}
    rankme = found.rankme
    return {
        "value": rankme.value, "lower": rankme.lower, "upper": rankme.upper, "reason": rankme.reason,
        "elapsed_s": found.measured["elapsed_s"], "rows": found.rows_read,
    }  # fmt: skip


def _timed(uri: str, solve: Callable[[Any], float]) -> dict[str, Any]:
    array = zarr.open_array(uri, mode="r")
    began = time.perf_counter()
    value = solve(array)
    return {"value": value, "elapsed_s": time.perf_counter() - began, "rows": array.shape[0]}


def _rankme(values: np.ndarray) -> float:
    return metrics.rankme(np.sort(np.maximum(np.asarray(values, np.float64), 0.0))[::-1])


def _truncated(uri: str, rank: int) -> dict[str, Any]:
    def solve(array: Any) -> float:
        return _rankme(np.linalg.svd(array[:].astype(np.float64), compute_uv=False)[:rank])

    return _timed(uri, solve)


def _sklearn(uri: str, rank: int) -> dict[str, Any]:
    from sklearn.utils.extmath import randomized_svd

    return _timed(uri, lambda array: _rankme(randomized_svd(array[:].astype(np.float64), rank, random_state=0)[1]))


def _dask(uri: str, rank: int) -> dict[str, Any]:
    import dask.array as da

    def solve(array: Any) -> float:
        with threadpool_limits(1, user_api="blas"):
            rows = da.from_zarr(array).astype(np.float64)
            return _rankme(da.linalg.svd_compressed(rows, k=rank, seed=0)[1].compute())

    return _timed(uri, solve)


def methods(n_features: int) -> list[Method]:
    """Return every way, at the sizes that make sense for so many features."""
    found = [Method("gram float64", None, partial(_ours, method="gram"))]
    if n_features <= _EXACT_TO:
        found += [
            Method("gram float32", None, partial(_ours, method="gram", precision="float32")),
            Method("tsqr", None, partial(_ours, method="tsqr")),
        ]
    parts = (64, 16) if n_features >= _WIDE_FROM else (16, 8, 4)
    is_all = n_features <= _ALL_TO
    for rank in (n_features // part for part in parts):
        found += [
            Method("rsvd", rank, partial(_ours, method="rsvd", rank=rank)),
            *(
                Method(f"rsvd, {passes} passes", rank, partial(_ours, method="rsvd", rank=rank, passes=passes))
                for passes in ((2, 3) if is_all else (3,))
            ),
            Method("frequent directions", rank, partial(_ours, method="frequent-directions", rank=rank)),
            *[Method("truncated SVD", rank, partial(_truncated, rank=rank))] * (n_features < _WIDE_FROM),
        ]
        if is_all or rank == n_features // parts[0]:
            found += [
                Method("scikit-learn randomized_svd", rank, partial(_sklearn, rank=rank)),
                Method("dask svd_compressed", rank, partial(_dask, rank=rank)),
            ]
    if n_features < _WIDE_FROM:
        found.append(Method("row sketch", 8 * n_features, partial(_ours, method="row-sketch")))
        for n_rows in (times * n_features for times in (13, 19)):
            found.append(Method("sample", n_rows, partial(_ours, sample=True, max_rows=n_rows)))
    return found


@contextmanager
def stored(spectrum: str, n_features: int) -> Iterator[tuple[str, float]]:
    """Store rows of a spectrum in a temporary folder; give their path and the RankMe of what is stored."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.zarr")
        if n_features >= _WIDE_FROM:
            rows = wide.Walsh(spectrum, n_features)
            made = zarr.create_array(path, shape=rows.shape, dtype=np.float64, chunks=(_WIDE_ROWS, n_features))
            for start in range(0, rows.shape[0], _WIDE_ROWS):
                made[start : start + _WIDE_ROWS] = rows.read(start, start + _WIDE_ROWS)
            yield path, metrics.rankme(wide.planted(spectrum, n_features))
            return
        dense = _real() if spectrum == REAL else _rows(spectrum, n_features)
        zarr.create_array(path, data=dense, chunks=(_CHUNK_ROWS, dense.shape[1]))
        yield path, _rankme(np.linalg.svd(np.linalg.qr(dense.astype(np.float64), mode="r"), compute_uv=False))


def _real() -> np.ndarray:
    with as_file(files("rankme_stream") / "cli" / "data" / "minilm-docstrings-4096.zarr") as path:
        source = rs.open_source(f"{path}::embeddings")
        return np.asarray(source.read(0, source.shape[0]))


def _rows(spectrum: str, n_features: int) -> np.ndarray:
    planted = SPECTRA[spectrum](np.arange(1.0, n_features + 1))
    rows = matrix_with_spectrum(planted, n_rows=_ROWS * n_features, n_features=n_features).astype(np.float32)
    rows *= np.float32(np.sqrt(rows.size) / np.linalg.norm(rows))
    return rows


def scored(spectrum: str, n_features: int) -> list[dict[str, Any]]:
    """Score the rows of a spectrum in every way."""
    rows = []
    with stored(spectrum, n_features) as (uri, true):
        for place, method in enumerate(methods(n_features)):
            if method.size is None and n_features > _ALL_TO and spectrum != next(iter(wide.SPECTRA)):
                continue
            done = processes.run([sys.executable, "-m", "benchmarks", "accuracy", "--one", uri, str(place)])
            found: dict[str, Any] = json.loads(done.output)
            rows.append(
                {"spectrum": spectrum, "features": n_features, "method": method.name, "size": method.size, "true": true}
                | found
                | {"peak_bytes": done.peak_bytes}
                | _judged(found, true)
            )
    return rows


def _judged(found: dict[str, Any], true: float) -> dict[str, Any]:
    """Return the relative error and half-width, and whether the interval held."""
    value, lower, upper = (found.get(key) for key in ("value", "lower", "upper"))
    error = None if value is None else abs(value - true) / true
    if lower is None or upper is None or value is None:
        return {"error": error, "half_width": None, "held": None}
    held = lower * (1.0 - _SLACK) <= true <= upper * (1.0 + _SLACK)
    return {"error": error, "half_width": max(upper - value, value - lower) / true, "held": held}


def measured(
    experiment: Experiment, widths: Sequence[int], spectra: Sequence[str], *, has_real: bool
) -> dict[str, Any]:
    """Measure everything."""
    cases = [
        (name, n_features) for n_features in widths for name in (wide.SPECTRA if n_features >= _WIDE_FROM else spectra)
    ]
    cases += [(REAL, 384)] * has_real
    rows = [
        row for name, n_features in cases for row in experiment.part(f"{name}, {n_features}", scored, name, n_features)
    ]
    return {"rows": rows}


def _label(row: dict[str, Any]) -> str:
    return row["method"] if row["size"] is None else f"{row['method']} {row['size']:,}"


def _cheapest(rows: Sequence[dict[str, Any]], key: str, bound: float) -> str:
    """Name the way that took the least time of those within a bound."""
    within = [row for row in rows if row[key] is not None and row[key] <= bound and row["held"] is not False]
    if not within:
        return "none" if any(row["size"] is None for row in rows) else "no sketch; an exact pass was not tried"
    best = min(within, key=lambda row: row["elapsed_s"])
    return f"{_label(best)} ({best['elapsed_s']:.2f} s)"


def _needed(rows: Sequence[dict[str, Any]], group: tuple[str, int], method: str, key: str) -> str:
    """Name the least rank tried at which an error or a half-width of a spectrum is within 1 %."""
    mine = [row for row in rows if (row["spectrum"], row["features"], row["method"]) == (*group, method)]
    ranks = [row["size"] for row in mine if row[key] is not None and row[key] <= _BOUNDS[0]]
    return f"{min(ranks):,}" if ranks else "-"


def _approximate(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["size"] is not None]


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    rows = result["rows"]
    stated = [row for row in rows if row["held"] is not None]
    certain = [row["held"] for row in stated if row["method"] not in _LIKELY]
    likely = [row["held"] for row in stated if row["method"] in _LIKELY]
    lines = [
        "# What an approximation costs",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Rows of {_ROWS} D in float32, from "
        f"{_WIDE_FROM:,} features on of 2 D in float64; every way in a process of its own, seconds without its start; "
        "the truth is an SVD in float64 of what is stored, or planted. Errors and half-widths are relative to it. "
        "Samples withhold an interval, and a value, where the rows are too few. "
        f"Above {_ALL_TO:,} features an exact pass is timed once; two passes, and others at the larger rank, are not.",
        "",
        f"Intervals of exact passes and sketches: {sum(certain)} of {len(certain)} held. Of samples and row sketches, "
        f"at 95 %: {sum(likely)} of {len(likely)}.",
    ]
    groups = list(dict.fromkeys((row["spectrum"], row["features"]) for row in rows))
    chosen = []
    for spectrum, n_features in groups:
        group = [row for row in rows if (row["spectrum"], row["features"]) == (spectrum, n_features)]
        chosen.append([
            spectrum, f"{n_features:,}", f"{group[0]['true']:.4g}",
            *(_cheapest(group, key, bound) for key in ("half_width", "error") for bound in _BOUNDS),
        ])  # fmt: skip
    lines += table(
        "The cheapest way to 1 % and 0.1 %",
        ["spectrum", "D", "RankMe", "stated 1 %", "stated 0.1 %", "really 1 %", "really 0.1 %"],
        chosen,
    )
    sketches = [name for name in dict.fromkeys(row["method"] for row in _approximate(rows)) if name not in _LIKELY]
    lines += table(
        "Least rank of those tried that comes within 1 %, really / as stated",
        ["spectrum", "D", *sketches],
        [
            [
                group[0], f"{group[1]:,}",
                *(" / ".join(_needed(rows, group, name, key) for key in ("error", "half_width")) for name in sketches),
            ]
            for group in groups
        ],
    )  # fmt: skip
    for spectrum, n_features in groups:
        group = [row for row in rows if (row["spectrum"], row["features"]) == (spectrum, n_features)]
        lines += table(
            f"{spectrum}, {n_features:,} features, RankMe {group[0]['true']:.6g}",
            ["way", "value", "error", "half-width", "held", "half-width / error", "s", "peak, MB", "rows"],
            [_cells(row) for row in group],
        )
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    width, error = row["half_width"], row["error"]
    ratio = "" if width is None or not error else f"{width / error:.3g}"
    return [
        _label(row), "-" if row["value"] is None else f"{row['value']:.6g}", "-" if error is None else f"{error:.1e}",
        "" if width is None else f"{width:.1e}", {None: "", True: "yes", False: "NO"}[row["held"]], ratio,
        f"{row['elapsed_s']:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['rows']:,}",
    ]  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw error against time and half-width against error."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    figure = Figure(figsize=(21, 6), layout="constrained")
    times, widths, ranks = figure.subplots(1, 3)
    rows = [row for row in _approximate(result["rows"]) if row["error"]]
    for place, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        mine = [row for row in rows if row["method"] == name]
        told = [row for row in mine if row["half_width"]]
        look: dict[str, Any] = {"marker": "o", "linestyle": "", "color": f"C{place}", "label": name, "alpha": 0.6}
        times.loglog([row["elapsed_s"] for row in mine], [row["error"] for row in mine], **look)
        if told:
            widths.loglog([row["error"] for row in told], [row["half_width"] for row in told], **look)
    ends = [_LEAST_SHOWN, 1.0]
    widths.loglog(ends, ends, "k--", label="half-width = error")
    times.set(xlabel="seconds", ylabel="relative error", title="error against time", ylim=(_LEAST_SHOWN, None))
    widths.set(xlabel="relative error", ylabel="relative half-width", title="what is stated against what is so")
    widths.set_xlim(_LEAST_SHOWN, None)
    for place, spectrum in enumerate(dict.fromkeys(row["spectrum"] for row in rows)):
        for name, style in (("rsvd", ":"), ("rsvd, 3 passes", "-")):
            mine = [row for row in result["rows"] if (row["spectrum"], row["method"]) == (spectrum, name)]
            mine = [row for row in mine if row["features"] == mine[0]["features"]]
            parts, label = [row["size"] / row["features"] for row in mine], f"{spectrum}, {name}"
            ranks.loglog(parts, [row["half_width"] for row in mine], style, color=f"C{place}", marker="o", label=label)
    ranks.axhline(_BOUNDS[0], color="k", linestyle="--")
    ranks.set(xlabel="rank / D", ylabel="relative half-width", title="rank needed for a stated 1 %")
    times.legend(fontsize="small", loc="lower left")
    widths.legend(fontsize="small", loc="lower right")
    ranks.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=100)


def main() -> int:
    """Measure, print the tables, write and draw them where asked; 1 if an interval of a sketch or a pass failed."""
    if sys.argv[1:2] == ["--one"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--one", nargs=2)
        uri, place = parser.parse_args().one
        n_features = zarr.open_array(uri, mode="r").shape[1]
        os.environ["PYTHONWARNINGS"] = "ignore"
        print(json.dumps(methods(n_features)[int(place)].solve(uri)))
        return 0
    minutes: dict[Size, str] = {"quick": "30 s", "default": "10 minutes", "full": "1 hour"}
    experiment = Experiment("accuracy", __doc__, minutes)
    experiment.start()
    sizes: dict[str, tuple[Sequence[int], Sequence[str]]] = {
        "quick": ((64,), ("k^-1",)), "default": ((256, 4096), tuple(SPECTRA)),
        "full": ((256, 1024, 4096, 16_384), tuple(SPECTRA)),
    }  # fmt: skip
    result = experiment.finish(
        measured(experiment, *sizes[experiment.size], has_real=experiment.size != "quick"), markdown
    )
    if experiment.out:
        plot(result, experiment.out / "accuracy.png")
    return int(any(row["held"] is False for row in result["rows"] if row["method"] not in _LIKELY))
