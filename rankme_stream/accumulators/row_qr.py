"""QR of the rows as columns, for fewer rows than features: no singular value is squared."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.accumulators.kept_rows import KeptRows, KeptRowsMethod, TurnedRows
from rankme_stream.accumulators.method import Precision, Size
from rankme_stream.accumulators.qr_error import grounds, growth, singular_values_within, step_error
from rankme_stream.errors import argument
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.rounding import U
from rankme_stream.spectra.spectrum import Spectrum

_FEATURES = 512  # of one step, whose error bound grows with them


class RowQrAccumulator(KeptRows):
    """Rows whose spectrum comes from R with R'R = Y Y', Y the turned rows.

    The singular values of the centred rows are those of R without its last column.

    Notes
    -----
    2 n^2 D + 16/3 n^3 flops; 24 n^2 bytes and n x 1,024 numbers beside the rows.

    References
    ----------
    J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
    factorizations, SIAM J. Sci. Comput. 34 (2012), arXiv 0808.2664; N. J. Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., SIAM 2002, chapter 19.
    """

    def _spectrum(self, rows: TurnedRows, unit_roundoff: float) -> Spectrum:
        """Return the spectrum, with the errors of ``TsqrAccumulator``, and those of turning the rows."""
        n, xp, scratch = rows.n_rows, self.device.xp, Workspace(self.device)
        r = self.device.zeros((n, n), order="F")
        steps = longest = 0
        worst_case = 0.0
        for chunk in rows.chunks(_FEATURES):
            self.device.stack_rows(r, chunk.T, scratch)
            reflected = self.device.reflected_rows(chunk.shape[1], n)
            steps, longest = steps + 1, max(longest, reflected)
            worst_case += step_error(reflected, n)
        r = xp.triu(r)
        values = rows.as_many(self.device.singular_values(r))
        centered = rows.as_many(self.device.singular_values(r[:, :-1]) if n > 1 else np.empty(0))
        frobenius = math.hypot(*values.tolist()) * (1.0 + 2.0**-20)
        turning = rows.errors(frobenius**2, math.fsum((centered**2).tolist()) * (1.0 + 2.0**-20))[0]
        shared = (n + 32) * U * float(values[0]) + turning
        practical = growth(longest, steps) * U * frobenius + shared
        worst = worst_case * frobenius + shared
        last = math.hypot(*self.device.download(r[:, -1]).tolist())
        return Spectrum(
            raw=singular_values_within(values, practical, worst, rows.n_zeros(centered=False)),
            centered=singular_values_within(centered, practical, worst, rows.n_zeros(centered=True)),
            n_rows=n,
            n_features=rows.n_features,
            unit_roundoff=unit_roundoff,
            row_sum=rows.row_sum(last, 2.0 * practical),
            evidence="empirical",
            confidence=None,
            grounds=grounds(longest, steps),
        ).over(rows.exponent)


class RowQrMethod(KeptRowsMethod):
    """QR of the rows as columns."""

    name = "row-qr"
    uses_qr = True
    remedy = f"pass a larger {argument('tolerance')}"

    def accumulator(self, precision: Precision) -> Callable[..., Accumulator]:
        """Return the class that keeps the rows."""
        return RowQrAccumulator

    def flops(self, n_rows: int, size: Size) -> int:
        """Return 2 N^2 D."""
        return 2 * n_rows**2 * size.n_features

    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes of the rows, of some features of theirs three times, and of R, a copy, and LAPACK's."""
        n = size.n_rows
        return (1 + normalize) * self.state_bytes(size) + 8 * n * (3 * _FEATURES + 2 * 64) + 5 * 8 * n * n
