"""The interface of devices: the operations on their arrays that the array API standard lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

T = TypeVar("T")


class Device(Protocol):
    """Arrays of one device, and the operations on them that the array API standard lacks.

    Arrays are those of the namespace ``xp``, in which slices share memory. A *panel* has shape ``(rows, 1 + D)`` and is
    float64; or of ``panel_type``, if products are float32.

    Attributes
    ----------
    name
        Name for ``--device``: ``cpu``, ``cuda:0``.
    xp
        Namespace of the array API standard.
    block_columns
        Largest number of rows and columns of a block of a triangular matrix; threads share the blocks.
    """

    name: str
    xp: Any
    block_columns: int

    def __hash__(self) -> int: ...

    def describe(self) -> dict[str, str]:
        """Return the facts that the bits of a result depend on: card, driver, library."""

    def free_bytes(self) -> int:
        """Return the free memory of the device, bytes, host memory not counted; 0 where it is not known."""

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return whether ``set_product`` takes rows of a 16-bit type as they are and sums in float32."""

    def panel_type(self, kind: StoredType) -> str:
        """Return the type of the panels from which float32 products of rows of a type are formed.

        Float32 where it holds the values, or that of 16-bit rows which the device multiplies exactly; else float64,
        which ``narrow`` then rounds.
        """

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> Any:
        """Return an array of zeros; ``dtype`` may be a name, and a device may ignore ``order``."""

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """Return an array of the type of another."""

    def upload(self, values: Array) -> Any:
        """Return values of the host as an array of the device."""

    def download(self, values: Any) -> Array:
        """Return an array of the device as values of the host."""

    def stored_type(self, rows: Any, uri: str) -> StoredType:
        """Return the number type of an array of this device, or refuse it."""

    def squared_lengths(self, rows: Any) -> Any:
        """Return the sum of the squares of each row of a float64 array."""

    def scale(self, rows: Any, scales: Any, out: Any) -> None:
        """Write each row of a float64 array, times its scale, into ``out``."""

    def narrow(self, panel: Any, out: Any) -> None:
        """Write a float64 array into a float32 one of the same shape; values that overflow become infinite."""

    def add_probed(self, panel: Any, directions: Any, products: Any, sums: Any, scratch: Workspace) -> None:
        """Add ``panel.T @ (panel @ directions)`` to ``products`` and the sum of the rows to ``sums``, in float64.

        Parameters
        ----------
        panel
            Shape ``(rows, n)``, of any type of panels.
        directions, products, sums
            Shapes ``(n, k)``, ``(n, k)`` and ``(n,)``, float64.

        Notes
        -----
        4 rows n k flops. Every entry is a chain of n products, then of ``rows``, and one addition.
        """

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right``, of columns of one panel, into ``out``; the arithmetic is that of ``out``."""

    def add_product(self, left: Any, right: Any, out: Any, scratch: Workspace) -> None:
        """Add ``left.T @ right`` to ``out``: a product, then one addition to each entry."""

    def stack_rows(self, r: Any, panel: Any, scratch: Workspace) -> None:
        """Replace the R factor ``r``, shape ``(n, n)``, by that of ``[r; panel]``."""

    def stack_triangle(self, r: Any, other: Any, scratch: Workspace) -> None:
        """Replace the R factor ``r`` by that of ``[r; other]``, both of shape ``(n, n)``."""

    def reflected_rows(self, rows: int, n: int) -> int:
        """Return the number of rows, beside its own, in a Householder vector of a step that stacks ``rows`` rows."""

    def r_factor(self, matrix: Any) -> Any:
        """Return the R factor of a tall matrix, on the device, shape ``(n, n)``."""

    def eigenvectors(self, symmetric: Any) -> tuple[FloatArray, Any]:
        """Return the eigenvalues, on the host, ascending, and the eigenvectors, on the device, one per column."""

    def eigenvalues(self, lower: Any) -> FloatArray:
        """Return the eigenvalues, on the host, descending, of the symmetric matrix with that lower triangle."""

    def eigenvalues_with_leading(self, lower: Any) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues, on the host, descending, of a matrix as above, and without its last row and column.

        The matrix is destroyed. The error of either is relative to its own norm.
        """

    def singular_values(self, matrix: Any) -> FloatArray:
        """Return the singular values, on the host, descending, of a matrix of about D x D."""


class Adopted(NamedTuple):
    """An array of a caller on its device; ``declared`` is ``"bfloat16"`` if it holds bit patterns of that type."""

    device: Device
    rows: Any
    declared: str | None = None


class Workspace:
    """Named scratch arrays of one worker on one device, reused so that no page is faulted in twice."""

    def __init__(self, device: Device = HOST) -> None:
        self.device = device
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._rooms: dict[tuple[str, Any], tuple[int, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the device alone: scratch belongs to one worker."""
        return Workspace, (self.device,)

    def array(self, name: str, shape: tuple[int, ...], order: Any = "C", dtype: Any = np.float64) -> Any:
        """Return the array of that name and shape: zeros at first use, then with the values of its last use."""
        return self.kept((name, shape, order, dtype), lambda: self.device.zeros(shape, dtype, order))

    def room(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        """Return an array of that shape, in memory that grows to the largest size requested."""
        wanted = math.prod(shape)
        size, flat = self._rooms.get((name, dtype), (-1, None))
        if size < wanted:
            self._rooms.pop((name, dtype), None)
            flat = self.device.zeros((wanted,), dtype)
            self._rooms[name, dtype] = wanted, flat
        return flat[:wanted].reshape(shape)

    def clear(self) -> None:
        """Free every array."""
        self._kept.clear()
        self._rooms.clear()

    def kept(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return the object kept under a key, made at first use; a new key replaces one with the same first part."""
        if key not in self._kept:
            for other in [other for other in self._kept if other[0] == key[0]]:
                del self._kept[other]
            self._kept[key] = make()
        found: T = self._kept[key]
        return found
