"""BLAS and LAPACK on the host, called without the GIL.

SciPy's Python wrappers hold the GIL while they compute; the function pointers that it publishes for Cython do not
when they are called through ctypes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack

from rankme_stream.arrays import Array, FloatArray

_REFLECTORS = 64  # columns a compact-WY block of tpqrt holds; 64 was the fastest of 32, 64, 128


def _pointer(module: Any, name: str, n_arguments: int) -> Any:
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


_dsyrk = _pointer(cython_blas, "dsyrk", 10)
_ssyrk = _pointer(cython_blas, "ssyrk", 10)
_dsymm = _pointer(cython_blas, "dsymm", 12)
_dtpqrt = _pointer(cython_lapack, "dtpqrt", 12)


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _real(value: float, dtype: Any) -> Any:
    return ctypes.byref(ctypes.c_double(value) if dtype == np.float64 else ctypes.c_float(value))


class Workspace:
    """Named scratch arrays that one worker reuses, so that no page is faulted in twice."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], order: Any = "C", dtype: Any = np.float64) -> Array:
        """Return the array of that name, made of zeros at first use, then holding what was left there."""
        held = self._arrays.get(name)
        if held is None or held.shape != shape:
            held = self._arrays[name] = np.zeros(shape, dtype=dtype, order=order)
        return held


def symmetric_product(panel: Array, out: Array) -> None:
    """Write the lower triangle of ``panel.T @ panel`` into ``out``; the rest of ``out`` is left as it is.

    Parameters
    ----------
    panel
        Shape ``(rows, n)``, C order, float64 or float32.
    out
        Shape ``(n, n)``, C order, same type: that of the arithmetic.

    Notes
    -----
    rows * n^2 flops; releases the GIL. Every entry is one chain of at most ``rows`` products and additions.
    """
    rows, n = panel.shape
    syrk = _dsyrk if panel.dtype == np.float64 else _ssyrk
    syrk(
        b"U", b"N", _int(n), _int(rows), _real(1.0, panel.dtype), panel.ctypes.data, _int(n),
        _real(0.0, panel.dtype), out.ctypes.data, _int(n),
    )  # fmt: skip


def symmetric_times(lower: FloatArray, dense: FloatArray) -> FloatArray:
    """Return the product of a symmetric matrix, of which the lower triangle is given, and a dense one.

    Parameters
    ----------
    lower
        Shape ``(n, n)``, C order.
    dense
        Shape ``(n, k)``.

    Notes
    -----
    2 n^2 k flops; releases the GIL.
    """
    n, k = dense.shape
    right = np.asfortranarray(dense)
    out: FloatArray = np.empty((n, k), order="F")
    _dsymm(
        b"L", b"U", _int(n), _int(k), _real(1.0, lower.dtype), lower.ctypes.data, _int(n),
        right.ctypes.data, _int(n), _real(0.0, lower.dtype), out.ctypes.data, _int(n),
    )  # fmt: skip
    return out


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
