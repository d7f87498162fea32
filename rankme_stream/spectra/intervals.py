"""Exact extremes of the metrics over a consistent set of singular values, rounded outward.

Every function takes the consistent set and returns ``(lower, upper)``: no vector of the set gives less or more, and
unless a function says otherwise some vector attains each end. The entropies and the participation ratio are symmetric
and quasi-concave, and Schur-concave for a fixed sum, hence

- the largest value is at ``clip(t, lower, upper)`` for one level t, found by bisection on the sign of the derivative
  (never by comparing values, which have plateaus);
- the smallest is at one of the m + 1 vertices ``upper[:j], lower[j:]``: at a fixed sum such a vector, with one entry in
  between, majorises every other, and along that entry a quasi-concave function is least at an end.

Ends move outward by a relative ``(2048 + 16 m) 2^-53``, more than the rounding error of evaluating them: a few units
for each of the m terms of a running sum, and the flat top of an entropy, where rounding hides the derivative's sign.

References
----------
A. W. Marshall, I. Olkin, B. C. Arnold, Inequalities: Theory of Majorization and Its Applications, 2nd ed., Springer
2011, for Schur-concavity and majorisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from rankme_stream.numerics.bisection import neighbours
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra import majorization, metrics
from rankme_stream.spectra.spectrum import ConsistentSet, Tail

Interval = tuple[float, float]

_MAX_VERTICES = 8192  # for a sketch: with more, their m^2 terms take longer than a pass
_SLAB_TERMS = 2**17  # terms of the vertex search evaluated together: 1 MiB an array
EVERYTHING: Interval = (-math.inf, math.inf)


def entropy_rank(
    consistent: ConsistentSet, *, eps: float = 0.0, eps_in_sum: float = 0.0, squares: bool = False
) -> Interval:
    r"""Extremes of :math:`\exp(-\sum p_k \ln p_k)`, :math:`p_k = x_k/(\sum_j x_j + m\epsilon_s) + \epsilon`.

    Parameters
    ----------
    consistent
        Set of the singular values s; ``upper[0] > 0``.
    eps
        Added outside the fraction; the extremes are exact for every ``eps >= 0``.
    eps_in_sum
        Added to each value in the sum, in the unit of the embeddings.
    squares
        Take x = s^2 instead of x = s.

    Notes
    -----
    O(m) for eps = 0, otherwise O(m^2) in slabs. O(m log m) where the energy is known; the lower end is then valid but
    not always attained.
    """
    key = (eps, eps_in_sum, squares)
    if key not in consistent.extremes:
        consistent.extremes[key] = _entropy_rank(consistent, eps, eps_in_sum, squares)
    return consistent.extremes[key]


def _entropy_rank(consistent: ConsistentSet, eps: float, eps_in_sum: float, squares: bool) -> Interval:
    """Return what ``entropy_rank`` does."""
    lower, upper, shift = _scaled(consistent, keep_small=eps_in_sum > 0.0)
    inside = math.ldexp(eps_in_sum, -shift)
    energy = _scaled_energy(consistent, shift)
    if squares:
        lower, upper = lower * lower, upper * upper
    m = lower.size

    def slope_is_positive(x: FloatArray, t: float) -> bool:
        total = float(x.sum()) + m * inside
        if total == 0.0:
            return True
        level = t / total + eps
        if level == 0.0:
            return True
        q = x / total
        return float((q * (_log(q + eps) + 1.0)).sum()) > math.log(level) + 1.0

    def value(x: FloatArray) -> float:
        return metrics.exp_entropy(x / (math.fsum(x) + m * inside) + eps)

    is_known = energy is not None and not squares
    least = 0.0
    if not is_known or m <= _MAX_VERTICES:
        first = 0 if lower[0] > 0.0 else 1
        if eps == 0.0 and inside == 0.0:
            sums, logs = _vertex_sums(lower, upper, lambda x: x * _log(x))
            n_upper = first + int(np.argmin(np.log(sums[first:]) - logs[first:] / sums[first:]))
        else:
            n_upper = first + int(np.argmin(_vertex_entropies(lower, upper, eps, inside)[first:]))
        least = value(_vertex(lower, upper, n_upper))
    levels = _levels(lower, upper, slope_is_positive)
    tail = _scaled_tail(consistent, shift)
    if energy is not None and squares:
        least = max(least, min(value(x) for x in _packed(lower, upper, energy)))
        if tail is not None and inside == 0.0:
            shares = majorization.squares_majorant(np.sqrt(lower), np.sqrt(upper), energy, tail)
            least = max(least, metrics.exp_entropy(shares + eps))
    elif energy is not None:
        shares, ends = majorization.majorant(lower, upper, energy, tail)
        # For shares q of a given sum, p = q sum / (sum + m eps_s) + eps: concave in that factor, so least at an end.
        factors = [total / (total + m * inside) for total in ends if total > 0.0]
        least = max(least, min(metrics.exp_entropy(shares * factor + eps) for factor in factors))
    if energy is not None:
        levels = _within(levels, lower, upper, energy, squares=not squares)
    return _outward(least, max(value(x) for x in levels), m)


def participation_ratio(consistent: ConsistentSet) -> Interval:
    r"""Extremes of :math:`(\sum s_k^2)^2 / \sum s_k^4`; O(m)."""
    lower, upper, shift = _scaled(consistent)
    lower, upper = lower * lower, upper * upper

    def value(x: FloatArray) -> float:
        x = x / x[0]
        return math.fsum(x) ** 2 / math.fsum(x * x)

    first = 0 if lower[0] > 0.0 else 1
    sums, squares = _vertex_sums(lower, upper, lambda x: x * x)
    n_upper = first + int(np.argmin(sums[first:] ** 2 / squares[first:]))
    least = value(_vertex(lower, upper, n_upper))
    levels = _levels(lower, upper, lambda x, t: t * float(x.sum()) < float((x * x).sum()) or t == 0.0)
    energy = _scaled_energy(consistent, shift)
    if energy is not None:
        by_tail = energy[0] ** 2 / _largest_fourth_powers(consistent, shift)
        least = max(least, min(value(x) for x in _packed(lower, upper, energy)), by_tail)
        levels = _within(levels, lower, upper, energy)
    return _outward(least, max(value(x) for x in levels), lower.size)


def isoscore(consistent: ConsistentSet, *, n_features: int) -> Interval:
    """Extremes of (participation ratio - 1)/(D - 1), which grows with that ratio; rounding is absolute near 0."""
    least, most = participation_ratio(consistent)
    return max(0.0, _down((least - 1.0) / (n_features - 1))), _up((most - 1.0) / (n_features - 1))


def stable_rank(consistent: ConsistentSet) -> Interval:
    r"""Extremes of :math:`\sum s_k^2 / s_1^2`, raw or centred; O(m).

    At the largest, s_1 is at its lower end and no other value above it; at the smallest, s_1 is at its upper end and
    every other value at its lower end.
    """
    lower, upper, shift = _scaled(consistent)
    least = 1.0 + math.fsum((lower[1:] / upper[0]) ** 2)
    most = 1.0 + (math.fsum((np.minimum(upper[1:], lower[0]) / lower[0]) ** 2) if lower[0] > 0.0 else lower.size - 1.0)
    energy = _scaled_energy(consistent, shift)
    if energy is not None:
        least = max(least, energy[0] / float(upper[0]) ** 2)
        most = min(most, energy[1] / float(lower[0]) ** 2) if lower[0] > 0.0 else most
    return _outward(least, most, lower.size)


def numerical_rank(consistent: ConsistentSet, *, unit_roundoff: float) -> Interval:
    """Certain and possible number of s_k > u |Z|_F; an enclosure, not always attained."""
    lower, upper, shift = _scaled(consistent)
    slack = 1.0 + _rounding(lower.size)
    energy = _scaled_energy(consistent, shift)
    least, most = energy or (math.fsum(lower * lower), math.fsum(upper * upper))
    threshold = unit_roundoff * math.sqrt(least) / slack
    certain = np.count_nonzero(lower > unit_roundoff * math.sqrt(most) * slack)
    possible = int(np.count_nonzero(upper > threshold))
    if energy is not None:  # every value above the threshold takes at least its square
        needed = np.cumsum(np.maximum(lower, threshold) ** 2 - lower * lower) + math.fsum(lower * lower)
        possible = min(possible, int(np.count_nonzero(needed <= most * slack)))
    return float(certain), float(possible)


def condition_number(consistent: ConsistentSet) -> Interval:
    """Extremes of s_1 / s_m; infinite where the smallest value may be zero."""
    lower, upper = consistent.lower, consistent.upper
    if lower.size == 1:
        return 1.0, 1.0
    largest, smallest = (lower[0], upper[0]), (lower[-1], upper[-1])
    least = _down(float(largest[0]) / float(smallest[1])) if smallest[1] > 0.0 else math.inf
    most = _up(float(largest[1]) / float(smallest[0])) if smallest[0] > 0.0 else math.inf
    return max(1.0, least), most


def alpha_req(consistent: ConsistentSet) -> Interval:
    """Extremes of the decay exponent: it is linear in ln s, so the sign of its weight puts each value at an end.

    ``EVERYTHING`` when a value in the range of the fit may be zero, because the range itself is then unknown.
    """
    last = min(metrics.ALPHA_LAST, int(np.count_nonzero(consistent.lower)))
    if last != min(metrics.ALPHA_LAST, int(np.count_nonzero(consistent.upper))):
        return EVERYTHING
    first = metrics.ALPHA_FIRST
    weights = metrics.alpha_weights(first, last)
    reference = math.log(consistent.upper[first - 1])
    low, high = 2.0 * (np.log(np.stack([consistent.lower, consistent.upper])[:, first - 1 : last]) - reference)
    slack = _rounding(weights.size) * math.fsum(np.abs(weights) * (1.0 + np.abs(low) + abs(reference)))
    least = math.fsum(np.where(weights > 0.0, weights * low, weights * high))
    most = math.fsum(np.where(weights > 0.0, weights * high, weights * low))
    return least - slack, most + slack


def self_cluster(consistent: ConsistentSet, *, n_rows: int, n_features: int) -> Interval:
    """Extremes of the self-clustering index of unit rows, which grows with Q = sum of the fourth powers of s."""
    slack = 1.0 + _rounding(consistent.lower.size)
    least, most = (math.fsum(end**4) for end in (consistent.lower, consistent.upper))
    if consistent.energy is not None:
        lower, upper = consistent.lower**2, consistent.upper**2
        least = max(least, math.fsum(majorization.levelled(lower, upper, consistent.energy[0]) ** 2))
        by_energy = math.fsum(majorization.packed(lower, upper, consistent.energy[1]) ** 2)
        most = min(most, by_energy, _largest_fourth_powers(consistent, 0))
    return (
        _down(float(metrics.self_cluster_of(Fraction(least / slack), n_rows, n_features))),
        _up(float(metrics.self_cluster_of(Fraction(most * slack), n_rows, n_features))),
    )


def cosine_anisotropy(row_sum: Interval, *, n_rows: int) -> Interval:
    """Extremes of the mean cosine between different rows, which grows with the norm of the sum of the unit rows."""
    return (
        _down(float(metrics.cosine_anisotropy_of(Fraction(row_sum[0]) ** 2, n_rows))),
        _up(float(metrics.cosine_anisotropy_of(Fraction(row_sum[1]) ** 2, n_rows))),
    )


def _scaled(consistent: ConsistentSet, keep_small: bool = False) -> tuple[FloatArray, FloatArray, int]:
    """Divide both ends by the power of two of the largest value; with ``keep_small`` never scale up."""
    shift = math.frexp(float(consistent.upper[0]))[1] - 1
    if keep_small:
        shift = max(shift, 0)
    return np.ldexp(consistent.lower, -shift), np.ldexp(consistent.upper, -shift), shift


def _scaled_energy(consistent: ConsistentSet, shift: int) -> Interval | None:
    if consistent.energy is None:
        return None
    change = -2 * (shift + consistent.exponent)
    return math.ldexp(consistent.energy[0], change), math.ldexp(consistent.energy[1], change)


def _scaled_tail(consistent: ConsistentSet, shift: int) -> Tail | None:
    tail = consistent.tail
    return None if tail is None else Tail(tail.start, math.ldexp(tail.norm, -2 * (shift + consistent.exponent)))


def _largest_fourth_powers(consistent: ConsistentSet, shift: int) -> float:
    """Return the largest sum of fourth powers of the scaled values that the bound on the tail allows."""
    tail = _scaled_tail(consistent, shift)
    if tail is None:
        return math.inf
    return math.fsum(np.ldexp(consistent.upper[: tail.start], -shift) ** 4) + tail.norm**2


def _packed(lower: FloatArray, upper: FloatArray, energy: Interval) -> list[FloatArray]:
    """Return the squares that majorise all others, at the least and the largest energy and at the vertices between.

    At a given sum such a vector minimises a Schur-concave function; as the sum grows, a single entry grows, and along
    it a quasi-concave function is least at an end.
    """
    sums, _ = _vertex_sums(lower, upper, lambda x: x)
    between = np.flatnonzero((sums > energy[0]) & (sums < energy[1]))
    ends = [majorization.packed(lower, upper, total) for total in energy]
    return [*ends, *(_vertex(lower, upper, int(n_upper)) for n_upper in between)]


def _within(
    levels: list[FloatArray], lower: FloatArray, upper: FloatArray, energy: Interval, *, squares: bool = False
) -> list[FloatArray]:
    """Return the levels nearest to those given at which the sum (of the squares) lies within the energy.

    A function rises along the levels up to those given and falls past them, so it is largest at the nearest allowed.
    """

    def total(x: FloatArray) -> float:
        return float((x * x if squares else x).sum())

    if max(map(total, levels)) > energy[1]:
        return [majorization.levelled(lower, upper, energy[1], squares=squares)]
    if min(map(total, levels)) < energy[0]:
        return [majorization.levelled(lower, upper, energy[0], squares=squares), *levels]
    return levels


def _vertex(lower: FloatArray, upper: FloatArray, n_upper: int) -> FloatArray:
    """Return the vertex with the first ``n_upper`` values at their upper ends and the others at their lower ends."""
    return np.concatenate([upper[:n_upper], lower[n_upper:]])


def _vertex_sums(
    lower: FloatArray, upper: FloatArray, term: Callable[[FloatArray], FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Return the sums of x and of ``term(x)`` over each of the m + 1 vertices."""

    def sums(low: FloatArray, high: FloatArray) -> FloatArray:
        heads = np.concatenate([[0.0], np.cumsum(high)])
        tails = np.concatenate([np.cumsum(low[::-1])[::-1], [0.0]])
        both: FloatArray = heads + tails
        return both

    return sums(lower, upper), sums(term(lower), term(upper))


def _vertex_entropies(lower: FloatArray, upper: FloatArray, eps: float, inside: float) -> FloatArray:
    """Return the entropy at each of the m + 1 vertices, for p with an epsilon."""
    m = lower.size
    sums, _ = _vertex_sums(lower, upper, lambda x: x)
    sums = np.maximum(sums + m * inside, np.finfo(float).tiny)
    entropies = np.empty(m + 1)
    step = max(1, _SLAB_TERMS // m)
    indices = np.arange(m)
    for start in range(0, m + 1, step):
        n_upper = np.arange(start, min(m + 1, start + step))
        p = np.where(indices < n_upper[:, None], upper, lower) / sums[n_upper, None] + eps
        entropies[n_upper] = -(p * _log(p)).sum(axis=1)
    return entropies


def _levels(
    lower: FloatArray, upper: FloatArray, slope_is_positive: Callable[[FloatArray, float], bool]
) -> list[FloatArray]:
    """Return ``clip(t, lower, upper)`` for the two neighbouring doubles t between which the slope changes sign."""
    found = neighbours(lambda t: slope_is_positive(np.clip(t, lower, upper), t), float(lower[-1]), float(upper[0]))
    return [x for x in (np.clip(t, lower, upper) for t in found) if x[0] > 0.0]


def _log(values: FloatArray) -> FloatArray:
    """Return natural logarithms, and 0 for 0, which is only ever multiplied by that 0."""
    logs: FloatArray = np.log(np.where(values > 0.0, values, 1.0))
    return logs


def _rounding(m: int) -> float:
    return (2048 + 16 * m) * U


def _outward(least: float, most: float, m: int) -> Interval:
    slack = _rounding(m)
    return least * (1.0 - slack), most * (1.0 + slack)


def _down(value: float) -> float:
    return math.nextafter(value, -math.inf)


def _up(value: float) -> float:
    return math.nextafter(value, math.inf)
