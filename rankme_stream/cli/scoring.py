"""Scoring of sources one after another: an error of one does not stop the others, and every result is delivered."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rankme_stream.cli import console
from rankme_stream.cli.options import ARRAY_OPTIONS, on_command_line, taken
from rankme_stream.cli.output_files import Documents, check_json, in_turn
from rankme_stream.cli.streams import UnreadError, print_error, print_out
from rankme_stream.cli.tables import plan_table
from rankme_stream.errors import CheckpointWarning, OutputError, RankMeError, ToleranceWarning

if TYPE_CHECKING:
    from rankme_stream.measuring.saved_results import Entry
    from rankme_stream.results.comparable_run import ComparableRun
    from rankme_stream.results.measurement import Measurement

Check = Callable[[], None]  # raises for a signal that arrived


Named = str | list[str]  # a source, or the parts of one


def score_sources(check: Check | None, sources: tuple[str, ...], json_file: str | None, options: dict[str, Any]) -> int:
    """Score one source after another with the options of the command; return the exit code."""
    from rankme_stream.measuring.batch import shared_client
    from rankme_stream.measuring.request import Request

    quiet, verbose, debug, checkpoint = (options.pop(name) for name in ("quiet", "verbose", "debug", "checkpoint"))
    array = taken(options, ARRAY_OPTIONS)
    check_json(json_file, (*sources, checkpoint, options.get("groups")))
    dumps: list[Named] = [as_one(sources)] if options.pop("concat", False) else list(sources)
    is_many, worst = len(dumps) > 1, 0
    Request(**options, checkpoint=checkpoint).check()  # once, not for each source
    if not quiet:
        _note_unused(options)
    output, is_shown = Documents(json_file, is_many=is_many), json_file != "-" and not quiet
    unprinted: OutputError | UnreadError | None = None
    with shared_client(**options) if is_many else nullcontext(options["client"]) as client:
        options["client"] = client
        for source in dumps:
            try:
                file = _checkpoint_of(source, checkpoint, is_many=is_many)
                if verbose and not quiet:
                    print_error(_plan_of(source, array, file, options))
                with console.Reporter(quiet, check) as progress, shortfalls_as_errors():
                    measurement = _measure(opened(source, array), progress=progress, checkpoint=file, **options)
            except RankMeError as error:
                if not is_many:
                    raise
                console.report(error, debug=debug)
                worst = max(worst, error.exit_code)
                output.add({"schema_version": 1, "source": {"uri": name_of(source)}, "error": _describe(error)})
                continue
            try:
                worst = max(worst, deliver(measurement, output, is_shown=is_shown and unprinted is None))
            except (OutputError, UnreadError) as error:
                if not output.is_file or unprinted is not None or not is_many:
                    raise
                unprinted = error  # the other results still reach the file
    if unprinted is not None:
        raise unprinted
    return worst


def _note_unused(options: Mapping[str, Any]) -> None:
    """Say on stderr which options were given and change nothing beside the others."""
    from rankme_stream.accumulators.methods import METHODS

    method, reads_part = METHODS.get(options["method"]), options["sample"] or options["population"]
    uses = {
        "seed": reads_part or options["precision"] != "float64" or (method is not None and method.uses_seed),
        "rare": options["sample"],
        "confidence": reads_part or options["method"] == "row-sketch" or options.get("groups") is not None,
        "oversampling": options["method"] == "rsvd",
    }
    given = click.get_current_context().get_parameter_source
    for name in (name for name, is_used in uses.items() if not is_used and given(name) is ParameterSource.COMMANDLINE):
        print_error(f"rankme: note: {on_command_line(name, None)} changes nothing about this pass")


def deliver(measurement: Measurement, output: Documents, *, is_shown: bool) -> int:
    """Write and print a measurement, the file first; report its shortfalls and return the exit code for them."""
    steps = [lambda: output.add(measurement.to_dict())]
    if is_shown:
        steps.append(lambda: print_out(str(measurement) + "\n"))
    try:
        in_turn(*steps)
    finally:
        worst = report_shortfalls(measurement.shortfalls)
    return worst


def as_one(sources: Sequence[str]) -> list[str]:
    """Return the parts of a dump, patterns of files expanded, in natural order of their names."""
    from rankme_stream.sources import matching_files, natural_key

    parts = [part for source in sources for part in matching_files(source) or [source]]
    return sorted(parts, key=natural_key)


def one_source(sources: Sequence[str], concat: bool) -> Named:
    """Return the source of a command that takes one, or the parts of it."""
    if concat:
        return as_one(sources)
    if len(sources) > 1:
        raise click.UsageError(f"{len(sources):,} sources were given: pass --concat to take them as one dump")
    return sources[0]


def name_of(source: Named) -> str:
    """Return the name of a source, or of its parts together, without secrets."""
    from rankme_stream.sources import joined_name, without_secrets

    return without_secrets(source if isinstance(source, str) else joined_name(source))


def opened(source: Named, array: Mapping[str, Any]) -> Any:
    """Return a source with the options of its array, or the parts as one; else the path, which is opened later."""
    from rankme_stream.sources import open_source

    return open_source(source, **array) if array or not isinstance(source, str) else source


def _measure(source: Any, **options: Any) -> Measurement:
    from rankme_stream.measuring.api import measure

    return measure(source, **options)


def _checkpoint_of(source: Named, checkpoint: str | None, *, is_many: bool) -> str | None:
    """Return the checkpoint of a source: the given file, or a file in the given folder."""
    from rankme_stream.measuring.batch import checkpoint_in

    if checkpoint is not None and (is_many or os.path.isdir(checkpoint)):
        return str(checkpoint_in(checkpoint, source if isinstance(source, str) else " ".join(source)))
    return checkpoint


def _plan_of(source: Named, array: Mapping[str, Any], checkpoint: str | None, options: dict[str, Any]) -> str:
    from rankme_stream.measuring.api import plan as make_plan
    from rankme_stream.sources import open_source

    names = (
        "method", "precision", "sample", "population", "rare", "normalize", "dims", "rows", "workers", "memory_limit",
        "rank", "oversampling", "passes", "seed", "groups", *(["device"] if options["engine"] == "local" else []),
    )  # fmt: skip
    rows = open_source(source, **array)
    planned = make_plan(rows, checkpoint=checkpoint, **{name: options[name] for name in names if name in options})
    return plan_table(name_of(source), rows, planned.to_dict())


@contextmanager
def shortfalls_as_errors() -> Iterator[None]:
    """Silence the warnings of the shortfalls of a measurement: the command prints them as errors."""
    with warnings.catch_warnings():
        for category in (ToleranceWarning, CheckpointWarning):
            warnings.simplefilter("ignore", category)
        yield


def report_shortfalls(shortfalls: Sequence[RankMeError]) -> int:
    """Print the shortfalls of a measurement as errors; return the exit code."""
    for error in shortfalls:
        console.report(error)
    return max((error.exit_code for error in shortfalls), default=0)


def score_entries(
    entries: list[Entry], check: Check | None, quiet: bool, debug: bool, **options: Any
) -> tuple[dict[int, ComparableRun], list[dict[str, Any]], int]:
    """Return the runs by the index of their entry, the entries without a result, with errors, and the exit code."""
    from rankme_stream.results.comparable_run import ComparableRun

    runs: dict[int, ComparableRun] = {}
    left_out, worst = [], 0
    for index, entry in enumerate(entries):
        try:
            with console.Reporter(quiet, check) as progress, shortfalls_as_errors():
                document, shortfalls = entry.document(progress=progress, **options)
                runs[index] = ComparableRun.of(document, entry.origin)
        except RankMeError as error:
            if len(entries) == 1:
                raise
            console.report(error, debug=debug)
            worst = max(worst, error.exit_code)
            left_out.append({"source": {"uri": name_of(entry.uri)}, "error": _describe(error)})
            continue
        worst = max(worst, report_shortfalls(shortfalls))
    return runs, left_out, worst


def _describe(error: RankMeError) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": console.describe(error), "exit": error.exit_code}
