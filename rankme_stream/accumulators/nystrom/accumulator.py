"""The Gram matrix times a few test vectors: a one-pass randomized SVD with error bounds that need no probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np

from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.accumulator import check_device
from rankme_stream.accumulators.method import LowRankMethod, Precision, Size, SketchMethod
from rankme_stream.accumulators.nystrom import complement_bounds, eigenvalue_floors
from rankme_stream.accumulators.nystrom.complement_bounds import Imaged
from rankme_stream.accumulators.nystrom.eigenvalue_floors import Frame
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, LaterPass, OrthonormalBasis, TestVectors
from rankme_stream.accumulators.row_accumulator import DividedAccumulator, SketchAccumulator
from rankme_stream.accumulators.sketch_spectrum import ComplementBounds
from rankme_stream.errors import UsageError, argument
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.spectra.spectrum import SingularValues, Spectrum

_PART_COLUMNS = 64  # test vectors that one part of an update takes


class NystromAccumulator(DividedAccumulator, SketchAccumulator):
    r"""Sums of A'(A W) over panels of A = [1 Z], with W of random signs or of directions from an earlier pass.

    With Y = G W and C = W'Y the matrix N = Y C^-1 Y' satisfies 0 <= N <= G, so the k-th eigenvalue of N is a floor of
    that of G. The trace of G, the energy of Z, less all floors bounds how far the eigenvalues rise above them, without
    any probability. The Gram about the mean has the sketch Y - N mu (mu'W), with N rows.

    Parameters
    ----------
    sketch_size
        Number of test vectors r.
    seed
        Seed of the signs and probes.
    later
        Number of the pass and directions from the pass before; None in the first pass. In a later pass ``PROBES`` of
        the test vectors are probes, which bound the part of G outside the directions (``complement_bounds``).

    Notes
    -----
    4 rows D r flops; 8 D r bytes, and as much for the test vectors, which all accumulators of a pass share.

    References
    ----------
    J. Tropp, A. Yurtsever, M. Udell, V. Cevher, Fixed-rank approximation of a positive-semidefinite matrix from
    streaming data, NeurIPS 2017, arXiv 1706.05736; N. Halko, P.-G. Martinsson, J. Tropp, SIAM Review 53 (2011), for
    the size of a sketch.
    """

    counted = ("energy", "chain")

    def __init__(
        self, n_features: int, workspace: Workspace | None = None, *, sketch_size: int, seed: int = 0,
        later: LaterPass | None = None, rows_error: float = 0.0,
    ) -> None:  # fmt: skip
        self.vectors = TestVectors(n_features, sketch_size, seed, *(later or ()))
        super().__init__(n_features, workspace, rows_error)
        self.sketch_size = sketch_size
        # One row per test vector, after a row for the column of ones, which holds the number of rows and their sums.
        self._sketch: Any = self.device.zeros((1 + sketch_size, 1 + n_features))

    @property
    def n_rows(self) -> int:
        """Number of rows absorbed, exact up to 2^53."""
        return round(float(self._sketch[0, 0]))

    @property
    def parts(self) -> Sequence[tuple[int, int]]:
        """Independent parts of an update: ranges of test vectors."""
        count = -(-self.sketch_size // _PART_COLUMNS)
        edges = [1 + self.sketch_size * k // count for k in range(count + 1)]
        edges[0] = 0
        return list(pairwise(edges))

    def update_part(self, part: tuple[int, int], panel: Any, workspace: Workspace) -> None:
        """Do one part of ``update``; threads may do different parts at once, each part panel after panel."""
        some = slice(*part)
        images = panel @ self.vectors.on(self.device)[some, :].T
        self.device.add_product(images, panel, self._sketch[some, :], workspace)

    def merge(self, other: Self) -> Self:
        """Return the accumulator of both sets of rows; neither argument changes."""
        if type(other) is not type(self) or self.vectors.key != other.vectors.key:
            mine, theirs = (
                f"width {one.n_features} by {one.sketch_size} vectors of seed {one.seed} in pass {one.pass_number + 1}"
                for one in (self.vectors, other.vectors)
            )
            raise UsageError(f"a sketch of {theirs} cannot join one of {mine}")
        bases = {one.vectors.basis.digest for one in (self, other) if one.vectors.basis is not None}
        if len(bases) > 1:
            raise UsageError("sketches that multiply by two different bases cannot join")
        check_device(self.device, other.device)
        first, last = self._with_one_exponent(other)
        merged = copy(self)
        merged.vectors = self.vectors if other.vectors.basis is None else other.vectors
        merged.totals, merged._sketch = first.totals.merge(last.totals), first._sketch + last._sketch
        return merged

    def _scale_arrays(self, factor: float) -> None:
        self._sketch = self.device.xp.asarray(self._sketch, copy=True)
        self._sketch[1:, :] *= factor
        self._sketch[:, 1:] *= factor

    def on_basis(self, basis: OrthonormalBasis) -> Self:
        """Return the sketch with the directions it was made with; its state does not hold them."""
        if self.vectors.basis is basis:
            return self
        made = copy(self)
        made.vectors = replace(self.vectors, basis=basis)
        return made

    def directions(self) -> OrthonormalBasis:
        """Return the directions for the next pass: the leading ones of the images, as many as this pass had.

        Notes
        -----
        A singular value decomposition of D x r on the host.
        """
        images = self.device.download(self._sketch[1:, 1:])
        _, _, rows = np.linalg.svd(np.ldexp(images, -self._shift), full_matrices=False)
        return OrthonormalBasis(rows[: self.vectors.n_directions])

    @property
    def _shift(self) -> int:
        return max(-1000, min(1000, math.frexp(self.totals.energy)[1]))  # keeps fourth powers within the doubles

    def prefix(self, n_features: int) -> Self:
        """Refuse: there is no sketch of the first features alone."""
        raise UsageError(
            "a sketch is of all features together, and none exists of the first few alone: "
            f"leave {argument('dims')} out"
        )

    def _scaled_sums(self) -> FloatArray:
        return np.array(self.device.download(self._sketch[0, 1:]))

    def spectrum(self, *, unit_roundoff: float) -> Spectrum:
        """Return floors of the singular values with the energy of all, raw and centred; changes nothing.

        Notes
        -----
        About 30 D r^2 flops, 40 after the first pass; 40 D r bytes beside the accumulator.
        """
        totals = self.totals.completed(n_rows=self.n_rows, sums=self._scaled_sums())
        rows_error = totals.gram_error(totals.most_energy)
        if totals.size == 0 or totals.energy == 0.0:  # rows of zeros; or, in old states, whose squares all underflowed
            raw, centered = (
                sketch_spectrum.singular_values_from_floors(
                    np.zeros(0), totals.energy_ends(centered=side), totals.size, totals.n_zeros(centered=side)
                )
                for side in (False, True)
            )
            return self._spectrum_of((raw, centered), totals.row_sum, unit_roundoff, 0)
        whole, scale = self._sketch, 2.0**-self._shift
        frame = Frame.of(self.vectors.on(self.device)[1:, 1:], self.device)
        sides, left_out = [], self.sketch_size
        for is_centered in (False, True):
            images = whole[1:, 1:]
            if is_centered:
                images = images - whole[1:, 0][:, None] * (whole[0, 1:] / totals.n_rows)[None, :]
            error = (1.0 + 2.0 * is_centered) * totals.g * totals.most_energy  # of images, relative to the vectors
            entries, energy = (error * frame.norm + totals.lost) * scale, totals.most_energy * scale
            floor = eigenvalue_floors.floors(
                images * scale, frame, self.device, energy=energy, entries=entries, rows=rows_error * scale
            )
            left_out = min(left_out, self.sketch_size - floor.size)
            complement = self._complement(images * scale, (error + rows_error + totals.lost) * scale)
            complement = None if complement is None else complement.scaled(1.0 / scale)
            zeros = totals.n_zeros(centered=is_centered)
            sides.append(
                sketch_spectrum.singular_values_from_floors(
                    floor / scale, totals.energy_ends(centered=is_centered), totals.size, zeros, complement=complement
                )
            )
        return self._spectrum_of((sides[0], sides[1]), totals.row_sum, unit_roundoff, left_out)

    def _complement(self, images: Any, error: float) -> ComplementBounds | None:
        """Return bounds from the probes on the part of G outside the directions; None in the first pass."""
        if self.vectors.pass_number == 0:
            return None
        first, vectors = self.vectors.n_directions, self.vectors.on(self.device)[1:, 1:]
        return complement_bounds.bound_complement(
            Imaged(vectors[:first, :], images[:first, :]), Imaged(vectors[first:, :], images[first:, :]),
            scale=self.vectors.probe_scale, error=error, pass_number=self.vectors.pass_number, device=self.device,
        )  # fmt: skip

    def _spectrum_of(
        self, sides: tuple[SingularValues, SingularValues], row_sum: tuple[float, float], unit_roundoff: float,
        left_out: int,
    ) -> Spectrum:  # fmt: skip
        pass_number = self.vectors.pass_number
        without = f", {left_out:,} of them left out as too small" if left_out else ""
        evidence: Literal["measured", "certified"] = "measured" if pass_number else "certified"
        confidence = 1.0 - complement_bounds.CHANCE if pass_number else 1.0
        if pass_number:
            grounds = (
                f"measured: floors from {self.sketch_size:,} test vectors of pass {pass_number + 1}{without}, and the "
                f"energy of all rows; the rest bounded by {PROBES} probes, confidence {confidence:g} over the "
                f"seed, {sketch_spectrum.GROUNDS}"
            )
        else:
            grounds = (
                f"certified: floors from a one-pass sketch by {self.sketch_size:,} test vectors{without}, and the "
                f"energy of all rows, {sketch_spectrum.GROUNDS}"
            )
        return Spectrum(
            *sides, self.n_rows, self.n_features, unit_roundoff, row_sum, evidence, confidence, grounds,
            ("arithmetic", "approximation"),
        ).over(self.totals.exponent)  # fmt: skip

    def to_arrays(self) -> dict[str, Array]:
        """Return the state as arrays of the host; ``from_arrays`` gives the same bits back."""
        numbers = dict(zip(_KEY, map(np.array, self.vectors.key), strict=True)) | self._numbers(_NUMBERS)
        sketch = np.array(self.device.download(self._sketch))
        return numbers | {"sketch": sketch, "nonzero": self.totals.nonzero.copy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], device: Device = HOST) -> Self:
        """Return the accumulator that ``to_arrays`` described, on a device."""
        key = [arrays[name].item() if name in arrays else 0 for name in _KEY]
        n_features, sketch_size, seed, pass_number = key
        later = LaterPass(pass_number, None) if pass_number else None
        made = cls(n_features, Workspace(device), sketch_size=sketch_size, seed=seed, later=later)
        made._take(arrays, _NUMBERS)
        made._sketch[...] = device.upload(np.array(arrays["sketch"]))
        return made


_KEY = ("n_features", "columns", "seed", "turn")
_NUMBERS = ("chain", "rows_error", "energy")


class NystromMethod(LowRankMethod):
    """The randomized SVD of the Gram matrix, in one pass or several."""

    name = "rsvd"
    segment_flops = 2**40
    takes_passes = True
    uses_seed = True
    remedy = f"raise {argument('passes')}, or {SketchMethod.remedy}"

    def accumulator(self, precision: Precision) -> Callable[..., NystromAccumulator]:
        """Return the class that keeps the images of the test vectors."""
        return NystromAccumulator

    def array_shapes(self, size: Size, precision: Precision) -> dict[str, tuple[int | range, ...]]:
        """Return the shapes of the sketch and the mask of features."""
        return {"sketch": (1 + size.sketch_size, size.width), "nonzero": (size.n_features,)}

    def flops(self, n_rows: int, size: Size) -> int:
        """Return 4 N D r."""
        return 4 * n_rows * size.n_features * size.sketch_size

    def packed_bytes(self, size: Size) -> int:
        """Return the bytes of the images and the sums."""
        return 8 * size.width * (1 + size.sketch_size)

    def shared_bytes(self, size: Size) -> int:
        """Return the bytes of the test vectors."""
        return self.state_bytes(size)

    def scratch_bytes(self, size: Size, precision: Precision, panel_rows: int) -> int:
        """Return the bytes of products of a panel with 64 test vectors."""
        return 8 * 64 * (panel_rows + size.width)

    def shares_update(self, n_features: int, precision: Precision) -> bool:
        """Return True: all threads share one sketch."""
        return True
