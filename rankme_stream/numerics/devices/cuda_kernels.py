"""Launches of our kernels on a card by CuPy, on the current stream of the calling thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from rankme_stream.numerics.devices import cuda_source
from rankme_stream.numerics.devices.card import Seen
from rankme_stream.numerics.devices.device import Workspace

_THREADS, _MOST_BLOCKS = 256, 4096
_CELLS = (32, 8)  # threads of a block over columns and rows of a matrix
_MOST_BLOCK_ROWS = 2**16 - 1


class CudaKernels:
    """Compiled kernels of one card: CuPy keeps them on disk for later programs.

    Matrices have rows that are contiguous, and may be apart.

    Parameters
    ----------
    cupy
        The library.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy, self._lock = cupy, threading.Lock()
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}

    def fill_slab(self, stored: Any, kind: str, slab: Any, seen: Seen, skip: int) -> None:
        """Do as ``Card.fill_slab``; ``kind`` names the type of the stored rows."""
        rows, features = stored.shape
        self._by_warps(
            f"fill_{kind}_{_panel_type(slab)}", rows, stored, row_stride(stored), slab, row_stride(slab), rows,
            features, seen.flags, seen.largest, seen.nonzero, skip,
        )  # fmt: skip

    def squared_lengths(self, rows: Any, out: Any) -> None:
        """Write the sum of the squares of each row of a float64 matrix."""
        self._by_warps("squared_lengths", rows.shape[0], rows, row_stride(rows), *rows.shape, out)

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Do as ``Card.unit_rows``."""
        rows, width = slab.shape
        self._by_warps("unit_rows", rows, slab, row_stride(slab), out, row_stride(out), rows, width - 1)

    def scale_rows(self, rows: Any, scales: Any, out: Any) -> None:
        """Write each row of a float64 matrix times its scale."""
        self._by_cells("scale_rows", rows.shape, rows, row_stride(rows), scales, out, row_stride(out), *rows.shape)

    def narrow(self, values: Any, out: Any) -> None:
        """Write a float64 matrix into a float32 one."""
        self._by_cells("narrow", values.shape, values, row_stride(values), out, row_stride(out), *values.shape)

    def column_sums(self, slab: Any, panel_rows: int, scratch: Workspace) -> Any:
        """Return sums and sums of squares of each column of each panel, shape ``(panels, 2, columns)``, float64.

        Chains are no longer than a panel. The array lives until the next call.
        """
        rows, width = slab.shape
        n_panels, size, chunks = rows // panel_rows, 2 * width, _chunks(panel_rows)
        sums = scratch.room("column sums 0", (n_panels, chunks, size))
        grid = (-(-width // _THREADS), chunks, n_panels)
        self._launch(
            f"sum_columns_{_panel_type(slab)}", grid, (_THREADS,), slab, row_stride(slab), panel_rows, width, sums
        )
        return self._sum_chunks(sums, scratch, "column sums").reshape(n_panels, 2, width)

    def probe(self, slab: Any, panel_rows: int, directions: Any, scratch: Workspace) -> Any:
        """Return ``panel.T @ (panel @ directions)`` of each panel, float64, shape ``(panels, *directions.shape)``.

        The slab is read twice, as it is stored. The array lives until the next call.
        """
        (rows, width), count, kind = slab.shape, directions.shape[1], _panel_type(slab)
        images, item = scratch.room("images", (rows, count)), directions.itemsize
        self._by_warps(
            f"probe_rows_{kind}", -(-rows // 4), slab, row_stride(slab), rows, width, directions,
            directions.strides[0] // item, directions.strides[1] // item, count, images,
        )  # fmt: skip
        chunks, n_panels = -(-panel_rows // cuda_source.PROBED_ROWS), rows // panel_rows
        parts = scratch.room("probed 0", (n_panels, chunks, width * count))
        grid = (-(-width // (2 * _THREADS)), chunks, n_panels)
        self._launch(
            f"probe_columns_{kind}", grid, (_THREADS,), slab, row_stride(slab), panel_rows, width, images, count, parts
        )
        return self._sum_chunks(parts, scratch, "probed").reshape(n_panels, width, count)

    def _sum_chunks(self, parts: Any, scratch: Workspace, name: str) -> Any:
        """Return the sums of parts of shape ``(panels, chunks, size)`` over the chunks, a few at a time."""
        (n_panels, chunks, size), level = parts.shape, 1
        while chunks > 1:
            fewer = _chunks(chunks)
            out = scratch.room(f"{name} {level}", (n_panels, fewer, size))
            self._launch("sum_chunks", (-(-size // _THREADS), fewer, n_panels), (_THREADS,), parts, chunks, size, out)
            parts, chunks, level = out, fewer, level + 1
        return parts

    def set_scales(self, squares: Any, sums: Any, is_16_bit: bool, scales: Any, overflowed: Any) -> None:
        """Set what rows and columns of the squares of panels are multiplied by, and tell which are not finite.

        Parameters
        ----------
        squares
            float32, shape ``(panels, D, D)``.
        sums
            As ``column_sums`` returns them.
        is_16_bit
            Whether diagonals are put right; else the scales are ones.
        scales
            float64, shape ``(panels, D)``.
        overflowed
            uint8, shape ``(panels,)``: set to 1 where a diagonal is not finite.
        """
        n_panels, features, _ = squares.shape
        self._launch(
            "set_scales", (-(-features // _THREADS), n_panels), (_THREADS,),
            squares, row_stride(squares[0]), squares.strides[0] // squares.itemsize, sums, features, int(is_16_bit),
            scales, overflowed,
        )  # fmt: skip

    def add_squares(self, total: Any, squares: Any, sums: Any, scales: Any) -> None:
        """Add the sums of panels and their squares, in order, to the lower triangle of a float64 matrix."""
        n_panels, features, _ = squares.shape
        self._by_cells(
            f"add_squares_{_panel_type(squares)}", total.shape, total, row_stride(total), features,
            squares, row_stride(squares[0]), squares.strides[0] // squares.itemsize, sums, scales, n_panels,
        )  # fmt: skip

    def mirror(self, matrix: Any) -> None:
        """Copy the lower triangle of a float64 matrix above its diagonal."""
        self._by_cells("mirror", matrix.shape, matrix, row_stride(matrix), matrix.shape[0])

    def add_matrices(self, total: Any, parts: Any) -> None:
        """Add float64 matrices, shape ``(parts, rows, columns)``, one after another to another of that shape."""
        n_parts, rows, columns = parts.shape
        self._by_cells(
            "add_matrices", (rows, columns), total, row_stride(total), parts, row_stride(parts[0]),
            parts.strides[0] // parts.itemsize, n_parts, rows, columns,
        )  # fmt: skip

    def _by_warps(self, name: str, rows: int, *arguments: Any) -> None:
        """Launch a kernel in which 32 threads share a row."""
        blocks = min(-(-rows * 32 // _THREADS), _MOST_BLOCKS)
        self._launch(name, (blocks,), (_THREADS,), *arguments)

    def _by_cells(self, name: str, shape: tuple[int, int], *arguments: Any) -> None:
        """Launch a kernel in which a thread has a column and some rows."""
        rows, columns = shape
        grid = (-(-columns // _CELLS[0]), min(-(-rows // _CELLS[1]), _MOST_BLOCK_ROWS))
        self._launch(name, grid, _CELLS, *arguments)

    def _launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        if name not in self._functions:
            self._functions[name] = self._module(name).get_function(name)
        self._functions[name](grid, block, tuple(np.int64(one) if isinstance(one, int) else one for one in arguments))

    def _module(self, name: str) -> Any:
        """Return the module of a kernel, compiled by the first thread that asks while others wait."""
        part, text = _part(name)
        with self._lock:
            if part not in self._modules:
                module = self._cupy.RawModule(code=text(), options=("-std=c++14",))
                module.compile()
                self._modules[part] = module
            return self._modules[part]


def _part(name: str) -> tuple[str, Callable[[], str]]:
    """Return what is compiled together with a kernel, and the function that returns its text."""
    words = name.split("_")
    if words[0] == "fill":
        return name, lambda: cuda_source.fill_source(words[1], words[2])
    if words[0] == "probe":
        return f"probe {words[-1]}", lambda: cuda_source.probe_source(words[-1])
    return "panels", cuda_source.panel_source


def has_rows(matrix: Any) -> bool:
    """Return whether the numbers of each row of a matrix lie side by side, as every kernel needs it."""
    item, (apart, along) = matrix.itemsize, matrix.strides
    return bool((matrix.shape[1] == 1 or along == item) and apart % item == 0)


def row_stride(matrix: Any) -> int:
    """Return the distance of the rows of a matrix, in numbers."""
    distance: int = matrix.strides[0] // matrix.itemsize
    return distance


def _panel_type(matrix: Any) -> str:
    """Return the name of the type of a panel; bfloat16 are held as their bits."""
    name = str(matrix.dtype)
    return "bfloat16" if name == "uint16" else name


def _chunks(rows: int) -> int:
    return -(-rows // cuda_source.CHUNK_ROWS)
