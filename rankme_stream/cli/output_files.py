"""Files that a command writes: refused early where they would replace something else, and written whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rankme_stream.cli.streams import UnreadError, print_out
from rankme_stream.errors import OutputError, UsageError, argument, unwritten

_OUR_KEYS = (b'"schema_version"', b'"predicted_peak_bytes"')  # one of them is in all JSON that the command writes


def check_json(file: str | None, inputs: Iterable[str | None]) -> None:
    """Refuse a file for JSON that cannot be written or would replace something else, before hours are spent.

    Parameters
    ----------
    file
        File of ``--json``; ``-`` is stdout, and None is no file.
    inputs
        Paths of everything that the command reads; None and URLs are skipped.

    Raises
    ------
    UsageError
        If it is one of the inputs, lies in a store that is one, or holds anything but JSON of this command.
    OutputError
        If it cannot be written.
    """
    if file is None or file == "-":
        return
    option = argument("json")
    _check_place(file, option, inputs)
    if _size(file) and not _is_ours(file):
        raise UsageError(
            f"{file} is not JSON of rankme, and {option} would replace it: give another file, or delete it"
        )


def check_state(file: str | None, option: str, inputs: Iterable[str | None]) -> None:
    """Refuse a file for a state that is an input, lies in a store that is one, or holds anything but a state."""
    if file is None:
        return
    from rankme_stream.passes.state.state_file import MAGIC

    _check_place(file, argument(option), inputs)
    if _size(file) and _beginning(file, len(MAGIC)) != MAGIC:
        raise UsageError(f"{file} is not a state file, and {argument(option)} would replace it: give another file")


def _check_place(file: str, option: str, inputs: Iterable[str | None]) -> None:
    from rankme_stream.sources.address import split_address

    if not file or "\0" in file:
        raise UsageError(f"{option} is {file!r} and must name a file")
    for given in inputs:
        location = split_address(given or "")[0]
        if not location or "://" in location:
            continue
        if _is_same(file, location):
            raise UsageError(f"{file} is read by this command, and {option} would replace it: give another file")
        if os.path.isdir(location) and Path(os.path.realpath(file)).is_relative_to(os.path.realpath(location)):
            raise UsageError(f"{file} lies in {location}, which is read: give a file outside for {option}")
    path = Path(file)
    try:
        is_folder, has_parent = path.is_dir(), path.parent.is_dir()
        target = path if path.exists() else path.parent
    except OSError as error:  # a name too long, a loop of links
        raise OutputError(f"{file} cannot be written: {error.strerror}; give another file for {option}") from None
    if is_folder:
        raise OutputError(f"{file} is a folder; give a file for {option}")
    if not has_parent:
        raise OutputError(f"{file} cannot be written: the folder {path.parent} does not exist")
    if not os.access(target, os.W_OK):
        raise OutputError(f"{file} cannot be written: no permission for {target}")


def _is_same(file: str, location: str) -> bool:
    try:
        return os.path.samefile(file, location)
    except (OSError, ValueError):
        return False  # one of them does not exist


def _size(file: str) -> int:
    """Return the size of a regular file; 0 of a pipe or device, and where there is nothing."""
    path = Path(file)
    return path.stat().st_size if path.is_file() else 0


def _beginning(file: str, length: int) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(length)
    except OSError as error:
        raise OutputError(f"{file} cannot be replaced: {error.strerror}") from None


def _is_ours(file: str) -> bool:
    if _beginning(file, 1) != b"{":
        return False
    with open(file, "rb") as opened:
        end = b""
        while piece := opened.read(2**20):
            if any(key in end + piece for key in _OUR_KEYS):
                return True
            end = piece[-max(map(len, _OUR_KEYS)) :]
    return False


def write(file: str, text: str) -> None:
    """Write a file whole, or not at all; ``-`` is stdout."""
    if file == "-":
        print_out(text.rstrip("\n"))
        return
    path = Path(file)
    temporary = None
    try:
        if path.exists() and not path.is_file():  # a pipe or device must be written to, not replaced
            _write_into(path, text)
            return
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as opened:
            temporary = Path(opened.name)
            opened.write(text)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise unwritten(file, error) from None


def _write_into(path: Path, text: str) -> None:
    """Write into a pipe or device; a pipe that nobody reads is an error, and not waited for."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(text)


class Documents:
    """Writer of results as JSON: one document, or a line for each once it is ready; nothing without a file."""

    def __init__(self, file: str | None, *, is_many: bool) -> None:
        self._file, self._is_many = file, is_many
        self.is_file = file not in (None, "-")
        if self.is_file and is_many:
            write(str(file), "")

    def add(self, document: dict[str, Any]) -> None:
        """Write a result."""
        if self._file is None:
            return
        text = json.dumps(document, indent=None if self._is_many else 2, allow_nan=False) + "\n"
        if not self._is_many or self._file == "-":
            write(self._file, text)
            return
        try:
            if Path(self._file).is_file():
                with open(self._file, "a", encoding="utf-8") as opened:
                    opened.write(text)
            else:
                _write_into(Path(self._file), text)
        except OSError as error:
            raise unwritten(self._file, error) from None


def in_turn(*steps: Callable[[], None]) -> None:
    """Carry out every step, even after one of them failed to write, and then raise the first failure."""
    failures: list[OutputError | UnreadError] = []
    for step in steps:
        try:
            step()
        except (OutputError, UnreadError) as error:
            failures.append(error)
    if failures:
        raise failures[0]
