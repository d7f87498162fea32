"""Command lines that score a source: the one to run, and alternatives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rankme_stream.measuring.inspecting.full_pass import FullPass
from rankme_stream.results.inspection import Command, Remark
from rankme_stream.sources import Source, storage_of, without_secrets

_LONG_S, _VERY_LONG_S = 60.0, 600.0  # passes for which a sample is proposed, or a checkpoint
_ENOUGH = 40  # rows a feature, of which a sample would read half at most
_FEW = 10  # rows a feature


class Circumstances(NamedTuple):
    """What the choice of a command depends on: the source, the plan and the time of a pass, and the remarks."""

    source: Source
    planned: FullPass
    full_pass: Mapping[str, float] | None
    remarks: Sequence[Remark]


def score_commands(given: Any, options: Mapping[str, Any], found: Circumstances) -> Iterator[Command]:
    """Yield the command to run, and alternatives; none for rows that no command line can name.

    URLs are written without password and query, which the reader adds: what is printed or kept holds no credentials.

    Parameters
    ----------
    given
        Source, as the caller named it.
    options
        Options of ``open_source`` that the caller gave.
    """
    names = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(names, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in names):
        return
    seconds = 0.0 if found.full_pass is None else found.full_pass["seconds"]
    stored = [word for name, value in options.items() for word in _option(name, value)]
    rows = [*(["--concat"] if len(names) > 1 else []), *(without_secrets(os.fspath(one)) for one in names), *stored]
    words = ["rankme", "score", *rows, *found.planned.options]
    words += [word for one in found.remarks if one.refuses for word in one.options]
    yield _command([*words, *(["--checkpoint", "score.state"] if seconds > _VERY_LONG_S else [])], "every row")
    n_rows, n_features = found.source.shape
    if not found.planned.options:
        if seconds > _LONG_S and n_rows >= _ENOUGH * n_features:
            yield _command([*words, "--sample", "--tolerance", "5e-3"], "as few rows as 0.5 % takes")
        if n_features < n_rows < _FEW * n_features:
            yield _command([*words, "--population", "--tolerance", "0.05"], "for what the few rows were drawn from")
    for one in found.remarks:
        if one.options and not one.refuses and one.options[0] not in words:
            yield _command([*words, *one.options], one.when)
    is_slow = found.full_pass is not None and found.full_pass["reading_s"] > found.full_pass["computing_s"]
    if is_slow and seconds > _LONG_S and len(names) == 1 and not storage_of(found.source).format.startswith("zarr"):
        yield _command(["rankme", "convert", *rows, "copy.zarr"], "to score it often: reading takes longest")


def _option(name: str, value: Any) -> list[str]:
    return [] if value is None else [f"--{name.replace('_', '-')}", str(value)]


def _command(words: Sequence[str], why: str) -> Command:
    return Command(shlex.join(words), why)
