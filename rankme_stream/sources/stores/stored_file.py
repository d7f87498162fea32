"""Files whose parts are read where they lie, on this machine or on a server: one interface for every format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np

from rankme_stream.errors import CorruptChunkError, SourceFormatError, SourceNotFoundError, SourcePermissionError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.file_errors import file_error, is_storage_fault
from rankme_stream.sources.stores.regular_file import open_sized, reason


class OpenFile(Protocol):
    """File that is open, and its size when it was opened."""

    n_bytes: int

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return so many bytes from an offset; fewer only where the file ends.

        Raises
        ------
        StorageError, SourcePermissionError
            If they cannot be read.
        """

    def read_into(self, out: Array, offset: int, place: str) -> None:
        """Read bytes from an offset into contiguous memory; ``place`` names what they are in errors.

        Raises
        ------
        CorruptChunkError
            If the file ends before.
        StorageError, SourcePermissionError
            If they cannot be read.
        """


class StoredFile(Protocol):
    """File that is opened for each read, so that there is nothing to close or pickle and a replaced file is seen.

    ``uri`` is its name in messages, without secrets; ``is_remote`` says whether reading waits for a server, so that
    many small reads cost more than one large.
    """

    uri: str
    is_remote: bool

    @property
    def address(self) -> str:
        """Path or URL that opens the file from any working directory."""

    def opened(self) -> AbstractContextManager[OpenFile]:
        """Open the file.

        Raises
        ------
        SourceNotFoundError, SourcePermissionError, SourceFormatError, StorageError
            If it is not there, may not be read, is no regular file, or the storage fails.
        """

    def stamp(self) -> str:
        """Return size and time or tag of the file now, which change when it is written again; raises as ``opened``."""

    def read_memory(self, n_bytes: int) -> int:
        """Return the peak bytes that reading so many takes beside the memory that they are read into."""


class LocalFile:
    """File of this machine, read with ``preadv`` and never mapped: a file that is cut meanwhile is an error.

    Parameters
    ----------
    path
        Path of the file.
    """

    is_remote = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(path)

    @property
    def address(self) -> str:
        """Absolute path."""
        return os.path.abspath(self.uri)

    @contextmanager
    def opened(self) -> Iterator[OpenFile]:
        """Open the file; a pipe, folder or device is refused at once."""
        try:
            descriptor, n_bytes = open_sized(self.uri)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFoundError(f"there is no file {self.uri}: check the path") from error
        except PermissionError as error:
            raise SourcePermissionError(f"{self.uri} may not be read: check its permissions") from error
        except OSError as error:
            if is_storage_fault(error):
                raise file_error(self.uri, error) from error
            raise SourceFormatError(f"{self.uri} cannot be opened: {reason(error)}") from error
        try:
            yield _OpenLocalFile(descriptor, n_bytes, self.uri)
        finally:
            os.close(descriptor)

    def stamp(self) -> str:
        """Return size and modification time."""
        try:
            status = os.stat(self.uri)
        except OSError as error:
            raise file_error(self.uri, error) from error
        return f"{status.st_size} {status.st_mtime_ns}"

    def read_memory(self, n_bytes: int) -> int:
        """Return 0: bytes are read where they are wanted."""
        return 0


class _OpenLocalFile:
    def __init__(self, descriptor: int, n_bytes: int, uri: str) -> None:
        self._descriptor, self.n_bytes, self._uri = descriptor, n_bytes, uri

    def read(self, offset: int, n_bytes: int) -> bytes:
        held = np.empty(max(0, min(n_bytes, self.n_bytes - offset)), np.uint8)
        return held[: self._fill(held, offset, "its header")].tobytes()

    def read_into(self, out: Array, offset: int, place: str) -> None:
        target = out.reshape(-1).view(np.uint8)
        if self._fill(target, offset, place) < len(target):
            raise CorruptChunkError(f"{self._uri} ends within {place}: it was cut while being read")

    def _fill(self, target: Array, offset: int, place: str) -> int:
        """Read into flat bytes; return how many there were."""
        n_done = 0
        try:
            while n_done < len(target):
                n_read = os.preadv(self._descriptor, [target[n_done:].data], offset + n_done)
                if n_read == 0:
                    break
                n_done += n_read
        except OSError as error:
            raise file_error(f"{place} of {self._uri}", error) from error
        return n_done
