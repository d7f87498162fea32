"""What the ``rankme`` command prints and writes: tables, progress, files, one line for every error."""

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
    from rankme_stream.passes.engines.local import Progress
    from rankme_stream.passes.state.pass_state import State

_LINE_PERIOD_S = 60.0


def plan_table(source: str, planned: dict[str, Any]) -> str:
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
    if "schedule" in planned:
        lines += _schedule_lines(planned["schedule"])
    if planned["checkpoint_bytes"]:
        lines.append(
            f"  checkpoint  up to {planned['checkpoint_bytes'] / mebi:,.1f} MiB, every minute or, where writing takes "
            "longer than 1.2 s, so that it takes 2 % of the time at most"
        )
    lines += [f"    {what:<12}{n_bytes / mebi:>10,.1f} MiB" for what, n_bytes in planned["memory"].items()]
    if planned["card"]:
        limit = planned["card_limit_bytes"]
        free = f", {limit / mebi:,.0f} MiB free" if limit else ""
        lines.append(f"  card        {planned['card_peak_bytes'] / mebi:,.0f} MiB predicted{free}")
        lines += [f"    {what:<12}{n_bytes / mebi:>10,.1f} MiB" for what, n_bytes in planned["card"].items()]
    return "\n".join(lines)


def _schedule_lines(schedule: dict[str, Any]) -> list[str]:
    node_mebi = schedule["node_bytes"] / 2**20
    nodes = schedule["nodes_gathered"]
    return [
        f"  tasks       {schedule['tasks']:,} of {1 << schedule['task_level']:,} segments, about "
        f"{schedule['task_s']:.0f} s each, {schedule['elapsed_s'] / 3600:,.1f} h on {schedule['threads']:,} threads",
        f"  in flight   {schedule['in_flight']:,}, none started more than {schedule['started_ahead']:,} after another",
        f"  live        {schedule['live_nodes']:,} partial results of {node_mebi:,.1f} MiB at most, "
        f"{schedule['live_nodes'] * node_mebi / schedule['threads']:,.1f} MiB a thread",
        f"  traffic     up to {nodes:,} of them to the client every {schedule['gather_s']:.0f} s, "
        f"{nodes * node_mebi / schedule['gather_s']:,.0f} MiB/s",
        f"  at risk     {schedule['lost_s']:.0f} s of work, where everything but the state file dies",
    ]


def state_table(state: State) -> str:
    """Return what a state file holds of a pass that is not whole."""
    plan, done = state.plan, sum(stop - start for start, stop in state.covered)
    n_rows = plan.row_stop - plan.row_start
    gaps = [f"    {start:,} to {stop - 1:,}" for start, stop in state.missing]
    return "\n".join(
        [
            state.source["uri"],
            f"  method      {plan.method} in {plan.precision}" + (", unit rows too" if plan.normalize else ""),
            f"  rows        {done:,} of {n_rows:,} read ({done / n_rows:.1%}); no number is given before the rest is:",
            *gaps,
        ]
    )


def _sample_line(planned: dict[str, Any]) -> list[str]:
    if not planned["sample_rows"]:
        return []
    return [
        f"  sample      {planned['sample_rows']:,} rows or more, in random units of {planned['segment_rows']:,} rows; "
        "flops and MiB are those of all rows"
    ]


def print_out(text: str) -> None:
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as error:
        _abandon_stdout()
        raise OutputError(f"stdout cannot be written: {error.strerror}") from None


def _abandon_stdout() -> None:
    """Point stdout at nothing, so that Python's last flush does not fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(json_file: str) -> None:
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


def write(json_file: str, text: str) -> None:
    if json_file == "-":
        print_out(text.rstrip("\n"))
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


class Documents:
    """Results as JSON, where they were asked for: one document, or a line each as soon as it is there.

    Raises
    ------
    OutputError
        If the file cannot be written: before hours are spent on what it should hold.
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
    """Progress on stderr: a bar on a terminal, a line a minute elsewhere, nothing when quiet.

    Parameters
    ----------
    check
        Called with every report of progress.
    """

    def __init__(self, quiet: bool, check: Callable[[], None] | None = None) -> None:
        self._quiet, self._check = quiet, check
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Callable[[Progress], None]:
        shown = self._shown()

        def report(done: Progress) -> None:
            if self._check is not None:
                self._check()
            shown(done)

        return report

    def _shown(self) -> Callable[[Progress], None]:
        if self._quiet:
            return lambda done: None
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
        self._bar.update(
            self._task,
            completed=done.rows_before + done.rows_done,
            total=done.rows_before + done.rows_total,
            rate=_rate(done),
        )

    def _line(self, done: Progress) -> None:
        if done.rankme is not None:
            click.echo(_look(done), err=True)
            return
        if time.monotonic() - self._last_line < _LINE_PERIOD_S:
            return
        self._last_line = time.monotonic()
        left = done.elapsed_s * (done.rows_total - done.rows_done) / max(1, done.rows_done)
        share = f"{done.rows_before + done.rows_done:,} of {done.rows_before + done.rows_total:,} rows"
        kept = "" if done.checkpoint_age_s is None else f", checkpoint {done.checkpoint_age_s / 60:.1f} min old"
        click.echo(f"rankme: {share}, {_rate(done)}, {left / 60:.0f} min left{kept}", err=True)


def _look(done: Progress) -> str:
    from rankme_stream.results.measurement import shown

    value, interval = shown(dict(zip(("value", "lower", "upper"), done.rankme or (None,) * 3, strict=True)))
    return f"rankme: {done.rows_done:,} rows, RankMe {value} {interval}".rstrip()


def _rate(done: Progress) -> str:
    return f"{done.bytes_read / max(done.elapsed_s, 1e-9) / 1e6:,.0f} MB/s"


def report(error: RankMeError) -> None:
    text = "; ".join([str(error), *getattr(error, "__notes__", [])])
    click.echo(f"rankme: error: {' '.join(text.split())}", err=True)
