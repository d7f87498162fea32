"""A sketch of random signed sums of the rows: every row counts, at the cost of one addition."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any, Self

import numpy as np

from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.accumulator import check_device
from rankme_stream.accumulators.method import SMALLEST_SEGMENT_ROWS, Precision, Size, SketchMethod, power_of_two_above
from rankme_stream.accumulators.row_accumulator import SketchAccumulator
from rankme_stream.accumulators.row_sketch import signed_runs
from rankme_stream.accumulators.row_sketch.folding import ROWS_A_SKETCH_ROW, folded, meetings
from rankme_stream.errors import UsageError, argument
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U, check_trace, gamma, solver_margin
from rankme_stream.spectra.extrapolation import FoldedSketches
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

_ROWS_A_FEATURE, _FEWEST_ROWS = 8, 256  # the interval was simulated from there on
_SEGMENT_SKETCHES = 16  # rows of a segment per row of the sketch: a merge then costs below a twentieth of it
_SMALL_ENERGY = 2.0**-900  # below it squares lose digits to underflow
_LARGEST_EXCESS = 2.0  # in the fourth moment of sketch rows about the mean: rows then count for half as many
_CONFIDENCE = 0.95
_NUMBERS = ("n_rows", "chain", "additions", "runs", "rows_error", "weight")


class RowSketchAccumulator(SketchAccumulator):
    r"""Y = S Z, of m rows, with S of random signs: E[Y'Y] = Z'Z for every Z.

    A run of rows is added to as many consecutive rows of the sketch, cyclically from a random one on, each row with a
    random sign. Two rows that share a sketch row are of different runs; they do so with probability 1/m and with
    independent signs, so their products have mean zero. Run and sign depend on the row number and the seed alone.

    Parameters
    ----------
    sketch_size
        Number of rows of the sketch m, a multiple of four.
    seed
        Seed of signs and rotations.

    Attributes
    ----------
    additions
        Longest chain of additions that an entry of the sketch went through.
    runs
        Number of runs added, which bounds the number of rows that share a row of the sketch.
    weight
        Root of the sum of \|z\|^4.

    Notes
    -----
    N D additions, and as many for lengths and sums; 8 m D bytes. ``spectrum`` takes 21 products of about m D^2 flops
    and as many eigensolves, raw and centred.

    References
    ----------
    M. Charikar, K. Chen, M. Farach-Colton, Finding frequent items in data streams, ICALP 2002; K. Clarkson,
    D. Woodruff, Low-rank approximation and regression in input sparsity time, STOC 2013, arXiv 1207.6365. They send
    every row to a random sketch row of its own; runs of rows, as here, are as unbiased and add whole slices.
    """

    counted = ("n_rows", "sums", "chain")

    def __init__(
        self, n_features: int, workspace: Workspace | None = None, *, sketch_size: int, seed: int = 0,
        rows_error: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(n_features, workspace, rows_error)
        self.sketch_size, self.seed = sketch_size, seed
        self.additions = self.runs = 0
        self.weight = 0.0
        self._energies: FloatArray = np.zeros(sketch_size)
        self._sketch: Any = self.device.zeros((sketch_size, 1 + n_features))

    def update(self, panel: Any, start: int) -> None:
        """Add the rows of ``panel``, shape ``(rows, 1 + D)``, first column 1 (or a row of zeros, left out)."""
        n_rows = panel.shape[0]
        if n_rows == 0:
            return
        device = self.device
        self.fit_exponent(panel, self.exponent_with(panel))
        self.count(panel)
        squares = np.array(device.download(device.squared_lengths(panel[:, 1:])))
        self.weight = math.hypot(self.weight, _norm(squares))
        signs = device.upload(signed_runs.signs(self.seed, start, start + n_rows))
        signed = self._workspace.array("signed", (signed_runs.run_rows(self.sketch_size), 1 + self.n_features))
        for piece in signed_runs.pieces(self.seed, self.sketch_size, start, start + n_rows):
            rows = slice(piece.start - start, piece.stop - start)
            sketch_rows = slice(piece.sketch_start, piece.sketch_stop)
            out = signed[: piece.stop - piece.start, :]
            device.scale(panel[rows, :], signs[rows], out)
            self._sketch[sketch_rows, :] += out
            self._energies[sketch_rows] += squares[rows]
            self.runs += 1
            self.additions += 1

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if type(other) is not type(self) or self._key != other._key:
            raise UsageError(
                f"a row sketch of width {other.n_features} by {other.sketch_size} rows of seed {other.seed} cannot "
                f"join one of width {self.n_features} by {self.sketch_size} of seed {self.seed}"
            )
        check_device(self.device, other.device)
        mine, theirs = self._with_one_exponent(other)
        merged = copy(self)
        merged.totals, merged.runs = mine.totals.merge(theirs.totals), self.runs + other.runs
        merged._sketch, merged._energies = mine._sketch + theirs._sketch, mine._energies + theirs._energies
        merged.weight = math.hypot(mine.weight, theirs.weight)
        merged.additions = max(self.additions, other.additions) + (self.additions > 0 and other.additions > 0)
        return merged

    def _scale_arrays(self, factor: float) -> None:
        self._sketch = self.device.xp.asarray(self._sketch, copy=True)
        self._sketch[:, 1:] *= factor
        self._energies, self.weight = self._energies * factor * factor, self.weight * factor * factor

    @property
    def _key(self) -> tuple[int, int, int]:
        return self.n_features, self.sketch_size, self.seed

    def prefix(self, n_features: int) -> Self:
        """Refuse: the lengths of the rows in the first features alone are not kept."""
        raise UsageError(
            f"a sketch does not keep the lengths of rows in the first features alone: leave {argument('dims')} out"
        )

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return the singular values of the sketch and of its foldings, raw and centred; changes nothing.

        The consistent set rests on the energy alone.
        """
        n_rows, energy = max(1, self.n_rows), float(self._energies.sum())
        longest = max(self.totals.chain + self.sketch_size, self.additions)
        totals = self.totals.completed(n_rows=n_rows, energy=energy, chain=longest)
        scale = 2.0 ** -(math.frexp(energy)[1] // 2)  # keeps fourth powers within the doubles
        sketch = self._sketch * scale
        moved = (totals.g + totals.rows_error) * math.sqrt(max(1, self.runs) * energy) * scale
        sides = []
        for is_centered in (False, True):
            rows = sketch[:, 1:]
            if is_centered:
                rows = rows - sketch[:, :1] * self.device.upload(totals.sums / n_rows)[None, :]
            ends = totals.energy_ends(centered=is_centered)
            sides.append(self._side(rows, ends, (1.0 + 2.0 * is_centered) * moved, is_centered))
        grounds = (
            f"measured: a row sketch of {self.sketch_size:,} rows, seed {self.seed}, with bias and error estimated by "
            "folding it; their coverage is shown by simulation"
        )
        return Spectrum(
            sides[0], sides[1], self.n_rows, self.n_features, unit_roundoff,
            totals.row_sum, "measured", _CONFIDENCE, grounds, ("arithmetic", "approximation"),
        ).over(totals.exponent)  # fmt: skip

    def _side(self, rows: Any, energy: tuple[float, float], moved: float, is_centered: bool) -> SingularValues:
        """Return the singular values of sketched rows, raw or centred.

        Parameters
        ----------
        rows
            Shape ``(m, D)``.
        energy
            Ends of the sum of the squares of the true singular values.
        moved
            Bound on the rounding error of the rows, in the Frobenius norm.
        """
        size, n_zeros = self.totals.size, self.totals.n_zeros(centered=is_centered)
        n_live = size - n_zeros
        total = (energy[0] + energy[1]) / 2.0
        if n_live <= 0 or total == 0.0:
            return sketch_spectrum.zero_values(size)
        squares, margin = _squares(rows, self.device)
        trace = float(squares.sum())
        if trace == 0.0:  # the rows are zero, or cancel in the sketch
            return sketch_spectrum.singular_values_from_floors(np.zeros(0), energy, size, n_zeros)
        error = 2.0 * moved * math.sqrt(trace) + moved**2 + gamma(self.sketch_size + 8) * trace + margin

        def of_energy(squares: FloatArray) -> FloatArray:
            """Return singular values from their squares, scaled to add up to the energy."""
            values = np.sqrt(squares[:n_live] * (total / float(squares[:n_live].sum())))
            return np.concatenate([values, np.zeros(n_zeros)])

        values = of_energy(squares)
        upper = np.sqrt(energy[1] / np.arange(1, size + 1)) * (1.0 + 4.0 * size * U)
        lower = np.zeros(size)
        lower[0] = min(math.sqrt(energy[0] / n_live) * (1.0 - 4.0 * U), values[0])
        consistent = ConsistentSet(lower, np.maximum(upper, values), energy).with_zeros(n_zeros)
        reason = self._reason(rows, squares, is_centered)
        if reason is not None:
            return SingularValues(values, consistent, folded=FoldedSketches((), (), (0.0, 0.0, 0.0), 0.0, reason))
        halves, quarters = folded(rows, self.device, self.seed, lambda one: of_energy(_squares(one, self.device)[0]))
        pairs = meetings(self._energies, self.weight, self.seed)
        return SingularValues(values, consistent, folded=FoldedSketches(halves, quarters, pairs, error * total / trace))

    def _reason(self, rows: Any, squares: FloatArray, is_centered: bool) -> str | None:
        """Return the reason why the sketch gives no number; None where it gives one."""
        energy, gram = float(self._energies.sum()), "read them with method gram"
        if energy < _SMALL_ENERGY:  # in states of versions that did not multiply tiny rows
            return "the squares of the rows underflow: scale the embeddings by a power of two, which changes no rank"
        n_effective, wanted = (energy / self.weight) ** 2, ROWS_A_SKETCH_ROW * self.sketch_size
        if n_effective < wanted:
            weigh = f"the rows carry the weight of {n_effective:,.0f} of equal length"
            return f"{weigh}, and a sketch of {self.sketch_size:,} rows needs {wanted:,} (4 per sketch row): {gram}"
        if is_centered:  # lengths about the mean are not kept; a few long rows show in the lengths of the sketch rows
            lengths = np.array(self.device.download(self.device.squared_lengths(rows)))
            spread = 2.0 * float((squares**2).sum()) / float(squares.sum()) ** 2
            if (
                self.sketch_size * float((lengths**2).sum()) / float(lengths.sum()) ** 2 - 1.0 - spread
                > _LARGEST_EXCESS
            ):
                return f"about the mean, a few of the rows outweigh the others: {gram}"
        return None

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host; ``from_arrays`` gives the same bits back."""
        numbers = self._numbers(("n_features", "sketch_size", "seed", *_NUMBERS))
        return numbers | {
            "seed": np.array(self.seed, np.uint64), "sketch": np.array(self.device.download(self._sketch)),
            "energies": self._energies.copy(), "sums": self.totals.sums.copy(), "nonzero": self.totals.nonzero.copy(),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        shape = {"sketch_size": int(arrays["columns"]), "seed": int(arrays["seed"])}
        made = cls(int(arrays["n_features"]), Workspace(device), **shape)
        made._take(arrays, _NUMBERS)
        made._sketch = device.upload(np.array(arrays["sketch"]))
        made._energies[:] = arrays["energies"]
        return made


def _norm(values: FloatArray) -> float:
    """Return the Euclidean norm of values whose squares may overflow."""
    largest = float(values.max())
    return largest * math.sqrt(float(((values / largest) ** 2).sum())) if largest else 0.0


def _squares(rows: Any, device: Device) -> tuple[FloatArray, float]:
    """Return the squares of the singular values of sketched rows, descending, and the eigensolver's margin."""
    xp = device.xp
    gram = rows.T @ rows
    trace = math.fsum(device.download(xp.linalg.diagonal(gram)).tolist())
    found = device.eigenvalues(gram)
    margin = solver_margin(found.size) * max(float(found[0]), 0.0)
    check_trace(found, trace, found.size * margin + 4.0 * found.size * U * trace)
    return np.maximum(found, 0.0), margin


class RowSketchMethod(SketchMethod):
    """A sketch of fewer rows, which are signed sums of all rows."""

    name = "row-sketch"
    uses_seed = True

    def accumulator(self, precision: Precision) -> Callable[..., RowSketchAccumulator]:
        """Return the class that adds rows up."""
        return RowSketchAccumulator

    def sketch_size(self, rank: int | None, oversampling: int, n_features: int) -> int:
        """Return the rows of the sketch, a multiple of four; by default as few as an interval needs."""
        fewest = max(_ROWS_A_FEATURE * n_features, _FEWEST_ROWS)
        if rank is not None and rank < fewest:
            raise UsageError(
                f"a row sketch of {rank:,} rows gives no interval for {n_features:,} features: "
                f"{argument('rank', fewest)} at least, or leave it out"
            )
        return -(-(rank or fewest) // 4) * 4

    def check_rows(self, n_rows: int, sketch_size: int) -> None:
        """Raise ``UsageError`` if there are too few rows for an interval."""
        if n_rows < ROWS_A_SKETCH_ROW * sketch_size:
            raise UsageError(
                f"{n_rows:,} rows are too few for a row sketch of {sketch_size:,}, which needs "
                f"{ROWS_A_SKETCH_ROW * sketch_size:,} (4 per sketch row): "
                f"the Gram matrix ({argument('method', 'gram')}) is exact"
            )

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the sketch, the energies of its rows, the sum of the rows and the mask of features."""
        rows, width = size.sketch_size, size.n_features
        return {"sketch": (rows, 1 + width), "energies": (rows,), "sums": (width,), "nonzero": (width,)}

    def flops(self, n_rows: int, size: Size) -> int:
        """Return 6 N D: sign, addition, length, sum."""
        return 6 * n_rows * size.n_features

    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of the sketch, the energies of its rows, the sums and the mask of features."""
        return 8 * (size.width * size.sketch_size + size.sketch_size + 2 * size.n_features)

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes of a run of signed rows."""
        return 8 * 256 * size.width

    def solving_bytes(self, size: Size, *, normalize: bool) -> int:
        """Return the bytes of copies of the sketch and of its Gram matrices."""
        return (6 + normalize) * self.state_bytes(size) + 6 * size.square_bytes

    def segment_rows(self, size: Size) -> int:
        """Return the rows of a segment: 16 times the sketch's, so that a merge is below a twentieth of it."""
        return power_of_two_above(max(SMALLEST_SEGMENT_ROWS, _SEGMENT_SKETCHES * size.sketch_size))
