"""Sketches keep the laws, hold the truth of any spectrum, and give one answer whatever the schedule."""

from __future__ import annotations

import re

import numpy as np
import pytest

import rankme_stream as rs
from benchmarks.validity.planted import FAMILIES
from rankme_stream.accumulators import sketch_spectrum
from rankme_stream.accumulators.frequent_directions import FrequentDirectionsAccumulator
from rankme_stream.accumulators.nystrom.accumulator import NystromAccumulator
from rankme_stream.errors import ArithmeticCheckError, LimitError, UsageError
from rankme_stream.groups import partition
from rankme_stream.numerics.devices import host
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.host import Host
from rankme_stream.sources.labels import open_labels
from rankme_stream.testing import AccumulatorLaws, matrix_with_spectrum, with_ones
from tests.dumps import same_bits, store
from tests.planted_spectra import spectra
from tests.toy_device import TOY

SKETCHES = {"rsvd": NystromAccumulator, "frequent-directions": FrequentDirectionsAccumulator}
pytestmark = pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")


@pytest.mark.parametrize("kind", SKETCHES.values())
@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("device", [None, TOY], ids=["host", "strict"])
class TestLaws(AccumulatorLaws):
    """The laws of every accumulator."""

    @pytest.fixture(autouse=True)
    def chosen(self, kind, columns, device):
        self.made = lambda n: kind(n, Workspace(device) if device else None, sketch_size=columns)

    def make(self, n_features):
        return self.made(n_features)


def measured(rows: np.ndarray, method: str, **options) -> rs.Measurement:
    return rs.measure(rows, method=method, tolerance=1e9, **options)


@pytest.mark.parametrize("method", SKETCHES)
@pytest.mark.parametrize("name", spectra(48))
@pytest.mark.parametrize("rank", [1, 6, 14])
def test_intervals_hold_every_metric(method, name, rank):
    rows = matrix_with_spectrum(spectra(48)[name], n_rows=900, n_features=48, seed=rank) + 0.01
    found = measured(rows, method, rank=rank, normalize=True)
    exact = rs.measure(rows, method="tsqr", normalize=True, tolerance=1.0)
    assert found.method == method
    for mine, theirs in ((found.estimates, exact.estimates), (found.normalized, exact.normalized)):
        for metric, one in mine.items():
            true = theirs[metric]
            if one.lower is None or true.lower is None:
                assert one.reason or true.reason
                continue
            assert one.covers == ("arithmetic", "approximation")
            assert one.lower <= true.upper, metric  # both hold the truth, to within rounding that they know
            assert true.lower <= one.upper, metric
            assert one.value is None or one.lower <= one.value <= one.upper, metric
    for preset, one in found.presets.items():
        assert one.lower <= exact.presets[preset].upper, preset
        assert exact.presets[preset].lower <= one.upper, preset


@pytest.mark.parametrize("method", SKETCHES)
def test_more_directions_narrow_the_interval(method):
    rows = matrix_with_spectrum(np.arange(1.0, 129) ** -1.0, n_rows=1500, n_features=128)
    widths = [measured(rows, method, rank=rank).rankme.half_width for rank in (4, 16, 50)]
    assert widths[0] > 1.1 * widths[1] > 1.2 * widths[2], widths


@pytest.mark.parametrize("method", SKETCHES)
def test_rows_of_every_kind_are_held(method):
    generator = np.random.default_rng(3)
    for name, make in FAMILIES.items():
        for n_rows, n_features, scale in ((300, 24, 1.0), (9, 24, 2.0**300), (24, 24, 2.0**-300), (2, 8, 1.0)):
            rows = make(generator, n_rows, n_features)
            found = measured(rows * scale, method, rank=3, oversampling=1)
            exact = rs.measure(rows, method="tsqr", tolerance=1.0)
            for metric, one in found.estimates.items():
                true = exact[metric]
                if one.lower is not None and true.lower is not None:
                    assert one.lower <= true.upper, (name, n_rows, scale, metric)
                    assert true.lower <= one.upper, (name, n_rows, scale, metric)


def test_test_vectors_that_are_alike_are_left_out():
    rows = np.random.default_rng(0).standard_normal((50, 4))
    exact = rs.measure(rows).rankme
    for seed in range(30):  # one in eight draws the same two signs, or opposite ones
        found = measured(rows, "rsvd", rank=1, oversampling=1, seed=seed).rankme
        assert found.lower <= exact.upper
        assert exact.lower <= found.upper


def test_arithmetic_that_is_wrong_is_an_error(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((400, 20))
    honest = host.cross_product

    def broken(left, right, out):
        honest(left, right, out)
        if len(left) > 200:  # not in the products of 128 rows that are tried before a pass
            out[2, 5] *= 1.001

    monkeypatch.setattr(host, "cross_product", broken)
    with pytest.raises(ArithmeticCheckError, match="from symmetric"):
        measured(rows, "rsvd", rank=6, oversampling=2)
    monkeypatch.undo()
    solve = Host.eigenvectors

    def off(self, symmetric):
        values, vectors = solve(self, symmetric)
        return values * 1.001, vectors

    monkeypatch.setattr(Host, "eigenvectors", off)
    with pytest.raises(ArithmeticCheckError, match="the trace is"):
        measured(rows, "frequent-directions", rank=6)
    with pytest.raises(ArithmeticCheckError, match="floors of the eigenvalues add up to"):
        sketch_spectrum.singular_values_from_floors(np.array([6.0, 4.0, 2.0]), (10.0, 10.0), 4, 0)


@pytest.mark.parametrize("method", SKETCHES)
def test_rows_of_a_rank_below_the_sketch_are_scored_closely(method):
    rows = matrix_with_spectrum(np.array([3.0, 2.0, 1.0]), n_rows=800, n_features=64)
    rankme = measured(rows, method, rank=20).rankme
    exact = rs.metrics.rankme(np.array([3.0, 2.0, 1.0]), eps=0.0)
    assert rankme.half_width < 0.02
    assert abs(rankme.value - exact) < 0.02


@pytest.mark.parametrize("method", SKETCHES)
def test_the_answer_does_not_follow_chunks_workers_or_parts(method, tmp_path):
    rows = np.random.default_rng(2).standard_normal((270_000, 16)).astype(np.float16)
    options = {"method": method, "rank": 3, "oversampling": 2, "tolerance": 1e9}
    paths = [store(tmp_path / f"{n}.zarr", rows, chunk=n) for n in (1000, 70_001)]
    whole = rs.measure(paths[0], workers=1, **options)
    assert len(whole.plan.all_segments) > 3
    assert same_bits(rs.measure(paths[1], workers=3, **options), whole)
    assert same_bits(rs.measure(iter(np.array_split(rows, 5)), **options), whole)
    parts = []
    for part in (2, 0, 1):
        part_options = {name: options[name] for name in ("method", "rank", "oversampling")}
        parts.append(rs.segment(paths[0], part=(part, 3), state=tmp_path / f"{part}", **part_options))
    again = [rs.load_state(tmp_path / f"{part}") for part in (0, 1, 2)]
    assert same_bits(rs.measure_state(rs.merge_states(again), tolerance=1e9), whole)
    if method == "rsvd":
        other = rs.measure(paths[0], seed=1, **options)
        assert other.rankme.lower != whole.rankme.lower
        with pytest.raises(UsageError, match="seed 0"):
            NystromAccumulator(5, sketch_size=2, seed=1).merge(NystromAccumulator(5, sketch_size=2, seed=0))


def test_a_sketch_says_what_it_cannot_do():
    rows = np.random.default_rng(0).standard_normal((500, 40))
    for options, text in (
        ({"rank": 5, "method": "gram"}, "pass method rsvd, frequent-directions, row-sketch as well"),
        ({"rank": 21, "method": "frequent-directions"}, "more than half of the 40 features"),
        ({"rank": 11, "method": "rsvd"}, "rank 11 and oversampling 10"),
        ({"method": "rsvd", "dims": (3,)}, "leave dims out"),
        ({"method": "rsvd", "sample": True}, "leave sample and population out"),
        ({"method": "rsvd", "precision": "float32"}, "float64 only"),
    ):
        with pytest.raises(UsageError, match=text):
            rs.measure(rows, **options)
    measurement = measured(rows, "rsvd", rank=4)
    assert measurement["condition_number"].value is None
    assert "sketch cannot tell" in measurement["condition_number"].reason
    assert "Intervals cover the errors of arithmetic and approximation" in str(measurement)
    assert measurement.to_dict()["spectrum"]["kind"] == "floor"


def test_where_no_gram_fits_a_sketch_is_named(tmp_path):
    rows = np.tile(np.random.default_rng(0).standard_normal((64, 4000)), (64, 1)).astype(np.float16)
    path = store(tmp_path / "wide.zarr", rows, chunk=64)
    limit = rs.plan(path, method="rsvd", rank=40).predicted_peak_bytes + 2**26
    with pytest.raises(LimitError, match=r"memory_limit \d+MiB or more; or sketch it, .* of 4,000$") as refusal:
        rs.measure(path, memory_limit=limit)
    rank = int(re.search(r'method="rsvd" rank=(\d+),', str(refusal.value))[1])
    assert measured(path, "rsvd", rank=rank, memory_limit=limit).rankme.value > 1
    for options in ({"dims": (5,)}, {"precision": "float32"}, {"sample": True}):
        with pytest.raises(LimitError) as refusal:
            rs.measure(path, memory_limit=limit, **options)
        assert "sketch" not in str(refusal.value)


def test_labels_are_read_once_where_no_pass_fits(tmp_path, monkeypatch):
    path = store(tmp_path / "wide.zarr", np.ones((64, 6000), np.float16), chunk=16)
    labels, opened = np.repeat([0, 1], 32), []
    monkeypatch.setattr(partition, "open_labels", lambda *given: opened.append(given) or open_labels(*given))
    with pytest.raises(LimitError, match="for 2 groups"):
        rs.measure(path, groups=labels, memory_limit=rs.plan(path).predicted_peak_bytes)
    assert len(opened) == 1


@pytest.mark.parametrize("kind", SKETCHES.values())
def test_rows_of_zeros_and_of_one_direction(kind):
    sketch = kind(8, sketch_size=2)
    sketch.update(with_ones(np.zeros((5, 8))), 0)
    spectrum = sketch.spectrum(unit_roundoff=2.0**-53)
    assert not spectrum.raw.consistent.upper.any()
    sketch.update(with_ones(np.outer(np.arange(1.0, 7), np.ones(8))), 5)
    spectrum = sketch.spectrum(unit_roundoff=2.0**-53)
    assert spectrum.n_rows == 11
    assert spectrum.raw.values[0] == pytest.approx(np.sqrt(8 * 91), rel=1e-6)
