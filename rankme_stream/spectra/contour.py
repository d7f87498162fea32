"""Sums over the eigenvalues of a population, from those of a sample: a contour integral of random-matrix theory.

The n rows of a sample in D features have a Gram G with eigenvalues n l_k; rows of its population have a second moment M
with eigenvalues lambda_k. Let Q(z) = (G/n - z)^-1, m(z) the mean of 1/(l - z), and m_pop(w) that of 1/(lambda - w).
Where the noise prefers no eigenvector of M, z Q(z) is equivalent to w (M - w)^-1 for one number w = w(z), so that

    z m(z) = w m_pop(w),        w(z) = z tr(M Q(z)) / tr(G Q(z)/n),

    sum f(lambda_k) = -D/(2 pi i) (integral over a closed path in z) f(w) z m(z) d log w.

The path goes once round all l_k, and w(z) once round all lambda_k; neither goes round 0. With c = D/n and
y = 1 - c (1 + z m), the models of the rows differ in w alone:

- rows of similar length: w = z / y (Mestre, IEEE Transactions on Information Theory 54, 2008);
- rows of squared lengths tau_j, independent of their directions: w = z / mean(tau/(1 + tau e)), where
  mean 1/(1 + tau e) = y (Couillet and Hachem, Markov Processes and Related Fields 20, 2014);
- no model: tr(M Q) is measured, each unit of rows with the Gram of all other rows (`held_out_units`).

The same holds for the eigenvalues expected of N rows. For similar lengths, z_N = w (1 - (D/N) (1 + z m)) takes the
place of w: N = infinity gives the population, N = n the sample itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rankme_stream.errors import RankMeError
from rankme_stream.numerics.bisection import bisect
from rankme_stream.numerics.dtypes import FloatArray

ComplexArray = npt.NDArray[np.complex128]

RANK_TOLERANCE = 1e-13  # eigenvalues below this times the largest are zeros of the arithmetic
_HALF_HEIGHT = 2.6  # of the path in the plane of log z: below pi, so that roots of z are the principal ones
_DIGITS = 18.0  # natural logarithm of the accuracy that the first path is made for
_LARGEST_DEFECT = 1e-6
_ATTEMPTS = 4
_SLAB = 2**18  # complex numbers held at a time
_LENGTH_STEPS = 8  # in which the lengths are turned on, so that Newton's method starts near the solution


class NoEstimateError(RankMeError, ValueError):
    """The rows allow no estimate of their population; the text says why, and follows a colon."""


@dataclass(frozen=True)
class Path:
    """Upper half of a closed path round all eigenvalues, in points of the midpoint rule.

    Attributes
    ----------
    z
        Shape ``(p,)``: the points, in units of the largest eigenvalue.
    step
        d log z.
    zm, slope
        z m(z), and its derivative by log z.
    n_values
        Number of eigenvalues.
    """

    z: ComplexArray
    step: ComplexArray
    zm: ComplexArray
    slope: ComplexArray
    n_values: int


@dataclass(frozen=True)
class Contour:
    """Numbers w on a path and their weights: sums of functions over the eigenvalues that are not zero.

    Attributes
    ----------
    w, weight
        Shape ``(p,)``; the eigenvalues are in units of the largest eigenvalue of the sample.
    n_values
        Number of eigenvalues.
    """

    w: ComplexArray
    weight: ComplexArray
    n_values: int

    def total(self, f: ComplexArray) -> float:
        """Return the sum of a function over the eigenvalues, from its values at ``w``; it is analytic off (-inf, 0]."""
        return float(2.0 * (self.weight * f).sum().real)

    @property
    def defect(self) -> float:
        """Relative error of the integral of 1, which tests points, path and branch together."""
        return abs(self.total(np.ones_like(self.w)) / self.n_values - 1.0)


Functional = Callable[[Contour], float]
"""A number computed from sums over eigenvalues, such as `log_rankme`."""


def nonzero_eigenvalues(values: FloatArray) -> FloatArray:
    """Return the eigenvalues that are not zero, ascending, over the largest.

    Raises
    ------
    NoEstimateError
        If all are zero, or one is not finite.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0 or not math.isfinite(ordered[-1]) or ordered[-1] <= 0.0:
        raise NoEstimateError("the rows are all zero or not finite")
    scaled: FloatArray = ordered / ordered[-1]
    return scaled[scaled > RANK_TOLERANCE]


def smallest_zero(values: FloatArray, ratio: float) -> float:
    """Return the x below all eigenvalues where mean l/(l - x) = 1/``ratio``: a pole of w, so paths begin left of it.

    Raises
    ------
    NoEstimateError
        If there are no more rows than eigenvalues, ``ratio`` >= 1.
    """
    if not ratio < 1.0:
        raise NoEstimateError("there are no more rows than features")
    smallest = float(values[0])

    def is_left_of_it(share: float) -> bool:
        return ratio * float((values / (values - share * smallest)).sum()) < values.size

    low, _ = bisect(is_left_of_it, 0.0, 1.0, 30)  # on the safe side
    return smallest * max(low, 1e-15)


def path_around(values: FloatArray, left: float, digits: float = _DIGITS) -> Path:
    """Return a path round ``left`` and all eigenvalues, which are ascending.

    In the plane of log z it is an ellipse with foci at log ``left`` and at the logarithm of the largest eigenvalue: the
    integrand is analytic but for the segment between them and its copies 2 pi i above and below. The midpoint rule's
    error is near exp(-``digits``), from 16 points at condition 10 to 70 at 1e13. O(p m) for m eigenvalues.
    """
    half_length = 0.5 * math.log(values[-1] / left)
    half_width = math.hypot(half_length, _HALF_HEIGHT)
    n_points = 2 * max(8, math.ceil(digits / math.atanh(min(_HALF_HEIGHT / half_width, 0.999)) / 4.0))
    angle = (np.arange(n_points) + 0.5) * (math.pi / n_points)
    z = np.exp(math.log(left) + half_length + half_width * np.cos(angle) + 1j * _HALF_HEIGHT * np.sin(angle))
    step = (-half_width * np.sin(angle) + 1j * _HALF_HEIGHT * np.cos(angle)) * (math.pi / n_points)
    zm, slope = np.zeros((2, n_points), dtype=np.complex128)
    slab = max(1, _SLAB // n_points)
    for start in range(0, values.size, slab):
        ratio = z[:, None] / (values[start : start + slab] - z[:, None])
        zm += ratio.sum(axis=1)
        slope += (ratio * (1.0 + ratio)).sum(axis=1)  # z d/dz of z/(l - z) is z l/(l - z)^2
    return Path(z, step, zm / values.size, slope / values.size, values.size)


def contour_of(path: Path, w: ComplexArray, slope: ComplexArray) -> Contour:
    """Return the contour of w(z) on a path; ``slope`` is d log w / d log z.

    Raises
    ------
    NoEstimateError
        If w leaves the upper half-plane, in which every subordination function stays: roots of w would change branch.
    """
    if not np.all(w.imag > 0.0):
        raise NoEstimateError("the directions of the rows depend on their lengths in a way that no estimate follows")
    return Contour(w, -path.n_values * path.zm * slope * path.step / (2j * math.pi), path.n_values)


def equal_lengths(path: Path, ratio: float, ratio_all: float = 0.0) -> Contour:
    """Return the contour for rows of similar length.

    Parameters
    ----------
    ratio
        D/n of the rows read.
    ratio_all
        D/N of the N rows for whose expected eigenvalues the contour stands; 0 for those of the population.
    """
    y, slope = 1.0 - ratio * (1.0 + path.zm), -ratio * path.slope
    y_all, slope_all = 1.0 - ratio_all * (1.0 + path.zm), -ratio_all * path.slope
    return contour_of(path, path.z * y_all / y, 1.0 - slope / y + slope_all / y_all)


def given_lengths(path: Path, ratio: float, lengths: FloatArray, shares: FloatArray) -> Contour:
    """Return the contour for rows of some squared lengths, in any unit, each with its share of the rows.

    For Im e >= 0 and Re e > -1/max(tau) the equation of e has one solution at most: two would need
    mean tau/((1 + tau e1)(1 + tau e2)) = 0, whose terms all lie in one open half-plane. So a solution there is right.
    """
    shares = shares / shares.sum()
    tau = lengths / (lengths @ shares)
    y = 1.0 - ratio * (1.0 + path.zm)
    e = 1.0 / y - 1.0  # for equal lengths
    for spread in np.linspace(0.0, 1.0, _LENGTH_STEPS + 1)[1:]:
        partly = 1.0 + spread * (tau - 1.0)
        tolerance = 1e-14 if spread == 1.0 else 1e-2
        for _ in range(40):
            r = 1.0 / (1.0 + np.multiply.outer(e, partly))
            change = (r @ shares - y) / ((r * r) @ (partly * shares))
            e = e + change
            if np.all(np.abs(change) <= tolerance * (1.0 + np.abs(e))):
                break
    if not np.all((e.imag >= 0.0) & (e.real * tau.max() > -1.0)):
        raise NoEstimateError("the lengths of the rows do not fit their eigenvalues")
    r = 1.0 / (1.0 + np.multiply.outer(e, tau))
    mean = r @ (shares * tau)
    slope = ((r * r) @ (shares * tau**2)) / ((r * r) @ (shares * tau))  # d mean / d y
    return contour_of(path, path.z / mean, 1.0 + slope / mean * ratio * path.slope)


def converged(build: Callable[[float, float], Contour]) -> Contour:
    """Return the first contour on which 1 integrates to 1.

    Parameters
    ----------
    build
        Makes a contour from the digits of the path and a factor for its left end, each attempt longer and finer.

    Raises
    ------
    NoEstimateError
        If no attempt succeeds.
    """
    for attempt in range(_ATTEMPTS):
        contour = build(_DIGITS * 2.0**attempt, 0.5**attempt)
        if contour.defect <= _LARGEST_DEFECT:
            return contour
    raise NoEstimateError("the integral over its eigenvalues does not converge")


def of_equal_lengths(values: FloatArray, n_rows: float, n_all: float = math.inf) -> Contour:
    """Return the contour of eigenvalues for rows of similar length.

    Parameters
    ----------
    values
        Eigenvalues of the Gram of the rows read, in any order and unit; those that are zero are left out.
    n_rows
        Rows read; fewer, if they count as fewer rows of similar length.
    n_all
        Rows for whose expected eigenvalues the contour stands; infinitely many for the population.

    Raises
    ------
    NoEstimateError
        If there are no more rows than eigenvalues that are not zero.
    """
    kept = nonzero_eigenvalues(values)
    ratio = kept.size / n_rows
    left = smallest_zero(kept, ratio)
    return converged(
        lambda digits, factor: equal_lengths(path_around(kept, left * factor, digits), ratio, kept.size / n_all)
    )


def of_given_lengths(values: FloatArray, n_rows: float, lengths: FloatArray, shares: FloatArray) -> Contour:
    """Return the contour of eigenvalues of the Gram of ``n_rows`` rows of some squared lengths: see `given_lengths`."""
    kept = nonzero_eigenvalues(values)
    ratio = kept.size / n_rows
    left = smallest_zero(kept, ratio)
    return converged(
        lambda digits, factor: given_lengths(path_around(kept, left * factor, digits), ratio, lengths, shares)
    )


def log_rankme(contour: Contour, *, eps: float = 0.0, zeros: int = 0) -> float:
    """Return the logarithm of RankMe; with ``eps`` 0, that of the effective rank.

    Parameters
    ----------
    eps
        Added to each share s/sum(s) of the singular values.
    zeros
        Singular values of the population that are zero, each of which adds -eps ln(eps).
    """
    return _log_entropy(contour, np.sqrt(contour.w), eps, zeros)


def log_entropy_rank(contour: Contour, *, eps: float = 0.0, zeros: int = 0) -> float:
    """Return the entropy of the eigenvalues: the logarithm of the variance effective rank, and of the Vendi score.

    The parameters are those of `log_rankme`, for the shares of the eigenvalues.
    """
    return _log_entropy(contour, contour.w, eps, zeros)


def _log_entropy(contour: Contour, weights: ComplexArray, eps: float, zeros: int) -> float:
    p: ComplexArray = weights / contour.total(weights) + eps
    return contour.total(-p * np.log(p)) - (zeros * eps * math.log(eps) if eps > 0.0 else 0.0)


def matched_rows(values: FloatArray, n_rows: int, functional: Functional, target: float) -> float:
    """Return how many rows of similar length with these eigenvalues would give ``target`` for their population.

    From 1.02 times the number of eigenvalues to 1.2 ``n_rows``, where the correction is no larger or smaller.
    """
    n_values = nonzero_eigenvalues(values).size

    def is_above(rows: float) -> bool:
        return functional(of_equal_lengths(values, rows)) > target  # the correction falls with the rows

    low, high = bisect(is_above, 1.02 * n_values, 1.2 * n_rows, 30, middle=lambda a, b: math.sqrt(a * b))
    return math.sqrt(low * high)
