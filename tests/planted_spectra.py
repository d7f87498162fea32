"""Spectra of many shapes, to plant in a matrix."""

from __future__ import annotations

import numpy as np


def spectra(m: int) -> dict[str, np.ndarray]:
    k = np.arange(1.0, m + 1)
    return {
        "flat": np.ones(m), "k^-1/4": k**-0.25, "k^-1/2": k**-0.5, "k^-1": 1 / k, "k^-2": k**-2.0,
        "exponential": np.exp(-k / 5), "step": np.where(k <= m // 4, 1.0, 1e-3), "spiked": np.where(k == 1, 50.0, 1.0),
        "collapsed": np.where(k <= 3, 1.0, 1e-9), "rank 3": np.where(k <= 3, 1.0, 0.0),
    }  # fmt: skip
