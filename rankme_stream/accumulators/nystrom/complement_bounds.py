r"""Bounds on the part of a Gram matrix G outside a few directions, from images of Gaussian probes.

In an orthonormal basis whose first r rows are U, G is [[Theta, C'], [C, E]]. G U' gives Theta and C exactly but for
rounding. E is as large as G; the images E w of k standard normal vectors w bound

- its largest eigenvalue: v'(E w) = lambda_1 v'w, so lambda_1^2 sum_j (v'w_j)^2 <= |E W|_2^2, and the sum on the left is
  chi-squared with k degrees of freedom;
- the sum of the squares of its eigenvalues, M = |E|_F^2: |E w|^2 has the mean M and is a sum of chi-squares with
  weights lambda_i^2 <= M / n for n = M / lambda_1^2, and by Chernoff's bound the mean of k of them is below M / c with
  probability exp(-(k n / 2)(ln c - 1 + 1/c)) at most.

By Cauchy's interlacing theorem the k-th eigenvalue of G past the r-th is at most the k-th of E.

References
----------
W. Kahan and B. Parlett, How far should you go with the Lanczos process, 1976, and C.-K. Li, R.-C. Li, A note on
eigenvalues of perturbed Hermitian matrices, Linear Algebra Appl. 395 (2005), for the effect of C on the others.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from rankme_stream.accumulators.sketch_spectrum import ComplementBounds
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.bisection import bisect
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.quantiles import chi_square_quantile
from rankme_stream.numerics.rounding import U, gamma, solver_margin

CHANCE = 1e-4  # probability that any bound after any of the passes is wrong
_SIDES = 4  # matrices that are bounded: the rows and the rows of unit length, each raw and about the mean
_BATCHES = 16  # batches of directions; the ceilings of each take one eigensolve


class Imaged(NamedTuple):
    """Vectors, one a row, and their images under a symmetric matrix, both of shape ``(k, D)``."""

    vectors: Any
    images: Any


def bound_complement(
    directions: Imaged, probes: Imaged, *, scale: float, error: float, pass_number: int, device: Device
) -> ComplementBounds:
    """Return bounds on the eigenvalues of a Gram matrix from images of directions and of probes.

    Parameters
    ----------
    directions
        Nearly orthonormal rows Q, and Q G.
    probes
        Standard normal numbers times ``scale``, drawn independently of the directions, and their images.
    error
        Bound on the Frobenius error of images relative to the Frobenius norm of their vectors.
    pass_number
        Number of the pass. Bounds after the t-th pass past the first are wrong with probability ``CHANCE`` / 2^t, a
        quarter of it for each of four matrices, so all passes together keep ``CHANCE`` although any may be the last.

    Notes
    -----
    About 6 D r (r + k) flops. Everything is rounded outward, for ``error``, for the distance of Q from orthonormal
    rows and for the rounding of products.
    """
    basis, images = directions
    xp, r = device.xp, int(basis.shape[0])

    def norm(matrix: Any) -> float:
        return float(xp.linalg.matrix_norm(matrix))

    product = 2.0 * gamma(int(basis.shape[1]) + r) * math.sqrt(r)  # relative, of products with the basis
    skew = norm(basis @ basis.T - device.upload(np.eye(r))) + product
    if not skew <= 1e-3:
        raise ArithmeticCheckError(f"a basis is {skew:.3g} from orthonormal: LAPACK or the machine is at fault")
    size = norm(images)
    core = images @ basis.T
    residual = images - core @ basis
    off = 1.1 * error * math.sqrt(r) + (4.0 * skew + product) * size
    length, inside = norm(probes.vectors), probes.vectors @ basis.T
    outside = probes.images - inside @ images
    outer = outside - (outside @ basis.T) @ basis
    outer_off = error * length + norm(inside) * (off + (2.0 * skew + product) * size)
    outer_off += product * length * size + (2.0 * skew + product) * norm(outside)
    count = int(probes.vectors.shape[0])
    mean_square = (norm(outer) + outer_off) ** 2 / count / scale**2
    top = math.sqrt(_largest(outer, device)) + outer_off
    largest, most = limits(mean_square, (top / scale) ** 2, count, CHANCE * 0.5**pass_number / _SIDES)
    likely = min(most, norm(outer) ** 2 / count / scale**2)
    inner = _InnerBlock(device.download((core + core.T) / 2.0), device.download(residual @ residual.T), off, largest)
    return ComplementBounds(
        inner.ceilings(), largest, inner.start, *(math.sqrt(inner.squares_past(rest)) for rest in (most, likely))
    )


def limits(mean_square: float, top_square: float, count: int, chance: float) -> tuple[float, float]:
    """Return upper confidence limits of the largest eigenvalue and of the sum of all squares.

    Parameters
    ----------
    mean_square
        Mean of |E w|^2 over ``count`` probes.
    top_square
        Square of the largest singular value of the matrix of all E w.
    chance
        Probability that one of the limits is wrong, half of it for each.

    Raises
    ------
    ArithmeticCheckError
        If a square is not finite, as of a state of numbers that no rows give: there would be no limit.
    """
    if not (math.isfinite(mean_square) and math.isfinite(top_square)):
        raise ArithmeticCheckError("images of probes are not finite: BLAS or the machine is at fault")
    largest_square = top_square / chi_square_quantile(count, chance / 2.0)
    if mean_square == 0.0 or largest_square == 0.0:
        return math.sqrt(largest_square), mean_square
    wanted = math.log(2.0 / chance)

    def is_possible(most: float) -> bool:
        ratio = most / mean_square
        freedom = count * max(1.0, most / largest_square)
        return not freedom / 2.0 * (math.log(ratio) - 1.0 + 1.0 / ratio) >= wanted

    high = 2.0 * mean_square
    while is_possible(high):
        high *= 2.0
    return math.sqrt(largest_square), bisect(is_possible, mean_square, high)[1]


def _largest(rows: Any, device: Device) -> float:
    """Return an upper bound on the largest eigenvalue of the inner products of rows."""
    products = rows @ rows.T
    values = device.eigenvalues(products)
    trace = max(float(values.sum()), 0.0)
    margin = (solver_margin(int(rows.shape[0])) + 2.0 * gamma(int(rows.shape[1]))) * trace
    return max(float(values[0]), 0.0) + margin


class _InnerBlock:
    """Theta and CC' of the directions, off by ``off`` at most, beside an E with eigenvalues up to ``largest``."""

    def __init__(self, theta: FloatArray, pushed: FloatArray, off: float, largest: float) -> None:
        self._theta, self._pushed, self._largest = theta, pushed, largest
        values, vectors = np.linalg.eigh(theta)
        self._values = values[::-1]
        self._margin = solver_margin(values.size)
        self._off = off + self._margin * float(np.abs(values).sum())
        self._lengths = np.maximum(np.einsum("ij,ij->j", vectors, pushed @ vectors)[::-1], 0.0)  # |C v|^2 for each v
        self._length = math.sqrt(max(float(np.linalg.eigvalsh(pushed)[-1]), 0.0)) + self._pushed_off

    @property
    def _pushed_off(self) -> float:
        return self._off + math.sqrt(self._margin * max(float(np.trace(self._pushed)), 0.0))

    @property
    def start(self) -> int:
        """Number of leading eigenvalues that are above all of E."""
        return int(np.count_nonzero(self._values - self._off > self._largest))

    def squares_past(self, rest: float) -> float:
        """Return the largest sum of squares of the eigenvalues past ``start``; those of E add up to ``rest``.

        By interlacing it is at most the sum for G without its leading directions: Theta and, twice, C of the other
        directions, and E.
        """
        theta = (float(np.linalg.norm(self._values[self.start :])) + self._off) ** 2
        pushed = (math.sqrt(float(self._lengths[self.start :].sum())) + self._pushed_off) ** 2
        return (theta + 2.0 * pushed) * (1.0 + 64.0 * U) * (self.start < self._values.size) + rest

    def ceilings(self) -> FloatArray:
        """Return an upper bound on each of the leading eigenvalues, descending.

        If mu, the k-th eigenvalue of G, is above every eigenvalue of E, then by inertia mu is no more than the k-th
        eigenvalue of Theta + CC' / (mu - lambda_1(E)), and mu is no less than the k-th of Theta.
        """
        above = self._values + self._off
        apart = np.sqrt((above - self._largest) ** 2 + 4.0 * self._length**2)
        ceilings = (above + self._largest + apart) / 2.0
        off, margin = self._off, self._margin * float(np.trace(self._pushed))
        bounds = np.unique(np.linspace(0, self.start, _BATCHES + 1).astype(int))
        for first, last in pairwise(bounds.tolist()):
            gap = float(self._values[last - 1]) - off - self._largest
            moved = np.linalg.eigvalsh(self._theta + self._pushed / gap)[::-1][first:last]
            more = off + (2.0 * self._length * off + off**2 + margin) / gap
            ceilings[first:last] = np.minimum(ceilings[first:last], moved + more)
        return np.asarray(ceilings * (1.0 + 8.0 * U))
