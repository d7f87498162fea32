"""Dumps of rows, the passes over them that keep different states, and whether two results have the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

import rankme_stream as rs

PASSES = {
    "gram": {"method": "gram"},
    "gram float32": {"method": "gram", "precision": "float32"},
    "tsqr": {"method": "tsqr"},
    "unit rows": {"normalize": True},
}


def rows_like(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    scales = np.linspace(1.0, 0.05, n_features)
    return (np.random.default_rng(seed).standard_normal((n_rows, n_features)) * scales).astype(np.float32)


def store(path: Path, rows: np.ndarray, chunk: int = 3000, **layout: object) -> Path:
    array = zarr.create_array(path, shape=rows.shape, chunks=(chunk, rows.shape[1]), dtype=rows.dtype, **layout)
    array[:] = rows
    return path


def same_bits(found: rs.Measurement, wanted: rs.Measurement) -> bool:
    numbers = [
        {
            name: value
            for name, value in one.to_dict().items()
            if name in ("estimates", "normalized", "spectrum", "audit")
        }
        for one in (found, wanted)
    ]
    for one in numbers:
        one["audit"] = {name: value for name, value in one["audit"].items() if name != "integrity"}  # of the storage
    return numbers[0] == numbers[1]
