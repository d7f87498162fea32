"""Lengths, cosines, features and repetitions of rows, gathered block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.sources import Source
from rankme_stream.sources.row_values import values_of

VALUES_AT_ONCE = 2**18  # decoded at once
_MOST_HASHED = 2**17  # rows whose hashes are kept
_MOST_KEPT = 2**20  # values
_KEPT_OF_BLOCK = 16  # rows, evenly apart
_LEAST_RUN = 4  # of these rows, for a feature that counts


@dataclass
class Faulty:
    """Rows with a fault: their number and the first of them, -1 without one."""

    n_rows: int = 0
    first: int = -1

    def add(self, rows: Array) -> None:
        """Count rows, given by their numbers, ascending in a block; blocks come in any order."""
        if len(rows):
            self.n_rows += len(rows)
            self.first = int(rows[0]) if self.first < 0 else min(self.first, int(rows[0]))


class RowStatistics:
    """Statistics of the rows of some blocks.

    Parameters
    ----------
    source
        Source of the rows, whose type decodes them.

    Attributes
    ----------
    n_rows
        Rows that were looked at, those without fault and the others.
    nonfinite, zero, constant, missing
        Rows that are not finite or no data; zero throughout; one other number throughout; never written.
    repeated, pair
        Rows equal to one before, and the first two that are equal; of ``n_compared`` rows.
    largest
        Largest magnitude.
    kept
        A few rows of each block, decoded, shape ``(k, D)``.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.n_rows = 0
        self.nonfinite, self.zero, self.constant, self.missing = Faulty(), Faulty(), Faulty(), Faulty()
        self.repeated, self.n_compared, self.pair = 0, 0, (-1, -1)
        self.largest = 0.0
        self._seen: dict[int, int] = {}
        self._lengths: list[FloatArray] = []
        self._lowest, self._highest, self._sum = np.array([np.inf]), np.array([-np.inf]), np.zeros(1)  # of no row yet
        self._neighbours: list[FloatArray] = []
        self._kept: list[FloatArray] = []

    @staticmethod
    def working_bytes(n_features: int) -> int:
        """Return the bytes that the statistics take of rows of that width."""
        return 8 * (4 * max(VALUES_AT_ONCE, n_features) + 6 * n_features + 2 * max(_MOST_KEPT, n_features)) + 2**26

    def add(self, start: int, stored: Array) -> None:
        """Take in the rows of a block, shape ``(n, D)`` as stored, that begins with row ``start``.

        Raises
        ------
        MagnitudeError
            If they hold integers that float64 does not.
        """
        is_missing = np.zeros(len(stored), bool)
        for low, high in self._source.missing(start, start + len(stored)):
            is_missing[low - start : high - start] = True
        step, before = max(1, VALUES_AT_ONCE // stored.shape[1]), None
        for low in range(0, len(stored), step):
            piece = stored[low : low + step]
            values = values_of(self._source, piece, start + low)
            rows = np.arange(start + low, start + low + len(piece))
            is_there = self._sort_out(values, rows, is_missing[low : low + step])
            self._compare(piece[is_there], rows[is_there])
            before = self._add_directions(values, is_there, before)
        some = slice(None, None, -(-len(stored) // _KEPT_OF_BLOCK))
        self._keep(values_of(self._source, stored[some], start), ~is_missing[some])
        self.n_rows += len(stored)

    def _sort_out(self, values: FloatArray, rows: Array, is_missing: Array) -> Array:
        """Count rows with faults; return which rows have a direction: those that are neither missing, bad nor zero."""
        is_finite = np.isfinite(values).all(axis=1)
        is_zero = ~values.any(axis=1)
        is_there = is_finite & ~is_missing
        self.missing.add(rows[is_missing])
        self.nonfinite.add(rows[~is_finite & ~is_missing])
        self.zero.add(rows[is_zero & is_there])
        if values.shape[1] > 1:
            self.constant.add(rows[(values == values[:, :1]).all(axis=1) & ~is_zero & is_there])
        if is_there.any():
            present = values if is_there.all() else values[is_there]
            self._lowest = np.minimum(self._lowest, present.min(axis=0))
            self._highest = np.maximum(self._highest, present.max(axis=0))
            self.largest = max(self.largest, float(-self._lowest.min()), float(self._highest.max()))
        return np.asarray(is_there & ~is_zero)

    def _compare(self, stored: Array, rows: Array) -> None:
        """Look for rows that were seen before."""
        room = max(0, _MOST_HASHED - self.n_compared)
        for row, number in zip(stored[:room], rows[:room].tolist(), strict=True):
            first = self._seen.setdefault(hash(row.tobytes()), number)
            if first != number:
                self.repeated += 1
                self.pair = self.pair if self.pair[0] >= 0 else (min(first, number), max(first, number))
        self.n_compared += min(room, len(stored))

    def _add_directions(self, values: FloatArray, is_there: Array, before: FloatArray | None) -> FloatArray | None:
        """Add lengths, directions and cosines of neighbours; return the direction of the last row, if it has one."""
        unit, lengths = _directions(values)
        self._lengths.append(lengths[is_there])
        unit[~is_there] = 0.0
        self._sum = self._sum + unit.sum(axis=0)
        is_pair = is_there[:-1] & is_there[1:]
        self._neighbours.append(np.einsum("ij,ij->i", unit[:-1], unit[1:])[is_pair])
        if before is not None and is_there[0]:
            self._neighbours.append(np.atleast_1d(before @ unit[0]))
        return unit[-1].copy() if is_there[-1] else None

    def _keep(self, values: FloatArray, is_there: Array) -> None:
        n_held = sum(len(one) for one in self._kept) * values.shape[1]
        usable = values[is_there & np.isfinite(values).all(axis=1) & values.any(axis=1)]
        self._kept.append(usable[: max(0 if n_held else 1, (_MOST_KEPT - n_held) // values.shape[1])])

    @property
    def kept(self) -> FloatArray:
        """A few rows of each block that are finite and not zero."""
        return np.concatenate([np.empty((0, self._source.shape[1])), *self._kept])

    def lengths(self) -> dict[str, float] | None:
        """Return least, quartiles and largest of the lengths of the rows that are finite and not zero."""
        found = np.concatenate([np.empty(0), *self._lengths])
        if not len(found):
            return None
        names = ("min", "q1", "median", "q3", "max")
        return dict(zip(names, np.quantile(found, (0, 0.25, 0.5, 0.75, 1.0)).tolist(), strict=True))

    def cosines(self) -> dict[str, Any] | None:
        """Return the mean cosine of all pairs of these rows, and of neighbours; None for fewer than two rows.

        ``spread`` is the standard deviation of the cosines of pairs of a few of them.
        """
        n = sum(len(one) for one in self._lengths)
        if n < 2:
            return None
        neighbours = np.concatenate(self._neighbours)
        units, _ = _directions(self.kept)
        pairs = (units @ units.T)[np.triu_indices(len(units), 1)]
        return {
            "rows": n,
            "mean": float((self._sum @ self._sum - n) / (n * (n - 1.0))),
            "spread": float(pairs.std()) if len(pairs) else 0.0,
            "neighbours": {
                "pairs": len(neighbours),
                "mean": float(neighbours.mean()) if len(neighbours) else None,
            },
        }

    def counting_features(self) -> list[int]:
        """Return the features that grow by one number from row to row, as row numbers and identifiers do."""
        runs = [np.diff(rows, axis=0) for rows in self._kept if len(rows) > _LEAST_RUN]
        if not runs:
            return []
        counts = [(steps == steps[0]).all(axis=0) & (steps[0] != 0.0) for steps in runs]
        found: list[int] = np.flatnonzero(np.logical_and.reduce(counts)).tolist()
        return found

    def constant_features(self) -> Iterator[tuple[int, float]]:
        """Yield number and value of the features that are the same in every row."""
        if self.n_rows - self.nonfinite.n_rows - self.missing.n_rows > 1:
            for feature in np.flatnonzero(self._lowest == self._highest).tolist():
                yield feature, float(self._lowest[feature])


def _directions(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows scaled to unit length, and their lengths; NaN where a row is zero or not finite."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
        unit = values / largest  # whose squares neither overflow nor vanish
        lengths = np.sqrt(np.einsum("ij,ij->i", unit, unit))
        unit /= lengths[:, None]
        return unit, lengths * largest[:, 0]
