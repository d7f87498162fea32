"""What a dataset is, as the process that reads it says; the process is started when it is first asked."""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankme_stream.errors import LimitError, SourceFormatError, SourceNotFoundError
from rankme_stream.sources.hdf5.chunk_index import ChunkIndex
from rankme_stream.sources.stores.remote_faults import in_one_line
from rankme_stream.sources.stores.stored_file import LocalFile, OpenFile, StoredFile

_START = "import sys; sys.path.insert(0, {folder!r}); from describing.program import main; main()"
_HEADER = struct.Struct("<cq")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, 512, 1024, 2048, 4096)  # offsets of the signature
_LONGEST_FRAME = 2**26


@dataclass(frozen=True)
class Described:
    """Dataset in a file.

    Parameters
    ----------
    facts
        What ``describing.program.describe`` returns.
    index
        Where the chunks of a chunked one lie, by their numbers in C order.
    stamp
        Size of the file and its time or tag when it was described.
    """

    facts: dict[str, Any]
    index: ChunkIndex
    stamp: str


def described(file: StoredFile, path: str) -> Described:
    """Return what a dataset of a file is; without a path, the only one that fits.

    Raises
    ------
    SourceFormatError
        If the file is no HDF5, is damaged, or holds no such dataset, or one that is not read; the message says what it
        holds instead.
    SourceError, StorageError
        If it cannot be read.
    LimitError
        If no process can be started.
    """
    stamp = file.stamp()
    uri = f"{file.uri}::{path}" if path else file.uri
    with file.opened() as opened:
        _check_signature(opened, file.uri)
        location = file.address if isinstance(file, LocalFile) else None
        question = json.dumps({"file": location, "path": path, "n_bytes": opened.n_bytes}).encode()
        with PROCESS.lock:
            facts, index = PROCESS.ask(question, opened, uri)
        if "absent" in facts:
            raise SourceNotFoundError(f"{uri}: {facts['absent']}")
        if "refused" in facts:
            raise SourceFormatError(f"{uri} {facts['refused']}")
        if "damaged" in facts:
            raise SourceFormatError(
                f"{uri} cannot be read as HDF5: {in_one_line(ValueError(facts['damaged']))}; copy or write it again"
            )
        return Described(facts, index, stamp)


def _check_signature(opened: OpenFile, uri: str) -> None:
    beginning = opened.read(0, _USER_BLOCKS[-1] + len(_SIGNATURE))
    if any(beginning[offset:].startswith(_SIGNATURE) for offset in _USER_BLOCKS):
        return
    if beginning.startswith(b"CDF"):
        raise SourceFormatError(f"{uri} is netCDF 3, and netCDF 4 is read: convert it by nccopy -k nc4")
    what = f"it begins with {beginning[:8]!r}" if beginning else "it is empty"
    raise SourceFormatError(f"{uri} is no HDF5 file, whatever its name: {what}; write it again")


class _Process:
    """Process that describes files for this one; a fork of this one starts its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self._inherited: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.end)

    def ask(self, question: bytes, file: OpenFile, uri: str) -> tuple[dict[str, Any], ChunkIndex]:
        """Return the description and the places of the chunks of a dataset; ``file`` is what bytes are asked of."""
        was_there = self.process is not None
        try:
            return self._answer(self._started(), question, file)
        except (BrokenPipeError, EOFError):
            code = self.end()
            if was_there and code == 0:  # it had ended, since nothing was asked for long
                return self.ask(question, file, uri)
            raise SourceFormatError(f"{uri} {_words_of_end(code)}") from None
        except BaseException:
            self.end()
            raise

    def _answer(
        self, process: subprocess.Popen[bytes], question: bytes, file: OpenFile
    ) -> tuple[dict[str, Any], ChunkIndex]:
        facts: dict[str, Any] = {}
        index = ChunkIndex(file.n_bytes)
        _send(process, question)
        while True:
            kind, content = _frame(process)
            if kind == b"R":
                first, n_bytes = struct.unpack("<qq", content)
                _send(process, file.read(first, n_bytes))
            elif kind == b"D":
                facts = json.loads(content)
            elif kind == b"I":
                index.add(np.frombuffer(content, np.int64).reshape(4, -1))
            elif kind == b"E":
                return facts | json.loads(content), index

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
            start = _START.format(folder=os.path.dirname(os.path.abspath(__file__)))
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise LimitError(f"no process can be started to read HDF5 files: {in_one_line(error)}") from error
        return self.process

    def end(self) -> int:
        """End the process; return its exit code, or that of no process."""
        process, self.process = self.process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            code = process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
        return code

    def _forget(self) -> None:
        """Leave the process to the one that started it."""
        self.lock, self._inherited, self.process = threading.Lock(), self.process, None
        if self._inherited is not None:
            self._inherited.returncode = 0  # of no child of this process


def _send(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(struct.pack("<q", len(content)) + content)
    process.stdin.flush()


def _frame(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    header = process.stdout.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    kind, n_bytes = _HEADER.unpack(header)
    if not 0 <= n_bytes <= _LONGEST_FRAME:
        raise EOFError
    content = process.stdout.read(n_bytes)
    if len(content) < n_bytes:
        raise EOFError
    return kind, content


def _words_of_end(code: int) -> str:
    """Return the words for a process that ended while it described a file."""
    remedy = "it is damaged: copy or write it again"
    if code == -signal.SIGPROF:
        return f"cannot be read as HDF5, because the library comes to no end with it; {remedy}"
    return f"cannot be read as HDF5, because the library crashed on it (exit code {code}); {remedy}"


PROCESS = _Process()
