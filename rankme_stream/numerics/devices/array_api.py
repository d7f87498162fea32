"""A device for any namespace of the array API standard, by the operations of the standard alone.

The modules of the libraries override the operations that a library does better.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.card import CONSTANT, INEXACT, LARGE, LEAST_DIAGONAL, NONFINITE, ZERO, Seen
from rankme_stream.numerics.devices.registry import device_named
from rankme_stream.numerics.dtypes import (
    EXACT_INTEGER,
    LARGEST_MAGNITUDE,
    Array,
    FloatArray,
    StoredType,
    named_type,
    stored_type,
)

_WIDE = ("int64", "uint64")
_FLOAT64 = named_type("float64")


class DoneEvent:
    """A point in work that was done when it was queued."""

    def wait(self) -> None:
        """Return at once."""


class ImmediateStream:
    """Work that is done when it is queued."""

    def __init__(self, device: StandardDevice) -> None:
        self._device = device

    def __enter__(self) -> None:
        """Enter nothing."""

    def __exit__(self, *error: object) -> None:
        """Leave nothing."""

    def copy(self, rows: Array, out: Any) -> None:
        """Copy rows of the host into an array of the device."""
        out[...] = self._device.upload(rows)

    def record(self) -> DoneEvent:
        """Return a point that was reached."""
        return DoneEvent()

    def wait(self, event: Any) -> None:
        """Return at once."""


class StandardDevice:
    """Arrays of a namespace on one of its devices.

    Parameters
    ----------
    xp
        The namespace, with its ``linalg`` extension.
    name
        For messages and results.
    device
        Argument ``device`` of the namespace; None is its default.
    types
        Names of stored types that are uploaded as they are; others are converted to float64 on the host, exactly.
    """

    block_columns = 2**16  # one product per panel: threads share nothing
    unsolved: tuple[type[Exception], ...] = (np.linalg.LinAlgError,)  # what the library raises

    def __init__(self, xp: Any, name: str, device: Any = None, types: tuple[str, ...] = ("float32", "float64")) -> None:
        self.xp, self.name = xp, name
        self._device, self._types = device, types

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the name, so that an array returns to its device."""
        return device_named, (self.name,)

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"device": self.name}

    def free_bytes(self) -> int:
        """Return 0: the standard has no such query."""
        return 0

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return False: products of the standard have the type of their factors."""
        return False

    def panel_type(self, kind: StoredType) -> str:
        """Return the type of the panels from which float32 products are formed, as ``Device`` says."""
        if self.multiplies_exactly(kind):
            return kind.name
        return "float32" if kind.fits_float32 else "float64"

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> Any:
        """Return an array of zeros; the order is ignored."""
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        return self.xp.zeros(shape, dtype=self._type(name), device=self._device)

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """Return an array of the type of another."""
        return self.xp.empty(shape, dtype=like.dtype, device=self._device)

    def _type(self, name: str) -> Any:
        return getattr(self.xp, name)

    def upload(self, values: Array) -> Any:
        """Return values of the host as an array of the device."""
        return self.xp.asarray(np.array(values), device=self._device)  # a copy: some libraries share the memory

    def download(self, values: Any) -> Array:
        """Return an array of the device as values of the host."""
        return np.from_dlpack(values)

    def stored_type(self, rows: Any, uri: str) -> StoredType:
        """Return the number type of an array."""
        name = str(rows.dtype).rpartition(".")[2]
        return stored_type(np.dtype(np.uint16 if name == "bfloat16" else name), uri=uri, declared=name)

    def check_settings(self, precision: str, panel_type: str) -> None:
        """Return at once: no setting is known to change these products."""

    def stream(self) -> Any:
        """Return a stream whose work is done when it is queued."""
        return ImmediateStream(self)

    def finish(self) -> None:
        """Return at once: all work was done when it was queued."""

    def pinned(self, n_bytes: int) -> Array:
        """Return plain memory of the host."""
        return np.empty(n_bytes, np.uint8)

    def is_pinned(self, rows: Array) -> bool:
        """Return False: rows are copied into memory of the pass first."""
        return False

    def taken_as(self, kind: StoredType) -> StoredType:
        """Return the type itself if arrays of the device have it and hold the values; else float64."""
        return kind if kind.decoding is None and kind.name in self._types else _FLOAT64

    def stored_rows(self, shape: tuple[int, int], kind: StoredType) -> Any:
        """Return memory of the device for stored rows."""
        return self.xp.empty(shape, dtype=self._type(kind.name), device=self._device)

    def slab(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return zeros for a slab."""
        return self.zeros(shape, dtype)

    def fill_slab(self, stored: Any, kind: StoredType, slab: Any, seen: Seen, skip: int) -> None:
        """Look at every value of stored rows once, and write the rows, with a one in front, into a slab."""
        xp, flags = self.xp, seen.flags
        found = xp.zeros_like(flags)
        if kind.is_float:
            found = found + self._bits(~xp.all(xp.isfinite(stored), axis=1), NONFINITE)
        found = found + self._bits(xp.all(stored == 0, axis=1), ZERO)
        if stored.shape[1] > 1:
            found = found + self._bits(xp.all(stored[:, 1:] == stored[:, :1], axis=1), CONSTANT)
        if kind.name in _WIDE:
            beyond = stored > EXACT_INTEGER
            if kind.dtype.kind == "i":
                beyond = beyond | (stored < -EXACT_INTEGER)
            found = found + self._bits(xp.any(beyond, axis=1), INEXACT)
        flags[...] = xp.bitwise_or(flags, found)
        bits = xp.asarray(skip, dtype=xp.uint8, device=self._device)
        counts = xp.bitwise_and(flags, bits) == 0
        kept = xp.where(counts[:, None], stored, xp.zeros_like(stored))
        if kind.name == "float64":
            magnitudes = xp.max(xp.abs(kept), axis=1)
            flags[...] = xp.bitwise_or(flags, self._bits(magnitudes > LARGEST_MAGNITUDE, LARGE))
            counts = xp.bitwise_and(flags, bits) == 0
            kept = xp.where(counts[:, None], kept, xp.zeros_like(kept))
            seen.largest[...] = xp.maximum(seen.largest, xp.max(xp.abs(kept)))
        seen.nonzero[...] = xp.bitwise_or(seen.nonzero, self._bits(xp.any(kept != 0, axis=0), 1))
        slab[:, 0] = xp.astype(counts, slab.dtype)
        slab[:, 1:] = xp.astype(kept, slab.dtype)

    def _bits(self, mask: Any, bit: int) -> Any:
        """Return a mask as bytes that hold a bit or nothing."""
        return self.xp.astype(mask, self.xp.uint8) * self.xp.asarray(bit, dtype=self.xp.uint8, device=self._device)

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Write the rows of a float64 slab, scaled to unit length, into another; rows of zeros become zeros."""
        xp, rows = self.xp, slab[:, 1:]
        squares = self.squared_lengths(rows)
        is_zero = squares == 0
        scales = 1.0 / xp.sqrt(xp.where(is_zero, xp.ones_like(squares), squares))
        self.scale(rows, scales, out[:, 1:])
        out[:, 0] = xp.where(is_zero, xp.zeros_like(squares), slab[:, 0])

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Any) -> None:
        """Add ``panel.T @ panel`` of each float64 panel of a slab, one after another, to a float64 matrix."""
        for start in range(0, slab.shape[0], panel_rows):
            panel = slab[start : min(start + panel_rows, slab.shape[0]), :]
            self.add_product(panel, panel, total, scratch)

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Any) -> None:
        """Do as ``add_panels`` with float32 products."""
        xp, width = self.xp, slab.shape[1]
        product = scratch.array("product32", (width, width), dtype=np.float32)
        for number, start in enumerate(range(0, slab.shape[0], panel_rows)):
            panel = slab[start : min(start + panel_rows, slab.shape[0]), :]
            if panel.dtype == xp.float64:
                rounded = scratch.array("panel32", tuple(panel.shape), dtype=np.float32)
                self.narrow(panel, rounded)
                panel = rounded
            self.set_product(panel, panel, product)
            is_finite = xp.all(xp.isfinite(xp.linalg.diagonal(product)))
            overflowed[number] = xp.astype(~is_finite, xp.uint8)
            wide = xp.astype(product, xp.float64)
            if panel.dtype != xp.float32:
                wide = self._with_true_diagonal(wide, panel)
            total += wide

    def _with_true_diagonal(self, product: Any, panel: Any) -> Any:
        """Return a product scaled by rows and columns so that its diagonal is the sum of squares of each column."""
        xp = self.xp
        true = xp.sum(xp.square(xp.astype(panel, xp.float32)), axis=0, dtype=xp.float64)
        computed = xp.linalg.diagonal(product)
        is_usual = (computed >= LEAST_DIAGONAL) & xp.isfinite(computed)
        ratio = xp.where(is_usual, true, xp.ones_like(true)) / xp.where(is_usual, computed, xp.ones_like(computed))
        scales = xp.sqrt(ratio)
        return product * scales[:, None] * scales[None, :]

    def squared_lengths(self, rows: Any) -> Any:
        """Return the sum of the squares of each row of a float64 array."""
        return self.xp.sum(rows * rows, axis=1)

    def scale(self, rows: Any, scales: Any, out: Any) -> None:
        """Write each row of a float64 array, times its scale, into ``out``."""
        out[...] = rows * scales[:, None]

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 array into a float32 one of the same shape."""
        out[...] = self.xp.astype(panel, self.xp.float32)

    def add_probed(self, panel: Any, directions: Any, products: Any, sums: Any, scratch: Any) -> None:
        """Add ``panel.T @ (panel @ directions)`` to ``products`` and the sum of the rows to ``sums``, in float64."""
        wide = self.xp.astype(panel, self.xp.float64, copy=False)
        products += wide.T @ (wide @ directions)
        sums += self.xp.sum(wide, axis=0)

    def symmetric_product(self, lower: Any, right: Any) -> Any:
        """Return the product of the symmetric matrix with a lower triangle and a matrix."""
        return self.xp.tril(lower) @ right + self.xp.tril(lower, k=-1).T @ right

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Any
    ) -> None:
        """Do as ``add_probed`` for each panel of a slab, all at once; 8 bytes a value, if they are not float64."""
        xp, (rows, width) = self.xp, slab.shape
        wide = xp.astype(slab, xp.float64, copy=False)
        n_panels = max(1, rows // panel_rows)
        panels = xp.reshape(wide, (n_panels, -1, width))
        images = xp.reshape(wide @ directions, (n_panels, -1, directions.shape[1]))
        products += xp.sum(xp.matmul(xp.matrix_transpose(panels), images), axis=0)
        sums += xp.sum(xp.sum(panels, axis=1), axis=0)

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``."""
        out[...] = self.xp.matmul(left.T, right)

    def add_product(self, left: Any, right: Any, out: Any, scratch: Any) -> None:
        """Add ``left.T @ right`` to ``out``."""
        out += self.xp.matmul(left.T, right)

    def stack_rows(self, r: Any, panel: Any, scratch: Any) -> None:
        """Replace ``r`` by the R factor of ``[r; panel]``, as dense rows."""
        r[...] = self.r_factor(self.xp.concat([r, panel]))

    def stack_triangle(self, r: Any, other: Any, scratch: Any) -> None:
        """Replace ``r`` by the R factor of ``[r; other]``, as dense rows."""
        self.stack_rows(r, other, scratch)

    def r_factor(self, matrix: Any) -> Any:
        """Return the R factor of a tall matrix."""
        return self.xp.linalg.qr(matrix, mode="reduced")[1]

    def eigenvectors(self, symmetric: Any) -> tuple[FloatArray, Any]:
        """Return the eigenvalues, on the host, ascending, and the eigenvectors, on the device."""
        with self._solving():
            values, vectors = self.xp.linalg.eigh(symmetric)
        return np.array(self.download(values)), vectors

    def reflected_rows(self, rows: int, n: int) -> int:
        """Return all rows: the standard does not use that R is triangular."""
        return rows + n

    def eigenvalues(self, lower: Any) -> FloatArray:
        """Return the eigenvalues, descending; the upper triangle is filled in, as libraries may read either."""
        whole = self.xp.tril(lower) + self.xp.tril(lower, k=-1).T
        with self._solving():
            return np.array(self.download(self.xp.linalg.eigvalsh(whole))[::-1])

    def eigenvalues_with_leading(self, lower: Any) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues, descending, of all, and of all but the last row and column."""
        leading = self.eigenvalues(lower[:-1, :-1]) if lower.shape[0] > 1 else np.empty(0)
        return self.eigenvalues(lower), leading

    def singular_values(self, matrix: Any) -> FloatArray:
        """Return the singular values, descending."""
        with self._solving():
            return np.array(self.download(self.xp.linalg.svdvals(matrix)))

    @contextmanager
    def _solving(self) -> Iterator[None]:
        """Raise our error where the library finds no eigenvalues, as of numbers that are not finite."""
        try:
            yield
        except self.unsolved as error:
            raise ArithmeticCheckError(f"{self.name} found no eigenvalues: {error}") from error
