"""What a server states about a body is checked against it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from rankme_stream.sources.stores.remote_faults import AnswerError, Kind
from rankme_stream.sources.stores.remote_requests import Answer, get_by_http

BODY = bytes(range(100))
SHA = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


class Session:
    """Session of aiohttp that gives one answer; also its file system and its response."""

    def __init__(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.kwargs: dict[str, Any] = {}
        self.body, self.status = body, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requested: dict[str, str] = {}

    async def set_session(self) -> Session:
        return self

    def encode_url(self, url: str) -> str:
        return url

    @asynccontextmanager
    async def get(self, url: str, headers: dict[str, str]) -> Any:
        self.requested = headers
        yield self

    @property
    def content(self) -> Session:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for first in range(0, len(self.body), 7):
            yield self.body[first : first + 7]

    def raise_for_status(self) -> None:
        assert self.status < 400


def get(session: Session, byte_range: Any = None, longest: int = 10_000) -> Answer | None:
    return asyncio.run(get_by_http(session, "http://host/key", byte_range, longest))


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_MD5": MD5},
        {"Digest": f"sha-256={SHA}, md5={MD5}"},
        {"Repr_Digest": f"sha-256=:{SHA}:"},
        {"x_goog_hash": f"crc32c=AAAAAA==,md5={MD5}"},
        {"Digest": "unixsum=30637"},
        {},
    ],
)
def test_a_body_with_the_checksum_that_is_stated_is_taken_and_another_is_not(headers):
    assert get(Session(BODY, **headers)) == Answer(BODY, "", len(BODY))
    if any(MD5 in value or SHA in value for value in headers.values()):
        with pytest.raises(AnswerError, match="checksum"):
            get(Session(BODY[:-1], **headers))


@pytest.mark.parametrize(
    "byte_range, header, first, last",
    [
        (RangeByteRequest(10, 30), "bytes=10-29", 10, 29),
        (RangeByteRequest(90, 130), "bytes=90-129", 90, 99),
        (OffsetByteRequest(95), "bytes=95-", 95, 99),
        (SuffixByteRequest(7), "bytes=-7", 93, 99),
        (SuffixByteRequest(700), "bytes=-700", 0, 99),
    ],
)
def test_a_part_is_taken_only_if_it_is_the_part_requested(byte_range, header, first, last):
    part, stated = BODY[first : last + 1], f"bytes {first}-{last}/100"
    session = Session(part, 206, Content_Range=stated, ETag='"a"')
    assert get(session, byte_range) == Answer(part, '"a" 100', 100)
    assert session.requested["Range"] == header
    for body, claim in [
        (part[:-1], stated),
        (part, f"bytes {first}-{last}/*"),
        (part, f"bytes 1-{last}/101"),
        (part, ""),
    ]:
        with pytest.raises(AnswerError):
            get(Session(body, 206, Content_Range=claim), byte_range)
    with pytest.raises(AnswerError, match="knows ranges"):
        get(Session(BODY, 200), byte_range)


def test_a_part_past_the_end_is_empty_and_what_is_not_there_is_none():
    assert get(Session(b"", 416), RangeByteRequest(200, 300)) == Answer(b"", "")
    assert get(Session(b"", 404)) is None
    assert get(Session(b"", 410)) is None


def test_a_web_page_is_no_chunk_and_a_chunk_of_that_type_is():
    assert get(Session(BODY, Content_Type="text/html")) == Answer(BODY, "", len(BODY))
    with pytest.raises(AnswerError, match="web page"):
        get(Session(b"<!DOCTYPE html><html>log in</html>", Content_Type="text/html; charset=utf-8"))
    with pytest.raises(AnswerError, match="web page") as caught:
        get(Session(b"<html>log in</html>", Content_Type="text/html"), RangeByteRequest(10, 30))
    assert caught.value.kind is Kind.PASSING


@pytest.mark.parametrize("headers", [{"Content_Length": "100"}, {}])
def test_not_more_is_read_than_an_object_may_have(headers):
    assert get(Session(BODY, **headers), longest=100) == Answer(BODY, "", len(BODY))
    with pytest.raises(AnswerError, match="where 99 are allowed"):
        get(Session(BODY, **headers), longest=99)
    with pytest.raises(AnswerError, match="where 20 are allowed"):
        get(Session(BODY, 206, Content_Range="bytes 10-29/100"), RangeByteRequest(10, 30))
