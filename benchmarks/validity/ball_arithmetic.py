"""True values of every metric of a small stored matrix, as balls, to check that our intervals hold them.

Entries are exactly the stored values, so the Gram matrix is an integer matrix times a number. The roots of its
characteristic polynomial are enclosed with their multiplicities (Arb, through python-flint): zeros are exact zeros,
counts of values are exact, and the other singular values are balls that certainly hold the true ones. The balls are
narrower than 1e-60 of the values, whatever the condition number.

Unit rows are irrational. They are rounded to fixed point, and the resulting integers are treated in the same way.
Weyl's inequality then bounds the true singular values: rounding moves none by more than the Frobenius norm of the
change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from flint import arb, ctx, fmpq, fmpq_poly, fmpz_mat, fmpz_poly

_BITS = 256
_NEAR = arb((1, -200), (1, -200))  # [0, 2**-199], exactly
_FIRST, _LAST = 11, 100  # first and last rank of the fit of alpha_req

Number = arb | int | float | None
"""A ball, an exact count, ``inf`` for a condition number over zero, or None where the metric is not defined."""


@dataclass(frozen=True)
class Truth:
    """True values of one matrix.

    ``metrics`` and ``presets`` map names to numbers. The singular values are balls, descending, in the unit of the
    embeddings, with exact zeros: m = min(n_rows, n_features) of the raw rows and of the centred rows. ``unit`` has
    those of the rows that are not zero, each divided by its norm.
    """

    metrics: Mapping[str, Number]
    presets: Mapping[str, Number]
    singular_values: Sequence[arb]
    centered: Sequence[arb]
    unit: Sequence[arb]


def truth(matrix: npt.NDArray[np.float64], *, unit_roundoff: float = 2.0**-53) -> Truth:
    """Enclose every metric of a matrix whose entries are exactly the stored values.

    Parameters
    ----------
    matrix
        Shape ``(n_rows, n_features)``, both at least 1, finite; more than about 50 features take seconds.
    unit_roundoff
        Unit roundoff of the stored type, for `numerical_rank`.
    """
    n_rows, n_features = matrix.shape
    m = min(n_rows, n_features)
    rows, unit_of_rows = _as_integers(matrix)
    with ctx.workprec(_BITS):
        Z = fmpz_mat(rows)
        gram = Z.transpose() * Z
        sums = fmpz_mat(1, n_rows, [1] * n_rows) * Z
        raw_polynomial = gram.charpoly()
        raw = eigenvalues(raw_polynomial)[:m]
        centered = eigenvalues((n_rows * gram - sums.transpose() * sums).charpoly())[:m]  # n_rows times the values
        rank = sum(not value.is_zero() for value in raw)
        scale = arb(fmpq(unit_of_rows.numerator, unit_of_rows.denominator))
        s = [value.sqrt() * scale for value in raw]
        s_centered = [(value / n_rows).sqrt() * scale for value in centered]

        unit_rows = [row for row in rows if any(row)]
        s_unit, squared_sum = _unit_rows(unit_rows, rank) if unit_rows else ([], arb(0))

        metrics: dict[str, Number] = {
            "rankme": exp_entropy(_relative_roots(raw), 1e-7),
            "effective_rank": exp_entropy(_relative_roots(raw)),
            "centered_rankme": exp_entropy(_relative_roots(centered), 1e-7),
            "centered_effective_rank": exp_entropy(_relative_roots(centered)),
            "variance_effective_rank": exp_entropy(_relative(centered)),
            "participation_ratio": _participation_ratio(centered),
            "stable_rank": _sum_over_largest(raw),
            "nesum": _sum_over_largest(centered),
            "isoscore": _isoscore(centered, n_features),
            "numerical_rank": _numerical_rank(raw_polynomial, gram, unit_roundoff) if rank else None,
            "condition_number": _condition_number(raw),
            "alpha_req": _alpha_req(centered),
            "normalized_rankme": exp_entropy(_relative(s_unit), 1e-7),
            "vendi": exp_entropy(_relative([value * value for value in s_unit])),
            "self_cluster": _self_cluster([value * value for value in s_unit], len(unit_rows), n_features),
            "cosine_anisotropy": _cosine_anisotropy(squared_sum, len(unit_rows)),
        }
        presets = {
            "paper": metrics["rankme"],
            "roy-vetterli": metrics["effective_rank"],
            "stable-pretraining": exp_entropy(_relative_roots(raw), 1e-5),
            "reptrix": exp_entropy(_relative(centered[:2048]), 1e-7),
            "tsitsulin": _tsitsulin(s),
        }
    return Truth(metrics, presets, s, s_centered, s_unit)


def precision() -> AbstractContextManager[None]:
    """Return a context in which balls are computed to 256 bits."""
    manager: AbstractContextManager[None] = ctx.workprec(_BITS)
    return manager


def contains(number: arb | int | float, lower: float, upper: float) -> bool:
    """Return whether the true value is in [lower, upper].

    Raises
    ------
    ArithmeticError
        If the ball lies across a limit, so that the answer is open.
    """
    ball = arb(number)
    if ball >= lower and ball <= upper:
        return True
    if ball < lower or ball > upper:
        return False
    raise ArithmeticError(f"{ball.str(60)} lies across a limit of [{lower!r}, {upper!r}]")


def inside_error(number: arb | int | float, value: float) -> float:
    """Return an upper bound of |value - truth|."""
    if math.isinf(float(number)) or math.isinf(value):
        return 0.0 if float(number) == value else math.inf
    error = abs(arb(value) - arb(number))
    return 0.0 if error.is_zero() else math.nextafter(float(error.upper()), math.inf)


def _as_integers(matrix: npt.NDArray[np.float64]) -> tuple[list[list[int]], Fraction]:
    """Return the matrix as integers without a common factor, and the number that scales them back."""
    ratios = [value.as_integer_ratio() for value in np.asarray(matrix, dtype=np.float64).ravel().tolist()]
    denominator = max(below for _, below in ratios)  # all denominators are powers of two
    values = [above * (denominator // below) for above, below in ratios]
    factor = math.gcd(*values) or 1
    values = [value // factor for value in values]
    width = matrix.shape[1]
    return [values[at : at + width] for at in range(0, len(values), width)], Fraction(factor, denominator)


def eigenvalues(polynomial: fmpz_poly, bits: int = _BITS) -> list[arb]:
    """Enclose the roots, descending, of a characteristic polynomial that has no negative roots.

    A root of multiplicity k appears k times as the same object; integers, zero included, are exact.
    """
    distinct = []
    with ctx.workprec(bits):
        for factor, multiplicity in polynomial.factor_squarefree()[1]:
            for root, _ in factor.complex_roots():
                integer = root.real.unique_fmpz()
                is_integer = integer is not None and factor(integer) == 0
                distinct.append((arb(integer) if is_integer else root.real, multiplicity))
    distinct.sort(key=lambda root: root[0].mid(), reverse=True)
    roots = [root for root, _ in distinct]
    is_apart = all(a > b for a, b in itertools.pairwise(roots))
    is_sharp = all(root.is_zero() or (root > 0 and root.rel_accuracy_bits() >= _BITS - 32) for root in roots)
    if not (is_apart and is_sharp):
        return eigenvalues(polynomial, 2 * bits)
    return [root for root, multiplicity in distinct for _ in range(multiplicity)]


def _unit_rows(rows: list[list[int]], rank: int, bits: int = _BITS) -> tuple[list[arb], arb]:
    """Enclose the singular values of the unit rows and the squared norm of their sum."""
    n_rows, n_features = len(rows), len(rows[0])
    rounded, is_exact = [], True
    for row in rows:  # entries are within 3 of 2**bits times the unit row's; opposite entries stay opposite
        squared = sum(value * value for value in row) << 2 * bits
        norm = math.isqrt(squared)
        is_exact &= norm * norm == squared and not any((value << 2 * bits) % norm for value in row)
        rounded.append([(abs(value) << 2 * bits) // norm * (1 if value > 0 else -1) for value in row])
    W = fmpz_mat(rounded)
    values = eigenvalues((W.transpose() * W).charpoly())[: min(n_rows, n_features)]
    unit = arb(2) ** -bits
    off = arb(0) if is_exact else arb(0, 1) * (3 * arb(n_rows * n_features).sqrt() * unit)
    s = [value.sqrt() * unit + off if k < rank else arb(0) for k, value in enumerate(values)]
    if not all(value > 0 for value in s[:rank]):
        return _unit_rows(rows, rank, 2 * bits)
    sums = fmpz_mat(1, n_rows, [1] * n_rows) * W
    squared_sum = arb((sums * sums.transpose())[0, 0]) * unit**2
    off *= arb(n_rows).sqrt()
    return s, squared_sum + 2 * squared_sum.sqrt() * off + off * off


def _has_values(values: Sequence[arb]) -> bool:
    return bool(values) and not values[0].is_zero()


def _relative(values: Sequence[arb]) -> list[arb]:
    """Divide values by the largest, which gives exactly 1 for its equals; return none if all values are zero."""
    return [arb(1) if v is values[0] else v / values[0] for v in values] if _has_values(values) else []


def _relative_roots(values: Sequence[arb]) -> list[arb]:
    return [value.sqrt() for value in _relative(values)]


def _limited(ball: arb, low: arb | int, high: arb | int) -> arb:
    """Cut a ball that lies across the end of the range [low, high] in which the true value is known to be."""
    if not ball >= low and abs(ball - low) < _NEAR.upper():
        return low + _NEAR
    if not ball <= high and abs(ball - high) < _NEAR.upper():
        return high - _NEAR
    return ball


def _entropy(p: Sequence[arb]) -> arb:
    return -sum((value * value.log() for value in p if not value.is_zero()), arb(0))


def exp_entropy(weights: Sequence[arb], eps: float = 0.0) -> arb | None:
    """Enclose exp of the entropy of the shares of weights, with an epsilon added to each; None for no weight."""
    if not weights:
        return None
    total = sum(weights, arb(0))
    if eps:
        return _entropy([weight / total + arb(eps) for weight in weights]).exp()
    n_positive = sum(not weight.is_zero() for weight in weights)
    return _limited(total * (_entropy(weights) / total).exp(), 1, n_positive)  # exact for equal weights


def _tsitsulin(s: Sequence[arb]) -> arb | None:
    if not _has_values(s):
        return None
    eps = arb(1e-12)
    total = sum(s, arb(0)) + len(s) * eps
    return _entropy([value / total + eps for value in s]).exp()


def _sum_over_largest(values: Sequence[arb]) -> arb | None:
    return _limited(sum(_relative(values), arb(0)), 1, len(values)) if _has_values(values) else None


def _ratio_less_one(values: Sequence[arb]) -> arb:
    """Return the participation ratio minus 1, as a sum of products that are not negative."""
    ratios = _relative(values)
    smaller = list(itertools.accumulate(reversed(ratios)))[::-1]
    cross = sum((2 * a * b for a, b in zip(ratios, smaller[1:], strict=False)), arb(0))
    return cross / sum((ratio * ratio for ratio in ratios), arb(0))


def _participation_ratio(values: Sequence[arb]) -> arb | None:
    return _limited(1 + _ratio_less_one(values), 1, len(values)) if _has_values(values) else None


def _isoscore(values: Sequence[arb], n_features: int) -> arb | None:
    if n_features == 1 or not _has_values(values):
        return None
    return _limited(_ratio_less_one(values) / (n_features - 1), 0, 1)


def _numerical_rank(polynomial: fmpz_poly, gram: fmpz_mat, unit_roundoff: float) -> int:
    """Count the roots above u^2 times the trace, exactly: with real roots Descartes' rule of signs is exact."""
    above, below = unit_roundoff.as_integer_ratio()
    trace = sum(gram[k, k] for k in range(gram.nrows()))
    shifted = fmpq_poly(polynomial)(fmpq_poly([fmpq(above * above * trace, below * below), 1]))
    signs = [coefficient > 0 for coefficient in shifted.coeffs() if coefficient != 0]
    return sum(a != b for a, b in itertools.pairwise(signs))


def _condition_number(values: Sequence[arb]) -> arb | float | None:
    if not _has_values(values):
        return None
    return math.inf if values[-1].is_zero() else 1 / _relative_roots(values)[-1]


def _alpha_req(values: Sequence[arb]) -> arb | None:
    used = [value for value in values[:_LAST] if not value.is_zero()][_FIRST - 1 :]
    if len(used) < 3:
        return None
    ranks = [arb(rank) for rank in range(_FIRST, _FIRST + len(used))]
    total = sum((1 / rank for rank in ranks), arb(0))
    mean = sum((rank.log() / rank for rank in ranks), arb(0)) / total
    x = [rank.log() - mean for rank in ranks]
    y = [value.log() for value in _relative(used)]  # a common factor, like the mean of y, changes no slope
    above = sum((a * b / rank for a, b, rank in zip(x, y, ranks, strict=True)), arb(0))
    return -above / sum((a * a / rank for a, rank in zip(x, ranks, strict=True)), arb(0))


def _self_cluster(values: Sequence[arb], n_rows: int, n_features: int) -> arb | None:
    if n_rows < 2 or n_features == 1:
        return None
    expected = n_rows + arb(n_rows * (n_rows - 1)) / n_features
    squares = sum((value * value for value in values), arb(0))
    return _limited((squares - expected) / (n_rows**2 - expected), arb(-1) / (max(n_rows, n_features) - 1), 1)


def _cosine_anisotropy(squared_sum: arb, n_rows: int) -> arb | None:
    if n_rows < 2:
        return None
    return _limited((squared_sum - n_rows) / (n_rows * (n_rows - 1)), arb(-1) / (n_rows - 1), 1)
