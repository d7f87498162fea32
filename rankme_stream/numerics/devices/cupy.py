"""CuPy: arrays on a CUDA card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices import cuda_settings
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import Seen
from rankme_stream.numerics.devices.cublas_products import CublasProducts
from rankme_stream.numerics.devices.cuda_kernels import CudaKernels, has_rows
from rankme_stream.numerics.devices.device import Adopted, Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

_TYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64",
)  # fmt: skip
_ALIGNED_BYTES = 128  # where the first feature of a slab lies
_ALIGNED_VALUES = 16  # distances of rows are multiples of it
_SQUARES_BYTES = 2**28  # of the products of panels that are formed at once
_HALF_FROM = 2048  # features; below, half the work of a product takes as long as all of it


class CupyEvent:
    """A point in the work of a stream."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def wait(self) -> None:
        """Wait, on the host, until the work before that point is done."""
        self.event.synchronize()


class CupyStream:
    """Work of a card that is done in order, beside the work of other streams."""

    def __init__(self, cupy: Any) -> None:
        self._cupy, self._stream = cupy, cupy.cuda.Stream(non_blocking=True)

    def __enter__(self) -> None:
        """Let the operations of this thread join the stream."""
        self._stream.__enter__()

    def __exit__(self, *error: object) -> None:
        """Let the operations of this thread join the stream that they joined before."""
        self._stream.__exit__(*error)

    def copy(self, rows: Array, out: Any) -> None:
        """Queue a copy of rows of the host, C order, into an array of the card, C order, of the same size."""
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(out.data.ptr, rows.ctypes.data, rows.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)

    def record(self) -> CupyEvent:
        """Return the point after all work queued so far."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return CupyEvent(event)

    def wait(self, event: CupyEvent) -> None:
        """Let work queued from here on begin after a point of another stream."""
        self._stream.wait_event(event.event)


class CupyDevice(StandardDevice):
    """Arrays on one card."""

    def __init__(self, index: int) -> None:
        import cupy
        from array_api_compat import cupy as xp

        super().__init__(xp, f"cuda:{index}", cupy.cuda.Device(index), _TYPES)
        self._cupy, self._kernels, self._products = cupy, CudaKernels(cupy), CublasProducts(cupy)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the card."""
        return _device, (self._device.id,)

    def describe(self) -> dict[str, str]:
        """Return card, CUDA and CuPy."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._device.id)
        return {
            "device": self.name, "card": properties["name"].decode(), "cupy": str(self._cupy.__version__),
            "cuda": str(self._cupy.cuda.runtime.runtimeGetVersion()),
        } | cuda_settings.overrides()  # fmt: skip

    def free_bytes(self) -> int:
        """Return the free bytes of the card and those that CuPy keeps for reuse."""
        free, _ = self._device.mem_info
        return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def download(self, values: Any) -> Array:
        """Return an array of the card as values of the host."""
        found: Array = self._cupy.asnumpy(values)
        return found

    def _type(self, name: str) -> Any:
        """Return a type of the namespace; bfloat16 are held as their bits."""
        return super()._type("uint16" if name == "bfloat16" else name)

    def stream(self) -> Any:
        """Return a new stream, beside the default one."""
        return CupyStream(self._cupy)

    def finish(self) -> None:
        """Wait for all work outside of streams, and for that of the current stream."""
        for stream in (self._cupy.cuda.Stream.null, self._cupy.cuda.get_current_stream()):
            stream.synchronize()

    def pinned(self, n_bytes: int) -> Array:
        """Return pinned memory, which CuPy keeps for reuse."""
        import cupyx

        memory: Array = cupyx.empty_pinned((n_bytes,), np.uint8)
        return memory

    def is_pinned(self, rows: Array) -> bool:
        """Return whether rows in C order and native byte order lie in pinned memory, of whatever library."""
        if not (rows.size and rows.flags.c_contiguous and rows.dtype.isnative):
            return False
        runtime, first = self._cupy.cuda.runtime, rows.ctypes.data
        kinds = {runtime.pointerGetAttributes(address).type for address in (first, first + rows.nbytes - 1)}
        return kinds == {runtime.memoryTypeHost}

    def slab(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return zeros for a slab whose features begin at an aligned address; the ones lie just before."""
        return self._aligned(shape, dtype, lambda size: self.zeros((size,), dtype))

    def _aligned(self, shape: tuple[int, int], dtype: str, make: Callable[[int], Any]) -> Any:
        """Return a slab in the memory of so many numbers that a function returns."""
        rows, width = shape
        before = _ALIGNED_BYTES // np.dtype(self._type(dtype)).itemsize
        stride = _padded(width)
        flat = make(before + rows * stride)
        return flat[before - 1 : before - 1 + rows * stride].reshape(rows, stride)[:, :width]

    def fill_slab(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Look at every value of stored rows once, and write the rows, with a one in front, into a slab."""
        if not has_rows(stored):
            stored = self._cupy.ascontiguousarray(stored)
        self._kernels.fill_slab(stored, kind.name, slab, seen, skip)

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Write the rows of a float64 slab, scaled to unit length, into another; rows of zeros become zeros."""
        self._kernels.unit_rows(slab, out)

    def squared_lengths(self, rows: Any) -> Any:
        """Return the sum of the squares of each row of a float64 array."""
        if not has_rows(rows):
            return super().squared_lengths(rows)
        lengths = self.empty((rows.shape[0],), rows)
        self._kernels.squared_lengths(rows, lengths)
        return lengths

    def scale(self, rows: Any, scales: Any, out: Any) -> None:
        """Write each row of a float64 array, times its scale, into ``out``."""
        if has_rows(rows) and has_rows(out):
            self._kernels.scale_rows(rows, self._cupy.ascontiguousarray(scales), out)
        else:
            super().scale(rows, scales, out)

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Refuse settings under which products would not be what their bounds assume."""
        cuda_settings.check(self, precision, panel_type)

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return whether cuBLAS sums products of 16-bit rows in float32, by trial."""
        return cuda_settings.adds_in_float32(self, kind)

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Workspace) -> None:
        """Add ``panel.T @ panel`` of each float64 panel of a slab, one after another, to a lower triangle."""
        self._add_squares(slab, min(panel_rows, slab.shape[0]), total, None, scratch)

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Do as ``add_panels`` with float32 products."""
        if str(slab.dtype) == "float64":
            wide, dtype = slab, "float32"
            slab = self._aligned(wide.shape, dtype, lambda size: scratch.room("panel32", (size,), np.float32))
            self._kernels.narrow(wide, slab)
        self._add_squares(slab, min(panel_rows, slab.shape[0]), total, overflowed, scratch)

    def _add_squares(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Add panels to a lower triangle: sums of columns by a kernel, products of features by cuBLAS, some at once."""
        name, features, n_panels = str(slab.dtype), slab.shape[1] - 1, slab.shape[0] // panel_rows
        dtype = np.dtype(np.float64 if name == "float64" else np.float32)
        sums = self._kernels.column_sums(slab, panel_rows, scratch)
        stride = _padded(features)
        at_once = max(1, min(n_panels, _SQUARES_BYTES // (features * stride * dtype.itemsize)))
        squares = scratch.room("squares", (at_once, features, stride), dtype)[:, :, :features]
        scales = scratch.room("scales", (at_once, features))
        for first in range(0, n_panels, at_once):
            last = min(first + at_once, n_panels)
            some, found = slab[first * panel_rows : last * panel_rows, 1:], squares[: last - first]
            if name == "float64" and features >= _HALF_FROM:
                for panel in range(last - first):
                    self._products.set_square(some[panel * panel_rows : (panel + 1) * panel_rows], found[panel])
            else:
                self._products.set(some, some, found, panel_rows)
            if dtype == np.float32:
                is_16_bit = name != "float32"
                self._kernels.set_scales(found, sums[first:last], is_16_bit, scales, overflowed[first:last])
            self._kernels.add_squares(total, found, sums[first:last], scales)

    def symmetric_product(self, lower: Any, right: Any) -> Any:
        """Return the product of the symmetric matrix with a lower triangle, which is copied above it, and a matrix."""
        self._kernels.mirror(lower)
        out = self.empty(tuple(right.shape), right)
        self.set_product(lower, right, out)
        return out

    def add_probed(self, panel: Any, directions: Any, products: Any, sums: Any, scratch: Workspace) -> None:
        """Add ``panel.T @ (panel @ directions)`` to ``products`` and the sum of the rows to ``sums``, in float64."""
        self.add_probed_panels(panel, panel.shape[0], directions, products, sums, scratch)

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Workspace
    ) -> None:
        """Do as ``add_probed`` for each panel of a slab, all at once; the slab is read as it is stored."""
        panel_rows = min(panel_rows, slab.shape[0])
        self._kernels.add_matrices(products, self._kernels.probe(slab, panel_rows, directions, scratch))
        column_sums = self._kernels.column_sums(slab, panel_rows, scratch)
        self._kernels.add_matrices(sums[:, None], column_sums[:, 0, :, None])

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``, in float32 from columns of 16 bits."""
        self._products.set(left, right, out[None], left.shape[0])

    def add_product(self, left: Any, right: Any, out: Any, scratch: Workspace) -> None:
        """Add ``left.T @ right`` to ``out``, in float64."""
        product = scratch.room("product", tuple(out.shape))
        self.set_product(left, right, product)
        self._kernels.add_matrices(out, product[None])

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 array into a float32 one, from which products are formed."""
        cuda_settings.refuse_tf32()
        self._kernels.narrow(panel, out)

    def r_factor(self, matrix: Any) -> Any:
        """Return the R factor of a tall matrix."""
        with self._solving():
            return self._cupy.linalg.qr(matrix, mode="r")

    def eigenvalues(self, lower: Any) -> FloatArray:
        """Return the eigenvalues, descending; CuPy reads the lower triangle alone."""
        with self._solving():
            return np.array(self.download(self._cupy.linalg.eigvalsh(lower, UPLO="L"))[::-1])

    @contextmanager
    def _solving(self) -> Iterator[None]:
        """Let CuPy raise failures of cuSOLVER, which it ignores by default."""
        import cupyx

        with super()._solving(), cupyx.errstate(linalg="raise"):
            yield


def _padded(n: int) -> int:
    """Return the least distance of rows of so many numbers."""
    return -(-n // _ALIGNED_VALUES) * _ALIGNED_VALUES


@lru_cache(maxsize=16)
def _device(index: int) -> CupyDevice:
    return CupyDevice(index)


def open_device(index: int) -> CupyDevice:
    """Return a CUDA card.

    Raises
    ------
    DeviceError
        If CuPy is not installed or finds no card; and for any card but the first, because CuPy makes arrays on the
        current card of a thread.
    """
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            raise DeviceError("CuPy is not installed (pip install 'rankme-stream[cuda12]', or [cuda13])") from None
        raise DeviceError(f"CuPy does not work here: {error}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"CuPy finds no CUDA card: {error}") from error
    if index or not count:
        raise DeviceError("CuPy computes on the first card here: choose it with CUDA_VISIBLE_DEVICES")
    cuda_settings.refuse_emulation()
    return _device(index)


def memory_errors() -> tuple[type[Exception], ...]:
    """Return nothing: where the card has no memory left, CuPy raises a ``MemoryError``."""
    return ()


def adopted(array: Any, uri: str) -> Adopted:
    """Return an array as it is, once it is filled: other threads read it on streams of their own."""
    import cupy

    cupy.cuda.get_current_stream().synchronize()
    return Adopted(open_device(array.device.id), array)
