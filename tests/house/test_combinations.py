"""Every combination of options works or is refused in one line, as docs/combinations.md says."""

from __future__ import annotations

import re
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

import rankme_stream as rs
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import UsageError
from rankme_stream.numerics.devices import registry
from tests.dumps import rows_like, store

PAGE = (Path(__file__).parents[2] / "docs" / "combinations.md").read_text(encoding="utf-8")
REFUSED = {
    frozenset(cell.strip(" `") for cell in line.split("|")[1:3])
    for line in PAGE.splitlines()
    if line.startswith("|") and not re.match(r"\| this|\|---", line)
}
ROWS = ("a path", "rows in memory", "a stream of blocks")
SKETCHES = {name for name, method in METHODS.items() if method.is_sketch}
ALWAYS = {"normalize": True, "dims": (3,), "nonfinite": "skip", "tolerance": 10.0}
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def client():
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as opened:
        opened.run(know_the_toy)
        yield opened


def know_the_toy():
    registry.MODULES["toy"] = ("tests.toy_device",)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    rows = rows_like(4000, 4)
    rows[7, 2] = np.nan
    return store(tmp_path_factory.mktemp("combinations") / "a.zarr", rows)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", ["auto", "gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"])
@pytest.mark.parametrize("precision", ["float64", "float32", "auto"])
def test_options_work_together_or_are_refused(client, path, tmp_path, monkeypatch, rows, method, precision):
    source = {
        "a path": lambda: path,
        "rows in memory": lambda: store_rows(path),
        "a stream of blocks": lambda: iter(np.array_split(store_rows(path), 3)),
    }[rows]
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    for number, (sample, dask, kept, there) in enumerate(product([False, True], repeat=4)):
        options = {"method": method, "precision": precision, "sample": sample}
        if method in ("rsvd", "frequent-directions"):
            options |= {"rank": 1, "oversampling": 1}
        always = ALWAYS if method not in SKETCHES else ALWAYS | {"dims": ()}
        named = {rows, f"--method {method}", f"--precision {precision}"}
        named |= {"--sample"} if sample else set()
        if dask:
            options |= {"engine": "dask", "client": client}
            named |= {"--engine dask"}
        if there:
            options |= {"device": "toy"}
            named |= {"--device cuda"}
        if kept:
            options |= {"checkpoint": tmp_path / f"{number}"}
            named |= {"--checkpoint"}
        if any(frozenset(pair) in REFUSED for pair in combinations(named, 2)):
            with pytest.raises(UsageError):
                rs.measure(source(), **options, **always)
            continue
        found = rs.measure(source(), **options, **always)
        assert found.audit.rows_nonfinite == (0 if sample and not found.audit.rows_nonfinite else 1)
        for one in (*found.estimates.values(), *found.normalized.values(), *found.dims.get(3, {}).values()):
            assert one.value is not None or one.reason


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", ["auto", "tsqr", "rsvd", "frequent-directions"])
def test_groups_work_with_the_other_options_or_are_refused(client, path, tmp_path, monkeypatch, rows, method):
    source = {
        "a path": lambda: path,
        "rows in memory": lambda: store_rows(path),
        "a stream of blocks": lambda: iter(np.array_split(store_rows(path), 3)),
    }[rows]
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    always = ALWAYS if method not in SKETCHES else ALWAYS | {"dims": (), "rank": 1, "oversampling": 1}
    for flag, option in {
        "nothing else": {}, "--sample": {"sample": True}, "--population": {"population": True},
        "--engine dask": {"engine": "dask", "client": client}, "--device cuda": {"device": "toy"},
        "--checkpoint": {"checkpoint": tmp_path / "kept"}, "--precision float32": {"precision": "float32"},
    }.items():  # fmt: skip
        named = {rows, f"--method {method}", "--group-by", flag}
        options = {"method": method, "groups": "rows:500"} | option
        if flag == "--population" or any(frozenset(pair) in REFUSED for pair in combinations(named, 2)):
            with pytest.raises(UsageError):
                rs.measure(source(), **options, **always)
            continue
        found = rs.measure(source(), **options, **always)
        assert [one["rankme"].details["n_rows"] for one in found.groups.values()] == [499, *[500] * 7]
        for one in found.groups["0:500"].values():
            assert one.value is not None or one.reason


def store_rows(path: Path) -> np.ndarray:
    return rs.open_source(path).read(0, 4000)


def test_the_table_is_read():
    assert len(REFUSED) == 17
