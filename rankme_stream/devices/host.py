"""BLAS and LAPACK on the host, called without the GIL.

numpy's products release it. SciPy's Python wrappers hold it while they compute; the function pointers that it publishes
for Cython do not when they are called through ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import cython_lapack

from rankme_stream.arrays import Array, FloatArray

T = TypeVar("T")
_REFLECTORS = 64  # columns a compact-WY block of tpqrt holds; 64 was the fastest of 32, 64, 128


def _pointer(module: Any, name: str, n_arguments: int) -> Any:
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


_dtpqrt = _pointer(cython_lapack, "dtpqrt", 12)


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


class Workspace:
    """Named scratch that one worker reuses, so that no page is faulted in twice."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}

    def array(self, name: str, shape: tuple[int, ...], order: Any = "C", dtype: Any = np.float64) -> Array:
        """Return the array of that name and shape, made of zeros at first use, then holding what was left there."""
        return self.kept((name, shape, order, dtype), lambda: np.zeros(shape, dtype=dtype, order=order))

    def kept(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what is kept under a key, made at first use; the newest alone of those with the same first part."""
        if key not in self._kept:
            for other in [other for other in self._kept if other[0] == key[0]]:
                del self._kept[other]
            self._kept[key] = make()
        found: T = self._kept[key]
        return found


def cross_product(left: FloatArray, right: FloatArray, out: FloatArray) -> None:
    """Write ``left.T @ right`` into ``out``.

    Parameters
    ----------
    left, right
        Shape ``(rows, m)`` and ``(rows, n)``: columns of one panel in C order, float64 or float32. The same columns
        take half the work.
    out
        Shape ``(m, n)``, C order, same type: that of the arithmetic.

    Notes
    -----
    2 rows m n flops, or rows m^2; releases the GIL. numpy brings a newer BLAS than SciPy, as fast or faster at every
    width measured (benchmarks/results/speed.md).
    """
    with np.errstate(all="ignore"):  # float32 may overflow, which is found afterwards
        np.matmul(left.T, right, out=out)


def stack_triangle(r: FloatArray, below: FloatArray, triangular_rows: int, workspace: Workspace) -> None:
    """Replace ``r`` by the R factor of ``[r; below]``, destroying ``below``.

    Parameters
    ----------
    r
        Shape ``(n, n)``, Fortran order, upper triangular.
    below
        Shape ``(rows, n)``, Fortran order.
    triangular_rows
        How many of the last rows of ``below`` are upper trapezoidal: 0 for a full block, n for a triangle.

    Notes
    -----
    2 rows n^2 flops for a full block, 2/3 n^3 for a triangle; releases the GIL. LAPACK ``dtpqrt``.
    """
    rows, n = below.shape
    block = min(_REFLECTORS, n)
    t = workspace.array("tpqrt_t", (block, n), order="F")
    work = workspace.array("tpqrt_work", (block * n,))
    info = ctypes.c_int(0)
    _dtpqrt(
        _int(rows), _int(n), _int(triangular_rows), _int(block), r.ctypes.data, _int(n),
        below.ctypes.data, _int(below.strides[1] // 8), t.ctypes.data, _int(block), work.ctypes.data,
        ctypes.byref(info),
    )  # fmt: skip
    assert info.value == 0, f"dtpqrt refused argument {-info.value}"


def eigenvalues(lower: FloatArray) -> FloatArray:
    """Eigenvalues, descending, of the symmetric matrix whose lower triangle is given; 4/3 n^3 flops, one copy."""
    values: FloatArray = np.linalg.eigvalsh(lower, UPLO="L")[::-1].astype(np.float64)
    return values


def singular_values(matrix: FloatArray) -> FloatArray:
    """Singular values, descending, of a matrix of about D x D (never of the rows themselves)."""
    values: FloatArray = np.linalg.svd(matrix, compute_uv=False).astype(np.float64)
    return values
