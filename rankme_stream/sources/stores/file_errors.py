"""Errors of the operating system on files of a source, told as what they are: the user's to mend, or the storage's."""

from __future__ import annotations

import errno

from rankme_stream.errors import RankMeError, SourceError, SourceNotFoundError, SourcePermissionError, StorageError

# Faults of disks, of network file systems, and of a machine without memory or descriptors.
_STORAGE_ERRNOS = {
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EREMOTEIO", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOLINK", "ECOMM", "EPROTO", "ENODEV",
        "ENXIO", "EBUSY", "EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EUCLEAN", "EBADMSG",
    )
    if hasattr(errno, name)
}  # fmt: skip


def is_storage_fault(error: OSError) -> bool:
    """Return whether an error says that the storage fails, rather than that a file is refused."""
    return error.errno is None or error.errno in _STORAGE_ERRNOS


def file_error(place: str, error: OSError) -> RankMeError:
    """Return the error to raise where a file of a source cannot be read.

    Parameters
    ----------
    place
        What was read and where, as the subject of the message.
    error
        Error of the operating system.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(error, PermissionError):
        return SourcePermissionError(f"{place} may not be read: check its permissions")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceNotFoundError(f"there is no {place}")
    if is_storage_fault(error):
        return StorageError(
            f"{place} cannot be read, because the storage fails ({reason}): run again when disk, mount or network work"
        )
    return SourceError(f"{place} cannot be read: {reason}")
