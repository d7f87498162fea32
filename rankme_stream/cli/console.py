"""Output of the ``rankme`` command: tables, progress, files, and one line for every error."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rankme_stream.errors import OutputError, RankMeError

if TYPE_CHECKING:
    from rankme_stream.passes.engines.engine import Progress

_LINE_PERIOD_S = 60.0


def print_out(text: str) -> None:
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as error:
        _abandon_stdout()
        raise OutputError(f"stdout cannot be written: {error.strerror}") from None


def _abandon_stdout() -> None:
    """Redirect stdout to the null device, so that Python's flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(json_file: str) -> None:
    """Refuse a file that cannot be written, before hours are spent on its content."""
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


def write(json_file: str, text: str) -> None:
    if json_file == "-":
        print_out(text.rstrip("\n"))
        return
    path = Path(json_file)
    if path.exists() and not path.is_file():  # a pipe or device must be written to, not replaced
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


class Documents:
    """Writer of results as JSON: one document, or a line for each once it is ready; nothing without a file.

    Raises
    ------
    OutputError
        If the file cannot be written; raised before hours are spent on its content.
    """

    def __init__(self, json_file: str | None, *, is_many: bool) -> None:
        self._file, self._is_many = json_file, is_many
        if json_file is not None:
            check_writable(json_file)
            if is_many and json_file != "-":
                write(json_file, "")

    def add(self, document: dict[str, Any]) -> None:
        """Write a result."""
        if self._file is None:
            return
        text = json.dumps(document, indent=None if self._is_many else 2, allow_nan=False) + "\n"
        if not self._is_many or self._file == "-":
            write(self._file, text)
            return
        try:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"{self._file} cannot be written: {error.strerror}") from None


class Reporter:
    """Progress on stderr: a bar on a terminal, one line per minute elsewhere, nothing if quiet.

    Parameters
    ----------
    check
        Function called at every report of progress; raises if a signal arrived.
    """

    def __init__(self, quiet: bool, check: Callable[[], None] | None = None) -> None:
        self._quiet, self._check = quiet, check
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Callable[[Progress], None]:
        show = self._start()

        def report(done: Progress) -> None:
            if self._check is not None:
                self._check()
            show(done)

        return report

    def _start(self) -> Callable[[Progress], None]:
        """Start the display and return the function that updates it."""
        if self._quiet:
            return lambda done: None
        if not sys.stderr.isatty():
            return self._print_line
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
        self._bar.update(
            self._task,
            completed=done.rows_before + done.rows_done,
            total=done.rows_before + done.rows_total,
            rate=_rate(done),
        )

    def _print_line(self, done: Progress) -> None:
        if done.rankme is not None:
            click.echo(_look(done), err=True)
            return
        if time.monotonic() - self._last_line < _LINE_PERIOD_S:
            return
        self._last_line = time.monotonic()
        remaining_s = done.elapsed_s * (done.rows_total - done.rows_done) / max(1, done.rows_done)
        rows = f"{done.rows_before + done.rows_done:,} of {done.rows_before + done.rows_total:,} rows"
        checkpoint = "" if done.checkpoint_age_s is None else f", checkpoint {done.checkpoint_age_s / 60:.1f} min old"
        click.echo(f"rankme: {rows}, {_rate(done)}, {remaining_s / 60:.0f} min left{checkpoint}", err=True)


def _look(done: Progress) -> str:
    from rankme_stream.results.table import format_estimate

    value, interval = format_estimate(dict(zip(("value", "lower", "upper"), done.rankme or (None,) * 3, strict=True)))
    return f"rankme: {done.rows_done:,} rows, RankMe {value} {interval}".rstrip()


def _rate(done: Progress) -> str:
    return f"{done.bytes_read / max(done.elapsed_s, 1e-9) / 1e6:,.0f} MB/s"


def report(error: RankMeError) -> None:
    text = "; ".join([str(error), *getattr(error, "__notes__", [])])
    click.echo(f"rankme: error: {' '.join(text.split())}", err=True)
