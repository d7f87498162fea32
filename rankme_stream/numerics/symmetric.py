"""Lower triangle of a symmetric matrix, in blocks to which different threads can add at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np

from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import FloatArray

BlockIndex = tuple[int, int]  # row and column of a block


class Triangle:
    """A symmetric matrix, initially zero, as blocks on and below the diagonal.

    Blocks on the diagonal are whole on the host; on a card only their lower triangle is valid.

    Parameters
    ----------
    n
        Rows and columns.
    dtype
        ``float64`` or ``float32``.
    device
        Device of the blocks.

    Attributes
    ----------
    block_indices
        Row and column of every block, blocks with most work first.

    Notes
    -----
    The blocks depend on ``n`` and the device alone, so the bits do not depend on which thread adds to which block, or
    in which order.
    """

    def __init__(self, n: int, dtype: Any = np.float64, device: Device = HOST) -> None:
        self.n, self.dtype, self.device = n, np.dtype(dtype), device
        edges = _edges(n, device.block_columns)
        self._ranges = [slice(low, high) for low, high in pairwise(edges)]
        count = len(self._ranges)
        self.block_indices: list[BlockIndex] = [(i, j) for i in range(count) for j in range(i)] + [
            (i, i) for i in range(count)
        ]
        sizes = [part.stop - part.start for part in self._ranges]
        self._blocks: dict[BlockIndex, Any] = {
            (i, j): device.zeros((sizes[i], sizes[j]), dtype) for i, j in self.block_indices
        }

    @classmethod
    def of(cls, lower: Any, dtype: Any = np.float64, device: Device = HOST) -> Triangle:
        """Return the triangle of a matrix on a device, shape ``(n, n)``, with a valid lower triangle."""
        made = cls(lower.shape[0], dtype, device)
        for index, block in made._blocks.items():
            rows, columns = made._slices(index)
            block[...] = lower[rows, columns]
            if index[0] == index[1]:
                block[...] = device.xp.tril(block) + device.xp.tril(block, k=-1).T
        return made

    def _slices(self, index: BlockIndex) -> tuple[slice, slice]:
        return self._ranges[index[0]], self._ranges[index[1]]

    def set_product(self, index: BlockIndex, panel: Any) -> None:
        """Set block ``index`` to that of ``panel.T @ panel``, with ``panel`` of shape ``(rows, n)``, C order.

        Notes
        -----
        2 ``rows`` flops per entry, half of that on the diagonal. Every entry is one chain of at most ``rows``
        products and additions.
        """
        rows, columns = self._slices(index)
        self.device.set_product(panel[:, rows], panel[:, columns], self._blocks[index])

    def add_product(self, index: BlockIndex, panel: Any, workspace: Workspace) -> None:
        """Add the block that ``set_product`` would set: a product, then one addition to each entry."""
        rows, columns = self._slices(index)
        self.device.add_product(panel[:, rows], panel[:, columns], self._blocks[index], workspace)

    @property
    def is_whole(self) -> bool:
        """Whether one block holds it all, as ``add_panels`` needs it."""
        return len(self._blocks) == 1

    def add_panels(self, slab: Any, panel_rows: int, workspace: Workspace) -> None:
        """Add ``panel.T @ panel`` of each panel of a slab on a card, in float64, without waiting for it."""
        cast(Card, self.device).add_panels(slab, panel_rows, self._blocks[0, 0], workspace)

    def add_float32_panels(self, slab: Any, panel_rows: int, overflowed: Any, workspace: Workspace) -> None:
        """Do as ``add_panels`` with float32 products; ``overflowed`` is set as ``Card.add_float32_panels`` does."""
        cast(Card, self.device).add_float32_panels(slab, panel_rows, self._blocks[0, 0], overflowed, workspace)

    def add(self, other: Triangle) -> None:
        """Add another triangle of the same size to this one."""
        for index, block in self._blocks.items():
            block += other._blocks[index]

    def __add__(self, other: Triangle) -> Triangle:
        """Return the sum; neither changes."""
        made = copy(self)
        made._blocks = {index: block + other._blocks[index] for index, block in self._blocks.items()}
        return made

    def scaled(self, factor: float) -> Triangle:
        """Return the triangle with every row and column but the first multiplied by ``factor``."""
        factors = np.full(self.n, factor)
        factors[0] = 1.0
        on_device, made = self.device.upload(factors), copy(self)
        made._blocks = {}
        for index, block in self._blocks.items():
            rows, columns = self._slices(index)
            made._blocks[index] = block * on_device[rows][:, None] * on_device[columns][None, :]
        return made

    @property
    def corner(self) -> float:
        """Entry in the first row and column."""
        return float(self._blocks[0, 0][0, 0])

    def diagonal(self) -> FloatArray:
        """Return the diagonal on the host, shape ``(n,)``."""
        diagonals = (self.device.xp.linalg.diagonal(self._blocks[i, i]) for i in range(len(self._ranges)))
        return np.concatenate([self.device.download(one) for one in diagonals])

    def first_column(self) -> FloatArray:
        """Return the entries of the first column on the host, shape ``(n,)``."""
        return np.concatenate([self.device.download(self._blocks[i, 0][:, 0]) for i in range(len(self._ranges))])

    def on_host(self) -> Triangle:
        """Return the same triangle on the host."""
        dense = np.empty((self.n, self.n), self.dtype)
        for index, block in self._blocks.items():
            dense[self._slices(index)] = self.device.download(block)
        return Triangle.of(dense, self.dtype)

    def lower(self) -> Any:
        """Return a new matrix on the device, shape ``(n, n)``, with this lower triangle; the rest is undefined."""
        dense = self.device.zeros((self.n, self.n), self.dtype)
        for index, block in self._blocks.items():
            dense[self._slices(index)] = block
        return dense

    def times(self, dense: Any) -> Any:
        """Return the float64 product with a matrix on the device, shape ``(n, k)``, float64; 2 n^2 k flops."""
        if self.is_whole and self.device is not HOST:  # where the upper triangle may be undefined
            return cast(Card, self.device).symmetric_product(self._blocks[0, 0], dense)
        xp, out = self.device.xp, self.device.zeros(dense.shape)
        for index, block in self._blocks.items():
            rows, columns = self._slices(index)
            wide = xp.astype(block, xp.float64, copy=False)
            out[rows, :] += wide @ dense[columns, :]
            if index[0] != index[1]:
                out[columns, :] += wide.T @ dense[rows, :]
        return out

    def prefix(self, n: int) -> Triangle:
        """Return the triangle of the first ``n`` rows and columns."""
        return Triangle.of(self.lower()[:n, :n], self.dtype, self.device)

    def to_array(self) -> FloatArray:
        """Return the entries on and below the diagonal, row by row, on the host, shape ``(n (n + 1) / 2,)``."""
        blocks = {index: self.device.download(block) for index, block in self._blocks.items()}
        packed = np.empty(self.n * (self.n + 1) // 2, dtype=blocks[0, 0].dtype)
        for row, index, entries in self._pieces():
            packed[entries] = blocks[index][row, : entries.stop - entries.start]
        return packed

    def _pieces(self) -> Iterator[tuple[int, BlockIndex, slice]]:
        """Yield a row of a block, the block, and the slice of that row, up to the diagonal, in ``to_array``."""
        start = 0
        for i, rows in enumerate(self._ranges):
            for row in range(rows.stop - rows.start):
                for j, columns in enumerate(self._ranges[: i + 1]):
                    stop = start + (row + 1 if i == j else columns.stop - columns.start)
                    yield row, (i, j), slice(start, stop)
                    start = stop

    @classmethod
    def from_array(cls, packed: FloatArray, device: Device = HOST) -> Self:
        """Return the triangle that ``to_array`` described, on a device."""
        n = (math.isqrt(8 * packed.size + 1) - 1) // 2
        made = cls(n, packed.dtype, device)
        blocks = {index: np.zeros(tuple(block.shape), packed.dtype) for index, block in made._blocks.items()}
        for row, index, entries in made._pieces():
            piece = packed[entries]
            blocks[index][row, : len(piece)] = piece
            if index[0] == index[1]:
                blocks[index][: len(piece), row] = piece
        made._blocks = {index: device.upload(block) for index, block in blocks.items()}
        return made


def triangle_bytes(n: int, itemsize: int = 8) -> int:
    """Return the bytes of a triangle on the host: about half of the square and half of the diagonal blocks."""
    count = max(1, -(-n // HOST.block_columns))
    narrow, n_wider = divmod(n, count)  # blocks are so wide, or one more: without a list of them, for any n
    squares = (count - n_wider) * narrow**2 + n_wider * (narrow + 1) ** 2
    return itemsize * (n * n + squares) // 2


def _edges(n: int, widest: int) -> list[int]:
    count = -(-n // widest)
    return [n * k // count for k in range(count + 1)]
