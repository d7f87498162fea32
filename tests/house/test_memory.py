"""The plan's memory prediction holds: the measured peak of a whole process stays under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr


def dump(path: Path, n_features: int, chunk_rows: int) -> Path:
    """Rows of one repeated pattern, so that writing takes no time; edge chunks decode whole all the same.

    There are several segments, so that each worker holds what it ever holds, and two chunks where these are huge.
    """
    n_rows = max(30_000, chunk_rows + 5_000)
    array = zarr.create_array(path, shape=(n_rows, n_features), dtype="f2", chunks=(chunk_rows, n_features))
    pattern = np.random.default_rng(0).standard_normal((1000, n_features)).astype(np.float16)
    for start in range(0, n_rows, 5_000):
        array[start : start + 5_000] = np.tile(pattern, (5, 1))
    return path


def check(path: Path, *options: object) -> None:
    command = [sys.executable, "-m", "rankme_stream", "score", str(path), *map(str, options), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 4), done.stderr  # 4: the interval is too wide
    result = json.loads(done.stdout)
    predicted, measured = result["plan"]["predicted_peak_bytes"], result["measured"]["peak_bytes"]
    print(f"{options}: {measured / 2**20:.0f} of {predicted / 2**20:.0f} MiB")
    assert measured <= predicted


@pytest.mark.parametrize("n_features", [64, 2048])
@pytest.mark.parametrize("chunk_rows", [100, 30_000])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_measured_peak_stays_under_the_prediction(n_features, chunk_rows, workers, tmp_path):
    check(dump(tmp_path / "d.zarr", n_features, chunk_rows), "--workers", workers)


@pytest.mark.parametrize(
    "options",
    [
        ["--normalize", "--dims", "512,768"],
        ["--normalize", "--precision", "float32", "--tolerance", 1],
        ["--method", "tsqr", "--normalize"],
        ["--method", "rsvd", "--rank", 200, "--tolerance", 9],
        ["--method", "rsvd", "--rank", 370, "--normalize", "--tolerance", 9, "--workers", 1],
        ["--method", "frequent-directions", "--rank", 200, "--tolerance", 9],
    ],
)
def test_the_measured_peak_stays_under_the_prediction_with_every_option(options, tmp_path):
    check(dump(tmp_path / "d.zarr", 768, 5000), *options)


def test_the_measured_peak_of_fewer_rows_than_features_stays_under_the_prediction(tmp_path):
    rows = np.random.default_rng(0).standard_normal((500, 16_000)).astype(np.float16)
    np.save(tmp_path / "few.npy", rows)
    kept = ["--checkpoint", tmp_path / "kept", "--tolerance", 1e-15]  # QR of the rows does not meet it either
    check(tmp_path / "few.npy", "--normalize", "--dims", "100,6000", *kept)


def test_the_measured_peak_of_a_row_sketch_stays_under_the_prediction(tmp_path):
    path = dump(tmp_path / "d.zarr", 200, 5000)
    check(path, "--method", "row-sketch", "--normalize", "--tolerance", 9, "--checkpoint", tmp_path / "kept")


@pytest.mark.parametrize(("n_features", "method"), [(2048, "gram"), (768, "tsqr")])
def test_the_measured_peak_stays_under_the_prediction_with_a_checkpoint(n_features, method, tmp_path):
    path = dump(tmp_path / "d.zarr", n_features, 1000)
    for _ in range(2):  # the second time all of it is held
        check(path, "--method", method, "--checkpoint", tmp_path / "kept")


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "rsvd", "--passes", 3, "--normalize", "--tolerance", 1e-9, "--workers", 2, "--memory", "320MiB"],
        ["--population", "--normalize", "--workers", 1],
        ["--population", "--method", "gram", "--workers", 2],
    ],
)
def test_the_measured_peak_of_several_steps_stays_under_the_prediction(options, tmp_path):
    shape = (3000, 3000) if "rsvd" in options else (8000, 1537)
    np.save(tmp_path / "d.npy", np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    check(tmp_path / "d.npy", *options)


def test_the_measured_peak_of_few_rows_a_feature_stays_under_the_prediction(tmp_path):
    np.save(tmp_path / "d.npy", np.random.default_rng(0).standard_normal((2000, 700), dtype=np.float32))
    check(tmp_path / "d.npy", "--population", "--normalize")


@pytest.mark.parametrize(("n_features", "method"), [(200, "gram"), (768, "gram"), (300, "tsqr")])
def test_the_measured_peak_of_a_sample_stays_under_the_prediction(n_features, method, tmp_path):
    rows = np.random.default_rng(0).standard_normal((24_000, n_features), dtype=np.float32)
    zarr.create_array(tmp_path / "d.zarr", data=rows.astype(np.float16), chunks=(5000, n_features))
    check(
        tmp_path / "d.zarr",
        "--sample",
        "--tolerance",
        5e-3,
        "--normalize",
        "--dims",
        n_features // 2,
        "--method",
        method,
    )
