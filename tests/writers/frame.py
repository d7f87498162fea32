"""What every writer's store is held to: the bits of the array in memory, and the number of a dense decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np

import rankme_stream as rs

N_ROWS, N_FEATURES, CHUNK = 600, 24, 100


def rows_of(dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Return rows with a decaying spectrum; integers fill the range of an int8."""
    scales = np.linspace(1.0, 0.05, N_FEATURES)
    rows = np.random.default_rng(seed).standard_normal((N_ROWS, N_FEATURES)) * scales
    return (rows * 30).clip(-127, 127).astype(dtype) if np.dtype(dtype).kind in "iu" else rows.astype(dtype)


def dense_rankme(rows: np.ndarray) -> float:
    """Return RankMe of a dense float64 decomposition."""
    values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def check(source: Any, rows: np.ndarray, **options: Any) -> rs.Measurement:
    """Hold a source to the bits of some rows, and its measurement to their RankMe."""
    opened = rs.open_source(source, **options)
    assert opened.shape == rows.shape
    found = opened.read(0, len(rows))
    assert found.dtype.itemsize == rows.dtype.itemsize
    assert found.tobytes() == np.ascontiguousarray(rows).tobytes()
    measured = rs.measure(opened)
    rankme, wanted = measured.rankme, dense_rankme(rows)
    assert rankme.lower - 1e-9 * wanted <= wanted <= rankme.upper + 1e-9 * wanted
    assert measured.rows_read == len(rows)
    return measured


def check_values(source: Any, values: np.ndarray, **options: Any) -> rs.Measurement:
    """Hold the RankMe of a source to that of values; rows with NaN are left out."""
    measured = rs.measure(rs.open_source(source, **options), nonfinite="skip")
    kept = values[np.isfinite(values).all(axis=1)]
    wanted = dense_rankme(kept)
    assert measured.rows_read == len(kept)
    assert abs(measured.rankme.value - wanted) <= 1e-9 * wanted
    return measured
