"""The result of a pass: its numbers, where they come from, and its JSON form."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rankme_stream.audit import Audit
from rankme_stream.estimates import Estimate
from rankme_stream.planning import Plan
from rankme_stream.spectrum import Spectrum

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """What a pass over a source came to.

    Attributes
    ----------
    source
        ``uri``, ``n_rows``, ``n_features``, ``dtype`` and ``fingerprint`` of what was read.
    estimates
        Every metric by name; ``measurement["participation_ratio"]`` is the short way.
    presets
        RankMe in the conventions of other libraries, by name.
    spectrum, audit, plan
        The singular values, what was wrong with the rows, what was planned.
    rows_read
        Rows that the numbers are about; rows left out are not among them.
    measured
        ``elapsed_s``, ``cpu_s``, ``bytes_read``, ``peak_bytes``.
    provenance
        Versions and machine.
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
    spectrum: Spectrum
    audit: Audit
    chunks_missing: int
    integrity: str
    plan: Plan
    measured: Mapping[str, float]
    provenance: Mapping[str, Any]

    @property
    def rankme(self) -> Estimate:
        """RankMe of the paper: uncentred, epsilon 1e-7."""
        return self.estimates["rankme"]

    def __getitem__(self, name: str) -> Estimate:
        """Return the estimate of that name."""
        return self.estimates[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types, as ``docs/result.schema.json`` describes."""
        audit = asdict(self.audit)
        audit.pop("largest_magnitude")
        return {
            "schema_version": SCHEMA_VERSION,
            "source": dict(self.source),
            "rows_read": self.rows_read,
            "method": self.method,
            "precision": self.precision,
            "engine": self.engine,
            "device": self.device,
            "definition": dict(self.definition),
            "estimates": {name: estimate_to_dict(estimate) for name, estimate in self.estimates.items()},
            "presets": {name: estimate_to_dict(estimate) for name, estimate in self.presets.items()},
            "spectrum": {
                "kind": "values",
                "singular_values": self.spectrum.singular_values.tolist(),
                "lower": None,
                "upper": None,
                "centered_singular_values": self.spectrum.centered_singular_values.tolist(),
                "resolution": self.spectrum.resolution,
                "centered_resolution": self.spectrum.centered_resolution,
            },
            "audit": audit | {"chunks_missing": self.chunks_missing, "integrity": self.integrity},
            "plan": self.plan.to_dict(),
            "measured": dict(self.measured),
            "provenance": dict(self.provenance),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the result as JSON text; numbers read back as the same double."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """Return the table that ``rankme score`` prints."""
        return table(self.to_dict())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def estimate_to_dict(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON types: infinities as strings, reason and details only where there are any."""
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
        plain["details"] = dict(estimate.details)
    return plain


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "inf" if value > 0 else "-inf"


def table(result: Mapping[str, Any]) -> str:
    """Return a result in its JSON form as the table people read."""
    source = result["source"]
    lines = [
        f"{source['uri']}",
        f"{result['rows_read']:,} of {source['n_rows']:,} rows x {source['n_features']:,} {source['dtype']}, "
        f"{result['method']} in {result['precision']}, {_duration(result['measured'])}",
        "",
    ]
    width = max(len(name) for name in (*result["estimates"], *result["presets"]))
    for name, estimate in result["estimates"].items():
        lines.append(f"  {name:<{width}}  {_shown(estimate):>12}  {result['definition'][name]}")
        if estimate["value"] is None:
            lines.append(f"  {'':<{width}}  {'':>12}  {estimate['reason']}")
    lines += ["", "  RankMe in other conventions"]
    for name, estimate in result["presets"].items():
        lines.append(f"  {name:<{width}}  {_shown(estimate):>12}  {estimate['details']['definition']}")
    lines += ["", *_audit_lines(result["audit"])]
    lines.append("  No interval is stated: this version does not bound its errors.")
    return "\n".join(lines)


def _shown(estimate: Mapping[str, Any]) -> str:
    value = estimate["value"]
    if value is None:
        return "-"
    if isinstance(value, int | str):
        return str(value)
    return f"{value:.6g}"


def _duration(measured: Mapping[str, float]) -> str:
    seconds, peak = measured["elapsed_s"], measured["peak_bytes"]
    return f"{seconds:.1f} s, {peak / 2**20:,.0f} MiB at most"


def _audit_lines(audit: Mapping[str, Any]) -> list[str]:
    found = []
    for key, what in (("nonfinite", "not finite, left out"), ("zero", "zero throughout"), ("missing", "never written")):
        if audit[f"rows_{key}"]:
            found.append(f"  {audit[f'rows_{key}']:,} rows {what}; the first is row {audit[f'first_{key}']:,}")
    integrity = audit["integrity"]
    checked = "have no checksum" if integrity == "none" else f"are checked by {integrity}"
    return [*(found or ["  Every row was finite, present and not zero throughout."]), f"  Stored chunks {checked}."]
