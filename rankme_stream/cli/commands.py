"""The ``rankme`` command: takes arguments, prints tables and JSON, and prints one line for every error."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rankme_stream.cli import console
from rankme_stream.cli import options as shared
from rankme_stream.cli.group import Group, print_version
from rankme_stream.cli.output_files import Documents, check_json, check_state, in_turn, write
from rankme_stream.cli.scoring import (
    Check,
    deliver,
    name_of,
    one_source,
    opened,
    score_entries,
    score_sources,
    shortfalls_as_errors,
)
from rankme_stream.cli.signals import Signal, Signals
from rankme_stream.cli.streams import UNREAD, UnreadError, prepare, print_error, print_out
from rankme_stream.cli.tables import plan_table, state_table
from rankme_stream.errors import RankMeError, UsageError, argument, printable

if TYPE_CHECKING:
    from rankme_stream.passes.state.pass_state import State
    from rankme_stream.results.comparison import Comparison
    from rankme_stream.sources import Source


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version,
              help="Print the version and exit.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compute the effective rank of embedding dumps: every row, one pass, bounded memory."""
    if ctx.invoked_subcommand is None:
        print_error(ctx.get_help())
        ctx.exit(2)


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
@shared.zeros_option
@shared.engine_options
@shared.checkpoint_option
@shared.concat_option
@shared.array_options
@shared.json_lines_option
@shared.quiet_option
@click.option("--verbose", is_flag=True, help="Print the plan on stderr before the pass.")
@click.pass_obj
def score(check: Check | None, /, sources: tuple[str, ...], json_file: str | None, **options: Any) -> None:
    """Score each SOURCE: a zarr array, a file (file.parquet::column), or a folder or pattern of them as one dump."""
    if worst := score_sources(check, sources, json_file, options):
        raise click.exceptions.Exit(worst)


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared.concat_option
@shared.pass_options
@shared.passes_option
@shared.seed_option
@shared.sample_option
@shared.population_option
@shared.rare_option
@shared.dims_option
@shared.device_option
@shared.group_option
@shared.checkpoint_option
@shared.array_options
@click.option(
    "--tasks-for",
    "threads",
    type=click.IntRange(1),
    metavar="N",
    help="Also print the tasks for a Dask cluster of N threads, each with the given memory.",
)
@shared.rows_needed_options
@shared.json_option
def plan(
    sources: tuple[str, ...], concat: bool, json_file: str | None, debug: bool, threads: int | None, **options: Any
) -> None:
    """Print what scoring SOURCE would read, and how much memory it would hold; reads metadata only, or a pilot."""
    from rankme_stream.measuring.api import plan as make_plan
    from rankme_stream.passes.engines.dask.schedule import schedule_for
    from rankme_stream.sources import open_source

    check_json(json_file, (*sources, options["groups"], options["checkpoint"]))
    source = one_source(sources, concat)
    if threads is not None:
        options["workers"] = 1
    array = shared.taken(options, shared.ARRAY_OPTIONS)
    wanted = shared.taken(options, shared.ROWS_NEEDED_OPTIONS)
    rows = open_source(source, **array)
    planned = make_plan(rows, **options)
    document = planned.to_dict() | _rows_needed(rows, options, wanted)
    if threads is not None:
        document["schedule"] = schedule_for(planned, threads).to_dict()
    if json_file is None:
        print_out(plan_table(name_of(source), rows, document))
    else:
        write(json_file, json.dumps(document, indent=2) + "\n")


def _rows_needed(rows: Source, options: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan says of a sample, or of the rows that a tolerance needs."""
    from rankme_stream.measuring.rows_needed import rows_needed

    asked = "tolerance" in wanted
    if not asked and (needless := [name for name in ("pilot", "price_per_gb") if wanted.get(name)]):
        raise UsageError(f"{argument(needless[0])} belongs to {argument('tolerance')}: give both, or neither")
    if not asked and not options["sample"]:
        return {}
    shared_names = ("population", "rare", "rows", "seed", "memory_limit")
    found = rows_needed(rows, **wanted, **{name: options[name] for name in shared_names}).to_dict()
    return {"rows_needed": found} if asked else {"first_look": found["first_look"]}


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared.concat_option
@shared.inspection_options
@shared.array_options
@shared.json_option
def inspect(sources: tuple[str, ...], concat: bool, json_file: str | None, debug: bool, **options: Any) -> None:
    """Say what SOURCE is, what is remarkable about it, and how to score it; reads a few blocks of its rows."""
    from rankme_stream.measuring.inspecting.inspect_source import inspect as inspect_source
    from rankme_stream.results.inspection_table import inspection_table

    check_json(json_file, sources)
    array = shared.taken(options, shared.ARRAY_OPTIONS)
    document = inspect_source(one_source(sources, concat), **options, **array).to_dict(shared.on_command_line)
    if json_file is None:
        print_out(inspection_table(document))
    else:
        write(json_file, json.dumps(document, indent=2, allow_nan=False) + "\n")


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared.concat_option
@click.option("--part", type=shared.Part(), required=True, help="Read the I-th of N parts of the rows, counted from 0.")
@click.option("--state", "state_file", required=True, type=click.Path(), help="File that keeps what was read.")
@shared.pass_options
@shared.seed_option
@shared.device_option
@shared.group_option
@shared.missing_option
@shared.nonfinite_option
@shared.zeros_option
@shared.array_options
@shared.quiet_option
@click.pass_obj
def segment(
    check: Check | None, /, sources: tuple[str, ...], concat: bool, part: tuple[int, int], state_file: str, quiet: bool,
    debug: bool, **options: Any,
) -> None:  # fmt: skip
    """Read one part of SOURCE into a state file for `rankme merge`; if the file exists, go on from it."""
    from rankme_stream.measuring.api import segment as read_segment

    check_state(state_file, "state", (*sources, options["groups"]))
    source = one_source(sources, concat)
    with console.Reporter(quiet, check) as progress:
        array = shared.taken(options, shared.ARRAY_OPTIONS)
        state = read_segment(opened(source, array), part=part, state=state_file, progress=progress, **options)
    if not quiet:
        rows = ", ".join(f"rows {start:,} to {stop - 1:,}" for start, stop in state.covered)
        rows = rows or "no rows: there are fewer segments than parts"
        print_out(f"{printable(state_file)}: part {part[0]}/{part[1]} of {printable(name_of(source))}, {rows}")


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

    check_json(json_file, (*states, state_file))
    check_state(state_file, "state", ())
    whole = merge_states((load_state(name) for name in states), states)
    if state_file is not None:
        save_state(state_file, whole)
    with shortfalls_as_errors():
        measurement = measure_state(whole, tolerance=tolerance, dims=dims)
    if worst := deliver(measurement, Documents(json_file, is_many=False), is_shown=json_file != "-" and not quiet):
        raise click.exceptions.Exit(worst)


@cli.command()
@click.argument("file", type=click.Path())
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def show(file: str, debug: bool) -> None:
    """Print FILE, a JSON result or a state file, as a table."""
    from rankme_stream.measuring.saved_results import read_results

    content = read_results(file)
    if isinstance(content, list):
        _show_documents(content)
    else:
        _show_state(content)


def _show_state(state: State) -> None:
    from rankme_stream.measuring.api import measure_state

    if state.missing:
        print_out(state_table(state))
        return
    with shortfalls_as_errors():  # which are not printed, since no tolerance was requested
        print_out(str(measure_state(state)))


def _show_documents(documents: list[dict[str, Any]]) -> None:
    from rankme_stream.results.table import table

    for number, document in enumerate(documents):
        if number:
            print_out("")
        if "error" in document:
            uri, message = (printable(text) for text in (document["source"]["uri"], document["error"]["message"]))
            print_out(f"{uri}\nrankme: error: {message}")
        else:
            print_out(table(document))


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
@shared.zeros_option
@shared.array_options
@shared.json_option
@shared.quiet_option
@click.pass_obj
def compare(
    check: Check | None, /, sources: tuple[str, ...], metric: str, scores_file: str | None, rule: str | None,
    allow_mixed: bool, json_file: str | None, quiet: bool, debug: bool, **options: Any,
) -> None:  # fmt: skip
    """Rank runs by a metric: JSON results, state files, and dumps, which are scored first."""
    from rankme_stream.measuring.request import Request
    from rankme_stream.measuring.saved_results import entries
    from rankme_stream.results.comparable_run import check_metric, options_for
    from rankme_stream.results.compare import compare as compare_runs
    from rankme_stream.results.downstream_scores import match_scores, read_scores

    check_metric(metric)
    array = shared.taken(options, shared.ARRAY_OPTIONS)
    check_json(json_file, (*sources, scores_file, options["groups"]))
    Request(**options_for(metric, options)).check()  # once, not for each source
    named = entries(sources, **array)
    lines = None
    if scores_file is not None:  # before hours are spent on dumps that it does not name
        lines = match_scores(read_scores(scores_file), [(entry.uri, entry.origin) for entry in named])
    runs, left_out, worst = score_entries(named, check, quiet, debug, **options_for(metric, options))
    if not runs:
        raise click.exceptions.Exit(worst)
    comparison = compare_runs(
        list(runs.values()), metric=metric, scores=None if lines is None else [lines[index] for index in runs],
        selects=rule is not None, allow_mixed=allow_mixed, confidence=options["confidence"], seed=options["seed"],
        left_out=left_out,
    )  # fmt: skip
    steps = [] if json_file == "-" else [lambda: _print_comparison(comparison, quiet)]
    if json_file is not None:
        text = json.dumps(comparison.to_dict(), indent=2, allow_nan=False)
        steps.insert(0, lambda: write(json_file, text + "\n"))
    in_turn(*steps)
    if worst:
        raise click.exceptions.Exit(worst)


def _print_comparison(comparison: Comparison, quiet: bool) -> None:
    if lines := [printable(uri) for uri in comparison.selected] if quiet else [str(comparison)]:
        print_out("\n".join(lines))


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("dest", metavar="DEST.zarr")
@shared.concat_option
@shared.copy_options
@shared.array_options
@shared.json_option
@shared.quiet_option
@click.pass_obj
def convert(
    check: Check | None, /, sources: tuple[str, ...], dest: str, concat: bool, json_file: str | None, quiet: bool,
    debug: bool, **options: Any,
) -> None:  # fmt: skip
    """Copy SOURCE once into a zarr array that is fast to read; go on after an interruption."""
    from rankme_stream.measuring.copying.convert import convert as copy_rows

    check_json(json_file, (*sources, dest))
    source = one_source(sources, concat)
    array = shared.taken(options, shared.ARRAY_OPTIONS)
    with console.Reporter(quiet, check) as progress:
        copied = copy_rows(opened(source, array), dest, progress=progress, **options)
    if json_file is not None:
        write(json_file, json.dumps(copied.to_dict(), indent=2) + "\n")
    if json_file != "-" and not quiet:
        print_out(str(copied))


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
    options |= {"missing": "error", "nonfinite": "error", "zeros": "count", "engine": "local", "client": None}
    options |= {"checkpoint": None, "verbose": False}
    if worst := score_sources(check, (f"{bundled}::embeddings",), json_file, options):
        raise click.exceptions.Exit(worst)


def run(arguments: list[str], check: Check | None = None) -> int:
    """Run the command with its arguments, print its error in one line, and return its exit code (docs/commands.md)."""
    try:
        code = cli.main(args=arguments, prog_name="rankme", standalone_mode=False, obj=check) or 0
    except RankMeError as error:
        console.report(error, debug="--debug" in arguments)
        code = error.exit_code
    except UnreadError:
        code = UNREAD
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        print_error(f"rankme: error: {' '.join(error.format_message().split())}")
        code = error.exit_code
    return code


def main(arguments: list[str] | None = None, signals: Signals | None = None) -> NoReturn:
    """Run the command as a process does, and exit with its code."""
    prepare()
    sys.excepthook, warnings.showwarning = console.report_defect, console.report_warning
    signals = signals or Signals()
    try:
        code = run(sys.argv[1:] if arguments is None else arguments, signals.check)
        signals.ignore()
    except Signal as arrived:
        arrived.end()
    sys.exit(code)
