"""Lower limit for the time of a pass over a zarr store: decoding, casting and multiplying every row, and nothing else.

Each part is timed alone, on one thread a core at once, by every candidate known to be fast. The limit is the sum of the
fastest candidates' CPU seconds over the number of cores. ``python -m benchmarks.speed.lower_limits URI`` prints one as
JSON. Reads are warm: the same rows were read before, so they come from the page cache.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
from scipy.linalg import cython_blas
from threadpoolctl import threadpool_limits
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import LocalStore

from rankme_stream.numerics import machine

_PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
_UNIT_BYTES = 2 * 10**6  # least size of a unit, the smallest read, which is a number of whole chunks
_UNITS = (1, 4, 8)  # units in one read
_SLAB_BYTES = 100 * 10**6  # largest read, unless one unit is larger
_WINDOW_BYTES = 256 * 10**6  # rows that are read in turn, spread over the array: more than a processor caches
_CAST_ROWS = (256, 1024, 4096)
_PRODUCT_ROWS = (512, 1024, 2048, 4096)
_SHIFT_VALUES = 400_000  # at once: more exceed the cache; with fewer, threads wait for the GIL between operations
_SIGN_AND_VALUE = np.int32(-0x7000_2000)  # final places of a float16's bits; the shift repeats the sign in between
_SHIFT_SCALE = np.float32(2.0**112)  # between the exponent biases of float16 and float32

Call = Callable[[], int]  # works on some rows and returns their number


@dataclass(frozen=True)
class _Candidate:
    """One way to do a part; ``prepare`` returns the call that the thread of a lane repeats."""

    part: Literal["decode", "cast", "product"]
    name: str
    prepare: Callable[[_Lane], Call]


class _Lane:
    """Buffers of one thread for reading, casting and multiplying, the same for all candidates."""

    def __init__(self, index: int, count: int, sample: np.ndarray, slab_rows: int, precision: str) -> None:
        n_features = sample.shape[1]
        self.index, self.count = index, count
        self.slab = np.empty((slab_rows, n_features), sample.dtype)
        self.stored = np.tile(sample, (-(-_CAST_ROWS[-1] // len(sample)), 1))
        self.panel = np.ones((_PRODUCT_ROWS[-1], 1 + n_features), precision)
        self.panel[:, 1:] = self.stored[: len(self.panel)]
        self.product = np.zeros((1 + n_features, 1 + n_features), precision)

    def rotate(self, items: Sequence[Any]) -> Iterator[Any]:
        """Cycle through items forever; each lane starts at a different one."""
        first = self.index * len(items) // self.count
        return cycle([*items[first:], *items[:first]])


def limit(
    uri: str, *, precision: Literal["float64", "float32"] = "float64", seconds: float = 0.12, rounds: int = 5
) -> dict[str, Any]:
    """Return the least time for decoding, casting and multiplying all rows of a two-dimensional zarr array.

    Parameters
    ----------
    uri
        ``store.zarr`` or ``store.zarr::group/array``, local.
    precision
        Precision of the panels and products.
    seconds
        Time that a candidate runs in each round; at least one call a thread.
    rounds
        Number of rounds. Every candidate runs once a round, so that drift of the machine affects all alike.

    Returns
    -------
    dict
        JSON types. ``parts`` has for ``decode``, ``cast`` and ``product`` the ``best`` candidate, its ``cpu_s``, and
        all ``candidates`` with ``cpu_s``, ``wall_s`` and the CPU seconds of the ``rounds``: of all threads, for all
        rows. ``limit_s`` is the sum of the three ``cpu_s`` over ``cores``; ``unavailable`` has the readers that did
        not run, and the reasons.

    Notes
    -----
    A candidate counts by the *median* of its rounds: the limit is compared with medians of passes, and the least of
    many candidates' least rounds would select noise. The cast goes into panels with a column of ones, so it is a copy
    where the types agree. ``matmul`` does not add its product to a sum, ``syrk`` adds in place. BLAS runs on one
    thread, and every lane has its own buffers: about 100 MB for reading (one chunk of rows if that is more) and 4,096
    rows of the precision.
    """
    array = _open(uri, "zarr-python")
    candidates, unavailable = _readers(uri, array)
    candidates += [*_casts(array), *_products(precision)]
    n_cores = machine.cores()
    lanes = _lanes(array, n_cores, precision)
    figures: list[list[tuple[float, float]]] = [[] for _ in candidates]
    with threadpool_limits(1, user_api="blas"):
        calls = [[one.prepare(lane) for lane in lanes] for one in candidates]
        for work in calls:
            _timed(work, 0.0)
        for _ in range(rounds):
            for figure, work in zip(figures, calls, strict=True):
                figure.append(_timed(work, seconds))
    parts = _summary(candidates, figures, array.shape[0])
    return {
        "uri": uri, "n_rows": array.shape[0], "n_features": array.shape[1], "dtype": str(array.dtype),
        "chunks": list(array.chunks), "precision": precision, "cores": n_cores, "seconds": seconds, "rounds": rounds,
        "parts": parts, "unavailable": unavailable,
        "limit_s": sum(part["cpu_s"] for part in parts.values()) / n_cores,
    }  # fmt: skip


def _lanes(array: Any, count: int, precision: str) -> list[_Lane]:
    """Make one lane a thread, and bring the rows that they read into the page cache."""
    sample_rows = max(_CAST_ROWS[-1], _UNIT_BYTES // (array.shape[1] * array.dtype.itemsize))
    sample = np.asarray(array[:sample_rows]).astype(array.dtype.newbyteorder("="))
    slab_rows = max(_slabs(array)) * array.chunks[0]
    for start in _starts(array, max(_slabs(array))):
        array[start : start + slab_rows]
    return [_Lane(index, count, sample, slab_rows, precision) for index in range(count)]


def _timed(work: Sequence[Call], seconds: float) -> tuple[float, float]:
    """Repeat calls for some seconds, one call a thread, all at once; return CPU and wall seconds a row."""
    barrier = threading.Barrier(len(work))

    def repeat(call: Call) -> int:
        barrier.wait()
        end, n_rows = time.perf_counter() + seconds, call()
        while time.perf_counter() < end:
            n_rows += call()
        return n_rows

    with ThreadPoolExecutor(len(work)) as pool:
        cpu, wall = time.process_time(), time.perf_counter()
        n_rows = sum(pool.map(repeat, work))
        return (time.process_time() - cpu) / n_rows, (time.perf_counter() - wall) / n_rows


def _summary(
    candidates: list[_Candidate], figures: list[list[tuple[float, float]]], n_rows: int
) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for one, figure in zip(candidates, figures, strict=True):
        cpu, wall = zip(*figure, strict=True)
        parts.setdefault(one.part, {"candidates": {}})["candidates"][one.name] = {
            "cpu_s": median(cpu) * n_rows,
            "wall_s": median(wall) * n_rows,
            "rounds": [value * n_rows for value in cpu],
        }
    for part in parts.values():
        found = part["candidates"]
        part["best"] = min(found, key=lambda name, found=found: found[name]["cpu_s"])
        part["cpu_s"] = found[part["best"]]["cpu_s"]
    return parts


def _open(uri: str, pipeline: str) -> Any:
    store, _, path = uri.partition("::")
    with zarr.config.set(
        {"codec_pipeline.path": _PIPELINES[pipeline]}
    ):  # an array keeps the pipeline that it was opened with
        array = zarr.open_array(store, path=path.strip("/"), mode="r")
    if array.ndim != 2:
        raise SystemExit(f"{uri} has shape {array.shape}; (rows, features) is needed")
    return array


def _slabs(array: Any) -> list[int]:
    """Return the sizes of reads in chunks of rows: 1, 4 and 8 units, and a shard; none larger than a read may be."""
    chunk_rows, row_bytes = array.chunks[0], array.shape[1] * array.dtype.itemsize
    n_chunks, chunk_bytes = -(-array.shape[0] // chunk_rows), chunk_rows * row_bytes
    unit = -(-_UNIT_BYTES // chunk_bytes)
    sizes = {unit * n for n in _UNITS} | ({array.shards[0] // chunk_rows} if array.shards else set())
    return sorted({min(n, n_chunks) for n in sizes if n == unit or n * chunk_bytes <= _SLAB_BYTES})


def _starts(array: Any, n_chunks: int) -> list[int]:
    """Return the first rows of reads of ``n_chunks`` chunks: all, or as many as the window holds, spread evenly."""
    chunk_rows, largest = array.chunks[0], max(_slabs(array))
    starts = range(0, -(-array.shape[0] // chunk_rows) - largest + 1, largest)
    slab_bytes = largest * chunk_rows * array.shape[1] * array.dtype.itemsize
    kept = min(len(starts), max(2, _WINDOW_BYTES // slab_bytes))
    slabs = (starts[i * len(starts) // kept] for i in range(kept))
    return [row * chunk_rows for slab in slabs for row in range(slab, slab + largest - n_chunks + 1, n_chunks)]


def _readers(uri: str, array: Any) -> tuple[list[_Candidate], dict[str, str]]:
    candidates, unavailable = [], {}
    for pipeline in _PIPELINES:
        if pipeline == "zarrs" and find_spec("zarrs") is None:
            unavailable["zarrs"] = "is not installed"
            continue
        opened = _open(uri, pipeline)
        try:
            opened[:1]
        except RuntimeError as error:
            if pipeline != "zarrs":  # zarrs does not read every layout
                raise
            unavailable["zarrs"] = str(error)
            continue
        for n_chunks in _slabs(array):
            rows = min(n_chunks * array.chunks[0], array.shape[0])
            label = f"{pipeline}, {rows:,} rows"
            candidates.append(_Candidate("decode", label, partial(_select, opened, n_chunks)))
    reason = _why_not_bare(array)
    if reason is None:
        candidates.append(_Candidate("decode", f"numcodecs, {array.chunks[0]:,} rows", partial(_decode, array)))
    else:
        unavailable["numcodecs"] = reason
    return candidates, unavailable


def _select(array: Any, n_chunks: int, lane: _Lane) -> Call:
    n_rows, slab_rows = array.shape[0], n_chunks * array.chunks[0]
    starts, slab = lane.rotate(_starts(array, n_chunks)), lane.slab.view(array.dtype)

    def call() -> int:
        start = next(starts)
        out = slab[: min(slab_rows, n_rows - start)]
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(out)
        array.get_basic_selection((slice(start, start + len(out)), slice(None)), out=buffer)
        return len(out)

    return call


def _why_not_bare(array: Any) -> str | None:
    """Return the reason why chunk files cannot be decoded straight into a buffer; None if they can."""
    if not isinstance(array.metadata, ArrayV3Metadata) or not isinstance(array.store_path.store, LocalStore):
        return "zarr v3 in a folder only"
    if array.shards:
        return "unsharded arrays only"
    first, *rest = array.metadata.codecs
    if (
        not isinstance(first, BytesCodec)
        or len(rest) > 1
        or not all(isinstance(c, ZstdCodec | BloscCodec) for c in rest)
    ):
        return "bytes with one of zstd, blosc or nothing only"
    return None


def _decode(array: Any, lane: _Lane) -> Call:
    """Read chunk files and decode each into the same buffer, all those of a chunk of rows in one call."""
    (n_rows, n_features), (chunk_rows, chunk_columns) = array.shape, array.chunks
    root = Path(array.store_path.store.root) / array.store_path.path
    key = array.metadata.chunk_key_encoding.encode_chunk_key
    codec = array.metadata.codecs[-1]
    decompress = {ZstdCodec: numcodecs.zstd.decompress, BloscCodec: numcodecs.blosc.decompress}.get(type(codec))
    reads = [
        (
            min(chunk_rows, n_rows - row),
            [root / key((row // chunk_rows, j)) for j in range(-(-n_features // chunk_columns))],
        )
        for row in _starts(array, 1)
    ]
    lane_reads = lane.rotate(reads)
    chunk = np.empty(chunk_rows * chunk_columns * array.dtype.itemsize, np.uint8)
    stored = memoryview(bytearray(max(file.stat().st_size for _, files in reads for file in files)))

    def call() -> int:
        rows, files = next(lane_reads)
        for file in files:
            with open(file, "rb", buffering=0) as opened:
                if decompress is None:
                    assert opened.readinto(chunk) == chunk.nbytes, f"{file} is cut short"
                else:
                    decompress(stored[: opened.readinto(stored)], chunk)
        return rows

    return call


def _casts(array: Any) -> Iterator[_Candidate]:
    casts = {"assign": _assign} | ({"shift": _shift} if array.dtype == np.float16 else {})
    for name, cast in casts.items():
        for rows in _CAST_ROWS:
            yield _Candidate("cast", f"{name}, {rows:,} rows", partial(cast, rows))


def _assign(n_rows: int, lane: _Lane) -> Call:
    starts = lane.rotate(range(0, len(lane.stored) - n_rows + 1, n_rows))
    out = lane.panel[:n_rows, 1:]

    def call() -> int:
        start = next(starts)
        out[...] = lane.stored[start : start + n_rows]
        return n_rows

    return call


def _shift(n_rows: int, lane: _Lane) -> Call:
    """Move the bits of finite float16 numbers to their places in float32 and scale by a power of two: exact."""
    starts = lane.rotate(range(0, len(lane.stored) - n_rows + 1, n_rows))
    stored, out = lane.stored.view(np.int16), lane.panel[:n_rows, 1:]
    step = max(1, _SHIFT_VALUES // out.shape[1])
    bits = np.empty((step, out.shape[1]), np.int32)

    def call() -> int:
        first = next(starts)
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            block = bits[: stop - start]
            np.left_shift(stored[first + start : first + stop], 13, out=block, dtype=np.int32)
            np.bitwise_and(block, _SIGN_AND_VALUE, out=block)
            np.multiply(block.view(np.float32), _SHIFT_SCALE, out=out[start:stop])
        return n_rows

    return call


def _products(precision: str) -> Iterator[_Candidate]:
    for name, multiply in (("matmul", _matmul), ("syrk", _SYRK[precision])):
        for rows in _PRODUCT_ROWS:
            yield _Candidate("product", f"{name}, {rows:,} rows", partial(_multiply, multiply, rows))


def _multiply(multiply: Callable[[np.ndarray, np.ndarray], None], n_rows: int, lane: _Lane) -> Call:
    panel, product = lane.panel[:n_rows], lane.product

    def call() -> int:
        multiply(panel, product)
        return n_rows

    return call


def _matmul(panel: np.ndarray, product: np.ndarray) -> None:
    np.matmul(panel.T, panel, out=product)


def _syrk(name: str, real: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    """Return BLAS ``dsyrk`` or ``ssyrk``, called through the pointer that SciPy publishes, without the GIL."""
    capsule = cython_blas.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 10)(get_pointer(capsule, get_name(capsule)))
    one = ctypes.byref(real(1.0))

    def multiply(panel: np.ndarray, product: np.ndarray) -> None:
        rows, n = (ctypes.byref(ctypes.c_int(size)) for size in panel.shape)
        function(b"U", b"N", n, rows, one, panel.ctypes.data, n, one, product.ctypes.data, n)

    return multiply


_SYRK = {"float64": _syrk("dsyrk", ctypes.c_double), "float32": _syrk("ssyrk", ctypes.c_float)}


def main() -> None:
    """Print the limit of one store as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.lower_limits", description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("--precision", choices=list(_SYRK), default="float64")
    parser.add_argument("--seconds", type=float, default=0.12, help="time of a candidate in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(limit(**vars(arguments))))


if __name__ == "__main__":
    main()
