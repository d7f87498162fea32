"""The ``rankme`` command: takes arguments, prints tables and JSON, and prints one line for every error."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rankme_stream import __version__
from rankme_stream.cli import console
from rankme_stream.cli import options as shared
from rankme_stream.cli.signals import Signal, Signals
from rankme_stream.cli.tables import plan_table, state_table
from rankme_stream.errors import (
    CheckpointWarning,
    RankMeError,
    SourceFormatError,
    ToleranceWarning,
)

if TYPE_CHECKING:
    from rankme_stream.measuring.saved_results import Entry
    from rankme_stream.passes.state.pass_state import State
    from rankme_stream.results.comparable_run import ComparableRun
    from rankme_stream.results.measurement import Measurement

Check = Callable[[], None]  # raises for a signal that arrived


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rankme")
def cli() -> None:
    """Compute the effective rank of embedding dumps: every row, one pass, bounded memory."""


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared.pass_options
@shared.passes_option
@shared.device_option
@shared.tolerance_option
@shared.sample_options
@shared.dims_option
@shared.group_option
@shared.missing_option
@shared.nonfinite_option
@shared.engine_options
@shared.checkpoint_option
@shared.json_option
@shared.quiet_option
@click.option("--verbose", is_flag=True, help="Print the plan on stderr before the pass.")
@click.pass_obj
def score(check: Check | None, /, sources: tuple[str, ...], json_file: str | None, **options: Any) -> None:
    """Score each SOURCE: a zarr array (store.zarr::group/array) or an .npy file."""
    _score(check, sources, json_file, options)


@cli.command()
@click.argument("source")
@shared.pass_options
@shared.passes_option
@shared.seed_option
@shared.sample_option
@shared.population_option
@shared.dims_option
@shared.device_option
@shared.group_option
@shared.checkpoint_option
@click.option(
    "--tasks-for",
    "threads",
    type=click.IntRange(1),
    metavar="N",
    help="Also print the tasks for a Dask cluster of N threads, each with the given memory.",
)
@shared.json_option
def plan(source: str, json_file: str | None, debug: bool, threads: int | None, **options: Any) -> None:
    """Print what scoring SOURCE would read, and how much memory it would hold; reads metadata only."""
    from rankme_stream.measuring.api import plan as make_plan
    from rankme_stream.passes.engines.dask.schedule import schedule_for

    if threads is not None:
        options["workers"] = 1
    planned = make_plan(source, **options)
    document = planned.to_dict()
    if threads is not None:
        document["schedule"] = schedule_for(planned, threads).to_dict()
    if json_file is None:
        console.print_out(plan_table(source, document))
    else:
        console.write(json_file, json.dumps(document, indent=2) + "\n")


@cli.command()
@click.argument("source")
@click.option("--part", type=shared.Part(), required=True, help="Read the I-th of N parts of the rows, counted from 0.")
@click.option("--state", "state_file", required=True, type=click.Path(), help="File that keeps what was read.")
@shared.pass_options
@shared.seed_option
@shared.device_option
@shared.group_option
@shared.missing_option
@shared.nonfinite_option
@shared.quiet_option
@click.pass_obj
def segment(
    check: Check | None, /, source: str, part: tuple[int, int], state_file: str, quiet: bool, debug: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Read one part of SOURCE into a state file for `rankme merge`; if the file exists, go on from it."""
    from rankme_stream.measuring.api import segment as read_segment

    with console.Reporter(quiet, check) as progress:
        state = read_segment(source, part=part, state=state_file, progress=progress, **options)
    if not quiet:
        rows = ", ".join(f"rows {start:,} to {stop - 1:,}" for start, stop in state.covered)
        rows = rows or "no rows: there are fewer segments than parts"
        console.print_out(f"{state_file}: part {part[0]}/{part[1]} of {source}, {rows}")


@cli.command()
@click.argument("states", nargs=-1, required=True, type=click.Path(), metavar="STATE...")
@click.option(
    "--state", "state_file", type=click.Path(), help="Also write the joined state, complete or not, to this file."
)
@shared.tolerance_option
@shared.dims_option
@shared.json_option
@shared.quiet_option
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def merge(
    states: tuple[str, ...], state_file: str | None, tolerance: float, dims: tuple[int, ...], json_file: str | None,
    quiet: bool, debug: bool,
) -> None:  # fmt: skip
    """Join the parts of a pass and score them, with the same bits as one pass."""
    from rankme_stream.measuring.api import measure_state
    from rankme_stream.passes.state.pass_state import load_state, merge_states, save_state

    if json_file is not None:
        console.check_writable(json_file)
    whole = merge_states((load_state(name) for name in states), states)
    if state_file is not None:
        save_state(state_file, whole)
    with _shortfalls_as_errors():
        measurement = measure_state(whole, tolerance=tolerance, dims=dims)
    _show(measurement, json_file, quiet)
    if json_file is not None:
        console.write(json_file, measurement.to_json() + "\n")
    if worst := _report(measurement.shortfalls):
        raise click.exceptions.Exit(worst)


@cli.command()
@click.argument("file", type=click.Path())
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def show(file: str, debug: bool) -> None:
    """Print FILE, a JSON result or a state file, as a table."""
    from rankme_stream.measuring.saved_results import read_results

    content = read_results(file)
    if isinstance(content, list):
        _show_documents(file, content)
    else:
        _show_state(content)


def _show_state(state: State) -> None:
    from rankme_stream.measuring.api import measure_state

    if state.missing:
        console.print_out(state_table(state))
        return
    with _shortfalls_as_errors():  # which are not printed, since no tolerance was requested
        console.print_out(str(measure_state(state)))


def _show_documents(file: str, documents: list[dict[str, Any]]) -> None:
    from rankme_stream.results.table import table

    for number, document in enumerate(documents):
        if number:
            console.print_out("")
        if "error" in document:
            console.print_out(f"{document['source']['uri']}\nrankme: error: {document['error']['message']}")
            continue
        try:
            console.print_out(table(document))
        except (KeyError, TypeError) as error:
            raise SourceFormatError(f"{file} is damaged: {error} is absent or of another type") from None


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE_OR_RESULT...")
@shared.comparison_options
@shared.pass_options
@shared.passes_option
@shared.device_option
@shared.group_option
@shared.tolerance_option
@shared.sample_options
@shared.dims_option
@shared.missing_option
@shared.nonfinite_option
@shared.json_option
@shared.quiet_option
@click.pass_obj
def compare(
    check: Check | None, /, sources: tuple[str, ...], metric: str, scores_file: str | None, rule: str | None,
    allow_mixed: bool, json_file: str | None, quiet: bool, debug: bool, **options: Any,
) -> None:  # fmt: skip
    """Rank runs by a metric: JSON results, state files, and dumps, which are scored first."""
    from rankme_stream.measuring.saved_results import entries
    from rankme_stream.results.comparable_run import check_metric, options_for
    from rankme_stream.results.compare import compare as compare_runs
    from rankme_stream.results.downstream_scores import match_scores, read_scores

    check_metric(metric)
    if json_file is not None:
        console.check_writable(json_file)
    named = [entry for source in sources for entry in entries(source)]
    lines = None
    if scores_file is not None:  # before hours are spent on dumps that it does not name
        lines = match_scores(read_scores(scores_file), [(entry.uri, entry.origin) for entry in named])
    runs, left_out, worst = _runs(named, check, quiet, debug, **options_for(metric, options))
    if not runs:
        raise click.exceptions.Exit(worst)
    comparison = compare_runs(
        list(runs.values()), metric=metric, scores=None if lines is None else [lines[index] for index in runs],
        selects=rule is not None, allow_mixed=allow_mixed, confidence=options["confidence"], seed=options["seed"],
        left_out=left_out,
    )  # fmt: skip
    printed = list(comparison.selected) if quiet else [str(comparison)]
    if json_file != "-" and printed:
        console.print_out("\n".join(printed))
    if json_file is not None:
        console.write(json_file, json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n")
    if worst:
        raise click.exceptions.Exit(worst)


def _runs(
    entries: list[Entry], check: Check | None, quiet: bool, debug: bool, **options: Any
) -> tuple[dict[int, ComparableRun], list[dict[str, Any]], int]:
    """Return the runs by the index of their entry, the entries without a result, with errors, and the exit code."""
    from rankme_stream.results.comparable_run import ComparableRun

    runs: dict[int, ComparableRun] = {}
    left_out, worst = [], 0
    for index, entry in enumerate(entries):
        try:
            with console.Reporter(quiet, check) as progress, _shortfalls_as_errors():
                document, shortfalls = entry.document(progress=progress, **options)
                runs[index] = ComparableRun.of(document, entry.origin)
        except RankMeError as error:
            if len(entries) == 1 or debug:
                raise
            console.report(error)
            worst = max(worst, error.exit_code)
            left_out.append({"source": {"uri": entry.uri}, "error": _describe(error)})
            continue
        worst = max(worst, _report(shortfalls))
    return runs, left_out, worst


def _describe(error: RankMeError) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": str(error), "exit": error.exit_code}


@cli.command()
@shared.pass_options
@shared.passes_option
@shared.device_option
@shared.tolerance_option
@shared.sample_options
@shared.dims_option
@shared.json_option
@shared.quiet_option
@click.pass_obj
def demo(check: Check | None, /, json_file: str | None, **options: Any) -> None:
    """Score the bundled dump: 4,096 real sentence embeddings."""
    bundled = Path(__file__).parent / "data" / "minilm-docstrings-4096.zarr"
    options |= {"missing": "error", "nonfinite": "error", "engine": "local", "client": None}
    options |= {"checkpoint": None, "verbose": False}
    _score(check, (f"{bundled}::embeddings",), json_file, options)


def _score(check: Check | None, sources: tuple[str, ...], json_file: str | None, options: dict[str, Any]) -> None:
    """Score one source after another with the options of the command."""
    from rankme_stream.measuring.batch import shared_client

    quiet, verbose, debug, checkpoint = (options.pop(name) for name in ("quiet", "verbose", "debug", "checkpoint"))
    output = console.Documents(json_file, is_many=len(sources) > 1)
    worst = 0
    with shared_client(**options) if len(sources) > 1 else nullcontext(options["client"]) as client:
        options["client"] = client
        for source in sources:
            try:
                file = _checkpoint_of(source, checkpoint, is_many=len(sources) > 1)
                if verbose:
                    click.echo(_plan_of(source, file, options), err=True)
                with console.Reporter(quiet, check) as progress, _shortfalls_as_errors():
                    measurement = _measure(source, progress=progress, checkpoint=file, **options)
            except RankMeError as error:
                if len(sources) == 1 or debug:
                    raise
                console.report(error)
                worst = max(worst, error.exit_code)
                output.add({"schema_version": 1, "source": {"uri": source}, "error": _describe(error)})
                continue
            _show(measurement, json_file, quiet)
            output.add(measurement.to_dict())
            worst = max(worst, _report(measurement.shortfalls))
    if worst:
        raise click.exceptions.Exit(worst)


def _measure(source: str, **options: Any) -> Measurement:
    from rankme_stream.measuring.api import measure

    return measure(source, **options)


def _checkpoint_of(source: str, checkpoint: str | None, *, is_many: bool) -> str | None:
    """Return the checkpoint of a source: the given file, or a file in the given folder."""
    from rankme_stream.measuring.batch import checkpoint_in

    if checkpoint is not None and (is_many or Path(checkpoint).is_dir()):
        return str(checkpoint_in(Path(checkpoint), source))
    return checkpoint


def _plan_of(source: str, checkpoint: str | None, options: dict[str, Any]) -> str:
    from rankme_stream.measuring.api import plan as make_plan

    names = (
        "method", "precision", "sample", "population", "normalize", "dims", "rows", "workers", "memory_limit", "rank",
        "oversampling", "passes", "seed", "groups", *(["device"] if options["engine"] == "local" else []),
    )  # fmt: skip
    planned = make_plan(source, checkpoint=checkpoint, **{name: options[name] for name in names if name in options})
    return plan_table(source, planned.to_dict())


def _show(measurement: Measurement, json_file: str | None, quiet: bool) -> None:
    if json_file != "-" and not quiet:
        console.print_out(str(measurement) + "\n")


@contextmanager
def _shortfalls_as_errors() -> Iterator[None]:
    """Silence the warnings of the shortfalls of a measurement: the command prints them as errors."""
    with warnings.catch_warnings():
        for category in (ToleranceWarning, CheckpointWarning):
            warnings.simplefilter("ignore", category)
        yield


def _report(shortfalls: Sequence[RankMeError]) -> int:
    """Print the shortfalls of a measurement as errors; return the exit code."""
    for error in shortfalls:
        console.report(error)
    return max((error.exit_code for error in shortfalls), default=0)


def _leave(code: int) -> NoReturn:
    """End the process at once, without waiting for worker threads, which may be in the middle of a long decode."""
    sys.stderr.flush()
    os._exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with one of the codes in docs/commands.md."""
    try:
        code = cli.main(args=arguments, prog_name="rankme", standalone_mode=False, obj=Signals().check)
    except RankMeError as error:
        if "--debug" in (sys.argv if arguments is None else arguments):
            raise
        console.report(error)
        code = error.exit_code
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        click.echo(f"rankme: error: {error.format_message()}", err=True)
        code = error.exit_code
    except Signal as arrived:
        ending = "interrupted" if arrived.number == signal.SIGINT else "terminated"
        notes = "; ".join(getattr(arrived, "__notes__", ["the pass gives no result"]))
        click.echo(f"rankme: error: {ending}; {notes}", err=True)
        _leave(128 + arrived.number)
    sys.exit(code)
