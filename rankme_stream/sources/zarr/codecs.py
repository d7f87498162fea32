"""Codecs of a zarr array: which checksum covers a chunk, whether blosc packed it, and how to decode it directly."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from rankme_stream.numerics.dtypes import Array

Decode = Callable[[Array, Array], None]  # stored bytes to values, both flat uint8; raises ValueError if sizes differ
CHECKSUMS = ("crc32c", "crc32", "adler32", "fletcher32")
_BLOSC_HEADER_BYTES = 16
_INFLATED_AT_ONCE = 2**16  # encoded bytes


def codec_fields(codec: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and configuration of a codec, in the notation of zarr v2 or v3."""
    if isinstance(codec, str):
        return codec, {}
    if "id" in codec:
        return str(codec["id"]), codec
    return str(codec.get("name")), codec.get("configuration") or {}


def codec_chain(metadata: Mapping[str, Any]) -> list[Any]:
    """Return the codecs in the order of encoding; for v2 the filters, then the compressor."""
    if metadata["zarr_format"] == 2:
        return [codec for codec in [*(metadata.get("filters") or ()), metadata.get("compressor")] if codec]
    return list(metadata["codecs"])


def chunk_codecs(chain: Sequence[Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return name and configuration of the codecs of the innermost chunks."""
    fields = [codec_fields(codec) for codec in chain]
    for name, configuration in fields:
        if name == "sharding_indexed":
            return chunk_codecs(configuration.get("codecs", ()))
    return fields


def integrity(chain: Sequence[Any]) -> str:
    """Return the name of the checksum that covers every chunk; ``none`` if a flipped bit may go unnoticed."""
    codecs = [(name.removeprefix("numcodecs."), configuration) for name, configuration in chunk_codecs(chain)]
    names = [name for name, _ in codecs]
    for checksum in CHECKSUMS:
        if checksum in names:
            return checksum
    for name, configuration in codecs:
        if name in ("gzip", "zlib") or (name == "zstd" and configuration.get("checksum")):
            return name
    return "none"


def is_blosc_outermost(chain: Sequence[Any]) -> bool:
    """Return whether the stored bytes of a chunk begin with a blosc header."""
    names = [name.removeprefix("numcodecs.") for name, _ in chunk_codecs(chain)]
    while names and names[-1] in ("crc32c",):
        names.pop()
    return bool(names) and names[-1] == "blosc"


def check_blosc(encoded: Any) -> None:
    """Raise ValueError when a blosc frame is truncated or its sizes are impossible.

    Notes
    -----
    c-blosc trusts the size in the header and would read past the end of a shorter buffer.
    """
    if len(encoded) < _BLOSC_HEADER_BYTES:
        raise ValueError(f"blosc frame of {len(encoded)} bytes is shorter than its header")
    n_bytes = int.from_bytes(bytes(encoded[12:16]), "little")
    if n_bytes > len(encoded):
        raise ValueError(f"blosc frame is truncated: {n_bytes:,} bytes expected, {len(encoded):,} found")
    n_bytes_decoded = int.from_bytes(bytes(encoded[4:8]), "little")
    if n_bytes_decoded >= 2**31:
        raise ValueError(f"blosc frame says it decodes to {n_bytes_decoded:,} bytes, beyond blosc's limit of 2**31-1")


def decoder(metadata: Mapping[str, Any]) -> tuple[bool, Decode | None]:
    """Return whether chunks can be decoded by calling codecs directly, and the function; None if there is no codec.

    This takes C order and native byte order, zstd, blosc, gzip, zlib or no compression, with or without a crc32c
    of the stored bytes, in shards or not.
    """
    chain = [codec_fields(codec) for codec in codec_chain(metadata)]
    if [name for name, _ in chain] == ["sharding_indexed"]:
        chain = [codec_fields(codec) for codec in chain[0][1].get("codecs", ())]
    if metadata["zarr_format"] == 2:
        is_plain = metadata.get("order", "C") == "C"
    else:
        is_plain = bool(chain) and chain[0][0] == "bytes" and chain.pop(0)[1].get("endian", "little") == "little"
    names = [name.removeprefix("numcodecs.") for name, _ in chain]
    is_summed = metadata["zarr_format"] == 3 and names[-1:] == ["crc32c"]
    decompress = _DECOMPRESS.get(names[0]) if (names := names[: len(names) - is_summed]) else None
    if not is_plain or len(names) > 1 or (names and decompress is None):
        return False, None
    return True, _check_sum_and(decompress) if is_summed else decompress


def strip_crc32c(encoded: Array) -> Array:
    """Return the bytes before the final four, which are their checksum; raise ValueError if it does not match."""
    content, stored = encoded[:-4], encoded[-4:].tobytes()
    if google_crc32c.value(content) != int.from_bytes(stored, "little"):
        raise ValueError("crc32c does not match")
    return content


def _check_sum_and(decompress: Decode | None) -> Decode:
    def decode(encoded: Array, out: Array) -> None:
        content = strip_crc32c(encoded)
        if decompress is not None:
            decompress(content, out)
        else:
            _copy(content, out)

    return decode


def _unpack_zstd(encoded: Array, out: Array) -> None:
    n_bytes = _zstd_content_bytes(encoded[:18].tobytes())
    if n_bytes not in (None, len(out)):  # None: written as a stream, whose bytes numcodecs counts itself
        raise ValueError(f"{n_bytes:,} bytes where {len(out):,} were expected")
    numcodecs.zstd.decompress(encoded, out)


def _zstd_content_bytes(header: bytes) -> int | None:
    """Return the content size in a zstd header (RFC 8878): the library only checks that it is not too large."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("not a zstd frame")
    has_no_window = header[4] >> 5 & 1
    offset = 6 - has_no_window + (0, 1, 2, 4)[header[4] & 3]
    size = (has_no_window, 2, 4, 8)[header[4] >> 6]
    return int.from_bytes(header[offset : offset + size], "little") + 256 * (size == 2) if size else None


def _unpack_blosc(encoded: Array, out: Array) -> None:
    check_blosc(encoded)
    if int.from_bytes(encoded[4:8].tobytes(), "little") != len(out):
        raise ValueError("a blosc frame of another size")
    numcodecs.blosc.decompress(encoded, out)


def _inflate(wbits: int) -> Decode:
    def decode(encoded: Array, out: Array) -> None:
        stream, n_done = zlib.decompressobj(wbits), 0
        for start in range(0, len(encoded), _INFLATED_AT_ONCE):  # in pieces, because zlib returns new memory
            slot = out[n_done:]
            content = stream.decompress(encoded[start : start + _INFLATED_AT_ONCE].data, len(slot) + 1)
            _copy(content, slot[: len(content)])
            n_done += len(content)
        if not stream.eof or stream.unused_data or stream.unconsumed_tail or n_done != len(out):
            raise ValueError("not one stream of the size expected")

    return decode


def _copy(content: Any, out: Array) -> None:
    if len(content) != len(out):
        raise ValueError(f"{len(content):,} bytes where {len(out):,} were expected")
    if len(content):
        out[...] = np.frombuffer(content, np.uint8)


_DECOMPRESS: Mapping[str, Decode] = {
    "zstd": _unpack_zstd,
    "blosc": _unpack_blosc,
    "gzip": _inflate(31),
    "zlib": _inflate(15),
}
