"""CuPy: arrays on a CUDA card."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from rankme_stream.arrays import Array, StoredType
from rankme_stream.devices import Adopted
from rankme_stream.devices.standard import StandardDevice
from rankme_stream.errors import DeviceError

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

    def describe(self) -> dict[str, str]:
        """Return card, CUDA and CuPy."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._place.id)
        return {
            "device": self.name, "card": properties["name"].decode(), "cupy": str(self._cupy.__version__),
            "cuda": str(self._cupy.cuda.runtime.runtimeGetVersion()),
        }  # fmt: skip

    def download(self, values: Any) -> Array:
        """Return values from there on the host."""
        found: Array = self._cupy.asnumpy(values)
        return found

    def rows(self, stored: Any, kind: StoredType) -> Any:
        """Return stored rows there; bfloat16 become float32 there, of which they are the upper half."""
        if not isinstance(stored, np.ndarray) or kind.name != "bfloat16":
            return super().rows(stored, kind)
        bits = self.upload(stored).astype(np.uint32)
        return (bits << np.uint32(16)).view(np.float32)

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``."""
        self._cupy.matmul(left.T, right, out=out)

    def add_product(self, left: Any, right: Any, out: Any, scratch: Any) -> None:
        """Add ``left.T @ right`` to ``out``."""
        product = scratch.array("product", out.shape)
        self._cupy.matmul(left.T, right, out=product)
        out += product

    def _r_factor(self, matrix: Any) -> Any:
        return self._cupy.linalg.qr(matrix, mode="r")


@lru_cache(maxsize=16)
def _device(index: int) -> CupyDevice:
    return CupyDevice(index)


def open_device(index: int) -> CupyDevice:
    """Return a CUDA card.

    Raises
    ------
    DeviceError
        If CuPy is not installed, finds no such card, or another one is current: its arrays are where that is.
    """
    try:
        import cupy
    except ImportError:
        raise DeviceError("CuPy is not installed (pip install 'rankme-stream[cuda12]', or [cuda13])") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"CuPy finds no CUDA card: {error}") from error
    if index >= count:
        raise DeviceError(f"CuPy finds {count} cards, counted from 0")
    if index != (current := cupy.cuda.runtime.getDevice()):
        raise DeviceError(f"CuPy computes on card {current} here: choose others with CUDA_VISIBLE_DEVICES")
    return _device(index)


def adopted(array: Any, uri: str) -> Adopted:
    """Return an array as it is."""
    return Adopted(open_device(array.device.id), array)
