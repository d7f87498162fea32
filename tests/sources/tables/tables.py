"""Columns of Arrow for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def lists(rows: np.ndarray, kind: str = "list") -> Any:
    """Return rows as a column of lists: ``list``, ``large`` or ``fixed``."""
    values = pa.array(rows.reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    maker, offsets = (pa.LargeListArray, np.int64) if kind == "large" else (pa.ListArray, np.int32)
    return maker.from_arrays(pa.array(np.arange(len(rows) + 1, dtype=offsets) * offsets(rows.shape[1])), values)


def some_rows(dtype: str = "f4", shape: tuple[int, int] = (103, 12)) -> np.ndarray:
    """Return rows that differ."""
    drawn = np.random.default_rng(3).standard_normal(shape)
    return (drawn * 40).astype(dtype) if np.dtype(dtype).kind == "i" else np.abs(drawn * 40).astype(dtype)
