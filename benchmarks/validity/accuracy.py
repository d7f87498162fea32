"""How large are error, interval, time and memory of each way to compute or approximate RankMe?

``python -m benchmarks accuracy`` stores rows of eight known spectra with 256 features (``--full``: also 1,024), the
bundled dump of real embeddings, and wider rows whose singular values are known without an SVD (4,096 features;
``--full``: also 16,384). It scores them exactly, by sketches of one and several passes, by samples of several sizes, by
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
from benchmarks.harness.experiment import Experiment, Size
from benchmarks.validity import accuracy_page, wide
from benchmarks.validity.accuracy_page import ALL_TO, LIKELY, ROWS, WIDE_FROM
from rankme_stream.errors import LimitError, UsageError
from rankme_stream.numerics import machine
from rankme_stream.spectra import metrics
from rankme_stream.testing import matrix_with_spectrum

_CHUNK_ROWS, _WIDE_CHUNK_ROWS = 1024, 256
_SLACK = 1e-9  # relative error allowed to the true value, which is from an SVD in float64

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
_MANY_RANKS_FROM = 128  # features; below, as in the tests, one rank shows that every method runs
_EXACT_TO = 1024  # most features for which QR and float32 are tried


@dataclass(frozen=True)
class Method:
    """One way to RankMe: its name, its rank or number of rows, and the function that runs it."""

    name: str
    size: int | None
    solve: Callable[[str], dict[str, Any]]


def _ours(uri: str, **options: Any) -> dict[str, Any]:
    memory = machine.memory_bytes() * 3 // 4
    try:
        measurement = rs.measure(uri, tolerance=1e-12, memory_limit=memory, **options)
    except (UsageError, LimitError) as error:  # too few rows for a sample, or too little memory
        return {"value": None, "reason": str(error), "elapsed_s": 0.0, "rows": 0}
    rankme = measurement.rankme
    return {
        "value": rankme.value, "lower": rankme.lower, "upper": rankme.upper, "reason": rankme.reason,
        "elapsed_s": measurement.measured["elapsed_s"], "rows": measurement.rows_read,
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
    """Return every way, at the ranks and sizes that suit the number of features."""
    ways = [Method("gram float64", None, partial(_ours, method="gram"))]
    if n_features <= _EXACT_TO:
        ways += [
            Method("gram float32", None, partial(_ours, method="gram", precision="float32")),
            Method("tsqr", None, partial(_ours, method="tsqr")),
        ]
    parts = (64, 16) if n_features >= WIDE_FROM else (16, 8, 4) if n_features >= _MANY_RANKS_FROM else (4,)
    is_all = n_features <= ALL_TO
    for rank in (n_features // part for part in parts):
        ways += [
            Method("rsvd", rank, partial(_ours, method="rsvd", rank=rank)),
            *(
                Method(f"rsvd, {passes} passes", rank, partial(_ours, method="rsvd", rank=rank, passes=passes))
                for passes in ((2, 3) if is_all else (3,))
            ),
            Method("frequent directions", rank, partial(_ours, method="frequent-directions", rank=rank)),
            *[Method("truncated SVD", rank, partial(_truncated, rank=rank))] * (n_features < WIDE_FROM),
        ]
        if is_all or rank == n_features // parts[0]:
            ways += [
                Method("scikit-learn randomized_svd", rank, partial(_sklearn, rank=rank)),
                Method("dask svd_compressed", rank, partial(_dask, rank=rank)),
            ]
    if n_features < WIDE_FROM:
        ways.append(Method("row sketch", 8 * n_features, partial(_ours, method="row-sketch")))
        for n_rows in (times * n_features for times in (13, 19)):
            ways.append(Method("sample", n_rows, partial(_ours, sample=True, max_rows=n_rows)))
    return ways


@contextmanager
def stored(spectrum: str, n_features: int) -> Iterator[tuple[str, float]]:
    """Store rows of a spectrum in a temporary folder; yield their path and the RankMe of the stored values."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.zarr")
        if n_features >= WIDE_FROM:
            rows = wide.Walsh(spectrum, n_features)
            stored_rows = zarr.create_array(
                path, shape=rows.shape, dtype=np.float64, chunks=(_WIDE_CHUNK_ROWS, n_features)
            )
            for start in range(0, rows.shape[0], _WIDE_CHUNK_ROWS):
                stored_rows[start : start + _WIDE_CHUNK_ROWS] = rows.read(start, start + _WIDE_CHUNK_ROWS)
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
    rows = matrix_with_spectrum(planted, n_rows=ROWS * n_features, n_features=n_features).astype(np.float32)
    rows *= np.float32(np.sqrt(rows.size) / np.linalg.norm(rows))
    return rows


def scored(spectrum: str, n_features: int) -> list[dict[str, Any]]:
    """Score the rows of a spectrum in every way, each in a process of its own."""
    rows = []
    with stored(spectrum, n_features) as (uri, true):
        for number, method in enumerate(methods(n_features)):
            if method.size is None and n_features > ALL_TO and spectrum != next(iter(wide.SPECTRA)):
                continue
            process = processes.run([sys.executable, "-m", "benchmarks", "accuracy", "--one", uri, str(number)])
            printed: dict[str, Any] = json.loads(process.output)
            rows.append(
                {"spectrum": spectrum, "features": n_features, "method": method.name, "size": method.size, "true": true}
                | printed
                | {"peak_bytes": process.peak_bytes}
                | _judged(printed, true)
            )
    return rows


def _judged(printed: dict[str, Any], true: float) -> dict[str, Any]:
    """Return the relative error and half-width, and whether the interval held."""
    value, lower, upper = (printed.get(key) for key in ("value", "lower", "upper"))
    error = None if value is None else abs(value - true) / true
    if lower is None or upper is None or value is None:
        return {"error": error, "half_width": None, "held": None}
    held = lower * (1.0 - _SLACK) <= true <= upper * (1.0 + _SLACK)
    return {"error": error, "half_width": max(upper - value, value - lower) / true, "held": held}


def measured(
    experiment: Experiment, widths: Sequence[int], spectra: Sequence[str], *, has_real: bool
) -> dict[str, Any]:
    """Run every part of the benchmark."""
    cases = [
        (name, n_features) for n_features in widths for name in (wide.SPECTRA if n_features >= WIDE_FROM else spectra)
    ]
    cases += [(REAL, 384)] * has_real
    rows = [
        row for name, n_features in cases for row in experiment.part(f"{name}, {n_features}", scored, name, n_features)
    ]
    return {"rows": rows}


def main() -> int:
    """Run, print and write the page, and draw the plot; return 1 if an interval of a sketch or a pass failed."""
    if sys.argv[1:2] == ["--one"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--one", nargs=2)
        uri, number = parser.parse_args().one
        n_features = zarr.open_array(uri, mode="r").shape[1]
        os.environ["PYTHONWARNINGS"] = "ignore"
        print(json.dumps(methods(n_features)[int(number)].solve(uri)))
        return 0
    minutes: dict[Size, str] = {"quick": "15 s", "default": "10 minutes", "full": "1 hour"}
    experiment = Experiment("accuracy", __doc__, minutes)
    experiment.start()
    sizes: dict[str, tuple[Sequence[int], Sequence[str]]] = {
        "quick": ((64,), ("k^-1",)), "default": ((256, 4096), tuple(SPECTRA)),
        "full": ((256, 1024, 4096, 16_384), tuple(SPECTRA)),
    }  # fmt: skip
    result = experiment.finish(
        measured(experiment, *sizes[experiment.size], has_real=experiment.size != "quick"), accuracy_page.markdown
    )
    if experiment.out:
        accuracy_page.plot(result, experiment.out / "accuracy.png")
    return int(any(row["held"] is False for row in result["rows"] if row["method"] not in LIKELY))
