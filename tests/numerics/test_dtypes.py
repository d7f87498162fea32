"""Stored numbers reach float64 exactly, every one of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from rankme_stream.numerics import dtypes
from rankme_stream.numerics.dtypes import stored_type


@pytest.mark.parametrize("has_subnormals", [True, False])
def test_every_finite_float16_is_cast_exactly(monkeypatch, has_subnormals):
    if not has_subnormals:  # what a thread that flushes them to zero would answer
        monkeypatch.setattr(dtypes, "_keeps_subnormals", lambda: False)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 2)
    panel = np.full((len(finite), 3), 7.0)
    stored_type(finite.dtype, uri="test").widen(finite, panel[:, 1:], np.empty(finite.shape, np.int32))
    wanted = finite.astype(np.float64)
    assert panel[:, 1:].tobytes() == wanted.tobytes()  # signs of zeros too
    assert np.all(panel[:, 0] == 7.0)


def test_every_finite_bfloat16_is_cast_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        values = bits.view(ml_dtypes.bfloat16).astype(np.float64)
    finite = np.isfinite(values)
    out = np.empty((1, int(finite.sum())))
    scratch = np.empty(out.shape, np.int32)
    stored_type(np.dtype(ml_dtypes.bfloat16), uri="test").widen(bits[finite][None, :], out, scratch)
    assert out[0].tobytes() == values[finite].tobytes()


def test_this_thread_keeps_subnormal_numbers():
    assert dtypes._keeps_subnormals()
