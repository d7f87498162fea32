"""Downstream scores of runs, from a CSV file, and which run each of them belongs to."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rankme_stream.errors import SourceFormatError, SourceNotFoundError

_REQUIRED = ("source", "score")
_NAMED = 4  # of several, in a message


@dataclass(frozen=True)
class Score:
    """One line of the file.

    Attributes
    ----------
    place
        ``line N of FILE``.
    source
        Names a run: its URI or path, or an end of it, cut at a slash.
    score
        Higher is better.
    sweep
        Runs of one name are compared with each other; None without that column.
    hyperparameter
        What was varied; None without that column, or where a whole sweep has none.
    """

    place: str
    source: str
    score: float
    sweep: str | None
    hyperparameter: float | None


def read_scores(file: str) -> list[Score]:
    """Read a CSV file of scores.

    Its columns are ``source``, ``score`` and, if need be, ``sweep`` and ``hyperparameter``; others are ignored.

    Raises
    ------
    SourceNotFoundError
        If there is no such file.
    SourceFormatError
        If a column is missing, a field is empty or no number, or a source is named twice; with the line.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = reader.fieldnames or ()
            for column in _REQUIRED:
                if column not in columns:
                    found = ", ".join(columns) or "none"
                    raise SourceFormatError(f"{file} has no column {column!r}; its columns are {found}")
            scores = [_score(row, f"line {reader.line_num} of {file}") for row in reader]
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceFormatError(f"{file} cannot be read as CSV: {error}") from None
    _check(scores, file)
    return scores


def _score(row: dict[str, str | None], place: str) -> Score:
    source, sweep = (_text(row, column, place) for column in ("source", "sweep"))
    score = _number(row, "score", place)
    if not source or score is None:
        raise SourceFormatError(f"{place} has no {'score' if source else 'source'}")
    if sweep == "":
        raise SourceFormatError(f"{place} has no sweep; name one, or leave the column out")
    return Score(place, source, score, sweep, _number(row, "hyperparameter", place))


def _text(row: dict[str, str | None], column: str, place: str) -> str | None:
    if column not in row:
        return None
    text = row[column]
    if text is None:
        raise SourceFormatError(f"{place} ends before the column {column!r}")
    return text.strip()


def _number(row: dict[str, str | None], column: str, place: str) -> float | None:
    text = _text(row, column, place)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SourceFormatError(f"{place}: the {column} {text!r} is no finite number")
    return number


def _check(scores: Sequence[Score], file: str) -> None:
    if not scores:
        raise SourceFormatError(f"{file} has no line below its header")
    first: dict[str, Score] = {}
    for one in scores:
        if first.setdefault(one.source, one) is not one:
            raise SourceFormatError(f"{one.place} names {one.source} again, after {first[one.source].place}")
    has_hyperparameters = {one.sweep for one in scores if one.hyperparameter is not None}
    for one in scores:
        if one.sweep in has_hyperparameters and one.hyperparameter is None:
            raise SourceFormatError(f"{one.place} has no hyperparameter, and others of its sweep have one")


def matched(scores: Iterable[Score], runs: Sequence[tuple[str, str]]) -> list[Score]:
    """Return the score of every run, in their order.

    Parameters
    ----------
    runs
        URI and place of each. A source that is one of these, or the same path, names that run; otherwise one that is an
        end of it, cut at a slash, with or without the array inside a store (``::NAME``).

    Raises
    ------
    SourceFormatError
        If a source names no run or several, two sources name one, or a run has no score.
    """
    found: dict[int, Score] = {}
    for score in scores:
        exact = [number for number, run in enumerate(runs) if any(map(score.source.__eq__, map(str, run)))]
        places = exact or [number for number, run in enumerate(runs) if any(_names(score.source, one) for one in run)]
        if len(places) != 1:
            several = ", ".join(runs[number][0] for number in places[:_NAMED])
            what = f"names {len(places)} runs: {several}; write more of the path" if places else "names no run"
            raise SourceFormatError(f"{score.place}: {score.source} {what}")
        if places[0] in found:
            raise SourceFormatError(
                f"{score.place}: {score.source} names the run of {found[places[0]].place} again: leave one out"
            )
        found[places[0]] = score
    for number, run in enumerate(runs):
        if number not in found:
            raise SourceFormatError(f"{run[0]} has no line in the file of scores: add one, or leave the run out")
    return [found[number] for number in range(len(runs))]


def _names(source: str, label: str) -> bool:
    store = label.split("::")[0]
    ends = any(f"/{one}".endswith(f"/{source}") for one in (label, store))
    return ends or os.path.abspath(source) in (os.path.abspath(label), os.path.abspath(store))
