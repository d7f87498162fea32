"""Every named metric of a spectrum as an estimate: a number, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rankme_stream import metrics
from rankme_stream.arrays import FloatArray
from rankme_stream.errors import SpectrumError
from rankme_stream.spectrum import Spectrum

NO_INTERVAL = "this version states no interval"


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
        Probability that the interval holds; None without one.
    covers
        Which errors the interval holds: ``arithmetic``, ``approximation``, ``sampling``.
    reason
        Why the value, or else the interval, is absent.
    details
        What belongs to the number, such as the range of a fit.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    covers: tuple[str, ...] = ()
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __float__(self) -> float:
        """Return the value; ``SpectrumError`` with the reason when there is none."""
        if self.value is None:
            raise SpectrumError(self.reason or "no value")
        return float(self.value)


@dataclass(frozen=True)
class _Metric:
    definition: str
    compute: Callable[[Spectrum], Any]


def _values(spectrum: Spectrum, centered: bool) -> FloatArray:
    values = spectrum.centered_singular_values if centered else spectrum.singular_values
    resolution = spectrum.centered_resolution if centered else spectrum.resolution
    if values.size == 0 or values[0] == 0.0:
        raise SpectrumError("all singular values are zero")
    if values[0] <= resolution:
        raise SpectrumError("all singular values are zero to within the arithmetic")
    return values


def _plain(function: Callable[[FloatArray], float], *, centered: bool) -> Callable[[Spectrum], float]:
    return lambda spectrum: function(_values(spectrum, centered))


def _numerical_rank(spectrum: Spectrum) -> int:
    values = _values(spectrum, centered=False)
    values = values[: values.size - spectrum.known_zeros]
    counts = {
        metrics.numerical_rank(shifted, unit_roundoff=spectrum.unit_roundoff)
        for shifted in (values + spectrum.resolution, (values - spectrum.resolution).clip(0.0))
    }
    if len(counts) > 1:
        raise SpectrumError(
            f"the arithmetic leaves it between {min(counts)} and {max(counts)}: singular values lie at the threshold, "
            "or the stored type resolves more than this method does (tsqr resolves most)"
        )
    return metrics.numerical_rank(values, unit_roundoff=spectrum.unit_roundoff)


def _condition_number(spectrum: Spectrum) -> float:
    values = _values(spectrum, centered=False)
    if spectrum.known_zeros == 0 and values[-1] <= spectrum.resolution:
        least = (values[0] - spectrum.resolution) / (values[-1] + spectrum.resolution)
        raise SpectrumError(
            f"the smallest singular value cannot be told from zero by this arithmetic; it is at least {least:.3g}"
        )
    return metrics.condition_number(values)


def _alpha_req(spectrum: Spectrum) -> tuple[float, dict[str, Any]]:
    fit = metrics.alpha_req(_values(spectrum, centered=True))
    return fit.alpha, {"first": fit.first, "last": fit.last, "r2": fit.r2}


METRICS: Mapping[str, _Metric] = MappingProxyType(
    {
        "rankme": _Metric("exp(-sum p ln p), p = s/sum(s) + 1e-07, uncentred", _plain(metrics.rankme, centered=False)),
        "effective_rank": _Metric(
            "exp(-sum p ln p), p = s/sum(s), uncentred", _plain(metrics.effective_rank, centered=False)
        ),
        "centered_rankme": _Metric(
            "exp(-sum p ln p), p = s/sum(s) + 1e-07, centred", _plain(metrics.rankme, centered=True)
        ),
        "centered_effective_rank": _Metric(
            "exp(-sum p ln p), p = s/sum(s), centred", _plain(metrics.effective_rank, centered=True)
        ),
        "variance_effective_rank": _Metric(
            "exp(-sum p ln p), p = s^2/sum(s^2), centred", _plain(metrics.variance_effective_rank, centered=True)
        ),
        "participation_ratio": _Metric(
            "(sum s^2)^2 / sum s^4, centred", _plain(metrics.participation_ratio, centered=True)
        ),
        "stable_rank": _Metric("sum s^2 / s_1^2, uncentred", _plain(metrics.stable_rank, centered=False)),
        "nesum": _Metric("sum s^2 / s_1^2, centred", _plain(metrics.nesum, centered=True)),
        "isoscore": _Metric(
            "(participation_ratio - 1)/(D - 1), centred",
            lambda spectrum: metrics.isoscore(_values(spectrum, centered=True), n_features=spectrum.n_features),
        ),
        "numerical_rank": _Metric("number of s_k > u |Z|_F, u of the stored type, uncentred", _numerical_rank),
        "condition_number": _Metric("s_1 / s_m, uncentred", _condition_number),
        "alpha_req": _Metric(
            "alpha of s_j^2 ~ j^-alpha, least squares in logarithms with weights 1/j, centred", _alpha_req
        ),
    }
)


def definitions() -> dict[str, str]:
    """Return the formula of every metric, by name."""
    return {name: metric.definition for name, metric in METRICS.items()}


def estimate_all(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return every metric of a spectrum; what cannot be stated has no value and a reason."""
    return {name: _estimate(metric.compute, spectrum) for name, metric in METRICS.items()}


def estimate_presets(spectrum: Spectrum) -> dict[str, Estimate]:
    """Return RankMe in the conventions of other libraries, by preset name."""
    found = {}
    for name, preset in metrics.PRESETS.items():
        compute = _plain(preset.compute, centered=preset.centered)
        found[name] = _estimate(compute, spectrum, {"definition": preset.definition})
    return found


def _estimate(
    compute: Callable[[Spectrum], Any], spectrum: Spectrum, details: dict[str, Any] | None = None
) -> Estimate:
    try:
        value = compute(spectrum)
    except SpectrumError as error:
        return Estimate(None, reason=str(error), details=details or {})
    if isinstance(value, tuple):
        value, details = value
    return Estimate(value, reason=NO_INTERVAL, details=details or {})
