"""PyTorch: tensors on a CUDA card, or on any device of torch."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError, SourceFormatError
from rankme_stream.numerics.devices import cuda_settings
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, StoredType

_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")
_NO_TYPES = ("uint16", "uint32", "uint64")  # torch stores these types and does not compute with them


class TorchDevice(StandardDevice):
    """Tensors on one device of torch."""

    def __init__(self, name: str) -> None:
        import torch
        from array_api_compat import torch as xp

        super().__init__(xp, name, torch.device(name), _TYPES)
        self._torch = torch

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the name."""
        return _device, (self.name,)

    def describe(self) -> dict[str, str]:
        """Return card, CUDA and torch."""
        facts = {"device": self.name, "torch": str(self._torch.__version__)}
        if self._device.type == "cuda":
            facts |= {
                "card": str(self._torch.cuda.get_device_name(self._device)), "cuda": str(self._torch.version.cuda),
            } | cuda_settings.overrides()  # fmt: skip
        return facts

    def free_bytes(self) -> int:
        """Return the free bytes of the card and those that torch keeps for reuse."""
        if self._device.type != "cuda":
            return 0
        cuda = self._torch.cuda
        free, _ = cuda.mem_get_info(self._device)
        return int(free) + int(cuda.memory_reserved(self._device)) - int(cuda.memory_allocated(self._device))

    def download(self, values: Any) -> Array:
        """Return a tensor as values of the host, bfloat16 as float32."""
        values = values.detach()
        found: Array = (values.float() if values.dtype == self._torch.bfloat16 else values).cpu().numpy()
        return found

    def stored_type(self, rows: Any, uri: str) -> StoredType:
        """Return the number type of a tensor."""
        kind = super().stored_type(rows, uri)
        if kind.name in _NO_TYPES:
            raise SourceFormatError(f"{uri} is a tensor of {kind.name}, which torch does not compute with: widen it")
        return kind

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 tensor into a float32 one, from which products are formed."""
        if self._device.type == "cuda":
            cuda_settings.refuse_tf32(_allows_tf32(self._torch))
        super().narrow(panel, out)

    def rows(self, stored: Any, kind: StoredType) -> Any:
        """Return stored rows on the device, bfloat16 by their bits."""
        if isinstance(stored, np.ndarray) and kind.name == "bfloat16":
            return self.upload(stored.view(np.int16)).view(self._torch.bfloat16)
        return super().rows(stored, kind)

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return whether this is a card on which torch sums products of 16-bit rows in float32."""
        return self._device.type == "cuda" and cuda_settings.adds_in_float32(self, kind)

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``; ``matmul`` would store products of 16-bit rows in 16 bits."""
        if left.dtype == out.dtype:
            self._torch.matmul(left.T, right, out=out)
        else:
            self._torch.mm(left.T, right, out.dtype, out=out)

    def add_product(self, left: Any, right: Any, out: Any, scratch: Any) -> None:
        """Add ``left.T @ right`` to ``out``; ``addmm`` might continue one long chain of additions instead."""
        product = scratch.array("product", tuple(out.shape))
        self._torch.matmul(left.T, right, out=product)
        out += product

    def r_factor(self, matrix: Any) -> Any:
        """Return the R factor of a tall matrix."""
        return self._torch.linalg.qr(matrix, mode="r").R


@lru_cache(maxsize=16)
def _device(name: str) -> TorchDevice:
    return TorchDevice(name)


def open_device(index: int) -> TorchDevice:
    """Return a CUDA card.

    Raises
    ------
    DeviceError
        If torch is not installed, was built without CUDA or finds no such card.
    """
    try:
        import torch
    except ImportError:
        raise DeviceError("PyTorch is not installed (pip install 'rankme-stream[torch]')") from None
    if not torch.cuda.is_available():
        raise DeviceError("PyTorch finds no CUDA card")
    if index >= torch.cuda.device_count():
        raise DeviceError(f"PyTorch finds {torch.cuda.device_count()} cards, counted from 0")
    cuda_settings.refuse_emulation()
    return _device(f"cuda:{index}")


def memory_errors() -> tuple[type[Exception], ...]:
    """Return the exception that torch raises where the card has no memory left."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.cuda.OutOfMemoryError,)


def _allows_tf32(torch: Any) -> bool:
    matmul = torch.backends.cuda.matmul
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


def adopted(array: Any, uri: str) -> Adopted:
    """Return a tensor as it is, or those of the host as an array of numpy."""
    import torch

    tensor = array.detach()
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        raise SourceFormatError(f"{uri} is a tensor of {tensor.dtype}, {tensor.layout}: make it dense and plain first")
    tensor = tensor.as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()  # other threads read it on streams of their own
        return Adopted(open_device(tensor.device.index), tensor)
    if tensor.device.type != "cpu":
        raise SourceFormatError(f"{uri} is on {tensor.device}, which is not supported: move it with .cpu() first")
    if tensor.dtype == torch.bfloat16:
        return Adopted(HOST, tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16")
    try:
        return Adopted(HOST, tensor.numpy())
    except TypeError:  # float8 and other types that numpy lacks
        raise SourceFormatError(f"{uri} is a tensor of {tensor.dtype}, which is not supported: convert it") from None
