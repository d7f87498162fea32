"""The lower triangle of a symmetric matrix, in blocks that different threads can add to at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self

import numpy as np

from rankme_stream.arrays import Array, FloatArray
from rankme_stream.devices import host

Place = tuple[int, int]  # row and column of a block

WIDEST_BLOCK = 512  # products of so many columns run as fast as wider ones, and more of the triangle is left out


class Triangle:
    """A symmetric matrix of zeros to begin with: blocks on and below the diagonal, those on it whole.

    Parameters
    ----------
    n
        Rows and columns.
    dtype
        ``float64`` or ``float32``.

    Attributes
    ----------
    places
        Of the blocks, those with most work first.

    Notes
    -----
    The blocks depend on ``n`` alone: whoever adds to them, and in whatever order of blocks, gives the same bits.
    """

    def __init__(self, n: int, dtype: Any = np.float64) -> None:
        self.n = n
        edges = _edges(n)
        self._cuts = [slice(low, high) for low, high in pairwise(edges)]
        count = len(self._cuts)
        self.places: list[Place] = [(i, j) for i in range(count) for j in range(i)] + [(i, i) for i in range(count)]
        sizes = [cut.stop - cut.start for cut in self._cuts]
        self._blocks: dict[Place, FloatArray] = {
            (i, j): np.zeros((sizes[i], sizes[j]), dtype=dtype) for i, j in self.places
        }

    @classmethod
    def of(cls, lower: Array) -> Triangle:
        """Return the triangle of a matrix, shape ``(n, n)``, of which the lower triangle is right."""
        made = cls(len(lower), lower.dtype)
        for place, block in made._blocks.items():
            rows, columns = made._slices(place)
            block[...] = lower[rows, columns]
            if place[0] == place[1]:
                block[...] = np.tril(block) + np.tril(block, -1).T
        return made

    def _slices(self, place: Place) -> tuple[slice, slice]:
        return self._cuts[place[0]], self._cuts[place[1]]

    def set_product(self, place: Place, panel: FloatArray) -> None:
        """Make the block at ``place`` that of ``panel.T @ panel``, ``panel`` of shape ``(rows, n)``, C order.

        Notes
        -----
        2 rows flops an entry, half of that on the diagonal. Every entry is one chain of at most ``rows`` products and
        additions.
        """
        rows, columns = self._slices(place)
        host.cross_product(panel[:, rows], panel[:, columns], self._blocks[place])

    def add_product(self, place: Place, panel: FloatArray, workspace: host.Workspace) -> None:
        """Add what ``set_product`` would set: a product, then one addition to each entry."""
        rows, columns = self._slices(place)
        block = self._blocks[place]
        product = workspace.array("product", (WIDEST_BLOCK**2,))[: block.size].reshape(block.shape)
        host.cross_product(panel[:, rows], panel[:, columns], product)
        block += product

    def add(self, other: Triangle) -> None:
        """Add another triangle of the same size to this one."""
        for place, block in self._blocks.items():
            block += other._blocks[place]

    def __add__(self, other: Triangle) -> Triangle:
        """Return the sum; neither changes."""
        made: Triangle = type(self).__new__(type(self))
        made.n, made._cuts, made.places = self.n, self._cuts, self.places
        made._blocks = {place: block + other._blocks[place] for place, block in self._blocks.items()}
        return made

    @property
    def corner(self) -> float:
        """The entry in the first row and column."""
        return float(self._blocks[0, 0][0, 0])

    def diagonal(self) -> FloatArray:
        """The diagonal, shape ``(n,)``."""
        return np.concatenate([np.diagonal(self._blocks[i, i]) for i in range(len(self._cuts))])

    def first_column(self) -> FloatArray:
        """The entries of the first column, shape ``(n,)``."""
        return np.concatenate([self._blocks[i, 0][:, 0] for i in range(len(self._cuts))])

    def lower(self) -> FloatArray:
        """Return a fresh matrix, shape ``(n, n)``, with this lower triangle; what is above it has no meaning."""
        dense = np.zeros((self.n, self.n), dtype=self._blocks[0, 0].dtype)
        for place, block in self._blocks.items():
            dense[self._slices(place)] = block
        return dense

    def times(self, dense: FloatArray) -> FloatArray:
        """Return the product with a float64 matrix of shape ``(n, k)``, in float64; 2 n^2 k flops."""
        out = np.zeros(dense.shape)
        for place, block in self._blocks.items():
            rows, columns = self._slices(place)
            wide = block.astype(np.float64, copy=False)
            out[rows] += wide @ dense[columns]
            if place[0] != place[1]:
                out[columns] += wide.T @ dense[rows]
        return out

    def prefix(self, n: int) -> Triangle:
        """Return the triangle of the first ``n`` rows and columns."""
        return Triangle.of(self.lower()[:n, :n])

    def to_array(self) -> FloatArray:
        """Return the entries on and below the diagonal, row by row, shape ``(n (n + 1) / 2,)``."""
        packed = np.empty(self.n * (self.n + 1) // 2, dtype=self._blocks[0, 0].dtype)
        for row, place, there in self._pieces():
            packed[there] = self._blocks[place][row, : there.stop - there.start]
        return packed

    def _pieces(self) -> Iterator[tuple[int, Place, slice]]:
        """Yield row of a block, block, and where that row, up to the diagonal, lies in ``to_array``."""
        start = 0
        for i, rows in enumerate(self._cuts):
            for row in range(rows.stop - rows.start):
                for j, columns in enumerate(self._cuts[: i + 1]):
                    stop = start + (row + 1 if i == j else columns.stop - columns.start)
                    yield row, (i, j), slice(start, stop)
                    start = stop

    @classmethod
    def from_array(cls, packed: FloatArray) -> Self:
        """Return the triangle that ``to_array`` described."""
        n = (math.isqrt(8 * packed.size + 1) - 1) // 2
        made = cls(n, packed.dtype)
        for row, place, there in made._pieces():
            piece = packed[there]
            made._blocks[place][row, : len(piece)] = piece
            if place[0] == place[1]:
                made._blocks[place][: len(piece), row] = piece
        return made


def triangle_bytes(n: int, itemsize: int = 8) -> int:
    """Bytes that a triangle holds: about half of the square, and half a block's width more."""
    edges = _edges(n)
    return itemsize * sum((high - low) * high for low, high in pairwise(edges))


def _edges(n: int) -> list[int]:
    count = -(-n // WIDEST_BLOCK)
    return [n * k // count for k in range(count + 1)]
