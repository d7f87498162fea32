"""Options of the ``rankme`` command that several of its commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


class _Memory(click.ParamType[int]):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", str(value).upper())
        unit = match[2] if match else None
        if unit is not None and unit not in _UNITS:
            unit = unit + "B" if unit + "B" in _UNITS else None
        if match is None or unit is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no size; write for example 8GiB or 500MB", param, ctx)
        return int(float(match[1]) * _UNITS[unit])


class _Rows(click.ParamType[tuple[int | None, int | None]]):
    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        match = re.fullmatch(r"(\d*):(\d*)", str(value))
        if match is None:
            self.fail(f"{value!r} is no row range; write for example 0:25600", param, ctx)
        return (int(match[1]) if match[1] else None, int(match[2]) if match[2] else None)


class Part(click.ParamType[tuple[int, int]]):
    """I/N."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return both numbers."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if match is None or int(match[1]) >= int(match[2]):
            self.fail(f"{value!r} is no part; write for example 0/16 to 15/16", param, ctx)
        return int(match[1]), int(match[2])


class _Dims(click.ParamType[tuple[int, ...]]):
    name = "D,D"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if re.fullmatch(r"\d+(,\d+)*", str(value)) is None:
            self.fail(f"{value!r} is no list of widths; write for example 64,128", param, ctx)
        return tuple(int(d) for d in str(value).split(","))


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _add(options: list[Any]) -> Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


pass_options = _add(
    [
        click.option("--method", default="auto", show_default=True,
                     type=click.Choice(["auto", "gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"]),
                     help="Gram matrix, or QR, which never squares; auto: the Gram, then QR if need be; or a sketch."),
        click.option("--rank", type=click.IntRange(1),
                     help="Of a sketch; 256, or less of few features, if not given. Of a row sketch: its rows."),
        click.option("--oversampling", type=click.IntRange(0), default=10, show_default=True,
                     help="Test vectors of rsvd beside its rank."),
        click.option("--precision", type=click.Choice(["float64", "float32", "auto"]), default="float64",
                     show_default=True,
                     help="Of products; float32 has its error measured, auto takes the cheapest that will do."),
        click.option("--normalize", is_flag=True, help="Also score the rows scaled to unit length."),
        click.option("--rows", type=_Rows(), help="Read only rows A to B-1."),
        click.option("--workers", type=click.IntRange(1), help="Threads; as many as cores when not given."),
        click.option("--memory", "memory_limit", type=_Memory(),
                     help="Memory this process may hold; half of the machine's when not given."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    ]
)  # fmt: skip
passes_option = click.option(
    "--passes", type=click.IntRange(1), default=1, show_default=True,
    help="Most passes of rsvd: the second and later ones see more, and bound what they do not see.",
)  # fmt: skip
tolerance_option = click.option(
    "--tolerance", type=click.FloatRange(0.0), default=1e-3, show_default=True,
    help="Largest relative half-width of RankMe's interval; exit code 4 when it is not met.",
)  # fmt: skip
dims_option = click.option(
    "--dims", type=_Dims(), default=(), help="Also score the first d features, for example 64,128."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True,
    help="Of the random order of a sample, the test vectors of rsvd, the signs of a row sketch.",
)  # fmt: skip
sample_option = click.option("--sample", is_flag=True, help="Read random units of rows until the tolerance is met.")
sample_options = _add(
    [
        sample_option,
        click.option("--max-rows", type=click.IntRange(1), help="End a sample there; needs --sample."),
        click.option("--confidence", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.95,
                     show_default=True, help="Probability with which intervals of a sample or a row sketch hold."),
        click.option("--population", is_flag=True,
                     help="Intervals for what the rows were drawn from, not for these rows."),
        seed_option,
    ]
)  # fmt: skip
engine_options = _add(
    [
        click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True,
                     help="Threads here, or a Dask cluster: of --workers processes here, or that of --scheduler."),
        click.option("--scheduler", "client", metavar="ADDRESS", help="Of a Dask cluster, for example tcp://host:8786."),
    ]
)  # fmt: skip
device_option = click.option(
    "--device", default="cpu", show_default=True, metavar="cpu|cuda|cuda:1", help="Where the products are formed."
)
group_option = click.option(
    "--group-by", "groups", metavar="SPEC",
    help="Also score groups of rows: labels.npy or store.zarr::labels, one label a row, or rows:N for runs of N rows.",
)  # fmt: skip
checkpoint_option = click.option(
    "--checkpoint", metavar="FILE", help="Keep what was read in FILE, and go on from it; a folder for several sources."
)
missing_option = click.option(
    "--missing", type=click.Choice(["error", "skip", "fill"]), default="error", show_default=True,
    help="Chunks that were never written: refuse, leave out, or take the fill value.",
)  # fmt: skip
nonfinite_option = click.option(
    "--nonfinite", type=click.Choice(["error", "skip"]), default="error", show_default=True,
    help="Rows with NaN or infinity: refuse, or leave out and count.",
)  # fmt: skip
comparison_options = _add(
    [
        click.option("--metric", default="rankme", show_default=True, metavar="NAME",
                     help="What is compared: rankme, normalized.vendi, dims.64.rankme, presets.reptrix, ..."),
        click.option("--scores", "scores_file", metavar="CSV",
                     help="Downstream scores: columns source, score and, if need be, sweep and hyperparameter."),
        click.option("--select", "rule", type=click.Choice(["highest"]),
                     help="Select the highest; of those that intervals cannot tell from it, the least hyperparameter."),
        click.option("--allow-mixed", is_flag=True,
                     help="Compare by several definitions, widths or normalisations, and say so."),
    ]
)  # fmt: skip
json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout, and then nothing else is there."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress and no table; errors only.")
