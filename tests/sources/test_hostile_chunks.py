"""Chunks that decode to more than their metadata say are refused, and never take more memory than an honest one.

The inputs are zeros, at most 64 MB of them once decoded: large beside the chunks of some kB that they stand in for.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.labels import open_labels
from rankme_stream.sources.zarr import ZarrSource
from rankme_stream.sources.zarr.codecs.unpack import BYTES_CODECS

N_BYTES = 2**26
ROWS = 16  # of 16 features: chunks of 1 kB
LIMIT = 2**21

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")


def v3(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": f"numcodecs.{name}", "configuration": configuration}


# Settings of the array, and what packs zeros as its codecs do.
Layout = tuple[dict[str, Any], Callable[[bytes], bytes]]


def _then(*codecs: Any) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        for codec in codecs:
            content = bytes(codec.encode(content))
        return content

    return pack


def _zstd_stream(content: bytes) -> bytes:
    """Return blocks of one repeated byte, behind a header that names no size."""
    size = 2**17  # of a block, at most
    block = (size << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (size << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (len(content) // size - 1) + last


ZSTD, GZIP, ZLIB, BLOSC = numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib(), numcodecs.Blosc()
LAYOUTS: dict[str, Layout] = {
    "zstd": ({"compressors": ZstdCodec()}, _then(ZSTD)),
    "zstd without a size": ({"compressors": ZstdCodec()}, _zstd_stream),
    "blosc": ({"compressors": BloscCodec()}, _then(BLOSC)),
    "gzip": ({"compressors": GzipCodec()}, _then(GZIP)),
    "gzip of many members": ({"compressors": GzipCodec()}, lambda content: _then(GZIP)(content[: 2**16]) * 1000),
    "zstd in zstd": ({"compressors": [ZstdCodec(), ZstdCodec()]}, _then(ZSTD, ZSTD)),
    "gzip in blosc": ({"compressors": [GzipCodec(), BloscCodec()]}, _then(GZIP, BLOSC)),
    "zstd, crc32c": ({"compressors": [ZstdCodec(), Crc32cCodec()]}, _then(ZSTD, numcodecs.CRC32C())),
    "big-endian": ({"serializer": BytesCodec(endian="big")}, _then(ZSTD)),
    "transposed": ({"filters": TransposeCodec(order=(1, 0))}, _then(ZSTD)),
    "zstd, v2": ({"zarr_format": 2, "compressors": ZSTD}, _then(ZSTD)),
    "blosc, v2": ({"zarr_format": 2, "compressors": BLOSC}, _then(BLOSC)),
    "gzip, v2": ({"zarr_format": 2, "compressors": GZIP}, _then(GZIP)),
    "zlib, v2": ({"zarr_format": 2, "compressors": ZLIB}, _then(ZLIB)),
    "Fortran order, v2": ({"zarr_format": 2, "compressors": ZLIB, "order": "F"}, _then(ZLIB)),
    "big-endian, v2": ({"zarr_format": 2, "compressors": ZSTD, "dtype": ">f4"}, _then(ZSTD)),
    "lz4, v2": ({"zarr_format": 2, "compressors": numcodecs.LZ4()}, _then(numcodecs.LZ4())),
    "bz2, v2": ({"zarr_format": 2, "compressors": numcodecs.BZ2()}, _then(numcodecs.BZ2())),
    "lzma, v2": ({"zarr_format": 2, "compressors": numcodecs.LZMA(preset=0)}, _then(numcodecs.LZMA(preset=0))),
    "shuffle and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.Shuffle(4)], "compressors": ZLIB},
        _then(numcodecs.Shuffle(4), ZLIB),
    ),
    "delta and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.Delta("f4", astype="f2")], "compressors": ZLIB},
        _then(ZLIB),
    ),
    "scaled and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.FixedScaleOffset(0, 1, "f4", "u1")], "compressors": ZLIB},
        _then(ZLIB),
    ),
    "base64 and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.Base64()], "compressors": ZLIB},
        _then(numcodecs.Base64(), ZLIB),
    ),
    "a checksum and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.Fletcher32()], "compressors": ZLIB},
        _then(numcodecs.Fletcher32(), ZLIB),
    ),
    "jenkins and zlib, v2": (
        {"zarr_format": 2, "filters": [numcodecs.JenkinsLookup3()], "compressors": ZLIB},
        _then(numcodecs.JenkinsLookup3(), ZLIB),
    ),
    "nothing": ({"compressors": None}, bytes),
    "a checksum": ({"compressors": Crc32cCodec()}, _then(numcodecs.CRC32C())),
    "nothing, big-endian": ({"compressors": None, "serializer": BytesCodec(endian="big")}, bytes),
    "bz2, v3": ({"compressors": v3("bz2", level=1)}, _then(numcodecs.BZ2())),
    "lzma, v3": ({"compressors": v3("lzma", preset=0)}, _then(numcodecs.LZMA(preset=0))),
    "lz4, v3": ({"compressors": v3("lz4", acceleration=1)}, _then(numcodecs.LZ4())),
    "zlib, v3": ({"compressors": v3("zlib", level=1)}, _then(ZLIB)),
    "zlib and crc32, v3": ({"compressors": [v3("zlib", level=1), v3("crc32")]}, _then(ZLIB, numcodecs.CRC32())),
    "zlib and adler32, v3": ({"compressors": [v3("zlib", level=1), v3("adler32")]}, _then(ZLIB, numcodecs.Adler32())),
}


def _store(path: Path, layout: str, way: str) -> tuple[Any, str, Callable[[bytes], None]]:
    """Return an array of two rows of chunks, the key of the second, and what puts other bytes there."""
    settings = {"shape": (2 * ROWS, ROWS), "chunks": (ROWS, ROWS), "dtype": "f4"} | LAYOUTS[layout][0]
    store: Any = path / "a.zarr" if way == "folder" else MemoryStore()
    array = zarr.create_array(store, **settings)
    array[:] = np.ones(array.shape, array.dtype)
    key = "1.0" if settings.get("zarr_format") == 2 else "c/1/0"
    if way == "folder":
        return store, key, (store / key).write_bytes
    held = store._store_dict
    return array, key, lambda content: held.__setitem__(key, zarr.core.buffer.cpu.Buffer.from_bytes(content))


@pytest.mark.parametrize("way", ["folder", "memory"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_decodes_to_more_than_its_metadata_say_is_refused_in_little_memory(
    tmp_path: Path, layout: str, way: str
) -> None:
    opened, key, put = _store(tmp_path, layout, way)
    np.testing.assert_array_equal(ZarrSource(opened).read(0, 2 * ROWS), 1)
    put(LAYOUTS[layout][1](bytes(N_BYTES)))
    source = ZarrSource(opened)
    tracemalloc.start()
    with pytest.raises(CorruptChunkError, match=rf"chunk {key} .*\(rows 16-32\)") as caught:
        source.read(0, 2 * ROWS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < LIMIT + (4 * 2**20 if "bz2" in layout or "lzma" in layout else 0)  # of the libraries themselves


@pytest.mark.parametrize("name", ["zstd", "gzip", "blosc"])
def test_a_chunk_of_a_shard_that_decodes_to_more_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    codecs = [BytesCodec(), {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}[name]]
    unchecked = ShardingCodec(chunk_shape=(ROWS, ROWS), codecs=codecs, index_codecs=[BytesCodec()])
    path = tmp_path / "a.zarr"
    shape = (2 * ROWS, ROWS)
    zarr.create_array(path, shape=shape, chunks=shape, dtype="f4", serializer=unchecked, compressors=None)[:] = 1
    packed = LAYOUTS[name][1](bytes(2**18))  # which fits into the bytes that a chunk may take
    shard = (path / "c/0/0").read_bytes()
    first = np.frombuffer(shard[-32:-16], "<u8")
    entries = np.array([*first, len(shard) - 32, len(packed)], "<u8")
    (path / "c/0/0").write_bytes(shard[:-32] + packed + entries.tobytes())
    source = ZarrSource(path)
    np.testing.assert_array_equal(source.read(0, ROWS), 1)
    tracemalloc.start()
    with pytest.raises(CorruptChunkError, match=r"c/0/0 \(inner chunk 1,0\) .*\(rows 16-32\)"):
        source.read(0, 2 * ROWS)
    assert tracemalloc.get_traced_memory()[1] < LIMIT
    tracemalloc.stop()


def test_every_codec_of_the_libraries_is_held_to_a_size_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(4, 4), chunks=(2, 4), dtype="f4", zarr_format=2, compressors=None)[:] = 1
    metadata = json.loads((path / ".zarray").read_bytes())
    required = {
        "astype": {"encode_dtype": "f4", "decode_dtype": "f4"}, "delta": {"dtype": "f4"}, "bitround": {"keepbits": 3},
        "fixedscaleoffset": {"offset": 0, "scale": 1, "dtype": "f4"}, "quantize": {"digits": 2, "dtype": "f4"},
        "categorize": {"labels": ["a"], "dtype": "U1"}, "vlen-array": {"dtype": "f4"},
    }  # fmt: skip
    known = {"astype", "delta", "bitround", "fixedscaleoffset", "quantize", *BYTES_CODECS}
    known |= {"pcodec"} if find_spec("pcodec") else set()
    found = set()
    for name in numcodecs.registry.codec_registry:
        codec = {"id": name} | required.get(name, {})
        (path / ".zarray").write_text(json.dumps(metadata | {"filters": [codec]}))
        found.add(name)
        if name in known:
            ZarrSource(path)
            continue
        with pytest.raises(SourceFormatError, match=name):
            ZarrSource(path)
    assert {"zstd", "blosc", "lz4", "zlib", "gzip", "bz2", "lzma"} <= known & found
    for name in ("zfpy", "packbits"):
        assert get_codec_class(f"numcodecs.{name}") is not None
        assert name not in known


def test_texts_that_decode_to_more_than_labels_take_are_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "l.zarr"
    zarr.create_array(path, shape=(100,), chunks=(50,), dtype=str)[:] = np.array(["a"] * 100, object)
    assert open_labels(path).read(0, 100).tolist() == ["a"] * 100
    many = (10**9).to_bytes(4, "little")  # texts, by the count in front of them
    long = (50).to_bytes(4, "little") + (2**26).to_bytes(4, "little") + bytes(2**26)
    for content in (many, long):
        (path / "c/1").write_bytes(ZSTD.encode(content))
        labels = open_labels(path)
        tracemalloc.start()
        with pytest.raises(CorruptChunkError, match=r"c/1 "):
            labels.read(0, 100)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
        tracemalloc.stop()
