"""The result of a pass: its numbers, where they come from, and its JSON form."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
from rankme_stream.spectra.estimates import Estimate, is_within
from rankme_stream.spectra.spectrum import SingularValues, Spectrum

SCHEMA_VERSION = 1
_LISTED_GROUPS = 20
_SPELLED_OUT = 1e3  # larger steps are written as powers of ten
_INVISIBLE = 1e-300  # near the end of the double range powers of ten have no digits left to round to


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
    normalized
        Metrics of the rows scaled to unit length; empty unless asked for.
    dims
        Every metric of the first d features, by d; empty unless asked for.
    tolerance, tolerance_met
        Largest relative half-width of RankMe's interval that was asked for, and whether it is met.
    passes
        Method, precision and half-width of every pass over the rows; the last one gave the numbers.
    convergence
        RankMe after each look at a sample: ``rows``, ``value``, ``lower``, ``upper``; empty when none was taken.
    sampling
        Which part of the rows the numbers come from and how it was drawn; None when every row was read.
    spectrum, audit, plan
        The singular values and their box, what was wrong with the rows, what was planned.
    rows_read
        Rows that the numbers are about; rows left out are not among them.
    measured
        ``elapsed_s``, ``cpu_s``, ``bytes_read``, ``peak_bytes``.
    provenance
        Versions and machine.
    groups
        Every metric of each group, by its name; empty unless asked for. Worked out when looked up.
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
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)

    @property
    def rankme(self) -> Estimate:
        """RankMe of the paper: uncentred, epsilon 1e-7."""
        return self.estimates["rankme"]

    @property
    def tolerance_met(self) -> bool:
        """Whether RankMe's interval is as narrow as was asked; also for zero rows, which have no RankMe."""
        if self.sampling is not None and self.rankme.value is None:
            return False
        return is_within(self.rankme, self.spectrum, self.tolerance)

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
                "basis": self.spectrum.basis,
                "confidence": self.spectrum.confidence,
                "grounds": self.spectrum.grounds,
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


def _kind(side: SingularValues) -> str:
    if side.folds is not None:
        return "sketch"
    return "box" if side.consistent.energy is None else "floor"


def _all_to_dicts(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate_to_dict(estimate) for name, estimate in estimates.items()}


def _side_to_dict(side: SingularValues, prefix: str) -> dict[str, Any]:
    box = side.consistent
    told: dict[str, Any] = {
        f"{prefix}singular_values": side.values.tolist(),
        f"{prefix}lower": box.lower.tolist(),
        f"{prefix}upper": box.upper.tolist(),
    }
    if box.energy is not None:
        told[f"{prefix}energy"] = list(box.energy)
    if box.tail is not None:
        told[f"{prefix}tail"] = box.tail._asdict()
    return told


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


def table(result: Mapping[str, Any]) -> str:
    """Return a result in its JSON form as the table people read."""
    source = result["source"]
    lines = [
        f"{source['uri']}",
        f"{result['rows_read']:,} of {source['n_rows']:,} rows x {source['n_features']:,} {source['dtype']}, "
        f"{result['method']} in {result['precision']}, {_duration(result['measured'])}",
        "",
    ]
    names = (*result["estimates"], *result["presets"], *result["normalized"])
    width = max(len(name) for name in names)

    def section(title: str, estimates: Mapping[str, Any], definition: Callable[[str], str]) -> None:
        lines.extend(["", f"  {title}"] if title else [])
        for name, estimate in estimates.items():
            value, interval = shown(estimate)
            lines.append(f"  {name:<{width}}  {value:>13} {interval:<11}  {definition(name)}")
            if estimate["value"] is None:
                lines.append(f"  {'':<{width}}  {'':>25}  {estimate['reason']}")

    section("", result["estimates"], lambda name: str(result["definition"][name]))
    for d, estimates in result["dims"].items():
        section(f"First {int(d):,} features", estimates, lambda name: str(result["definition"][name]))
    if result["normalized"]:
        section("Unit rows", result["normalized"], lambda name: str(result["definition"][f"normalized.{name}"]))
    section(
        "RankMe in other conventions", result["presets"],
        lambda name: str(result["presets"][name]["details"]["definition"]),
    )  # fmt: skip
    lines += _lidar_lines(result["estimates"].get("lidar")) + _group_lines(result.get("groups", {}))
    lines += [
        "",
        *_audit_lines(result["audit"], result["rows_read"] < result["source"]["n_rows"]),
        *_interval_lines(result),
    ]
    return "\n".join(lines)


def _lidar_lines(lidar: Mapping[str, Any] | None) -> list[str]:
    """Return of what groups LiDAR is, and how much it would vary with them."""
    if lidar is None:
        return []
    details = lidar["details"]
    least, most = details["rows_per_group"]
    sizes = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    lines = ["", f"  LiDAR is of {details['groups']:,} groups of {sizes} rows, with delta {details['delta']:g}."]
    if over := details.get("over_groups"):
        lines.append(
            f"  With as many other groups like these it is between {_outward(over[0], 4, math.floor)} and "
            f"{_outward(over[1], 4, math.ceil)} with probability {details['over_groups_confidence']:g}."
        )
    return lines


def _group_lines(groups: Mapping[str, Any]) -> list[str]:
    """Return RankMe of the first groups, a line each."""
    if not groups:
        return []
    listed = {name: estimates["rankme"] for name, estimates in list(groups.items())[:_LISTED_GROUPS]}
    width = max(map(len, listed))
    lines = ["", "  RankMe of groups"]
    for name, estimate in listed.items():
        value, interval = shown(estimate)
        told = f"{estimate['details']['n_rows']:,} rows" if "details" in estimate else ""
        lines.append(f"  {name:<{width}}  {value:>13} {interval:<11}  {estimate.get('reason') or told}")
    if len(groups) > len(listed):
        lines.append(f"  and {len(groups) - len(listed):,} more groups, which are in the JSON")
    return lines


def shown(estimate: Mapping[str, Any]) -> tuple[str, str]:
    """Return a number in its JSON form with as many digits as its interval supports, and that interval."""
    value, lower, upper = (_double(estimate[key]) for key in ("value", "lower", "upper"))
    if lower is None or upper is None:
        return "-", ""
    if value is None or math.isinf(upper):
        return ("inf", "") if math.isinf(lower) else (f">= {_outward(lower, 3, math.floor)}", "")
    if isinstance(estimate["value"], int):
        return (str(estimate["value"]), "") if lower == upper else (f"{lower:.0f} to {upper:.0f}", "")
    half_width = max(upper - value, value - lower)
    if half_width < _INVISIBLE:
        return f"{value:.10g}", ""
    if half_width >= abs(value) / 2:
        return f"{_outward(lower, 2, math.floor)} to {_outward(upper, 2, math.ceil)}", ""
    decimals = -math.floor(math.log10(half_width))
    decimals = min(decimals, 9 - math.floor(math.log10(abs(value))))  # ten significant digits at most
    printed = round(value, decimals)
    half_width += abs(printed - value)  # what is printed holds the interval, too
    step = 10.0 ** (math.floor(math.log10(half_width)) - 1)
    return f"{printed:.{max(0, decimals)}f}", f"± {math.ceil(half_width / step) * step:.1e}"


def _outward(end: float, digits: int, toward: Callable[[float], int]) -> str:
    """Return the end of an interval in so many digits, rounded away from the inside."""
    if abs(end) < _INVISIBLE:
        return f"{end:.{digits}g}"
    step = 10.0 ** (math.floor(math.log10(abs(end))) - digits + 1)
    rounded = toward(end / step) * step
    return f"{rounded:.0f}" if 1.0 < step < _SPELLED_OUT else f"{rounded:.{digits}g}"


def _left(attempt: Mapping[str, Any]) -> str:
    half_width = attempt["half_width"]
    return "RankMe undetermined" if half_width is None else f"RankMe ± {float(half_width):.1e}, more than the tolerance"


def _double(value: float | str | None) -> float | None:
    return value if value is None else float(value)


def _interval_lines(result: Mapping[str, Any]) -> list[str]:
    is_sketch = result["spectrum"]["kind"] != "box"
    held = "the errors of arithmetic and approximation" if is_sketch else "the error of the arithmetic"
    lines = [f"  Intervals hold {held}, {result['spectrum']['grounds']}."]
    likely = result["estimates"]["rankme"]["value"]
    if is_sketch and likely is not None:
        lines.append(f"  RankMe is {float(likely):.4g} if what was not seen falls as a power of the rank: a guess.")
    sampling = result.get("sampling")
    if sampling:
        lines += _sampling_lines(result, sampling)
    for earlier in result["passes"][:-1]:
        lines.append(f"  A pass by {earlier['method']} in {earlier['precision']} left {_left(earlier)}.")
    worst = result["estimates"]["rankme"].get("details", {}).get("worst_case")
    if worst:
        lines.append(f"  Worst case, by theorem: RankMe is between {float(worst[0]):.10g} and {float(worst[1]):.10g}.")
    confidence = result["spectrum"]["confidence"]
    if confidence is not None and confidence < 1.0:
        lines.append(f"  They hold with probability {confidence:g} at least.")
    if not result["tolerance_met"]:
        lines.append(f"  RankMe's interval is wider than the tolerance {result['tolerance']:g}.")
    return lines


def _sampling_lines(result: Mapping[str, Any], sampling: Mapping[str, Any]) -> list[str]:
    whom = "for what they were drawn from" if sampling["population"] else "for all rows"
    decoded = sampling["rows_decoded"] / result["rows_read"]
    lines = [
        f"  They hold the error of reading a part as well, {whom}, with probability {sampling['confidence']:g}: "
        f"{sampling['units_read']:,} of {sampling['units']:,} units of {sampling['unit_rows']:,} rows, seed "
        f"{sampling['seed']}; {decoded:.1f} rows decoded a row used.",
    ]
    for point in result["convergence"]:
        value, interval = shown(point)
        lines.append(f"    {point['rows']:>13,} rows  RankMe {value} {interval}".rstrip())
    return lines


def _duration(measured: Mapping[str, float]) -> str:
    seconds, peak = measured["elapsed_s"], measured["peak_bytes"]
    return f"{seconds:.1f} s, {peak / 2**20:,.0f} MiB at most"


def _audit_lines(audit: Mapping[str, Any], is_part: bool) -> list[str]:
    found = []
    for key, what in (("nonfinite", "not finite, left out"), ("zero", "zero throughout"), ("missing", "never written")):
        if audit[f"rows_{key}"]:
            first = f"the first {'that was read ' if is_part else ''}is row {audit[f'first_{key}']:,}"
            found.append(f"  {audit[f'rows_{key}']:,} rows {what}; {first}")
    integrity = audit["integrity"]
    checked = "have no checksum" if integrity == "none" else f"are checked by {integrity}"
    clean = f"  Every row{' that was read' if is_part else ''} was finite, present and not zero throughout."
    return [*(found or [clean]), f"  Stored chunks {checked}."]
