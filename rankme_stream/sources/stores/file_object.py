"""A stored file as a binary file of Python, for libraries that read one."""

from __future__ import annotations

import io
import os
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np

from rankme_stream.sources.stores.stored_file import StoredFile


class FileObject(io.RawIOBase):
    """Seekable binary reader of a `StoredFile`; each read is one request, so wrap it where many small ones are made.

    A read returns fewer bytes than asked for only where the file ends. Threads may share it: a call is whole before
    another begins, but what lies between a ``seek`` and a ``read`` is the caller's to guard.

    Parameters
    ----------
    file
        File, which is opened at once and until ``close``.

    Raises
    ------
    SourceError, StorageError
        As ``StoredFile.opened``; reading raises as ``OpenFile.read_into``.
    """

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._position, self._lock, self._stack = 0, threading.RLock(), ExitStack()
        self._file = self._stack.enter_context(file.opened())
        self.name = file.uri

    def size(self) -> int:
        """Return the bytes of the file when it was opened."""
        return self._file.n_bytes

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, from here or from the end; return it from the start."""
        with self._lock:
            origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.n_bytes}[whence]
            if origin + offset < 0:
                raise ValueError(f"an offset of {origin + offset} is before the file {self.name}")
            self._position = origin + offset
            return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill memory from the current offset; return how many bytes there were."""
        self._checkClosed()
        with self._lock, memoryview(buffer) as view:
            first = self._position
            n_bytes = max(0, min(view.nbytes, self._file.n_bytes - first))
            if n_bytes:
                out = np.frombuffer(view, np.uint8, n_bytes)
                self._file.read_into(out, first, f"bytes {first:,}-{first + n_bytes:,}")
            self._position = first + n_bytes
            return n_bytes

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes from the current offset, or all that follow."""
        self._checkClosed()
        with self._lock:
            rest = max(0, self._file.n_bytes - self._position)
            held = bytearray(rest if size is None or size < 0 else min(size, rest))
            self.readinto(held)
            return bytes(held)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stack.close()
        super().close()
