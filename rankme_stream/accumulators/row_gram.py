"""The Gram matrix of rows with rows, for fewer rows than features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.kept_rows import KeptRows, KeptRowsMethod, TurnedRows
from rankme_stream.accumulators.method import MethodName, Precision, Size
from rankme_stream.errors import ArithmeticCheckError, argument
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, gamma
from rankme_stream.numerics.symmetric import Triangle, triangle_bytes
from rankme_stream.spectra.spectrum import SingularValues, Spectrum

_COLUMNS = 1024  # features of one product: longer products are no faster and widen the certified interval


def row_gram_spectrum(rows: TurnedRows, *, unit_roundoff: float, device: Device = HOST, threads: int = 1) -> Spectrum:
    """Return the spectrum of rows from the eigenvalues of Y Y', Y the turned rows, and bounds on the true ones.

    With E the error of Y and k the longest chain of products and additions, an eigenvalue moves by at most
    gamma_k |Y|_F^2 + |E|_F (2 |Y|_F + |E|_F), by Weyl's theorem; of the centred rows, Y is without its last row. The
    loss to underflow and an empirical margin (n + 32) u l_1 for the eigensolver are added.

    Raises
    ------
    ArithmeticCheckError
        If the eigenvalues do not add up to the trace, or one is below zero by more than rounding allows.

    Notes
    -----
    n^2 D + 4/3 n^3 flops, the products on so many threads; 12 n^2 bytes and twice n x 1,024 numbers beside the rows.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """
    products, chain = _products(rows, device, threads)
    diagonal = products.diagonal().tolist()
    lower = products.lower()
    del products
    values, centered = device.eigenvalues_with_leading(lower)
    g, lost = gamma(chain), rows.n_rows * (rows.n_features + 1) * SMALLEST
    traces = math.fsum(diagonal), math.fsum(diagonal[:-1])
    energies = [trace / (1.0 - g) + lost for trace in traces]
    if not math.isfinite(energies[0]):
        raise ArithmeticCheckError("the products of rows are not finite although every row was; please report this")
    bounds = [
        g * energy + lost + error * (2.0 * math.sqrt(energy) + error)
        for energy, error in zip(energies, rows.errors(*energies), strict=True)
    ]
    last = math.sqrt(max(0.0, diagonal[-1]))
    last_error = g * last + math.sqrt(lost) + rows.errors(*energies)[0]
    return Spectrum(
        raw=_singular_values(rows, values, traces[0], bounds[0], centered=False),
        centered=_singular_values(rows, centered, traces[1], bounds[1], centered=True),
        n_rows=rows.n_rows,
        n_features=rows.n_features,
        unit_roundoff=unit_roundoff,
        row_sum=rows.row_sum(last, last_error),
        evidence="certified",
        confidence=1.0,
        grounds=f"certified: worst case of sums of {chain:,} operations, margin (n + 32) u for the eigensolver",
    ).over(rows.exponent)


def _products(rows: TurnedRows, device: Device, threads: int) -> tuple[Triangle, int]:
    """Return the products of turned rows with one another, and the longest chain of operations of an entry."""
    products = Triangle(rows.n_rows, device=device)
    indices, chunks = products.block_indices, rows.chunks(_COLUMNS)
    chain = min(_COLUMNS, rows.n_features) + -(-rows.n_features // _COLUMNS)
    count = min(threads, len(indices))
    scratch = [Workspace(device) for _ in range(count)]

    def add(share: int, chunk: Any) -> None:
        for index in indices[share::count]:
            products.add_product(index, chunk.T, scratch[share])
        blas_threads.check_one_thread(0, rows.n_rows)

    if count == 1:
        for chunk in chunks:
            add(0, chunk)
        return products, chain
    with blas_threads.threads(count, "rankme-rows") as pool:
        for chunk in chunks:
            for done in [pool.submit(add, share, chunk) for share in range(count)]:
                done.result()
    return products, chain


def _singular_values(
    rows: TurnedRows, squares: FloatArray, trace: float, error: float, *, centered: bool
) -> SingularValues:
    """Return the square roots of eigenvalues, and the set of those that differ by ``error`` and the margin."""
    largest = max(0.0, float(squares[0])) if squares.size else 0.0
    margin = (rows.n_rows + 32) * U * largest
    allowed = error + rows.n_rows * (margin + 4.0 * U * trace + SMALLEST)
    total, least = math.fsum(squares.tolist()), float(squares[-1]) if squares.size else 0.0
    if not (abs(total - trace) <= allowed and least >= -(error + margin)):  # "not" also catches NaN
        raise ArithmeticCheckError(
            f"eigenvalues of the products of {rows.n_rows:,} rows add up to {total!r}, the least is {least:.3g}, the "
            f"trace is {trace!r}: BLAS, LAPACK or the machine is at fault"
        )
    return SingularValues.of_squares(rows.as_many(squares), error + margin, rows.n_zeros(centered=centered))


class RowGramAccumulator(KeptRows):
    """Rows whose spectrum comes from the Gram matrix of rows with rows."""

    def _spectrum(self, rows: TurnedRows, unit_roundoff: float) -> Spectrum:
        threads = machine.cores()  # the rows were read, so all cores are free
        return row_gram_spectrum(rows, unit_roundoff=unit_roundoff, device=self.device, threads=threads)


class RowGramMethod(KeptRowsMethod):
    """The Gram matrix of rows with rows, in float64."""

    name = "row-gram"
    slowdown = 1.0
    better: ClassVar[MethodName | None] = "tsqr"
    remedy = f"try {argument('method', 'tsqr')}"

    def accumulator(self, precision: Precision) -> Callable[..., Accumulator]:
        """Return the class that keeps the rows."""
        return RowGramAccumulator

    def flops(self, n_rows: int, size: Size) -> int:
        """Return N^2 D: one triangle."""
        return n_rows**2 * size.n_features

    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes of the rows, of some features of theirs twice, and of the products, in blocks and whole."""
        n, threads = size.n_rows, machine.cores()
        products = triangle_bytes(n) + 8 * n * (n + 64 + 8) + threads * 8 * HOST.block_columns**2
        return (1 + normalize) * self.state_bytes(size) + 2 * 8 * n * _COLUMNS + products
