"""What a comparison takes of a run's result, and what of it must agree before numbers are compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.spectra.estimates import METRICS, NORMALIZED, PRESETS

LIDAR = "lidar"  # the one metric of groups, there where groups were asked for
_UNIT_LENGTH = 2.0**-7  # how far the mean square of unit rows may be from 1: bfloat16 rounds that much off


@dataclass(frozen=True)
class Number:
    """A metric of a run in its JSON form, and as doubles: ends that are not stated are infinite."""

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
        """Whether both intervals hold some number."""
        return self.lower <= other.upper and other.lower <= self.upper


@dataclass(frozen=True)
class ComparableRun:
    """A result, by what comparing needs of it.

    Attributes
    ----------
    uri, place
        Of the dump, and where its result came from: the same URI, a file, or ``FILE:LINE`` of several results.
    rows
        How many rows the numbers are about: those read, all that a sample stands for, infinitely many of a population.
    has_unit_rows
        Whether the rows have unit length as they are stored: the mean of |z|^2 is 1 to within 2^-7.
    numbers, definitions
        Every number and its formula, by metric: ``rankme``, ``normalized.vendi``, ``dims.64.rankme``,
        ``presets.reptrix``.
    """

    uri: str
    place: str
    n_features: int
    dtype: str
    method: str
    precision: str
    rows: float
    is_population: bool
    has_unit_rows: bool
    numbers: Mapping[str, Number] = field(repr=False)
    definitions: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any], place: str) -> ComparableRun:
        """Return the run of a result in its JSON form.

        Raises
        ------
        SourceFormatError
            If something is absent or of another type.
        """
        try:
            source, sampling = document["source"], document["sampling"]
            is_population = sampling is not None and sampling["population"]
            flat = dict(_flat(document))
            return cls(
                source["uri"],
                place,
                source["n_features"],
                source["dtype"],
                document["method"],
                document["precision"],
                math.inf if is_population else document["rows_read"] if sampling is None else _rows_asked(document),
                is_population,
                abs(_mean_square(document) - 1.0) <= _UNIT_LENGTH,
                {metric: Number.of(estimate) for metric, (estimate, _) in flat.items()},
                {metric: definition for metric, (_, definition) in flat.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SourceFormatError(f"{place} is damaged: {error} is absent or of another type") from None

    def width_of(self, metric: str) -> int:
        """Return how many features a metric is about."""
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


def _rows_asked(document: Mapping[str, Any]) -> int:
    return int(document["plan"]["row_stop"]) - int(document["plan"]["row_start"])


def _mean_square(document: Mapping[str, Any]) -> float:
    """Mean of |z|^2 over the rows read that are not zero throughout."""
    spectrum = document["spectrum"]
    squares = [float(value) ** 2 for value in spectrum["singular_values"]]
    energy: float = math.fsum(squares) if "energy" not in spectrum else sum(map(float, spectrum["energy"])) / 2.0
    return energy / max(1, int(document["rows_read"]) - int(document["audit"]["rows_zero"]))


def check_metric(metric: str) -> None:
    """Refuse a name that no result has."""
    *section, name = metric.split(".")
    table: Collection[str]
    match section:
        case []:
            table = {*METRICS, LIDAR}
        case ["normalized"]:
            table = NORMALIZED
        case ["presets"]:
            table = PRESETS
        case ["dims", d] if d.isdecimal() and d == str(int(d)):
            table = METRICS
        case _:
            table = ()
    if name not in table:
        names = [*METRICS, LIDAR, *(f"normalized.{one}" for one in NORMALIZED), *(f"presets.{one}" for one in PRESETS)]
        raise UsageError(f"there is no metric {metric!r}; there are {', '.join(names)}, and dims.D.NAME of the first")


def options_for(metric: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a pass with those that a metric needs."""
    needed = dict(options)
    if metric.startswith("normalized."):
        needed["normalize"] = True
    if metric.startswith("dims."):
        needed["dims"] = (*options["dims"], int(metric.split(".")[1]))
    return needed


def names_of(runs: Sequence[ComparableRun]) -> list[str]:
    """Return what each run is shown as: the shortest end of its URI, cut at slashes, that no other has.

    Where several results are of one URI, the place that they came from stands for it.

    Raises
    ------
    UsageError
        If one place was given twice.
    """
    uses = Counter(run.uri for run in runs)
    labels = [run.uri if uses[run.uri] == 1 else run.place for run in runs]
    label, times = Counter(labels).most_common(1)[0] if labels else ("", 0)
    if times > 1:
        raise UsageError(f"{label} is given {times} times: name every run once")
    ends = [_ends(label) for label in labels]
    shared = Counter(end for one in ends for end in one)
    return [next((end for end in one if shared[end] == 1), one[-1]) for one in ends]


def _ends(label: str) -> list[str]:
    parts = label.split("/")
    return ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]


def mixture(runs: Sequence[ComparableRun], names: Sequence[str], metric: str) -> list[str]:
    """Return why a metric of these runs must not be compared; empty where it may.

    Notes
    -----
    What must agree: the formula; the width and min(N, D), which no effective rank exceeds; whether the numbers are
    about the rows or about what they were drawn from; whether the rows as they are stored have unit length, but for
    metrics of unit rows; and for LiDAR how many groups there are, and of how many rows.
    """
    differences = [
        ("definitions", [run.definitions[metric] for run in runs]),
        ("widths", [f"{run.width_of(metric):,} features" for run in runs]),
        ("questions", ["of a population" if run.is_population else "of the rows" for run in runs]),
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
    """Return what differs between runs and does not forbid a comparison."""
    rows = [f"{run.rows:,.0f} rows" for run in runs]
    return _describe_differences(
        [
            ("numbers of rows", rows),
            ("stored types", [run.dtype for run in runs]),
            ("arithmetics", [f"{run.method} in {run.precision}" for run in runs]),
        ],
        names,
    )


def _describe_differences(differences: Sequence[tuple[str, Sequence[str]]], names: Sequence[str]) -> list[str]:
    """Return a line for everything that is not the same throughout, with an example of each kind."""
    lines = []
    for what, kinds in differences:
        examples = dict(zip(reversed(kinds), reversed(names), strict=True))  # the first run of a kind stays
        if len(examples) > 1:
            some = "; ".join(f"{examples[kind]}: {kind}" for kind in dict.fromkeys(kinds))
            lines.append(f"the {what} differ: {some}")
    return lines
