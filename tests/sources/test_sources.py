"""Sources return the rows as they were written, and say what is missing, corrupt or not theirs to read."""

from __future__ import annotations

import gzip
import json
import os
import time
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.storage import LocalStore

from rankme_stream.errors import (
    CorruptChunkError,
    LimitError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    StorageError,
)
from rankme_stream.sources import ArraySource, NpySource, Source, ZarrSource, open_source
from rankme_stream.sources.labels import open_labels
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.chunk_storage import FolderChunks
from rankme_stream.sources.zarr.stored_values import StoreValues

SHAPE = (103, 12)
RANGES = [(0, 103), (7, 33), (50, 51), (19, 101), (100, 103), (4, 4)]
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2, "chunks": (10, 12)},
    "v2-columns": {"zarr_format": 2, "chunks": (10, 5)},
    "v2-fortran": {"zarr_format": 2, "chunks": (10, 5), "order": "F"},
    "v2-raw": {"zarr_format": 2, "chunks": (10, 12), "compressors": None},
    "v3": {"chunks": (10, 12)},
    "v3-columns": {"chunks": (10, 5)},
    "v3-gzip": {"chunks": (10, 5), "compressors": GzipCodec()},
    "v3-dots": {"chunks": (10, 5), "chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3-v2-keys": {"chunks": (10, 5), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3-larger-than-array": {"chunks": (1000, 50)},
    "v3-big-endian": {"chunks": (10, 5), "serializer": BytesCodec(endian="big")},
    "v3-sharded": {"chunks": (5, 4), "shards": (20, 8)},
    "v3-sharded-blosc": {"chunks": (5, 4), "shards": (20, 8), "compressors": BloscCodec()},
    "v3-sharded-index-first": {
        "chunks": (20, 8),
        "serializer": ShardingCodec(chunk_shape=(5, 4), index_location="start"),
        "compressors": None,
    },
}
DTYPES = ["float16", "float32", "float64", "int8", "uint16", "int32", "uint64", "bfloat16"]


class ThroughAStore(FolderChunks):
    """Chunks in a folder whose files are requested of a store."""

    def __init__(self, store: AuditingStore, uri: str) -> None:
        assert store.root is not None
        super().__init__(store.root, uri)
        self._store = store

    def values(self, grid: Any) -> Any:
        super().values(grid)
        return StoreValues(self._store, grid.index)


@pytest.fixture(autouse=True, params=["store", "folder"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds whether values are files or what a store returns, as from a server."""
    if request.param == "store":
        found = ZarrSource._chunk_storage

        def through_a_store(self: ZarrSource, store: Any) -> Any:
            chunks = found(self, store)
            return ThroughAStore(self._store, self.uri) if isinstance(chunks, FolderChunks) else chunks

        monkeypatch.setattr(ZarrSource, "_chunk_storage", through_a_store)
    return str(request.param)


def test_a_folder_is_read_without_the_event_loop(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ZarrSource(_write(tmp_path)[0])
    asked: list[str] = []
    get = AuditingStore.get

    async def noting(self: AuditingStore, key: str, *arguments: Any, **options: Any) -> Any:
        asked.append(key)
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(AuditingStore, "get", noting)
    source.read(0, 10)
    assert asked == (["c/0/0"] if way == "store" else [])


CHAINS: dict[str, dict[str, Any]] = {
    "foreign byte order": {"zarr_format": 2, "dtype": ">f4"},
    "foreign byte order, v3": {"serializer": BytesCodec(endian="big")},
    "foreign byte order, uncompressed": {"serializer": BytesCodec(endian="big"), "compressors": None},
    "Fortran order": {"zarr_format": 2, "order": "F"},
    "Fortran order, foreign byte order": {"zarr_format": 2, "order": "F", "dtype": ">f4"},
    "transposed": {"filters": TransposeCodec(order=(1, 0))},
    "transposed, foreign byte order": {
        "filters": TransposeCodec(order=(1, 0)),
        "serializer": BytesCodec(endian="big"),
        "compressors": None,
    },
    "transposed twice": {"filters": [TransposeCodec(order=(1, 0)), TransposeCodec(order=(1, 0))]},
    "two compressors": {"compressors": [ZstdCodec(), GzipCodec()]},
    "a checksum between two compressors": {"compressors": [BloscCodec(), Crc32cCodec(), ZstdCodec()]},
    "shuffle": {"zarr_format": 2, "filters": [numcodecs.Shuffle(4)]},
    "shuffle and zlib": {"zarr_format": 2, "filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib()},
    "delta": {"zarr_format": 2, "dtype": "i4", "filters": [numcodecs.Delta("i4")]},
    "delta in fewer bytes": {"zarr_format": 2, "dtype": "i4", "filters": [numcodecs.Delta("i4", astype="i2")]},
    "scaled": {"zarr_format": 2, "filters": [numcodecs.FixedScaleOffset(1.0, 1000.0, "f4", "i2")]},
    "quantized": {"zarr_format": 2, "filters": [numcodecs.Quantize(3, "f4")]},
    "rounded": {"zarr_format": 2, "filters": [numcodecs.BitRound(10)]},
    "stored in another type": {"zarr_format": 2, "filters": [numcodecs.AsType("f2", "f4")]},
    "base64": {"zarr_format": 2, "filters": [numcodecs.Base64()], "compressors": None},
    "a checksum, v2": {"zarr_format": 2, "filters": [numcodecs.Fletcher32()], "compressors": numcodecs.LZ4()},
    "a checksum in front": {"zarr_format": 2, "compressors": numcodecs.CRC32()},
    "jenkins": {"zarr_format": 2, "compressors": numcodecs.JenkinsLookup3()},
    "scaled, v3": {
        "filters": [
            {
                "name": "numcodecs.fixedscaleoffset",
                "configuration": {"offset": 1.0, "scale": 1000.0, "dtype": "f4", "astype": "i2"},
            }
        ]
    },
    "delta, v3": {"dtype": "i4", "filters": [{"name": "numcodecs.delta", "configuration": {"dtype": "i4"}}]},
    "shuffle, v3": {"compressors": [{"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}, ZstdCodec()]},
    "bz2, v3": {"compressors": [{"name": "numcodecs.bz2", "configuration": {"level": 1}}]},
    "lzma, v3": {"compressors": [{"name": "numcodecs.lzma", "configuration": {}}]},
    "crc32, v3": {"compressors": [{"name": "numcodecs.crc32", "configuration": {}}]},
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("chunks", [(10, 12), (10, 5)])
def test_every_chain_of_codecs_is_decoded_as_zarr_decodes_it(
    tmp_path: Path, name: str, chunks: tuple[int, int]
) -> None:
    settings = {"shape": SHAPE, "dtype": "f4", "chunks": chunks} | CHAINS[name]
    array = zarr.create_array(tmp_path / "a.zarr", **settings)
    array[:] = (10 * _rows("float32")).astype(settings["dtype"])
    source = ZarrSource(tmp_path / "a.zarr")
    for start, stop in RANGES:
        found = source.read(start, stop)
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, np.asarray(array[start:stop]))


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ({"id": "packbits"}, "packbits"),
        ({"id": "astype", "encode_dtype": "S1000", "decode_dtype": "<f4"}, "astype"),
    ],
)
def test_a_codec_that_cannot_be_held_to_a_size_is_refused(tmp_path: Path, codec: dict[str, Any], name: str) -> None:
    path, _ = _write(tmp_path, "v2")
    metadata = json.loads((path / ".zarray").read_bytes())
    (path / ".zarray").write_text(json.dumps(metadata | {"filters": [codec]}))
    with pytest.raises(SourceFormatError, match=rf"codec '{name}'.* not read here"):
        ZarrSource(path)


@pytest.mark.parametrize("chunk_shape", [(5, 4), (20, 12)])
def test_a_packed_shard_index_is_refused(tmp_path: Path, chunk_shape: tuple[int, int]) -> None:
    path = tmp_path / "a.zarr"
    _array(path, chunks=(20, 12), serializer=ShardingCodec(chunk_shape=chunk_shape), compressors=None)
    metadata = json.loads((path / "zarr.json").read_bytes())  # by hand: no zarr writes such, and 3.4 opens none
    metadata["codecs"][0]["configuration"]["index_codecs"].append({"name": "zstd", "configuration": {"level": 0}})
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(SourceFormatError, match=r"a\.zarr"):
        ZarrSource(path)


INNER = ShardingCodec(chunk_shape=(5, 4), codecs=[BytesCodec()])
WRAPPED: dict[str, dict[str, Any]] = {
    "behind a transpose": {"filters": TransposeCodec(order=(1, 0)), "serializer": INNER, "compressors": None},
    "inside a checksum": {"serializer": INNER, "compressors": Crc32cCodec()},
    "inside shards": {"serializer": ShardingCodec(chunk_shape=(10, 4), codecs=[INNER]), "compressors": None},
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_shards_whose_missing_chunks_would_not_be_seen_are_refused(tmp_path: Path, name: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="f4", chunks=(20, 12), **WRAPPED[name])
    with pytest.raises(SourceFormatError, match="shards inside"):
        ZarrSource(tmp_path / "a.zarr")


class TurnedOver(LocalStore):
    """A store that holds something else than its files say."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return every byte of a chunk turned over."""
        found = await super().get(key, prototype, byte_range)
        if found is None or not key.startswith("c/"):
            return found
        return prototype.buffer.from_bytes(bytes(255 - byte for byte in found.to_bytes()))


def test_a_store_of_a_class_of_its_own_is_asked_for_every_chunk(tmp_path: Path) -> None:
    rows = _rows("uint16")
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, chunks=(10, 12), dtype="uint16", compressors=None)[:] = rows
    source = ZarrSource(zarr.open_array(TurnedOver(tmp_path / "a.zarr", read_only=True)))
    np.testing.assert_array_equal(source.read(0, 103), ~rows)


class HangsUp(LocalStore):
    """A store that gives indices of shards, and none of their chunks."""

    error: OSError

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Fail where a range is asked for by its start."""
        if isinstance(byte_range, RangeByteRequest):
            raise self.error
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize(
    "error, kind", [(PermissionError(13, "no"), SourcePermissionError), (OSError("hung up"), StorageError)]
)
def test_a_failure_inside_a_shard_is_an_error_of_the_source(tmp_path: Path, error: OSError, kind: Any) -> None:
    path, _ = _write(tmp_path, "v3-sharded")
    store = HangsUp(path, read_only=True)
    store.error = error
    source = ZarrSource(zarr.open_array(store))
    with pytest.raises(kind, match=r"c/0/[01]"):  # of two that are read at once
        source.read(0, 5)


def test_of_a_shard_in_a_store_the_index_and_the_chunks_wanted_are_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = _write(tmp_path, "v3-sharded-blosc")
    source = ZarrSource(path)
    source._reader._values = StoreValues(source._store, source._grid.index)
    asked: list[Any] = []
    get = AuditingStore.get

    async def noting(self: AuditingStore, key: str, prototype: Any, byte_range: Any = None) -> Any:
        asked.append((key, byte_range))
        return await get(self, key, prototype, byte_range)

    monkeypatch.setattr(AuditingStore, "get", noting)
    np.testing.assert_array_equal(source.read(5, 10), rows[5:10])
    index, parts = SuffixByteRequest, RangeByteRequest
    kinds = [(key, type(byte_range)) for key, byte_range in asked]
    assert kinds[:2] == [("c/0/0", index), ("c/0/1", index)]
    assert {*kinds[2:]} == {("c/0/0", parts), ("c/0/1", parts)} and len(kinds) <= 5  # chunks that touch: one request


@pytest.mark.parametrize("name", ["gzip", "gzip, v2", "zlib, v2"])
@pytest.mark.parametrize("tail", [b"garbage!", gzip.compress(b"more", mtime=0), zlib.compress(b"more")])
def test_what_follows_a_deflated_chunk_is_taken_as_zarr_takes_it(tmp_path: Path, name: str, tail: bytes) -> None:
    _array(tmp_path / "a.zarr", chunks=(10, 12), **CODECS[name])
    path = tmp_path / "a.zarr" / ("c/1/0" if (tmp_path / "a.zarr/c").exists() else "1.0")
    path.write_bytes(path.read_bytes() + tail)
    try:
        found = ZarrSource(tmp_path / "a.zarr").read(10, 20).tobytes()
    except CorruptChunkError:
        found = b"refused"
    try:
        expected = np.asarray(zarr.open_array(tmp_path / "a.zarr", mode="r")[10:20]).tobytes()
    except (OSError, ValueError):
        expected = b"refused"
    assert found == expected


@pytest.mark.parametrize("layout", ["v2-columns", "v3-sharded"])
def test_a_missing_chunk_leaves_its_neighbours_to_be_read(tmp_path: Path, layout: str) -> None:
    path, rows = _write(tmp_path, layout)
    (path / ("3.1" if layout == "v2-columns" else "c/1/1")).unlink()
    source = ZarrSource(path)
    found = source.read(0, 103)
    gap = np.s_[30:40, 5:10] if layout == "v2-columns" else np.s_[20:40, 8:]
    expected = rows.copy()
    expected[gap] = 0
    np.testing.assert_array_equal(found, expected)
    assert source.missing(0, 103) == [(gap[0].start, gap[0].stop)]


CODECS: dict[str, dict[str, Any]] = {
    "nothing": {"compressors": None},
    "crc32c": {"compressors": Crc32cCodec()},
    "zstd": {"compressors": ZstdCodec()},
    "zstd, checksum": {"compressors": ZstdCodec(checksum=True)},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "blosc": {"compressors": BloscCodec(cname="lz4")},
    "gzip": {"compressors": GzipCodec()},
    "nothing, v2": {"zarr_format": 2, "compressors": None},
    "zstd, v2": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "blosc, v2": {"zarr_format": 2, "compressors": numcodecs.Blosc(cname="zstd")},
    "zlib, v2": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "gzip, v2": {"zarr_format": 2, "compressors": numcodecs.GZip()},
}


@pytest.mark.parametrize("name", CODECS)
def test_chunks_of_every_codec_come_back_and_those_of_another_size_are_refused(tmp_path: Path, name: str) -> None:
    path, larger = tmp_path / "a.zarr", tmp_path / "larger.zarr"
    rows = _array(path, chunks=(10, 12), **CODECS[name])
    source = ZarrSource(path)
    for start, stop in RANGES:
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
    for chunk_rows in (9, 20):
        _array(larger, chunks=(chunk_rows, 12), overwrite=True, **CODECS[name])
        for key in ("c/1/0", "1.0"):
            if (path / key).exists():
                (path / key).write_bytes((larger / key).read_bytes())
        with pytest.raises(CorruptChunkError, match=r"1[/.]0"):
            ZarrSource(path).read(0, 103)


@pytest.mark.parametrize("settings", [{}, {"shards": (40, 12)}])
def test_rows_of_chunks_without_a_codec_are_read_alone(tmp_path: Path, way: str, settings: dict[str, Any]) -> None:
    rows = _array(tmp_path / "a.zarr", chunks=(20, 12), compressors=None, **settings)
    source = ZarrSource(tmp_path / "a.zarr")
    for start, stop in RANGES:
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
    if way == "folder":
        assert source.bounds(3, 6) == range(4, 6)
        assert source.read_memory(2) < source.read_memory(20) / 2 + 200
    else:
        assert list(source.bounds(3, 60)) == [20, 40]


def test_rows_are_read_into_any_array(tmp_path: Path) -> None:
    path, rows = _write(tmp_path)
    out = np.zeros((10, 24), "f4")[:, ::2]
    ZarrSource(path).read(10, 20, out)
    np.testing.assert_array_equal(out, rows[10:20])


@pytest.mark.parametrize("n_bytes", [480, 456, 504])
def test_a_zstd_stream_without_its_size_is_read_when_it_has_the_right_one(tmp_path: Path, n_bytes: int) -> None:
    rows = _array(tmp_path / "a.zarr", chunks=(10, 12), compressors=ZstdCodec())
    content = rows[10:20].tobytes().ljust(n_bytes, b"\0")[:n_bytes]
    # One raw block behind a header that names a window of 2 MiB and no size.
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    (tmp_path / "a.zarr/c/1/0").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + block)
    if n_bytes == 480:
        np.testing.assert_array_equal(ZarrSource(tmp_path / "a.zarr").read(0, 103), rows)
    else:
        with pytest.raises(CorruptChunkError, match="c/1/0"):
            ZarrSource(tmp_path / "a.zarr").read(0, 103)


def test_a_flipped_bit_in_a_shard_index_is_found_by_its_checksum(tmp_path: Path) -> None:
    rows = _array(tmp_path / "a.zarr", chunks=(5, 12), shards=(20, 12), compressors=None)
    path = tmp_path / "a.zarr/c/0/0"
    np.testing.assert_array_equal(ZarrSource(tmp_path / "a.zarr").read(0, 20), rows[:20])

    def swap(content: bytearray) -> None:  # two chunks of the same length, so that nothing but the checksum can tell
        content[-68:-52], content[-52:-36] = content[-52:-36], content[-68:-52]

    _edit(path, swap)
    with pytest.raises(CorruptChunkError, match="c/0/0"):
        ZarrSource(tmp_path / "a.zarr").read(0, 20)


def _rows(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    held = "uint16" if dtype == "bfloat16" else dtype
    if np.dtype(held).kind == "f":
        return rng.standard_normal(SHAPE).astype(held)
    return rng.integers(1, 100, SHAPE).astype(held)


def _write(
    folder: Path, layout: str = "v3", dtype: str = "float32", *, is_big: bool = False
) -> tuple[Path, np.ndarray]:
    rows = _rows(dtype)
    path = folder / f"{layout}.zarr"
    attributes = {"dtype": "bfloat16"} if dtype == "bfloat16" else {}
    stored = rows.dtype.newbyteorder(">") if is_big else rows.dtype
    array = zarr.create_array(path, shape=SHAPE, dtype=stored, attributes=attributes, **LAYOUTS[layout])
    array[...] = rows
    return path, rows


def _array(path: Path, **settings: Any) -> np.ndarray:
    rows = _rows("float32")
    zarr.create_array(path, shape=SHAPE, dtype="float32", **settings)[...] = rows
    return rows


def _edit(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _check_reads(source: Source, rows: np.ndarray) -> None:
    assert isinstance(source, Source)
    assert source.shape == SHAPE
    for start, stop in RANGES:
        out = np.empty((stop - start, SHAPE[1]), source.stored.dtype)
        for found in (source.read(start, stop), source.read(start, stop, out)):
            assert found.dtype == rows.dtype and found.dtype.isnative and found.flags.c_contiguous
            assert found.tobytes() == np.ascontiguousarray(rows[start:stop]).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_rows_come_back_bit_for_bit(tmp_path: Path, layout: str, dtype: str) -> None:
    path, rows = _write(tmp_path, layout, dtype)
    source = ZarrSource(str(path))
    assert source.stored.name == dtype
    _check_reads(source, rows)
    source.fingerprint(0, 103)
    assert source.chunks_missing == 0 and source.first_missing is None and source.missing(0, 103) == []


@pytest.mark.parametrize("layout", ["v2", "v2-columns", "v2-fortran"])
def test_zarr_big_endian_rows_come_back_in_native_order(tmp_path: Path, layout: str) -> None:
    path, rows = _write(tmp_path, layout, "float32", is_big=True)
    assert json.loads((path / ".zarray").read_bytes())["dtype"] == ">f4"
    _check_reads(ZarrSource(path), rows)


@pytest.mark.parametrize("dtype", [">f2", "<f4", ">f4", "<f8", ">i4", "|i1", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_rows_come_back_bit_for_bit(tmp_path: Path, dtype: str, order: Any) -> None:
    rows = (np.random.default_rng(3).standard_normal(SHAPE) * 20).astype(np.dtype(dtype).newbyteorder("="))
    np.save(tmp_path / "a.npy", np.asarray(rows.astype(dtype), order=order))
    source = open_source(tmp_path / "a.npy")
    assert isinstance(source, NpySource)
    _check_reads(source, rows)


def test_npy_fortran_reads_more_columns_than_its_buffer_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankme_stream.sources.dense.dense_rows._BUFFER_BYTES", 2000)
    rows = _rows("float32")
    np.save(tmp_path / "a.npy", np.asfortranarray(rows))
    _check_reads(NpySource(tmp_path / "a.npy"), rows)


@pytest.mark.parametrize("kind", ["plain", "fortran", "big", "strided", "reversed"])
def test_memory_rows_come_back_bit_for_bit(kind: str) -> None:
    rows = _rows("float32")
    wide = np.repeat(rows, 2, axis=1)
    held = {
        "plain": rows,
        "fortran": np.asfortranarray(rows),
        "big": rows.astype(">f4"),
        "strided": wide[:, ::2],
        "reversed": rows[::-1].copy()[::-1],
    }[kind]
    source = open_source(held)
    assert (source.read_memory(10) == 0) == (kind == "plain")
    _check_reads(source, rows)
    assert source.fingerprint(0, 103).startswith("memory-")
    assert held.flags.writeable


def test_memory_bfloat16_is_held_as_bit_patterns() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = _rows("float32").astype(ml_dtypes.bfloat16)
    source = ArraySource(rows)
    assert source.stored.name == "bfloat16"
    assert source.read(3, 9).tobytes() == rows[3:9].tobytes()


def test_a_source_is_opened_as_itself_and_a_zarr_array_as_its_rows(tmp_path: Path) -> None:
    path, rows = _write(tmp_path, "v3-sharded")
    source = open_source(zarr.open_array(path))
    _check_reads(source, rows)
    assert open_source(source) is source


def test_a_memory_store_is_read_and_its_missing_chunks_are_found() -> None:
    array = zarr.create_array({}, shape=SHAPE, dtype="float32", chunks=(10, 5))
    array[:95] = _rows("float32")[:95]
    source = open_source(array)
    before = source.fingerprint(0, 103)
    assert source.missing(0, 103) == [(100, 103)] and source.chunks_missing == 3
    assert source.read(0, 95).tobytes() == _rows("float32")[:95].tobytes()
    array[100:] = 1.0
    assert open_source(array).fingerprint(0, 103) != before


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("v3", [40, 50]), ("v3-sharded", [40, 45, 50, 55]), ("v3-larger-than-array", [])],
)
def test_zarr_bounds_are_chunk_rows_strictly_inside(tmp_path: Path, layout: str, expected: list[int]) -> None:
    path, _ = _write(tmp_path, layout)
    assert list(ZarrSource(path).bounds(36, 60)) == expected


def test_memory_and_npy_may_be_cut_anywhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows("float32"))
    for source in (open_source(_rows("float32")), open_source(tmp_path / "a.npy")):
        assert source.bounds(3, 6) == range(4, 6)


def test_read_memory_counts_whole_chunks_that_reach_past_the_array(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, "v3-larger-than-array")
    assert ZarrSource(path).read_memory(3) > 2 * 1000 * 50 * 4


def _with_metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    metadata = json.loads(document.read_bytes())
    change(metadata)
    document.write_text(json.dumps(metadata))


ABSURD: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "chunks": ("v3", lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[2**62, 2**62])),
    "chunks beyond memory": ("v3", lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[2**40, 2**40])),
    "chunks of no rows": ("v3", lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[0, 12])),
    "chunks of no rows, v2": ("v2", lambda m: m.update(chunks=[0, 12])),
    "negative chunks": ("v2", lambda m: m.update(chunks=[-10, 12])),
    "fractional chunks": ("v2", lambda m: m.update(chunks=[10.5, 12])),
    "rows": ("v3", lambda m: m.update(shape=[2**64, 12])),
    "features": ("v2", lambda m: m.update(shape=[103, 10**30])),
    "negative rows": ("v2", lambda m: m.update(shape=[-103, 12])),
    "no rows": ("v3", lambda m: m.update(shape=[0, 12])),
    "inner chunks": ("v3-sharded", lambda m: m["codecs"][0]["configuration"].update(chunk_shape=[5 * 2**50, 2**52])),
    "inner chunks that do not fill": (
        "v3-sharded",
        lambda m: m["codecs"][0]["configuration"].update(chunk_shape=[7, 4]),
    ),
    "chunks of a shard": ("v3-sharded", lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[10**9, 8])),
    "codecs": ("v2", lambda m: m.update(filters=[{"id": "shuffle", "elementsize": 4}] * 1000)),
    "separator": ("v2", lambda m: m.update(dimension_separator="/../")),
    "attributes": ("v3", lambda m: m.update(attributes=[1])),
    "lists in lists": ("v3", lambda m: m.update(attributes={"a": json.loads("[" * 900 + "]" * 900)})),
}


@pytest.mark.filterwarnings("ignore")  # zarr warns of what is then refused
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_metadata_are_refused_at_once(tmp_path: Path, name: str) -> None:
    layout, change = ABSURD[name]
    path, rows = _write(tmp_path, layout)
    _with_metadata(path, change)
    if name == "lists in lists":
        np.testing.assert_array_equal(ZarrSource(path).read(0, 103), rows)
        return
    with pytest.raises(SourceFormatError, match=r"\.zarr") as caught:
        ZarrSource(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["v2", "v2-columns", "v3", "v3-columns", "v3-dots", "v3-v2-keys", "v3-sharded"])
@pytest.mark.parametrize("shape", [(10**12, 12), (10**15, 12), (103, 10**12), (2**40, 2**19)])
def test_a_shape_beyond_all_files_takes_the_time_of_the_files_that_are_there(
    tmp_path: Path, layout: str, shape: tuple[int, int]
) -> None:
    path, _ = _write(tmp_path, layout)
    with_gaps = ZarrSource(path)
    with_gaps.fingerprint(0, 103)
    _with_metadata(path, lambda m: m.update(shape=shape))
    source = ZarrSource(path)
    began = time.monotonic()
    tracemalloc.start()
    source.fingerprint(0, shape[0])
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert time.monotonic() - began < 60  # years, if it looked at every chunk; a busy machine takes its time
    n_rows, n_columns = source._grid.chunk_shape
    n_chunks = -(-shape[0] // n_rows) * -(-shape[1] // n_columns)
    n_present = -(-103 // n_rows) * -(-12 // n_columns)
    if layout == "v3-sharded":  # in whole shards, whose index says that the chunks past the rows are empty
        assert n_chunks - source.chunks_missing == n_present
    else:
        assert source.chunks_missing == n_chunks - n_present
    first = 0 if shape[1] > 12 else -(-103 // n_rows) * n_rows
    assert source.missing(0, shape[0]) == [(first, shape[0])]
    assert source.missing(10**9, 10**9 + 5) == ([] if shape[0] < 10**9 else [(10**9, 10**9 + 5)])


@pytest.mark.parametrize("layout", ["v2-columns", "v3-columns", "v3-dots"])
def test_a_folder_that_lacks_most_chunks_is_listed_to_the_same_end(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = _write(tmp_path, layout)
    keys = [file for file in path.rglob("*") if file.is_file() and "zarr" not in file.name and file.name[0] != "."]
    for file in keys[3:]:
        file.unlink()
    (path / keys[0].name.replace("0", "00")).touch()  # the names of no chunks
    (path / "c.1").touch()
    one_by_one = ZarrSource(path)
    expected = one_by_one.fingerprint(0, 103), one_by_one.missing(0, 103), one_by_one.chunks_missing
    assert expected[2] == 33 - 3
    monkeypatch.setattr(
        "rankme_stream.sources.zarr.grids.folder_scan.is_sparse", lambda n_missing, n_present: n_missing > 0
    )
    listed = ZarrSource(path)
    assert (listed.fingerprint(0, 103), listed.missing(0, 103), listed.chunks_missing) == expected


@pytest.mark.parametrize("layout", ["v2", "v2-columns", "v3", "v3-columns", "v3-dots", "v3-v2-keys"])
def test_a_chunk_missing_at_the_start_is_found_by_the_fingerprint(tmp_path: Path, layout: str) -> None:
    path, _ = _write(tmp_path, layout)
    key = next(p for p in path.rglob("*") if p.is_file() and p.relative_to(path).as_posix() in KEYS[layout])
    key.unlink()
    source = ZarrSource(path)
    source.fingerprint(0, 20)
    assert source.chunks_missing == 0
    source.fingerprint(0, 103)
    assert source.missing(0, 103) == [(30, 40)] and source.missing(35, 37) == [(35, 37)]
    assert source.chunks_missing == 1 and source.first_missing == key.relative_to(path).as_posix()


@pytest.mark.parametrize("layout", ["v2", "v2-columns", "v3", "v3-columns", "v3-dots", "v3-v2-keys"])
def test_a_chunk_deleted_after_opening_is_found_by_reading(tmp_path: Path, layout: str) -> None:
    path, _ = _write(tmp_path, layout)
    source = ZarrSource(path)
    source.fingerprint(0, 103)
    next(path / key for key in KEYS[layout] if (path / key).exists()).unlink()
    source.read(0, 30)
    assert source.chunks_missing == 0
    source.read(30, 50)
    assert source.missing(0, 103) == [(30, 40)] and source.chunks_missing == 1


KEYS = {
    "v2": ["3.0"],
    "v2-columns": ["3.1"],
    "v3": ["c/3/0"],
    "v3-columns": ["c/3/1"],
    "v3-dots": ["c.3.1"],
    "v3-v2-keys": ["3/1"],
}


@pytest.mark.parametrize("layout", ["v3-sharded", "v3-sharded-index-first"])
@pytest.mark.parametrize("way", ["fingerprint", "whole shards", "single rows"])
def test_a_missing_inner_chunk_of_a_shard_is_found(tmp_path: Path, layout: str, way: str) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=SHAPE, dtype="float32", **LAYOUTS[layout])
    rows = _rows("float32")
    array[:25], array[35:] = rows[:25], rows[35:]
    array[25:30, :8] = rows[25:30, :8]
    source = ZarrSource(path)
    if way == "fingerprint":
        source.fingerprint(0, 103)
    else:
        for start in range(0, 103, 103 if way == "whole shards" else 1):
            source.read(start, 103 if way == "whole shards" else start + 1)
    assert source.missing(0, 103) == [(25, 35)]
    assert source.chunks_missing == 1 + 3
    assert source.first_missing == "c/1/1 (inner chunk 1,0)"


def test_a_missing_shard_counts_the_inner_chunks_asked_for(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, "v3-sharded")
    (path / "c/1/0").unlink()
    source = ZarrSource(path)
    source.fingerprint(30, 60)
    assert source.missing(0, 103) == [(30, 40)] and source.chunks_missing == 4
    source.read(30, 35)
    assert source.chunks_missing == 4


@pytest.mark.parametrize("layout", ["v2", "v3", "v3-sharded"])
def test_the_fingerprint_changes_with_the_chunks_and_only_then(tmp_path: Path, layout: str) -> None:
    path, _ = _write(tmp_path, layout)
    source = ZarrSource(path)
    before = source.fingerprint(0, 103)
    assert source.fingerprint(0, 103) == ZarrSource(path).fingerprint(0, 103) == before
    chunk = path / ("3.0" if layout == "v2" else "c/3/0")
    status = chunk.stat()
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    rewritten = source.fingerprint(0, 103)
    assert rewritten != before
    assert source.fingerprint(0, 10) == ZarrSource(path).fingerprint(0, 10)
    chunk.unlink()
    assert source.fingerprint(0, 103) not in (before, rewritten)


def test_the_npy_fingerprint_changes_when_the_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, _rows("float32"))
    source = NpySource(path)
    before = source.fingerprint(0, 103)
    assert source.fingerprint(0, 103) == before
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert source.fingerprint(0, 103) != before


CORRUPTIONS: dict[str, tuple[dict[str, Any], str, Callable[[Path], object]]] = {
    "raw cut": ({"chunks": (10, 12), "compressors": None}, "c/3/0", _cut),
    "raw emptied": ({"chunks": (10, 12), "compressors": None}, "c/3/0", lambda p: p.write_bytes(b"")),
    "zstd cut": ({"chunks": (10, 12), "compressors": ZstdCodec()}, "c/3/0", _cut),
    "blosc cut": ({"chunks": (10, 12), "compressors": BloscCodec()}, "c/3/0", _cut),
    "blosc emptied": ({"chunks": (10, 12), "compressors": BloscCodec()}, "c/3/0", lambda p: p.write_bytes(b"")),
    "blosc says a negative size": (
        {"chunks": (10, 12), "compressors": BloscCodec()},
        "c/3/0",
        lambda p: _edit(p, lambda b: b.__setitem__(7, 255)),
    ),
    "v2 raw cut": ({"chunks": (10, 12), "compressors": None, "zarr_format": 2}, "3.0", _cut),
    "v2 zstd cut": ({"chunks": (10, 12), "compressors": numcodecs.Zstd(), "zarr_format": 2}, "3.0", _cut),
    "v2 zlib cut": ({"chunks": (10, 12), "compressors": numcodecs.Zlib(), "zarr_format": 2}, "3.0", _cut),
    "v2 blosc cut": ({"chunks": (10, 12), "compressors": numcodecs.Blosc(), "zarr_format": 2}, "3.0", _cut),
    "crc32c flip": (
        {"chunks": (10, 12), "compressors": Crc32cCodec()},
        "c/3/0",
        lambda p: _edit(p, lambda b: b.__setitem__(9, b[9] ^ 1)),
    ),
    "shard index flip": (
        {"chunks": (5, 6), "shards": (10, 12)},
        "c/3/0",
        lambda p: _edit(p, lambda b: b.__setitem__(-20, b[-20] ^ 1)),
    ),
    "shard cut": ({"chunks": (5, 6), "shards": (10, 12)}, "c/3/0", _cut),
    "shard emptied": ({"chunks": (5, 6), "shards": (10, 12)}, "c/3/0", lambda p: p.write_bytes(b"")),
    "blosc shard start lost": (
        {"chunks": (5, 6), "shards": (10, 12), "compressors": BloscCodec()},
        "c/3/0",
        lambda p: _edit(p, lambda b: b.__delitem__(slice(0, 300))),
    ),
}


@pytest.mark.parametrize("step", [103, 1])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_chunk_is_refused_by_key_and_rows(tmp_path: Path, name: str, step: int) -> None:
    settings, key, corrupt = CORRUPTIONS[name]
    rows = _array(tmp_path / "a.zarr", **settings)
    corrupt(tmp_path / "a.zarr" / key)
    source = ZarrSource(tmp_path / "a.zarr")
    source.fingerprint(0, 103)
    assert source.read(0, 30).tobytes() == rows[:30].tobytes()
    with pytest.raises(CorruptChunkError) as caught:  # noqa: PT012 - the bad chunk lies somewhere along the way
        for start in range(0, 103, step):
            source.read(start, min(start + step, 103))
    assert f"chunk {key}" in str(caught.value) and "(rows 3" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "integrity"),
    [
        ({}, "none"),
        ({"compressors": Crc32cCodec()}, "crc32c"),
        ({"compressors": ZstdCodec(checksum=True)}, "zstd"),
        ({"chunks": (5, 6), "shards": (10, 12), "compressors": Crc32cCodec()}, "crc32c"),
        ({"chunks": (5, 6), "shards": (10, 12)}, "none"),
        ({"zarr_format": 2, "compressors": numcodecs.GZip()}, "gzip"),
        ({"zarr_format": 2, "compressors": numcodecs.Zlib()}, "zlib"),
        ({"zarr_format": 2, "compressors": numcodecs.Adler32()}, "adler32"),
        ({"zarr_format": 2, "compressors": numcodecs.Zstd(checksum=True)}, "zstd"),
    ],
)
def test_integrity_names_the_checksum(tmp_path: Path, settings: dict[str, Any], integrity: str) -> None:
    _array(tmp_path / "a.zarr", **settings)
    assert ZarrSource(tmp_path / "a.zarr").integrity == integrity


def test_a_group_is_refused_with_its_arrays_listed(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("embeddings", shape=SHAPE, dtype="f4", chunks=(10, 12))
    group.create_array("deep/labels", shape=(103,), dtype="i8", chunks=(10,))
    with pytest.raises(SourceFormatError) as caught:
        open_source(tmp_path / "a.zarr")
    message = str(caught.value)
    assert "embeddings (103, 12)" in message and "deep/labels (103,)" in message
    assert "a.zarr::embeddings'" in message
    assert open_source(f"{tmp_path / 'a.zarr'}::embeddings").shape == SHAPE
    with pytest.raises(SourceNotFoundError, match="nothing"):
        open_source(f"{tmp_path / 'a.zarr'}::nothing")


@pytest.mark.filterwarnings("ignore")  # zarr warns of what is then refused
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((5,), "f4"), ((5, 4, 3), "f4"), ((0, 4), "f4"), ((4, 0), "f4"), ((4, 3), "bool"), ((4, 3), "c8"), ((4, 3), "U3")],
)
def test_zarr_arrays_without_rows_of_numbers_are_refused(
    tmp_path: Path, version: Any, shape: tuple[int, ...], dtype: str
) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype=dtype, zarr_format=version)
    with pytest.raises(SourceFormatError, match=r"a\.zarr") as caught:
        open_source(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # zarr warns of what is then refused
@pytest.mark.parametrize(
    "damage",
    [
        lambda m: b"{not json",
        lambda m: b"[]",
        lambda m: b"{}",
        lambda m: json.dumps(m | {"codecs": [{"name": "no_such_codec"}]}).encode(),
        lambda m: json.dumps(m | {"data_type": "no_such_type"}).encode(),
        lambda m: json.dumps(m | {"shape": "many"}).encode(),
        lambda m: json.dumps({k: v for k, v in m.items() if k != "chunk_grid"}).encode(),
        lambda m: json.dumps(
            m | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 0]}}}
        ).encode(),
    ],
)
def test_broken_metadata_is_refused(tmp_path: Path, damage: Callable[[Any], bytes]) -> None:
    path, _ = _write(tmp_path, "v3")
    document = path / "zarr.json"
    document.write_bytes(damage(json.loads(document.read_bytes())))
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert isinstance(caught.value, SourceFormatError) and "\n" not in str(caught.value)


def test_an_unknown_v2_compressor_is_refused(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, "v2")
    metadata = json.loads((path / ".zarray").read_bytes())
    (path / ".zarray").write_text(json.dumps(metadata | {"compressor": {"id": "no_such_codec"}}))
    with pytest.raises(SourceFormatError, match="no_such_codec"):
        open_source(path)


@pytest.mark.parametrize("name", ["gone.zarr", "gone.npy", "gone.zarr::a/b"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceNotFoundError, match="gone"):
        open_source(f"{tmp_path}/{name}")


def test_an_empty_folder_holds_no_array(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        open_source(tmp_path)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("rows")
    with pytest.raises(SourceFormatError, match=r"a\.txt"):
        open_source(tmp_path / "a.txt")


def test_a_chunk_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = _write(tmp_path, "v3")
    source = ZarrSource(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SourcePermissionError, match="c/3/0"):
            source.read(30, 40)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(SourcePermissionError):
            source.fingerprint(0, 103)


def test_an_npy_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    np.save(tmp_path / "a.npy", _rows("float32"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourcePermissionError, match=r"a\.npy"):
        NpySource(tmp_path / "a.npy")


def test_a_truncated_npy_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows("float32"))
    _cut(tmp_path / "a.npy")
    with pytest.raises(CorruptChunkError, match=r"5,072 bytes expected, 2,536 found"):
        open_source(tmp_path / "a.npy")


def test_several_arrays_saved_into_one_npy_file_are_refused_with_both_sizes(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        for _ in range(3):
            np.save(file, _rows("float32"))
    with pytest.raises(CorruptChunkError, match=r"5,072 bytes expected, 15,216 found; another array begins there"):
        open_source(tmp_path / "a.npy")
    with open(tmp_path / "labels.npy", "wb") as file:
        for _ in range(2):
            np.save(file, np.arange(10))
    with pytest.raises(CorruptChunkError, match=r"208 bytes expected, 416 found; another array"):
        open_labels(str(tmp_path / "labels.npy"))


def test_bytes_behind_the_array_of_an_npy_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(_rows("float32")))
    with open(tmp_path / "a.npy", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptChunkError, match=r"5,072 bytes expected, 5,073 found; copy or write it again"):
        open_source(tmp_path / "a.npy")


def test_an_npy_file_whose_header_has_room_to_grow_is_read(tmp_path: Path) -> None:
    rows = _rows("float32")
    header = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
    with open(tmp_path / "a.npy", "wb") as file:  # as npy-append-array writes it
        text = repr(header).encode() + b" " * 300
        text += b" " * (-(len(text) + 11) % 64) + b"\n"
        file.write(np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text + rows.tobytes())
    np.testing.assert_array_equal(open_source(tmp_path / "a.npy").read(0, len(rows)), rows)


def test_an_npy_file_cut_after_opening_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows("float32"))
    source = NpySource(tmp_path / "a.npy")
    _cut(tmp_path / "a.npy")
    with pytest.raises(CorruptChunkError, match="rows 90-103"):
        source.read(90, 103)


@pytest.mark.parametrize(
    "held",
    [
        np.array([["a", None]], dtype=object),
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.zeros((0, 2)),
        np.zeros((2, 0)),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), bool),
    ],
)
def test_arrays_without_rows_of_numbers_are_refused(tmp_path: Path, held: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", held)
    with pytest.raises(SourceFormatError):
        open_source(tmp_path / "a.npy")
    with pytest.raises(SourceFormatError):
        open_source(held)


def test_a_file_with_another_magic_is_no_npy(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(SourceFormatError, match=r"is no \.npy file, whatever its name: it begins with b'PK"):
        open_source(tmp_path / "a.npy")


@pytest.mark.parametrize("other", [3, None, [[1.0, 2.0]], b"a.zarr", np.ma.masked_array(np.zeros((2, 2)))])
def test_objects_that_are_no_source_are_refused(other: object) -> None:
    with pytest.raises(SourceFormatError):
        open_source(other)


def test_a_zip_store_is_read(tmp_path: Path) -> None:
    rows = _rows("float32")
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="w") as store:
        zarr.create_array(store, shape=SHAPE, dtype="float32", chunks=(10, 5))[...] = rows
    source = open_source(tmp_path / "a.zarr.zip")
    source.fingerprint(0, 103)
    assert source.chunks_missing == 0
    _check_reads(source, rows)


def test_threads_may_read_one_source(tmp_path: Path) -> None:
    path, rows = _write(tmp_path, "v3-sharded")
    source = ZarrSource(path)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda start: source.read(start, start + 7), range(96)))
    assert all(block.tobytes() == rows[start : start + 7].tobytes() for start, block in enumerate(found))


def _peak(source: ZarrSource, n_rows: int) -> int:
    tracemalloc.start()
    try:
        source.read(0, n_rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_shard_entry_that_is_too_long_takes_no_memory(tmp_path: Path) -> None:
    codecs, index_codecs = [BytesCodec(), ZstdCodec()], [BytesCodec()]
    unchecked = ShardingCodec(chunk_shape=(10, 12), codecs=codecs, index_codecs=index_codecs)
    _array(tmp_path / "a.zarr", chunks=(20, 12), serializer=unchecked, compressors=None)
    with open(tmp_path / "a.zarr/c/0/0", "r+b") as shard:
        index = shard.read()[-32:]
        shard.truncate(30_000_000)
        shard.seek(0, os.SEEK_END)
        shard.write(np.array([0, 25_000_000], "<u8").tobytes() + index[16:])
    source = ZarrSource(tmp_path / "a.zarr")
    tracemalloc.start()
    with pytest.raises(CorruptChunkError, match=r"c/0/0 .*25,000,000"):
        source.read(0, 20)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_chunk_for_which_there_is_no_memory_is_no_damaged_chunk(tmp_path: Path) -> None:
    _array(tmp_path / "a.zarr", chunks=(200, 20))
    change = {"chunk_shape": [2**29, 2**29]}
    _with_metadata(tmp_path / "a.zarr", lambda m: m["chunk_grid"]["configuration"].update(change))
    with pytest.raises(LimitError, match=r"c/0/0 .* takes 1,152,921,504,606,846,976 bytes"):
        ZarrSource(tmp_path / "a.zarr").read(0, 103)


@pytest.mark.parametrize("settings", [{}, {"shards": (1000, 512)}])
def test_a_missing_chunk_leaves_memory_within_the_prediction(tmp_path: Path, settings: dict[str, Any]) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(1000, 4096), chunks=(1000, 256), dtype="f4", **settings)
    array[...] = np.random.default_rng(0).standard_normal(array.shape).astype("f4")
    expected = array[...]
    (tmp_path / "a.zarr/c/0/3").unlink()
    width = settings["shards"][1] if settings else 256
    expected[:, 3 * width : 4 * width] = 0
    source = ZarrSource(tmp_path / "a.zarr")
    np.testing.assert_array_equal(source.read(0, 1000), expected)
    assert source.missing(0, 1000) == [(0, 1000)]
    assert max(_peak(source, 1000) for _ in range(5)) <= source.read_memory(1000)


@pytest.mark.parametrize("layout", ["v2", "v2-columns", "v3-columns", "v3-gzip", "v3-sharded-blosc", "v3-big-endian"])
def test_reads_stay_within_the_memory_predicted(tmp_path: Path, layout: str) -> None:
    settings = (
        LAYOUTS[layout] | {"chunks": (1000, 64)} | ({"shards": (4000, 128)} if "shards" in LAYOUTS[layout] else {})
    )
    array = zarr.create_array(tmp_path / "a.zarr", shape=(12_000, 256), dtype="float32", **settings)
    array[...] = np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
    source = ZarrSource(tmp_path / "a.zarr")
    source.read(0, 1000)
    for n_rows in (1000, 4000, 12_000):
        assert n_rows * 1024 <= _peak(source, n_rows) <= source.read_memory(n_rows)


PACKED: dict[str, dict[str, Any]] = {
    "zstd": {},
    "gzip": {"compressors": GzipCodec()},
    "gzip, v2": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "big-endian": {"serializer": BytesCodec(endian="big"), "compressors": None},
    "big-endian, zstd": {"serializer": BytesCodec(endian="big")},
    "big-endian, gzip": {"serializer": BytesCodec(endian="big"), "compressors": GzipCodec()},
    "big-endian, v2": {"zarr_format": 2, "dtype": ">u4"},
    "big-endian in shards": {
        "serializer": ShardingCodec(chunk_shape=(1000, 256), codecs=[BytesCodec(endian="big"), ZstdCodec()]),
        "compressors": None,
    },
}


@pytest.mark.parametrize("name", PACKED)
def test_the_memory_of_one_chunk_is_foretold(tmp_path: Path, way: str, name: str) -> None:
    settings = {"shape": (1000, 256), "dtype": "uint32", "chunks": (1000, 256)} | PACKED[name]
    array = zarr.create_array(tmp_path / "a.zarr", **settings)
    array[...] = np.random.default_rng(0).integers(0, 2**32, array.shape, np.uint32)  # which nothing packs
    source = ZarrSource(tmp_path / "a.zarr")
    source.read(0, 1000)
    fresh = ZarrSource(tmp_path / "a.zarr")  # whose buffers are not there yet
    peak = _peak(fresh, 1000)
    assert peak <= source.read_memory(1000)
    assert source.read_memory(1000) < peak + (3 if way == "store" else 2) * 1000 * 256 * 4


def test_arrays_of_a_group_are_named_in_order(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name in ("zeta", "alpha", "mid/beta"):
        group.create_array(name, shape=(4, 2), dtype="f4")
    with pytest.raises(SourceFormatError, match=r"alpha .*mid/beta .*zeta .*use e\.g\. '.*::alpha'"):
        open_source(tmp_path / "g.zarr")
