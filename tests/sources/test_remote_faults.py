"""Errors of any library are sorted by what helps, without the library."""

from __future__ import annotations

import errno
import socket

import pytest

from rankme_stream.sources.stores.remote_faults import AnswerError, Kind, fault_of


class ClientError(Exception):
    """Error of botocore: a server's answer."""

    def __init__(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


class HttpResponseError(Exception):
    """Error of azure or aiohttp: a status, under one of its names."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("https://host/x?secret=1")
        vars(self).update(attributes)


class ParamValidationError(Exception):
    pass


class NoCredentialsError(Exception):
    pass


class EndpointConnectionError(Exception):
    pass


class ClientPayloadError(Exception):
    code = 400  # as aiohttp's cause of it has


class ClientConnectorCertificateError(Exception):
    pass


class NonHttpUrlClientError(Exception):
    pass


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, kind",
    [
        (ClientError(404, "NoSuchKey"), Kind.ABSENT),
        (caused(FileNotFoundError("x"), ClientError(404, "NoSuchBucket")), Kind.LASTING),
        (ClientError(403, "AccessDenied"), Kind.DENIED),
        (ClientError(400, "ExpiredToken"), Kind.DENIED),
        (ClientError(400, "RequestTimeout"), Kind.PASSING),
        (ClientError(503, "SlowDown"), Kind.PASSING),
        (caused(OSError(errno.EBUSY, "slow down"), ClientError(503, "SlowDown")), Kind.PASSING),
        (HttpResponseError(status=410), Kind.ABSENT),
        (HttpResponseError(status=401), Kind.DENIED),
        (HttpResponseError(status=408), Kind.PASSING),
        (HttpResponseError(status=429), Kind.PASSING),
        (HttpResponseError(status_code=502), Kind.PASSING),
        (HttpResponseError(code="504"), Kind.PASSING),
        (HttpResponseError(status=501), Kind.UNABLE),
        (HttpResponseError(status=405), Kind.LASTING),
        (ClientPayloadError(), Kind.PASSING),
        (NonHttpUrlClientError("file:///etc/passwd"), Kind.LASTING),  # a redirect to it
        (NoCredentialsError(), Kind.NO_CREDENTIALS),
        (EndpointConnectionError(), Kind.UNREACHABLE),
        (ClientConnectorCertificateError(), Kind.LASTING),
        (socket.gaierror(-2, "no such host"), Kind.UNREACHABLE),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Kind.UNREACHABLE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Kind.PASSING),
        (TimeoutError(), Kind.PASSING),
        (PermissionError(errno.EACCES, "no"), Kind.DENIED),
        (OSError(errno.EIO, "failed"), Kind.PASSING),
        (OSError(errno.ENAMETOOLONG, "too long"), Kind.LASTING),
        (ValueError("a name that cannot be"), Kind.LASTING),
        (AnswerError("cut"), Kind.PASSING),
        (Exception("nobody knows"), Kind.PASSING),
    ],
)
def test_an_error_has_the_kind_that_says_what_helps(error, kind):
    assert fault_of(error).kind is kind


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "Sat, 28 Nov 2026 12:00:30 GMT", "Date": "Sat, 28 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"Retry-After": "Sat, 28 Nov 2026 11:00:00 GMT", "Date": "Sat, 28 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "9" * 400}, 999_999_999.0),
        ({}, 0.0),
    ],
)
def test_the_wait_that_a_server_wants_is_read(headers, seconds):
    assert fault_of(ClientError(503, "SlowDown", headers)).wait_s == seconds


def test_the_text_of_an_answer_holds_no_address():
    assert fault_of(HttpResponseError(status=403)).text == "the server answers 403 Forbidden"


def test_a_name_that_s3_does_not_take_is_told_in_our_words():
    found = fault_of(ParamValidationError('Invalid bucket name "Bad_"'))
    assert found.kind is Kind.LASTING
    assert found.text.startswith("S3 has no bucket or key of such a name: check the address")
