"""A model of products of 16-bit numbers on tensor cores, which cut off where float32 would round.

The products of a group of rows and the sum so far are aligned to the largest exponent among them, cut off below some
bits, and added exactly; the sum is cut off to float32. So sums of positive numbers are always too small: with this
length of a group and these bits by 4e-6 of themselves over panels of 1,024 rows of float16, and by half of it for
bfloat16. No card need be off by as much; longer panels make the model worse than cards are thought to be.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rankme_stream.numerics.dtypes import Array

GROUP_ROWS = 16  # products that are added at once
BITS = 26  # below the leading bit of the largest number of a group
_FLOAT32_BITS = 24


def tensor_core_product(panel16: Any, k_group: int = GROUP_ROWS, bits: int = BITS) -> Array:
    """Return ``panel16.T @ panel16`` as tensor cores would sum it, float32.

    Parameters
    ----------
    panel16
        Rows of float16, or of bfloat16 in an array of any wider type, shape ``(rows, n)``.
    k_group
        Rows whose products are aligned to each other and added at once.
    bits
        Bits that are kept of the largest number of a group, beside its leading one.

    Notes
    -----
    Some 10 ``rows n^2`` operations of numpy, and ``8 (k_group + 1) n^2`` bytes a few times.
    """
    panel = np.asarray(panel16, np.float64)
    width = panel.shape[1]
    total = np.zeros((width, width))
    for start in range(0, len(panel), k_group):
        rows = panel[start : start + k_group]
        addends = np.concatenate([rows[:, :, None] * rows[:, None, :], total[None]])
        _, exponent = np.frexp(np.abs(addends).max(axis=0))
        total = _cut_off(_cut_off(addends, exponent - 1 - bits).sum(axis=0))
    return total.astype(np.float32)


def _cut_off(values: Array, last_bit: Any = None) -> Array:
    """Return values without the bits below one, 2**last_bit; without it, below those that float32 has."""
    if last_bit is None:
        last_bit = np.frexp(values)[1] - _FLOAT32_BITS
    return np.ldexp(np.trunc(np.ldexp(values, -last_bit)), last_bit)
