"""Every named metric of a spectrum as an estimate: a number with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from rankme_stream.errors import SpectrumError
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.spectra import extrapolation, intervals, metrics
from rankme_stream.spectra.intervals import Interval
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum


@dataclass(frozen=True)
class Estimate:
    """A number and how far it can be trusted.

    Attributes
    ----------
    value
        The number; None when it cannot be stated, and ``reason`` says why.
    lower, upper
        Ends of an interval that holds the true value; None when none is stated.
    confidence
        Probability that the interval holds; None where none is stated, and the spectrum's ``grounds`` say what it rests
        on.
    covers
        Which errors the interval holds: ``arithmetic``, ``approximation``, ``sampling``.
    reason
        Why the value is absent; one end of the interval may be known nevertheless.
    details
        What belongs to the number, such as the range of a fit; ``worst_case`` holds the ends by a worst-case theorem
        where the interval is a sharper one that rests on experience.
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
        """Return the value; ``SpectrumError`` with the reason when there is none."""
        if self.value is None:
            raise SpectrumError(self.reason or "no value")
        return float(self.value)


@dataclass(frozen=True)
class Metric:
    """A named number of a spectrum: its formula, which values it takes, the number and its extremes over a box.

    ``takes_box`` is False for what does not hang on the singular values, whose box then says nothing of it;
    ``of_a_sample`` is False for what hangs on the smallest ones, of which a part of the rows tells too little;
    ``largest_bias`` is how many standard errors of bias a sample's value may have: what hangs on which of them is the
    largest, or the j-th, has a bias that no jackknife corrects for where they lie close together, and shows it so.
    ``scale`` is that on which a row sketch tells it; None for what hangs on single values, which a row sketch blurs.
    """

    definition: str
    centered: bool
    compute: Callable[[FloatArray, Spectrum], Any]
    extremes: Callable[[ConsistentSet, Spectrum], Interval]
    takes_box: bool = True
    of_a_sample: bool = True
    largest_bias: float = math.inf
    scale: extrapolation.Scale | None = None


def _entropy(definition: str, *, centered: bool, eps: float = 0.0, squares: bool = False) -> Metric:
    def compute(values: FloatArray, spectrum: Spectrum) -> float:
        return metrics.variance_effective_rank(values) if squares else metrics.rankme(values, eps)

    return Metric(
        definition, centered, compute, lambda box, _: intervals.entropy_rank(box, eps=eps, squares=squares),
        scale=extrapolation.LOGARITHM,
    )  # fmt: skip


def _alpha_req(values: FloatArray, spectrum: Spectrum) -> tuple[float, dict[str, Any]]:
    lower, upper = (
        np.count_nonzero(end[: metrics.ALPHA_LAST])
        for end in (spectrum.centered.consistent.lower, spectrum.centered.consistent.upper)
    )
    if lower != upper:  # then the range of the fit is not known either
        raise SpectrumError(
            f"the {_blurred_by(spectrum)} cannot tell some of the singular values that it takes from zero"
        )
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
            lambda box, _: intervals.participation_ratio(box), scale=extrapolation.INVERSE,
        ),
        "stable_rank": Metric(
            "sum s^2 / s_1^2, uncentred", False,
            lambda values, _: metrics.stable_rank(values), lambda box, _: intervals.stable_rank(box), largest_bias=0.7,
        ),
        "nesum": Metric(
            "sum s^2 / s_1^2, centred", True,
            lambda values, _: metrics.nesum(values), lambda box, _: intervals.stable_rank(box), largest_bias=0.7,
        ),
        "isoscore": Metric(
            "(participation_ratio - 1)/(D - 1), centred", True,
            lambda values, spectrum: metrics.isoscore(values, n_features=spectrum.n_features),
            lambda box, spectrum: intervals.isoscore(box, n_features=spectrum.n_features), scale=extrapolation.OF_RATIO,
        ),
        "numerical_rank": Metric(
            "number of s_k > u |Z|_F, u of the stored type, uncentred", False,
            lambda values, spectrum: metrics.numerical_rank(values, unit_roundoff=spectrum.unit_roundoff),
            lambda box, spectrum: intervals.numerical_rank(box, unit_roundoff=spectrum.unit_roundoff),
            of_a_sample=False,
        ),
        "condition_number": Metric(
            "s_1 / s_m, uncentred", False,
            lambda values, _: metrics.condition_number(values), lambda box, _: intervals.condition_number(box),
            of_a_sample=False,
        ),
        "alpha_req": Metric(
            "alpha of s_j^2 ~ j^-alpha, least squares in logarithms with weights 1/j, centred", True,
            _alpha_req, lambda box, _: intervals.alpha_req(box), largest_bias=9.0,
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
            lambda box, spectrum: intervals.self_cluster(
                box, n_rows=spectrum.n_rows, n_features=spectrum.n_features
            ),
            scale=extrapolation.ITSELF,
        ),
        "cosine_anisotropy": Metric(
            "(|sum u_i|^2 - N) / (N(N-1)), unit rows u_i", False,
            lambda _, spectrum: metrics.cosine_anisotropy(sum(spectrum.row_sum) / 2, n_rows=spectrum.n_rows),
            lambda _, spectrum: intervals.cosine_anisotropy(spectrum.row_sum, n_rows=spectrum.n_rows),
            takes_box=False,
        ),
    }
)  # fmt: skip

_PRESET_EXTREMES: Mapping[str, Callable[[ConsistentSet], Interval]] = MappingProxyType(
    {
        "paper": lambda box: intervals.entropy_rank(box, eps=1e-7),
        "roy-vetterli": intervals.entropy_rank,
        "stable-pretraining": lambda box: intervals.entropy_rank(box, eps=1e-5),
        "reptrix": lambda box: intervals.entropy_rank(box.first(metrics.REPTRIX_VALUES), eps=1e-7, squares=True),
        "tsitsulin": lambda box: intervals.entropy_rank(
            box, eps=metrics.TSITSULIN_EPS, eps_in_sum=metrics.TSITSULIN_EPS
        ),
    }
)


def _preset_metric(preset: metrics.Preset, extremes: Callable[[ConsistentSet], Interval]) -> Metric:
    return Metric(
        preset.definition, preset.centered, lambda values, _: preset.compute(values), lambda b, _: extremes(b),
        scale=extrapolation.LOGARITHM,
    )  # fmt: skip


PRESETS: Mapping[str, Metric] = MappingProxyType(
    {name: _preset_metric(preset, _PRESET_EXTREMES[name]) for name, preset in metrics.PRESETS.items()}
)


def definitions() -> dict[str, str]:
    """Return the formula of every metric, by name; those of unit rows as ``normalized.NAME``."""
    return {name: metric.definition for name, metric in METRICS.items()} | {
        f"normalized.{name}": metric.definition for name, metric in NORMALIZED.items()
    }


def estimate_all(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return every metric of a spectrum; what cannot be stated has no value and a reason."""
    return {name: _estimate(metric, spectrum) for name, metric in METRICS.items()}


def estimate_rankme(spectrum: Spectrum) -> Estimate:
    """Return RankMe alone."""
    return _estimate(METRICS["rankme"], spectrum)


def is_within(estimate: Estimate, spectrum: Spectrum, tolerance: float) -> bool:
    """Whether an estimate's relative half-width is at most ``tolerance``, or no arithmetic can give it a value."""
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


def values_of(table: Mapping[str, Metric], spectrum: Spectrum) -> dict[str, float]:
    """Return the numbers alone, of those metrics of a table that a sample tells of and the spectrum has."""
    found = {}
    for name, metric in table.items():
        if not metric.of_a_sample:
            continue
        with suppress(SpectrumError):
            value = metric.compute((spectrum.centered if metric.centered else spectrum.raw).values, spectrum)
            found[name] = float(value[0] if isinstance(value, tuple) else value)
    return found


def _estimate(metric: Metric, spectrum: Spectrum, details: dict[str, Any] | None = None) -> Estimate:
    side = spectrum.centered if metric.centered else spectrum.raw
    details = dict(details or {})
    try:
        if side.values.size == 0 or side.consistent.upper[0] == 0.0:
            raise SpectrumError("all singular values are zero")
        if side.consistent.lower[0] == 0.0:
            raise SpectrumError(f"all singular values are zero to within the {_blurred_by(spectrum)}")
        if side.folds is not None and metric.takes_box and metric.scale is None:
            raise SpectrumError("it hangs on single singular values, which a row sketch blurs: pass --method gram")
        value = metric.compute(side.values, spectrum)
    except SpectrumError as error:
        return Estimate(None, reason=str(error), details=details)
    if isinstance(value, tuple):
        value, more = value
        details |= more
    if side.folds is not None and metric.takes_box:
        return _of_row_sketch(metric, spectrum, side, float(value), details)
    lower, upper = metric.extremes(side.consistent, spectrum)
    if math.isinf(upper) and not math.isinf(lower):
        reason = f"the {_blurred_by(spectrum)} cannot tell the smallest singular value from zero"
        return Estimate(None, lower, upper, spectrum.confidence, spectrum.covers, reason, details)
    if side.worst_case is not None and metric.takes_box:
        ends = metric.extremes(side.worst_case, spectrum) if side.worst_case.lower[0] > 0.0 else intervals.EVERYTHING
        details["worst_case"] = [min(ends[0], value), max(ends[1], value)]
    return Estimate(value, min(lower, value), max(upper, value), spectrum.confidence, spectrum.covers, details=details)


def _of_row_sketch(
    metric: Metric, spectrum: Spectrum, side: SingularValues, sketched: float, details: dict[str, Any]
) -> Estimate:
    """Return a number of the rows from that of their sketch, with an interval for what folding tells and rounding."""
    assert side.folds is not None and metric.scale is not None and spectrum.confidence is not None
    details |= {"sketch": sketched}
    if side.folds.reason is not None:
        return Estimate(None, reason=side.folds.reason, details=details)
    value, lower, upper, noise = side.folds.told(
        side.values,
        lambda values: float(metric.compute(values, spectrum)),
        metric.scale,
        spectrum.n_features,
        spectrum.confidence,
    )
    ends = metric.extremes(ConsistentSet.around_squares(side.values**2, side.folds.error), spectrum)
    rounding = noise * max(ends[1] - sketched, sketched - ends[0])
    return Estimate(value, lower - rounding, upper + rounding, spectrum.confidence, spectrum.covers, details=details)
