"""Results that were kept in files: state files, and the JSON of ``rankme score --json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.measurement import SCHEMA_VERSION
from rankme_stream.state import State, load_state

_STATE_FILE = b"rankme-state"  # how one begins


def read_results(file: str) -> State | list[dict[str, Any]]:
    """Return the state that a file holds, or its results in their JSON form: one, or one a line.

    Raises
    ------
    SourceError
        If there is no such file, or it holds neither.
    StateError
        If it is a state file and damaged.
    """
    try:
        with open(file, "rb") as opened:
            is_state = opened.read(len(_STATE_FILE)) == _STATE_FILE
        text = "" if is_state else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceNotFoundError(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceFormatError(f"{file} cannot be read as text: {error}") from None
    if is_state:
        return load_state(file)
    documents = _documents(file, text)
    for document in documents:
        if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
            raise SourceFormatError(f"{file} is no result of rankme score --json, or of a newer version")
    return documents


def _documents(file: str, text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        pass  # a document a line, perhaps
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise SourceFormatError(f"{file} is not JSON: {error}") from None
