"""Frequent Directions: a few rows in place of all, with a deterministic bound on their error."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any, Self

import numpy as np

from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.accumulator import check_device
from rankme_stream.accumulators.method import LowRankMethod, Precision, Size
from rankme_stream.accumulators.row_accumulator import SketchAccumulator
from rankme_stream.errors import ArithmeticCheckError, UsageError, argument
from rankme_stream.numerics.decimals import rounded_up
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U, check_trace, gamma, solver_margin
from rankme_stream.spectra.spectrum import Spectrum

_NUMBERS = ("n_rows", "chain", "rows_error", "energy", "shrunk", "rounding", "filled")


class FrequentDirectionsAccumulator(SketchAccumulator):
    r"""Rows B with 0 <= Z'Z - B'B <= shrunk.

    Rows are gathered up to 2 ell, or ell + 64 if that is more; then the squares of their singular values are lowered by
    the (ell + 1)-th, which leaves ell rows at most. Every eigenvalue of the Gram matrix exceeds that of B'B by at most
    the sum of all lowerings, and all of them together by the energy that B lacks. Both are kept, so the bounds need no
    probability. About the mean, G - N mu mu' exceeds B'B - N mu mu' by no more either.

    Parameters
    ----------
    sketch_size
        Number of directions kept, ell; at most D/2.

    Attributes
    ----------
    shrunk
        Sum of all lowerings, those at merges included.
    rounding
        Bound on the error of B'B by rounding, with an empirical margin.
    filled
        Number of rows gathered so far.

    Notes
    -----
    About 8 rows D ell flops and an eigensolve of 2 ell every ell rows; 16 D ell bytes.

    References
    ----------
    M. Ghashami, E. Liberty, J. Phillips, D. Woodruff, Frequent Directions: simple and deterministic matrix sketching,
    SIAM J. Comput. 45 (2016), arXiv 1501.01711, algorithm 1, here with more rows gathered and the exact loss.
    """

    counted = ("n_rows", "energy", "sums", "chain")

    def __init__(
        self, n_features: int, workspace: Workspace | None = None, *, sketch_size: int, seed: int = 0,
        rows_error: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(n_features, workspace, rows_error)
        self.sketch_size, self.filled = sketch_size, 0
        self.shrunk = self.rounding = 0.0
        self._rows: Any = self.device.zeros((sketch_spectrum.gathered_rows(sketch_size), n_features))

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, first column 1 (or a row of zeros, left out)."""
        if panel.shape[0]:
            self.fit_exponent(panel, self.exponent_with(panel))
            self.count(panel)
            self._gather(panel[:, 1:])

    def _gather(self, rows: Any) -> None:
        """Append rows, and shrink whenever there is no room left."""
        start, n_rows = 0, rows.shape[0]
        while start < n_rows:
            stop = min(n_rows, start + self._rows.shape[0] - self.filled)
            self._rows[self.filled : self.filled + stop - start, :] = rows[start:stop, :]
            self.filled += stop - start
            start = stop
            if self.filled == self._rows.shape[0]:
                self._shrink()

    def _shrink(self) -> None:
        """Keep the largest ell directions, their squares lowered by the (ell + 1)-th."""
        xp = self.device.xp
        products = self._rows @ self._rows.T
        trace = math.fsum(self.device.download(xp.linalg.diagonal(products)).tolist())
        squares, directions = self.device.eigenvectors(products)
        found = squares[::-1]
        lowered = max(0.0, float(found[self.sketch_size]))
        kept = np.maximum(found[: self.sketch_size], 0.0)
        factors = np.sqrt(np.maximum(kept - lowered, 0.0) / np.where(kept > 0.0, kept, 1.0))
        n_rows = self._rows.shape[0]
        order = self.device.upload(np.arange(n_rows - 1, n_rows - 1 - self.sketch_size, -1))
        some = xp.take(directions, order, axis=1) * self.device.upload(factors)[None, :]
        left = some.T @ self._rows
        self._rows[: self.sketch_size, :] = left
        self._rows[self.sketch_size :, :] = 0.0
        self.filled = self.sketch_size
        self.shrunk += lowered
        largest = max(float(found[0]), 0.0)
        margin = solver_margin(n_rows) * largest
        check_trace(found, trace, n_rows * margin + 4.0 * n_rows * U * trace)
        inner = gamma(self.n_features) * trace  # for the inner products; then for the combinations of rows
        shift = math.frexp(trace)[1]  # keeps a product of two squares within the doubles
        product = math.sqrt(self.sketch_size * math.ldexp(trace, -shift) * math.ldexp(largest, -shift))
        self.rounding += margin + inner + 2.0 * gamma(n_rows) * math.ldexp(product, shift)

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if type(other) is not type(self) or (other.n_features, other.sketch_size) != (
            self.n_features,
            self.sketch_size,
        ):
            raise UsageError(
                f"{other.sketch_size} directions of width {other.n_features} cannot join {self.sketch_size} of width "
                f"{self.n_features}"
            )
        check_device(self.device, other.device)
        mine, theirs = self._with_one_exponent(other)
        merged: Self = copy(theirs if mine.totals.chain == 0 else mine)
        merged.totals = mine.totals.merge(theirs.totals)
        merged._rows = self.device.xp.asarray(merged._rows, copy=True)
        if mine.totals.chain and theirs.totals.chain:
            merged.shrunk, merged.rounding = mine.shrunk + theirs.shrunk, mine.rounding + theirs.rounding
            merged._gather(theirs._rows[: theirs.filled, :])
        return merged

    def _scale_arrays(self, factor: float) -> None:
        self._rows = self._rows * factor
        self.shrunk, self.rounding = self.shrunk * factor * factor, self.rounding * factor * factor

    def prefix(self, n_features: int) -> Self:
        """Refuse: the energy of the first features alone is not kept."""
        raise UsageError(f"a sketch does not keep the energy of the first features alone: leave {argument('dims')} out")

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return floors of the singular values, bounds on their rise and the energy of all; changes nothing.

        About the mean, G_c = G - N mu mu' lies between B'B - N mu mu' and that plus the lowerings. The former has rank
        ell + 1 at most, and its negative eigenvalues give floors of zero.

        Notes
        -----
        About 16 D ell^2 flops.
        """
        totals = self.totals.completed()
        rows_error = totals.gram_error(totals.most_energy)
        held = self._rows[: max(1, self.filled), :]
        sides = []
        for is_centered in (False, True):
            squares = self._squares(held, is_centered)
            margin = solver_margin(held.shape[0]) * (float(squares.sum()) + is_centered * totals.mean_energy)
            off = self.rounding + margin + rows_error + is_centered * totals.mean_error + totals.lost
            floor = np.maximum(squares[: min(totals.size, squares.size)] - off, 0.0)
            self._check_loss(float(squares.sum()), off, is_centered)
            zeros, rise = totals.n_zeros(centered=is_centered), self.shrunk + 2.0 * off
            sides.append(
                sketch_spectrum.singular_values_from_floors(
                    floor, totals.energy_ends(centered=is_centered), totals.size, zeros, rise=rise
                )
            )
        lowered = math.ldexp(self.shrunk, -2 * totals.exponent)
        grounds = (
            f"certified: {self.sketch_size:,} frequent directions, none off by more than "
            f"{rounded_up(lowered, 3)} in the square, and the energy of all rows, {sketch_spectrum.GROUNDS}"
        )
        return Spectrum(
            sides[0], sides[1], self.n_rows, self.n_features, unit_roundoff,
            totals.row_sum, "certified", 1.0, grounds, ("arithmetic", "approximation"),
        ).over(totals.exponent)  # fmt: skip

    def _check_loss(self, held: float, off: float, is_centered: bool) -> None:
        """Raise if the directions hold more than the energy, or lack more of it than was cut off."""
        most = self.n_features * (self.shrunk + off) + 2.0 * off
        energy, chain = self.totals.energy, self.totals.chain
        if not is_centered and not -most <= energy - held <= most + gamma(chain + self.n_features) * held:
            raise ArithmeticCheckError(
                f"directions hold {held!r} of {energy!r}, and at most {most:.3g} was cut off: BLAS, LAPACK or the "
                "machine is at fault"
            )

    def _squares(self, held: Any, is_centered: bool) -> FloatArray:
        """Return the nonzero eigenvalues of B'B, or of B'B - N mu mu', descending."""
        xp = self.device.xp
        if not is_centered or self.n_rows == 0:
            return np.asarray(self.device.singular_values(self.device.r_factor(held.T)) ** 2)
        mean = self.device.upload((self.totals.sums / math.sqrt(self.n_rows))[None, :])
        # X' J X, with J = diag(1, ..., 1, -1), has the eigenvalues of R J R', where X' = Q R
        r = self.device.r_factor(xp.concat([held, mean]).T)
        signed = self.device.upload(np.concatenate([np.ones(held.shape[0]), [-1.0]]))
        core = (r * signed[None, :]) @ r.T
        return np.maximum(np.array(self.device.eigenvalues(core)), 0.0)

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host; ``from_arrays`` gives the same bits back."""
        numbers = self._numbers(("n_features", "sketch_size", *_NUMBERS))
        rows = np.array(self.device.download(self._rows[: max(1, self.filled), :]))
        return numbers | {"rows": rows, "sums": self.totals.sums.copy(), "nonzero": self.totals.nonzero.copy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        made = cls(int(arrays["n_features"]), Workspace(device), sketch_size=int(arrays["columns"]))
        made._take(arrays, _NUMBERS)
        held = np.array(arrays["rows"])
        made._rows[: len(held), :] = device.upload(held)
        return made


class FrequentDirectionsMethod(LowRankMethod):
    """Frequent Directions, a deterministic sketch by the largest directions so far."""

    name = "frequent-directions"
    segment_flops = 2**39

    def accumulator(self, precision: Precision) -> Callable[..., FrequentDirectionsAccumulator]:
        """Return the class that keeps the directions."""
        return FrequentDirectionsAccumulator

    def sketch_size(self, rank: int | None, oversampling: int, n_features: int) -> int:
        """Return the rank, at most half of the features; there is no oversampling."""
        return super().sketch_size(rank, 0, n_features)

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the gathered rows, their sum and the mask of features."""
        width, most = size.n_features, sketch_spectrum.gathered_rows(size.sketch_size)
        return {"rows": (range(1, most + 1), width), "sums": (width,), "nonzero": (width,)}

    def flops(self, n_rows: int, size: Size) -> int:
        """Return the products and eigensolves of all shrinks: about 8 N D r."""
        kept, rows = size.sketch_size, sketch_spectrum.gathered_rows(size.sketch_size)
        return n_rows * ((rows + 2 * kept) * rows * size.n_features + 9 * rows**3) // (rows - kept)

    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of the gathered rows."""
        return 8 * size.width * sketch_spectrum.gathered_rows(size.sketch_size)

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes of the directions that a shrink leaves, and of four matrices of gathered rows."""
        rows = sketch_spectrum.gathered_rows(size.sketch_size)
        return 8 * size.sketch_size * size.n_features + 8 * 4 * rows**2
