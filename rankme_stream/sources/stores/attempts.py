"""Calls into stores of other libraries: tried again where that can help, and their errors told as ours."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rankme_stream.errors import RankMeError, SourceError, SourcePermissionError, StorageError, UsageError
from rankme_stream.sources.stores.remote_faults import Fault, Kind, fault_of
from rankme_stream.sources.stores.turns import turn

T = TypeVar("T")
SECONDS = "RANKME_REQUEST_SECONDS"
_DEFAULT_S = 60.0
_LONGEST_S = 86_400.0
_FIRST_CONTACT = 1 / 6  # of the time of a request: attempts at an address that never answered, which may be mistyped
_LONGEST_ATTEMPT = 5  # times that time, for a large chunk on a slow line
_FIRST_WAIT, _LONGEST_WAIT = 1 / 120, 1 / 8  # of that time, between two attempts
_PASSING = (Kind.PASSING, Kind.UNREACHABLE)
_LOG_IN = {
    **dict.fromkeys(
        ("s3", "s3a"),
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


class Attempts:
    """Requests to one store, which end within a time and raise errors of ours alone.

    Parameters
    ----------
    uri
        Name of the store in messages.
    is_remote
        Whether a request that fails is tried again; files and memory fail as they will fail again.
    takes_turns
        Whether a request waits until the one before it has ended; then it is never given up, since its thread goes on.
    """

    def __init__(self, uri: str, *, is_remote: bool = True, takes_turns: bool = False) -> None:
        self.uri, self._is_remote, self._takes_turns = uri, is_remote, takes_turns
        request_seconds()  # refuses a number of seconds that is none before anything is requested
        self._has_answered = False

    async def ask(self, key: str, request: Callable[[], Coroutine[Any, Any, T]], *, is_bounded: bool = True) -> T:
        """Return what a request returns; try again while that can help and there is time.

        Raises
        ------
        StorageError
            If no attempt succeeds.
        SourcePermissionError, SourceError
            If the store refuses, or the request can never succeed.
        OSError, MemoryError
            As they are, where requests are not tried again: callers know what a file is.
        """
        self._seconds, began, n_attempts = request_seconds(), time.monotonic(), 0
        longest_s = self._seconds * _LONGEST_ATTEMPT
        is_bounded = is_bounded and not self._takes_turns
        while True:
            n_attempts += 1
            attempt = asyncio.ensure_future(self._called(request))
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
            elif isinstance(error, RankMeError) or (not self._is_remote and isinstance(error, OSError | MemoryError)):
                raise error
            else:
                fault = fault_of(error)
            self._has_answered |= fault.kind is not Kind.UNREACHABLE
            wait_s = self._wait_s(fault, n_attempts)
            spent_s = time.monotonic() - began
            can_pass = self._is_remote and fault.kind in _PASSING
            if not can_pass or spent_s + wait_s > self._limit_s(fault):
                raise self._told(key, fault, n_attempts, spent_s) from error
            await asyncio.sleep(wait_s)

    async def _called(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a request returns; one that fails before it is awaited fails here, too."""
        if not self._takes_turns:
            return await request()
        async with turn():
            return await request()

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
        if not self._is_remote or fault.kind in (Kind.ABSENT, Kind.LASTING):
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
