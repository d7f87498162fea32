"""CuPy: arrays on a CUDA card."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices import cuda_settings
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

_TYPES = (
    "float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip


class CupyDevice(StandardDevice):
    """Arrays on one card."""

    def __init__(self, index: int) -> None:
        import cupy
        from array_api_compat import cupy as xp

        super().__init__(xp, f"cuda:{index}", cupy.cuda.Device(index), _TYPES)
        self._cupy = cupy

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

    def rows(self, stored: Any, kind: StoredType) -> Any:
        """Return stored rows on the card; bfloat16 become float32, of which they are the upper half."""
        if not isinstance(stored, np.ndarray) or kind.name != "bfloat16":
            return super().rows(stored, kind)
        bits = self.upload(stored).astype(np.uint32)
        return (bits << np.uint32(16)).view(np.float32)

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Refuse settings under which products would not be what their bounds assume."""
        cuda_settings.check(self, precision, panel_type)

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return whether cuBLAS sums products of such rows in float32; bfloat16 rows are float32 here."""
        return kind.name == "float16" and cuda_settings.adds_in_float32(self, kind)

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``; ``matmul`` would store products of float16 rows in float16."""
        if left.dtype == out.dtype:
            self._cupy.matmul(left.T, right, out=out)
        else:
            self._set_exact_product(left, right, out)

    def _set_exact_product(self, left: Any, right: Any, out: Any) -> None:
        """Write the product of float16 columns into a float32 array.

        cuBLAS stores matrices by columns, so it takes each of the three as its transpose.
        """
        cublas, runtime = self._cupy.cuda.cublas, self._cupy.cuda.runtime
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        cublas.gemmEx(
            self._cupy.cuda.device.get_cublas_handle(), cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T,
            right.shape[1], left.shape[1], left.shape[0], one.ctypes.data,
            right.data.ptr, runtime.CUDA_R_16F, right.strides[0] // 2,
            left.data.ptr, runtime.CUDA_R_16F, left.strides[0] // 2, zero.ctypes.data,
            out.data.ptr, runtime.CUDA_R_32F, out.strides[0] // 4,
            cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def add_product(self, left: Any, right: Any, out: Any, scratch: Any) -> None:
        """Add ``left.T @ right`` to ``out``."""
        product = scratch.array("product", out.shape)
        self._cupy.matmul(left.T, right, out=product)
        out += product

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 array into a float32 one, from which products are formed."""
        cuda_settings.refuse_tf32()
        super().narrow(panel, out)

    def r_factor(self, matrix: Any) -> Any:
        """Return the R factor of a tall matrix."""
        with _raising():
            return self._cupy.linalg.qr(matrix, mode="r")

    def eigenvectors(self, symmetric: Any) -> tuple[FloatArray, Any]:
        """Return the eigenvalues, on the host, ascending, and the eigenvectors, on the card."""
        with _raising():
            return super().eigenvectors(symmetric)

    def eigenvalues(self, lower: Any) -> FloatArray:
        """Return the eigenvalues, descending."""
        with _raising():
            return super().eigenvalues(lower)

    def singular_values(self, matrix: Any) -> FloatArray:
        """Return the singular values, descending."""
        with _raising():
            return super().singular_values(matrix)


def _raising() -> Any:
    """Return a context in which CuPy raises failures of cuSOLVER, which it ignores by default."""
    import cupyx

    return cupyx.errstate(linalg="raise")


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
