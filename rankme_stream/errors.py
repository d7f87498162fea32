"""Exceptions and warnings of the package, the exit code of each exception, and how their messages are worded."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any, ClassVar

Spelling = Callable[[str, str | None], str]  # writes an argument, and a value or None, as its reader does

# Noncharacters, which Unicode reserves for use inside a program, enclose the name of an argument in a message.
_ARGUMENT = re.compile("\ufdd0([a-z_]+)(?:=([^\ufdd0\ufdd1]*))?\ufdd1")
_INVISIBLE = re.compile(r"[^\x20-\x7e]")  # what may be so; most text has nothing of it


def argument(name: str, value: object = None) -> str:
    """Return the mark of an argument in a message: ``tolerance`` in Python, ``--tolerance`` on the command line.

    With a value, ``method="gram"`` and ``--method gram``.
    """
    return f"\ufdd0{name}\ufdd1" if value is None else f"\ufdd0{name}={value}\ufdd1"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def in_python(name: str, value: str | None) -> str:
    """Return an argument as Python writes it."""
    if value is None:
        return name
    return f"{name}={value}" if value == "True" or value.isdecimal() else f'{name}="{value}"'


def worded(message: str, spelling: Spelling = in_python) -> str:
    """Return a message in one line that is safe to print, its marks of arguments written as its reader does."""
    return printable(_ARGUMENT.sub(lambda found: spelling(found[1], found[2]), message))


def printable(text: str) -> str:
    """Return text with a visible escape, such as ``\\x1b``, in place of each character that is not printable.

    Control characters, which a terminal obeys, line ends, which forge lines, marks of direction and characters without
    width, which hide what stands there, and halves of surrogate pairs, which no encoding takes. A space stays.
    """
    return _INVISIBLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class RankMeError(Exception):
    """Base class of every error that this package raises on purpose.

    Its text is one line and safe to print; names inside it, of files and arrays, have their unprintable characters
    escaped.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Return the message, with the names that arguments have in Python."""
        return worded(self.message)

    @property
    def message(self) -> str:
        """The message as raised, with the marks of arguments: for another error that repeats it."""
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class and text; libraries that supply a missing ``__reduce__`` cannot rebuild a ``MemoryError``."""
        return type(self), self.args, self.__dict__


class UsageError(RankMeError, ValueError):
    """Wrong argument, whatever the data."""

    exit_code = 2


class SpectrumError(RankMeError, ValueError):
    """Singular values for which a metric cannot be stated; the message is the reason."""

    exit_code = 3


class SourceError(RankMeError):
    """Data that is refused; base class of the errors about a source."""

    exit_code = 3


class SourceNotFoundError(SourceError, FileNotFoundError):
    """Source that does not exist."""


class SourcePermissionError(SourceError, PermissionError):
    """Source that exists but may not be read."""


class SourceFormatError(SourceError, TypeError):
    """Source that is not a two-dimensional array of numbers in a supported format."""


class NonFiniteError(SourceError, ValueError):
    """Rows that hold NaN or infinity."""


class ZeroRowError(SourceError, ValueError):
    """A row is zero throughout, which the caller refuses."""


class MagnitudeError(SourceError, OverflowError):
    """Values whose squares are beyond the range of float64 arithmetic."""


class MissingChunksError(SourceError, LookupError):
    """Chunks that the metadata declares but that were never written, or are gone."""


class CorruptChunkError(SourceError, ValueError):
    """Stored chunk that does not decode."""


class SourceChangedError(SourceError, RuntimeError):
    """Stored rows that changed while they were read."""


class ResultError(RankMeError, ValueError):
    """File of results that is damaged, foreign or newer; the message names the place in it."""

    exit_code = 3


class StateError(RankMeError, ValueError):
    """State file that is damaged, foreign or newer, or does not belong to these rows."""

    exit_code = 3


class LimitError(RankMeError, MemoryError):
    """Limits, such as that of memory, within which the request cannot be carried out."""

    exit_code = 4


class ArithmeticCheckError(RankMeError, ArithmeticError):
    """Failed check of the package's own arithmetic: a faulty BLAS, or broken hardware."""

    exit_code = 5


class EngineError(RankMeError, RuntimeError):
    """Cluster that failed after its retries, or cannot be reached."""

    exit_code = 5


class DeviceError(RankMeError, RuntimeError):
    """Device that is not there, or whose library is not installed."""

    exit_code = 5


class StorageError(RankMeError, OSError):
    """Disk, file system or server that failed, or gave no answer that can be used, after all attempts."""

    exit_code = 5


class OutputError(RankMeError, OSError):
    """Result that could not be written."""

    exit_code = 5


def unwritten(place: object, error: OSError) -> OutputError:
    """Return the error to raise where a file cannot be written, with what helps."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    remedy = {
        errno.ENOSPC: "free space, or write elsewhere",
        errno.EDQUOT: "free space, or write elsewhere",
        errno.EACCES: "check its permissions, or write elsewhere",
        errno.EPERM: "check its permissions, or write elsewhere",
    }.get(error.errno or 0, "write elsewhere")
    return OutputError(f"{place} cannot be written: {reason}; {remedy}")


class CheckpointWarning(UserWarning):
    """Checkpoint that could not be written; the result is valid."""


class ToleranceWarning(UserWarning):
    """Interval of RankMe that is wider than the tolerance requested; the result is valid."""
