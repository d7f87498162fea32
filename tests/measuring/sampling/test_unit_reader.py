"""Units of a sample in their replicates: the rows of the design, whatever the chunks, the workers and the device."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.errors import MagnitudeError, MissingChunksError, NonFiniteError, ZeroRowError
from rankme_stream.measuring.pass_runner import PassRunner
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.sampling.sample import Sample
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices import registry
from rankme_stream.sources import open_source
from tests.toy_device import TOY

N, D = 9_003, 48
FIRST, LAST = 5, 9_000
SEED = 24  # of which the second look reads the last unit, which is cut by the end, for the replicate 6


@pytest.fixture(autouse=True)
def one_thread():
    with blas_threads.one_thread():
        yield


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    found = np.random.default_rng(0).standard_normal((N, D)) * np.arange(1, D + 1) ** -0.5
    return found.astype(np.float16)


def sample_of(source: object, *, precision: str = "float64", **options: object) -> Sample:
    runner = PassRunner(
        open_source(source),
        Request(sample=True, rows=(FIRST, LAST), rare=0.05, seed=SEED, **{"normalize": True} | options),
    )
    return Sample(runner, Arithmetic("gram", precision), runner.design())


def looked_at(sample: Sample) -> Sample:
    """Read two looks, the second in several batches."""
    sample.read_to(sample.design.first_look)
    object.__setattr__(sample.plan.grid, "segment_rows", 3 * sample.design.unit_rows)
    sample.read_to(2 * sample.design.first_look)
    return sample


def bits_of(sample: Sample) -> list[bytes]:
    found = []
    for number in sorted(sample._reader.replicates):
        _, arrays = sample._reader.replicates[number].to_record()
        found += [array.tobytes() for array in arrays.values()]
    return [*found, sample.whole.unit_maxima.tobytes()]


def kept(sample: Sample, replicate: int, rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each unit of a replicate, as the design has them."""
    units = sample.design.units(0, sample.units_read)
    return [
        rows[slice(*sample.design.rows(unit))].astype(np.float64) for unit, one in units.items() if one == replicate
    ]


def test_each_replicate_holds_its_units(rows):
    sample = looked_at(sample_of(rows))
    assert sample.design.unit_rows == 4
    assert sample.design.n_units - 1 in sample.design.units(0, sample.units_read)  # which is cut by the end
    for replicate, found in sample._reader.replicates.items():
        units = kept(sample, replicate, rows)
        own, accumulators = np.concatenate(units), found.accumulators
        values = accumulators["raw"].values(centered=False)
        np.testing.assert_allclose(values, np.linalg.svd(own, compute_uv=False), rtol=1e-9)
        np.testing.assert_allclose(accumulators["raw"].sums(), own.sum(axis=0), atol=1e-9)
        unit_rows = own / np.linalg.norm(own, axis=1)[:, None]
        np.testing.assert_allclose(accumulators["unit"].sums(), unit_rows.sum(axis=0), atol=1e-9)
        lengths = [(one**2).sum(axis=1) for one in units]
        assert found.row_norms.squares == pytest.approx(np.concatenate(lengths).sum())
        largest = np.log([one.max() for one in lengths])
        np.testing.assert_allclose(np.sort(found.unit_maxima), np.sort(largest), atol=1e-12)
    n_rows = sample.units_read * 4 - 1
    assert sample.progress.rows_done == sample.progress.rows_total == sample.rows_decoded == n_rows


def test_neither_chunks_nor_workers_change_a_bit(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    sources: list[object] = [rows, tmp_path / "rows.npy"]
    sources += [zarr.create_array(tmp_path / f"{n}", data=rows, chunks=(n, D)) for n in (300, 10_000)]
    sources.append(zarr.create_array(tmp_path / "s", data=rows, chunks=(100, 24), shards=(3000, 24)))
    sources.append(open_source([zarr.create_array(tmp_path / "a", data=rows[:4001], chunks=(300, D)), rows[4001:]]))
    wanted = bits_of(looked_at(sample_of(sources[0], workers=1)))
    for number, source in enumerate(sources):
        assert bits_of(looked_at(sample_of(source, workers=number % 3 + 1))) == wanted, number


def test_a_chunk_is_decoded_once_a_batch(rows, tmp_path):
    sample = sample_of(zarr.create_array(tmp_path / "a", data=rows, chunks=(3_001, D)))
    sample.read_to(sample.design.first_look)
    assert sample.rows_decoded == LAST - FIRST
    assert sample.progress.bytes_read <= (LAST - FIRST) * D * 2


def test_a_card_finds_the_same(rows, monkeypatch):
    """The toy computes as a card; rows come from the host, and lie on it."""

    class OnToy:
        def __init__(self, held: np.ndarray) -> None:
            self.held = held

        def __dlpack__(self, **_: object) -> object:
            return self.held.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return 77, 0

    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    monkeypatch.setattr(registry, "_DLPACK_KINDS", {1: "cpu", 77: "toy"})
    few = rows.astype(np.float32)
    few[::50, 3] = np.nan
    options = {"nonfinite": "skip", "max_rows": 400}
    wanted = looked_at(sample_of(few, **options))
    for source, device in ((few, "toy"), (OnToy(few), "cpu")):
        found = looked_at(sample_of(source, device=device, **options))
        assert found.whole.accumulators["raw"].device is TOY
        assert found.whole.audit == wanted.whole.audit
        assert found.whole.row_norms.effective_rows == pytest.approx(wanted.whole.row_norms.effective_rows)
        np.testing.assert_allclose(found.whole.unit_maxima, wanted.whole.unit_maxima, atol=1e-12)
        for key in ("raw", "unit"):
            mine, theirs = (one.whole.accumulators[key].values(centered=False) for one in (found, wanted))
            np.testing.assert_allclose(mine, theirs, rtol=1e-9)
        assert np.array_equal(found.kept_rows().rows, wanted.kept_rows().rows)


def test_rows_are_kept_where_few_are_read(rows):
    assert sample_of(rows).kept_rows() is None
    some = rows.copy()
    some[::7] = np.nan
    sample = sample_of(some, max_rows=400, nonfinite="skip")
    sample.read_to(sample.design.first_look)
    first = len(sample.kept_rows().rows)
    sample.read_to(8 * sample.design.first_look)
    found = sample.kept_rows()
    units = sample.design.units(0, min(sample.units_read, 192 // sample.design.unit_rows))
    assert 0 < first < len(found.rows)
    assert set(found.unit) == {unit for unit in units if np.isfinite(some[slice(*sample.design.rows(unit)), 0]).any()}
    assert [units[unit] for unit in found.unit] == found.replicate.tolist()
    for unit in units:
        own = some[slice(*sample.design.rows(unit))]
        assert np.array_equal(found.rows[found.unit == unit], own[np.isfinite(own[:, 0])])


def test_faulty_rows_are_counted_and_named_by_their_number_in_the_dump(rows):
    some = rows.astype(np.float32)
    sample = sample_of(rows)
    units = sample.design.units(0, sample.design.first_look)
    early, late = (sample.design.rows(unit)[0] + 1 for unit in (list(units)[2], list(units)[-2]))
    assert units[(early - FIRST) // 4] != 0
    some[[early, late]] = 0.0
    some[[early + 1, late + 1], 5] = np.inf
    counted = sample_of(some, nonfinite="skip")
    counted.read_to(counted.design.first_look)
    audit = counted.whole.audit
    assert (audit.rows_zero, audit.first_zero) == (2, early)
    assert (audit.rows_nonfinite, audit.first_nonfinite) == (2, early + 1)
    for workers in (1, 3):
        for options, error, row in (({}, NonFiniteError, early + 1), ({"zeros": "error"}, ZeroRowError, early)):
            faulty = sample_of(some, workers=workers, nonfinite="skip" if options else "error", **options)
            with pytest.raises(error, match=re.escape(f"row {row:,} ")):
                faulty.read_to(faulty.design.first_look)
    large = rows.astype(np.float64)
    large[late] *= 1e150
    faulty = sample_of(large)
    with pytest.raises(MagnitudeError, match=re.escape(f"row {late:,} holds values beyond 2^480")):
        faulty.read_to(faulty.design.first_look)


def test_squares_that_overflow_float32_are_said_to_lie_among_the_rows_read(rows):
    sample = sample_of(rows.astype(np.float64) * 1e25, precision="float32", normalize=False)
    units = list(sample.design.units(0, sample.design.first_look))
    first, last = sample.design.rows(units[0])[0], sample.design.rows(units[-1])[1]
    with pytest.raises(MagnitudeError, match=f"rows {first:,}-{last - 1:,} hold values whose squares overflow float32"):
        sample.read_to(sample.design.first_look)


@pytest.mark.parametrize("missing", ["error", "skip", "fill"])
def test_missing_chunks_of_a_sample(rows, missing, tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(N, D), chunks=(1000, D), dtype="f2", fill_value=1)
    for start in (*range(0, 3000, 1000), *range(4000, N, 1000)):
        array[start : start + 1000] = rows[start : start + 1000]
    sample = sample_of(array, missing=missing)
    if missing == "error":
        with pytest.raises(MissingChunksError, match=r"chunk c/3/0 \(rows 3,"):
            sample.read_to(sample.design.first_look)
        return
    sample.read_to(sample.design.first_look)
    units = [sample.design.rows(unit) for unit in sample.design.units(0, sample.units_read)]
    gone = [row for start, stop in units for row in range(start, stop) if 3000 <= row < 4000]
    audit, n_rows = sample.whole.audit, sample.whole.accumulators["raw"].n_rows
    assert (audit.rows_missing, audit.first_missing) == (len(gone), min(gone))
    assert n_rows == sum(stop - start for start, stop in units) - len(gone) * (missing == "skip")
    assert audit.rows_constant == len(gone) * (missing == "fill")
