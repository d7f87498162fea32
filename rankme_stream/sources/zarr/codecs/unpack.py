"""Decoders of bytes to bytes that write into given memory, and never produce more than fits there."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import google_crc32c
import numcodecs
import numcodecs.blosc
import numcodecs.lz4
import numcodecs.zstd
import numpy as np

from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.zarr.codecs.chain import CODEC_PACKAGES

Unpack = Callable[[Array, Array], int]  # flat uint8: writes to the start of the second; returns the bytes written
UnpackAll = Callable[[Sequence[Array] | Array, Array], None]  # several, each into a row of the second, which it fills
_BLOSC_HEADER_BYTES = 16
_PIECE_BYTES = 2**16  # of input; output comes in new memory, of at most four times as many
_WORKING_BYTES = 8 * _PIECE_BYTES
_PCODEC_VALUES = 2**18  # of a page, unless the configuration says otherwise
_PCODEC_HEADER_BYTES = 64  # of a page
_PCODEC_BYTES = 2**22  # of tables that its decoder makes


class BytesCodec(NamedTuple):
    """Codec of bytes to bytes.

    ``unpack`` raises ValueError where there is more than fits, or an error of its library. ``longest`` returns the most
    bytes that so many are stored in, and their exact number where ``is_exact``. Beside both, it takes ``scratch`` times
    the decoded bytes, and ``working`` bytes. ``together`` is a faster way to unpack many small ones.
    """

    unpack: Unpack
    longest: Callable[[int], int]
    is_exact: bool = False
    scratch: int = 0
    working: int = 0
    together: UnpackAll | None = None

    def unpack_all(self, encoded: Sequence[Array] | Array, out: Array) -> None:
        """Unpack several values, each into a row of ``out``; raise ValueError where one has not that size."""
        if self.together is not None:
            return self.together(encoded, out)
        for one, target in zip(encoded, out, strict=True):
            if (n_bytes := self.unpack(one, target)) != len(target):
                raise ValueError(f"{n_bytes:,} bytes where {len(target):,} were expected")
        return None


def longest_packed(n_bytes: int) -> int:
    """Return the most bytes that compressors make of ``n_bytes`` bytes that do not compress."""
    return n_bytes + n_bytes // 64 + 4096


def put(content: Any, out: Array) -> int:
    """Copy bytes to the start of ``out``; raise ValueError if they are more than fit."""
    flat = np.frombuffer(content, np.uint8) if len(content) else np.empty(0, np.uint8)
    if len(flat) > len(out):
        raise ValueError(f"{len(flat):,} bytes where at most {len(out):,} were expected")
    out[: len(flat)] = flat
    return len(flat)


def strip_crc32c(encoded: Array) -> Array:
    """Return the bytes before the final four, which are their checksum; raise ValueError if it does not match."""
    content, stored = encoded[:-4], encoded[-4:].tobytes()
    if len(stored) < 4 or google_crc32c.value(content) != int.from_bytes(stored, "little"):
        raise ValueError("crc32c does not match")
    return content


def _unpack_zstd(encoded: Array, out: Array) -> int:
    n_bytes = _zstd_content_bytes(encoded[:18].tobytes())
    if n_bytes is not None and n_bytes > len(out):
        raise ValueError(f"{n_bytes:,} bytes where {len(out):,} were expected")
    if n_bytes is None:  # written as a stream, whose bytes numcodecs counts itself
        n_bytes = len(out)
    if n_bytes:
        numcodecs.zstd.decompress(encoded, out[:n_bytes])
    return n_bytes


def _zstd_content_bytes(header: bytes) -> int | None:
    """Return the content size in a zstd header (RFC 8878): the library only checks that it is not too large."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("not a zstd frame")
    has_no_window = header[4] >> 5 & 1
    offset = 6 - has_no_window + (0, 1, 2, 4)[header[4] & 3]
    size = (has_no_window, 2, 4, 8)[header[4] >> 6]
    return int.from_bytes(header[offset : offset + size], "little") + 256 * (size == 2) if size else None


def _unpack_blosc(encoded: Array, out: Array) -> int:
    """c-blosc trusts the sizes in the header, and would read past the end of a shorter buffer."""
    if len(encoded) < _BLOSC_HEADER_BYTES:
        raise ValueError(f"blosc frame of {len(encoded)} bytes is shorter than its header")
    n_packed = int.from_bytes(encoded[12:16].tobytes(), "little")
    if n_packed > len(encoded):
        raise ValueError(f"blosc frame is truncated: {n_packed:,} bytes expected, {len(encoded):,} found")
    n_bytes = int.from_bytes(encoded[4:8].tobytes(), "little")
    if n_bytes > len(out):
        raise ValueError(f"blosc frame decodes to {n_bytes:,} bytes where {len(out):,} were expected")
    if n_bytes:
        numcodecs.blosc.decompress(encoded, out[:n_bytes])
    return n_bytes


def _unpack_lz4(encoded: Array, out: Array) -> int:
    n_bytes = int.from_bytes(encoded[:4].tobytes(), "little")
    if n_bytes > len(out):
        raise ValueError(f"{n_bytes:,} bytes where {len(out):,} were expected")
    numcodecs.lz4.decompress(encoded, out[:n_bytes])
    return n_bytes


def _inflate(wbits: int, *, is_file: bool) -> Unpack:
    """Take one stream and ignore what follows it; of a gzip file every member, between which zeros may lie."""

    def unpack(encoded: Array, out: Array) -> int:
        n_done, start = _inflate_stream(zlib.decompressobj(wbits), encoded, out)
        while is_file and (start := _skip_zeros(encoded, start)) < len(encoded):
            n_bytes, length = _inflate_stream(zlib.decompressobj(wbits), encoded[start:], out[n_done:])
            n_done, start = n_done + n_bytes, start + length
        return n_done

    return unpack


def _inflate_all(encoded: Sequence[Array] | Array, out: Array) -> None:
    """Unpack streams of zlib, of few kilobytes each: calls cost as much as the work."""
    n_bytes, start, target, new = out.shape[1], 0, out.reshape(-1).data, zlib.decompressobj
    for one in encoded:
        stream = new(15)
        content = stream.decompress(one.data, n_bytes + 1)
        if len(content) != n_bytes or not stream.eof:
            raise ValueError(f"the stream has not the {n_bytes:,} bytes that were expected")
        target[start : start + n_bytes] = content
        start += n_bytes


def _skip_zeros(encoded: Array, start: int) -> int:
    """Return the index of the first byte from ``start`` on that is not zero, or the length."""
    for low in range(start, len(encoded), _PIECE_BYTES // 16):
        found = np.flatnonzero(encoded[low : low + _PIECE_BYTES // 16])
        if found.size:
            return low + int(found[0])
    return len(encoded)


def _inflate_stream(stream: Any, encoded: Array, out: Array) -> tuple[int, int]:
    """Return the number of bytes written and the length of the stream."""
    n_done, start, tail = 0, 0, b""
    while not stream.eof:
        piece = tail or encoded[start : start + _PIECE_BYTES].data
        start += 0 if tail else len(piece)
        content = stream.decompress(piece, 4 * _PIECE_BYTES)
        if not len(piece) and not content:
            raise ValueError("the stream ends early")
        n_done += put(content, out[n_done:])
        tail = stream.unconsumed_tail
    return n_done, start - len(stream.unused_data)


def _unpack_file(opened: Callable[[io.BytesIO], Any]) -> Unpack:
    """Read a compressed file of one stream or more, as the decompressors of whole files in the library do."""

    def unpack(encoded: Array, out: Array) -> int:
        n_done = 0
        with opened(io.BytesIO(encoded.data)) as file:
            while content := file.read(min(4 * _PIECE_BYTES, len(out) - n_done + 1)):
                n_done += put(content, out[n_done:])
        return n_done

    return unpack


def _unpack_safely(codec: Any) -> Unpack:
    """Call a codec of numcodecs whose output is never longer than its input."""
    return lambda encoded, out: put(codec.decode(encoded), out)


def _checksum(configuration: Mapping[str, Any]) -> BytesCodec:
    return BytesCodec(_unpack_safely(numcodecs.get_codec(dict(configuration))), lambda n: n + 4, True, 2)


def _crc32c(configuration: Mapping[str, Any]) -> BytesCodec:
    if configuration.get("location", "end") != "end":
        return _checksum(configuration)
    return BytesCodec(lambda encoded, out: put(strip_crc32c(encoded), out), lambda n: n + 4, True)


def _shuffle(configuration: Mapping[str, Any]) -> BytesCodec:
    codec = numcodecs.get_codec(dict(configuration))
    size = codec.elementsize

    def unpack_all(encoded: Sequence[Array] | Array, out: Array) -> None:
        """Put together the bytes of values, of whole values alone, as the library asks for."""
        if out.shape[1] % size:
            raise ValueError(f"{out.shape[1]:,} bytes are no values of {size}")
        planes = np.asarray(encoded).reshape(len(out), size, -1)
        values = out.reshape(len(out), -1, size)
        for place in range(size):  # faster than one transposition
            values[:, :, place] = planes[:, place]

    return BytesCodec(_unpack_safely(codec), lambda n: n, True, 2, together=unpack_all)


def _base64(configuration: Mapping[str, Any]) -> BytesCodec:
    return BytesCodec(_unpack_safely(numcodecs.get_codec(dict(configuration))), lambda n: -(-n // 3) * 4, True, 2)


def _lzma(configuration: Mapping[str, Any]) -> BytesCodec:
    settings = {"format": configuration.get("format", lzma.FORMAT_XZ), "filters": configuration.get("filters")}
    return BytesCodec(
        _unpack_file(lambda file: lzma.LZMAFile(file, **settings)), longest_packed, scratch=3, working=_WORKING_BYTES
    )


def pcodec(configuration: Mapping[str, Any], dtype: np.dtype[Any]) -> BytesCodec:
    """Return the codec of numbers, whose decoder takes memory by a window of at most 2^24 values as far as it is used.

    Raises
    ------
    ImportError
        If the package is not installed, or is a release whose window has no bound.
    """
    try:
        if version("pcodec").startswith("0.4."):
            raise PackageNotFoundError
        standalone = import_module("pcodec.standalone")
    except (PackageNotFoundError, ImportError):
        raise ImportError(f"'pcodec' is needed: pip install {CODEC_PACKAGES['pcodec']}") from None
    per_page = max(1, int(configuration.get("equal_pages_up_to") or _PCODEC_VALUES))

    def unpack(encoded: Array, out: Array) -> int:
        progress = standalone.simple_decompress_into(encoded.tobytes(), out.view(dtype))
        if not progress.finished or progress.n_processed != len(out) // dtype.itemsize:
            raise ValueError(f"{progress.n_processed:,} values, of which more follow or are missing")
        return len(out)

    def longest(n_bytes: int) -> int:
        return longest_packed(n_bytes) + _PCODEC_HEADER_BYTES * (n_bytes // dtype.itemsize // per_page)

    return BytesCodec(unpack, longest, scratch=2, working=_PCODEC_BYTES)


def _always(
    unpack: Unpack, scratch: int = 0, working: int = 0, together: UnpackAll | None = None
) -> Callable[[Mapping[str, Any]], BytesCodec]:
    return lambda configuration: BytesCodec(unpack, longest_packed, scratch=scratch, working=working, together=together)


BYTES_CODECS: Mapping[str, Callable[[Mapping[str, Any]], BytesCodec]] = {
    "zstd": _always(_unpack_zstd),
    "blosc": _always(_unpack_blosc),
    "lz4": _always(_unpack_lz4),
    "zlib": _always(_inflate(15, is_file=False), working=_WORKING_BYTES, together=_inflate_all),
    "gzip": _always(_inflate(31, is_file=True), working=_WORKING_BYTES),
    "bz2": _always(_unpack_file(bz2.BZ2File), scratch=2, working=_WORKING_BYTES),
    "lzma": _lzma,
    "base64": _base64,
    "shuffle": _shuffle,
    "crc32c": _crc32c,
    "crc32": _checksum,
    "adler32": _checksum,
    "fletcher32": _checksum,
    "jenkins_lookup3": _checksum,
}  # by the name in the metadata, without "numcodecs."; each takes its configuration with "id"
