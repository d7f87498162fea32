"""Protocol of an estimator: what the rows of one look say of all rows, or why they say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from rankme_stream.measuring.sampling.gates import Withheld
from rankme_stream.spectra.estimates import Metric
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
