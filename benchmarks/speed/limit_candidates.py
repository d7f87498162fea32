"""Candidates for the lower limit of a pass: fast ways to read and decode rows, to cast and to multiply them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
from scipy.linalg import cython_blas
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import LocalStore

_PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
UNIT_BYTES = 2 * 10**6  # least size of a unit, the smallest read, which is a number of whole chunks
_UNITS = (1, 4, 8)  # units in one read
_SLAB_BYTES = 100 * 10**6  # largest read, unless one unit is larger
_WINDOW_BYTES = 256 * 10**6  # rows that are read in turn, spread over the array: more than a processor caches
CAST_ROWS = (256, 1024, 4096)
_PRODUCT_ROWS = (512, 1024, 2048, 4096)
_SHIFT_VALUES = 400_000  # at once: more exceed the cache; with fewer, threads wait for the GIL between operations
_SIGN_AND_VALUE = np.int32(-0x7000_2000)  # final places of a float16's bits; the shift repeats the sign in between
_SHIFT_SCALE = np.float32(2.0**112)  # between the exponent biases of float16 and float32

Call = Callable[[], int]  # works on some rows and returns their number


@dataclass(frozen=True)
class Candidate:
    """One way to do a part; ``prepare`` returns the call that the thread of a lane repeats."""

    part: Literal["decode", "cast", "product"]
    name: str
    prepare: Callable[[Lane], Call]


class Lane:
    """Buffers of one thread for reading, casting and multiplying, the same for all candidates."""

    def __init__(self, index: int, count: int, sample: np.ndarray, slab_rows: int, precision: str) -> None:
        n_features = sample.shape[1]
        self.index, self.count = index, count
        self.slab = np.empty((slab_rows, n_features), sample.dtype)
        self.stored = np.tile(sample, (-(-CAST_ROWS[-1] // len(sample)), 1))
        self.panel = np.ones((_PRODUCT_ROWS[-1], 1 + n_features), precision)
        self.panel[:, 1:] = self.stored[: len(self.panel)]
        self.product = np.zeros((1 + n_features, 1 + n_features), precision)

    def rotate(self, items: Sequence[Any]) -> Iterator[Any]:
        """Cycle through items forever; each lane starts at a different one."""
        first = self.index * len(items) // self.count
        return cycle([*items[first:], *items[:first]])


def open_array(uri: str, pipeline: str) -> Any:
    """Open a two-dimensional zarr array, which keeps the codec pipeline that it is opened with."""
    store, _, path = uri.partition("::")
    with zarr.config.set({"codec_pipeline.path": _PIPELINES[pipeline]}):
        array = zarr.open_array(store, path=path.strip("/"), mode="r")
    if array.ndim != 2:
        raise SystemExit(f"{uri} has shape {array.shape}; (rows, features) is needed")
    return array


def slab_sizes(array: Any) -> list[int]:
    """Return the sizes of reads in chunks of rows: 1, 4 and 8 units, and a shard; none larger than a read may be."""
    chunk_rows, row_bytes = array.chunks[0], array.shape[1] * array.dtype.itemsize
    n_chunks, chunk_bytes = -(-array.shape[0] // chunk_rows), chunk_rows * row_bytes
    unit = -(-UNIT_BYTES // chunk_bytes)
    sizes = {unit * n for n in _UNITS} | ({array.shards[0] // chunk_rows} if array.shards else set())
    return sorted({min(n, n_chunks) for n in sizes if n == unit or n * chunk_bytes <= _SLAB_BYTES})


def first_rows(array: Any, n_chunks: int) -> list[int]:
    """Return the first rows of reads of ``n_chunks`` chunks: all, or as many as the window holds, spread evenly."""
    chunk_rows, largest = array.chunks[0], max(slab_sizes(array))
    starts = range(0, -(-array.shape[0] // chunk_rows) - largest + 1, largest)
    slab_bytes = largest * chunk_rows * array.shape[1] * array.dtype.itemsize
    kept = min(len(starts), max(2, _WINDOW_BYTES // slab_bytes))
    slabs = (starts[i * len(starts) // kept] for i in range(kept))
    return [row * chunk_rows for slab in slabs for row in range(slab, slab + largest - n_chunks + 1, n_chunks)]


def readers(uri: str, array: Any) -> tuple[list[Candidate], dict[str, str]]:
    """Return the ways to read and decode, and the reasons why other readers are unavailable."""
    candidates, unavailable = [], {}
    for pipeline in _PIPELINES:
        if pipeline == "zarrs" and find_spec("zarrs") is None:
            unavailable["zarrs"] = "is not installed"
            continue
        opened = open_array(uri, pipeline)
        try:
            opened[:1]
        except RuntimeError as error:
            if pipeline != "zarrs":  # zarrs does not read every layout
                raise
            unavailable["zarrs"] = str(error)
            continue
        for n_chunks in slab_sizes(array):
            rows = min(n_chunks * array.chunks[0], array.shape[0])
            label = f"{pipeline}, {rows:,} rows"
            candidates.append(Candidate("decode", label, partial(_select, opened, n_chunks)))
    reason = _why_not_bare(array)
    if reason is None:
        candidates.append(Candidate("decode", f"numcodecs, {array.chunks[0]:,} rows", partial(_decode, array)))
    else:
        unavailable["numcodecs"] = reason
    return candidates, unavailable


def _select(array: Any, n_chunks: int, lane: Lane) -> Call:
    n_rows, slab_rows = array.shape[0], n_chunks * array.chunks[0]
    starts, slab = lane.rotate(first_rows(array, n_chunks)), lane.slab.view(array.dtype)

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


def _decode(array: Any, lane: Lane) -> Call:
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
        for row in first_rows(array, 1)
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


def casts(array: Any) -> Iterator[Candidate]:
    """Yield the ways to cast stored rows into panels."""
    casts = {"assign": _assign} | ({"shift": _shift} if array.dtype == np.float16 else {})
    for name, cast in casts.items():
        for rows in CAST_ROWS:
            yield Candidate("cast", f"{name}, {rows:,} rows", partial(cast, rows))


def _assign(n_rows: int, lane: Lane) -> Call:
    starts = lane.rotate(range(0, len(lane.stored) - n_rows + 1, n_rows))
    out = lane.panel[:n_rows, 1:]

    def call() -> int:
        start = next(starts)
        out[...] = lane.stored[start : start + n_rows]
        return n_rows

    return call


def _shift(n_rows: int, lane: Lane) -> Call:
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


def products(precision: str) -> Iterator[Candidate]:
    """Yield the ways to multiply a panel by its transpose."""
    for name, multiply in (("matmul", _matmul), ("syrk", _SYRK[precision])):
        for rows in _PRODUCT_ROWS:
            yield Candidate("product", f"{name}, {rows:,} rows", partial(_multiply, multiply, rows))


def _multiply(multiply: Callable[[np.ndarray, np.ndarray], None], n_rows: int, lane: Lane) -> Call:
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
