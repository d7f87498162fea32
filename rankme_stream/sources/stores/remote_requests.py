"""Objects of a server requested by HTTP and S3, with every statement about a body checked against it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from rankme_stream.sources.stores.remote_faults import AnswerError, Kind

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_DIGESTS = {"md5": hashlib.md5, "sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_PAGE = "the server answers with a web page, as for a login or an error"
_NO_RANGES = (
    "the server answers with the whole object where a part is requested: serve it by a server that knows ranges, copy "
    "it to a disk, or give 'simplecache::' and the address, which copies each object to a temporary folder first"
)


class Answer(NamedTuple):
    """Bytes that a server sent, and version and length of the object that it stated; "" and None for none."""

    body: Any
    version: str
    n_bytes: int | None = None


async def get_by_http(fs: Any, url: str, byte_range: ByteRequest | None, longest: int) -> Answer | None:
    """Return an object, or a part of it, by the session of fsspec's HTTP file system; None if the server has none.

    Not more than ``longest`` bytes of an object are read.

    Raises
    ------
    AnswerError
        If the body is not what was requested or what its headers state.
    """
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}  # lengths are then those of the object
    if byte_range is not None:
        headers["Range"] = _range_header(byte_range)
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        if response.status in (404, 410):
            return None
        if response.status == 416 and byte_range is not None:
            return Answer(b"", "")
        response.raise_for_status()
        if byte_range is not None and response.status != 206:
            raise _no_part(response.headers.get("Content-Type", ""))
        body = await _read_body(response, _longest(byte_range, longest))
        _refuse_page(body, response.headers.get("Content-Type", ""))
        is_whole = byte_range is None and "Content-Encoding" not in response.headers
        total = _check_length(body, byte_range, response.headers.get("Content-Range"))
        if is_whole:
            _check_digests(body, response.headers)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
    return Answer(body, tag and f"{tag} {total}", total)


async def get_by_s3(fs: Any, path: str, byte_range: ByteRequest | None, longest: int) -> Answer | None:
    """Return an object, or a part of it, by the client of s3fs, which checks length and checksum; None for none.

    Not more than ``longest`` bytes of an object are read.

    Raises
    ------
    AnswerError
        If the body is not the part that was requested.
    """
    bucket, key, version_id = fs.split_path(path)
    options = {"VersionId": version_id} if version_id else {}
    if byte_range is not None:
        options["Range"] = _range_header(byte_range)
    try:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **options)
    except OSError as error:
        if byte_range is not None and _code(error) in ("InvalidRange", "416"):
            return Answer(b"", "")
        if isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
            return None
        raise
    stated = response.get("ContentRange")
    try:
        if byte_range is not None and not stated:
            raise _no_part(response.get("ContentType", ""))
        _check_size(response["ContentLength"], _longest(byte_range, longest))
        body = await response["Body"].read()
    finally:
        response["Body"].close()
    _refuse_page(body, response.get("ContentType", ""))
    total = _check_length(body, byte_range, stated)
    if response["ContentLength"] != len(body):
        raise AnswerError(f"the server sends {len(body):,} bytes and states {response['ContentLength']:,}")
    tag = response.get("ETag", "")
    return Answer(body, tag and f"{tag} {total}", total)


def _code(error: BaseException) -> str:
    response: Mapping[str, Any] = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _range_header(byte_range: ByteRequest) -> str:
    match byte_range:
        case RangeByteRequest(start, end):
            return f"bytes={start}-{end - 1}"
        case OffsetByteRequest(offset):
            return f"bytes={offset}-"
        case SuffixByteRequest(suffix):
            return f"bytes=-{suffix}"


def _longest(byte_range: ByteRequest | None, longest: int) -> int:
    """Return how many bytes an answer may have."""
    match byte_range:
        case RangeByteRequest(start, end):
            return end - start
        case SuffixByteRequest(suffix):
            return suffix
    return longest


def _check_size(n_bytes: int, longest: int) -> None:
    if n_bytes > longest:
        raise AnswerError(f"the server sends {n_bytes:,} bytes or more where {longest:,} are allowed", Kind.LASTING)


async def _read_body(response: Any, longest: int) -> bytes:
    _check_size(int(response.headers.get("Content-Length", 0)), longest)
    pieces, n_bytes = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        n_bytes += len(piece)
        _check_size(n_bytes, longest)
    return b"".join(pieces)


def _refuse_page(body: bytes, content_type: str) -> None:
    """Raise AnswerError if a body is a web page: proxies send one, for a login or an error, as if all were well."""
    if content_type.startswith("text/html") and body[:64].lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise AnswerError(_PAGE)


def _no_part(content_type: str) -> AnswerError:
    """Return the error of an answer that is no part of an object; its body, which may be long, is not read."""
    return AnswerError(_PAGE) if content_type.startswith("text/html") else AnswerError(_NO_RANGES, Kind.LASTING)


def _check_length(body: bytes, byte_range: ByteRequest | None, stated: str | None) -> int:
    """Return the length of the whole object; raise AnswerError if a body is not the part that was requested."""
    if byte_range is None:
        return len(body)
    match = _CONTENT_RANGE.fullmatch(stated or "")
    if match is None or match[3] == "*":
        raise AnswerError(f"the server does not state which part it sends ({stated!r:.80})")
    first, last, total = int(match[1]), int(match[2]), int(match[3])
    match byte_range:
        case RangeByteRequest(start, end):
            wanted = start, min(end, total)
        case OffsetByteRequest(offset):
            wanted = offset, total
        case SuffixByteRequest(suffix):
            wanted = max(0, total - suffix), total
    if (first, last + 1) != wanted or len(body) != wanted[1] - wanted[0]:
        raise AnswerError(
            f"the server sends {len(body):,} bytes as {stated!r:.80} where {wanted[0]:,}-{wanted[1] - 1:,} are wanted"
        )
    return total


def _check_digests(body: bytes, headers: Mapping[str, str]) -> None:
    """Raise AnswerError if a whole body does not have a checksum that its headers state."""
    for name, function in _DIGESTS.items():
        for stated in _stated_digests(name, headers):
            if base64.b64encode(function(body, usedforsecurity=False).digest()).decode() != stated:
                raise AnswerError(f"the body does not have the {name} checksum that the server states")


def _stated_digests(name: str, headers: Mapping[str, str]) -> list[str]:
    """Return what headers state as a digest, in base64: Content-MD5, Digest, Repr-Digest, and Google's."""
    listed = [headers.get(header, "") for header in ("Digest", "Repr-Digest", "Content-Digest", "x-goog-hash")]
    found = [part.strip() for value in listed for part in value.split(",")]
    stated = [part.partition("=")[2].strip(":") for part in found if part.lower().startswith(f"{name}=")]
    return stated + ([headers["Content-MD5"]] if name == "md5" and "Content-MD5" in headers else [])
