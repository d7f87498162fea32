"""Metrics of a spectrum as estimates: each a number with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from rankme_stream.errors import SpectrumError
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.spectra import contour_sums, extrapolation, intervals, metrics
from rankme_stream.spectra.contour_sums import ContourSum
from rankme_stream.spectra.intervals import Interval
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value
        The number; None when it cannot be stated, and ``reason`` says why.
    lower, upper
        Ends of an interval that holds the true value; None when none is stated.
    confidence
        Probability that the interval holds; None where no theorem gives one: the spectrum's ``grounds`` then state
        the evidence.
    covers
        Errors that the interval allows for: ``arithmetic``, ``approximation``, ``sampling``.
    reason
        Why the value is absent; one end of the interval may be known nevertheless.
    details
        Facts about the number, such as the range of a fit; ``worst_case`` holds the ends by a worst-case theorem where
        the interval is narrower and rests on experience.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    covers: tuple[str, ...] = ()
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def half_width(self) -> float | None:
        """Distance from the value to the farther end; None without an interval."""
        if self.value is None or self.lower is None or self.upper is None:
            return None
        if math.isinf(self.value):
            return math.inf if self.lower < self.value else 0.0
        return max(self.upper - self.value, self.value - self.lower)

    def __float__(self) -> float:
        """Return the value; raise ``SpectrumError`` with the reason when there is none."""
        if self.value is None:
            raise SpectrumError(self.reason or "no value")
        return float(self.value)


@dataclass(frozen=True)
class Metric:
    """Metric of a spectrum: its formula, its value, and its extremes over a consistent set.

    Attributes
    ----------
    centered
        Whether it takes the centred singular values; otherwise the raw ones.
    uses_singular_values
        False for a metric of other quantities, about which the consistent set says nothing.
    allows_sampling
        False for a metric of the smallest singular values, about which a part of the rows says too little.
    largest_bias
        Largest bias of a sample's value, in standard errors. Where values lie close together, a metric that depends on
        which of them is the largest, or the j-th, has a larger bias, which no jackknife corrects.
    scale
        Scale on which a row sketch extrapolates it; None for a metric of single values, which a row sketch blurs.
    contour_sum
        Form in which random-matrix theory gives it from few rows a feature; None for a metric that is no sum over all
        eigenvalues of the population.
    """

    definition: str
    centered: bool
    compute: Callable[[FloatArray, Spectrum], Any]
    extremes: Callable[[ConsistentSet, Spectrum], Interval]
    uses_singular_values: bool = True
    allows_sampling: bool = True
    largest_bias: float = math.inf
    scale: extrapolation.Scale | None = None
    contour_sum: ContourSum | None = None


def _entropy(definition: str, *, centered: bool, eps: float = 0.0, squares: bool = False) -> Metric:
    def compute(values: FloatArray, spectrum: Spectrum) -> float:
        return metrics.variance_effective_rank(values) if squares else metrics.rankme(values, eps)

    return Metric(
        definition, centered, compute,
        lambda consistent, _: intervals.entropy_rank(consistent, eps=eps, squares=squares),
        scale=extrapolation.LOGARITHM, contour_sum=contour_sums.entropy(eps, squares=squares),
    )  # fmt: skip


def _alpha_req(values: FloatArray, spectrum: Spectrum) -> tuple[float, dict[str, Any]]:
    lower, upper = (
        np.count_nonzero(end[: metrics.ALPHA_LAST])
        for end in (spectrum.centered.consistent.lower, spectrum.centered.consistent.upper)
    )
    if lower != upper:  # then the range of the fit is not known either
        raise SpectrumError(f"the {_blurred_by(spectrum)} cannot tell some of the singular values of the fit from zero")
    fit = metrics.alpha_req(values)
    return fit.alpha, {"first": fit.first, "last": fit.last, "r2": fit.r2}


def _blurred_by(spectrum: Spectrum) -> str:
    return "sketch" if "approximation" in spectrum.covers else "arithmetic"


_ON_S = "exp(-sum p ln p), p = s/sum(s)"
_ON_L = "exp(-sum p ln p), p = s^2/sum(s^2)"

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "rankme": _entropy(f"{_ON_S} + 1e-07, uncentred", centered=False, eps=1e-7),
        "effective_rank": _entropy(f"{_ON_S}, uncentred", centered=False),
        "centered_rankme": _entropy(f"{_ON_S} + 1e-07, centred", centered=True, eps=1e-7),
        "centered_effective_rank": _entropy(f"{_ON_S}, centred", centered=True),
        "variance_effective_rank": _entropy(f"{_ON_L}, centred", centered=True, squares=True),
        "participation_ratio": Metric(
            "(sum s^2)^2 / sum s^4, centred", True,
            lambda values, _: metrics.participation_ratio(values),
            lambda consistent, _: intervals.participation_ratio(consistent), scale=extrapolation.RECIPROCAL,
            contour_sum=contour_sums.PARTICIPATION_RATIO,
        ),
        "stable_rank": Metric(
            "sum s^2 / s_1^2, uncentred", False,
            lambda values, _: metrics.stable_rank(values),
            lambda consistent, _: intervals.stable_rank(consistent), largest_bias=0.7,
        ),
        "nesum": Metric(
            "sum s^2 / s_1^2, centred", True,
            lambda values, _: metrics.nesum(values),
            lambda consistent, _: intervals.stable_rank(consistent), largest_bias=0.7,
        ),
        "isoscore": Metric(
            "(participation_ratio - 1)/(D - 1), centred", True,
            lambda values, spectrum: metrics.isoscore(values, n_features=spectrum.n_features),
            lambda consistent, spectrum: intervals.isoscore(consistent, n_features=spectrum.n_features),
            scale=extrapolation.ISOSCORE_RECIPROCAL, contour_sum=contour_sums.ISOSCORE,
        ),
        "numerical_rank": Metric(
            "number of s_k > u |Z|_F, u of the stored type, uncentred", False,
            lambda values, spectrum: metrics.numerical_rank(values, unit_roundoff=spectrum.unit_roundoff),
            lambda consistent, spectrum: intervals.numerical_rank(consistent, unit_roundoff=spectrum.unit_roundoff),
            allows_sampling=False,
        ),
        "condition_number": Metric(
            "s_1 / s_m, uncentred", False,
            lambda values, _: metrics.condition_number(values),
            lambda consistent, _: intervals.condition_number(consistent), allows_sampling=False,
        ),
        "alpha_req": Metric(
            "alpha of s_j^2 ~ j^-alpha, least squares in logarithms with weights 1/j, centred", True,
            _alpha_req, lambda consistent, _: intervals.alpha_req(consistent), largest_bias=9.0,
        ),
    }
)  # fmt: skip

NORMALIZED: Mapping[str, Metric] = MappingProxyType(
    {
        "rankme": _entropy(f"{_ON_S} + 1e-07, unit rows, uncentred", centered=False, eps=1e-7),
        "vendi": _entropy(f"{_ON_L}, unit rows, uncentred", centered=False, squares=True),
        "self_cluster": Metric(
            "(Q - N - N(N-1)/D) / (N^2 - N - N(N-1)/D), Q = sum s^4, unit rows, uncentred", False,
            lambda values, spectrum: metrics.self_cluster(
                values, n_rows=spectrum.n_rows, n_features=spectrum.n_features
            ),
            lambda consistent, spectrum: intervals.self_cluster(
                consistent, n_rows=spectrum.n_rows, n_features=spectrum.n_features
            ),
            scale=extrapolation.IDENTITY,
        ),
        "cosine_anisotropy": Metric(
            "(|sum u_i|^2 - N) / (N(N-1)), unit rows u_i", False,
            lambda _, spectrum: metrics.cosine_anisotropy(sum(spectrum.row_sum) / 2, n_rows=spectrum.n_rows),
            lambda _, spectrum: intervals.cosine_anisotropy(spectrum.row_sum, n_rows=spectrum.n_rows),
            uses_singular_values=False,
        ),
    }
)  # fmt: skip

_PRESET_EXTREMES: Mapping[str, Callable[[ConsistentSet], Interval]] = MappingProxyType(
    {
        "paper": lambda consistent: intervals.entropy_rank(consistent, eps=1e-7),
        "roy-vetterli": intervals.entropy_rank,
        "stable-pretraining": lambda consistent: intervals.entropy_rank(consistent, eps=1e-5),
        "reptrix": lambda consistent: intervals.entropy_rank(
            consistent.first(metrics.REPTRIX_VALUES), eps=1e-7, squares=True
        ),
        "tsitsulin": lambda consistent: intervals.entropy_rank(
            consistent, eps=metrics.TSITSULIN_EPS, eps_in_sum=metrics.TSITSULIN_EPS
        ),
    }
)


# The constant inside the sum of tsitsulin has the unit of the rows, so its value depends on their number.
_PRESET_SUMS: Mapping[str, ContourSum] = MappingProxyType(
    {
        "paper": contour_sums.entropy(1e-7),
        "roy-vetterli": contour_sums.entropy(),
        "stable-pretraining": contour_sums.entropy(1e-5),
        "reptrix": contour_sums.entropy(1e-7, squares=True, most_features=metrics.REPTRIX_VALUES),
    }
)


def _preset_metric(preset: metrics.Preset, extremes: Callable[[ConsistentSet], Interval]) -> Metric:
    return Metric(
        preset.definition, preset.centered,
        lambda values, _: preset.compute(values), lambda consistent, _: extremes(consistent),
        scale=extrapolation.LOGARITHM, contour_sum=_PRESET_SUMS.get(preset.name),
    )  # fmt: skip


PRESETS: Mapping[str, Metric] = MappingProxyType(
    {name: _preset_metric(preset, _PRESET_EXTREMES[name]) for name, preset in metrics.PRESETS.items()}
)


def definitions() -> dict[str, str]:
    """Return the formula of every metric by name; a metric of unit rows is ``normalized.NAME``."""
    return {name: metric.definition for name, metric in METRICS.items()} | {
        f"normalized.{name}": metric.definition for name, metric in NORMALIZED.items()
    }


def estimate_all(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return every metric of a spectrum; one that cannot be stated has a reason in place of its value."""
    return {name: _estimate(metric, spectrum) for name, metric in METRICS.items()}


def estimate_rankme(spectrum: Spectrum) -> Estimate:
    """Return RankMe alone."""
    return _estimate(METRICS["rankme"], spectrum)


def is_within(estimate: Estimate, spectrum: Spectrum, tolerance: float) -> bool:
    """Return whether the relative half-width is at most ``tolerance``, or no arithmetic can give a value."""
    if estimate.value is None:
        return not spectrum.raw.consistent.upper.any()
    half_width = estimate.half_width
    return half_width is not None and half_width <= tolerance * abs(estimate.value)


def estimate_normalized(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return the metrics of unit rows, for the spectrum of unit rows."""
    return {name: _estimate(metric, spectrum) for name, metric in NORMALIZED.items()}


def estimate_presets(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return RankMe in the conventions of other libraries, by preset name."""
    return {name: _estimate(metric, spectrum, {"definition": metric.definition}) for name, metric in PRESETS.items()}


def cut_to_possible(estimate: Estimate, metric: Metric, spectrum: Spectrum) -> Estimate:
    """Return an estimate for other rows than those read, cut to what is possible: the number of equal singular values.

    Where all of the interval lies above, the correction went too far: it then begins at the number of the rows read.
    """
    if metric.contour_sum is None or estimate.value is None:
        return estimate
    largest = float(metric.compute(np.ones(spectrum.n_features), spectrum))
    lower, upper = estimate.lower, estimate.upper
    if estimate.value <= largest and (upper is None or upper <= largest):
        return estimate
    if lower is not None and upper is not None:
        lower, upper = min(lower, largest if lower < largest else float(estimate.details["sample"])), largest
    return replace(estimate, value=min(estimate.value, largest), lower=lower, upper=upper)


def values_of(table: Mapping[str, Metric], spectrum: Spectrum) -> dict[str, float]:
    """Return the values alone, for the metrics of a table that allow sampling and that the spectrum has."""
    values = {}
    for name, metric in table.items():
        if not metric.allows_sampling:
            continue
        with suppress(SpectrumError):
            value = metric.compute((spectrum.centered if metric.centered else spectrum.raw).values, spectrum)
            values[name] = float(value[0] if isinstance(value, tuple) else value)
    return values


def _estimate(metric: Metric, spectrum: Spectrum, details: dict[str, Any] | None = None) -> Estimate:
    side = spectrum.centered if metric.centered else spectrum.raw
    details = dict(details or {})
    try:
        if side.values.size == 0 or side.consistent.upper[0] == 0.0:
            raise SpectrumError("all singular values are zero")
        if side.consistent.lower[0] == 0.0:
            raise SpectrumError(f"all singular values are zero to within the {_blurred_by(spectrum)}")
        if side.folded is not None and metric.uses_singular_values and metric.scale is None:
            raise SpectrumError("it depends on single singular values, which a row sketch blurs: method gram has it")
        value = metric.compute(side.values, spectrum)
    except SpectrumError as error:
        return Estimate(None, reason=str(error), details=details)
    if isinstance(value, tuple):
        value, more = value
        details |= more
    if side.folded is not None and metric.uses_singular_values:
        return _of_row_sketch(metric, spectrum, side, float(value), details)
    lower, upper = metric.extremes(side.consistent, spectrum)
    if math.isinf(upper) and not math.isinf(lower):
        reason = f"the {_blurred_by(spectrum)} cannot tell the smallest singular value from zero"
        return Estimate(None, lower, upper, spectrum.confidence, spectrum.covers, reason, details)
    if side.worst_case is not None and metric.uses_singular_values:
        ends = metric.extremes(side.worst_case, spectrum) if side.worst_case.lower[0] > 0.0 else intervals.EVERYTHING
        details["worst_case"] = [min(ends[0], value), max(ends[1], value)]
    return Estimate(value, min(lower, value), max(upper, value), spectrum.confidence, spectrum.covers, details=details)


def _of_row_sketch(
    metric: Metric, spectrum: Spectrum, side: SingularValues, sketched: float, details: dict[str, Any]
) -> Estimate:
    """Return a metric of the rows from its value for the sketch; the interval covers extrapolation and rounding."""
    assert side.folded is not None and metric.scale is not None and spectrum.confidence is not None
    details |= {"sketch": sketched}
    if side.folded.reason is not None:
        return Estimate(None, reason=side.folded.reason, details=details)
    value, lower, upper, noise = side.folded.extrapolate(
        side.values,
        lambda values: float(metric.compute(values, spectrum)),
        metric.scale,
        spectrum.n_features,
        spectrum.confidence,
    )
    squares = np.ldexp(side.values, side.consistent.exponent) ** 2
    around = ConsistentSet.around_squares(squares, side.folded.error).over(side.consistent.exponent)
    ends = metric.extremes(around, spectrum)
    rounding = noise * max(ends[1] - sketched, sketched - ends[0])
    return Estimate(value, lower - rounding, upper + rounding, spectrum.confidence, spectrum.covers, details=details)
