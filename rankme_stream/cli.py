"""The ``rankme`` command: arguments in, tables and JSON out, one line for every error."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rankme_stream import __version__
from rankme_stream import options as shared
from rankme_stream.errors import (
    LimitError,
    OutputError,
    RankMeError,
    SourceFormatError,
    SourceNotFoundError,
    ToleranceWarning,
)

if TYPE_CHECKING:
    from rankme_stream.engines.local import Progress
    from rankme_stream.measurement import Measurement

_LINE_PERIOD_S = 60.0


class _Signal(BaseException):
    """SIGINT or SIGTERM arrived; no KeyboardInterrupt, which click would turn into its own."""

    def __init__(self, number: int) -> None:
        self.number = number


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rankme")
def cli() -> None:
    """Effective rank of embedding dumps: every row, one pass, bounded memory."""


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared.pass_options
@shared.tolerance_option
@shared.sample_options
@shared.dims_option
@shared.missing_option
@shared.nonfinite_option
@shared.json_option
@shared.quiet_option
@click.option("--verbose", is_flag=True, help="Print the plan before the pass, on stderr.")
def score(sources: tuple[str, ...], json_file: str | None, **options: Any) -> None:
    """Score SOURCE: a zarr array (store.zarr::group/array) or an .npy file."""
    _score(sources, json_file, **options)


@cli.command()
@click.argument("source")
@shared.pass_options
@shared.sample_option
@shared.json_option
def plan(source: str, json_file: str | None, debug: bool, **options: Any) -> None:
    """Print what scoring SOURCE would read and hold; reads metadata only."""
    from rankme_stream.reading import plan as make_plan

    planned = make_plan(source, **options)
    if json_file is None:
        _print(_plan_table(source, planned.to_dict()))
    else:
        _write(json_file, json.dumps(planned.to_dict(), indent=2) + "\n")


@cli.command()
@click.argument("file", type=click.Path())
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def show(file: str, debug: bool) -> None:
    """Print FILE, a JSON result, as a table."""
    from rankme_stream.measurement import table

    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceFormatError(f"{file} cannot be read as text: {error}") from None
    try:
        documents = [json.loads(text)]
    except json.JSONDecodeError:
        documents = _json_lines(file, text)
    for number, document in enumerate(documents):
        if number:
            _print("")
        if not isinstance(document, dict) or document.get("schema_version") != 1:
            raise SourceFormatError(f"{file} is no result of rankme score --json, or of a newer version")
        if "error" in document:
            _print(f"{document['source']['uri']}\nrankme: error: {document['error']['message']}")
            continue
        try:
            _print(table(document))
        except (KeyError, TypeError) as error:
            raise SourceFormatError(f"{file} is damaged: {error} is absent or of another type") from None


def _json_lines(file: str, text: str) -> list[Any]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise SourceFormatError(f"{file} is not JSON: {error}") from None


@cli.command()
@shared.pass_options
@shared.tolerance_option
@shared.sample_options
@shared.dims_option
@shared.json_option
@shared.quiet_option
def demo(json_file: str | None, **options: Any) -> None:
    """Score the bundled dump: 4,096 real sentence embeddings."""
    bundled = Path(__file__).parent / "data" / "minilm-docstrings-4096.zarr"
    _score((f"{bundled}::embeddings",), json_file, missing="error", nonfinite="error", verbose=False, **options)


def _score(
    sources: tuple[str, ...], json_file: str | None, *, quiet: bool, verbose: bool, debug: bool, **options: Any
) -> None:
    from rankme_stream.measuring import measure
    from rankme_stream.reading import plan as make_plan

    if json_file is not None:
        _check_writable(json_file)
    documents: list[dict[str, Any]] = []
    worst = 0
    failures: list[RankMeError] = []
    for source in sources:
        try:
            if verbose:
                asked = ("method", "precision", "sample", "normalize", "rows", "workers", "memory_limit")
                plan_options = {key: options[key] for key in asked}
                click.echo(_plan_table(source, make_plan(source, **plan_options).to_dict()), err=True)
            with _Reporter(quiet) as progress, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ToleranceWarning)
                measurement = measure(source, progress=progress, **options)
        except RankMeError as error:
            if len(sources) == 1 or debug:
                raise
            _report(error)
            worst = max(worst, error.exit_code)
            described = {"type": type(error).__name__, "message": str(error), "exit": error.exit_code}
            documents.append({"schema_version": 1, "source": {"uri": source}, "error": described})
            continue
        documents.append(measurement.to_dict())
        _show(measurement, json_file, quiet)
        for warning in caught:
            if not issubclass(warning.category, ToleranceWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
                continue
            unmet = LimitError(str(warning.message))
            failures.append(unmet)
            worst = max(worst, unmet.exit_code)
    if json_file is not None:
        lines = (
            json.dumps(document, indent=2 if len(sources) == 1 else None, allow_nan=False) for document in documents
        )
        _write(json_file, "\n".join(lines) + "\n")
    for failure in failures:
        _report(failure)
    if worst:
        raise click.exceptions.Exit(worst)


def _show(measurement: Measurement, json_file: str | None, quiet: bool) -> None:
    if json_file != "-" and not quiet:
        _print(str(measurement) + "\n")


def _plan_table(source: str, planned: dict[str, Any]) -> str:
    mebi = 2**20
    lines = [
        source,
        f"  rows        {planned['row_start']:,} to {planned['row_stop']:,} x {planned['n_features']:,} features",
        f"  method      {planned['method']} in {planned['precision']}, {planned['flops']:.3g} flops"
        + (", unit rows too" if planned["normalize"] else ""),
        f"  panels      {planned['panel_rows']:,} rows; "
        f"segments {planned['segments']:,} of {planned['segment_rows']:,} rows",
        f"  reading     {planned['bytes_stored'] / mebi:,.1f} MiB decoded, "
        f"blocks of up to {planned['block_rows']:,} rows" + (", one read ahead" if planned["reads_ahead"] else ""),
        *_sample_line(planned),
        f"  workers     {planned['workers']}, {planned['segments_at_once']} segments at once",
        f"  memory      {planned['predicted_peak_bytes'] / mebi:,.0f} MiB predicted, "
        f"limit {planned['memory_limit_bytes'] / mebi:,.0f} MiB",
    ]
    lines += [f"    {what:<12}{n_bytes / mebi:>10,.1f} MiB" for what, n_bytes in planned["memory"].items()]
    return "\n".join(lines)


def _sample_line(planned: dict[str, Any]) -> list[str]:
    if not planned["sample_rows"]:
        return []
    return [
        f"  sample      {planned['sample_rows']:,} rows or more, in random units of {planned['segment_rows']:,} rows; "
        "flops and MiB are those of all rows"
    ]


def _print(text: str) -> None:
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as error:
        _abandon_stdout()
        raise OutputError(f"stdout cannot be written: {error.strerror}") from None


def _abandon_stdout() -> None:
    """Point stdout at nothing, so that Python's last flush does not fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_writable(json_file: str) -> None:
    """Refuse an output that cannot be written before hours are spent on what it should hold."""
    if json_file == "-":
        return
    path = Path(json_file)
    if path.is_dir():
        raise OutputError(f"{json_file} is a folder; give a file for --json")
    if not path.parent.is_dir():
        raise OutputError(f"{json_file} cannot be written: the folder {path.parent} does not exist")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise OutputError(f"{json_file} cannot be written: no permission for {target}")


def _write(json_file: str, text: str) -> None:
    if json_file == "-":
        _print(text.rstrip("\n"))
        return
    path = Path(json_file)
    if path.exists() and not path.is_file():  # a pipe or a device is written to, never replaced
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None
        return
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            temporary = Path(file.name)
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None


class _Reporter:
    """Progress on stderr: a bar on a terminal, a line a minute elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Callable[[Progress], None] | None:
        if self._quiet:
            return None
        if not sys.stderr.isatty():
            return self._line
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        rate = TextColumn("rows  {task.fields[rate]}")
        columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task("rows", total=None, rate="")
        return self._draw

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, done: Progress) -> None:
        if done.rankme is not None:
            self._bar.console.print(_look(done), highlight=False)
        self._bar.update(self._task, completed=done.rows_done, total=done.rows_total, rate=_rate(done))

    def _line(self, done: Progress) -> None:
        if done.rankme is not None:
            click.echo(_look(done), err=True)
            return
        if time.monotonic() - self._last_line < _LINE_PERIOD_S:
            return
        self._last_line = time.monotonic()
        left = done.elapsed_s * (done.rows_total - done.rows_done) / max(1, done.rows_done)
        share = f"{done.rows_done:,} of {done.rows_total:,} rows"
        click.echo(f"rankme: {share}, {_rate(done)}, {left / 60:.0f} min left", err=True)


def _look(done: Progress) -> str:
    from rankme_stream.measurement import shown

    value, interval = shown(dict(zip(("value", "lower", "upper"), done.rankme or (None,) * 3, strict=True)))
    return f"rankme: {done.rows_done:,} rows, RankMe {value} {interval}".rstrip()


def _rate(done: Progress) -> str:
    return f"{done.bytes_read / max(done.elapsed_s, 1e-9) / 1e6:,.0f} MB/s"


def _report(error: RankMeError) -> None:
    click.echo(f"rankme: error: {' '.join(str(error).split())}", err=True)


def _leave(code: int) -> NoReturn:
    """End at once: worker threads may be deep inside a decode that nobody waits for any more."""
    sys.stderr.flush()
    os._exit(code)


def _on_signal(number: int, frame: object) -> NoReturn:
    raise _Signal(number)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with the code that INTERFACE promises."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        code = cli.main(args=arguments, prog_name="rankme", standalone_mode=False)
    except RankMeError as error:
        if "--debug" in (sys.argv if arguments is None else arguments):
            raise
        _report(error)
        code = error.exit_code
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        click.echo(f"rankme: error: {error.format_message()}", err=True)
        code = error.exit_code
    except _Signal as arrived:
        what = "interrupted" if arrived.number == signal.SIGINT else "terminated"
        click.echo(f"rankme: error: {what}; the pass gives no result", err=True)
        _leave(128 + arrived.number)
    sys.exit(code)
