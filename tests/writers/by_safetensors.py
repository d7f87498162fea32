"""Files that safetensors writes, in every number type that is read, beside scalars and other tensors."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import rankme_stream as rs

TYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2, "int64": np.int64, "int8": np.int8,
    "uint8": np.uint8, "uint16": np.uint16,
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_tensors_are_read_to_the_same_bits(tmp_path: Path, name: str) -> None:
    rows = np.abs(np.random.default_rng(0).standard_normal((203, 7)) * 20).astype(TYPES[name])
    others = {
        "scalar": np.array(1.0, np.float32),
        "flags": np.ones((3, 2), bool),
        "none": np.empty((0, 4), np.float32),
    }
    save_file({**others, "emb": rows}, tmp_path / "dump.safetensors", {"format": "np"})
    source = rs.open_source(f"{tmp_path}/dump.safetensors::emb")
    assert source.stored.name == name
    assert source.read(0, 203).tobytes() == rows.tobytes()
