"""Result of a measurement: its numbers, where they come from, and its JSON form."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rankme_stream.errors import LimitError, OutputError, RankMeError
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
from rankme_stream.results.remarks import remarks
from rankme_stream.results.table import table
from rankme_stream.spectra.estimates import Estimate, is_within
from rankme_stream.spectra.spectrum import SingularValues, Spectrum

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """Result of measuring a source.

    Attributes
    ----------
    source
        ``uri``, ``n_rows``, ``n_features``, ``dtype``, ``decoding`` (in words) and ``fingerprint`` of the source.
    rows_read
        Number of rows behind the numbers; rows left out are not counted.
    definition
        Formula of every metric, by name.
    estimates
        Every metric by name; ``measurement["participation_ratio"]`` returns one.
    presets
        RankMe in the conventions of other libraries, by name.
    normalized
        Metrics of the rows scaled to unit length; empty unless requested.
    dims
        Every metric of the first d features, by d; empty unless requested.
    tolerance, tolerance_met
        Largest relative half-width requested for RankMe's interval, and whether it is met.
    passes
        Method, precision and half-width of every pass over the rows; the last one gave the numbers.
    convergence
        RankMe after each look at a sample, also where every row was read in the end: ``rows``, ``value``, ``lower``,
        ``upper``, why it was ``withheld``, and more; empty without a sample.
    sampling
        Part of the rows that the numbers come from, and how it was drawn; None when every row was read.
    spectrum, audit, plan
        Singular values with their consistent sets, faults found in the rows, and the plan of the pass.
    measured
        ``elapsed_s``, ``cpu_s``, ``bytes_read``, ``peak_bytes``.
    provenance
        Versions and machine.
    rules
        Treatment of ``missing``, ``nonfinite`` and ``zeros`` rows.
    groups
        Every metric of each group, by its name; empty unless requested. Computed when looked up.
    remedy
        Options to try where the tolerance is not met.
    checkpoint_failure
        Reason why the checkpoint could not be written; None where it was, or none was requested.
    """

    source: Mapping[str, Any]
    rows_read: int
    method: str
    precision: str
    engine: str
    device: str
    definition: Mapping[str, str]
    estimates: Mapping[str, Estimate]
    presets: Mapping[str, Estimate]
    normalized: Mapping[str, Estimate]
    dims: Mapping[int, Mapping[str, Estimate]]
    tolerance: float
    passes: Sequence[Mapping[str, Any]]
    convergence: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any] | None
    spectrum: Spectrum
    audit: Audit
    chunks_missing: int
    integrity: str
    plan: Plan
    measured: Mapping[str, float]
    provenance: Mapping[str, Any]
    rules: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    remedy: str = ""
    checkpoint_failure: str | None = None

    @property
    def rankme(self) -> Estimate:
        """RankMe of the paper: uncentred, epsilon 1e-7."""
        return self.estimates["rankme"]

    @property
    def tolerance_met(self) -> bool:
        """Whether RankMe's interval is as narrow as requested; True for rows of zeros, which have no RankMe."""
        if self.sampling is not None and self.rankme.value is None:
            return False
        return is_within(self.rankme, self.spectrum, self.tolerance)

    @property
    def shortfalls(self) -> list[RankMeError]:
        """Errors of a measurement that has a result nevertheless: a checkpoint not written, a tolerance not met."""
        errors: list[RankMeError] = []
        if self.checkpoint_failure is not None:
            errors.append(OutputError(f"the checkpoint is not up to date: {self.checkpoint_failure}"))
        if not self.tolerance_met:
            what = f"RankMe's interval is wider than the tolerance {self.tolerance:g}; {self.remedy}"
            if self.rankme.value is None and self.rankme.lower is None:
                is_population = self.sampling is not None and self.sampling["population"]  # more rows may not do
                what = f"RankMe is not stated: {self.rankme.reason}" + ("" if is_population else f"; {self.remedy}")
            errors.append(LimitError(f"{self.source['uri']}: {what}"))
        return errors

    def __getitem__(self, name: str) -> Estimate:
        """Return the estimate of that name."""
        return self.estimates[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types, as ``docs/result.schema.json`` describes."""
        audit = asdict(self.audit)
        audit.pop("largest_magnitude")
        document = {
            "schema_version": SCHEMA_VERSION,
            "source": dict(self.source),
            "rows_read": self.rows_read,
            "method": self.method,
            "precision": self.precision,
            "engine": self.engine,
            "device": self.device,
            "definition": dict(self.definition),
            "estimates": _all_to_dicts(self.estimates),
            "normalized": _all_to_dicts(self.normalized),
            "dims": {str(d): _all_to_dicts(estimates) for d, estimates in self.dims.items()},
            "groups": {name: _all_to_dicts(self.groups[name]) for name in self.groups},
            "presets": _all_to_dicts(self.presets),
            "tolerance": self.tolerance,
            "tolerance_met": self.tolerance_met,
            "passes": [{**attempt, "half_width": _number(attempt["half_width"])} for attempt in self.passes],
            "convergence": [dict(point) for point in self.convergence],
            "sampling": None if self.sampling is None else dict(self.sampling),
            "spectrum": {
                "kind": _kind(self.spectrum.raw),
                **_side_to_dict(self.spectrum.raw, ""),
                **_side_to_dict(self.spectrum.centered, "centered_"),
                "basis": self.spectrum.evidence,
                "confidence": self.spectrum.confidence,
                "grounds": self.spectrum.grounds,
            },
            "rules": dict(self.rules),
            "audit": audit | {"chunks_missing": self.chunks_missing, "integrity": self.integrity},
            "plan": self.plan.to_dict(),
            "measured": dict(self.measured),
            "provenance": dict(self.provenance),
        }
        return document | {"remarks": remarks(document)}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the result as JSON text; numbers read back as the same double."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """Return the table that ``rankme score`` prints."""
        return table(self.to_dict())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _kind(side: SingularValues) -> str:
    if side.folded is not None:
        return "sketch"
    return "box" if side.consistent.energy is None else "floor"


def _all_to_dicts(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate_to_dict(estimate) for name, estimate in estimates.items()}


def _side_to_dict(side: SingularValues, prefix: str) -> dict[str, Any]:
    consistent = side.consistent.in_their_unit()
    plain: dict[str, Any] = {
        f"{prefix}singular_values": side.values.tolist(),
        f"{prefix}lower": consistent.lower.tolist(),
        f"{prefix}upper": consistent.upper.tolist(),
    }
    if consistent.energy is not None:
        plain[f"{prefix}energy"] = list(consistent.energy)
    if consistent.tail is not None:
        plain[f"{prefix}tail"] = consistent.tail._asdict()
    return plain


def estimate_to_dict(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON types; infinities are strings, reason and details are left out where empty."""
    plain: dict[str, Any] = {
        "value": _number(estimate.value),
        "lower": _number(estimate.lower),
        "upper": _number(estimate.upper),
        "confidence": estimate.confidence,
        "covers": list(estimate.covers),
    }
    if estimate.reason:
        plain["reason"] = estimate.reason
    if estimate.details:
        plain["details"] = {
            name: _number(detail) if isinstance(detail, float) else detail for name, detail in estimate.details.items()
        }
        if "worst_case" in estimate.details:
            plain["details"]["worst_case"] = [_number(end) for end in estimate.details["worst_case"]]
    return plain


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "inf" if value > 0 else "-inf"
