"""Codecs of numbers, of zarr and of numcodecs, give what zarr reads, or are refused in one line that names them."""

from __future__ import annotations

import json
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec

from rankme_stream.errors import CorruptChunkError, SourceFormatError
from rankme_stream.sources.zarr import ZarrSource
from rankme_stream.sources.zarr.codecs import unpack

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3"),
    pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec"),
]
SHAPE = (103, 12)
LITTLE, BIG = BytesCodec(endian="little"), BytesCodec(endian="big")


def v3(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


needs_offset = pytest.mark.skipif(not hasattr(zarr.codecs, "ScaleOffset"), reason="zarr >= 3.2")
needs_cast = pytest.mark.skipif(
    not hasattr(zarr.codecs, "CastValue") or find_spec("cast_value_rs") is None, reason="zarr >= 3.2, cast-value-rs"
)
needs_pcodec = pytest.mark.skipif(find_spec("pcodec") is None, reason="pcodec")

OFFSET = v3("scale_offset", offset=1.5, scale=4.0)
INT8 = v3(
    "cast_value",
    data_type="int8",
    out_of_range="clamp",
    scalar_map={"encode": [["NaN", -128]], "decode": [[-128, "NaN"]]},
)
PCODEC = v3("numcodecs.pcodec", level=8, mode_spec="auto", delta_spec="auto", paging_spec="equal_pages_up_to")
# Dtype, fill value and codecs of chunks.
CHAINS: dict[str, Any] = {
    "scaled float32": pytest.param("f4", 0.5, [OFFSET, LITTLE, ZstdCodec()], marks=needs_offset),
    "scaled float16": pytest.param("f2", -1, [OFFSET, BIG], marks=needs_offset),
    "scaled float64, hex": pytest.param(
        "f8", 0, [v3("scale_offset", offset="0x3ff8000000000000"), LITTLE], marks=needs_offset
    ),
    "scaled int16": pytest.param("i2", 7, [v3("scale_offset", offset=-5, scale=3), LITTLE], marks=needs_offset),
    "scaled uint64": pytest.param("u8", 9, [v3("scale_offset", scale=5), BIG], marks=needs_offset),
    "scaled twice, transposed": pytest.param(
        "f4", 0, [OFFSET, TransposeCodec(order=(1, 0)), OFFSET, LITTLE, Crc32cCodec()], marks=needs_offset
    ),
    "float32 as float16": pytest.param("f4", 0, [v3("cast_value", data_type="float16"), BIG], marks=needs_cast),
    "float16 as float32": pytest.param("f2", 0, [v3("cast_value", data_type="float32"), LITTLE], marks=needs_cast),
    "float32 as int8": pytest.param("f4", float("nan"), [INT8, LITTLE, ZstdCodec()], marks=needs_cast),
    "int8 as float32": pytest.param("i1", 3, [v3("cast_value", data_type="float32"), LITTLE], marks=needs_cast),
    "uint16, as bfloat16 is kept, as int32": pytest.param(
        "u2", 0x3F80, [v3("cast_value", data_type="int32"), BIG], marks=needs_cast
    ),
    "scaled and cast, towards zero": pytest.param(
        "f8",
        2,
        [
            TransposeCodec(order=(1, 0)),
            v3("scale_offset", offset=-1, scale=100),
            v3("cast_value", data_type="int16", rounding="towards-zero", out_of_range="wrap"),
            BIG,
        ],
        marks=needs_cast,
    ),
    "fixedscaleoffset, then cast": pytest.param(
        "f4",
        0,
        [
            v3("numcodecs.fixedscaleoffset", offset=1, scale=50, dtype="f4", astype="i2"),
            v3("cast_value", data_type="int32"),
            LITTLE,
        ],
        marks=needs_cast,
    ),
    "pcodec": pytest.param("f4", 1, [PCODEC], marks=needs_pcodec),
    "pcodec of float16, zstd": pytest.param("f2", 1, [PCODEC, ZstdCodec()], marks=needs_pcodec),
    "pcodec of int64 in tiny pages": pytest.param(
        "i8", 0, [v3("numcodecs.pcodec", level=2, equal_pages_up_to=3)], marks=needs_pcodec
    ),
    "pcodec of scaled": pytest.param(
        "f4",
        0,
        [v3("numcodecs.fixedscaleoffset", offset=1, scale=50, dtype="f4", astype="i2"), PCODEC],
        marks=needs_pcodec,
    ),
    "delta": pytest.param("i4", 5, [v3("numcodecs.delta", dtype="i4", astype="i2"), LITTLE, ZstdCodec()]),
    "astype": pytest.param("f4", 5, [v3("numcodecs.astype", encode_dtype="f2", decode_dtype="f4"), LITTLE]),
    "quantize": pytest.param("f8", 5, [v3("numcodecs.quantize", digits=2, dtype="f8"), LITTLE]),
    "bitround": pytest.param("f4", 5, [v3("numcodecs.bitround", keepbits=5), BIG]),
    "fixedscaleoffset": pytest.param(
        "f4", 5, [v3("numcodecs.fixedscaleoffset", offset=1, scale=50, dtype="f4", astype="u1"), LITTLE]
    ),
}
LAYOUTS = [pytest.param(*chain.values, id=name, marks=chain.marks) for name, chain in CHAINS.items()]


def _values(dtype: str) -> Any:
    values = np.random.default_rng(1).integers(2, 100, SHAPE)
    return (values / 4 if np.dtype(dtype).kind == "f" else values).astype(dtype)


def _create(path: Path, dtype: str, fill: float, codecs: list[Any], *, is_sharded: bool) -> zarr.Array[Any]:
    """Return an array that lacks a chunk; its codecs are exactly these."""
    is_filter = [isinstance(one, TransposeCodec) or _name(one) in _FILTERS for one in codecs]
    n_filters = is_filter.index(False)
    chain: dict[str, Any] = {"chunks": (10, 12), "filters": codecs[:n_filters], "serializer": codecs[n_filters]}
    chain["compressors"] = codecs[n_filters + 1 :] or None
    if is_sharded:
        chain = {"chunks": (20, 12), "serializer": ShardingCodec(chunk_shape=(5, 4), codecs=codecs)}
        chain["compressors"] = None
    array = zarr.create_array(path, shape=SHAPE, dtype=dtype, fill_value=fill, **chain)
    array[:20], array[40:] = _values(dtype)[:20], _values(dtype)[40:]
    return array


def _name(codec: Any) -> str:
    return str(codec["name"]) if isinstance(codec, dict) else ""


_NUMCODECS = ("delta", "astype", "quantize", "bitround", "fixedscaleoffset")
_FILTERS = ("scale_offset", "cast_value", *(f"numcodecs.{name}" for name in _NUMCODECS))


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize(("dtype", "fill", "codecs"), LAYOUTS)
def test_numbers_are_what_zarr_reads(
    tmp_path: Path, dtype: str, fill: float, codecs: list[Any], is_sharded: bool
) -> None:
    array = _create(tmp_path / "a.zarr", dtype, fill, codecs, is_sharded=is_sharded)
    for opened in (tmp_path / "a.zarr", array):
        source = ZarrSource(opened)
        for start, stop in ((0, 103), (7, 48), (20, 40), (99, 103)):
            found = source.read(start, stop)
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found, np.asarray(array[start:stop]))
        assert source.missing(0, 103) == [(20, 40)]
        assert source.integrity == ("crc32c" if any(isinstance(one, Crc32cCodec) for one in codecs) else "none")


@pytest.mark.parametrize(("dtype", "fill", "codecs"), LAYOUTS)
def test_a_chunk_of_another_size_is_refused(tmp_path: Path, dtype: str, fill: float, codecs: list[Any]) -> None:
    _create(tmp_path / "a.zarr", dtype, fill, codecs, is_sharded=False)
    chunk = tmp_path / "a.zarr/c/1/0"
    is_filter = [isinstance(one, TransposeCodec) or _name(one) in _FILTERS for one in codecs]
    n = is_filter.index(False)
    for n_rows in (9, 11):
        other = zarr.create_array(
            tmp_path / f"{n_rows}.zarr", shape=(2 * n_rows, 12), dtype=dtype, fill_value=fill, chunks=(n_rows, 12),
            filters=codecs[:n], serializer=codecs[n], compressors=codecs[n + 1 :] or None,
        )  # fmt: skip
        other[:] = _values(dtype)[: 2 * n_rows]
        chunk.write_bytes((tmp_path / f"{n_rows}.zarr/c/1/0").read_bytes())
        with pytest.raises(CorruptChunkError, match=r"c/1/0 .*\(rows 10-20\)"):
            ZarrSource(tmp_path / "a.zarr").read(0, 103)


@pytest.mark.parametrize(("dtype", "fill", "codecs"), LAYOUTS)
def test_reading_takes_no_more_memory_than_foretold(tmp_path: Path, dtype: str, fill: float, codecs: list[Any]) -> None:
    path = tmp_path / "a.zarr"
    _create(path, dtype, fill, codecs, is_sharded=False)
    metadata = json.loads((path / "zarr.json").read_bytes())
    shape = (20_000, 12)
    metadata |= {"shape": shape, "chunk_grid": v3("regular", chunk_shape=shape)}
    (path / "zarr.json").write_text(json.dumps(metadata))
    (path / "c/0/0").unlink()
    values = np.resize(_values(dtype), shape)
    zarr.open_array(path, mode="r+")[:] = values
    source = ZarrSource(path)
    source.read(0, 1)
    source = ZarrSource(path)
    tracemalloc.start()
    source.read(0, shape[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= source.read_memory(shape[0]) + 2**17


@needs_pcodec
@pytest.mark.parametrize("settings", [{"compressors": True}, {"filters": True}, {"compressors": True, "order": "F"}])
def test_pcodec_of_zarr_v2_is_what_zarr_reads(tmp_path: Path, settings: dict[str, Any]) -> None:
    from numcodecs.pcodec import PCodec

    codecs = {name: PCodec() if name == "compressors" else [PCodec()] for name in settings if name != "order"}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=SHAPE, chunks=(10, 5), dtype="f4", zarr_format=2, fill_value=3,
        order=settings.get("order", "C"), **codecs,
    )  # fmt: skip
    array[:30], array[60:] = _values("f4")[:30], _values("f4")[60:]
    np.testing.assert_array_equal(ZarrSource(tmp_path / "a.zarr").read(0, 103), array[:])


def test_a_shuffle_of_zarr_v2_without_its_size_is_what_zarr_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        path, shape=SHAPE, chunks=(10, 12), dtype="f8", zarr_format=2, filters=[numcodecs.Shuffle(4)]
    )
    array[:] = _values("f8")
    metadata = json.loads((path / ".zarray").read_bytes())
    del metadata["filters"][0]["elementsize"]
    (path / ".zarray").write_text(json.dumps(metadata))
    np.testing.assert_array_equal(ZarrSource(path).read(0, 103), array[:])


def test_a_release_of_pcodec_whose_memory_has_no_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "version", lambda name: "0.4.1")
    with pytest.raises(ImportError, match="pip install 'pcodec>=1'"):
        unpack.pcodec({}, np.dtype("f4"))


@pytest.mark.parametrize(
    ("codec", "remedy"),
    [
        pytest.param("numcodecs.zfpy", "write it again with zstd"),
        pytest.param("somebodys", "write it again with zstd"),
        pytest.param(
            "numcodecs.pcodec",
            "pip install 'pcodec>=1'",
            marks=pytest.mark.skipif(find_spec("pcodec") is not None, reason="it is installed"),
        ),
        pytest.param(
            "scale_offset",
            "pip install 'zarr>=3.2'",
            marks=pytest.mark.skipif(hasattr(zarr.codecs, "ScaleOffset"), reason="zarr has it"),
        ),
        pytest.param(
            "cast_value",
            "pip install 'zarr>=3.2' 'cast-value-rs",
            marks=pytest.mark.skipif(find_spec("cast_value_rs") is not None, reason="it is installed"),
        ),
    ],
)
@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_codec_that_cannot_be_read_is_named_with_a_remedy(
    tmp_path: Path, codec: str, remedy: str, is_sharded: bool
) -> None:
    path = tmp_path / "a.zarr"
    settings: dict[str, Any] = {"shards": (20, 12)} if is_sharded else {}
    zarr.create_array(path, shape=SHAPE, chunks=(10, 12), dtype="f4", compressors=None, **settings)
    metadata = json.loads((path / "zarr.json").read_bytes())
    codecs = metadata["codecs"][0]["configuration"]["codecs"] if is_sharded else metadata["codecs"]
    new = v3(codec, data_type="float16") if codec == "cast_value" else v3(codec)
    codecs[:] = [new] if codec.startswith("numcodecs.") else [new, codecs[0]]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(SourceFormatError, match=rf"codec.*{codec.removeprefix('numcodecs.')}.*{remedy}") as error:
        ZarrSource(path)
    assert "\n" not in str(error.value)
