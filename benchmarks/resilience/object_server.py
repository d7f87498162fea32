"""A server on loopback that answers for a folder by HTTP and in the dialect of S3, and faultily when it is told to.

``python -m benchmarks.resilience.object_server FOLDER`` serves until it is ended, and prints its address.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import os
import socket
import struct
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

STATUSES = (403, 404, 429, 500, 502, 503, 504)
BODIES = ("cut", "reset", "silent", "slow", "short", "empty", "page", "flipped", "changed")
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
RETRY_AFTER = "0"
KNOWS_RANGES = True
STATES_VERSIONS = True
_SLOW_PIECES = 4

Choose = Callable[[str, str], "int | str | None"]


class ObjectServer(http.server.ThreadingHTTPServer):
    """Server of the files in a folder, as a context.

    Parameters
    ----------
    root
        Folder; for S3 its folders are the buckets.
    choose
        Returns the fault with which to answer a request, from its method and its path: a status, or one of `BODIES`;
        None for none.
    states_checksums
        Whether answers state a checksum of the body: ``Content-MD5``, and that of S3 where it is asked for.
    pause_s
        Pause between the pieces of a slow body.

    Attributes
    ----------
    requests
        Number of requests by method and path.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, root: Path, choose: Choose | None = None, *, states_checksums: bool = True, pause_s: float = 0.0
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.choose: Choose = choose or (lambda method, path: None)
        self.states_checksums, self.pause_s = states_checksums, pause_s
        self.requests: Counter[tuple[str, str]] = Counter()
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Address of the folder by HTTP, and of the endpoint by S3."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> ObjectServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a short body waits 40 ms behind its headers, as on no real server
    server: ObjectServer

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        self.server.requests[self.command, path] += 1
        fault = self.server.choose(self.command, path)
        query = parse_qs(parts.query)
        if isinstance(fault, int):
            self._refuse(fault)
        elif "list-type" in query:
            self._send(200, self._listing(path, query), {"Content-Type": "application/xml"})
        elif not (self.server.root / path).is_file():
            self._refuse(404)
        else:
            self._send_file(self.server.root / path, fault)

    def _refuse(self, status: int) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{_CODES.get(status, status)}</Code><Message>no</Message></Error>"
        headers = {"Content-Type": "application/xml"} | ({"Retry-After": RETRY_AFTER} if status in (429, 503) else {})
        self._send(status, body.encode(), headers)

    def _listing(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        folder = self.server.root / bucket
        keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        found, folders = "", set()
        for key in (key for key in keys if key.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            path = folder / key
            found += (
                f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size><ETag>{_tag(path)}</ETag>"
                "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            )
        found += "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        return f"<?xml version='1.0'?><ListBucketResult>{found}</ListBucketResult>".encode()

    def _send_file(self, path: Path, fault: str | None) -> None:
        status, n_bytes = 200, path.stat().st_size
        headers = {}
        if STATES_VERSIONS:
            headers |= {"ETag": _tag(path), "Last-Modified": formatdate(0, usegmt=True)}
        if KNOWS_RANGES:
            headers["Accept-Ranges"] = "bytes"
        if KNOWS_RANGES and (asked := self.headers.get("Range")) is not None:
            first, last = _span(asked, n_bytes)
            if first >= n_bytes:
                self._refuse(416)
                return
            with path.open("rb", buffering=0) as file:
                body = os.pread(file.fileno(), last + 1 - first, first)
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{n_bytes}"
        else:
            body = path.read_bytes()
            if self.server.states_checksums:
                headers["Content-MD5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
                if self.headers.get("x-amz-checksum-mode") == "ENABLED":
                    headers["x-amz-checksum-crc32"] = base64.b64encode(struct.pack(">I", zlib.crc32(body))).decode()
        match fault:
            case "short":
                body = body[: len(body) // 2]
            case "empty":
                body = b""
            case "page":
                status, body, headers = 200, b"<html>please log in</html>", {"Content-Type": "text/html"}
            case "flipped" if body:
                body = body[:-1] + bytes([body[-1] ^ 4])
            case "changed":
                headers["ETag"] = f'"{self.server.requests.total()}"'
        self._send(status, body, headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: str | None = None) -> None:
        if fault == "silent":
            self.server.closing.wait(60)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("silent", "reset"):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            size = -(-len(body) // _SLOW_PIECES) or 1
            for first in range(0, len(body), size):
                self.wfile.write(body[first : first + size])
                self.server.closing.wait(self.server.pause_s)
        else:
            self.wfile.write(body)


def _tag(path: Path) -> str:
    """Return the tag of a file, as S3 makes it of an object that was sent in one piece."""
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@functools.lru_cache(maxsize=10_000)
def _digest_of(path: Path, *written: int) -> str:
    with path.open("rb") as file:
        return f'"{hashlib.file_digest(file, "md5").hexdigest()}"'


def _span(asked: str, n_bytes: int) -> tuple[int, int]:
    """Return the first and the last byte that a Range header asks for."""
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, n_bytes - int(last)), n_bytes - 1
    return int(first), min(int(last) if last else n_bytes - 1, n_bytes - 1)


if __name__ == "__main__":
    with ObjectServer(Path(sys.argv[1]), states_checksums=False) as served:  # their time would count as the download's
        print(served.url, flush=True)
        served.closing.wait()
