"""Laws of sources and accumulators, as tests to subclass, and matrices of known spectrum; for third parties too."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rankme_stream.accumulators.accumulator import Accumulator
from rankme_stream.errors import UsageError
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.rounding import U
from rankme_stream.sources import Source, open_source


def matrix_with_spectrum(singular_values: npt.ArrayLike, *, n_rows: int, n_features: int, seed: int = 0) -> FloatArray:
    """Return a random matrix with the singular values given.

    Parameters
    ----------
    singular_values
        Shape ``(k,)`` with k <= min(n_rows, n_features), non-negative; the others are zero.
    seed
        Seed of the two random orthogonal factors.

    Returns
    -------
    FloatArray
        Shape ``(n_rows, n_features)``; the error of each singular value is a few units of round-off of the largest.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    if values.ndim != 1 or values.size > min(n_rows, n_features):
        raise UsageError(f"{values.shape} singular values do not fit {n_rows} x {n_features}")
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((n_rows, values.size)))
    right, _ = np.linalg.qr(generator.standard_normal((n_features, values.size)))
    product: FloatArray = (left * values) @ right.T
    return product


def with_ones(rows: Array) -> FloatArray:
    """Return rows as a panel: float64, C order, with a column of ones in front."""
    return np.concatenate([np.ones((len(rows), 1)), np.asarray(rows, dtype=np.float64)], axis=1)


class AccumulatorLaws:
    """Laws of an accumulator: subclass this in a test module, define ``make``, and pytest runs them.

    Spectra are equal up to rounding if their consistent sets overlap.
    """

    def make(self, n_features: int) -> Accumulator:
        """Return an empty accumulator."""
        raise NotImplementedError

    def absorb(self, rows: Array, cuts: tuple[int, ...] = ()) -> Accumulator:
        """Return an accumulator updated with ``rows`` in panels cut at ``cuts``."""
        accumulator = self.make(rows.shape[1])
        edges = [0, *cuts, len(rows)]
        for start, stop in pairwise(edges):
            accumulator.update(accumulator.device.upload(with_ones(rows[start:stop])), start)
        return accumulator

    def rows(self) -> FloatArray:
        """Return rows whose mean is not zero."""
        return np.random.default_rng(7).standard_normal((60, 9)) * np.arange(1, 10) + 3.0

    def test_empty_is_the_identity_on_both_sides(self) -> None:
        """Merging with an empty accumulator changes no bit."""
        full = self.absorb(self.rows())
        for merged in (self.make(9).merge(full), full.merge(self.make(9))):
            _assert_same_bits(merged, full)

    def test_merge_is_associative_and_commutative(self) -> None:
        """Parts merged in any order and nesting give the same spectrum, up to rounding."""
        rows = self.rows()
        a, b, c = self.absorb(rows[:20]), self.absorb(rows[20:21]), self.absorb(rows[21:])
        reference = self.absorb(rows)
        for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
            _assert_close(merged, reference)

    def test_any_blocking_equals_one_block(self) -> None:
        """Panels without rows and of a single row lose nothing."""
        rows = self.rows()
        _assert_close(self.absorb(rows, cuts=(0, 0, 1, 1, 2, 59)), self.absorb(rows))

    def test_merge_and_spectrum_leave_their_arguments_unchanged(self) -> None:
        """Both may be called at any time."""
        left, right = self.absorb(self.rows()[:30]), self.absorb(self.rows()[30:])
        before = [_state(left), _state(right)]
        first = left.spectrum(unit_roundoff=U).singular_values.copy()
        left.merge(right)
        again = left.spectrum(unit_roundoff=U).singular_values
        assert [_state(left), _state(right)] == before
        assert np.array_equal(first, again)

    def test_state_comes_back_bit_equal(self) -> None:
        """Saving and loading change no bit."""
        full = self.absorb(self.rows())
        loaded = type(full).from_arrays(full.to_arrays(), full.device)
        assert loaded.device is full.device
        _assert_same_bits(loaded, full)

    def test_rows_of_zeros_left_out_are_not_counted(self) -> None:
        """A row of zeros in a panel, its first entry too, stands for a row left out."""
        rows = self.rows()
        panel = with_ones(rows)
        panel[5] = 0.0
        accumulator = self.make(9)
        accumulator.update(accumulator.device.upload(panel), 0)
        assert accumulator.n_rows == len(rows) - 1
        _assert_close(accumulator, self.absorb(np.delete(rows, 5, axis=0)))

    def test_sums_are_those_of_the_rows_and_their_values_lie_in_the_box(self) -> None:
        """Raw and centred; ``values`` returns those of the spectrum."""
        rows = self.rows()
        accumulator = self.absorb(rows, cuts=(20, 21))
        assert np.allclose(accumulator.sums(), rows.sum(axis=0), rtol=1e-6)
        spectrum = accumulator.spectrum(unit_roundoff=U)
        error = 64 * U * float(np.linalg.norm(rows))  # of the dense values themselves
        for side, exact, centered in ((spectrum.raw, rows, False), (spectrum.centered, rows - rows.mean(axis=0), True)):
            dense = np.linalg.svd(exact, compute_uv=False)
            assert np.all(side.consistent.lower - error <= dense)
            assert np.all(dense <= side.consistent.upper + error)
            if side.consistent.energy is not None:
                least, most = side.consistent.energy
                assert least - error <= float((dense**2).sum()) <= most + error
            if side.consistent.tail is not None:
                start, most = side.consistent.tail
                assert float(np.linalg.norm(dense[start:] ** 2)) <= most + error
            values = accumulator.values(centered=centered)
            assert np.allclose(values, side.values, rtol=1e-6, atol=error)


class SourceLaws:
    """Laws of a source: subclass this in a test module, define ``make`` and ``expected``, and pytest runs them."""

    def make(self) -> Source:
        """Return the source."""
        raise NotImplementedError

    def expected(self) -> Array:
        """Return the rows of the source, as stored."""
        raise NotImplementedError

    def test_any_range_reads_what_is_stored(self) -> None:
        """Ranges need not begin or end at chunks."""
        source, expected = self.make(), self.expected()
        assert source.shape == expected.shape
        n = len(expected)
        for start, stop in ((0, n), (0, 1), (n - 1, n), (n // 3, n // 2 + 1)):
            rows = source.read(start, stop)
            assert rows.dtype == source.stored.dtype
            assert np.array_equal(rows, expected[start:stop], equal_nan=expected.dtype.kind == "f")

    def test_reading_into_a_buffer_gives_the_same(self) -> None:
        """The buffer may be ignored, but never half filled."""
        source, expected = self.make(), self.expected()
        buffer = np.empty(expected.shape, dtype=source.stored.dtype)
        assert np.array_equal(source.read(0, len(expected), buffer), source.read(0, len(expected)))

    def test_bounds_are_inside_and_ascend(self) -> None:
        """Bounds lie strictly inside the range requested."""
        source = self.make()
        stop = source.shape[0]
        for start in (0, stop // 2):
            bounds = list(source.bounds(start, stop))
            assert bounds == sorted(set(bounds))
            assert all(start < bound < stop for bound in bounds)

    def test_what_is_reopened_is_the_same(self) -> None:
        """Workers open the rows again; ``reopen`` returns None for rows that live in this process."""
        source = self.make()
        argument = source.reopen()
        if argument is not None:
            reopened = open_source(pickle.loads(pickle.dumps(argument)))
            assert reopened.identity() == source.identity()
            assert reopened.fingerprint(0, reopened.shape[0]) == source.fingerprint(0, source.shape[0])

    def test_the_tail_lies_within(self) -> None:
        """The rows that are written again when rows are added are rows of the source."""
        source = self.make()
        assert 0 <= source.tail_start <= source.shape[0]

    def test_fingerprint_repeats_while_nothing_changes(self) -> None:
        """Opening the same rows twice gives the same fingerprint."""
        source, again = self.make(), self.make()
        stop = source.shape[0]
        assert source.fingerprint(0, stop) == again.fingerprint(0, stop)
        assert source.identity() == again.identity()


def _state(accumulator: Accumulator) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in accumulator.to_arrays().items()}


def _assert_same_bits(actual: Accumulator, expected: Accumulator) -> None:
    assert _state(actual) == _state(expected)


def _assert_close(actual: Accumulator, expected: Accumulator) -> None:
    assert actual.n_rows == expected.n_rows
    a, b = actual.spectrum(unit_roundoff=U), expected.spectrum(unit_roundoff=U)
    for left, right in ((a.raw, b.raw), (a.centered, b.centered)):
        assert np.all(left.consistent.lower <= right.consistent.upper)
        assert np.all(right.consistent.lower <= left.consistent.upper)


__all__ = ["AccumulatorLaws", "SourceLaws", "Workspace", "matrix_with_spectrum", "with_ones"]
