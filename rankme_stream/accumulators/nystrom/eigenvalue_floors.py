r"""Floors of the eigenvalues of a Gram matrix G that is known only by Y = G W for some test vectors W.

For any directions Q in the range of W, N = G Q (Q'G Q)^-1 Q'G satisfies 0 <= N <= G, so the k-th eigenvalue of N is a
floor of that of G (Weyl). Rounding enters in two ways that are kept apart:

- The error E of G Q can be charged to G instead: some symmetric G^ has G^ Q = G Q + E and |G^ - G| <= sqrt(2) |E|,
  except for the asymmetry of Q'E. With nu = |G^ - G| no eigenvalue of G^ + nu is negative; it is sketched in place of
  G, and floors lose 2 nu, however small the eigenvalues of the core Q'G Q are.
- The asymmetry of the core is measured, and subtracted from the images of the directions; the inverse of a core whose
  least eigenvalue kept is d multiplies it by 1/sqrt(d). Q are the eigenvectors of a first core, and the core is
  computed again from Q and G Q, so that it is nearly diagonal and, scaled to a diagonal of ones, well conditioned.
  Directions that lose more in this way than they hold are left out: fewer directions give valid floors as well.

References
----------
J. Tropp, A. Yurtsever, M. Udell, V. Cevher, Fixed-rank approximation of a positive-semidefinite matrix from streaming
data, NeurIPS 2017, arXiv 1706.05736, for the shift; J. Demmel, K. Veselic, Jacobi's method is more accurate than QR,
SIAM J. Matrix Anal. Appl. 13 (1992), for the scaling.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import U, gamma, solver_margin

_DEPENDENT = 1e-6  # relative eigenvalue of W'W below which test vectors count as linearly dependent
_NEAR = 0.25  # largest distance of the scaled core from the identity in the directions that are kept


class Frame(NamedTuple):
    """Test vectors and the map to an orthonormal basis of them.

    Attributes
    ----------
    vectors
        W', shape ``(r, D)``.
    to_basis
        T, such that W T is orthonormal; directions in which the test vectors nearly depend on each other are left out.
    norm, inverse
        Frobenius norms of W and T; ``least`` is the least eigenvalue of W'W that is kept.
    """

    vectors: Any
    to_basis: Any
    norm: float
    inverse: float
    least: float

    @classmethod
    def of(cls, vectors: Any, device: Device) -> Self:
        """Return the frame of test vectors, shape ``(r, D)``; 2 D r^2 flops."""
        squares, directions = device.eigenvectors(vectors @ vectors.T)
        first = int(np.searchsorted(squares, _DEPENDENT * squares[-1]))
        some = device.xp.take(directions, device.upload(np.arange(first, squares.size)), axis=1)
        roots = 1.0 / np.sqrt(squares[first:])
        norm = float(device.xp.linalg.matrix_norm(vectors)) * (1.0 + 2.0**-20)
        inverse = float(np.linalg.norm(roots)) * (1.0 + 2.0**-20)
        least = float(squares[first]) * (1.0 - 2.0**-20)
        return cls(vectors, some * device.upload(roots)[None, :], norm, inverse, least)


def floors(images: Any, frame: Frame, device: Device, *, energy: float, entries: float, rows: float) -> FloatArray:
    """Return floors of the largest eigenvalues, descending, one per direction that rounding leaves.

    Parameters
    ----------
    images
        Y' = (G W)', shape ``(r, D)``.
    energy
        Upper bound on the sum of the eigenvalues of G.
    entries, rows
        Bounds on the Frobenius error of G W and on the error of G by that of the rows.

    Notes
    -----
    14 D r^2 flops.
    """
    sketch_size = int(frame.vectors.shape[0])
    pushed, core, nu = _rotated(images, frame, device, energy=energy, entries=entries)
    antisymmetric = (core - core.T) / 2.0
    excess = float(np.linalg.norm(antisymmetric))
    if not excess <= nu:
        raise ArithmeticCheckError(
            f"a sketch is {excess:.3g} from symmetric where rounding allows {nu:.3g}: BLAS or the machine is at fault"
        )
    kept = _Kept.of(
        (core + core.T) / 2.0, antisymmetric, device.download(device.squared_lengths(pushed)), pushed.shape[1]
    )
    if kept.roots.size == 0:
        return np.zeros(0)
    values, corner = np.linalg.eigh(kept.scaled)
    weights = (corner / np.sqrt(values)).T * kept.roots
    tall = device.upload(weights) @ pushed[: kept.roots.size, :]
    roots = device.singular_values(device.r_factor(tall.T))
    margin = solver_margin(sketch_size)
    sure = np.maximum(roots * (1.0 - 2.0 * margin) - margin * float(roots[0]) - kept.off, 0.0)
    return np.asarray(np.maximum(sure**2 * (1.0 - 8.0 * U) - 2.0 * nu - rows, 0.0))


def _rotated(
    images: Any, frame: Frame, device: Device, *, energy: float, entries: float
) -> tuple[Any, FloatArray, float]:
    """Return ((G^ + nu) Q)' for directions Q by descending eigenvalue, their core Q'(G^ + nu) Q, and nu."""

    def norm(matrix: Any) -> float:
        return float(device.xp.linalg.matrix_norm(matrix))

    sketch_size, n_features = frame.vectors.shape
    core = frame.to_basis.T @ (images @ frame.vectors.T) @ frame.to_basis
    _, rotation = device.eigenvectors((core + core.T) / 2.0)
    rotation = device.xp.flip(frame.to_basis @ rotation, axis=1)
    directions, pushed = rotation.T @ frame.vectors, rotation.T @ images
    products = 4.0 * gamma(2 * sketch_size + 8) * frame.inverse * (norm(images) + energy * frame.norm)
    nu = 1.5 * (entries / math.sqrt(frame.least) + products) + _inner(n_features) * norm(pushed) * norm(directions)
    pushed = pushed + nu * directions
    return pushed, device.download(pushed @ directions.T), nu


def _inner(n_features: int) -> float:
    """Return four times the error of an inner product relative to the lengths of both vectors."""
    return 4.0 * gamma(n_features + 8)


class _Kept(NamedTuple):
    """Leading directions that are kept.

    Attributes
    ----------
    scaled, roots
        Core of the directions, scaled to a diagonal of ones, and the scales, applied on both sides.
    off
        Loss of the square roots of the floors to the error of the core.
    """

    scaled: FloatArray
    roots: FloatArray
    off: float

    @classmethod
    def of(cls, core: FloatArray, antisymmetric: FloatArray, lengths: FloatArray, n_features: int) -> Self:
        """Return the leading directions, as many as make the sum of the floors largest.

        Parameters
        ----------
        core, antisymmetric
            Symmetric and antisymmetric part of Q'G Q.
        lengths
            Squared lengths of the rows of (G Q)'.
        """
        shares = np.diag(core)
        n = int(np.argmax(np.append(shares <= 0.0, True)))
        roots = 1.0 / np.sqrt(shares[:n])
        scaled = core[:n, :n] * roots[:, None] * roots
        held = lengths[:n] * roots**2  # share of each direction in the trace of N
        by_first = np.cumsum(held)
        apart = np.sqrt(_leading((scaled - np.eye(n)) ** 2))
        off = 2.0 * (
            np.sqrt(_leading((antisymmetric[:n, :n] * roots) ** 2))
            + _inner(n_features) * np.sqrt(np.arange(1, n + 1) * by_first)
        )
        lost = np.where(apart > _NEAR, np.inf, held.sum() - by_first + 2.0 * off * np.cumsum(np.sqrt(held)))
        count = int(np.argmin(np.append(held.sum(), lost)))  # the first entry stands for no direction at all
        return cls(scaled[:count, :count], roots[:count], float(np.append(0.0, off)[count]))


def _leading(squares: FloatArray) -> FloatArray:
    """Return the sum of the entries of every leading block of a square matrix."""
    return np.asarray(np.diag(np.cumsum(np.cumsum(squares, axis=0), axis=1)))
