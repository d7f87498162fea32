"""A zip file is read as its directory says, and refused where readers would disagree about it."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from rankme_stream.errors import CorruptChunkError, SourceError, SourceFormatError
from rankme_stream.sources.dense import zip_directory
from rankme_stream.sources.dense.zip_directory import data_offset, zip_members
from tests.bytes_file import BytesFile

CONTENT = {"a": b"first " * 100, "b/c": b"second", "empty": b""}


class Unseekable(io.RawIOBase):
    """Output that zipfile cannot seek in, so that it writes sizes behind the content."""

    def __init__(self) -> None:
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        self.held += content
        return len(content)


def zipped(*, comment=b"", streamed=False, zip64=False, method=zipfile.ZIP_STORED) -> bytes:
    stream = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.comment = comment
        for name, content in CONTENT.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(content)
    return bytes(stream.held) if streamed else stream.getvalue()


def contents(zip_file: bytes) -> dict[str, bytes]:
    file = BytesFile(zip_file)
    members = zip_members(file, "dump")
    return {name: file.read(data_offset(file, one, "dump"), one.n_stored) for name, one in members.items()}


@pytest.mark.parametrize(
    "settings",
    [{}, {"comment": b"PK\x05 a comment"}, {"streamed": True}, {"zip64": True}, {"streamed": True, "zip64": True}],
)
def test_members_are_where_the_directory_says(settings):
    assert contents(zipped(**settings)) == CONTENT


def test_files_of_more_members_or_bytes_than_32_bits_count_are_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    assert contents(zipped(zip64=True)) == CONTENT


def damaged(change) -> bytes:
    held = bytearray(zipped())
    change(held, held.index(b"PK\x01\x02"), held.index(b"PK\x05\x06"))
    return bytes(held)


def put(at: int, form: str, value: int):
    """Return a change that writes a number at an offset in the directory, or in the end where it is negative."""

    def change(held: bytearray, directory: int, end: int) -> None:
        struct.pack_into(form, held, directory + at if at >= 0 else end - at, value)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held, directory, end: held.__delitem__(slice(end, None)), "is no zip file, or its end is missing"),
        (lambda held, directory, end: held.extend(b"more"), "its end contradicts itself"),
        (lambda held, directory, end: held.insert(0, 0), "other bytes stand before its members or its end"),
        (put(-10, "<H", 9), "its end contradicts itself"),
        (put(-12, "<I", 2**31), "other bytes stand before"),
        (put(0, "<I", 0), "its directory is cut"),
        (put(20, "<I", 2**31), "its directory contradicts itself"),  # stored bytes of a stored member
        (put(20, "<I", 2**32 - 1), "its directory lacks a size"),
        (put(28, "<H", 60_000), "its directory is cut"),
        (put(6, "<H", 255), "its directory contradicts itself"),  # version of the format
        (put(42, "<I", 2**31), "its directory contradicts itself"),  # where the first begins
        (lambda held, directory, end: held.__setitem__(0, 0), "is not where the directory says"),
        (put(42, "<I", 631), "reaches into what follows"),  # where the second begins
        (lambda held, directory, end: held.__setitem__(30, ord("x")), "is another than the directory says"),
        (lambda held, directory, end: held.__setitem__(8, 8), "is another than the directory says"),
    ],
)
def test_a_zip_file_that_contradicts_itself_is_refused(change, said):
    with pytest.raises(SourceError, match=said):
        contents(damaged(change))


def test_encrypted_members_and_other_methods_are_refused():
    with pytest.raises(SourceFormatError, match=r"dump::a is encrypted or patched"):
        contents(damaged(put(8, "<H", 1)))
    with pytest.raises(SourceFormatError, match=r"dump::a is encrypted or patched"):
        contents(damaged(put(8, "<H", 1 << 6)))
    with pytest.raises(SourceFormatError, match=r"dump::a is packed by method 12 of zip"):
        contents(zipped(method=zipfile.ZIP_BZIP2))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(CorruptChunkError, match=r"it holds 'a' twice"):
        contents(stream.getvalue())


def test_a_directory_of_many_members_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(zip_directory, "LARGEST_DIRECTORY", 100)
    with pytest.raises(SourceFormatError, match=r"has a directory of 1[0-9]{2} bytes, and 100 are read"):
        contents(zipped())
