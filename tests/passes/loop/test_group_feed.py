"""Groups of a pass on a card have the bits of a pass on the host, whatever reads the rows and in which order."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import MagnitudeError, NonFiniteError, StorageError
from rankme_stream.groups.partition import partition_of
from rankme_stream.numerics.devices import registry
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.passes.loop.group_feed import GroupFeed
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning import card_layout, plan
from rankme_stream.passes.state.audit import Rules
from rankme_stream.sources import ArraySource
from tests.dumps import rows_like, store
from tests.toy_device import TOY

RULES = [{}, {"zeros": "skip"}, {"rows": (70_000, 130_001)}]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let blocks, pieces and runs be small: segments are then read in many parts, and merged in several runs."""
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    monkeypatch.setattr(plan, "SLOT_BYTES", (100_000,))
    monkeypatch.setattr("rankme_stream.passes.loop.slot_feed.PIECE_BYTES", 30_000)
    monkeypatch.setattr(card_layout, "_RUN_BYTES", 2**21)


@pytest.fixture(scope="module")
def faulty() -> np.ndarray:
    rows = rows_like(140_000, 3)  # three segments
    rows[70_017, 2], rows[139_000:139_004] = np.nan, np.inf
    rows[40:43] = rows[65_535:65_538] = 0.0
    return rows


@pytest.fixture(scope="module")
def path(tmp_path_factory, faulty):
    return store(tmp_path_factory.mktemp("groups") / "a.zarr", faulty, chunk=5000)


def numbers(found: rs.Measurement) -> dict:
    document = found.to_dict()
    return {"groups": document["groups"], "lidar": document["estimates"]["lidar"], "audit": document["audit"]}


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("groups", ["rows:30000", "labels"])
def test_groups_are_those_of_the_host(path, groups, rules):
    labels = np.random.default_rng(0).integers(0, 7, 140_000)
    labels[100:20_000] = 7  # closed in the first segment
    asked = {"groups": labels if groups == "labels" else groups, "nonfinite": "skip", "tolerance": 1e9} | rules
    found, wanted = (rs.measure(path, device=name, **asked) for name in ("toy", "cpu"))
    assert numbers(found) == numbers(wanted)
    assert found.device == "toy:0"
    assert found.to_dict()["remarks"] == ["Groups and LiDAR were computed on the processor, not on toy:0."]
    assert wanted.to_dict()["remarks"] == []


def test_groups_of_rows_on_the_card_are_those_of_the_host(monkeypatch, faulty):
    monkeypatch.setattr(registry, "_DLPACK_KINDS", {1: "cpu", 77: "toy"})
    monkeypatch.setattr(TOY.xp, "from_dlpack", lambda one: one.rows)

    class OnToy:
        rows = TOY.upload(faulty)

        def __dlpack__(self, **_):
            raise BufferError("nothing is lent")

        def __dlpack_device__(self):
            return 77, 0

    asked = {"groups": "rows:30000", "nonfinite": "skip", "tolerance": 1e9}
    assert numbers(rs.measure(OnToy(), **asked)) == numbers(rs.measure(faulty, **asked))


@pytest.mark.parametrize("dtype", ["int8", "float16", "bfloat16", "float8_e4m3fn", "float64"])
def test_groups_of_every_type_are_those_of_the_host(dtype):
    rows = (40 * rows_like(2500, 5)).astype(getattr(ml_dtypes, dtype, dtype))
    asked = {"groups": "rows:300", "tolerance": 1e9}
    assert numbers(rs.measure(rows, device="toy", **asked)) == numbers(rs.measure(rows, **asked))


def test_bfloat16_that_a_library_widened_is_held_by_its_bits():
    rows, kind = rows_like(50, 3).astype(ml_dtypes.bfloat16), named_type("bfloat16")
    bits = rows.view(np.uint16)
    for given in (bits, rows, rows.astype(np.float32), rows.astype(np.float32).T.copy().T):
        assert np.array_equal(kind.as_held(given), bits)


def test_pieces_may_come_in_any_order(faulty):
    source, plan_of_all = ArraySource(faulty), rs.plan(faulty, method="gram", device="toy")
    labels = partition_of("rows:30000", 140_000, (0, 140_000))
    spec = PassSpec(source, plan_of_all, None, rules=Rules(nonfinite="skip"), groups=labels)
    pieces = [(start, min(start + 777, 140_000)) for start in range(0, 140_000, 777)]
    records = []
    for seed in range(3):
        feed = GroupFeed(spec, labels)
        random.Random(seed).shuffle(pieces)
        for start, stop in pieces:
            feed(start, source.read(start, stop))
        total = feed.take(0).merge(feed.take(1)).merge(feed.take(2))
        records.append(total.to_record())
        with pytest.raises(KeyError):
            feed.take(0)  # nothing is kept twice
    for plain, arrays in records[1:]:
        assert plain == records[0][0]
        assert all(np.array_equal(arrays[key], array) for key, array in records[0][1].items())


class Failing(ArraySource):
    """Rows whose last ones cannot be read."""

    def read(self, start, stop, out=None):
        if stop > 90_000 and stop - start > 1:  # a fingerprint takes single rows
            raise StorageError("rows beyond 90,000 cannot be read")
        return super().read(start, stop, out)


def test_a_fault_in_rows_before_those_that_cannot_be_read_comes_first(faulty):
    asked = {"device": "toy", "rows": (66_000, 130_000)}
    with pytest.raises(NonFiniteError, match="row 70,017 is not finite"):
        rs.measure(Failing(np.asfortranarray(faulty)), **asked)
    with pytest.raises(StorageError, match="beyond 90,000"):
        rs.measure(Failing(np.asfortranarray(faulty)), nonfinite="skip", **asked)


@pytest.mark.parametrize("method", ["gram", "tsqr", "frequent-directions", "row-sketch"])
@pytest.mark.parametrize("groups", [None, "rows:50"])
def test_rows_that_are_too_large_reach_no_accumulator(method, groups):
    rows = rows_like(6000, 12).astype(np.float64)
    rows[5000] = 1e200
    sketch = {"rank": 3, "oversampling": 2} if method == "frequent-directions" else {}
    with pytest.raises(MagnitudeError, match="row 5,000 holds values beyond"):
        rs.measure(rows, device="toy", method=method, groups=groups, **sketch)
