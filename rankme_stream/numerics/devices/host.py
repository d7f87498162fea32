"""BLAS and LAPACK on the host, called without the GIL.

numpy's products release it. SciPy's Python wrappers hold it while they compute; the function pointers that it publishes
for Cython do not when they are called through ctypes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from scipy.linalg import cython_lapack

from rankme_stream.errors import ArithmeticCheckError, DeviceError
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType, stored_type

_PROBED_ROWS, _PROBED_VALUES = 128, 2**15  # of a slice that is probed at once: in float64 it stays in the cache
_REDUCED_COLUMNS = 64  # columns of LAPACK's workspace for a tridiagonal form: its block has 32
_REFLECTORS = 64  # columns a compact-WY block of tpqrt holds; 64 was the fastest of 32, 64, 128


def _pointer(module: Any, name: str, n_arguments: int) -> Any:
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


def _integer_of(module: Any) -> Any:
    """Return the type of LAPACK's integers; SciPy before 1.18 does not state it and uses ``int``."""
    n_bytes = module._blas_int_size() if hasattr(module, "_blas_int_size") else ctypes.sizeof(ctypes.c_int)
    return {4: ctypes.c_int32, 8: ctypes.c_int64}[n_bytes]


_dtpqrt = _pointer(cython_lapack, "dtpqrt", 12)
_dsytrd, _dsterf = _pointer(cython_lapack, "dsytrd", 10), _pointer(cython_lapack, "dsterf", 4)
_Integer = _integer_of(cython_lapack)


def _int(value: int) -> Any:
    return ctypes.byref(_Integer(value))


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
    with np.errstate(all="ignore"):  # float32 may overflow, which the caller checks
        np.matmul(left.T, right, out=out)


def stack_triangle(r: FloatArray, below: FloatArray, triangular_rows: int, scratch: Any) -> None:
    """Replace ``r`` by the R factor of ``[r; below]``, destroying ``below``.

    Parameters
    ----------
    r
        Shape ``(n, n)``, Fortran order, upper triangular.
    below
        Shape ``(rows, n)``, Fortran order.
    triangular_rows
        Number of last rows of ``below`` that are upper trapezoidal: 0 for a full block, n for a triangle.

    Notes
    -----
    2 rows n^2 flops for a full block, 2/3 n^3 for a triangle; releases the GIL. LAPACK ``dtpqrt``.
    """
    rows, n = below.shape
    block = min(_REFLECTORS, n)
    t = scratch.array("tpqrt_t", (block, n), order="F")
    work = scratch.array("tpqrt_work", (block * n,))
    info = _Integer(0)
    _dtpqrt(
        _int(rows), _int(n), _int(triangular_rows), _int(block), r.ctypes.data, _int(n),
        below.ctypes.data, _int(below.strides[1] // 8), t.ctypes.data, _int(block), work.ctypes.data,
        ctypes.byref(info),
    )  # fmt: skip
    assert info.value == 0, f"dtpqrt refused argument {-info.value}"


def eigenvalues(lower: FloatArray) -> FloatArray:
    """Return the eigenvalues, descending, of the symmetric matrix with that lower triangle; 4/3 n^3 flops, one copy."""
    values: FloatArray = np.linalg.eigvalsh(lower, UPLO="L")[::-1].astype(np.float64)
    return values


def eigenvalues_with_leading(lower: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalues, descending, of a symmetric matrix and of the same without its last row and column.

    Parameters
    ----------
    lower
        Shape ``(n, n)``, C order; the upper triangle is not read, and the whole is destroyed.

    Notes
    -----
    4/3 n^3 flops; releases the GIL. LAPACK's reduction to tridiagonal form from the last column on leaves the last
    coordinate alone and never mixes the last column into the others. So the form without its last row and column is
    that of the matrix without them, with an error relative to *its* norm.
    """
    n = len(lower)
    diagonal, beside, scales = np.empty(n), np.empty(max(1, n - 1)), np.empty(max(1, n - 1))
    work, info = np.empty(_REDUCED_COLUMNS * n), _Integer(0)
    _dsytrd(  # C order is the transpose in LAPACK's
        ctypes.byref(ctypes.c_char(b"U")), _int(n), lower.ctypes.data, _int(n), diagonal.ctypes.data,
        beside.ctypes.data, scales.ctypes.data, work.ctypes.data, _int(work.size), ctypes.byref(info),
    )  # fmt: skip
    assert info.value == 0, f"dsytrd refused argument {-info.value}"
    return tridiagonal_eigenvalues(diagonal, beside), tridiagonal_eigenvalues(diagonal[:-1], beside[:-1])


def tridiagonal_eigenvalues(diagonal: FloatArray, beside: FloatArray) -> FloatArray:
    """Return the eigenvalues, descending, of a symmetric tridiagonal matrix; nothing is changed.

    Raises
    ------
    ArithmeticCheckError
        If they are not found in 30 steps each, as where a number is not finite.
    """
    values, others, info = diagonal.copy(), beside.copy(), _Integer(0)
    _dsterf(_int(len(values)), values.ctypes.data, others.ctypes.data, ctypes.byref(info))
    if info.value:
        raise ArithmeticCheckError("the eigenvalues of a tridiagonal matrix were not found: LAPACK is at fault")
    return values[::-1].copy()


def singular_values(matrix: FloatArray) -> FloatArray:
    """Return the singular values, descending, of a matrix of about D x D (never of the rows themselves)."""
    values: FloatArray = np.linalg.svd(matrix, compute_uv=False).astype(np.float64)
    return values


class Host:
    """Arrays of numpy; `rankme_stream.numerics.devices.device.Device` documents each operation."""

    name = "cpu"
    xp: Any = np
    block_columns = 512  # products are as fast as wider ones, and leave out more of the upper triangle

    def __reduce__(self) -> str:
        """Pickle and copy as the one instance."""
        return "HOST"

    def describe(self) -> dict[str, str]:
        """Return nothing: ``machine`` describes the processor."""
        return {}

    def free_bytes(self) -> int:
        """Return 0: ``machine`` measures the memory of the host."""
        return 0

    def multiplies_exactly(self, kind: StoredType) -> bool:
        """Return False: no BLAS of the host has such a product."""
        return False

    def panel_type(self, kind: StoredType) -> str:
        """Return the type of the panels from which float32 products are formed: float32 where it holds the values."""
        return "float32" if kind.fits_float32 else "float64"

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> Array:
        """Return an array of zeros."""
        return np.zeros(shape, dtype=dtype, order=order)

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """Return an array of the type of another."""
        return np.empty(shape, like.dtype)

    def upload(self, values: Array) -> Array:
        """Return the values themselves."""
        return values

    def download(self, values: Array) -> Array:
        """Return the values themselves."""
        return values

    def stored_type(self, rows: Array, uri: str) -> StoredType:
        """Return the number type of an array."""
        return stored_type(rows.dtype, uri=uri)

    def squared_lengths(self, rows: Array) -> Array:
        """Return the sum of the squares of each row."""
        return np.asarray(np.einsum("ij,ij->i", rows, rows))

    def scale(self, rows: Array, scales: Array, out: Array) -> None:
        """Write each row of a float64 array, times its scale, into ``out``."""
        np.multiply(rows, scales[:, None], out=out)

    def narrow(self, panel: Array, out: Array) -> None:
        """Write a float64 array into a float32 one."""
        with np.errstate(over="ignore"):
            out[...] = panel

    def add_probed(
        self, panel: Array, directions: FloatArray, products: FloatArray, sums: FloatArray, scratch: Any
    ) -> None:
        """Add ``panel.T @ (panel @ directions)`` to ``products`` and the sum of the rows to ``sums``, in float64.

        Slice by slice: each is widened and multiplied twice while it is in the cache. The sums of the slices of a panel
        are added up before they are added to those of other panels.
        """
        (width, count), step = directions.shape, max(_PROBED_ROWS, _PROBED_VALUES // panel.shape[1])
        part, whole = scratch.array("probed", (width, count)), scratch.array("probed panel", (width, count))
        row, rows = scratch.array("summed", (width,)), scratch.array("summed panel", (width,))
        ones = scratch.kept(("ones", step), lambda: np.ones(step))
        whole[...], rows[...] = 0.0, 0.0
        for low in range(0, panel.shape[0], step):
            some = panel[low : low + step, :]
            if some.dtype != np.float64:
                wide = scratch.room("widened", some.shape)
                wide[...] = some
                some = wide
            images = scratch.room("images", (count, some.shape[0]))
            np.matmul(directions.T, some.T, out=images)  # of all orders of the two products the fastest
            np.matmul(some.T, images.T, out=part)
            np.matmul(ones[: some.shape[0]], some, out=row)
            whole += part
            rows += row
        products += whole
        sums += rows

    def set_product(self, left: FloatArray, right: FloatArray, out: FloatArray) -> None:
        """Write ``left.T @ right`` into ``out``."""
        cross_product(left, right, out)

    def add_product(self, left: FloatArray, right: FloatArray, out: FloatArray, scratch: Any) -> None:
        """Add ``left.T @ right`` to ``out``."""
        product = scratch.room("product", out.shape)
        cross_product(left, right, product)
        out += product

    def stack_rows(self, r: FloatArray, panel: FloatArray, scratch: Any) -> None:
        """Replace ``r`` by the R factor of ``[r; panel]``."""
        below = scratch.array("tsqr_panel", panel.shape, order="F")
        below[...] = panel
        stack_triangle(r, below, 0, scratch)

    def stack_triangle(self, r: FloatArray, other: FloatArray, scratch: Any) -> None:
        """Replace ``r`` by the R factor of ``[r; other]``."""
        stack_triangle(r, other.copy(order="F"), len(other), scratch)

    def reflected_rows(self, rows: int, n: int) -> int:
        """Return the rows below: the zeros of R are left alone."""
        return rows

    def r_factor(self, matrix: FloatArray) -> FloatArray:
        """Return the R factor of a tall matrix."""
        return np.asarray(np.linalg.qr(matrix, mode="r"))

    def eigenvectors(self, symmetric: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues, ascending, and the eigenvectors."""
        values, vectors = np.linalg.eigh(symmetric)
        return values, vectors

    def eigenvalues(self, lower: FloatArray) -> FloatArray:
        """Return the eigenvalues, descending."""
        return eigenvalues(lower)

    def eigenvalues_with_leading(self, lower: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the eigenvalues, descending, of all, and of all but the last row and column."""
        return eigenvalues_with_leading(lower)

    def singular_values(self, matrix: FloatArray) -> FloatArray:
        """Return the singular values, descending."""
        return singular_values(matrix)


HOST = Host()


def memory_errors() -> tuple[type[Exception], ...]:
    """Return nothing: numpy raises ``MemoryError``."""
    return ()


def open_device(index: int) -> Host:
    """Return the host."""
    if index:
        raise DeviceError("there is one host: leave the number out")
    return HOST
