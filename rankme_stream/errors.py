"""Exceptions and warnings of the package, and the exit code of each exception."""

from __future__ import annotations

from typing import Any, ClassVar


class RankMeError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1

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


class MagnitudeError(SourceError, OverflowError):
    """Values whose squares are beyond the range of float64 arithmetic."""


class MissingChunksError(SourceError, LookupError):
    """Chunks that the metadata declares but that were never written, or are gone."""


class CorruptChunkError(SourceError, ValueError):
    """Stored chunk that does not decode."""


class SourceChangedError(SourceError, RuntimeError):
    """Stored rows that changed while they were read."""


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


class CheckpointWarning(UserWarning):
    """Checkpoint that could not be written; the result is valid."""


class ToleranceWarning(UserWarning):
    """Interval of RankMe that is wider than the tolerance requested; the result is valid."""
