"""PyTorch: tensors on a CUDA card, or on any device of torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError, SourceFormatError
from rankme_stream.numerics.devices import cuda_settings
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import CONSTANT, INEXACT, LARGE, LEAST_DIAGONAL, NONFINITE, ZERO, Seen
from rankme_stream.numerics.devices.device import Adopted, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.torch_streams import CudaStream, HostStream, bytes_of
from rankme_stream.numerics.dtypes import EXACT_INTEGER, LARGEST_MAGNITUDE, Array, StoredType

_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")
_NO_TYPES = ("uint16", "uint32", "uint64")  # torch stores these types and does not compute with them
_ALIGNMENT, _STRIDE = 128, 16  # bytes at which the features of a slab begin; its stride is a multiple of 16 values
_ONE_BY_ONE = 2048  # features from which on one product fills a card
_ROUNDED = 2.0**-22  # four roundings of float32
_BATCH_VALUES, _LARGEST_BATCH = 2**13, 16  # features times panels, and panels, that are multiplied at once


class TorchDevice(StandardDevice):
    """Tensors on one device of torch."""

    def __init__(self, name: str) -> None:
        import torch
        from array_api_compat import torch as xp

        super().__init__(xp, name, torch.device(name), _TYPES)
        self._torch, self.unsolved = torch, (torch.linalg.LinAlgError,)
        self._is_cuda = self._device.type == "cuda"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the name."""
        return _device, (self.name,)

    def describe(self) -> dict[str, str]:
        """Return card, CUDA and torch."""
        facts = {"device": self.name, "torch": str(self._torch.__version__)}
        if self._is_cuda:
            facts |= {
                "card": str(self._torch.cuda.get_device_name(self._device)), "cuda": str(self._torch.version.cuda),
            } | cuda_settings.overrides() | cuda_settings.of_torch(self._torch)  # fmt: skip
        return facts

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Refuse settings under which products would not be what their bounds assume."""
        if self._is_cuda:
            if precision == "float32":
                cuda_settings.refuse_of_torch(self._torch, panel_type)
            cuda_settings.check(self, precision, panel_type, cuda_settings.of_torch(self._torch))

    def free_bytes(self) -> int:
        """Return the free bytes of the card and those that torch keeps for reuse."""
        if not self._is_cuda:
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

    def stream(self) -> Any:
        """Return a new stream."""
        return CudaStream(self._torch, self._device) if self._is_cuda else HostStream(self._torch, self)

    def finish(self) -> None:
        """Wait for all work outside of streams, and for that of the current stream."""
        if self._is_cuda:
            for stream in (self._torch.cuda.default_stream, self._torch.cuda.current_stream):
                stream(self._device).synchronize()

    def pinned(self, n_bytes: int) -> Array:
        """Return pinned memory, of which torch takes a power of two bytes; plain memory on the processor."""
        if not self._is_cuda:
            return super().pinned(n_bytes)
        memory: Array = self._torch.empty(n_bytes, dtype=self._torch.uint8, device="cpu", pin_memory=True).numpy()
        return memory

    def is_pinned(self, rows: Array) -> bool:
        """Return whether rows of the host lie in pinned memory, in an order in which torch copies them at once."""
        flags = rows.flags
        if not self._is_cuda or not (flags.c_contiguous and rows.dtype.isnative and rows.size):
            return False
        return bool(bytes_of(self._torch, rows).is_pinned())

    def slab(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return zeros for a slab: the features of every row begin where products read them fastest.

        The column of ones lies just before them. Products are of the features alone, so that their width stays whole
        tiles: 1,025 columns would be 9 tiles of 128 in place of 8.
        """
        rows, width = shape
        stride = -(-width // _STRIDE) * _STRIDE
        front = _ALIGNMENT // self._type(dtype).itemsize
        return self.zeros((front + rows * stride,), dtype).as_strided(shape, (stride, 1), front - 1)

    def fill_slab(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Look at every value of stored rows once, and write the rows, with a one in front, into a slab.

        Nothing here waits for the card: no number is fetched, and no mask decides how large a tensor becomes. The least
        and the largest value of a row tell all about it in one reading; both are NaN where any value is.
        """
        torch, flags = self._torch, seen.flags
        lowest, highest = torch.aminmax(stored, dim=1)
        found, magnitudes = torch.zeros_like(flags), None
        if kind.is_float:
            magnitudes = torch.maximum(highest, -lowest)
            _add_bits(found, (magnitudes < math.inf).logical_not(), NONFINITE)
        is_constant = lowest == highest
        _add_bits(found, is_constant & (lowest == 0), ZERO)
        if stored.shape[1] > 1:
            _add_bits(found, is_constant, CONSTANT)
        if kind.name == "int64":
            _add_bits(found, (lowest < -EXACT_INTEGER) | (highest > EXACT_INTEGER), INEXACT)
        flags.bitwise_or_(found)
        counts = (flags & skip) == 0
        if kind.name == "float64":
            magnitudes = torch.where(counts, magnitudes, torch.zeros_like(magnitudes))
            flags.bitwise_or_((magnitudes > LARGEST_MAGNITUDE).view(torch.uint8) * LARGE)
            counts = (flags & skip) == 0
            magnitudes = torch.where(counts, magnitudes, torch.zeros_like(magnitudes))
            torch.maximum(seen.largest, magnitudes.amax(dim=0, keepdim=True), out=seen.largest)
        features = slab[:, 1:]
        kept = features if features.dtype == stored.dtype else torch.empty_like(stored)
        torch.where(counts[:, None], stored, stored.new_zeros(()), out=kept)
        seen.nonzero.bitwise_or_(torch.any(kept, dim=0).view(torch.uint8))
        if kept is not features:
            features.copy_(kept)
        slab[:, 0].copy_(counts)

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Write the rows of a float64 slab, scaled to unit length, into another; rows of zeros become zeros."""
        torch, rows = self._torch, slab[:, 1:]
        lengths = torch.linalg.vector_norm(rows, dim=1)
        zeros = torch.zeros_like(lengths)
        scales = torch.where(lengths == 0, zeros, lengths.reciprocal())
        torch.mul(rows, scales[:, None], out=out[:, 1:])
        out[:, 0].copy_(torch.where(lengths == 0, zeros, slab[:, 0]))

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Workspace) -> None:
        """Add ``panel.T @ panel`` of each float64 panel of a slab, one after another, to a float64 matrix."""
        beside = self._with_count(slab, total)
        for panels, n_panels in self._batches(slab, panel_rows, scratch):
            for product in self._products(panels, np.float64, scratch)[:n_panels].unbind():
                beside.add_(product)
        total[1:, 0].copy_(total[0, 1:])

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Workspace) -> None:
        """Do as ``add_panels`` with float32 products."""
        if self._is_cuda:
            cuda_settings.refuse_of_torch(self._torch, _name(slab.dtype))
        torch, first, beside = self._torch, 0, self._with_count(slab, total)
        for panels, n_panels in self._batches(slab, panel_rows, scratch):
            factors = panels
            if panels.dtype == torch.float64:
                factors = scratch.room("panels32", tuple(panels.shape), np.float32)
                factors.copy_(panels)
            products = self._products(factors, np.float32, scratch)
            squares = products[:, 1:].diagonal(dim1=1, dim2=2)
            is_finite = squares.amax(dim=1) < math.inf
            overflowed[first : first + n_panels].copy_(is_finite[:n_panels].logical_not())
            first += n_panels
            if factors.dtype == torch.float32:
                for product in products[:n_panels].unbind():
                    beside.add_(product)
                continue
            scales = _true_over_computed(torch, factors, squares)
            products[:, 1:].mul_(scales[:, :, None])
            for product, scale in zip(products[:n_panels].unbind(), scales, strict=False):
                beside[0].add_(product[0])
                beside[1:].addcmul_(product[1:], scale)
        total[1:, 0].copy_(total[0, 1:])

    def _batches(self, slab: Any, panel_rows: int, scratch: Workspace) -> Iterator[tuple[Any, int]]:
        """Yield the features of some panels, shape ``(panels, rows, D)``, and how many of the panels are of the slab.

        cuBLAS chooses how to add up by the number of panels multiplied at once, so this depends on D alone: a batch
        that is not full is multiplied beside panels of zeros, or old ones, whose products nobody uses.
        """
        rows, width = slab.shape[0], slab.shape[1] - 1
        if rows < panel_rows:
            yield slab[:, 1:].unflatten(0, (1, rows)), 1
            return
        batch = _batch(width)
        for start in range(0, rows, batch * panel_rows):
            some = slab[start : start + batch * panel_rows, :]
            n_rows = some.shape[0]
            if n_rows < batch * panel_rows:
                key = ("batch", (batch * panel_rows, 1 + width), _name(slab.dtype))
                whole = scratch.kept(key, partial(self.slab, *key[1:]))
                whole[:n_rows, :].copy_(some)
                some = whole
            yield some[:, 1:].unflatten(0, (batch, panel_rows)), n_rows // panel_rows

    def _products(self, panels: Any, dtype: Any, scratch: Workspace) -> Any:
        """Return the sums of the columns of each panel, and below them the product of its features.

        Shape ``(panels, 1 + D, D)``: the matrix to add to, without its first column.
        """
        n_panels, _, width = panels.shape
        products = scratch.room("products", (n_panels, 1 + width, width), dtype)
        self._torch.sum(panels, dim=1, dtype=products.dtype, out=products[:, 0])
        self._multiply(panels, products[:, 1:])
        return products

    def _multiply(self, panels: Any, out: Any) -> None:
        """Write ``panel.T @ panel`` of each of some panels."""
        if panels.dtype == out.dtype:
            self._torch.bmm(panels.mT, panels, out=out)
        else:
            self._torch.bmm(panels.mT, panels, out.dtype, out=out)

    def _with_count(self, slab: Any, total: Any) -> Any:
        """Add the number of rows of a slab to a matrix, and return the matrix without its first column.

        Its first row is made equal to that column; sums of columns are added to it.
        """
        total[0, 0].add_(self._torch.sum(slab[:, 0], dtype=total.dtype))  # of whole numbers: exact in any order
        total[0, 1:].copy_(total[1:, 0])
        return total[:, 1:]

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 tensor into a float32 one, from which products are formed."""
        if self._is_cuda:
            cuda_settings.refuse_of_torch(self._torch, "float32")
            cuda_settings.refuse_tf32()
        super().narrow(panel, out)

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return whether this is a card on which torch sums products of 16-bit rows in float32."""
        return self._is_cuda and cuda_settings.adds_in_float32(self, kind, cuda_settings.of_torch(self._torch))

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


def _name(dtype: Any) -> str:
    """Return the name of a type of torch."""
    return str(dtype).removeprefix("torch.")


def _batch(n_features: int) -> int:
    """Return the number of panels that are multiplied at once: enough products to fill a card, a power of two."""
    if n_features >= _ONE_BY_ONE:
        return 1
    return 1 << min(_LARGEST_BATCH, _BATCH_VALUES // n_features).bit_length() - 1


def _add_bits(flags: Any, mask: Any, bit: int) -> None:
    """Set a bit where a mask is true; it was nowhere set."""
    flags.add_(mask.view(flags.dtype), alpha=bit)


def _true_over_computed(torch: Any, panels: Any, squares: Any) -> Any:
    """Return the root of the true over the computed sum of squares of each feature, shape ``(panels, D)``, float32.

    It is 1 where the computed sum is below ``LEAST_DIAGONAL``, where one overflowed, which the diagonal shows, and
    where it is 1 but for the roundings of two roots: products that are exact, of whole numbers, stay so.
    """
    ratios = torch.linalg.vector_norm(panels, dim=1, dtype=torch.float32) / squares.sqrt()
    is_off = ((ratios - 1).abs() > _ROUNDED) & (ratios < math.inf) & (squares >= LEAST_DIAGONAL)  # not where one is NaN
    return torch.where(is_off, ratios, torch.ones_like(ratios))


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
