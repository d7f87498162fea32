"""Slabs queued on a card have the sums, chain and probes of their panels, also before their zeros are known."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import array_api_compat.numpy as array_api_numpy
import numpy as np
import pytest

from rankme_stream.accumulators.accumulator import Queued
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator, overflow_error
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.rounding import U
from rankme_stream.testing import AccumulatorLaws, with_ones
from tests.toy_device import TOY

PLAIN = StandardDevice(array_api_numpy, "plain:0", types=("float16", "float32", "float64"))
CARDS = pytest.mark.parametrize("card", [TOY, PLAIN], ids=["strict", "plain"])
KINDS = pytest.mark.parametrize("kind", [GramAccumulator, Float32GramAccumulator])
PANEL_ROWS, D = 16, 9
U_ROWS = 2.0**-53


def rows_of(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, D)) * np.arange(1.0, D + 1) + 3.0


def padded(card: StandardDevice, panel: np.ndarray):
    """Return a slab whose rows are apart, as cards lay them out, with other numbers between them."""
    wide = np.full((len(panel), panel.shape[1] + 7), 1e30)
    wide[:, : panel.shape[1]] = panel
    return card.upload(wide)[:, : panel.shape[1]]


def queue(accumulator, rows: np.ndarray, n_panels: int = 4, panel_rows: int = PANEL_ROWS) -> list[int]:
    """Queue rows as a pass does: slabs of whole panels, then the rest; return the panels whose product overflows."""
    card, whole = accumulator.device, len(rows) - len(rows) % panel_rows
    flags = card.zeros((-(-len(rows) // panel_rows),), np.uint8)
    edges = [*range(0, whole, n_panels * panel_rows), whole]
    for low, high in [*pairwise(edges), (whole, len(rows))]:
        of_slab = flags[low // panel_rows : -(-high // panel_rows)]
        accumulator.queue(padded(card, with_ones(rows[low:high])), panel_rows, of_slab)
    return np.flatnonzero(card.download(flags)).tolist()


def queued(kind, card, rows: np.ndarray, n_panels: int = 4):
    made = kind(rows.shape[1], Workspace(card))
    assert queue(made, rows, n_panels) == []
    made.set_nonzero((rows != 0).any(axis=0))
    return made


def updated(kind, card, rows: np.ndarray):
    made = kind(rows.shape[1], Workspace(card))
    for start in range(0, len(rows), PANEL_ROWS):
        made.update(card.upload(with_ones(rows[start : start + PANEL_ROWS])), start)
    return made


def assert_alike(one, other, *, chain: bool = True) -> None:
    """Fail unless two states are equal up to rounding, and their counts exactly."""
    mine, theirs = one.to_arrays(), other.to_arrays()
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        if array.dtype.kind == "f" and array.ndim:
            assert np.allclose(array, theirs[name], rtol=1e-5, atol=1e-6 * np.abs(array).max()), name
        elif chain or name != "chain":
            assert np.array_equal(array, theirs[name]), name


@CARDS
@KINDS
@pytest.mark.parametrize("n_panels", [1, 3, 16])
@pytest.mark.parametrize("n_rows", [0, 1, 5, 16, 17, 150, 160])
def test_slabs_have_the_sums_of_their_panels_and_the_chain_of_the_host(kind, card, n_panels, n_rows):
    rows = rows_of(n_rows)
    found, on_host = queued(kind, card, rows, n_panels), updated(kind, HOST, rows)
    assert_alike(found, updated(kind, card, rows))
    assert_alike(found, on_host)
    assert found.totals.chain == on_host.totals.chain
    assert found.n_rows == n_rows


@CARDS
@KINDS
class TestLaws(AccumulatorLaws):
    """The laws of every accumulator, where rows are queued."""

    @pytest.fixture(autouse=True)
    def chosen(self, kind, card):
        self.kind, self.card = kind, card

    def make(self, n_features):
        return self.kind(n_features, Workspace(self.card))

    def absorb(self, rows, cuts=()):
        made = self.make(rows.shape[1])
        edges = [0, *cuts, len(rows)]
        for low, high in pairwise(edges):
            queue(made, rows[low:high])
        made.set_nonzero((rows != 0).any(axis=0))
        return made


@CARDS
@KINDS
def test_parts_that_merge_before_they_are_noted_are_those_that_merge_afterwards(kind, card):
    rows = rows_of(200)
    rows[:, 4] = 0.0
    parts = [kind(D, Workspace(card)) for _ in range(3)]
    for part, some in zip(parts, (rows[:64], rows[64:128], rows[128:]), strict=True):
        queue(part, some)
    early = parts[0].merge(parts[1]).merge(parts[2])
    early.set_nonzero((rows != 0).any(axis=0))
    late = queued(kind, card, rows[:64]).merge(queued(kind, card, rows[64:128])).merge(queued(kind, card, rows[128:]))
    for name, array in early.to_arrays().items():
        assert np.array_equal(array, late.to_arrays()[name]), name
    spectrum = early.spectrum(unit_roundoff=U)
    assert spectrum.raw.consistent.upper[-1] == 0.0 < spectrum.raw.consistent.lower[-2]


@CARDS
@KINDS
def test_nothing_says_which_features_are_zero_before_it_knows_nonzero(kind, card):
    made = kind(D, Workspace(card))
    queue(made, rows_of(40))
    joined = made.merge(kind(D, Workspace(card)))
    for one in (made, joined):
        with pytest.raises(AssertionError):
            one.spectrum(unit_roundoff=U)
        with pytest.raises(AssertionError):
            one.to_arrays()
        one.set_nonzero(np.ones(D, dtype=bool))
    assert_alike(made, joined)


@CARDS
@KINDS
def test_masks_of_several_runs_add_up(kind, card):
    rows = np.zeros((96, D))
    rows[:48, 0], rows[48:, 1] = 1.0, 2.0
    made = kind(D, Workspace(card))
    for some in (rows[:48], rows[48:]):
        queue(made, some)
        made.set_nonzero((some != 0).any(axis=0))
    assert made.totals.nonzero.tolist() == [True, True] + [False] * 7
    assert np.count_nonzero(made.spectrum(unit_roundoff=U).raw.consistent.upper) == 2


@CARDS
def test_rows_that_may_be_tiny_are_queued_once_one_of_usual_size_was_met(card):
    tiny, usual = rows_of(16) * 2.0**-700, rows_of(64, seed=1)
    made = GramAccumulator(D, Workspace(card))
    for rows in (np.zeros((16, D)), tiny):
        assert not made.takes_slabs(may_be_tiny=True)
        made.update(card.upload(with_ones(rows)), 0)
    assert made.exponent == 480 and not made.takes_slabs(may_be_tiny=False)
    assert not made.takes_slabs(may_be_tiny=True)
    made.update(card.upload(with_ones(usual[:16])), 32)
    assert made.exponent == 0 and made.takes_slabs(may_be_tiny=True)
    queue(made, usual[16:])
    made.set_nonzero(np.ones(D, dtype=bool))
    assert_alike(made, updated(GramAccumulator, card, np.concatenate([np.zeros((16, D)), tiny, usual])))


@CARDS
@KINDS
def test_slabs_are_taken_at_once_unless_their_exponent_is_open(kind, card):
    made = kind(D, Workspace(card))
    assert isinstance(made, Queued) and not isinstance(TsqrAccumulator(D, Workspace(card)), Queued)
    assert made.takes_slabs(may_be_tiny=False)
    assert made.takes_slabs(may_be_tiny=True) is (kind is Float32GramAccumulator)  # which scales nothing
    queue(made, rows_of(16))
    assert made.takes_slabs(may_be_tiny=True)


@CARDS
def test_queued_rows_are_not_taken_for_zeros_where_they_meet_tiny_ones(card):
    usual, tiny = rows_of(64), rows_of(64, seed=1) * 2.0**-700
    made = GramAccumulator(D, Workspace(card))
    queue(made, usual)
    held = updated(GramAccumulator, card, tiny)
    for whole in (made.merge(held), held.merge(made)):
        assert whole.exponent == 0
        whole.set_nonzero(np.ones(D, dtype=bool))
        assert_alike(whole, updated(GramAccumulator, card, np.concatenate([usual, tiny])), chain=False)
    made.update(card.upload(with_ones(tiny[:16])), 64)
    assert made.exponent == 0


@CARDS
@KINDS
def test_rows_left_out_are_counted_nowhere(kind, card):
    rows = rows_of(64)
    panel = with_ones(rows)
    panel[[3, 40]] = 0.0
    made = kind(D, Workspace(card))
    made.queue(padded(card, panel), PANEL_ROWS, card.zeros((4,), np.uint8))
    made.set_nonzero(np.ones(D, dtype=bool))
    assert made.n_rows == 62
    assert_alike(made, updated(kind, card, np.delete(rows, [3, 40], axis=0)), chain=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@CARDS
def test_a_panel_that_overflows_float32_is_flagged_and_no_other(card):
    rows = rows_of(100)
    rows[70, 2] = 2.0**70
    made = Float32GramAccumulator(D, Workspace(card))
    assert queue(made, rows) == [4]
    assert str(overflow_error(64, 80)).startswith("rows 64-79 hold values whose squares overflow float32; ")
    rows[70, 2], rows[99, 8] = 1.0, 2.0**127
    assert queue(Float32GramAccumulator(D, Workspace(card)), rows) == [6]
    assert queue(GramAccumulator(D, Workspace(card)), rows) == []


@CARDS
def test_the_probes_of_a_slab_are_those_of_its_panels(card):
    rows = rows_of(160).astype(np.float32).astype(np.float64)
    found, wanted = queued(Float32GramAccumulator, card, rows), updated(Float32GramAccumulator, HOST, rows)
    mine, theirs = found.probes.to_arrays(), wanted.probes.to_arrays()
    for name, array in mine.items():
        assert np.allclose(array, theirs[name], rtol=1e-12), name
    residual = found.on_host().probes.residual(found.on_host()._gram, found.totals)
    gram = np.tril(found.on_host()._gram.lower())[1:, 1:]
    error = gram - np.tril(rows.T @ rows)
    frobenius = float(np.linalg.norm(error + np.tril(error, -1).T))
    assert residual.bounds()[0] >= frobenius


class LowerOnly(StandardDevice):
    """A card that leaves what is above the diagonal undefined, as ``dsyrk`` does."""

    def __init__(self) -> None:
        super().__init__(array_api_numpy, "lower:0")

    def add_panels(self, slab, panel_rows, total, scratch):
        super().add_panels(slab, panel_rows, total, scratch)
        total[np.triu_indices(len(total), 1)] = 1e9

    def add_float32_panels(self, slab, panel_rows, total, overflowed, scratch):
        super().add_float32_panels(slab, panel_rows, total, overflowed, scratch)
        total[np.triu_indices(len(total), 1)] = 1e9


@KINDS
def test_only_the_lower_triangle_of_a_card_counts(kind):
    rows, lower = rows_of(200), LowerOnly()
    found, wanted = queued(kind, lower, rows), queued(kind, PLAIN, rows)
    assert_alike(found.merge(found), wanted.merge(wanted))
    found.merge(found).check(0, 400)
    for one, other in ((found, wanted), (found.prefix(5), wanted.prefix(5))):
        mine, theirs = one.spectrum(unit_roundoff=U), other.spectrum(unit_roundoff=U)
        assert np.array_equal(mine.raw.consistent.upper, theirs.raw.consistent.upper)
        assert np.array_equal(mine.centered.values, theirs.centered.values)
        assert np.array_equal(one.values(centered=True), other.values(centered=True))


@CARDS
def test_a_run_of_merged_states_is_checked_as_one(card):
    rows = rows_of(400).astype(np.float32).astype(np.float64)
    parts = [queued(Float32GramAccumulator, card, rows[low : low + 100]) for low in range(0, 400, 100)]
    whole = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    whole.check(0, 400)
    block = parts[1]._gram._blocks[0, 0]
    block[5, 3] = block[5, 3] + 0.01 * block[5, 5]
    broken = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    with pytest.raises(ArithmeticCheckError, match=r"rows 0-399: the product is .* off where the arithmetic allows"):
        broken.check(0, 400)


class Solving(StandardDevice):
    """A card that counts the eigenproblems that it is given."""

    def __init__(self) -> None:
        super().__init__(array_api_numpy, "solving:0")
        self.solved: list[int] = []

    def eigenvalues(self, lower):
        self.solved.append(len(lower))
        return super().eigenvalues(lower)


@KINDS
@pytest.mark.parametrize(("width", "solved"), [(511, []), (520, [520, 520])])
def test_a_card_solves_only_large_eigenproblems(kind, width, solved):
    card, rows = Solving(), np.random.default_rng(0).standard_normal((600, width))
    made = partial(kind, width)
    found, wanted = made(Workspace(card)), made(Workspace(HOST))
    queue(found, rows, panel_rows=300)
    found.set_nonzero(np.ones(width, dtype=bool))
    for start in (0, 300):
        wanted.update(with_ones(rows[start : start + 300]), start)
    mine, theirs = found.spectrum(unit_roundoff=U_ROWS), wanted.spectrum(unit_roundoff=U_ROWS)
    assert card.solved == solved
    assert np.allclose(mine.raw.values, theirs.raw.values, rtol=1e-6)
    assert np.allclose(mine.centered.values, theirs.centered.values, rtol=1e-6)
    assert (mine.grounds, mine.evidence) == (theirs.grounds, theirs.evidence)
    for side in (mine.raw, mine.centered):
        exact = np.linalg.svd(rows if side is mine.raw else rows - rows.mean(axis=0), compute_uv=False)
        assert np.all(side.consistent.lower <= exact + 1e-12) and np.all(exact - 1e-12 <= side.consistent.upper)
    card.solved.clear()
    found.prefix(40).spectrum(unit_roundoff=U_ROWS)
    assert not card.solved
    found.values(centered=False)
    assert card.solved == solved[:1]
