"""Results reduced to what a comparison needs, and the checks that their numbers may be compared."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankme_stream.errors import UsageError
from rankme_stream.spectra.estimates import METRICS, NORMALIZED, PRESETS

LIDAR = "lidar"  # the one metric of groups, present where groups were requested
_LONGEST = 2.0**500  # no number of rows of unit length has a singular value as large
_UNIT_LENGTH = 2.0**-7  # distance of the mean square of unit rows from 1 by the rounding of bfloat16


@dataclass(frozen=True)
class Number:
    """Metric of a run, in its JSON form and as doubles; ends that are not stated are infinite."""

    estimate: Mapping[str, Any] = field(repr=False)
    value: float | None
    lower: float
    upper: float

    @classmethod
    def of(cls, estimate: Mapping[str, Any]) -> Number:
        """Return the number of an estimate in its JSON form."""
        value, lower, upper = (estimate[key] for key in ("value", "lower", "upper"))
        return cls(
            estimate,
            None if value is None else float(value),
            -math.inf if lower is None else float(lower),
            math.inf if upper is None else float(upper),
        )

    def overlaps(self, other: Number) -> bool:
        """Return whether both intervals have a number in common."""
        return self.lower <= other.upper and other.lower <= self.upper


@dataclass(frozen=True)
class ComparableRun:
    """Result of a run, reduced to what a comparison needs.

    Attributes
    ----------
    uri
        URI of the dump.
    origin
        Origin of its result: the same URI, a file, or ``FILE:LINE`` of several results.
    rows
        Number of rows that the numbers stand for: those read, all of a sampled range, infinitely many of a population.
    decoding
        What the stored numbers mean, in words; results of earlier versions took them as they are stored.
    has_unit_rows
        Whether the rows are stored with unit length: the mean of |z|^2 is 1 to within 2^-7.
    numbers, definitions
        Every number and its formula, by metric: ``rankme``, ``normalized.vendi``, ``dims.64.rankme``,
        ``presets.reptrix``.
    """

    uri: str
    origin: str
    n_features: int
    dtype: str
    decoding: str
    method: str
    precision: str
    rows: float
    is_population: bool
    has_unit_rows: bool
    numbers: Mapping[str, Number] = field(repr=False)
    definitions: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any], origin: str) -> ComparableRun:
        """Return the run of a result in its JSON form, as measured here or as ``document.parse_results`` checked it."""
        source, sampling = document["source"], document["sampling"]
        is_population = sampling is not None and sampling["population"]
        flat = dict(_flat(document))
        return cls(
            uri=source["uri"],
            origin=origin,
            n_features=source["n_features"],
            dtype=source["dtype"],
            decoding=_decoding(source),
            method=document["method"],
            precision=document["precision"],
            rows=(
                math.inf if is_population else document["rows_read"] if sampling is None else _rows_planned(document)
            ),
            is_population=is_population,
            has_unit_rows=abs(_mean_square(document) - 1.0) <= _UNIT_LENGTH,
            numbers={metric: Number.of(estimate) for metric, (estimate, _) in flat.items()},
            definitions={metric: definition for metric, (_, definition) in flat.items()},
        )

    def width_of(self, metric: str) -> int:
        """Return the number of features that a metric uses."""
        return int(metric.split(".")[1]) if metric.startswith("dims.") else self.n_features


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Mapping[str, Any], str]]]:
    """Yield every metric with its estimate and its formula."""
    formulas = document["definition"]
    for name, estimate in document["estimates"].items():
        yield name, (estimate, formulas[name])
    for name, estimate in document["normalized"].items():
        yield f"normalized.{name}", (estimate, formulas[f"normalized.{name}"])
    for d, estimates in document["dims"].items():
        for name, estimate in estimates.items():
            yield f"dims.{d}.{name}", (estimate, formulas[name])
    for name, estimate in document["presets"].items():
        yield f"presets.{name}", (estimate, estimate["details"]["definition"])


def _decoding(source: Mapping[str, Any]) -> str:
    as_stored = f"{source['dtype']} as stored"
    decoding = str(source.get("decoding", as_stored))
    return as_stored if decoding.startswith(as_stored) else decoding


def _rows_planned(document: Mapping[str, Any]) -> int:
    return int(document["plan"]["row_stop"]) - int(document["plan"]["row_start"])


def _mean_square(document: Mapping[str, Any]) -> float:
    """Return the mean of |z|^2 over the rows read that are not zero throughout."""
    spectrum = document["spectrum"]
    values = [float(value) for value in spectrum["singular_values"]]
    if max(values, default=0.0) > _LONGEST:
        return math.inf
    squares = math.fsum(value**2 for value in values)
    energy: float = squares if "energy" not in spectrum else sum(map(float, spectrum["energy"])) / 2.0
    return energy / max(1, int(document["rows_read"]) - int(document["audit"]["rows_zero"]))


def check_metric(metric: str) -> None:
    """Refuse a metric that no result has."""
    *section, name = metric.split(".")
    table: Collection[str]
    match section:
        case []:
            table = {*METRICS, LIDAR}
        case ["normalized"]:
            table = NORMALIZED
        case ["presets"]:
            table = PRESETS
        case ["dims", d] if re.fullmatch(r"[1-9][0-9]{0,17}", d):
            table = METRICS
        case _:
            table = ()
    if name not in table:
        names = [*METRICS, LIDAR, *(f"normalized.{one}" for one in NORMALIZED), *(f"presets.{one}" for one in PRESETS)]
        raise UsageError(
            f"there is no metric {metric!r}; there are {', '.join(names)}, and dims.D.NAME for the first D features"
        )


def options_for(metric: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a pass with those that a metric needs."""
    needed = dict(options)
    if metric.startswith("normalized."):
        needed["normalize"] = True
    if metric.startswith("dims."):
        needed["dims"] = (*options["dims"], int(metric.split(".")[1]))
    return needed


def names_of(runs: Sequence[ComparableRun]) -> list[str]:
    """Return the display name of each run: the shortest end of its URI, cut at slashes, that no other has.

    Where several results have one URI, their origins are used instead.

    Raises
    ------
    UsageError
        If one of these was given twice.
    """
    uses = Counter(run.uri for run in runs)
    labels = [run.uri if uses[run.uri] == 1 else run.origin for run in runs]
    label, times = Counter(labels).most_common(1)[0] if labels else ("", 0)
    if times > 1:
        raise UsageError(f"{label} is given {times} times: name every run once")
    ends = [_ends(label) for label in labels]
    shared = Counter(end for one in ends for end in one)
    return [next((end for end in one if shared[end] == 1), one[-1]) for one in ends]


def _ends(label: str) -> list[str]:
    parts = label.split("/")
    return ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]


def incompatibilities(runs: Sequence[ComparableRun], names: Sequence[str], metric: str) -> list[str]:
    """Return the reasons why a metric of these runs must not be compared; empty where it may be.

    Notes
    -----
    These must agree: the formula; the width and min(N, D), which no effective rank exceeds; whether the numbers stand
    for the rows or for their population; whether the rows are stored with unit length, except for metrics of unit rows;
    and for LiDAR the number of groups and of their rows.
    """
    differences = [
        ("definitions", [run.definitions[metric] for run in runs]),
        ("widths", [f"{run.width_of(metric):,} features" for run in runs]),
        ("targets of the intervals", ["a population" if run.is_population else "the rows" for run in runs]),
    ]
    if len({run.width_of(metric) for run in runs}) == 1:
        bounds = [f"{min(run.rows, run.width_of(metric)):,} (rows or features)" for run in runs]
        differences.append(("largest possible ranks", bounds))
    if not metric.startswith("normalized."):
        stored = ["unit rows" if run.has_unit_rows else "rows of other lengths" for run in runs]
        differences.append(("normalisations", stored))
    if metric == LIDAR:
        differences.append(("groups", [_groups(run.numbers[metric].estimate["details"]) for run in runs]))
    return _describe_differences(differences, names)


def _groups(details: Mapping[str, Any]) -> str:
    least, most = details["rows_per_group"]
    return f"{details['groups']:,} groups of {least:,} to {most:,} rows, delta {details['delta']:g}"


def remarks(runs: Sequence[ComparableRun], names: Sequence[str]) -> list[str]:
    """Return the differences between runs that do not forbid a comparison."""
    rows = [f"{run.rows:,.0f} rows" for run in runs]
    if all(run.decoding == f"{run.dtype} as stored" for run in runs):
        stored = ("stored types", [run.dtype for run in runs])
    else:  # the type of the values may be another than that of the stored numbers
        stored = ("meanings of the stored numbers", [run.decoding for run in runs])
    return _describe_differences(
        [
            ("numbers of rows", rows),
            stored,
            ("arithmetics", [f"{run.method} in {run.precision}" for run in runs]),
        ],
        names,
    )


def _describe_differences(differences: Sequence[tuple[str, Sequence[str]]], names: Sequence[str]) -> list[str]:
    """Return a line for each property that is not the same in all runs, with an example of each kind."""
    lines = []
    for what, kinds in differences:
        examples = dict(zip(reversed(kinds), reversed(names), strict=True))  # the first run of a kind stays
        if len(examples) > 1:
            some = "; ".join(f"{examples[kind]}: {kind}" for kind in dict.fromkeys(kinds))
            lines.append(f"the {what} differ: {some}")
    return lines
