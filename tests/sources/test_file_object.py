"""A stored file reads as Python's own file object does, and its errors are ours."""

from __future__ import annotations

import io
import os
import random
import threading
from pathlib import Path

import pytest

from rankme_stream.errors import CorruptChunkError, SourceNotFoundError
from rankme_stream.sources.stores.file_object import FileObject
from rankme_stream.sources.stores.stored_file import LocalFile

BODY = random.Random(0).randbytes(5000)


def test_it_reads_as_a_file_of_python_does(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(BODY)
    draw = random.Random(1)
    with FileObject(LocalFile(path)) as ours, path.open("rb", buffering=0) as theirs:
        assert ours.size() == len(BODY) and ours.readable() and ours.seekable() and not ours.writable()
        for _ in range(300):
            n, offset, whence = draw.randrange(-1, 3000), draw.randrange(-300, 6000), draw.randrange(3)
            if offset >= 0 or whence == os.SEEK_END:
                assert ours.seek(offset, whence) == theirs.seek(offset, whence)
            assert ours.read(n) == theirs.read(n)
            held, expected = bytearray(abs(n)), bytearray(abs(n))
            assert ours.readinto(held) == theirs.readinto(expected) and held == expected
            assert ours.tell() == theirs.tell()
        with pytest.raises(ValueError, match="before the file"):
            ours.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        ours.read(1)
    assert io.BufferedReader(FileObject(LocalFile(path))).read() == BODY


def test_threads_may_share_it(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(BODY)
    pieces: list[bytes] = []
    with FileObject(LocalFile(path)) as file:

        def read_all() -> None:
            while piece := file.read(10):
                pieces.append(piece)

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(pieces) == sorted(BODY[k : k + 10] for k in range(0, len(BODY), 10))


def test_its_errors_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(SourceNotFoundError, match=r"x\.bin"):
        FileObject(LocalFile(path))
    path.write_bytes(BODY)
    with FileObject(LocalFile(path)) as file:
        os.truncate(path, 100)
        with pytest.raises(CorruptChunkError, match=r"x\.bin ends within bytes 0-200"):
            file.read(200)
