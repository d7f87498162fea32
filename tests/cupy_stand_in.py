"""A stand-in for CuPy without a card: memory is numpy's, kernels run as the text says, cuBLAS is called by columns.

What CuPy would compile a kernel for is refused inside ``own_kernels_only``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from bisect import bisect
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import array_api_compat
import array_api_compat.numpy as array_api_numpy
import numpy as np

from tests import cuda_on_host

_GUARD, _ALIGNED = 256, 512  # bytes around every allocation, and what its address is a multiple of
_GUARD_BYTE, _UNSET_BYTE = 0xA5, 0xFF
_compiles: list[bool] = [True]


@contextmanager
def own_kernels_only():
    """Refuse operations for which CuPy compiles a kernel."""
    _compiles.append(False)
    try:
        yield
    finally:
        _compiles.pop()


def _compile(what: object) -> None:
    assert _compiles[-1], f"CuPy compiles a kernel for {what}"


class CardArray(np.ndarray):
    """An array of the card."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        _compile(ufunc)
        plain = [np.asarray(one) if isinstance(one, np.ndarray) else one for one in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(one) for one in out)
        found = getattr(ufunc, method)(*plain, **options)
        return out[0] if out is not None else on_card(found)

    def __array_function__(self, function, types, arguments, options):
        _compile(function)
        return super().__array_function__(function, types, arguments, options)

    def __setitem__(self, key, value):
        _compile("a copy")
        super().__setitem__(key, value)

    def astype(self, *arguments, **options):
        _compile("a conversion")
        return super().astype(*arguments, **options)


def on_card(found):
    """Return an array, or a number, of numpy as one of the card."""
    return np.asarray(found).view(CardArray)


class Memory:
    """Allocations of the card, each between guards; what runs beyond one is found."""

    def __init__(self):
        self._starts, self._held = [], []

    def allocate(self, shape, dtype, byte):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        whole = np.full(size + 2 * _GUARD + _ALIGNED, _GUARD_BYTE, np.uint8)
        first = _GUARD + -(whole.ctypes.data + _GUARD) % _ALIGNED
        whole[first : first + size] = byte
        place = bisect(self._starts, whole.ctypes.data)
        self._starts.insert(place, whole.ctypes.data)
        self._held.insert(place, (whole, first, first + size))
        return whole[first : first + size].view(dtype).reshape(shape).view(CardArray)

    def _around(self, address):
        place = bisect(self._starts, address) - 1
        assert place >= 0, "this is no memory of the card"
        return self._held[place]

    def check(self, address):
        """Find out whether something was written beside the memory of an address."""
        whole, first, last = self._around(address)
        assert (whole[:first] == _GUARD_BYTE).all(), "something was written before an array"
        assert (whole[last:] == _GUARD_BYTE).all(), "something was written beyond an array"

    def holds(self, address, n_bytes):
        whole, first, last = self._around(address)
        return whole.ctypes.data + first <= address and address + n_bytes <= whole.ctypes.data + last


class Cublas:
    """The calls of cuBLAS that products need; matrices are read and written by columns.

    Attributes
    ----------
    kept
        Part of each float32 product that is kept: less than 1 on tensor cores, which cut off.
    calls
        Name and number of matrices of each product so far.
    """

    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER = 0, 1, 0, 1
    CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 68, -1
    _TYPES: ClassVar[dict] = {2: np.float16, 14: np.uint16, 0: np.float32}

    def __init__(self, memory, streams):
        self._memory, self._streams = memory, streams
        self.kept, self.calls, self._stream = 1.0, [], None

    def setStream(self, handle, stream):  # noqa: N802
        self._stream = stream

    def dgemmStridedBatched(  # noqa: N802
        self, handle, transa, transb, m, n, k, alpha, A, lda, strideA, B, ldb, strideB, beta, C, ldc, strideC,
        batchCount,
    ):  # fmt: skip
        matrices = (A, np.float64, lda, strideA), (B, np.float64, ldb, strideB), (C, np.float64, ldc, strideC)
        self._gemm("dgemm", (transa, transb, m, n, k), (alpha, beta, np.float64), matrices, batchCount)

    def sgemmStridedBatched(  # noqa: N802
        self, handle, transa, transb, m, n, k, alpha, A, lda, strideA, B, ldb, strideB, beta, C, ldc, strideC,
        batchCount,
    ):  # fmt: skip
        matrices = (A, np.float32, lda, strideA), (B, np.float32, ldb, strideB), (C, np.float32, ldc, strideC)
        self._gemm("sgemm", (transa, transb, m, n, k), (alpha, beta, np.float32), matrices, batchCount)

    def gemmStridedBatchedEx(  # noqa: N802
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta,
        C, Ctype, ldc, strideC, batchCount, computeType, algo,
    ):  # fmt: skip
        assert (computeType, algo, Ctype) == (68, -1, 0)
        assert Atype == Btype
        kind, out = self._TYPES[Atype], self._TYPES[Ctype]
        matrices = (A, kind, lda, strideA), (B, kind, ldb, strideB), (C, out, ldc, strideC)
        self._gemm("gemmEx", (transa, transb, m, n, k), (alpha, beta, np.float32), matrices, batchCount)

    def dsyrk(self, handle, uplo, trans, n, k, alpha, A, lda, beta, C, ldc):
        self._begin("dsyrk", 1)
        assert trans == self.CUBLAS_OP_N
        factors = _numbers((alpha, beta), np.float64)
        a = self._by_columns(A, np.float64, lda, n, k)
        c = self._by_columns(C, np.float64, ldc, n, n)
        part = np.tril(np.ones((n, n), bool)) if uplo == self.CUBLAS_FILL_MODE_LOWER else np.triu(np.ones((n, n), bool))
        assert factors == [1.0, 0.0]
        c[part] = (a @ a.T)[part]

    def _gemm(self, name, sizes, scalars, matrices, count):
        self._begin(name, count)
        (transa, transb, m, n, k), (alpha, beta, dtype) = sizes, scalars
        shapes = (k, m) if transa else (m, k), (n, k) if transb else (k, n), (m, n)
        assert _numbers((alpha, beta), dtype) == [1.0, 0.0]
        for number in range(count):
            left, right, out = (
                self._by_columns(address + number * apart * np.dtype(kind).itemsize, kind, distance, *shape)
                for (address, kind, distance, apart), shape in zip(matrices, shapes, strict=True)
            )
            left, right = (_widened(left.T if transa else left), _widened(right.T if transb else right))
            with np.errstate(over="ignore", invalid="ignore"):
                out[...] = (left @ right) * (1.0 if name == "dgemm" else self.kept)

    def _begin(self, name, count):
        assert self._stream == self._streams.current().ptr, "the handle is not on the current stream"
        self.calls.append((name, count))

    def _by_columns(self, address, dtype, distance, rows, columns):
        assert distance >= rows
        dtype = np.dtype(dtype)
        n_bytes = (distance * (columns - 1) + rows) * dtype.itemsize
        assert self._memory.holds(address, n_bytes), "a matrix runs beyond its memory"
        held = np.ndarray(n_bytes, np.uint8, _at(address, n_bytes))
        return np.ndarray((rows, columns), dtype, held, strides=(dtype.itemsize, distance * dtype.itemsize))


def _at(address, n_bytes):
    return (ctypes.c_char * n_bytes).from_address(address)


def _numbers(addresses, dtype):
    size = np.dtype(dtype).itemsize
    return [float(np.frombuffer(_at(address, size), dtype)[0]) for address in addresses]


def _widened(matrix):
    if matrix.dtype == np.uint16:
        return (matrix.astype(np.uint32) << 16).view(np.float32)
    return matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix


class Streams:
    """Streams and events, whose work is done when it is queued; the order of calls is kept."""

    def __init__(self):
        self.calls, self._count, self._of_thread = [], 0, threading.local()
        self.null = _Stream(self, 0)

    @property
    def entered(self):
        if not hasattr(self._of_thread, "entered"):
            self._of_thread.entered = [self.null]
        return self._of_thread.entered

    def current(self):
        return self.entered[-1]

    def __call__(self, non_blocking=False):
        assert non_blocking
        self._count += 1
        return _Stream(self, self._count)

    def event(self, disable_timing=False):
        assert disable_timing
        return _Event(self)


class _Stream:
    def __init__(self, streams, ptr):
        self._streams, self.ptr = streams, ptr

    def __enter__(self):
        self._streams.entered.append(self)

    def __exit__(self, *error):
        assert self._streams.entered.pop() is self

    def wait_event(self, event):
        self._streams.calls.append(("wait_event", self, event))

    def synchronize(self):
        self._streams.calls.append(("synchronize", self))


class _Event:
    def __init__(self, streams):
        self._streams = streams

    def record(self, stream):
        self._streams.calls.append(("record", stream, self))

    def synchronize(self):
        self._streams.calls.append(("synchronize", self))


class RawModule:
    """Kernels, compiled for the processor."""

    compiled: ClassVar[list[str]] = []

    def __init__(self, *, code, options):
        assert options == ("-std=c++14",)
        self._code = code

    def compile(self):
        RawModule.compiled.append(self._code)

    def get_function(self, name):
        assert f" {name}(" in self._code
        assert self._code in RawModule.compiled

        def run(grid, block, arguments):
            for one in arguments:
                assert isinstance(one, CardArray | np.int64), f"{name} is given {type(one)}"
            cuda_on_host.launch(name, grid, block, arguments)
            for one in arguments:
                if isinstance(one, CardArray):
                    STAND_IN.memory.check(one.ctypes.data)

        return run


class _Namespace:
    """The namespace of the array API standard over arrays of the card."""

    def __getattr__(self, name):
        return getattr(array_api_numpy, name)

    def zeros(self, shape, dtype=np.float64, device=None):
        return STAND_IN.memory.allocate(shape, dtype, 0)

    def empty(self, shape, dtype=np.float64, device=None):
        return STAND_IN.memory.allocate(shape, dtype, _UNSET_BYTE)

    def asarray(self, values, device=None, dtype=None, copy=None):
        values = np.asarray(values, dtype)
        is_by_columns = values.ndim == 2 and values.flags.f_contiguous  # an order that CuPy keeps
        return _copied(values.T).T if is_by_columns else _copied(values)


def _copied(values):
    made = STAND_IN.memory.allocate(values.shape, values.dtype, 0)
    np.asarray(made)[...] = values
    return made


class StandIn:
    """The module ``cupy``, and what a test looks at."""

    def __init__(self):
        self.memory, self.streams, self.pinned = Memory(), Streams(), []
        self.cublas = Cublas(self.memory, self.streams)

    def pointer_attributes(self, ptr):
        is_pinned = any(one.ctypes.data <= ptr < one.ctypes.data + one.nbytes for one in self.pinned)
        return SimpleNamespace(type=1 if is_pinned else 0)

    def copy(self, dst, src, size, kind, stream):
        assert kind == 1
        assert self.memory.holds(dst, size)
        np.ndarray(size, np.uint8, _at(dst, size))[...] = np.ndarray(size, np.uint8, _at(src, size))
        self.streams.calls.append(("copy", stream, size))

    def empty_pinned(self, shape, dtype):
        self.pinned.append(np.full(shape, _UNSET_BYTE, dtype))
        return self.pinned[-1]

    def modules(self):
        """Return the modules ``cupy``, ``cupyx`` and the namespace of the standard, by name."""
        runtime = SimpleNamespace(
            CUDA_R_16F=2, CUDA_R_16BF=14, CUDA_R_32F=0, memcpyHostToDevice=1, memoryTypeHost=1,
            memcpyAsync=self.copy, pointerGetAttributes=self.pointer_attributes,
            getDeviceProperties=lambda index: {"name": b"a stand-in"}, runtimeGetVersion=lambda: 13000,
        )  # fmt: skip
        cuda = SimpleNamespace(
            Device=lambda index: SimpleNamespace(id=index, mem_info=(2**33, 2**34)),
            Stream=self.streams, Event=self.streams.event,
            get_current_stream=self.streams.current, runtime=runtime, cublas=self.cublas,
            device=SimpleNamespace(get_cublas_handle=lambda: 7),
        )  # fmt: skip
        cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
        cupy.__dict__.update(
            __version__="0",
            get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0), cuda=cuda,
            RawModule=RawModule, asnumpy=lambda one: np.array(one, subok=False),
            ascontiguousarray=_contiguous,
            linalg=SimpleNamespace(eigvalsh=_eigvalsh),
        )  # fmt: skip
        cupyx.__dict__.update(empty_pinned=self.empty_pinned)
        return {"cupy": cupy, "cupyx": cupyx, "array_api_compat.cupy": _Namespace()}


def _contiguous(values):
    if values.flags.c_contiguous:
        return values
    _compile("a copy")
    return _copied(np.ascontiguousarray(values))


def _eigvalsh(matrix, UPLO):
    return on_card(np.linalg.eigvalsh(np.asarray(matrix), UPLO=UPLO))


STAND_IN = StandIn()


def device(monkeypatch):
    """Return a device over the stand-in, as if CuPy found a card."""
    global STAND_IN
    from rankme_stream.numerics.devices.cupy import CupyDevice

    STAND_IN = StandIn()
    modules = STAND_IN.modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(array_api_compat, "cupy", modules["array_api_compat.cupy"], raising=False)
    return CupyDevice(0)
