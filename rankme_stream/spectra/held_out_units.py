"""Contour of a population without a model of its rows: each unit is held against the Gram of all other rows.

The contour needs tr(M Q(z)) (see `contour`): the mean of z' Q z over rows z that are not in Q. Each row of a sample is
one, if its unit, whose rows may depend on it, is left out of Q, and with it the copies of the row in other units. With
A = Z_U V, V the eigenvectors of the Gram, and H(z) = A diag(1/(l - z)) A'/n, the forms are (1 - H)^-1 H: one
eigendecomposition serves all units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.spectra.contour import (
    RANK_TOLERANCE,
    ComplexArray,
    Contour,
    NoEstimateError,
    Path,
    contour_of,
    converged,
    path_around,
    smallest_zero,
)

IntArray = npt.NDArray[np.int64]

LEAST_ROWS = 1.25  # rows per eigenvalue; with fewer, the small eigenvalues of the population are not identified
MOST_COPIES = 64  # rows that are left out beside those of a unit; more cost too much
_ALMOST_ONE = 1.0 - 1e-9  # an eigenvalue of H(0) above: the rows without the unit span a direction less
_SLAB = 2**20  # numbers held at a time


@dataclass(frozen=True)
class Unit:
    """Rows of a unit, and the copies of them in other units, as positions among the rows kept."""

    own: IntArray
    copies: IntArray


@dataclass(frozen=True)
class RotatedRows:
    """Rows in the eigenvectors of their Gram.

    Attributes
    ----------
    values
        Shape ``(m,)``: eigenvalues of the Gram that are not zero, ascending, over the largest.
    rows
        Shape ``(r, m)``: the rows kept of the n; if all were, ``rows.T @ rows`` would be the diagonal of ``values``.
    n_rows
        n, the rows in the Gram.
    """

    values: FloatArray
    rows: FloatArray
    n_rows: int

    @classmethod
    def rotate(cls, values: FloatArray, vectors: FloatArray, n_rows: int, rows: FloatArray) -> RotatedRows:
        """Return rows in the eigenvectors of a Gram.

        Parameters
        ----------
        values, vectors
            Eigenvalues of the Gram of ``n_rows`` rows, ascending, and its eigenvectors in columns.
        rows
            Shape ``(r, D)``, float64: some of those rows, in the unit of the Gram.

        Raises
        ------
        NoEstimateError
            If there are fewer than 1.25 rows for each eigenvalue that is not zero.
        """
        if values.size == 0 or not math.isfinite(values[-1]) or values[-1] <= 0.0:
            raise NoEstimateError("the rows are all zero or not finite")
        kept = values > RANK_TOLERANCE * values[-1]
        if n_rows < LEAST_ROWS * np.count_nonzero(kept):
            raise NoEstimateError(f"there are fewer than {LEAST_ROWS} rows a feature")
        return cls(values[kept] / values[-1], (rows @ vectors[:, kept]) / math.sqrt(values[-1]), n_rows)


@dataclass(frozen=True)
class HeldOut:
    """Contour from held-out units.

    Attributes
    ----------
    contour
        Stands for the population.
    equivalent_rows
        Rows of a Gaussian sample that would leave as much of a new row unexplained.
    leverages
        Shape ``(r,)``: z' G_-U^-1 z of each row kept, G_-U the Gram without its unit and its copies.
    """

    contour: Contour
    equivalent_rows: float
    leverages: FloatArray


@dataclass(frozen=True)
class _Stack:
    """Units of equal size: rows of shape ``(units, size, m)``, the first ``n_own`` of each its own."""

    rows: FloatArray
    n_own: int
    own: IntArray  # positions of the own rows, (units, n_own)

    def forms(self, weights: Array) -> Array:
        """Return A diag(w) A' for each unit and each row w of ``weights``: shape ``(weights, units, size, size)``.

        One matrix product with the products of all pairs of rows of a unit.
        """
        n_units, size, m = self.rows.shape
        first, second = np.tril_indices(size)
        stacked = np.concatenate([weights.real, weights.imag]) if np.iscomplexobj(weights) else weights
        out = np.zeros((len(stacked), n_units * first.size))
        slab = max(32, _SLAB // (n_units * first.size))
        for start in range(0, m, slab):
            part = self.rows[:, :, start : start + slab]
            pairs = (part[:, first] * part[:, second]).reshape(-1, part.shape[-1])
            out += stacked[:, start : start + slab] @ pairs.T
        found = out[: len(weights)] + 1j * out[len(weights) :] if np.iscomplexobj(weights) else out
        forms = np.empty((len(weights), n_units, size, size), dtype=found.dtype)
        found = found.reshape(len(weights), n_units, -1)
        forms[..., first, second] = forms[..., second, first] = found
        return forms


def held_out_units(rotated: RotatedRows, units: Sequence[Unit]) -> HeldOut:
    """Return the contour whose w is measured on units, each with the Gram of all rows but its own.

    Over all units the mean trace of H is known, so what the units measure is the ratio of both traces. The Gram without
    a unit has an m(z) of its own, from tr Q_-U = tr Q + tr (1 - H)^-1 dH/dz; with that of the whole Gram in its place,
    RankMe of flat rows would come out 1 % too high for units of a sixteenth of the rows.

    Parameters
    ----------
    units
        All units of which rows were kept, whole: all of the sample, or a random part.

    Raises
    ------
    NoEstimateError
        If the rows without one of the units do not span the features, a unit has more than 64 copies, or the contour is
        none (`contour_of`, `converged`).

    Notes
    -----
    For units of u rows, 6 p r (u + 1) m operations, p from 16 to 40 points; memory is bounded by slabs of some MB.
    """
    if any(unit.copies.size > MOST_COPIES for unit in units):
        raise too_many_copies()
    ratio = rotated.values.size / rotated.n_rows
    left = smallest_zero(rotated.values, ratio)
    leverages, inside = np.zeros(len(rotated.rows)), 0.0
    for stack in _stacks(rotated, units):
        h, basis = np.linalg.eigh(stack.forms(1.0 / rotated.values[None])[0])
        if h.max() > _ALMOST_ONE:
            raise NoEstimateError("without one of its units the rows do not span the features")
        weights = (basis * basis)[:, : stack.n_own]
        leverages[stack.own] = (weights @ (h / (1.0 - h))[..., None])[..., 0]
        inside += float((weights @ h[..., None]).sum())
        left = _left_of_poles(stack, rotated.values, left)

    def build(digits: float, factor: float) -> Contour:
        return _measured(rotated, units, path_around(rotated.values, left * factor, digits))

    delta = ratio * float(leverages.sum()) / inside
    return HeldOut(converged(build), rotated.values.size * (1.0 + delta) / delta, leverages)


def too_many_copies() -> NoEstimateError:
    """Return the error of a unit with more copies than can be left out with it."""
    return NoEstimateError(
        f"some rows are like more than {MOST_COPIES} others each: they are copies, or lie in a few directions"
    )


def _stacks(rotated: RotatedRows, units: Sequence[Unit]) -> Iterator[_Stack]:
    """Yield units of equal size together, as many at a time as a slab allows."""
    alike: dict[tuple[int, int], list[Unit]] = {}
    for unit in units:
        alike.setdefault((unit.own.size, unit.copies.size), []).append(unit)
    for (n_own, n_copies), members in alike.items():
        size = n_own + n_copies
        slab = max(1, _SLAB // (size * (size + 1) // 2 * max(256, rotated.values.size)))
        for start in range(0, len(members), slab):
            positions = np.array([np.concatenate([one.own, one.copies]) for one in members[start : start + slab]])
            yield _Stack(rotated.rows[positions], n_own, positions[:, :n_own])


def _left_of_poles(stack: _Stack, values: FloatArray, left: float) -> float:
    """Return ``left`` or a smaller number below the eigenvalues of the Gram without any of the units: poles of w."""
    while stack.rows.size:
        # H grows with z, so its largest eigenvalue is below 1 if and only if z lies left of all poles.
        largest = np.linalg.eigvalsh(stack.forms(1.0 / (values - left)[None])[0])[:, -1]
        beyond = largest >= 1.0
        if not beyond.any():
            break
        stack, left = replace(stack, rows=stack.rows[beyond]), 0.5 * left
    return left


def _measured(rotated: RotatedRows, units: Sequence[Unit], path: Path) -> Contour:
    inverse = 1.0 / (rotated.values - path.z[:, None])
    weights = np.concatenate([inverse, inverse**2, 2.0 * inverse**3])  # of H and its first derivatives by z
    held_out, d_held_out, within, d_within, more, d_more = np.zeros((6, path.z.size), dtype=np.complex128)
    for stack in _stacks(rotated, units):
        h, dh, ddh = np.split(stack.forms(weights), 3)
        r = _inverse(np.eye(h.shape[-1]) - h)
        rdh = r @ dh
        q = stack.n_own
        held_out += _trace(r[..., :q, :q]) - q * len(stack.rows)
        d_held_out += _trace_of_product(rdh[..., :q, :], r[..., :q])
        within += _trace(h[..., :q, :q])
        d_within += _trace(dh[..., :q, :q])
        more += _trace(rdh)
        d_more += _trace_of_product(r, ddh) + _trace_of_product(rdh, rdh)
    share = 1.0 / (len(units) * rotated.values.size)
    zm = path.zm + path.z * more * share  # of the Gram without a unit
    slope = path.slope + path.z * (more + path.z * d_more) * share
    w = path.z * held_out / within * (1.0 + path.zm) / (1.0 + zm)
    w_slope = (
        1.0 + path.z * (d_held_out / held_out - d_within / within) + path.slope / (1.0 + path.zm) - slope / (1.0 + zm)
    )
    return contour_of(replace(path, zm=zm, slope=slope), w, w_slope)


def _inverse(matrices: ComplexArray) -> ComplexArray:
    inverse = 1.0 / matrices if matrices.shape[-1] == 1 else np.linalg.inv(matrices)
    return np.asarray(inverse, dtype=np.complex128)


def _trace(matrices: ComplexArray) -> ComplexArray:
    """Return the sum of the traces over all units, for each point: of shape ``(points, units, size, size)``."""
    traces: ComplexArray = np.trace(matrices, axis1=-2, axis2=-1).sum(axis=1)
    return traces


def _trace_of_product(left: ComplexArray, right: ComplexArray) -> ComplexArray:
    traces: ComplexArray = np.einsum("puij,puji->p", left, right)
    return traces
