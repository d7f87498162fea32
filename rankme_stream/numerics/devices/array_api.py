"""A device for any namespace of the array API standard, by the operations of the standard alone.

The modules of the libraries override the operations that a library does better.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rankme_stream.numerics.devices.registry import device_named
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType, stored_type

_EXACT_INTEGER = 2**53
_WIDE = ("int64", "uint64")


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
        """Return the type of the panels from which float32 products are formed: that of rows multiplied exactly."""
        return kind.name if self.multiplies_exactly(kind) else "float64"

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

    def rows(self, stored: Any, kind: StoredType) -> Any:
        """Return stored rows on the device."""
        if not isinstance(stored, np.ndarray):
            return stored
        if kind.name in self._types:
            return self.upload(stored)
        values = np.empty(stored.shape)
        kind.widen(stored, values, np.empty(stored.shape, np.int32))
        return self.upload(values)

    def nonfinite_rows(self, rows: Any, kind: StoredType) -> Array | None:
        """Return a mask on the host of the rows that hold NaN or infinity; None where none does."""
        if not kind.is_float:
            return None
        is_finite = self.xp.all(self.xp.isfinite(rows), axis=1)
        return None if bool(self.xp.all(is_finite)) else ~self.download(is_finite)

    def zero_rows(self, rows: Any, kind: StoredType) -> Array:
        """Return the indices, on the host, of the rows that are zero throughout."""
        return np.flatnonzero(self.download(self.xp.all(rows == 0, axis=1)))

    def constant_rows(self, rows: Any, kind: StoredType) -> Array:
        """Return the indices, on the host, of the rows that hold one number throughout."""
        if rows.shape[1] < 2:
            return np.arange(0)
        return np.flatnonzero(self.download(self.xp.all(rows[:, 1:] == rows[:, :1], axis=1)))

    def largest_magnitude(self, rows: Any, kind: StoredType) -> float:
        """Return the largest absolute value of float64 data; 0.0 for every other type."""
        return float(self.xp.max(self.xp.abs(rows))) if kind.name == "float64" else 0.0

    def without(self, rows: Any, out: Array) -> Any:
        """Return the rows, with the rows of a mask on the host set to zero."""
        return self.xp.where(self.upload(out)[:, None], self.xp.zeros_like(rows), rows)

    def cast(self, rows: Any, kind: StoredType, out: Any, scratch: Any) -> None:
        """Write the values of finite rows into ``out``, of the type of a panel and of the same shape."""
        if kind.name in _WIDE:
            beyond = rows > _EXACT_INTEGER
            if kind.dtype.kind == "i":
                beyond = beyond | (rows < -_EXACT_INTEGER)
            if bool(self.xp.any(beyond)):
                raise OverflowError(int(np.argmax(self.download(self.xp.any(beyond, axis=1)))))
        out[...] = self.xp.astype(rows, out.dtype)

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
        values, vectors = self.xp.linalg.eigh(symmetric)
        return np.array(self.download(values)), vectors

    def reflected_rows(self, rows: int, n: int) -> int:
        """Return all rows: the standard does not use that R is triangular."""
        return rows + n

    def eigenvalues(self, lower: Any) -> FloatArray:
        """Return the eigenvalues, descending; the upper triangle is filled in, as libraries may read either."""
        whole = self.xp.tril(lower) + self.xp.tril(lower, k=-1).T
        return np.array(self.download(self.xp.linalg.eigvalsh(whole))[::-1])

    def eigenvalues_with_leading(self, lower: Any) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues, descending, of all, and of all but the last row and column."""
        leading = self.eigenvalues(lower[:-1, :-1]) if lower.shape[0] > 1 else np.empty(0)
        return self.eigenvalues(lower), leading

    def singular_values(self, matrix: Any) -> FloatArray:
        """Return the singular values, descending."""
        return np.array(self.download(self.xp.linalg.svdvals(matrix)))
