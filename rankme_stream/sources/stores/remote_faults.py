"""Errors of remote stores of any library, sorted by what helps: waiting, other credentials, or another address."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from rankme_stream.sources.stores.file_errors import is_storage_fault


class Kind(Enum):
    """What a fault is, which decides whether another attempt can help and whose remedy it is."""

    ABSENT = auto()  # nothing is stored under this name, as the server says
    DENIED = auto()
    NO_CREDENTIALS = auto()
    PASSING = auto()  # another attempt may help
    UNREACHABLE = auto()  # another attempt may help, unless the address is wrong
    LASTING = auto()  # a request that the server, or the library, will refuse again
    UNABLE = auto()  # a server that cannot do what was requested


class ForeignError(ValueError):
    """Error of a class that only its library knows, by name and text."""


@dataclass(frozen=True)
class Fault:
    """Fault of a store: its kind, its text, and the seconds after which the server wants another attempt."""

    kind: Kind
    text: str
    wait_s: float = 0.0


class AnswerError(Exception):
    """Answer that contradicts itself or the request; ``kind`` says whether another attempt may help."""

    def __init__(self, text: str, kind: Kind = Kind.PASSING) -> None:
        super().__init__(text)
        self.kind = kind


_STATUSES = {404: Kind.ABSENT, 410: Kind.ABSENT, 501: Kind.UNABLE, 505: Kind.UNABLE} | dict.fromkeys(
    (401, 402, 403, 407, 451), Kind.DENIED
)
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_PASSING_STATUSES = (408, 425, 429)  # and 5xx
_PASSING_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "InternalError", "BadDigest"}
_DENIED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed"}
# Classes of aiohttp and botocore, by name: neither library needs to be installed.
_CUT = {"ClientPayloadError", "HttpProcessingError"}  # the latter has a code as if a server had answered 400
_UNREACHABLE = {
    "ClientConnectorError", "EndpointConnectionError", "ConnectTimeoutError", "ConnectionTimeoutError",
    "ProxyConnectionError",
}  # fmt: skip
_LASTING = {"ClientSSLError", "ClientConnectorCertificateError", "SSLError", "InvalidURL", "NonHttpUrlClientError"}
_LASTING |= {"TooManyRedirects", "ParamValidationError", "InvalidRegionError", "NoRegionError", "UnknownServiceError"}
_LASTING |= {"InvalidPathError", "NotSupportedError", "PreconditionError", "UnknownConfigurationKeyError"}  # obstore
_LASTING |= {"JSONDecodeError"}  # of references
_DENIED = {"PermissionDeniedError", "UnauthenticatedError"}  # obstore
_TRACE = re.compile(r"\n[\s|]*\n[\s|]*context:")  # of the calls inside icechunk
_PASSWORD = re.compile(r"([A-Za-z][\w+.-]*://)[^\s/@]*@")
_QUERY = re.compile(r"([A-Za-z][\w+.-]*://(?:(?!::)[^\s?#])*)[?#](?:(?!::)\S)*")  # up to the next link of a chain
_REFUSED_ADDRESS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
_DEFECTS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError, RuntimeError)


def fault_of(error: BaseException) -> Fault:
    """Return what an error of a store means; its text names no credentials that the server was sent."""
    if isinstance(error, AnswerError):
        return Fault(error.kind, str(error))
    names = {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}
    text = in_one_line(error)
    if names & _CUT:
        return Fault(Kind.PASSING, text)
    for cause in _causes(error):
        answered = _answer(cause)
        if answered is not None:
            return _fault_of_answer(*answered)
    if any("Credential" in name for name in names):
        return Fault(Kind.NO_CREDENTIALS, text)
    if names & _DENIED:
        return Fault(Kind.DENIED, text)
    if "ParamValidationError" in names:
        return Fault(Kind.LASTING, f"S3 has no bucket or key of such a name: check the address ({text})")
    if names & _LASTING or isinstance(error, ssl.SSLCertVerificationError):
        return Fault(Kind.LASTING, text)
    if names & _UNREACHABLE or isinstance(error, socket.gaierror):
        return Fault(Kind.UNREACHABLE, text)
    for cause in _causes(error):
        if isinstance(cause, OSError):
            return Fault(_kind_of_os_error(cause), text)
    if any(cls.__module__ == "icechunk" for cls in type(error).__mro__):
        is_of_storage = "StorageError" in names or "object store error" in text  # of icechunk 2, and of icechunk 1
        is_passing = is_of_storage and "not found" not in text
        return Fault(Kind.PASSING if is_passing else Kind.LASTING, text)
    if not isinstance(error, Exception) or "BadZipFile" in names:  # the former is how code in Rust ends on a defect
        return Fault(Kind.LASTING, text)
    if isinstance(error, _DEFECTS) and type(error).__module__ == "builtins":
        return Fault(Kind.LASTING, text)
    return Fault(Kind.PASSING, text)


def in_one_line(error: BaseException) -> str:
    """Return type and text of an error, on one line and without secrets; of an error of the system, its text alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ForeignError):
        return str(error)
    text = _TRACE.split(str(error), maxsplit=1)[0]
    text = without_secrets(" ".join(text.split()).removeprefix("x "))
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def without_secrets(text: str) -> str:
    """Return a text whose URLs have neither password, query nor fragment, which may hold credentials."""
    return _QUERY.sub(r"\1", _PASSWORD.sub(r"\1", text))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _answer(error: BaseException) -> tuple[int, str, Mapping[str, str]] | None:
    """Return status, code and headers of the answer that an error tells of; None if it tells of none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        described = response.get("ResponseMetadata") or {}
        code = str((response.get("Error") or {}).get("Code", ""))
        status = described.get("HTTPStatusCode") or (int(code) if code.isdecimal() else 0)
        return (status, code, described.get("HTTPHeaders") or {}) if status else None
    for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
        status = getattr(error, name, None)
        if isinstance(status, str) and status.isdecimal():
            status = int(status)
        if isinstance(status, int) and 400 <= status < 600:
            return status, "", getattr(error, "headers", None) or {}
    return None


def _fault_of_answer(status: int, code: str, headers: Mapping[str, str]) -> Fault:
    text = f"the server answers {status} {_PHRASES.get(status, '')}".rstrip()
    if code and not code.isdecimal():
        text += f" ({code})"
    if code == "NoSuchBucket":
        return Fault(Kind.LASTING, text)  # which says nothing about one object
    if code in _DENIED_CODES:
        return Fault(Kind.DENIED, text)
    is_passing = status in _PASSING_STATUSES or status >= 500 or code in _PASSING_CODES
    kind = _STATUSES.get(status, Kind.PASSING if is_passing else Kind.LASTING)
    return Fault(kind, text, _seconds(headers))


def _seconds(headers: Mapping[str, str]) -> float:
    """Return the seconds that the header Retry-After asks for; 0 without one that can be read."""
    stated: Any = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    if stated.isascii() and stated.isdecimal():
        return float(stated[:9])
    try:
        when = parsedate_to_datetime(stated)
        sent = parsedate_to_datetime(next(value for name, value in headers.items() if name.lower() == "date"))
        return max(0.0, (when - sent).total_seconds())
    except (ValueError, TypeError, StopIteration, OverflowError):
        return 0.0


def _kind_of_os_error(error: OSError) -> Kind:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return Kind.ABSENT
    if isinstance(error, PermissionError):
        return Kind.DENIED
    if error.errno in _REFUSED_ADDRESS:
        return Kind.UNREACHABLE
    is_passing = is_storage_fault(error) or isinstance(error, TimeoutError | ConnectionError)
    return Kind.PASSING if is_passing else Kind.LASTING
