"""Zarr store on a server: requests are tried again where that can help, and faults are told as what they are."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core import sync as zarr_loop
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

from rankme_stream.errors import (
    RankMeError,
    SourceChangedError,
    SourceError,
    SourcePermissionError,
    StorageError,
    UsageError,
)
from rankme_stream.sources.zarr.remote_faults import AnswerError, Fault, Kind, fault_of
from rankme_stream.sources.zarr.remote_requests import Answer, get_by_http, get_by_s3

T = TypeVar("T")
SECONDS = "RANKME_REQUEST_SECONDS"
_DEFAULT_S = 60.0
_LONGEST_S = 86_400.0
_SILENCE = 1 / 3  # of the time of a request: without a byte, an attempt is over
_FIRST_CONTACT = 1 / 6  # of that time: attempts at an address that never answered, which may be mistyped
_LONGEST_ATTEMPT = 5  # times that time, for a large chunk on a slow line
_FIRST_WAIT, _LONGEST_WAIT = 1 / 120, 1 / 8  # of that time, between two attempts
_EXIT_S = 2.0  # for requests that are cancelled when the process exits
_VERSIONS = 1024  # objects whose version is remembered
_LONGEST_DOCUMENT = 2**26  # bytes of metadata
_DOCUMENTS = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
_OPTIONAL_DOCUMENTS = _DOCUMENTS - {".zattrs"}  # attributes may say how the numbers are to be read
_PASSING = (Kind.PASSING, Kind.UNREACHABLE)
_HTTP, _S3 = ("http", "https"), ("s3", "s3a")
_LOG_IN = {
    **dict.fromkeys(
        _S3,
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public bucket",
    ),
    **dict.fromkeys(("gs", "gcs"), "set GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GS_TOKEN=anon for a public bucket"),
}


def request_seconds() -> float:
    """Return the seconds in which a request to a server is tried again, from the environment.

    Raises
    ------
    UsageError
        If the variable holds no number of seconds.
    """
    text = os.environ.get(SECONDS, "")
    try:
        seconds = float(text) if text else _DEFAULT_S
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"{SECONDS} is {text[:40]!r}: give seconds, more than 0 and at most {_LONGEST_S:,.0f}")
    return seconds


def open_url(url: str) -> FsspecStore:
    """Open a URL by fsspec, with the time limits of `RemoteStore` where the protocol is HTTP or S3.

    Raises
    ------
    ImportError
        If fsspec, or its package for the protocol, is not installed.
    """
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    silence_s = request_seconds() * _SILENCE
    options: dict[str, Any] = {}
    if protocol in _HTTP:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
        configured = [conf.get(name, {}).get("client_kwargs", {}) for name in _HTTP]
        options["client_kwargs"] = {"timeout": timeout, **configured[0], **configured[1]}
    elif protocol in _S3:
        limits = {"connect_timeout": silence_s, "read_timeout": silence_s, "retries": {"total_max_attempts": 1}}
        configured = [conf.get(name, {}).get("config_kwargs", {}) for name in _S3]
        options["config_kwargs"] = {**limits, **configured[0], **configured[1]}
    store = FsspecStore.from_url(url, storage_options=options, read_only=True)
    if protocol in _S3:
        store.fs.retries = 1  # `RemoteStore` tries again
    return store


def with_retries(store: Store, uri: str) -> Store:
    """Return a store whose requests are tried again; a folder, a zip file or memory as it is."""
    if isinstance(store, LocalStore | ZipStore | MemoryStore | RemoteStore):
        return store
    return RemoteStore(store, uri)


class RemoteStore(WrapperStore[Store]):
    """Store on a server, read only.

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

    Notes
    -----
    A request that fails is tried again, after growing waits and not before the server wants it, until
    ``RANKME_REQUEST_SECONDS`` (60) have passed since it began. An attempt ends after a third of that without a byte
    (HTTP and S3; other libraries have limits of their own), and after five times that in any case. Nothing is written,
    so any request may be repeated.

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
        self.uri, self._seconds = uri, request_seconds()
        self._versions: OrderedDict[str, str] = OrderedDict()
        self._has_answered = False
        self.longest = _LONGEST_DOCUMENT
        atexit.unregister(_end_requests)
        atexit.register(_end_requests)
        self.denied: SourcePermissionError | None = None
        fs = store.fs if isinstance(store, FsspecStore) else None
        protocol = getattr(fs, "protocol", ())
        self._protocols = {protocol} if isinstance(protocol, str) else {*protocol}
        root = store.path.rstrip("/") if isinstance(store, FsspecStore) else ""
        self._prefix = f"{root}/" if root else ""
        self._get: Callable[..., Coroutine[Any, Any, Answer | None]] | None = None
        if self._protocols & {*_HTTP} and hasattr(fs, "set_session"):
            self._get = get_by_http
        elif self._protocols & {*_S3} and hasattr(fs, "_call_s3"):
            self._get = get_by_s3

    @property
    def describes(self) -> bool:
        """Whether `describe` and `listing` say more than names."""
        return isinstance(self._store, FsspecStore)

    @property
    def lists_all(self) -> bool:
        """Whether what a listing leaves out is absent; other file systems of fsspec leave out folders that fail."""
        return bool(self._protocols & {*_S3, "gs", "gcs"})

    def forget(self) -> None:
        """Forget the versions of objects and old listings, before a pass over what may have changed since the last."""
        self._versions.clear()
        if isinstance(self._store, FsspecStore):
            self._store.fs.invalidate_cache()  # of listings, which some file systems keep for the whole process

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the value under ``key``; None only where the server says, twice for a chunk, that there is none."""
        is_document = key.rpartition("/")[2] in _DOCUMENTS

        async def request() -> Buffer | None:
            if self._get is None:
                value, version = await self._store.get(key, prototype, byte_range), ""
            else:
                assert isinstance(self._store, FsspecStore)
                longest = _LONGEST_DOCUMENT if is_document else self.longest
                answer = await self._get(self._store.fs, self._prefix + key, byte_range, longest)
                value = None if answer is None else prototype.buffer.from_bytes(answer.body)
                version = "" if answer is None else answer.version
            if is_document:
                return value
            if value is None and await self._info(key, is_cached=False) is not None:
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

    async def describe(self, key: str) -> Mapping[str, Any] | None:
        """Return size, tag and times of an object by fsspec's names; None if the server says that there is none."""
        return await self._ask(key, lambda: self._info(key))

    async def check_length(self, key: str, n_bytes: int) -> None:
        """Raise StorageError if the server states another length for an object than that of the bytes that it sent."""
        described = await self.describe(key)
        stated = None if described is None else described.get("size")
        if stated not in (None, n_bytes):
            raise StorageError(
                f"{key} of {self.uri} cannot be read: the server sends {n_bytes:,} bytes of {stated:,}; the server "
                "fails, not the data: run again later"
            )

    async def listing(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        """Return descriptions of the objects in a folder by key."""
        assert isinstance(self._store, FsspecStore)
        fs, folder = self._store.fs, (self._prefix + prefix).rpartition("/")[0]
        found = await self._ask(prefix, lambda: fs._find(folder, detail=True, withdirs=False), is_bounded=False)
        return {name.removeprefix(self._prefix): described for name, described in found.items()}

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in await self._ask("the store", lambda: _collect(self._store.list()), is_bounded=False):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield all keys that begin with a prefix."""
        for key in await self._ask(prefix, lambda: _collect(self._store.list_prefix(prefix)), is_bounded=False):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for key in await self._ask(prefix, lambda: _collect(self._store.list_dir(prefix)), is_bounded=False):
            yield key

    async def _info(self, key: str, *, is_cached: bool = True) -> Mapping[str, Any] | None:
        if not isinstance(self._store, FsspecStore):
            return {} if await self._store.exists(key) else None
        if not is_cached:
            self._store.fs.invalidate_cache()
        try:
            described: Mapping[str, Any] = await self._store.fs._info(self._prefix + key)
        except FileNotFoundError as error:
            # fsspec calls any failed request for a description by HTTP a file that is not found.
            if error.__cause__ is None or fault_of(error.__cause__).kind is Kind.ABSENT:
                return None
            raise error.__cause__ from None
        return None if described.get("type") == "directory" else described

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

    async def _ask(self, key: str, request: Callable[[], Coroutine[Any, Any, T]], *, is_bounded: bool = True) -> T:
        """Return what a request returns; try again while that can help and there is time."""
        began, n_attempts = time.monotonic(), 0
        longest_s = self._seconds * _LONGEST_ATTEMPT
        while True:
            n_attempts += 1
            attempt = asyncio.ensure_future(request())
            attempt.add_done_callback(_take_error)
            try:
                await asyncio.wait({attempt}, timeout=longest_s if is_bounded else None)
            finally:
                attempt.cancel()  # nothing, once it is done
            error: BaseException | None = None
            if not attempt.done():
                fault = Fault(Kind.PASSING, f"the answer does not end within {longest_s:g} s")
            elif (error := attempt.exception()) is None:
                self._has_answered = True
                return attempt.result()
            elif isinstance(error, RankMeError):
                raise error
            else:
                fault = fault_of(error)
            self._has_answered |= fault.kind is not Kind.UNREACHABLE
            wait_s = self._wait_s(fault, n_attempts)
            spent_s = time.monotonic() - began
            if fault.kind not in _PASSING or spent_s + wait_s > self._limit_s(fault):
                raise self._told(key, fault, n_attempts, spent_s) from error
            await asyncio.sleep(wait_s)

    def _limit_s(self, fault: Fault) -> float:
        is_first_contact = fault.kind is Kind.UNREACHABLE and not self._has_answered
        return self._seconds * (_FIRST_CONTACT if is_first_contact else 1)

    def _wait_s(self, fault: Fault, n_attempts: int) -> float:
        """Return the time before the next attempt: doubled each time, and random, so that clients spread."""
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(n_attempts, 30))
        return max(fault.wait_s, self._seconds * longest * random.uniform(0.5, 1))

    def _told(self, key: str, fault: Fault, n_attempts: int, spent_s: float) -> RankMeError:
        """Return the error to raise for a fault: place, reason, and what the user can do."""
        place = f"{key} of {self.uri}" if key else self.uri
        tried = f"{n_attempts} attempt{'s' * (n_attempts > 1)} in {spent_s:.3g} s"
        match fault.kind:
            case Kind.DENIED:
                return SourcePermissionError(
                    f"{place} may not be read: {fault.text}; check the credentials and what they permit (for one who "
                    "may not list, as in S3 without s3:ListBucket, it may also be absent)"
                )
            case Kind.NO_CREDENTIALS:
                remedy = _LOG_IN.get(self.uri.partition("://")[0], "log in, or set them as the store's library wants")
                return SourcePermissionError(f"no credentials for {place} ({fault.text}): {remedy}")
            case Kind.UNREACHABLE:
                return StorageError(
                    f"{place} cannot be reached: {fault.text} ({tried}); check that the server runs and its address, "
                    f"and that of an endpoint if one is set, or wait longer: {SECONDS}, now {self._seconds:g}"
                )
            case Kind.ABSENT | Kind.LASTING:
                return SourceError(f"{place} cannot be read: {fault.text}")
        wanted = (
            f", and wants {fault.wait_s:g} s before the next" if fault.wait_s > self._seconds * _LONGEST_WAIT else ""
        )
        return StorageError(
            f"{place} cannot be read: {fault.text} ({tried}{wanted}); the server fails, not the data: run again later, "
            f"or set {SECONDS} (now {self._seconds:g}) to wait longer"
        )


def _take_error(attempt: asyncio.Future[Any]) -> None:
    """Take the error of an attempt that nobody waits for any more; asyncio would print it."""
    if not attempt.cancelled():
        attempt.exception()


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
