"""The one way to open a file for reading: at once, and only if it is a regular file."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of a regular file, which the caller closes; see `open_sized`."""
    return open_sized(path)[0]


def open_sized(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return descriptor and size of a regular file, which the caller closes; never wait for a pipe's other end.

    Raises
    ------
    OSError
        If it cannot be opened, or is a folder, pipe, socket or device; its ``strerror`` says so and what to do. A name
        that no file can have (a NUL, characters that cannot be encoded) is an error of this class too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file can have that name ({error})") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise OSError(errno.EINVAL, "it is a socket or a device; copy its content to a file first") from None
        raise
    status = os.fstat(descriptor)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no regular file')}; copy its content to a file first")
    return descriptor, status.st_size


def regular_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Return the regular file at ``path`` opened for reading; see `open_regular`."""
    return os.fdopen(open_regular(path), "rb")


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise OSError if something other than a regular file is at ``path``: a rename onto a device would replace it."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file can have that name ({error})") from None
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no regular file')}, not a file; give another name")


def reason(error: OSError) -> str:
    """Return why a file cannot be opened or read, without its name, which messages hold already."""
    return error.strerror or " ".join(str(error).split()) or type(error).__name__
