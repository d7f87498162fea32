"""The exception tree: what went wrong, and the exit code it means."""

from __future__ import annotations

from typing import Any, ClassVar


class RankMeError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class and text: what makes up for exceptions that do not say how cannot make a ``MemoryError``."""
        return type(self), self.args, self.__dict__


class UsageError(RankMeError, ValueError):
    """An argument is wrong, whatever the data."""

    exit_code = 2


class SpectrumError(RankMeError, ValueError):
    """A number cannot be stated for these singular values; the text is the reason."""

    exit_code = 3


class SourceError(RankMeError):
    """The data is refused."""

    exit_code = 3


class SourceNotFoundError(SourceError, FileNotFoundError):
    """Nothing that holds rows is there."""


class SourcePermissionError(SourceError, PermissionError):
    """The source exists and may not be read."""


class SourceFormatError(SourceError, TypeError):
    """Not a two-dimensional array of numbers in a format that is read here."""


class NonFiniteError(SourceError, ValueError):
    """Rows hold NaN or infinity."""


class MagnitudeError(SourceError, OverflowError):
    """Values that float64 arithmetic on their squares cannot hold."""


class MissingChunksError(SourceError, LookupError):
    """Chunks that the metadata declares were never written, or are gone."""


class CorruptChunkError(SourceError, ValueError):
    """A stored chunk does not decode."""


class SourceChangedError(SourceError, RuntimeError):
    """The stored rows changed while they were read."""


class StateError(RankMeError, ValueError):
    """A state file is damaged, foreign or newer, or does not belong to these rows."""

    exit_code = 3


class LimitError(RankMeError, MemoryError):
    """It cannot be done within the limits given."""

    exit_code = 4


class ArithmeticCheckError(RankMeError, ArithmeticError):
    """A check of our own arithmetic failed: a wrong BLAS, or broken hardware."""

    exit_code = 5


class EngineError(RankMeError, RuntimeError):
    """A cluster failed after its retries, or cannot be reached."""

    exit_code = 5


class DeviceError(RankMeError, RuntimeError):
    """A device is not there, or what it needs is not installed."""

    exit_code = 5


class OutputError(RankMeError, OSError):
    """A result could not be written."""

    exit_code = 5


class CheckpointWarning(UserWarning):
    """The result stands, and the checkpoint could not be written."""


class ToleranceWarning(UserWarning):
    """The interval of RankMe is wider than the tolerance asked for."""
