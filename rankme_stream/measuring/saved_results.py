"""Results in files: state files, and the JSON of ``rankme score --json``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankme_stream import errors
from rankme_stream.errors import RankMeError, ResultError, SourceError, SourceNotFoundError, UsageError
from rankme_stream.measuring.api import measure, measure_state
from rankme_stream.passes.state.pass_state import State, load_state
from rankme_stream.passes.state.state_file import MAGIC
from rankme_stream.results.document import parse_results
from rankme_stream.sources import open_source, without_secrets
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.regular_file import reason, regular_file


def read_results(file: str) -> State | list[dict[str, Any]]:
    """Return the state in a file, or its results in their JSON form, checked: one document, or one per line.

    Raises
    ------
    SourceNotFoundError
        If there is no such file.
    ResultError
        If it cannot be read, or holds neither a state nor results.
    StateError
        If it is a damaged state file.
    """
    beginning = _beginning(file)
    if beginning == MAGIC:
        return load_state(file)
    if beginning and not beginning.lstrip().startswith(b"{"):
        raise ResultError(f"{file} is neither a result nor a state: score a dump with rankme score, and show that")
    try:
        with regular_file(file) as opened:
            text = opened.read().decode("utf-8")
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise ResultError(f"{file} cannot be read as text: {error}") from None
    return parse_results(text, file)


def _beginning(file: str) -> bytes:
    try:
        with regular_file(file) as opened:
            return opened.read(len(MAGIC))
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {reason(error)}") from None


@dataclass(frozen=True)
class Entry:
    """Run to be compared, before anything is measured.

    Attributes
    ----------
    uri
        URI of the dump.
    origin
        Origin of the result: the dump itself, without secrets, a file, or ``FILE:N`` of several results.
    content
        Result in its JSON form, or the error in place of one; a state; None if the dump is still to be measured.
    array
        Options of ``open_source`` for the dump.
    """

    uri: str
    origin: str
    content: State | Mapping[str, Any] | None = field(repr=False)
    array: Mapping[str, Any] = field(default_factory=dict)

    def document(
        self, *, tolerance: float, dims: tuple[int, ...], **options: Any
    ) -> tuple[Mapping[str, Any], list[RankMeError]]:
        """Return the result in its JSON form, and its shortfalls; ``options`` are those of ``measure``, for dumps.

        Raises
        ------
        RankMeError
            If the dump is refused, or was refused when it was scored.
        """
        if self.content is None:
            measurement = measure(open_source(self.uri, **self.array), tolerance=tolerance, dims=dims, **options)
        elif isinstance(self.content, State):
            measurement = measure_state(self.content, tolerance=tolerance, dims=dims)
        elif "error" in self.content:
            raise _stored_error(self.content["error"])
        else:
            return self.content, []
        return measurement.to_dict(), measurement.shortfalls


def _stored_error(error: Mapping[str, Any]) -> RankMeError:
    kind = getattr(errors, error["type"], None)
    if isinstance(kind, type) and issubclass(kind, RankMeError) and kind is not RankMeError:
        return kind(error["message"])
    return SourceError(error["message"])


def entries(sources: Sequence[str], **array: Any) -> list[Entry]:
    """Return the runs that arguments name: all in a file of results, a state file, or else a dump.

    ``array`` holds options of ``open_source`` for the dumps.

    Raises
    ------
    UsageError
        If two arguments name one file or dump.
    SourceError, ResultError, StateError
        If a file is damaged.
    """
    first: dict[str, str] = {}
    for source in sources:
        if (other := first.setdefault(_canonical(source), source)) is not source:
            raise UsageError(
                without_secrets(f"{source} is given twice, the other time as {other}: name every run once")
            )
    return [entry for source in sources for entry in _entries(source, array)]


def _canonical(source: str) -> str:
    """Return the one name of a path, with the array in a store; a URL stays as it is."""
    location, path = split_address(source)
    return source if "://" in location else f"{os.path.realpath(location)}::{path.strip('/')}"


def _entries(source: str, array: Mapping[str, Any]) -> list[Entry]:
    if not _has_results(source):
        return [Entry(source, without_secrets(source), None, array)]
    content = read_results(source)
    if isinstance(content, State):
        return [Entry(content.source["uri"], source, content)]
    return [
        Entry(document["source"]["uri"], source if len(content) == 1 else f"{source}:{number}", document)
        for number, document in enumerate(content, 1)
    ]


def _has_results(source: str) -> bool:
    if source.endswith((".json", ".jsonl")):
        return True
    try:
        beginning = _beginning(source)
    except RankMeError:
        return False  # a folder, a URI, an array inside a store, or nothing: opening the dump will show which
    return beginning == MAGIC or beginning.startswith(b"{")
