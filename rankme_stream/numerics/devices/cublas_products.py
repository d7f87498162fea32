"""Products of matrices on a card by cuBLAS, through CuPy, on the current stream of the calling thread.

cuBLAS stores matrices by columns, so it takes a matrix whose rows are contiguous as its transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rankme_stream.numerics.devices import cuda_settings

# Factors of a product and of what was there before; cuBLAS reads them from the host.
_ONE, _ZERO = np.ones(1), np.zeros(1)
_ONE32, _ZERO32 = np.ones(1, np.float32), np.zeros(1, np.float32)


class _Operand(NamedTuple):
    """A matrix as cuBLAS takes it: the address, the distance of its contiguous lines, and whether these are rows."""

    address: int
    distance: int
    has_rows: bool


class CublasProducts:
    """Products of columns of panels.

    Parameters
    ----------
    cupy
        The library.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy, self._cublas = cupy, cupy.cuda.cublas

    def set(self, left: Any, right: Any, out: Any, panel_rows: int) -> None:
        """Write ``left.T @ right`` of each panel of two matrices into an array of squares.

        Parameters
        ----------
        left, right
            Shape ``(panels * panel_rows, m)`` and ``(..., n)``, of one type: float64, float32, float16, or uint16 for
            the bits of bfloat16. Several panels have contiguous rows.
        out
            Shape ``(panels, m, n)``, contiguous rows; float64 of float64, else float32.
        """
        first, second = _operand(left), _operand(right)
        if first is None or second is None:
            dense = self._cupy.ascontiguousarray
            self.set(dense(left), dense(right), out, panel_rows)
            return
        item, panels = out.itemsize, out.shape[0]
        operations = [
            self._cublas.CUBLAS_OP_N if second.has_rows else self._cublas.CUBLAS_OP_T,
            self._cublas.CUBLAS_OP_T if first.has_rows else self._cublas.CUBLAS_OP_N,
        ]
        sizes = (*operations, right.shape[1], left.shape[1], panel_rows)
        result = (out.data.ptr, out.strides[1] // item, out.strides[0] // item)
        kind = (str(left.dtype), str(out.dtype))
        if kind in (("float64", "float64"), ("float32", "float32")):
            if kind[0] == "float32":
                cuda_settings.refuse_tf32()
            is_double = kind[0] == "float64"
            multiply = self._cublas.dgemmStridedBatched if is_double else self._cublas.sgemmStridedBatched
            one, zero = (_ONE, _ZERO) if is_double else (_ONE32, _ZERO32)
            multiply(
                self._handle(), *sizes, one.ctypes.data,
                second.address, second.distance, panel_rows * second.distance,
                first.address, first.distance, panel_rows * first.distance,
                zero.ctypes.data, *result, panels,
            )  # fmt: skip
        else:
            runtime = self._cupy.cuda.runtime
            type_of = {"float16": runtime.CUDA_R_16F, "uint16": runtime.CUDA_R_16BF, "float32": runtime.CUDA_R_32F}
            self._cublas.gemmStridedBatchedEx(
                self._handle(), *sizes, _ONE32.ctypes.data,
                second.address, type_of[kind[0]], second.distance, panel_rows * second.distance,
                first.address, type_of[kind[0]], first.distance, panel_rows * first.distance,
                _ZERO32.ctypes.data, result[0], type_of[kind[1]], *result[1:], panels,
                self._cublas.CUBLAS_COMPUTE_32F, self._cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip

    def set_square(self, panel: Any, out: Any) -> None:
        """Write the lower triangle of ``panel.T @ panel``, float64, contiguous rows, in half the work of a product."""
        (rows, width), item = panel.shape, panel.itemsize
        self._cublas.dsyrk(
            self._handle(), self._cublas.CUBLAS_FILL_MODE_UPPER, self._cublas.CUBLAS_OP_N, width, rows,
            _ONE.ctypes.data, panel.data.ptr, panel.strides[0] // item, _ZERO.ctypes.data, out.data.ptr,
            out.strides[0] // item,
        )  # fmt: skip

    def _handle(self) -> int:
        """Return the handle of the calling thread, on its current stream."""
        handle: int = self._cupy.cuda.device.get_cublas_handle()
        self._cublas.setStream(handle, self._cupy.cuda.get_current_stream().ptr)
        return handle


def _operand(matrix: Any) -> _Operand | None:
    """Return a matrix whose rows or columns are contiguous as cuBLAS takes it; None for any other."""
    item = matrix.itemsize
    for has_rows in (True, False):
        (n_lines, n_numbers), (apart, along) = (
            (matrix.shape, matrix.strides) if has_rows else (matrix.shape[::-1], matrix.strides[::-1])
        )
        distance = n_numbers if n_lines == 1 else apart // item
        if (n_numbers == 1 or along == item) and apart % item == 0 and distance >= n_numbers:
            return _Operand(matrix.data.ptr, distance, has_rows)
    return None
