"""Every public entrance refuses a bad value of each option that it takes, before it reads or writes anything."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import UsageError
from rankme_stream.sources import ZarrSource
from tests.dumps import rows_like, store

N_ROWS, N_FEATURES = 5000, 64
BAD_VALUES = {
    "method": ["svd", ""],
    "precision": ["half"],
    "tolerance": [-1, 0, math.nan, math.inf],
    "confidence": [7, 0, 1, -0.5, math.nan],
    "max_rows": [0, -1, math.nan],
    "rows": [(5, 2), (-1, 4), (4, 4), (0, 10**6)],
    "rare": [0.0, -0.1, 0.51, math.nan, "1%", True],
    "seed": [-1, 2**64, 0.5],
    "dims": [(0,), (10**6,), (2, -1), (2.5,)],
    "groups": ["column:x", "rows:0"],
    "workers": [0, -1, 1.5],
    "memory_limit": [0, -1, 0.5, math.nan, math.inf, "2GB"],
    "missing": ["ignore"],
    "nonfinite": ["drop", "fill"],
    "engine": ["spark"],
    "device": ["tpu", "cuda:x"],
    "rank": [0, -3],
    "oversampling": [-1],
    "passes": [0, -1, 1.5],
    "part": [(1, 1), (-1, 2), (0, 0)],
}
GO_WITH = {  # options that make a bad value the only thing wrong
    "max_rows": [{"sample": True}],
    "oversampling": [{"method": "rsvd"}],
    "passes": [{"method": "rsvd"}, {}],
    "rank": [{"method": "rsvd"}, {"method": "frequent-directions"}, {"method": "row-sketch"}],
}
ENTRANCES = {"measure": rs.measure, "plan": rs.plan, "segment": rs.segment, "measure_state": rs.measure_state}
CASES = [
    pytest.param(
        entrance, name, others | {name: value}, id="-".join([entrance, f"{name}={value!r}", *map(str, others.values())])
    )
    for entrance, function in ENTRANCES.items()
    for name, values in BAD_VALUES.items()
    if name in inspect.signature(function).parameters
    for value in values
    for others in GO_WITH.get(name, [{}])
]


class Unread(ZarrSource):
    """Rows that nobody may read."""

    def read(self, start, stop, out=None):
        pytest.fail(f"rows {start}:{stop} were read")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("dump") / "a.zarr", rows_like(N_ROWS, N_FEATURES))


@pytest.fixture(scope="module")
def state(source, tmp_path_factory) -> rs.State:
    return rs.segment(source, part=(0, 1), state=tmp_path_factory.mktemp("state") / "whole")


@pytest.mark.parametrize(("entrance", "name", "options"), CASES)
def test_a_bad_value_is_refused_before_anything_is_read_or_written(entrance, name, options, source, state, tmp_path):
    rows = Unread(str(source))
    kept = tmp_path / "kept"
    call = {
        "measure": lambda: rs.measure(rows, **({} if "sample" in options else {"checkpoint": kept}), **options),
        "plan": lambda: rs.plan(rows, **options),
        "segment": lambda: rs.segment(rows, **({"part": (0, 1), "state": kept} | options)),
        "measure_state": lambda: rs.measure_state(state, **options),
    }[entrance]
    with pytest.raises(UsageError, match=name.removesuffix("_limit")):
        call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [2e9, 2e9 + 0.5, np.float64(2e9), np.int64(2 * 10**9)])
def test_a_memory_limit_may_be_any_number_and_is_recorded_in_whole_bytes(limit, source):
    assert rs.plan(source, memory_limit=limit).to_dict()["memory_limit_bytes"] == 2 * 10**9


def test_max_rows_may_be_a_float(source):
    options = {"sample": True, "tolerance": 9.0}
    few, same = (rs.measure(source, max_rows=rows, **options) for rows in (2e3, 2000))
    assert few.rankme == same.rankme


def test_numbers_of_numpy_are_recorded_as_those_of_python(source, tmp_path):
    options = {"method": "rsvd", "rank": np.int64(8), "oversampling": np.uint8(4), "seed": np.uint64(2**64 - 1)}
    options |= {"rows": np.array([0, 4000]), "workers": np.int32(1), "normalize": np.bool_(True)}
    state = rs.segment(source, part=(np.int64(0), np.int64(1)), state=tmp_path / "state", **options)
    passes = {"passes": np.int64(1), "tolerance": np.float32(9.0), "confidence": np.float64(0.9)}
    result = json.loads(rs.measure(source, **options, **passes).to_json())
    assert result["plan"]["seed"] == state.plan.seed == 2**64 - 1
    assert json.loads(rs.measure(source, dims=np.array([2, 4])).to_json())["dims"].keys() == {"2", "4"}
