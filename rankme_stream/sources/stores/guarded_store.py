"""Zarr store of any library: requests are tried again where that can help, and faults are told as what they are."""

from __future__ import annotations

import asyncio
import atexit
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core import sync as zarr_loop
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from rankme_stream.errors import SourceChangedError, SourcePermissionError, StorageError
from rankme_stream.sources.stores.attempts import Attempts
from rankme_stream.sources.stores.descriptions import (
    Description,
    Descriptions,
    FsspecDescriptions,
    changes_as_a_whole,
    descriptions_of,
    is_local,
    version_of,
)
from rankme_stream.sources.stores.remote_faults import AnswerError
from rankme_stream.sources.stores.remote_requests import Answer, get_by_http, get_by_s3
from rankme_stream.sources.stores.turns import needs_turns

_EXIT_S = 2.0  # for requests that are cancelled when the process exits
_VERSIONS = 1024  # objects whose version is remembered
_LONGEST_DOCUMENT = 2**26  # bytes of metadata
_DOCUMENTS = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
_OPTIONAL_DOCUMENTS = _DOCUMENTS - {".zattrs"}  # attributes may say how the numbers are to be read


class GuardedStore(WrapperStore[Store]):
    """Store of any library, read only: no error but ours leaves it, and requests to servers are tried again.

    Parameters
    ----------
    uri
        Name of the store in messages.

    Attributes
    ----------
    longest
        Bytes that a chunk or shard may have; a server that sends more is refused (HTTP and S3).
    denied
        Refusal that was taken for the absence of a metadata document; None if there was none.
    descriptions
        What the store says of its objects; its errors are those of its library.

    Notes
    -----
    A request that fails is tried again, after growing waits and not before the server wants it, until
    ``RANKME_REQUEST_SECONDS`` (60) have passed since it began. An attempt ends after a third of that without a byte
    (HTTP and S3; other libraries have limits of their own), and after five times that in any case. Nothing is written,
    so any request may be repeated. Files and memory are asked once; `OSError` is raised as it is there, and so is what
    is raised where a chunk is read, whose reader names its place.

    Raises
    ------
    StorageError
        If no attempt succeeds.
    SourcePermissionError, SourceError
        If the server refuses, or the request can never succeed.
    SourceChangedError
        If parts or attempts are of different versions of an object.
    """

    def __init__(self, store: Store, uri: str) -> None:
        super().__init__(store)
        self.uri, self._is_local = uri, is_local(store)
        self._attempts = Attempts(uri, is_remote=not self._is_local, takes_turns=needs_turns(store))
        self._ask = self._attempts.ask
        self._versions: OrderedDict[str, str] = OrderedDict()
        self.longest = _LONGEST_DOCUMENT
        if not self._is_local:
            atexit.unregister(_end_requests)
            atexit.register(_end_requests)
        self.denied: SourcePermissionError | None = None
        self.descriptions = descriptions_of(store)
        self.changes_as_a_whole = changes_as_a_whole(store)
        self._get = _getter(self.descriptions, store)

    @property
    def read_only(self) -> bool:
        """True: nothing is written, whatever the store allows."""
        return True

    def forget(self) -> None:
        """Forget the versions of objects and old listings, before a pass over what may have changed since the last."""
        self._versions.clear()
        self.descriptions.forget()

    async def version(self) -> str:
        """Return the version of a store that changes as a whole; the empty string if it has none."""

        async def request() -> str:
            return version_of(self._store)

        return await self._ask("", request)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the value under ``key``; None only where the store says, twice for a chunk, that there is none."""
        is_document = key.rpartition("/")[2] in _DOCUMENTS
        if self._is_local and not is_document:
            return await self._store.get(key, prototype, byte_range)

        async def request() -> Buffer | None:
            if self._get is None:
                value, version = await self._store.get(key, prototype, byte_range), ""
            else:
                answer = await self._get(key, byte_range, _LONGEST_DOCUMENT if is_document else self.longest)
                value = None if answer is None else prototype.buffer.from_bytes(answer.body)
                version = "" if answer is None else answer.version
            if is_document:
                return value
            if value is None:
                self.descriptions.forget()
                if await self.descriptions.describe(key) is not None:
                    raise AnswerError("the server has it by its own account, and answers that it has not")
            self._check_version(key, version)
            return value

        try:
            return await self._ask(key, request)
        except SourcePermissionError as error:
            if key.rpartition("/")[2] not in _OPTIONAL_DOCUMENTS:
                raise
            self.denied = error  # servers that may not list answer so for what is absent, as one of two formats is
            return None

    async def exists(self, key: str) -> bool:
        """Return whether something is stored under ``key``."""
        return await self.describe(key) is not None

    async def describe(self, key: str) -> Description | None:
        """Return size, tag and times of an object as far as the store has them; None if it says that there is none."""
        return await self._ask(key, lambda: self.descriptions.describe(key))

    async def check_length(self, key: str, n_bytes: int) -> None:
        """Raise StorageError if the server states another length for an object than that of the bytes that it sent."""
        described = None if self._is_local else await self.describe(key)
        stated = None if described is None else described.get("size")
        if stated not in (None, n_bytes):
            raise StorageError(
                f"{key} of {self.uri} cannot be read: the server sends {n_bytes:,} bytes of {stated:,}; the server "
                "fails, not the data: run again later"
            )

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return descriptions of the objects in a folder by key."""
        return await self._ask(prefix, lambda: self.descriptions.listing(prefix), is_bounded=False)

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in await self._ask("", lambda: _collect(self._store.list()), is_bounded=False):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield all keys that begin with a prefix."""
        for key in await self._ask(prefix, lambda: _collect(self._store.list_prefix(prefix)), is_bounded=False):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for key in await self._ask(prefix, lambda: _collect(self._store.list_dir(prefix)), is_bounded=False):
            yield key

    async def is_empty(self, prefix: str) -> bool:
        """Return whether nothing is stored in a folder."""
        return await self._ask(prefix, lambda: self._store.is_empty(prefix))

    async def _open(self) -> None:
        await self._ask("", self._store._open)

    async def _ensure_open(self) -> None:
        await self._ask("", self._store._ensure_open)

    def _check_version(self, key: str, version: str) -> None:
        """Raise SourceChangedError if an object has another version than before."""
        if not version:
            return
        if self._versions.setdefault(key, version) != version:
            before = self._versions.pop(key)
            raise SourceChangedError(
                f"{key} of {self.uri} changed while it was read (version {version}, before {before}): run again when "
                "nothing writes to it"
            )
        if len(self._versions) > _VERSIONS:
            self._versions.popitem(last=False)


def _getter(
    descriptions: Descriptions, store: Store
) -> Callable[[str, ByteRequest | None, int], Coroutine[Any, Any, Answer | None]] | None:
    """Return our request of an object, where its library drops what the answer states; None for other stores."""
    if not isinstance(descriptions, FsspecDescriptions) or not isinstance(store, FsspecStore):
        return None
    fs, prefix = store.fs, descriptions.prefix
    if descriptions.protocols & {"http", "https"} and hasattr(fs, "set_session"):
        return lambda key, byte_range, longest: get_by_http(fs, prefix + key, byte_range, longest)
    if descriptions.protocols & {"s3", "s3a"} and hasattr(fs, "_call_s3"):
        return lambda key, byte_range, longest: get_by_s3(fs, prefix + key, byte_range, longest)
    return None


def _end_requests() -> None:
    """End what still waits for a server when the process exits: asyncio reports each task that is left on stderr."""
    if zarr_loop.loop[0] is not None:
        with suppress(TimeoutError):
            zarr_loop.sync(_cancel_tasks(), timeout=_EXIT_S)


async def _cancel_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _collect(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]
