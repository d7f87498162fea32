"""Files of servers, read by ranges: several at once, each tried again, and all of one version of the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from zarr.abc.store import RangeByteRequest
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from rankme_stream.errors import CorruptChunkError, SourceChangedError, SourceFormatError, SourceNotFoundError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.attempts import Attempts
from rankme_stream.sources.stores.descriptions import stamp_of
from rankme_stream.sources.stores.obstore_requests import obstore_getter
from rankme_stream.sources.stores.remote_faults import AnswerError, Kind, without_secrets
from rankme_stream.sources.stores.remote_requests import Answer, get_by_http, get_by_s3
from rankme_stream.sources.stores.store_urls import file_system, install_message
from rankme_stream.sources.stores.stored_file import OpenFile
from rankme_stream.sources.stores.turns import needs_turns

_PART_BYTES = 2**22  # of one request: long beside the time until the first byte comes
_AT_ONCE = 16  # requests of all files together
_BEGINNING_BYTES = 2**16  # requested when the file is opened, and kept: most headers are shorter
_SLOTS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

Get = Callable[[int, int], Coroutine[Any, Any, Answer | None]]


class RemoteFile:
    """File at a URL that fsspec opens.

    The length and the version that the server states when the file is opened hold from then on: an answer of another
    version is an error, so that parts of two versions never meet.

    Parameters
    ----------
    url
        URL, or chain of URLs; nothing is requested before the file is opened.
    """

    is_remote = True

    def __init__(self, url: str) -> None:
        self.address, self.uri = url, without_secrets(url)
        self._file: _OpenRemoteFile | None = None

    @contextmanager
    def opened(self) -> Iterator[OpenFile]:
        """Open the file: one request the first time, none later.

        Raises
        ------
        SourceNotFoundError, SourcePermissionError, SourceFormatError, StorageError
            If it is not there, may not be read, a package is not installed, or the server fails.
        """
        if self._file is None:
            self._file = _OpenRemoteFile(self.address, self.uri)
        yield self._file

    def stamp(self) -> str:
        """Return length and tag or time, as the server states them now; where it states neither, hashes of two parts.

        Raises
        ------
        SourceChangedError
            If the file was written again since it was opened.
        """
        with self.opened() as file:
            assert isinstance(file, _OpenRemoteFile)
            return file.stamp()

    def read_memory(self, n_bytes: int) -> int:
        """Return the bytes of the parts that arrive at once."""
        return min(n_bytes, _AT_ONCE * _PART_BYTES)


class _OpenRemoteFile:
    def __init__(self, url: str, uri: str) -> None:
        self._uri = uri
        try:
            fs, path = file_system(url)
        except ImportError as error:
            raise SourceFormatError(install_message(url, error)) from error
        self._get = _getter(fs, path)
        takes_turns = needs_turns(FsspecStore(fs, path=path, read_only=True))
        self._ask = Attempts(uri, takes_turns=takes_turns).ask
        first = sync(self._ask("", lambda: self._get(0, _BEGINNING_BYTES)))
        if first is None:
            raise SourceNotFoundError(f"there is no file {uri}: check the address")
        self._beginning, self._version = bytes(first.body), first.version
        self.n_bytes = len(first.body) if first.n_bytes is None else first.n_bytes
        if hasattr(fs, "_call_s3"):
            self._get = sync(obstore_getter(fs, path, first)) or self._get

    def stamp(self) -> str:
        """Return length and version now."""
        answer = sync(self._ask("", lambda: self._checked(0, min(self.n_bytes, _BEGINNING_BYTES))))
        if self._version:
            return self._version
        end = self.read(max(0, self.n_bytes - _BEGINNING_BYTES), _BEGINNING_BYTES)
        return f"{self.n_bytes} {blake2b(answer.body + end, digest_size=16).hexdigest()}"

    def read(self, offset: int, n_bytes: int) -> bytes:
        stop = min(offset + n_bytes, self.n_bytes)
        if stop <= len(self._beginning):
            return self._beginning[offset:stop]
        held = np.empty(max(0, stop - offset), np.uint8)
        sync(self._read_parts(held, offset))
        return held.tobytes()

    def read_into(self, out: Array, offset: int, place: str) -> None:
        target = out.reshape(-1).view(np.uint8)
        if offset + len(target) > self.n_bytes:
            raise CorruptChunkError(f"{self._uri} ends within {place}: it is shorter than it says")
        if offset + len(target) <= len(self._beginning):
            target[...] = np.frombuffer(self._beginning, np.uint8, len(target), offset)
        else:
            sync(self._read_parts(target, offset))

    async def _read_parts(self, target: Array, offset: int) -> None:
        """Read into flat bytes; when it ends, by an error too, nothing is written to them any more."""
        slots = _SLOTS.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE))

        async def read_part(start: int) -> None:
            piece = target[start : start + _PART_BYTES]
            first = offset + start
            async with slots:
                answer = await self._ask("", lambda: self._checked(first, first + len(piece)))
                piece[...] = np.frombuffer(answer.body, np.uint8)

        parts = [asyncio.ensure_future(read_part(start)) for start in range(0, len(target), _PART_BYTES)]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _checked(self, first: int, last: int) -> Answer:
        """Return bytes ``[first, last)``, all of them and of the version that was opened."""
        if first == last:
            return Answer(b"", self._version)
        answer = await self._get(first, last)
        if answer is None:
            raise AnswerError("the server has it no more, or answers so")
        if answer.version != self._version or answer.n_bytes not in (None, self.n_bytes):
            raise SourceChangedError(
                f"{self._uri} changed since it was opened (version {answer.version}, before {self._version}): run "
                "again when nothing writes to it"
            )
        if len(answer.body) != last - first:
            raise AnswerError(f"the server sends {len(answer.body):,} bytes where {last - first:,} are requested")
        return answer


def _getter(fs: Any, path: str) -> Get:
    """Return a request of bytes ``[first, last)`` of a file, cut where it ends; it returns None if there is none."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    if protocols & {"http", "https"} and hasattr(fs, "set_session"):
        return lambda first, last: get_by_http(fs, path, RangeByteRequest(first, last), last - first)
    if protocols & {"s3", "s3a"} and hasattr(fs, "_call_s3"):
        return lambda first, last: get_by_s3(fs, path, RangeByteRequest(first, last), last - first)
    return _getter_of_any(fs, path)


def _getter_of_any(fs: Any, path: str) -> Get:
    """Return a request that any file system answers, which describes the file whenever its first byte is requested."""
    described: dict[str, Any] = {}

    async def get(first: int, last: int) -> Answer | None:
        try:
            if first == 0:
                fs.invalidate_cache()
                described.update(await fs._info(path))
            if described.get("type") == "directory":
                return None
            body = await fs._cat_file(path, start=first, end=last)
        except FileNotFoundError:
            return None
        if described.get("size") is None:
            raise AnswerError("the server does not state how long the file is: copy it to a disk", Kind.LASTING)
        return Answer(body, stamp_of(described), described["size"])

    return get
