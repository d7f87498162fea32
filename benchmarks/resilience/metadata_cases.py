"""Small stores whose metadata are changed at random, and what measuring each of them comes to.

``python -m benchmarks.resilience.metadata_cases FOLDER FIRST STOP`` judges cases one after another: a line before each,
with its number, and a line after it, with what it came to as JSON.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec

import rankme_stream as rs
from benchmarks.harness import processes
from rankme_stream.sources.scaled_rows import ScaledRows

LONGEST_S = 10
MEMORY_LIMIT = 300 * 2**20
MEMORY_SLACK = 50 * 2**20
SHAPE = (120, 4)
_VALUES: tuple[Any, ...] = (
    0, 1, 2, 3, 4, 7, 20, 120, -1, 2**15, 2**31, 2**32, 2**53, 2**63, 2**64, 10**12, 10**30, -(2**63), 0.5, 4.0, -0.0,
    1e308, True, False, None, "", "x", "f4", "<f8", ">f8", "float64", "uint16", "bfloat16", "NaN", "Infinity",
    "0x7fc00000", "zstd", "gzip", "big", "little", "F", "C", "/", ".", "::", "\x00", "\ud800", "a" * 5000, [], [[]], {},
    [1], [4, 120], [10**12, 4], [120, 10**9], [0, 4], [1, 1], [20], [20, 4, 1], {"name": "bytes"}, {"id": "zlib"},
    "true", "false", "int8", "bf16", "float8_e5m2", "linear", "+inf", "AAAAAICHw8A=", -128, -9999.0, [-127, 127],
    [1e20, -128], {"type": "scalar", "scale": 0.5}, {"type": "array", "array_name": "scales"},
    {"id": "pickle"}, {"name": "gzip", "configuration": {"level": 1}}, {"id": "lzma", "filters": [{"id": 33}]},
)  # fmt: skip
_V2: dict[str, Any] = {"zarr_format": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v3, two columns of chunks": {"chunks": (20, 2), "compressors": [GzipCodec(), Crc32cCodec()]},
    "v3, transposed and big-endian": {"filters": TransposeCodec(order=(1, 0)), "serializer": BytesCodec(endian="big")},
    "v3, shards": {"shards": (40, 4), "chunks": (10, 2), "compressors": BloscCodec()},
    "v2": _V2,
    "v2, Fortran order and filters": _V2 | {"order": "F", "filters": [numcodecs.Delta("f4"), numcodecs.Shuffle(4)]},
    "v2, checksum": _V2 | {"dtype": ">f4", "filters": [numcodecs.Fletcher32()], "compressors": numcodecs.Zlib()},
}
NPY = ".npy, header"
CONSOLIDATED = "group, consolidated"
PACKED = {"v3, packed": 3, "v2, packed": 2}
QUANTISED = "group, quantised"
TEMPLATES = (*LAYOUTS, CONSOLIDATED, NPY, *PACKED, QUANTISED)
_CF: dict[str, Any] = {
    "scale_factor": 0.05, "add_offset": 0.4, "_FillValue": -128, "missing_value": [-128], "valid_range": [-127, 127],
    "_Unsigned": "false", "nodata": "-128", "dtype": "int8",
}  # fmt: skip
_GEOEMB: dict[str, Any] = {
    "geoemb:data_type": "int8",
    "geoemb:quantization": {
        "method": "per_pixel_scale", "original_dtype": "float32", "quantized_dtype": "int8",
        "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
    },
}  # fmt: skip


def write_templates(folder: Path) -> None:
    """Write one dump of each kind, of the same rows."""
    rows = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
    for name, settings in LAYOUTS.items():
        zarr.create_array(folder / name, **({"shape": SHAPE, "dtype": "f4", "chunks": (20, 4)} | settings))[:] = rows
    for version in (2, 3):
        path = folder / CONSOLIDATED / str(version)
        group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[call-overload]
        group.create_array("a", shape=SHAPE, dtype="f4", chunks=(20, 4))[:] = rows
        zarr.consolidate_metadata(path)
    codes = np.round(rows * 30).clip(-127, 127).astype("i1")
    for name, version in PACKED.items():
        attributes = _CF | ({"_ARRAY_DIMENSIONS": ["row", "feature"]} if version == 2 else {})
        packed = zarr.create_array(
            folder / name, shape=SHAPE, dtype="i1", chunks=(20, 4), zarr_format=version, attributes=attributes
        )
        packed[:] = codes
    group = zarr.open_group(folder / QUANTISED, mode="w", attributes=_GEOEMB)
    group.create_array("a", shape=SHAPE, dtype="i1", chunks=(20, 4))[:] = codes
    group.create_array("scales", shape=SHAPE[:1], dtype="f4", chunks=(50,))[:] = np.linspace(0.5, 2, SHAPE[0])
    (folder / NPY).mkdir()
    np.save(folder / NPY / "a.npy", rows)


def source_of(template: str, folder: Path, generator: random.Random) -> tuple[str, Path]:
    """Return what is measured, and the document that is changed."""
    if template == NPY:
        return str(folder / "a.npy"), folder / "a.npy"
    store = folder / generator.choice("23") if template == CONSOLIDATED else folder
    documents = [path for path in sorted(store.rglob("*")) if path.name in _DOCUMENTS]
    if template == QUANTISED:
        return f"{store}::a", generator.choice(documents)
    is_array = template != CONSOLIDATED
    return str(store) if is_array else f"{store}::a" if generator.random() < 0.7 else str(store), generator.choice(
        documents
    )


_DOCUMENTS = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


def change(document: Path, generator: random.Random) -> None:
    """Change a document: a value in its tree, some bytes of its text, or the header of a ``.npy`` file."""
    content = document.read_bytes()
    if document.suffix == ".npy":
        document.write_bytes(_changed_header(content, generator))
        return
    if generator.random() < 0.2:
        document.write_bytes(_changed_bytes(content, generator))
        return
    tree = json.loads(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        tree = _changed_tree(tree, generator)
    document.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every container of a tree with every key or index into it."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            found += [(tree, key), *_places(tree[key])]
    return found


def _changed_tree(tree: Any, generator: random.Random) -> Any:
    places = _places(tree)
    if not places or generator.random() < 0.02:
        return generator.choice(_VALUES)
    container, key = generator.choice(places)
    kind = generator.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1:
        other, other_key = generator.choice(places)
        container[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 2 and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(container[key])))
    elif kind == 3 and isinstance(container[key], int):
        container[key] += generator.choice((-1, 1))
    else:
        container[key] = json.loads(json.dumps(generator.choice(_VALUES)))
    return tree


def _changed_bytes(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(changed) or 1)
        kind = generator.randrange(4)
        if kind == 0:
            del changed[place : place + generator.randint(1, 40)]
        elif kind == 1:
            changed[place:place] = generator.choice((b"[" * 3000, b"0" * 40, b"\xff\xfe", b"\0", b"1e999", b'{"', b","))
        else:
            changed[place : place + 1] = bytes([generator.randrange(256)])
    return bytes(changed)


def _changed_header(content: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.3:
        return _changed_bytes(content[:128], generator) + content[128:]
    text = content[10:128].decode("latin1")
    pieces = re.split(r"(\d+|'[^']*'|True|False|[(),:{}])", text)
    pieces[generator.randrange(len(pieces))] = str(generator.choice(_VALUES))
    header = "".join(pieces).encode("latin1", errors="replace")[:60_000]
    return content[:8] + len(header).to_bytes(2, "little") + header + content[128:]


def judged(source: str) -> dict[str, Any]:
    """Measure a source; return what that came to, and the error's class if it was refused."""
    try:
        found = rs.measure(source, memory_limit=MEMORY_LIMIT, workers=1)
    except rs.RankMeError as error:
        text = str(error)
        return {"outcome": "several lines" if "\n" in text else "refused", "error": type(error).__name__}
    return {"outcome": "right" if _is_right(source, found.rankme) else "wrong"}


def _is_right(source: str, estimate: Any) -> bool:
    """Return whether an interval holds the RankMe of the rows that numpy or zarr reads there, decoded as is stated."""
    if source.endswith(".npy"):
        rows = np.load(source)
    else:
        location, _, path = source.partition("::")
        rows = _decoded(np.asarray(zarr.open_array(location, path=path, mode="r")[:]), source)
    values = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    slack = 1e-9 * estimate.value
    return bool(estimate.lower - slack <= rs.metrics.rankme(values) <= estimate.upper + slack)


def _decoded(numbers: Any, source: str) -> Any:
    """Return what stored numbers stand for, by the decoding that the source states."""
    opened = rs.open_source(source)
    stored = opened.stored
    if isinstance(opened, ScaledRows):
        location = source.partition("::")[0]
        return numbers * np.asarray(zarr.open_array(location, path="scales", mode="r")[:], np.float64)[:, None]
    if stored.name != numbers.dtype.name:
        numbers = stored.values(numbers.astype(numbers.dtype.newbyteorder("=")).view(stored.dtype))
    elif (decoding := stored.decoding) is not None:
        numbers = numbers.astype(np.float64) * decoding.scale + decoding.offset
    return numbers


def work(folder: Path, first: int, stop: int, judge: Callable[[str], dict[str, Any]] = judged) -> None:
    """Judge cases; one that takes too long ends the process by a signal."""
    warnings.simplefilter("ignore")
    for number in range(first, stop):
        generator = random.Random(number)
        template = generator.choice(TEMPLATES)
        copy = folder / "case"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / template, copy)
        source, document = source_of(template, copy, generator)
        change(document, generator)
        print(json.dumps({"number": number, "template": template}), flush=True)
        processes.forget_peak()
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            result = judge(source)
        except Exception as error:  # noqa: BLE001 - what this benchmark looks for
            result = {"outcome": "defect", "error": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        result["seconds"] = round(time.monotonic() - began, 3)
        result["peak_bytes"] = processes.peak_bytes()
        if result["peak_bytes"] > MEMORY_LIMIT + MEMORY_SLACK:
            result["outcome"] = "memory"
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
