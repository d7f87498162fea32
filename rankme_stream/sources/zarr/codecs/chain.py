"""Codecs that the metadata of a zarr array name: in which order, and which checksum covers a chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHECKSUMS = ("crc32c", "crc32", "adler32", "fletcher32")
REWRITE = "write it again with zstd, blosc, gzip or without compression"
CODEC_PACKAGES = {
    "cast_value": "'zarr>=3.2' 'cast-value-rs>=0.4.2'",
    "pcodec": "'pcodec>=1'",
    "scale_offset": "'zarr>=3.2'",
}  # that codecs need beside the packages that are always there


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
