"""Definitions of the metrics and presets: each takes singular values and returns one number.

Every function takes ``singular_values``: shape ``(m,)`` with m = min(n_rows, n_features) >= 1, non-negative, finite,
descending, unit of the embeddings; an array of any library, copied to the host if it is on a device. It raises
``SpectrumError`` for anything else and for values that are all zero. All are pure and O(m). Values are first scaled by
a power of two, which changes no digit, so that squares neither overflow nor underflow; sums are correctly rounded.
The caller chooses between the values of the raw and of the centred rows; each function says which its name implies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rankme_stream.errors import SpectrumError
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.dtypes import FloatArray

ALPHA_FIRST, ALPHA_LAST = 11, 100  # our choice: published code starts at 6 or 12
REPTRIX_VALUES = 2048
TSITSULIN_EPS = 1e-12


class AlphaFit(NamedTuple):
    """Decay exponent of the squared singular values, and the range of ranks it was fitted over.

    ``first`` and ``last`` are the 1-based ranks really used, both included; ``r2`` is the weighted share of the
    variance of ln l that the line explains.
    """

    alpha: float
    first: int
    last: int
    r2: float


@dataclass(frozen=True)
class Preset:
    """RankMe as another library computes it: name, formula, raw or centred values, and the function."""

    name: str
    definition: str
    centered: bool
    compute: Callable[[FloatArray], float]


def rankme(singular_values: FloatArray, /, eps: float = 1e-7) -> float:
    r"""RankMe: exponential of the entropy of the normalised singular values.

    Returns :math:`\exp(-\sum_k p_k \ln p_k)` with :math:`p_k = s_k / \sum_j s_j + \epsilon`, of the uncentred rows.

    Parameters
    ----------
    singular_values
        See the module.
    eps
        Added outside the fraction, to all m terms, zeros included; ``0 <= eps``.

    Returns
    -------
    float
        Dimensionless; from 1 to m for ``eps=0``, and possibly slightly outside that range otherwise.

    References
    ----------
    Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1; the paper does not fix eps there, 1e-7 is the convention.

    Examples
    --------
    >>> round(rankme(np.array([2.0, 1.0, 1.0]), eps=0.0), 12) == round(2**1.5, 12)
    True
    """
    s = _scaled(singular_values)
    _require(math.isfinite(eps) and eps >= 0.0, f"eps is {eps!r}: it must be finite and not negative")
    return exp_entropy(s / math.fsum(s) + eps)


def effective_rank(singular_values: FloatArray, /) -> float:
    """RankMe with eps = 0, of the uncentred rows; from 1 to m.

    References
    ----------
    Roy and Vetterli, EUSIPCO 2007.
    """
    return rankme(singular_values, eps=0.0)


def variance_effective_rank(singular_values: FloatArray, /) -> float:
    r"""Exponential of the entropy of :math:`s_k^2 / \sum_j s_j^2`, of the centred rows; from 1 to m."""
    squares = _scaled_squares(singular_values)
    return exp_entropy(squares / math.fsum(squares))


def participation_ratio(singular_values: FloatArray, /) -> float:
    r""":math:`(\sum_k s_k^2)^2 / \sum_k s_k^4`, of the centred rows; from 1 to m."""
    squares = _scaled_squares(singular_values)
    return math.fsum(squares) ** 2 / math.fsum(squares * squares)


def stable_rank(singular_values: FloatArray, /) -> float:
    r""":math:`\sum_k s_k^2 / s_1^2`, of the uncentred rows; from 1 to m."""
    squares = _scaled_squares(singular_values)
    return math.fsum(squares) / float(squares[0])


def nesum(singular_values: FloatArray, /) -> float:
    """The formula of `stable_rank`, of the centred rows: sum of eigenvalues over the largest."""
    return stable_rank(singular_values)


def isoscore(singular_values: FloatArray, /, *, n_features: int) -> float:
    r"""IsoScore: :math:`(P - 1)/(D - 1)`, P the participation ratio, of the centred rows.

    Parameters
    ----------
    singular_values
        See the module.
    n_features
        D, at least m and at least 2.

    Returns
    -------
    float
        From 0 (one direction) to 1 (all D directions of equal variance).

    Raises
    ------
    SpectrumError
        If ``n_features`` is 1, where the formula is 0/0, or below the number of values.

    Notes
    -----
    :math:`P - 1 = 2 \sum_{j<k} l_j l_k / \sum_k l_k^2` with l = s^2: no subtraction, so no digit is lost near 0.

    References
    ----------
    Rudman et al., ACL Findings 2022, arXiv 2108.07344; the closed form is an identity, not an approximation.
    """
    squares = _scaled_squares(singular_values)
    _require(n_features != 1, "isoscore is not defined for n_features = 1")
    _require(
        n_features >= squares.size, f"n_features is {n_features}, fewer than the {squares.size} singular values given"
    )
    smaller = np.cumsum(squares[::-1])[::-1]  # smallest first: a long tail is not rounded away
    cross = 2.0 * math.fsum(squares[:-1] * smaller[1:])
    return cross / math.fsum(squares * squares) / (n_features - 1)


def numerical_rank(singular_values: FloatArray, /, *, unit_roundoff: float) -> int:
    r"""Number of :math:`s_k > u \|Z\|_F`, of the uncentred rows.

    Parameters
    ----------
    singular_values
        See the module.
    unit_roundoff
        u of the *stored* type (2**-11 for float16); rounding to that type moves no singular value by more (Weyl).

    Returns
    -------
    int
        From 0 to m.
    """
    s = _scaled(singular_values)
    _require(
        math.isfinite(unit_roundoff) and unit_roundoff >= 0.0,
        f"unit_roundoff is {unit_roundoff!r}: it must be finite and not negative",
    )
    return int(np.count_nonzero(s > unit_roundoff * math.sqrt(math.fsum(s * s))))


def condition_number(singular_values: FloatArray, /) -> float:
    """s_1 / s_m, of the uncentred rows; ``inf`` if s_m is zero or the ratio is above the double range."""
    s = _checked(singular_values)
    largest, smallest = float(s[0]), float(s[-1])
    return largest / smallest if smallest > 0.0 else math.inf


def alpha_req(singular_values: FloatArray, /, first: int = ALPHA_FIRST, last: int = ALPHA_LAST) -> AlphaFit:
    r"""Decay exponent alpha of :math:`l_j \sim j^{-\alpha}`, l = s^2, of the centred rows.

    Least squares of :math:`\ln l_j` on :math:`\ln j` with weights 1/j, over the ranks first..last.

    Parameters
    ----------
    singular_values
        See the module.
    first, last
        1-based ranks, both included; cut to m and to the values above zero. 11..100 is our choice: published code
        starts at 6 or 12.

    Returns
    -------
    AlphaFit
        Exponent, range really used, and R^2, which is 1 for values that are all equal.

    Raises
    ------
    SpectrumError
        If fewer than three values are left in the range.

    References
    ----------
    Agrawal et al., NeurIPS 2022 (alpha-ReQ); Stringer et al., Nature 2019, for the weights.
    """
    s = _checked(singular_values)
    _require(first >= 1, f"first is {first}: ranks count from 1")
    last = min(last, int(np.count_nonzero(s)))
    n_points = max(last - first + 1, 0)
    _require(n_points >= 3, f"{n_points} singular values above zero from rank {first} on: a slope needs three")
    # From mantissa and exponent: no ratio of two doubles underflows, and a common power of two cancels exactly.
    mantissa, exponent = np.frexp(s[first - 1 : last])
    log_squares = 2.0 * (np.log(mantissa / mantissa[0]) + (exponent - exponent[0]) * math.log(2.0))
    ranks = np.arange(first, last + 1, dtype=np.float64)
    weights = 1.0 / ranks
    x = _less_mean(np.log(ranks), weights)
    y = _less_mean(log_squares, weights)
    slope = math.fsum(weights * x * y) / math.fsum(weights * x * x)
    residual = y - slope * x
    total = math.fsum(weights * y * y)
    r2 = 1.0 - math.fsum(weights * residual * residual) / total if total > 0.0 else 1.0
    return AlphaFit(0.0 - slope, first, last, r2)


def alpha_weights(first: int, last: int) -> FloatArray:
    """Return the weights a_j with alpha = sum a_j ln l_j over at least two ranks first..last, both included."""
    ranks = np.arange(first, last + 1, dtype=np.float64)
    weights = 1.0 / ranks
    x = _less_mean(np.log(ranks), weights)
    scaled: FloatArray = -weights * x / math.fsum(weights * x * x)
    return scaled


def vendi(singular_values: FloatArray, /) -> float:
    r"""Vendi score with the linear kernel: exponential of the entropy of :math:`s_k^2 / \sum_j s_j^2`, from 1 to m.

    ``singular_values`` are those of the row-normalised matrix, uncentred.

    References
    ----------
    Friedman and Dieng, TMLR 2023, arXiv 2210.02410.
    """
    return variance_effective_rank(singular_values)


def self_cluster(singular_values: FloatArray, /, *, n_rows: int, n_features: int) -> float:
    r"""Self-clustering index of unit rows: 0 for random directions, 1 when all rows are equal.

    :math:`(Q - N - N(N-1)/D) / (N^2 - N - N(N-1)/D)` with :math:`Q = \sum_k s_k^4`, the sum of all squared cosines.

    Parameters
    ----------
    singular_values
        Singular values of the row-normalised matrix, uncentred.
    n_rows, n_features
        Shape of that matrix; at least 2 each.

    References
    ----------
    Tsitsulin, Munkhoeva, Perozzi, Unsupervised embedding quality evaluation, 2023, arXiv 2305.16562.
    """
    s = _checked(singular_values)
    return float(self_cluster_of(Fraction(math.fsum(s**4)), n_rows, n_features))


def self_cluster_of(sum_of_squared_cosines: Fraction, n_rows: int, n_features: int) -> Fraction:
    """Return the self-clustering index for Q, exactly."""
    _require(n_features > 1 and n_rows > 1, "self_cluster is not defined for one feature or one row")
    chance = n_rows + Fraction(n_rows * (n_rows - 1), n_features)
    return (sum_of_squared_cosines - chance) / (n_rows**2 - chance)


def cosine_anisotropy(row_sum: float, /, *, n_rows: int) -> float:
    r"""Mean cosine between two different rows: :math:`(\|\sum u_i\|^2 - N)/(N(N-1))`.

    Parameters
    ----------
    row_sum
        Euclidean norm of the sum of the unit rows.
    n_rows
        N, at least 2.
    """
    return float(cosine_anisotropy_of(Fraction(row_sum) ** 2, n_rows))


def cosine_anisotropy_of(squared_row_sum: Fraction, n_rows: int) -> Fraction:
    """Return the mean cosine for the squared norm of the sum of the unit rows, exactly."""
    _require(n_rows > 1, "cosine_anisotropy is not defined for one row")
    return (squared_row_sum - n_rows) / (n_rows * (n_rows - 1))


def numpy_matrix_rank(singular_values: FloatArray, /, *, n_rows: int, n_features: int, eps: float) -> int:
    """Rank by NumPy's rule: number of s_k > s_1 max(n_rows, n_features) eps.

    Parameters
    ----------
    singular_values
        See the module.
    n_rows, n_features
        Shape of the matrix.
    eps
        Spacing at 1 of the stored type (2**-52 for float64): twice the unit round-off.

    Notes
    -----
    With many rows the threshold exceeds s_1 and the rank is 0 (float16: from 1,024 rows); that of `numerical_rank` does
    not.
    """
    s = _scaled(singular_values)
    return int(np.count_nonzero(s > s[0] * (max(n_rows, n_features) * eps)))


def _reptrix(singular_values: FloatArray, /) -> float:
    squares = _scaled_squares(singular_values)[:REPTRIX_VALUES]
    return exp_entropy(squares / math.fsum(squares) + 1e-7)


def _tsitsulin(singular_values: FloatArray, /) -> float:
    # The eps inside the sum has the unit of the embeddings, so it is scaled with the values. Small values are not
    # scaled up: that would overflow the eps.
    s = _checked(singular_values)
    shift = max(_exponent(s), 0)
    s = np.ldexp(s, -shift)
    return exp_entropy(s / (math.fsum(s) + s.size * math.ldexp(TSITSULIN_EPS, -shift)) + TSITSULIN_EPS)


_ON_S = "exp(-sum p ln p), p = s/sum(s)"

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("paper", f"{_ON_S} + 1e-7, uncentred", False, partial(rankme, eps=1e-7)),
            Preset("roy-vetterli", f"{_ON_S}, uncentred", False, effective_rank),
            Preset("stable-pretraining", f"{_ON_S} + 1e-5, uncentred", False, partial(rankme, eps=1e-5)),
            Preset(
                "reptrix",
                f"exp(-sum p ln p), p = s^2/sum(s^2) + 1e-7, first {REPTRIX_VALUES} values, centred",
                True,
                _reptrix,
            ),
            Preset("tsitsulin", "exp(-sum p ln p), p = s/sum(s + 1e-12) + 1e-12, uncentred", False, _tsitsulin),
        )
    }
)


def _require(is_met: bool, text: str) -> None:
    if not is_met:
        raise SpectrumError(text)


def _checked(singular_values: FloatArray) -> FloatArray:
    s = np.asarray(registry.on_host(singular_values), dtype=np.float64)
    _require(s.ndim == 1, f"singular values have shape {s.shape}: one dimension is needed")
    _require(s.size > 0, "there are no singular values: at least one is needed")
    for is_bad, need in (
        (~np.isfinite(s), "finite"),
        (s < 0.0, "non-negative"),
        (np.concatenate(([False], s[1:] > s[:-1])), "no larger than the one before (descending order)"),
    ):
        if is_bad.any():
            position = int(np.argmax(is_bad))
            raise SpectrumError(f"singular_values[{position}] is {float(s[position])!r}: it must be {need}")
    _require(bool(s[0] > 0.0), "all singular values are zero")
    return s


def _exponent(s: FloatArray) -> int:
    return math.frexp(float(s[0]))[1] - 1


def _scaled(singular_values: FloatArray) -> FloatArray:
    """Divide by the power of two that brings the largest value into [1, 2)."""
    s = _checked(singular_values)
    scaled: FloatArray = np.ldexp(s, -_exponent(s))
    return scaled


def _scaled_squares(singular_values: FloatArray) -> FloatArray:
    s = _scaled(singular_values)
    return s * s


def exp_entropy(p: FloatArray) -> float:
    """Exponential of -sum p ln p, with 0 ln 0 = 0; ``p`` need not add up to one."""
    positive = p[p > 0.0]  # 0 ln 0 = 0
    return math.exp(-math.fsum(positive * np.log(positive)))


def _less_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    return values - math.fsum(weights * values) / math.fsum(weights)
