"""Where the members of a zip file lie, by the directory at its end; strict, because readers of odd ones disagree."""

from __future__ import annotations

import struct
from typing import NamedTuple

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.stores.stored_file import OpenFile

LARGEST_DIRECTORY = 4 * 2**20  # bytes: about 50,000 members
_END, _END_64, _LOCATOR_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 2**16 - 1
TAIL_BYTES = _LONGEST_COMMENT + _END.size + _LOCATOR_64.size + _END_64.size
_ENCRYPTED, _UTF8 = 1 | 1 << 5 | 1 << 6 | 1 << 13, 1 << 11  # in any way, or a patch of another file
_NEWEST_VERSION = 63  # of the format, which a reader of Python knows
STORED, DEFLATED = 0, 8


class Member(NamedTuple):
    """Member of a zip file.

    Attributes
    ----------
    name
        Name, and as bytes in ``key``.
    start, end
        Offset of its own header, and of what follows in the file: the next member or the directory.
    n_stored, n_bytes
        Bytes in the file, and after unpacking.
    method
        `STORED` or `DEFLATED`; others are not read.
    crc
        CRC-32 of its content.
    """

    name: str
    key: bytes
    start: int
    end: int
    n_stored: int
    n_bytes: int
    method: int
    crc: int
    is_encrypted: bool


class _Directory(NamedTuple):
    offset: int
    n_bytes: int
    n_members: int


def zip_members(opened: OpenFile, uri: str) -> dict[str, Member]:
    """Return the members of a zip file by their names, folders left out.

    Raises
    ------
    CorruptChunkError
        If its directory is damaged, contradicts itself or the size of the file, or lists a name or a byte twice.
    SourceFormatError
        If it is none, or its directory is too large.
    StorageError, SourcePermissionError
        If it cannot be read.
    """
    tail = opened.read(max(0, opened.n_bytes - TAIL_BYTES), TAIL_BYTES)
    directory = directory_at(tail, opened.n_bytes, uri)
    if directory.n_bytes > LARGEST_DIRECTORY:
        raise SourceFormatError(
            f"{uri} has a directory of {directory.n_bytes:,} bytes, and {LARGEST_DIRECTORY:,} are read: save the rows "
            "to a file of their own"
        )
    return members_of(opened.read(directory.offset, directory.n_bytes), directory.offset, directory.n_members, uri)


def directory_at(tail: bytes, n_bytes: int, uri: str) -> _Directory:
    """Return where the directory of a zip file lies, by the last `TAIL_BYTES` of its ``n_bytes``; raises as above."""
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise SourceFormatError(f"{uri} is no zip file, or its end is missing: copy or write it again")
    _, disk, first_disk, here, n_members, size, offset, comment = _END.unpack_from(tail, at)
    start = n_bytes - len(tail) + at  # in the file
    if at + _END.size + comment != len(tail) or disk or first_disk or here != n_members:
        raise _damaged(uri, "its end contradicts itself")
    located = at - _LOCATOR_64.size
    if located >= 0 and tail.startswith(b"PK\x06\x07", located):
        _, disk, where, n_disks = _LOCATOR_64.unpack_from(tail, located)
        start = start - _LOCATOR_64.size - _END_64.size
        held = located - _END_64.size
        if disk or n_disks != 1 or where != start or not (held >= 0 and tail.startswith(b"PK\x06\x06", held)):
            raise _damaged(uri, "its end contradicts itself")
        _, rest, _, _, disk, first_disk, here, n_members, size, offset = _END_64.unpack_from(tail, held)
        if disk or first_disk or here != n_members or rest != _END_64.size - 12:
            raise _damaged(uri, "its end contradicts itself")
    if offset + size != start:
        raise _damaged(uri, "other bytes stand before its members or its end, as in files joined into one")
    if n_members * _ENTRY.size > size:
        raise _damaged(uri, "its directory is shorter than its number of members")
    return _Directory(offset, size, n_members)


def members_of(directory: bytes, offset: int, n_members: int, uri: str) -> dict[str, Member]:
    """Return the members that a directory, which begins at an offset, lists; raises as above."""
    found: list[Member] = []
    at = 0
    while at < len(directory):
        member, at = _member(directory, at, offset, uri)
        found.append(member)
    if len(found) != n_members:
        raise _damaged(uri, f"its directory lists {len(found):,} members and says {n_members:,}")
    ordered = sorted(found, key=lambda one: one.start)
    members = {}
    for one, start in zip(ordered, [*(one.start for one in ordered[1:]), offset], strict=True):
        if one.start + _LOCAL.size + len(one.key) + one.n_stored > start:
            raise _damaged(uri, f"its member {one.name[:100]!r} reaches into what follows")
        if one.name in members:
            raise _damaged(uri, f"it holds {one.name[:100]!r} twice")
        members[one.name] = one._replace(end=start)
    return {one.name: members[one.name] for one in found if not one.name.endswith("/")}


def data_offset(opened: OpenFile, member: Member, uri: str) -> int:
    """Return the offset of the content of a member, by its own header, which must say what the directory says.

    Raises
    ------
    CorruptChunkError
        If it does not.
    SourceFormatError
        If it is encrypted, or packed by another method than deflate.
    """
    where = f"{uri}::{member.name[:100]}"
    if member.is_encrypted:
        raise SourceFormatError(f"{where} is encrypted or patched: write it again without a password")
    if member.method not in (STORED, DEFLATED):
        raise SourceFormatError(f"{where} is packed by method {member.method} of zip; deflate is read: write it again")
    header = opened.read(member.start, _LOCAL.size + len(member.key))
    if len(header) < _LOCAL.size + len(member.key) or not header.startswith(b"PK\x03\x04"):
        raise _damaged(uri, f"its member {member.name[:100]!r} is not where the directory says")
    _, _, flags, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack_from(header)
    if (
        n_name != len(member.key)
        or header[_LOCAL.size :] != member.key
        or method != member.method
        or flags & _ENCRYPTED
    ):
        raise _damaged(uri, f"its member {member.name[:100]!r} is another than the directory says")
    offset: int = member.start + _LOCAL.size + n_name + n_extra
    if offset + member.n_stored > member.end:
        raise _damaged(uri, f"its member {member.name[:100]!r} reaches into what follows")
    return offset


def _member(directory: bytes, at: int, end: int, uri: str) -> tuple[Member, int]:
    """Return the member whose entry begins at an offset of the directory, and the offset of the next."""
    if len(directory) - at < _ENTRY.size:
        raise _damaged(uri, "its directory is cut")
    magic, _, version, flags, method, _, _, crc, stored, size, n_name, n_extra, n_comment, disk, _, _, start = (
        _ENTRY.unpack_from(directory, at)
    )
    stop = at + _ENTRY.size + n_name + n_extra + n_comment
    if magic != b"PK\x01\x02" or stop > len(directory):
        raise _damaged(uri, "its directory is cut")
    key = directory[at + _ENTRY.size : at + _ENTRY.size + n_name]
    extra = directory[at + _ENTRY.size + n_name : at + _ENTRY.size + n_name + n_extra]
    size, stored, start = _long_sizes([size, stored, start], extra, uri)
    if disk or start > end or n_name == 0 or version & 0xFF > _NEWEST_VERSION or (method == STORED and stored != size):
        raise _damaged(uri, "its directory contradicts itself")
    try:
        name = key.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise _damaged(uri, "its directory holds a name that is no text") from None
    return Member(name, key, start, end, stored, size, method, crc, bool(flags & _ENCRYPTED)), stop


def _long_sizes(sizes: list[int], extra: bytes, uri: str) -> list[int]:
    """Return sizes, those of 2^32-1 replaced by the 64-bit ones of the extra field, in their order."""
    if 2**32 - 1 not in sizes:
        return sizes
    at = 0
    while at + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            held = extra[at + 4 : at + 4 + n_bytes]
            numbers = iter(struct.unpack(f"<{len(held) // 8}Q", held[: len(held) // 8 * 8]))
            try:
                return [next(numbers) if size == 2**32 - 1 else size for size in sizes]
            except StopIteration:
                break
        at += 4 + n_bytes
    raise _damaged(uri, "its directory lacks a size")


def _damaged(uri: str, what: str) -> CorruptChunkError:
    return CorruptChunkError(f"{uri} is a damaged zip file: {what}; copy or write it again")
