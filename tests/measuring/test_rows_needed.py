"""How many rows a tolerance needs: what is foretold, what a pilot reads, and what reading costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import LimitError, UsageError
from rankme_stream.passes.planning.sample_cost import sample_cost
from rankme_stream.passes.planning.sample_design import draw_design
from rankme_stream.sources import ArraySource

D = 64


def shape(n_rows, n_features=D):
    """Return rows that take no memory."""
    return np.broadcast_to(np.zeros(n_features, np.float32), (n_rows, n_features))


class Counting(ArraySource):
    """Source that counts the rows that are read of it."""

    def __init__(self, rows, chunk_rows):
        super().__init__(rows)
        self._chunk_rows, self.n_read = chunk_rows, 0

    def bounds(self, start, stop):
        return range(start // self._chunk_rows * self._chunk_rows + self._chunk_rows, stop, self._chunk_rows)

    def read(self, start, stop, out=None):
        self.n_read += stop - start
        return super().read(start, stop, out)


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    found = generator.standard_normal((12_800, D)) * np.arange(1.0, D + 1.0) ** -0.5
    return found.astype(np.float32)


def test_without_a_pilot_no_row_is_read(rows):
    source = Counting(rows, 100)
    needed = rs.rows_needed(source, tolerance=0.01)
    assert source.n_read == 0
    assert needed.pilot is None
    assert needed.rows["equal"] <= needed.rows["k^-1/2"] < needed.rows["k^-1"]
    for name, n in needed.rows.items():
        point = next(one for one in needed.points if one.rows == n)
        assert point.half_width[name] <= 0.01


def test_a_sample_reads_at_least_what_finds_rare_units_and_at_most_half_of_the_dump():
    needed = rs.rows_needed(shape(100_000), tolerance=0.5)
    assert needed.first_look.rows == 640
    assert set(needed.rows.values()) == {640}
    assert [one.rows for one in needed.points] == [640, 1280, 2560, 100_000]
    assert needed.points[-1].half_width == dict.fromkeys(needed.rows, 0.0)
    fine = rs.rows_needed(shape(2000), tolerance=1e-4)
    assert fine.rows == dict.fromkeys(needed.rows)
    assert [one.rows for one in fine.points] == [640, 2000]
    assert [one.rows for one in rs.rows_needed(shape(1200), tolerance=1e-4).points] == [384, 1200]


def test_a_population_may_need_more_rows_than_there_are():
    needed = rs.rows_needed(shape(300), population=True, tolerance=0.01)
    assert needed.rows["k^-1"] > 300
    assert {one.rows for one in needed.points if one.cost is None} == {384, 640, 1280, 2560, *needed.rows.values()} - {
        one for one in needed.rows.values() if one <= 300
    }
    widths = [one.half_width["k^-1/2"] for one in needed.points]
    assert all(widths)
    assert needed.first_look is None


def test_a_dump_too_small_for_any_statement_has_no_points():
    needed = rs.rows_needed(shape(70), tolerance=0.01)
    assert needed.points == ()
    assert set(needed.rows.values()) == {None}


def test_a_pilot_reads_4_rows_a_feature_and_foretells_for_its_rows(rows):
    source = Counting(rows, 100)
    needed = rs.rows_needed(source, tolerance=0.01, pilot=True, seed=3)
    assert source.n_read == needed.pilot.rows == 4 * D
    assert needed.pilot.units == 64
    assert needed.pilot.bytes_decoded == pytest.approx(4 * D * needed.pilot.chunks * 100, rel=0.01)
    gaussian = rs.rows_needed(source, tolerance=0.01).rows["k^-1/2"]
    assert needed.rows["pilot"] == pytest.approx(gaussian, rel=0.5)
    assert needed == rs.rows_needed(source, tolerance=0.01, pilot=True, seed=3)


def test_a_pilot_leaves_out_rows_that_hold_no_numbers(rows):
    holed = rows.copy()
    holed[::7] = np.nan
    needed = rs.rows_needed(holed, tolerance=0.01, pilot=True)
    assert 0 < needed.rows["pilot"] < 12_800 / 2


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        (shape(500), {"pilot": True}, UsageError, "a pilot reads 256 rows, 4 per feature, and there are 500"),
        (shape(5000), {"pilot": True}, UsageError, "too few of the rows that a pilot read are there, finite"),
        (shape(5000), {"pilot": True, "memory_limit": 2**20}, LimitError, "a pilot of 64 features needs"),
        (shape(5000), {"price_per_gb": -1.0}, UsageError, "price_per_gb is -1.0 and must be a finite number"),
        (shape(5000), {"price_per_gb": True}, UsageError, "price_per_gb is True"),
        (shape(5000), {"tolerance": 0.0}, UsageError, "tolerance is 0.0"),
        (shape(5000), {"rare": 0.7}, UsageError, "rare is 0.7"),
    ],
)
def test_what_cannot_be_foretold_is_refused(given, options, error, words):
    with pytest.raises(error, match=words):
        rs.rows_needed(given, **options)


def test_the_price_is_that_of_the_decoded_bytes(rows):
    needed = rs.rows_needed(Counting(rows, 1600), price_per_gb=2.0)
    look = needed.first_look
    assert look.chunks == 8
    assert look.price == pytest.approx(2.0 * rows.nbytes / 1e9)
    assert needed.points[-1].cost.price == pytest.approx(look.price)
    assert needed.points[-2].cost.price == pytest.approx(3 * look.price)  # three looks


@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
@pytest.mark.parametrize(("name", "decay"), [("equal", 0.0), ("k^-1/2", 0.5)])
def test_samples_of_gaussian_rows_have_the_half_width_that_was_foretold_within_30_percent(name, decay):
    generator = np.random.default_rng(8)
    dump = Counting(generator.standard_normal((4000, D)) * np.arange(1.0, D + 1.0) ** -decay, 50)
    foretold = next(one for one in rs.rows_needed(dump).points if one.rows == 10 * D)
    found = [rs.measure(dump, sample=True, max_rows=10 * D, tolerance=1e-9, seed=seed) for seed in range(3)]
    half_widths = [one.rankme.half_width / one.rankme.value for one in found]
    assert np.median(half_widths) == pytest.approx(foretold.half_width[name], rel=0.3)
    decoded = [one.to_dict()["sampling"]["rows_decoded"] for one in found]
    assert np.mean(decoded) * D * 8 == pytest.approx(foretold.cost.bytes_decoded, rel=0.1)


@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
@pytest.mark.parametrize(("name", "decay"), [("equal", 0.0), ("k^-1/2", 0.5), ("k^-1", 1.0)])
def test_few_gaussian_rows_have_the_half_width_that_was_foretold_within_30_percent(name, decay):
    found = []
    for seed in range(3):
        rows = np.random.default_rng(seed).standard_normal((3 * D, D)) * np.arange(1.0, D + 1.0) ** -decay
        rankme = rs.measure(rows, population=True, tolerance=1e-9).rankme
        found.append(rankme.half_width / rankme.value)
    foretold = next(one for one in rs.rows_needed(rows, population=True).points if one.rows == 3 * D)
    assert np.median(found) == pytest.approx(foretold.half_width[name], rel=0.3)


def test_the_table_of_decoded_rows_in_the_documentation_is_what_a_plan_expects():
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
    for n_rows, n_features in ((400_000, 768), (4_000_000, 768), (4_000_000, 2048), (100_000_000, 768)):
        for rare in (0.01, 0.05):
            design = draw_design(rows=(0, n_rows), n_features=n_features, seed=0, rare=rare)
            shares = []
            for chunk_rows in (64, 256, 1024, 4096):
                look_rows = design.first_look * design.unit_rows
                cost = sample_cost(design, look_rows, range(chunk_rows, n_rows, chunk_rows), batch_rows=look_rows)
                shares.append(f"{100 * cost.rows_decoded / n_rows:.2g} %")
            name = f"{n_rows:,} x {n_features:,}, `--rare {100 * rare:g}%`"
            assert f"| {name} | {design.first_look:,} x {design.unit_rows} | {' | '.join(shares)} |" in page
