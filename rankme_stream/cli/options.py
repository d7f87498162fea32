"""Options that several commands of ``rankme`` share."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import click

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


_DIGITS = r"\d{1,19}"  # of a number below 2^64; Python refuses to read thousands of them
_NAMES = {"memory_limit": "--memory", "groups": "--group-by", "client": "--scheduler"}


def on_command_line(name: str, value: str | None) -> str:
    """Return an argument of Python as the option of the command, with its value."""
    option = _NAMES.get(name, f"--{name.replace('_', '-')}")
    return option if value is None or value == "True" else f"{option} {value}"


class _Memory(click.ParamType[int]):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(rf"\s*({_DIGITS}(?:\.{_DIGITS})?)\s*([KMGT]?I?B?)\s*", str(value).upper())
        unit = match[2] if match else None
        if unit is not None and unit not in _UNITS:
            unit = unit + "B" if unit + "B" in _UNITS else None
        if match is None or unit is None or not 1 <= (n_bytes := Decimal(match[1]) * _UNITS[unit]) < 2**63:
            self.fail(f"{value!r} is not a size; write for example 8GiB or 500MB", param, ctx)
        if match[2] == "" and n_bytes < 2**10:
            self.fail(f"{value!r} is {n_bytes:f} bytes; write {match[1]}GiB", param, ctx)
        return int(n_bytes)


class _Rows(click.ParamType[tuple[int | None, int | None]]):
    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        match = re.fullmatch(rf"({_DIGITS})?:({_DIGITS})?", str(value))
        if match is None:
            self.fail(f"{value!r} is not a row range; write for example 0:25600", param, ctx)
        return (int(match[1]) if match[1] else None, int(match[2]) if match[2] else None)


class Part(click.ParamType[tuple[int, int]]):
    """Part of a pass, I/N: the I-th of N, counted from 0."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return I and N."""
        match = re.fullmatch(rf"({_DIGITS})/({_DIGITS})", str(value))
        if match is None or int(match[1]) >= int(match[2]):
            self.fail(f"{value!r} is not a part; write for example 0/16, or 15/16 for the last of 16", param, ctx)
        return int(match[1]), int(match[2])


class _Share(click.ParamType[float]):
    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(rf"\s*((?:{_DIGITS})?(?:\.{_DIGITS})?)\s*(%?)\s*", str(value))
        if match is None or not match[1]:
            self.fail(f"{value!r} is not a share; write for example 1% or 0.01", param, ctx)
        share = float(Decimal(match[1]) / (100 if match[2] else 1))
        if not 0.0 < share <= 0.5:
            self.fail(f"{value!r} is not above 0 and at most 50%; write for example 1% or 0.01", param, ctx)
        return share


class _Dims(click.ParamType[tuple[int, ...]]):
    name = "D,D"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if re.fullmatch(rf"{_DIGITS}(,{_DIGITS})*", str(value)) is None:
            self.fail(f"{value!r} is not a list of widths; write for example 64,128", param, ctx)
        return tuple(int(d) for d in str(value).split(","))


class _Number(click.FloatRange):
    """Number in a range; NaN, which is neither below nor above an end, is refused."""

    name = "NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _add(options: list[Any]) -> Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def taken(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Take the options of these names out of others; return those that were given."""
    found = {name: options.pop(name) for name in names if name in options}
    return {name: value for name, value in found.items() if value is not None}


_rows_option = click.option("--rows", type=_Rows(), help="Read only rows A to B-1.")
_memory_option = click.option(
    "--memory", "memory_limit", type=_Memory(),
    help="Memory that this process may hold; by default half of the machine's.",
)  # fmt: skip
_debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
pass_options = _add(
    [
        click.option("--method", default="auto", show_default=True,
                     type=click.Choice(["auto", "gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"]),
                     help="gram: the Gram matrix; tsqr: QR, which never squares; auto: gram, then tsqr if the interval "
                          "is too wide (with fewer rows than features, the Gram matrix of the rows, then their QR); "
                          "the others: sketches."),
        click.option("--rank", type=click.IntRange(1),
                     help="Rank of a sketch; by default 256, or less for few features. For row-sketch: its rows."),
        click.option("--oversampling", type=click.IntRange(0), default=10, show_default=True,
                     help="Number of test vectors of rsvd beyond its rank."),
        click.option("--precision", type=click.Choice(["float64", "float32", "auto"]), default="float64",
                     show_default=True,
                     help="Precision of products; float32: with its error measured; auto: the cheapest that suffices."),
        click.option("--normalize", is_flag=True, help="Also score the rows scaled to unit length."),
        click.option("--workers", type=click.IntRange(1),
                     help="Number of threads; by default one per core. With --device cuda they read, and the card "
                     "computes."),
        _rows_option, _memory_option, _debug_option,
    ]
)  # fmt: skip
copy_options = _add(
    [
        _rows_option, _memory_option,
        click.option("--workers", type=click.IntRange(1), help="Number of threads; by default one per core."),
        _debug_option,
    ]
)  # fmt: skip
passes_option = click.option(
    "--passes", type=click.IntRange(1), default=1, show_default=True,
    help="Most passes of rsvd; later passes sharpen its directions and bound the rest.",
)  # fmt: skip
tolerance_option = click.option(
    "--tolerance", type=_Number(0.0), default=1e-3, show_default=True,
    help="Largest relative half-width of RankMe's interval; exit code 4 if it is not met.",
)  # fmt: skip
dims_option = click.option(
    "--dims", type=_Dims(), default=(), help="Also score the first d features, for example 64,128."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True,
    help="Seed of the random order of a sample, the test vectors of rsvd, the signs of a row sketch, or the probes "
    "of float32.",
)  # fmt: skip
sample_option = click.option("--sample", is_flag=True, help="Read random units of rows until the tolerance is met.")
population_option = click.option(
    "--population",
    is_flag=True,
    help="Numbers of the distribution that the rows were drawn from, with intervals, in place of those of these rows.",
)
rare_option = click.option(
    "--rare", type=_Share(), default="1%", show_default=True,
    help="Share of rare units that the first look of a sample must find: as 1% or 0.01, at most 50%.",
)  # fmt: skip
sample_options = _add(
    [
        sample_option,
        rare_option,
        click.option("--max-rows", type=click.IntRange(1), help="Most rows of a sample; needs --sample."),
        click.option("--confidence", type=_Number(0.0, 0.999999, min_open=True), default=0.95,
                     show_default=True, help="Probability that the intervals of a sample or a row sketch hold."),
        population_option,
        seed_option,
    ]
)  # fmt: skip
ROWS_NEEDED_OPTIONS = ("tolerance", "pilot", "price_per_gb")
rows_needed_options = _add(
    [
        click.option("--tolerance", type=_Number(0.0, min_open=True), metavar="T",
                     help="Also print how many rows a half-width of T takes, and what reading them costs."),
        click.option("--pilot", is_flag=True, help="Read 4 rows a feature, to tell it for rows like these."),
        click.option("--price-per-gb", type=_Number(0.0), metavar="X",
                     help="Price of 10^9 bytes decoded, for --tolerance."),
    ]
)  # fmt: skip
inspection_options = _add(
    [
        click.option("--price-per-gb", type=_Number(0.0), metavar="X",
                     help="Price of 10^9 bytes that a server sends, for the cost of a full pass."),
        click.option("--price-per-1000-requests", type=_Number(0.0), metavar="X",
                     help="Price of 1,000 requests to a server."),
        click.option("--workers", type=click.IntRange(1), help="Number of threads of the pass that is planned."),
        _memory_option, _debug_option,
    ]
)  # fmt: skip
engine_options = _add(
    [
        click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True,
                     help="local: threads; dask: the cluster of --scheduler, or one of --workers processes here."),
        click.option("--scheduler", "client", metavar="ADDRESS",
                     help="Address of a Dask cluster, for example tcp://host:8786."),
    ]
)  # fmt: skip
device_option = click.option(
    "--device", default="cpu", show_default=True, metavar="cpu|cuda|cuda:1", help="Device that forms the products."
)
group_option = click.option(
    "--group-by", "groups", metavar="SPEC",
    help="Also score groups of rows: labels.npy, store.zarr::labels or a column of a table, such as labels.csv::class, "
    "one label per row; rows:N, N rows per group; or parts, the arrays that are read as one dump.",
)  # fmt: skip
checkpoint_option = click.option(
    "--checkpoint", metavar="FILE", help="Keep what was read in FILE, and go on from it; for several sources, a folder."
)
missing_option = click.option(
    "--missing", type=click.Choice(["error", "skip", "fill"]), default="error", show_default=True,
    help="Chunks that were never written: refuse them, leave them out, or use the fill value.",
)  # fmt: skip
nonfinite_option = click.option(
    "--nonfinite", type=click.Choice(["error", "skip"]), default="error", show_default=True,
    help="Rows with NaN, infinity or no data: refuse them, or leave them out and count them.",
)  # fmt: skip
ARRAY_OPTIONS = ("path", "features_axis", "dtype", "nodata", "scales", "decode", "width", "offset")
array_options = _add(
    [
        click.option("--path", metavar="PATH", help="Path of the array in its store, as after '::'."),
        click.option("--features-axis", metavar="NAME|N",
                     help="Axis of the features, by name or number from 0; the other axes are flattened to rows. "
                          "Default: the last of two."),
        click.option("--dtype", metavar="TYPE", help="Number type that the stored bytes hold, for example bfloat16."),
        click.option("--nodata", metavar="V", help="Stored number that means no data; nan for none."),
        click.option("--scales", metavar="ARRAY",
                     help="Array of scales of quantised rows, one a row, or one a row and group of features: a path in "
                          "the same store or file, STORE::PATH, or a file such as scales.npy."),
        click.option("--decode", metavar="RULE",
                     help="How codes become values: linear, power:P:DIVISOR, which is sign(v) (|v|/DIVISOR)^P, "
                          "bits, or bits:D for D features."),
        click.option("--width", type=click.IntRange(1), metavar="D",
                     help="Number of features of a file of bare numbers, which does not say it; needs --dtype."),
        click.option("--offset", type=click.IntRange(0), metavar="BYTES",
                     help="Number of bytes before the first row of such a file."),
    ]
)  # fmt: skip
zeros_option = click.option(
    "--zeros", type=click.Choice(["error", "skip", "count"]), default="count", show_default=True,
    help="Rows that are zero throughout: refuse them, leave them out and count them, or keep and count them.",
)  # fmt: skip
concat_option = click.option(
    "--concat", is_flag=True, help="Take all SOURCEs as one dump, in natural order of their names: one number."
)
comparison_options = _add(
    [
        click.option("--metric", default="rankme", show_default=True, metavar="NAME",
                     help="Metric to compare: rankme, normalized.vendi, dims.64.rankme, presets.reptrix, ..."),
        click.option("--scores", "scores_file", metavar="CSV",
                     help="Downstream scores: columns source, score and, optionally, sweep and hyperparameter."),
        click.option("--select", "rule", type=click.Choice(["highest"]),
                     help="Select the run of the highest value; of those that overlap it, the least hyperparameter."),
        click.option("--allow-mixed", is_flag=True,
                     help="Compare despite different definitions, widths or normalisations, and say so."),
    ]
)  # fmt: skip
json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as JSON; - writes it, and nothing else, to stdout."
)
json_lines_option = click.option(
    "--json", "json_file", metavar="FILE",
    help="Write the result as JSON, one line each for several sources; - writes it, and nothing else, to stdout.",
)  # fmt: skip
quiet_option = click.option("--quiet", is_flag=True, help="Print errors only, no progress and no table.")
