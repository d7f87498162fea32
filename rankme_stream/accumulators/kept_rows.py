"""Rows kept as they are, for fewer rows than features: an accumulator that merges by putting rows behind rows.

Its spectrum comes from the rows *turned*: multiplied by a reflection H, orthogonal and symmetric, that maps the vector
of n times 1/sqrt(n) onto the last unit vector. With s the sum of the other rows,

    (H Z)_i = z_i - c,   c = (z_n + s/(sqrt(n) + 1))/sqrt(n),   i < n;      (H Z)_n = (z_n + s)/sqrt(n).

H Z has the singular values of Z. The projection onto the rows about their mean, I - 11'/n, becomes that onto the first
n - 1 unit vectors: so H Z without its last row has the nonzero singular values of the centred rows, as accurately as if
the mean had been subtracted from the rows, and one factorisation serves both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from rankme_stream.accumulators.accumulator import check_device
from rankme_stream.accumulators.method import PANEL_ROWS, ExactMethod, Precision, Size, power_of_two_below
from rankme_stream.errors import UsageError
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import SMALLEST, U, gamma
from rankme_stream.numerics.scaling import exponent_of
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

_SUMMED = 64  # rows added up before their sum is added to that of others, so that no chain of additions is long
_PANEL_VALUES, _SEGMENT_VALUES = 2**19, 2**22  # in a panel, and in a segment, which is read by one thread


class TurnedRows:
    """The rows Z of some pieces, times a power of two if they are tiny, and turned by H.

    Parameters
    ----------
    pieces
        Rows in order, shape ``(n_i, D)`` each, float64, finite, at least one row in all.
    rows_error
        Bound on the relative error of the rows given.
    device
        Device of the pieces.

    Attributes
    ----------
    exponent
        The rows are multiplied by 2^exponent.

    Notes
    -----
    A sum goes through at most ``_SUMMED`` + n/``_SUMMED`` additions, and c through eight operations more, so that with
    k their number and by Cauchy's inequality the errors of c and of the last row are at most

        |dc| <= 2 gamma_k |Z|_F / sqrt(n),        |d(H Z)_n| <= gamma_k |Z|_F,

    and c is subtracted from fewer than n rows, each rounded once more.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapter 3.
    """

    def __init__(self, pieces: Sequence[Any], rows_error: float = 0.0, device: Device = HOST) -> None:
        self._pieces, self._rows_error, self._device = pieces, rows_error, device
        self.n_rows: int = sum(piece.shape[0] for piece in pieces)
        self.n_features: int = pieces[0].shape[1]
        self.exponent = self._needed_exponent()

    @property
    def size(self) -> int:
        """Number of singular values."""
        return min(self.n_rows, self.n_features)

    def _needed_exponent(self) -> int:
        """Return the exponent of the largest value; a piece with a row of usual size is not looked at further."""
        xp, largest = self._device.xp, 0.0
        for piece in self._pieces:
            for rows in (piece[:1, :], piece):
                largest = max(largest, float(xp.max(xp.abs(rows))))
                if largest and exponent_of(largest) == 0:
                    return 0
        return exponent_of(largest) if largest else 0

    def chunks(self, n_columns: int) -> Iterator[Any]:
        """Yield the turned rows, some features at a time, shape ``(n, n_columns)`` or fewer in the last."""
        xp, root = self._device.xp, math.sqrt(self.n_rows)
        for start in range(0, self.n_features, n_columns):
            stop = min(start + n_columns, self.n_features)
            rows = xp.concat([piece[:, start:stop] for piece in self._pieces])
            if self.exponent:
                rows *= 2.0**self.exponent
            last, others = rows[-1, :], self._sum(rows[:-1, :])
            shift, mean = (last + others / (root + 1.0)) / root, (last + others) / root
            rows[:-1, :] -= shift
            rows[-1, :] = mean
            yield rows

    def _sum(self, rows: Any) -> Any:
        """Return the sum of some rows, of runs of them first."""
        xp, n_rows = self._device.xp, rows.shape[0]
        runs = [(start, min(start + _SUMMED, n_rows)) for start in range(0, n_rows, _SUMMED)]
        if not runs:
            return xp.zeros_like(self._pieces[0][0, :1])
        return xp.sum(xp.stack([xp.sum(rows[start:stop, :], axis=0) for start, stop in runs]), axis=0)

    def errors(self, energy: float, centered_energy: float) -> tuple[float, float]:
        """Return bounds on the Frobenius norms of the errors of the turned rows, all and without the last.

        Parameters
        ----------
        energy, centered_energy
            Upper bounds on the sum of the squares of the computed ones, all and without the last.
        """
        g = gamma(min(self.n_rows, _SUMMED) + -(-self.n_rows // _SUMMED) + 8)
        norm = math.sqrt(energy) * (1.0 + 4.0 * g + 2.0 * self._rows_error)  # |Z|_F, at most
        lost = 4.0 * math.sqrt(self.n_rows * self.n_features) * SMALLEST
        centered = (2.0 * g + self._rows_error) * norm + U * math.sqrt(centered_energy) + lost
        return centered + g * norm, centered

    def as_many(self, values: FloatArray) -> FloatArray:
        """Return the first ``size`` of values in descending order, with zeros in place of those that are wanting."""
        return np.append(values, np.zeros(max(0, self.size - values.size)))[: self.size]

    def row_sum(self, norm: float, error: float) -> tuple[float, float]:
        """Return the ends of the norm of the sum of the rows, from that of the last turned row, off by ``error``."""
        root = math.sqrt(self.n_rows)
        return max(0.0, norm - error) * root * (1.0 - 4.0 * U), (norm + error) * root * (1.0 + 4.0 * U)

    @cached_property
    def _n_nonzero(self) -> int:
        """Number of rows, or of features, that are not zero throughout: the smaller."""
        xp, download = self._device.xp, self._device.download
        n_rows, features = 0, np.zeros(self.n_features, dtype=bool)
        for piece in self._pieces:
            if not features.all():
                features |= download(xp.any(piece != 0.0, axis=0))
            sure = download(piece[:, 0] != 0.0)
            unsure = np.flatnonzero(~sure)
            n_rows += piece.shape[0] - unsure.size
            if unsure.size:
                rows = xp.take(piece, self._device.upload(unsure), axis=0)
                n_rows += int(np.count_nonzero(download(xp.any(rows != 0.0, axis=1))))
        return min(n_rows, int(np.count_nonzero(features)))

    def n_zeros(self, *, centered: bool) -> int:
        """Return the number of singular values, at the end, that are zero exactly."""
        return max(self.size - self._n_nonzero, int(centered and self.n_rows <= self.n_features))


class KeptRows(ABC):
    """Base of the accumulators that keep the rows, and compute with them when all are in.

    The bits depend on the rows alone, not on panels, segments or merges.

    Parameters
    ----------
    n_features
        Width D of the rows.
    workspace
        Names the device of the rows.
    rows_error
        Bound on the relative error of the rows given; enters the intervals.

    Notes
    -----
    8 n D bytes; merging copies nothing.
    """

    def __init__(self, n_features: int, workspace: Workspace | None = None, *, rows_error: float = 0.0) -> None:
        self.n_features, self.rows_error = n_features, rows_error
        self.device: Device = HOST if workspace is None else workspace.device
        self._pieces: tuple[Any, ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows kept."""
        return sum(piece.shape[0] for piece in self._pieces)

    def update(self, panel: Any, start: int) -> None:
        """Keep the rows of ``panel``, shape ``(rows, 1 + D)``, whose first column is 1; others were left out."""
        kept = self.device.download(panel[:, 0]) != 0.0
        if kept.all():
            piece = self.device.xp.asarray(panel[:, 1:], copy=True)
        else:
            piece = self.device.xp.take(panel[:, 1:], self.device.upload(np.flatnonzero(kept)), axis=0)
        if piece.shape[0]:
            self._pieces = (*self._pieces, piece)

    def check(self, start: int, stop: int) -> None:  # noqa: B027 - there is nothing to check yet
        """Do nothing: the arithmetic is checked when the spectrum is computed."""

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if type(other) is not type(self) or other.n_features != self.n_features:
            raise UsageError(f"rows of width {other.n_features} cannot join rows of width {self.n_features}")
        check_device(self.device, other.device)
        return self._with(self._pieces + other._pieces, self.n_features, max(self.rows_error, other.rows_error))

    def prefix(self, n_features: int) -> Self:
        """Return the accumulator of the first features alone."""
        return self._with(tuple(piece[:, :n_features] for piece in self._pieces), n_features, self.rows_error)

    def _with(self, pieces: tuple[Any, ...], n_features: int, rows_error: float) -> Self:
        made = copy(self)
        made._pieces, made.n_features, made.rows_error = pieces, n_features, rows_error
        return made

    def turned(self) -> TurnedRows:
        """Return the rows, of which there is one at least, as the spectrum needs them."""
        return TurnedRows(self._pieces, self.rows_error, self.device)

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the rows and the sets that hold the true ones; changes nothing.

        Raises
        ------
        ArithmeticCheckError
            If a result is not finite, or contradicts another by more than rounding allows.
        """
        if not self._pieces:
            none = SingularValues(np.empty(0), ConsistentSet(np.empty(0), np.empty(0)))
            return Spectrum(
                none, none, 0, self.n_features, unit_roundoff, (0.0, 0.0), "certified", 1.0, "no row is left"
            )
        return self._spectrum(self.turned(), unit_roundoff)

    @abstractmethod
    def _spectrum(self, rows: TurnedRows, unit_roundoff: float) -> Spectrum:
        """Return the spectrum of some rows."""

    def values(self, *, centered: bool) -> FloatArray:
        """Return the singular values alone, shape ``(min(n_rows, D),)``, descending."""
        spectrum = self.spectrum(unit_roundoff=U)
        return spectrum.centered_singular_values if centered else spectrum.singular_values

    def sums(self) -> FloatArray:
        """Return the sum of the rows, shape ``(D,)``."""
        total = np.zeros(self.n_features)
        for piece in self._pieces:
            total += self.device.download(self.device.xp.sum(piece, axis=0))
        return total

    def to_arrays(self) -> dict[str, Array]:
        """Return the rows as an array of the host; ``from_arrays`` gives the same bits back."""
        rows = np.empty((self.n_rows, self.n_features))
        if self._pieces:
            np.concatenate([self.device.download(piece) for piece in self._pieces], out=rows)
        return {"n_features": np.array(self.n_features), "rows_error": np.array(self.rows_error), "rows": rows}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        made = cls(int(arrays["n_features"]), Workspace(device), rows_error=float(arrays["rows_error"]))
        if len(arrays["rows"]):
            made._pieces = (device.upload(arrays["rows"]),)
        return made


class KeptRowsMethod(ExactMethod):
    """A method that keeps the rows, for fewer rows than features."""

    keeps_rows: ClassVar[bool] = True
    is_offered: ClassVar[bool] = False

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shape of the rows: those of the pass at most."""
        return {"rows": (range(size.n_rows + 1), size.n_features)}

    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of all rows of the pass."""
        return 8 * size.n_rows * size.n_features

    def merging_bytes(self, size: Size) -> int:
        """Return 0: nothing is copied."""
        return 0

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return 0: panels are copied to where they stay."""
        return 0

    def card_scratch_bytes(self, size: Size, panel_rows: int) -> int:
        """Return the bytes of a panel without its first column."""
        return 8 * panel_rows * size.width

    def panel_rows(self, n_features: int) -> int:
        """Return the rows of a panel."""
        return min(PANEL_ROWS, power_of_two_below(max(1, _PANEL_VALUES // n_features)))

    def segment_rows(self, size: Size) -> int:
        """Return the rows of a segment, whose values are 2^22 at most."""
        rows = power_of_two_below(max(1, _SEGMENT_VALUES // size.n_features))
        return max(rows, self.panel_rows(size.n_features))
