"""Forms that stored numbers take: those of a narrower type, whole numbers, or a few on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

FEW = 256  # distinct values
_LEAST_VALUES = 4096  # for a statement about distinct ones
_AT_ONCE = 2**18
_NARROWER = {"float32": ("bfloat16", "float16"), "float64": ("bfloat16", "float16", "float32")}
_LEAST_BITS = 256  # integers, for a statement about their bits
_LEAST_ON_GRID = 16  # distinct values of a row that show a grid
_MAGNITUDES = {"bfloat16": (2.0**-20, 2.0**10), "float16": (2.0**-14, 2.0**6)}  # of nearly all numbers of embeddings
_NEARLY_ALL, _BOTH_SIGNS = 0.98, 0.1  # shares
_OFF_GRID = 0.1  # of a step: numbers that a scale in float16 rounded


class NumberForms:
    """Forms that the numbers of some blocks share.

    Parameters
    ----------
    stored
        Type of the numbers.
    """

    def __init__(self, stored: StoredType) -> None:
        is_plain = stored.is_float and stored.dtype.kind == "f" and stored.decoding is None and not stored.note
        self._narrower = list(_NARROWER.get(stored.name, ())) if is_plain else []
        self._is_whole, self._distinct = is_plain, np.empty(0) if is_plain else None
        self.n_values = 0

    def add(self, rows: Array) -> None:
        """Take in rows as they are stored; those that are not finite are left out."""
        flat = rows.reshape(-1)
        for low in range(0, len(flat), _AT_ONCE):
            if not (self._narrower or self._is_whole or self._distinct is not None):
                return
            numbers = flat[low : low + _AT_ONCE]
            numbers = numbers[np.isfinite(numbers)]
            self.n_values += len(numbers)
            self._narrower = [name for name in self._narrower if _fits(numbers, name)]
            self._is_whole = self._is_whole and bool((np.rint(numbers) == numbers).all())
            for few in (numbers[:_LEAST_VALUES], numbers):  # the first nearly always show that there are many
                if self._distinct is not None:
                    found = np.union1d(self._distinct, few)
                    self._distinct = found if len(found) <= FEW else None

    @property
    def narrower(self) -> str | None:
        """Narrower type of floats that holds every number; None where none does, or where few numbers were seen."""
        return self._narrower[0] if self._narrower and self.n_values >= _LEAST_VALUES else None

    @property
    def is_whole(self) -> bool:
        """Whether every number is a whole one, in a type of floats."""
        return self._is_whole and self.n_values >= _LEAST_VALUES

    @property
    def distinct(self) -> int | None:
        """Number of distinct values, if they are few; None otherwise."""
        return None if self._distinct is None or self.n_values < _LEAST_VALUES else len(self._distinct)


def _fits(numbers: Array, name: str) -> bool:
    """Return whether a narrower type of floats holds every number."""
    with np.errstate(over="ignore"):
        if name == "bfloat16":
            single = numbers.astype(np.float32)
            return bool((single == numbers).all() and not (single.view(np.uint32) & 0xFFFF).any())
        return bool((numbers.astype(name) == numbers).all())


def grid_of_rows(rows: FloatArray) -> dict[str, Any] | None:
    """Return the most levels of rows that each lie on an even grid of at most 256 levels of its own; None otherwise.

    Parameters
    ----------
    rows
        A few rows, shape ``(k, D)``; finite.
    """
    levels = 0
    for row in rows:
        distinct = np.unique(row)
        if not _LEAST_ON_GRID <= len(distinct) <= FEW:
            return None
        gaps = np.diff(distinct)
        step = float(gaps[gaps < 1.5 * gaps.min()].mean())
        places = np.cumsum(np.rint(gaps / step))
        n_levels = places[-1] + 1
        off = (distinct[1:] - distinct[0]) / ((distinct[-1] - distinct[0]) / places[-1]) - places
        if n_levels > FEW or np.abs(off).max() > _OFF_GRID:
            return None
        levels = max(levels, int(n_levels))
    return {"rows": len(rows), "levels": levels} if len(rows) else None


def floats_in_integers(rows: FloatArray, stored: StoredType) -> str | None:
    """Return the type of 16-bit floats whose bits stored integers look like; None if they do not.

    Parameters
    ----------
    rows
        A few rows, shape ``(k, D)``: the integers.
    """
    if stored.name not in ("uint16", "int16") or stored.decoding is not None or rows.size < _LEAST_BITS:
        return None
    bits = rows.astype(np.int64).astype(np.uint16)
    readings: dict[str, Array] = {
        "bfloat16": (bits.astype(np.uint32) << 16).view(np.float32),
        "float16": bits.view(np.float16),
    }
    for name, numbers in readings.items():
        low, high = _MAGNITUDES[name]
        magnitudes = np.abs(numbers)
        usual = np.mean((numbers == 0.0) | ((magnitudes >= low) & (magnitudes <= high)))
        if usual >= _NEARLY_ALL and min(np.mean(numbers > 0.0), np.mean(numbers < 0.0)) >= _BOTH_SIGNS:
            return name
    return None
