"""What the ``rankme`` command prints on stderr: progress, and one line for every error and warning."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from rankme_stream.cli.options import on_command_line
from rankme_stream.cli.streams import LossyStream, print_error
from rankme_stream.errors import RankMeError, worded

if TYPE_CHECKING:
    from rankme_stream.passes.engines.engine import Progress

_LINE_PERIOD_S = 60.0


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
        if sys.stderr is None or not sys.stderr.isatty():
            return self._print_line
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        rate = TextColumn("rows  {task.fields[rate]}")
        columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(file=cast("IO[str]", LossyStream(sys.stderr))), transient=True)
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
            print_error(_look(done))
            return
        if time.monotonic() - self._last_line < _LINE_PERIOD_S:
            return
        self._last_line = time.monotonic()
        remaining_s = done.elapsed_s * (done.rows_total - done.rows_done) / max(1, done.rows_done)
        rows = f"{done.rows_before + done.rows_done:,} of {done.rows_before + done.rows_total:,} rows"
        checkpoint = "" if done.checkpoint_age_s is None else f", checkpoint {done.checkpoint_age_s / 60:.1f} min old"
        print_error(f"rankme: {rows}, {_rate(done)}, {remaining_s / 60:.0f} min left{checkpoint}")


def _look(done: Progress) -> str:
    from rankme_stream.results.table import format_estimate

    value, interval = format_estimate(dict(zip(("value", "lower", "upper"), done.rankme or (None,) * 3, strict=True)))
    return f"rankme: {done.rows_done:,} rows, RankMe {value} {interval}".rstrip()


def _rate(done: Progress) -> str:
    return f"{done.bytes_read / max(done.elapsed_s, 1e-9) / 1e6:,.0f} MB/s"


def describe(error: RankMeError) -> str:
    """Return the message of an error with its notes, in the words of the command line."""
    return worded("; ".join([error.message, *getattr(error, "__notes__", [])]), on_command_line)


def report(error: RankMeError, *, debug: bool = False) -> None:
    """Print an error in one line, after its traceback if ``debug``."""
    if debug:
        print_error("".join(traceback.format_exception(error)).rstrip("\n"))
    print_error(f"rankme: error: {describe(error)}")


def report_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """Print a warning of any library in one line, in place of ``warnings.showwarning``."""
    print_error(f"rankme: warning: {' '.join(str(message).split())}")


def report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nothing caught, in place of ``sys.excepthook``."""
    print_error("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))
    print_error("rankme: error: this is a defect of rankme-stream: please report the lines above to its authors")
