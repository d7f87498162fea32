"""Results in files: state files, and the JSON of ``rankme score --json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rankme_stream import errors
from rankme_stream.errors import RankMeError, SourceError, SourceFormatError, SourceNotFoundError
from rankme_stream.measuring.api import measure, measure_state
from rankme_stream.passes.state.pass_state import State, load_state
from rankme_stream.passes.state.state_file import MAGIC
from rankme_stream.results.measurement import SCHEMA_VERSION
from rankme_stream.sources.regular_file import reason, regular_file


def read_results(file: str) -> State | list[dict[str, Any]]:
    """Return the state in a file, or its results in their JSON form: one document, or one per line.

    Raises
    ------
    SourceError
        If there is no such file, or it holds neither a state nor results.
    StateError
        If it is a damaged state file.
    """
    try:
        with regular_file(file) as opened:
            is_state = opened.read(len(MAGIC)) == MAGIC
            opened.seek(0)
            text = "" if is_state else opened.read().decode("utf-8")
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except OSError as error:
        raise SourceFormatError(f"{file} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise SourceFormatError(f"{file} cannot be read as text: {error}") from None
    if is_state:
        return load_state(file)
    documents = _documents(file, text)
    for document in documents:
        if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
            raise SourceFormatError(f"{file} is not a result of rankme score --json, or is one of a newer version")
    return documents


def _documents(file: str, text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        pass  # it may hold one document per line
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise SourceFormatError(f"{file} is not JSON: {error}") from None


@dataclass(frozen=True)
class Entry:
    """Run to be compared, before anything is measured.

    Attributes
    ----------
    uri
        URI of the dump.
    origin
        Origin of the result: the dump itself, a file, or ``FILE:N`` of several results.
    content
        Result in its JSON form, or the error in place of one; a state; None if the dump is still to be measured.
    """

    uri: str
    origin: str
    content: State | Mapping[str, Any] | None = field(repr=False)

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
            measurement = measure(self.uri, tolerance=tolerance, dims=dims, **options)
        elif isinstance(self.content, State):
            measurement = measure_state(self.content, tolerance=tolerance, dims=dims)
        elif "error" in self.content:
            raise _stored_error(self.content["error"])
        else:
            return self.content, []
        return measurement.to_dict(), measurement.shortfalls


def _stored_error(error: Mapping[str, Any]) -> RankMeError:
    kind = getattr(errors, str(error["type"]), None)
    if isinstance(kind, type) and issubclass(kind, RankMeError):
        return kind(error["message"])
    return SourceError(error["message"])


def entries(source: str) -> list[Entry]:
    """Return the runs that an argument names: all in a file of results, a state file, or else a dump.

    Raises
    ------
    SourceError, StateError
        If the file is damaged.
    """
    if not _has_results(source):
        return [Entry(source, source, None)]
    content = read_results(source)
    if isinstance(content, State):
        return [Entry(content.source["uri"], source, content)]
    try:
        return [
            Entry(document["source"]["uri"], source if len(content) == 1 else f"{source}:{number}", document)
            for number, document in enumerate(content, 1)
        ]
    except (KeyError, TypeError) as error:
        raise SourceFormatError(f"{source} is damaged: {error} is absent or of another type") from None


def _has_results(source: str) -> bool:
    if source.endswith((".json", ".jsonl")):
        return True
    try:
        with regular_file(source) as opened:
            beginning = opened.read(len(MAGIC))
    except OSError:
        return False  # a folder, a URI, an array inside a store, or nothing: opening the dump will show which
    return beginning == MAGIC or beginning.startswith(b"{")
