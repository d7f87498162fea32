"""Protocol of an estimator: what the rows of one look say of all rows, or why they say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from rankme_stream.measuring.sampling.gates import Withheld
from rankme_stream.spectra.estimates import Estimate, Metric, cut_to_possible
from rankme_stream.spectra.spectrum import Spectrum
from rankme_stream.spectra.spread import Spread


class LookEstimator(Protocol):
    """Estimator of one look; it computes nothing before it is asked, and nothing twice."""

    @property
    def name(self) -> Literal["jackknife", "random-matrix"]:
        """Name as results state it."""
        ...

    def spectrum(self, kind: str, n_features: int | None = None) -> Spectrum:
        """Return the spectrum of the rows read, ``raw`` or of ``unit`` length, in all features or the first few."""
        ...

    @property
    def rankme(self) -> Spread | Withheld:
        """Spread of RankMe, or why none is stated: all gates are behind it."""
        ...

    @property
    def standard_error(self) -> float | None:
        """Standard error of RankMe for infinitely many rows, whatever the gates say; None if there is none."""
        ...

    def spreads(self, table: Mapping[str, Metric], kind: str, n_features: int | None = None) -> dict[str, Spread | str]:
        """Return the spread of every metric of a table, or why it has none; asked only where RankMe has one."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what the estimator measured on the way, as JSON types, for ``sampling`` of the result."""
        ...


def widened(
    estimator: LookEstimator,
    table: Mapping[str, Metric],
    exact: Mapping[str, Estimate],
    widen: Callable[[Spread, Estimate], Estimate],
    *,
    kind: str = "raw",
    n_features: int | None = None,
) -> dict[str, Estimate]:
    """Return numbers of the rows read as estimates for others; RankMe of the raw rows withholds all.

    Parameters
    ----------
    table, exact
        The metrics, and their values for the rows read, with the interval of the arithmetic.
    widen
        Returns an estimate for other rows from a spread and the value of the rows read.
    kind, n_features
        As in ``LookEstimator.spreads``.
    """
    rankme = estimator.rankme
    if isinstance(rankme, Withheld):
        return {name: without_value(one, rankme.reason) for name, one in exact.items()}
    spreads, found = estimator.spreads(table, kind, n_features), {}
    spectrum = estimator.spectrum(kind, n_features)
    for name, one in exact.items():
        spread = spreads[name]
        if one.value is None:
            found[name] = Estimate(None, reason=one.reason, details=one.details)
        elif isinstance(spread, str):
            found[name] = without_value(one, spread)
        else:
            found[name] = cut_to_possible(widen(spread, one), table[name], spectrum)
    return found


def without_value(estimate: Estimate, reason: str) -> Estimate:
    """Return no estimate, and why; the value of the rows read stays in its details."""
    return Estimate(None, reason=reason, details={**estimate.details, "sample": estimate.value})
