"""Products and factors that are known beforehand: arithmetic that is wrong is found before a pass.

Released builds of BLAS have mixed up the products of different threads, or have multiplied wrongly on one processor.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from itertools import chain, pairwise

import numpy as np

from rankme_stream.errors import ArithmeticCheckError, argument
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.card import CONSTANT, NONFINITE, ZERO, Card, Seen
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

_ROWS, _COLUMNS = 128, 97  # more than 10^6 multiplications: below, OpenBLAS takes kernels that a pass hardly uses
_FACTOR_COLUMNS = 72  # more than one block of reflectors
_FACTOR_ERROR = 1e-12  # a hundred times that of a QR decomposition of this size
_TYPES = ("float64", "float32")  # both hold every partial sum exactly


def check_products(device: Device, pool: Executor, *, of_rows: bool = False) -> None:
    """Form known products of whole numbers as a pass does: of columns with themselves and with others, in both types.

    Parameters
    ----------
    pool
        Threads of the pass. On the host one of them multiplies while the calling thread does; a card is used by one of
        them alone, because each thread takes memory there, and may be inside of another stream.
    of_rows
        Whether the columns lie in memory one after another, as where rows are multiplied with rows.

    Raises
    ------
    ArithmeticCheckError
        If an entry of a product differs.

    Notes
    -----
    About 0.5 ms on the host.
    """
    if device is HOST:
        _check_products(device, pool, of_rows)
    else:
        pool.submit(_check_products, device, None, of_rows).result()


def _check_products(device: Device, pool: Executor | None, of_rows: bool) -> None:
    """Form known products in this thread, and in one of a pool at once."""
    at_once = 1 if pool is None else 2
    rows, columns = 2 * np.arange(_ROWS) - (_ROWS - 1), np.arange((at_once + 1) * _COLUMNS) - _COLUMNS
    known_panels = [np.add.outer(rows.astype(name), columns.astype(name)) for name in _TYPES]
    if of_rows:
        panels = [device.upload(np.ascontiguousarray(panel.T)).T for panel in known_panels]
    else:
        panels = [device.upload(panel) for panel in known_panels]
    parts = [slice(start, start + _COLUMNS) for start in range(0, len(columns), _COLUMNS)]
    # each thread multiplies a part of the columns with itself, which is another routine of BLAS, and with the next part
    pairs = [[(one, one), (one, other)] for one, other in pairwise(parts)]
    found = [[[device.zeros((_COLUMNS, _COLUMNS), name) for name in _TYPES] for _ in both] for both in pairs]
    together = threading.Barrier(at_once)

    def multiply(thread: int) -> None:
        together.wait()
        for (left, right), products in zip(pairs[thread], found[thread], strict=True):
            for panel, out in zip(panels, products, strict=True):
                device.set_product(panel[:, left], panel[:, right], out)

    other = None if pool is None else pool.submit(multiply, 1)
    multiply(0)
    if other is not None:
        other.result()
    for (left, right), products in zip(chain(*pairs), chain(*found), strict=True):
        known = np.multiply.outer(_ROWS * columns[left], columns[right]) + rows @ rows  # the rows add up to zero
        for name, out in zip(_TYPES, products, strict=True):
            product = device.download(out)
            if (wrong := product != known).any():
                what = f"a {name} product of whole numbers, of {'one block' if left == right else 'two blocks'}"
                raise _fault(what, product[wrong][0], known[wrong][0], device)


def check_slabs(card: Card, kind: StoredType, panel_type: str, *, in_float32: bool) -> None:
    """Copy known rows to a card, look at them and multiply them in slabs, as a pass does that forms a Gram matrix.

    Parameters
    ----------
    kind
        Type in which rows travel to the card, or lie on it.
    panel_type
        Type of the panels: that of the products, or one that is rounded or exact in float32.
    in_float32
        Whether products are formed in float32, so that those of 16-bit panels are put right by a factor, here 1.

    Raises
    ------
    ArithmeticCheckError
        If a row is not found to be what it is, or an entry of the sum of the products differs.
    """
    n_rows = 2 * _ROWS + _ROWS // 3
    values = np.add.outer(5 * np.arange(n_rows), 3 * np.arange(_COLUMNS)) % 17  # exact in every type
    flags, counts = np.zeros(n_rows, np.uint8), np.ones((n_rows, 1))
    values[_ROWS] = 0
    flags[_ROWS] = ZERO | CONSTANT
    stored = values.astype(np.float32)
    if kind.is_float:
        stored[-1, 3] = np.nan
        values[-1], flags[-1], counts[-1] = 0, NONFINITE, 0.0
    panel = np.concatenate([counts, values], axis=1)
    total, found_flags = _queued_sum(card, kind, panel_type, _encoded(stored, kind), in_float32)
    if (wrong := found_flags != flags).any():
        what = f"what is found in rows of {kind.name}, as bits"
        raise _fault(what, found_flags[wrong][0], flags[wrong][0], card)
    found, known = np.tril(total), np.tril(panel.T @ panel)
    if (wrong := found != known).any():
        what = f"a sum of products of whole numbers, of slabs of {panel_type}"
        raise _fault(what, found[wrong][0], known[wrong][0], card)


def _encoded(values: Array, kind: StoredType) -> Array:
    """Return whole numbers, or NaN, in float32 as they are stored in a type."""
    if kind.name == "bfloat16":  # the upper half of a float32
        return (values.view(np.uint32) >> 16).astype(kind.dtype)
    return values.astype(kind.dtype)


def _queued_sum(
    card: Card, kind: StoredType, panel_type: str, stored: Array, in_float32: bool
) -> tuple[FloatArray, Array]:
    """Return the sum of the products of rows in two slabs, lower triangle, and the flags of the rows."""
    n_rows, width = len(stored), 1 + stored.shape[1]
    whole = n_rows - n_rows % _ROWS
    with (stream := card.stream()):
        lent = card.pinned(stored.nbytes).view(stored.dtype).reshape(stored.shape)
        lent[...] = stored
        rows, slab = card.stored_rows(stored.shape, kind), card.slab((n_rows, width), panel_type)
        seen = Seen(card.zeros((n_rows,), np.uint8), card.zeros((1,)), card.zeros((width - 1,), np.uint8))
        total, overflowed = card.zeros((width, width)), card.zeros((n_rows // _ROWS + 1,), np.uint8)
        scratch = Workspace(card)
        stream.copy(lent, rows)
        card.fill_slab(rows, kind, slab, seen, NONFINITE)
        for low, high in ((0, whole), (whole, n_rows)):
            if in_float32:
                card.add_float32_panels(slab[low:high, :], _ROWS, total, overflowed[low // _ROWS :], scratch)
            else:
                card.add_panels(slab[low:high, :], _ROWS, total, scratch)
        stream.record().wait()
        return card.download(total), card.download(seen.flags)


def check_factor(device: Device) -> None:
    """Decompose a matrix of signs with orthogonal columns, whose triangular factor is known, as ``tsqr`` does.

    Raises
    ------
    ArithmeticCheckError
        If an entry of the factor differs by more than it is rounded.

    Notes
    -----
    About 0.2 ms on the host.
    """
    signs = np.ones((1, 1))
    while len(signs) < _ROWS:
        signs = np.block([[signs, signs], [signs, -signs]])
    factor = device.zeros((_FACTOR_COLUMNS, _FACTOR_COLUMNS), order="F")
    device.stack_rows(factor, device.upload(signs[:, :_FACTOR_COLUMNS]), Workspace(device))
    found, known = np.abs(device.download(factor)), np.sqrt(_ROWS) * np.eye(_FACTOR_COLUMNS)
    if (wrong := ~(np.abs(found - known) <= _FACTOR_ERROR)).any():  # NaN is wrong as well
        raise _fault("a QR decomposition of signs", found[wrong][0], known[wrong][0], device)


def _fault(what: str, found: float, known: float, device: Device) -> ArithmeticCheckError:
    if device is HOST:
        by = f"BLAS ({machine.describe()['blas']})"
        remedy = "install other releases of numpy and scipy, which bring it, or test the memory of this machine"
    else:
        by, remedy = device.name, f"update its driver and library, or leave {argument('device')} out"
    return ArithmeticCheckError(f"{by} computes wrongly: {what}, has {found:.17g} in place of {known:.17g}; {remedy}")
