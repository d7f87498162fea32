"""What the codecs in a zarr metadata document say: which checksum covers a chunk, and whether blosc packed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHECKSUMS = ("crc32c", "crc32", "adler32", "fletcher32")
_BLOSC_HEADER_BYTES = 16


def codec_fields(codec: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and configuration of a codec, written as v2 or v3 writes it."""
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
    """Name the checksum that covers every chunk; ``none`` when a flipped bit may go unseen."""
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
    """Tell whether the stored bytes of a chunk open with a blosc header."""
    names = [name.removeprefix("numcodecs.") for name, _ in chunk_codecs(chain)]
    while names and names[-1] in ("crc32c",):
        names.pop()
    return bool(names) and names[-1] == "blosc"


def check_blosc(encoded: Any) -> None:
    """Raise ValueError when a blosc frame is cut short, or its sizes cannot be.

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
