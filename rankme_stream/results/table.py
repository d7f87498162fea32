"""A measurement as a table of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rankme_stream.errors import counted, printable
from rankme_stream.numerics.decimals import error_text, rounded_down, rounded_up, with_error
from rankme_stream.sources import absent_numbers

_LISTED_GROUPS = 20
_LISTED_GAPS = 8
_MOST_DIGITS = 10  # significant digits of a value


def table(result: Mapping[str, Any]) -> str:
    """Return a result in its JSON form as a table of text."""
    source = result["source"]
    kind = source["dtype"] if source["dtype"] in source.get("decoding", source["dtype"]) else "features"
    lines = [
        printable(source["uri"]),
        *([what_it_is(source)] if "storage" in source else []),
        f"{result['rows_read']:,} of {source['n_rows']:,} rows x {source['n_features']:,} "
        + printable(f"{kind}, {_arithmetic(result)}, {_duration(result['measured'])}"),
        *source_lines(source),
        "",
    ]
    names = (*result["estimates"], *result["presets"], *result["normalized"])
    width = max(len(printable(name)) for name in names)
    withheld = None if result.get("sampling") is None else result["estimates"]["rankme"].get("reason")

    def section(title: str, estimates: Mapping[str, Any], definition: Callable[[str], str]) -> None:
        lines.extend(["", f"  {title}"] if title else [])
        for name, estimate in estimates.items():
            value, interval = format_estimate(estimate)
            is_repeated = (
                withheld == estimate.get("reason") is not None and estimate is not result["estimates"]["rankme"]
            )
            interval = "as rankme" if is_repeated else interval
            line = f"{printable(name):<{width}}  {value:>13} {interval:<11}  {printable(definition(name))}"
            lines.append(f"  {line}")
            if estimate["value"] is None and not is_repeated:
                lines.append(f"  {'':<{width}}  {'':>25}  {printable(estimate['reason'])}")

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
        *_audit_lines(result),
        *_interval_lines(result),
        *(f"  {printable(remark)}" for remark in result.get("remarks", ())),
    ]
    return "\n".join(lines)


def source_lines(source: Mapping[str, Any]) -> list[str]:
    """Return what the stored numbers mean, unless they are the values, and which arrays a dump of several has.

    Parameters
    ----------
    source
        As in a result: ``dtype`` and, where they are known, ``decoding`` and ``parts``.
    """
    words = source.get("decoding", "")
    is_plain = words == f"{source['dtype']} as stored"
    decoding = [f"values: {printable(words)}"] if words and not is_plain else []
    return decoding + _part_lines(source.get("parts", []))


def what_it_is(source: Mapping[str, Any]) -> str:
    """Return a source in one line: its format, size, type and place.

    Parameters
    ----------
    source
        As in a result, with ``storage``.
    """
    storage = source["storage"]
    n_bytes = bytes_text(storage["bytes"])
    if "bytes_stored" in storage:
        n_bytes += f", stored in {bytes_text(storage['bytes_stored'])}"
    return printable(
        f"{storage['format']} {storage['where']}: {source['n_rows']:,} rows x {source['n_features']:,} features, "
        f"{source['dtype']}, {n_bytes}"
    )


def bytes_text(n_bytes: float) -> str:
    """Return a number of bytes with the unit that suits it."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        n_bytes /= 1000
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
    return f"{n_bytes / 1000:,.4g} PB"


def _part_lines(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which arrays a dump is made of, and the numbers that their names skip."""
    if len(parts) < 2:
        return []
    names = [part["name"] for part in parts]
    runs = [f"{first}" if first == last else f"{first}-{last}" for first, last in absent_numbers(names)]
    listed = ", ".join(runs[:_LISTED_GAPS]) + (", ..." if len(runs) > _LISTED_GAPS else "")
    absent = f"; there is none of number {listed}" if runs else ""
    return [f"{len(names):,} arrays as one, {printable(f'{names[0]} to {names[-1]}')}{absent}"]


def _lidar_lines(lidar: Mapping[str, Any] | None) -> list[str]:
    """Return the groups that LiDAR is computed from, and how much it varies with them."""
    if lidar is None:
        return []
    details = lidar["details"]
    least, most = details["rows_per_group"]
    sizes = counted(least, "row") if least == most else f"{least:,} to {most:,} rows"
    used = f"LiDAR uses {counted(details['groups'], 'group')} of {sizes}, with delta {details['delta']:g}."
    if not details["groups"]:
        used = "LiDAR uses no group: it takes those of two rows or more, and no group has so many."
    lines = ["", f"  {used}"]
    if n_rows := details.get("rows_unlabelled"):
        lack = "1 row has no label: it is" if n_rows == 1 else f"{n_rows:,} rows have no label: they are"
        lines.append(f"  {lack} in no group, and in the numbers of all rows.")
    if over := details.get("over_groups"):
        lines.append(
            f"  With as many other groups like these it is between {rounded_down(over[0], 4)} and "
            f"{rounded_up(over[1], 4)} with probability {details['over_groups_confidence']:g}."
        )
    return lines


def _group_lines(groups: Mapping[str, Any]) -> list[str]:
    """Return RankMe of the first groups, one line each."""
    if not groups:
        return []
    listed = [(printable(name) or "''", groups[name]["rankme"]) for name in list(groups)[:_LISTED_GROUPS]]
    width = max(len(name) for name, _ in listed)
    lines = ["", "  RankMe of groups"]
    for name, estimate in listed:
        value, interval = format_estimate(estimate)
        details = estimate.get("details", {})
        n_rows = counted(details["n_rows"], "row") if "n_rows" in details else ""
        lines.append(f"  {name:<{width}}  {value:>13} {interval:<11}  {printable(estimate.get('reason') or n_rows)}")
    if len(groups) > len(listed):
        lines.append(f"  and {counted(len(groups) - len(listed), 'more group')}, in the JSON")
    return lines


def format_estimate(estimate: Mapping[str, Any]) -> tuple[str, str]:
    """Return the value of an estimate in JSON form, with the digits that its interval supports, and that interval.

    The interval printed contains the interval stored.
    """
    value, lower, upper = (_double(estimate[key]) for key in ("value", "lower", "upper"))
    if lower is None or upper is None:
        return "-", ""
    if value is None or math.isinf(upper):
        if math.isinf(lower):
            return ("inf", "") if lower > 0 else ("-", "")
        return f">= {rounded_down(lower, 3)}", ""
    if math.isinf(lower):
        return f"<= {rounded_up(upper, 3)}", ""
    if isinstance(estimate["value"], int):
        return (str(estimate["value"]), "") if lower == upper else (f"{math.floor(lower)} to {math.ceil(upper)}", "")
    if 2.0 * max(upper - value, value - lower) >= abs(value):
        return ("0", "") if lower == upper else (f"{rounded_down(lower, 2)} to {rounded_up(upper, 2)}", "")
    return with_error(value, lower, upper, _MOST_DIGITS)


def _precision_reached(earlier: Mapping[str, Any]) -> str:
    half_width = earlier["half_width"]
    if half_width is None:
        return "RankMe undetermined"
    return f"RankMe ± {error_text(float(half_width))}, more than the tolerance"


def _double(value: float | str | None) -> float | None:
    return value if value is None else float(value)


def _interval_lines(result: Mapping[str, Any]) -> list[str]:
    is_sketch = result["spectrum"]["kind"] != "box"
    errors = "the errors of arithmetic and approximation" if is_sketch else "the error of the arithmetic"
    lines = [f"  Intervals cover {errors}, {printable(result['spectrum']['grounds'])}."]
    value, lower = (result["estimates"]["rankme"][key] for key in ("value", "lower"))
    if is_sketch and value is not None:
        lines.append(f"  RankMe is {float(value):.4g} if the values not seen fall as a power of the rank: a guess.")
    lines += _sampling_lines(result, result.get("sampling"))
    for earlier in result["passes"][:-1]:
        arithmetic = printable(f"{earlier['method']} in {earlier['precision']}")
        lines.append(f"  A pass by {arithmetic} left {_precision_reached(earlier)}.")
    worst = result["estimates"]["rankme"].get("details", {}).get("worst_case")
    if worst:
        ends = f"{rounded_down(float(worst[0]), 10)} and {rounded_up(float(worst[1]), 10)}"
        lines.append(f"  Worst case, by theorem: RankMe is between {ends}.")
    confidence = result["spectrum"]["confidence"]
    if confidence is not None and confidence < 1.0:
        lines.append(f"  Intervals hold with probability {confidence:g} at least.")
    if not result["tolerance_met"] and (value is not None or lower is not None):
        lines.append(f"  RankMe's interval is wider than the tolerance {result['tolerance']:g}.")
    return lines


def _sampling_lines(result: Mapping[str, Any], sampling: Mapping[str, Any] | None) -> list[str]:
    """Return what was read of the rows, what that does not exclude, and the looks that led there."""
    looks = [f"    {_look_line(point)}" for point in result["convergence"]]
    if sampling is None:
        return ["  Every row was read, for none of these looks at a sample was enough:", *looks] if looks else []
    cause = (
        "the choice of the rows, for the population that they were drawn from"
        if sampling["population"]
        else "the error of reading a part, for all rows"
    )
    is_part = bool(result["convergence"])  # otherwise a pass read every row
    decoded = f"; {sampling['rows_decoded'] / result['rows_read']:.1f} rows decoded per row used" if is_part else ""
    lines = [
        f"  They also cover {cause}, with probability {sampling['confidence']:g}: "
        f"{sampling['units_read']:,} of {sampling['units']:,} units of {counted(sampling['unit_rows'], 'row')}, seed "
        f"{sampling['seed']}{decoded}.",
    ]
    rankme = result["estimates"]["rankme"]
    if "rare" in sampling and rankme["value"] is not None:
        lines.append(f"  {_rare_line(result['rows_read'], sampling)}")
    if "estimator" in sampling and rankme["value"] is not None:
        theory = "random-matrix theory" if sampling["estimator"] == "random-matrix" else "the jackknife"
        lines.append(
            f"  Corrected by {theory}: the rows read, {result['rows_read'] / result['source']['n_features']:.3g} per "
            f"feature, have RankMe {rankme['details']['sample']:.4g}."
        )
    return lines + (["  Convergence, after each look:", *looks] if looks else [])


def _rare_line(rows_read: int, sampling: Mapping[str, Any]) -> str:
    rare, size = sampling["rare"], counted(sampling["unit_rows"], "row")
    is_every_row = rows_read > rare["units"] * sampling["unit_rows"]  # and some show how much rows vary
    return (
        f"Holds unless some units ({size} each) differ from all {rare['units']:,} that were "
        f"{'compared' if is_every_row else 'read'}: fewer than "
        f"{rounded_up(100.0 * rare['not_excluded'], 2)} % of them all ({100 * rare['confidence']:g} %)."
    )


def _look_line(point: Mapping[str, Any]) -> str:
    """Return a look at a sample: its rows, RankMe or why it is not stated, and the rows that would do."""
    value, interval = format_estimate(point)
    line = f"{point['rows']:>13,} rows  RankMe {value} {interval}".rstrip()
    if point.get("withheld") is not None:
        return f"{line}: {printable(point['withheld'])}"
    wanted = point.get("rows_wanted") or 0
    return line if wanted <= point["rows"] else f"{line}; the tolerance needs about {float(f'{wanted:.2g}'):,.0f} rows"


def _arithmetic(result: Mapping[str, Any]) -> str:
    where = "" if result["device"] == "cpu" else f" on {result['device']}"
    return f"{result['method']} in {result['precision']}{where}"


def _duration(measured: Mapping[str, float]) -> str:
    seconds, peak = measured["elapsed_s"], measured["peak_bytes"]
    return f"{seconds:.1f} s, {peak / 2**20:,.0f} MiB at most"


def _audit_lines(result: Mapping[str, Any]) -> list[str]:
    audit, is_part = result["audit"], result["rows_read"] < result["source"]["n_rows"]
    left_out = "without data or not finite" if "no data" in result["source"].get("decoding", "") else "not finite"
    zero = "zero throughout" + (", left out" if result.get("rules", {}).get("zeros") == "skip" else "")
    faults = []
    for key, what in (("nonfinite", f"{left_out}, left out"), ("zero", zero), ("missing", "never written")):
        if audit[f"rows_{key}"]:
            first = f"the first {'that was read ' if is_part else ''}is row {audit[f'first_{key}']:,}"
            faults.append(f"  {counted(audit[f'rows_{key}'], 'row')} {what}; {first}")
    integrity = audit["integrity"]
    checked = "carry no checksum" if integrity == "none" else f"are checked by {printable(integrity)}"
    clean = f"  Every row{' that was read' if is_part else ''} was finite, present and not zero throughout."
    return [*(faults or [clean]), f"  The stored rows {checked}."]
