"""Downstream scores of runs: read from a CSV file and matched with the runs."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.regular_file import reason, regular_file

_REQUIRED = ("source", "score")
_OPTIONAL = ("sweep", "hyperparameter")
_LISTED = 4  # runs listed in a message


@dataclass(frozen=True)
class Score:
    """Score of a run: one line of the file.

    Attributes
    ----------
    line
        ``line N of FILE``, for messages.
    source
        URI or path of a run, or an end of it, cut at a slash.
    score
        Downstream score; higher is better.
    sweep
        Name of a sweep, whose runs are compared with each other; None without that column.
    hyperparameter
        Hyperparameter that was varied; None without that column, or where a whole sweep has none.
    """

    line: str
    source: str
    score: float
    sweep: str | None
    hyperparameter: float | None


def read_scores(file: str) -> list[Score]:
    """Read a CSV file of scores.

    Its columns are ``source``, ``score`` and, optionally, ``sweep`` and ``hyperparameter``; others are ignored.

    Raises
    ------
    SourceNotFoundError
        If there is no such file.
    SourceFormatError
        If a column is missing, a field is empty or no number, or a source is named twice; the message has the line.
    """
    try:
        with io.TextIOWrapper(regular_file(file), encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = list(reader.fieldnames or ())
            for column in (*_REQUIRED, *_OPTIONAL):
                if columns.count(column) > 1:
                    raise SourceFormatError(f"{file} has {columns.count(column)} columns {column!r}: leave one")
            for column in _REQUIRED:
                if column not in columns:
                    present = ", ".join(columns) or "none"
                    raise SourceFormatError(f"{file} has no column {column!r}; its columns are {present}")
            scores = [_score(row, f"line {reader.line_num} of {file}") for row in reader]
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except OSError as error:
        raise SourceFormatError(f"{file} cannot be read: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceFormatError(f"{file} cannot be read as CSV: {error}") from None
    _check(scores, file)
    return scores


def _score(row: dict[str | None, Any], line: str) -> Score:
    if any(row.get(None, ())):  # a comma in a path without quotes moves every field after it
        raise SourceFormatError(f"{line} has more fields than the header: put a field with a comma in quotes")
    source, sweep = (_text(row, column, line) for column in ("source", "sweep"))
    score = _number(row, "score", line)
    if not source or score is None:
        raise SourceFormatError(f"{line} has no {'score' if source else 'source'}")
    if sweep == "":
        raise SourceFormatError(f"{line} has no sweep; name one, or leave the column out")
    return Score(line, source, score, sweep, _number(row, "hyperparameter", line))


def _text(row: Mapping[str | None, Any], column: str, line: str) -> str | None:
    if column not in row:
        return None
    text: str | None = row[column]
    if text is None:
        raise SourceFormatError(f"{line} ends before the column {column!r}")
    return text.strip()


def _number(row: Mapping[str | None, Any], column: str, line: str) -> float | None:
    text = _text(row, column, line)
    if not text:
        return None
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SourceFormatError(f"{line}: the {column} {text!r} is not a finite number")
    return number


def _check(scores: Sequence[Score], file: str) -> None:
    if not scores:
        raise SourceFormatError(f"{file} has no line below its header")
    first: dict[str, Score] = {}
    for one in scores:
        if first.setdefault(one.source, one) is not one:
            raise SourceFormatError(f"{one.line} names {one.source} again, after {first[one.source].line}")
    has_hyperparameters = {one.sweep for one in scores if one.hyperparameter is not None}
    for one in scores:
        if one.sweep in has_hyperparameters and one.hyperparameter is None:
            raise SourceFormatError(f"{one.line} has no hyperparameter, and others of its sweep have one")


def match_scores(scores: Iterable[Score], runs: Sequence[tuple[str, str]]) -> list[Score]:
    """Return the score of every run, in their order.

    Parameters
    ----------
    runs
        URI and origin of each run. A source that equals one of these, or is the same path, names that run; otherwise
        one that is an end of it, cut at a slash, with or without the array inside a store (``::NAME``).

    Raises
    ------
    SourceFormatError
        If a source names no run or several, two sources name one, or a run has no score.
    """
    by_run: dict[int, Score] = {}
    for score in scores:
        exact = [number for number, run in enumerate(runs) if any(map(score.source.__eq__, map(str, run)))]
        named = exact or [number for number, run in enumerate(runs) if any(_names(score.source, one) for one in run)]
        if len(named) != 1:
            several = ", ".join(runs[number][0] for number in named[:_LISTED])
            what = f"names {len(named)} runs: {several}; write more of the path" if named else "names no run"
            raise SourceFormatError(f"{score.line}: {score.source} {what}")
        if named[0] in by_run:
            raise SourceFormatError(
                f"{score.line}: {score.source} names the run of {by_run[named[0]].line} again: leave one out"
            )
        by_run[named[0]] = score
    for number, run in enumerate(runs):
        if number not in by_run:
            raise SourceFormatError(f"{run[0]} has no line in the file of scores: add one, or leave the run out")
    return [by_run[number] for number in range(len(runs))]


def _names(source: str, label: str) -> bool:
    store = split_address(label)[0]
    ends = any(f"/{one}".endswith(f"/{source}") for one in (label, store))
    return ends or os.path.abspath(source) in (os.path.abspath(label), os.path.abspath(store))
