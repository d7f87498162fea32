"""Standard output and error of the command: closed, full and unread streams, and text that is safe to print."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from rankme_stream.errors import OutputError, printable

UNREAD = 141  # exit code of a command whose reader has gone, as of one ended by SIGPIPE


class UnreadError(Exception):
    """Standard output that nobody reads any more, as after ``| head``."""


def prepare() -> None:
    """Open the null device where a standard stream is closed, and let no character be unprintable.

    A file opened later would otherwise take the number of a closed stream, and be written to as such. Python's own
    object of that stream stays None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_out(text: str) -> None:
    """Print text on stdout.

    Raises
    ------
    UnreadError
        If the reader has gone.
    OutputError
        If stdout is closed or full.
    """
    if sys.stdout is None:
        raise OutputError("stdout is closed, so the result is not printed: give a file for it, or open stdout")
    try:
        sys.stdout.write(_safe(text))
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        raise UnreadError from None
    except OSError as error:
        _abandon(sys.stdout)
        raise OutputError(f"stdout cannot be written: {error.strerror}; free space, or print elsewhere") from None


class LossyStream(io.TextIOBase):
    """A stream for a bar of progress: what it cannot write, to a terminal that has gone, is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text as it is."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError:
            _abandon(self._stream)

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()


def print_error(text: str) -> None:
    """Print text on stderr; where that is closed or full the text is lost, and the exit code still tells."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(_safe(text))
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def _safe(text: str) -> str:
    """Return text whose lines are safe to print, with a line end."""
    return "".join(f"{printable(line)}\n" for line in text.split("\n"))


def _abandon(stream: TextIO) -> None:
    """Send a stream to the null device, so that Python's flush at exit does not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
