"""Members of a zip file as stored files: read where they lie, or unpacked from the nearest of a few kept states."""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.dense.crc_coverage import CrcCoverage
from rankme_stream.sources.dense.zip_directory import DEFLATED, Member, data_offset
from rankme_stream.sources.stores.stored_file import OpenFile, StoredFile

_MOST_STATES = 128  # about 40 KiB each
_STATE_MEMORY = _MOST_STATES * 64 * 2**10
_LEAST_BETWEEN = 4 * 2**20  # unpacked bytes
_INPUT_BYTES = 256 * 2**10
_REMOTE_INPUT_BYTES = 4 * 2**20  # each is a request
_OUTPUT_BYTES = 2**20
_LARGEST_RATIO = 1032  # of deflate


class ZipMember:
    """Content of a member of a zip file, as a `StoredFile`; the CRC-32 is checked once one process has read it whole.

    Parameters
    ----------
    file
        Zip file.
    member
        Member of it, stored or deflated.

    Attributes
    ----------
    n_bytes, n_packed
        Bytes of the content, and in the file where it is deflated; None where it is stored.

    Raises
    ------
    SourceError, StorageError
        If it is damaged, encrypted, packed in another way, or cannot be read.
    """

    def __init__(self, file: StoredFile, member: Member) -> None:
        with file.opened() as opened:
            offset = data_offset(opened, member, file.uri)
        self.uri, self.is_remote, self.is_deflated = file.uri, file.is_remote, member.method == DEFLATED
        self.n_bytes, self.n_packed = member.n_bytes, member.n_stored if self.is_deflated else None
        where = f"{file.uri}::{member.name[:100].removesuffix('.npy')}"
        self._file = file
        self._content = _Inflater(member, offset, where, file.is_remote) if self.is_deflated else None
        self._coverage, self._offset, self._where = CrcCoverage(member.n_bytes, member.crc), offset, where

    @property
    def address(self) -> str:
        """Address of the zip file."""
        return self._file.address

    @contextmanager
    def opened(self) -> Iterator[OpenFile]:
        """Open the zip file; raises as it does."""
        with self._file.opened() as opened:
            if self._content is not None:
                yield _OpenDeflated(opened, self._content, self.n_bytes)
            else:
                yield _OpenStored(opened, self._offset, self.n_bytes, self._coverage, self._where)

    def count_as_read(self, beginning: bytes) -> None:
        """Count the first bytes, which ``read`` returned, as read."""
        self._coverage.add(0, beginning)

    def stamp(self) -> str:
        """Return size and time or tag of the zip file; raises as it does."""
        return self._file.stamp()

    def read_memory(self, n_bytes: int) -> int:
        """Return the peak bytes that reading so many takes beside the memory that they are read into."""
        if self._content is None:
            return self._file.read_memory(n_bytes)
        n_input = _REMOTE_INPUT_BYTES if self.is_remote else _INPUT_BYTES
        return _STATE_MEMORY + 2 * _OUTPUT_BYTES + 3 * n_input + self._file.read_memory(n_input)


class _OpenStored:
    def __init__(self, opened: OpenFile, offset: int, n_bytes: int, coverage: CrcCoverage, where: str) -> None:
        self._opened, self._offset, self.n_bytes = opened, offset, n_bytes
        self._coverage, self._where = coverage, where

    def read(self, offset: int, n_bytes: int) -> bytes:
        return self._opened.read(self._offset + offset, max(0, min(n_bytes, self.n_bytes - offset)))

    def read_into(self, out: Array, offset: int, place: str) -> None:
        self._opened.read_into(out, self._offset + offset, place)
        self._coverage.add(offset, out.reshape(-1).view(np.uint8))
        if self._coverage.is_wrong:
            raise _wrong_crc(self._where)


class _OpenDeflated:
    def __init__(self, opened: OpenFile, content: _Inflater, n_bytes: int) -> None:
        self._opened, self._content, self.n_bytes = opened, content, n_bytes

    def read(self, offset: int, n_bytes: int) -> bytes:
        held = np.empty(max(0, min(n_bytes, self.n_bytes - offset)), np.uint8)
        self._content.read_into(self._opened, held, offset)
        return held.tobytes()

    def read_into(self, out: Array, offset: int, place: str) -> None:
        self._content.read_into(self._opened, out.reshape(-1).view(np.uint8), offset)


class _State:
    """Unpacking, stopped at a byte of the content.

    Attributes
    ----------
    n_out, n_in
        Bytes unpacked, and bytes of the member taken for that, up to those in ``held``.
    crc
        CRC-32 of the bytes unpacked.
    unpacker
        Object of zlib.
    held
        Bytes that were fetched and not yet taken.
    """

    def __init__(self, unpacker: Any, n_out: int = 0, n_in: int = 0, crc: int = 0) -> None:
        self.unpacker, self.n_out, self.n_in, self.crc = unpacker, n_out, n_in, crc
        self.held = b""

    def copy(self) -> _State:
        return _State(self.unpacker.copy(), self.n_out, self.n_in, self.crc)


class _Inflater:
    """Content of a deflated member: one thread unpacks, and others wait, because deflate has one order.

    A read goes on from the state where the last one stopped, or from the nearest kept one before it. The CRC-32 counts
    through every state, so that it is checked whenever the end is reached.
    """

    def __init__(self, member: Member, offset: int, where: str, is_remote: bool) -> None:
        self._member, self._offset, self._where = member, offset, where
        if member.n_bytes > _LARGEST_RATIO * (member.n_stored + 64):
            raise CorruptChunkError(
                f"{where} says that {member.n_stored:,} bytes unpack to {member.n_bytes:,}, which deflate cannot do"
            )
        self._n_input = _REMOTE_INPUT_BYTES if is_remote else _INPUT_BYTES
        self._between = max(_LEAST_BETWEEN, member.n_bytes // _MOST_STATES)
        self._lock = threading.Lock()
        self._kept = [_State(zlib.decompressobj(-zlib.MAX_WBITS))]
        self._last: _State | None = None

    def read_into(self, opened: OpenFile, out: Array, offset: int) -> None:
        """Unpack bytes from an offset into flat bytes, which lie within the content."""
        with self._lock:
            state, self._last = self._nearest(offset), None
            while state.n_out < offset:
                self._step(opened, state, min(_OUTPUT_BYTES, offset - state.n_out))
            n_done = 0
            while n_done < len(out):
                piece = self._step(opened, state, min(_OUTPUT_BYTES, len(out) - n_done))
                out[n_done : n_done + len(piece)] = np.frombuffer(piece, np.uint8)
                n_done += len(piece)
            if state.n_out == self._member.n_bytes:
                self._check_end(opened, state)
            else:
                self._last = state

    def _nearest(self, offset: int) -> _State:
        kept = self._kept[bisect_right(self._kept, offset, key=lambda state: state.n_out) - 1]
        if self._last is not None and kept.n_out <= self._last.n_out <= offset:
            return self._last
        return kept.copy()

    def _step(self, opened: OpenFile, state: _State, most: int) -> bytes:
        """Return the next bytes, ``most`` at most and perhaps none; keep a state now and then."""
        if not state.held:
            if state.n_out >= self._kept[-1].n_out + self._between:
                self._kept.append(state.copy())
            state.held = opened.read(self._offset + state.n_in, min(self._n_input, self._member.n_stored - state.n_in))
        piece: bytes = b""
        n_held = len(state.held)
        try:
            piece = state.unpacker.decompress(state.held, most)
        except zlib.error as error:
            raise CorruptChunkError(f"{self._where} cannot be unpacked ({error}): copy or write it again") from None
        state.held = state.unpacker.unconsumed_tail
        n_taken = n_held - len(state.held)
        state.n_in, state.n_out, state.crc = (
            state.n_in + n_taken,
            state.n_out + len(piece),
            zlib.crc32(piece, state.crc),
        )
        if not piece and (state.unpacker.eof or not n_taken) and state.n_out < self._member.n_bytes:
            raise CorruptChunkError(
                f"{self._where} unpacks to {state.n_out:,} bytes, and {self._member.n_bytes:,} are expected: copy or "
                "write it again"
            )
        return piece

    def _check_end(self, opened: OpenFile, state: _State) -> None:
        """Refuse a member that goes on behind its size, or has another CRC."""
        while not state.unpacker.eof:
            n_in = state.n_in
            if self._step(opened, state, 1) or (state.n_in == n_in and not state.unpacker.eof):
                raise CorruptChunkError(f"{self._where} does not end where it should: copy or write it again")
        n_left = len(state.unpacker.unused_data)
        if state.n_in - n_left != self._member.n_stored:
            raise CorruptChunkError(f"{self._where} has other bytes behind it: copy or write it again")
        if state.crc != self._member.crc:
            raise _wrong_crc(self._where)


def _wrong_crc(where: str) -> CorruptChunkError:
    return CorruptChunkError(f"{where} is damaged: its CRC is not that of its bytes; copy or write it again")
