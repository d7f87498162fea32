"""Several arrays read as one dump: the rows of the parts in order, checked, named, and nothing silently left out."""

from __future__ import annotations

import json
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from zarr.storage import MemoryStore

import rankme_stream as rs
from rankme_stream.cli.commands import run
from rankme_stream.errors import (
    CorruptChunkError,
    MissingChunksError,
    NonFiniteError,
    SourceChangedError,
    SourceFormatError,
    SourceNotFoundError,
    UsageError,
)
from rankme_stream.groups.partition import partition_of
from rankme_stream.passes.planning.block_layout import block_ranges, largest_unit
from rankme_stream.sources import ConcatSource, JoinedBounds, NpySource, Source, absent_numbers, natural_key
from rankme_stream.testing import SourceLaws

RNG = np.random.default_rng(5)
PARTS = {f"utm{zone}": (RNG.standard_normal((rows, 6)) + zone).astype("f4") for zone, rows in
         ((2, 300), (10, 700), (11, 51), (33, 1200))}  # fmt: skip
WHOLE = np.concatenate(list(PARTS.values()))


def write_store(path: Path, parts: dict[str, np.ndarray] = PARTS, **layout: Any) -> Path:
    group = zarr.open_group(path, mode="a")
    for name, rows in parts.items():
        array = group.create_array(
            f"{name}/embeddings", shape=rows.shape, dtype=rows.dtype, **({"chunks": (128, rows.shape[1])} | layout)
        )
        array[:] = rows
    return path


def write_files(folder: Path, parts: dict[str, np.ndarray] = PARTS) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, rows in parts.items():
        np.save(folder / f"{name}.npy", rows)
    return [str(folder / f"{name}.npy") for name in parts]


@pytest.fixture
def command(capsys):
    """Return a function that runs the command in this process and returns its exit code, stdout and stderr."""

    def go(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def results(command):
    """Return a function that runs the command and returns its results in their JSON form."""

    def go(*arguments: object) -> list[dict[str, Any]]:
        code, out, err = command(*arguments, "--json", "-", "--quiet")
        assert code == 0, err
        try:
            return [json.loads(out)]
        except ValueError:
            return [json.loads(line) for line in out.splitlines()]

    return go


class TestConcatOfZarr(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.pattern = f"{write_store(tmp_path / 's.zarr')}::utm*/embeddings"

    def make(self) -> Source:
        return rs.open_source(self.pattern)

    def expected(self) -> np.ndarray:
        return WHOLE


class TestConcatOfFilesAndShards(TestConcatOfZarr):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.sources: list[Any] = write_files(tmp_path / "f", {"utm2": PARTS["utm2"], "utm33": PARTS["utm33"]})
        rest = {name: PARTS[name] for name in ("utm10", "utm11")}
        store = write_store(tmp_path / "s.zarr", rest, chunks=(64, 6), shards=(256, 6))
        self.sources[1:1] = [f"{store}::utm10/embeddings", zarr.open(store, mode="r")["utm11/embeddings"]]

    def make(self) -> Source:
        return rs.open_source(self.sources)


class TestConcatOfArrays(TestConcatOfZarr):
    def make(self) -> Source:
        return rs.open_source([np.asfortranarray(PARTS["utm2"]), *list(PARTS.values())[1:]])


def numbers(measurement: rs.Measurement) -> dict[str, Any]:
    return {name: measurement.to_dict()[name] for name in ("estimates", "spectrum", "audit", "groups")}


def test_a_pattern_is_one_number_of_all_parts_in_natural_order_with_the_same_bits(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    found, wanted = rs.measure(f"{store}::utm*/embeddings"), rs.measure(WHOLE)
    assert numbers(found)["estimates"] == numbers(wanted)["estimates"]
    dense = np.linalg.svd(WHOLE.astype("f8"), compute_uv=False)
    assert found.rankme.value == pytest.approx(rs.metrics.rankme(dense), rel=1e-9)
    assert found.source["parts"] == [
        {"name": f"{name}/embeddings", "n_rows": len(rows)} for name, rows in PARTS.items()
    ]
    assert "4 arrays as one, utm2/embeddings to utm33/embeddings; there is none of number 3-9, 12-32" in str(found)


@pytest.mark.parametrize("kind", ["zip", "memory", "store", "group", "path", "one star", "v2"])
def test_patterns_reach_every_store(tmp_path, kind):
    store = write_store(tmp_path / "s.zarr")
    source: Any = f"{store}::utm*/embeddings"
    options = {}
    if kind == "zip":
        with zarr.storage.ZipStore(tmp_path / "s.zip", mode="w") as archive:
            write_store(archive)
        source = f"{tmp_path / 's.zip'}::utm*/embeddings"
    elif kind == "memory":
        memory = MemoryStore()
        write_store(memory)
        source, options = zarr.open_group(memory, mode="r"), {"path": "utm*/embeddings"}
    elif kind == "store":
        source, options = zarr.storage.LocalStore(store), {"path": "utm*/embeddings"}
    elif kind == "group":
        source, options = zarr.open_group(store, mode="r"), {"path": "utm?*/emb*"}
    elif kind == "path":
        source, options = store, {"path": "utm*/embeddings"}
    elif kind == "one star":
        source = f"{store}::*/*"
    elif kind == "v2":
        group = zarr.open_group(tmp_path / "v2.zarr", mode="w", zarr_format=2)
        for name, rows in PARTS.items():
            group.create_array(f"{name}/embeddings", shape=rows.shape, dtype="f4")[:] = rows
        source = f"{tmp_path / 'v2.zarr'}::utm*/embeddings"
    np.testing.assert_array_equal(rs.open_source(source, **options).read(0, len(WHOLE)), WHOLE)


def test_a_name_that_is_there_is_no_pattern(tmp_path):
    zarr.create_array(tmp_path / "s.zarr", name="a[1]", shape=(9, 2), dtype="f4")[:] = 1
    np.save(tmp_path / "b[1].npy", np.ones((9, 2)))
    assert rs.open_source(f"{tmp_path}/s.zarr::a[1]").shape == (9, 2)
    assert rs.open_source(tmp_path / "b[1].npy").shape == (9, 2)


def test_a_group_that_lacks_its_array_is_named(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    zarr.open_group(store, mode="a").create_array("utm7/labels", shape=(3,), dtype="i4")
    zarr.open_group(store, mode="a").create_array("utm_areas", shape=(3,), dtype="i4")[:] = 1
    with pytest.raises(SourceFormatError, match=r"utm7 matches 'utm\*' and holds no 'embeddings'"):
        rs.open_source(f"{store}::utm*/embeddings")
    with pytest.raises(
        SourceNotFoundError, match=r"no zarr array matches .*::utm\*/rows: use e.g. '.*::utm\*/embeddings'"
    ):
        rs.open_source(f"{store}::utm*/rows")
    with pytest.raises(SourceNotFoundError, match="nothing matches"):
        rs.open_source(f"{tmp_path}/none*.npy")


def test_files_are_one_dump_by_a_pattern_or_by_concat(tmp_path, results):
    files = write_files(tmp_path / "f")
    wanted = rs.measure(WHOLE).rankme.value
    quoted = str(tmp_path / "f" / "utm*.npy")
    shuffled = [files[2], files[0], files[3], files[1]]
    for arguments in (["score", quoted], ["score", "--concat", *shuffled], ["score", "--concat", quoted]):
        (one,) = results(*arguments)
        assert one["estimates"]["rankme"]["value"] == wanted
        assert [part["name"] for part in one["source"]["parts"]] == [Path(file).name for file in files]
    assert len(results("score", *files)) == 4
    assert rs.measure(rs.open_source(files)).rankme.value == wanted


def test_segment_and_plan_take_several_sources_as_one(tmp_path, command, results):
    files = write_files(tmp_path / "f")
    assert "rows        0 to 2,251 x 6" in command("plan", "--concat", *files)[1]
    state = tmp_path / "s.state"
    for name in (["plan"], ["segment", "--part", "0/1", "--state", state]):
        code, _, err = command(*name, *files)
        assert code == 2 and "4 sources were given: pass --concat to take them as one dump" in err
    command("segment", "--concat", *files, "--part", "0/1", "--state", state)
    (merged,) = results("merge", state)
    (whole,) = results("score", "--concat", *files)
    assert merged["estimates"] == whole["estimates"] and merged["source"]["parts"] == whole["source"]["parts"]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (np.ones((5, 7), "f4"), "utm99.npy has 7 features, and .*utm2.npy has 6"),
        (np.ones((5, 6), "f2"), "utm99.npy holds numbers of type float16, and .*utm2.npy of type float32"),
        (np.ones(5), r"utm99.npy has shape \(5,\)"),
    ],
)
def test_a_part_that_does_not_belong_is_named(tmp_path, other, text):
    files = write_files(tmp_path / "f", PARTS | {"utm99": other})
    with pytest.raises(SourceFormatError, match=text):
        rs.open_source(files)


def test_a_part_is_given_once(tmp_path):
    files = write_files(tmp_path / "f")
    os.symlink(files[0], tmp_path / "again.npy")
    for again in (files[0], tmp_path / "again.npy"):
        with pytest.raises(UsageError, match="given twice"):
            rs.open_source([*files, again])
    with pytest.raises(UsageError, match="no array was given"):
        rs.open_source([])


def test_errors_name_the_part(tmp_path):
    bad = PARTS["utm10"].copy()
    bad[7, 3] = np.nan
    files = write_files(tmp_path / "f", PARTS | {"utm10": bad})
    with pytest.raises(NonFiniteError, match=r"row 307 \(row 7 of utm10.npy\)"):
        rs.measure(rs.open_source(files))
    store = write_store(tmp_path / "s.zarr")
    os.remove(store / "utm33/embeddings/c/1/0")
    with pytest.raises(MissingChunksError, match=r"chunk utm33/embeddings/c/1/0 of .*\(rows 1,179-1,306\)"):
        rs.measure(f"{store}::utm*/embeddings")
    found = rs.measure(f"{store}::utm*/embeddings", missing="skip")
    assert (found.audit.rows_missing, found.audit.first_missing, found.chunks_missing) == (128, 1179, 1)
    (store / "utm33/embeddings/c/1/0").write_bytes(b"no chunk")
    with pytest.raises(CorruptChunkError, match=r"chunk utm33/embeddings/c/1/0 of .*utm33/embeddings \(rows 128-256\)"):
        rs.measure(f"{store}::utm*/embeddings")


def test_parts_are_groups(tmp_path, results):
    store = write_store(tmp_path / "s.zarr")
    source = f"{store}::utm*/embeddings"
    found = rs.measure(source, groups="parts")
    labels = np.repeat([f"{name}/embeddings" for name in PARTS], [len(rows) for rows in PARTS.values()])
    wanted = rs.measure(WHOLE, groups=labels)
    assert numbers(found)["groups"] == numbers(wanted)["groups"]
    assert found["lidar"] == wanted["lidar"]
    (part,) = results("score", source, "--group-by", "parts", "--rows", "250:1100")
    assert {name: group["rankme"]["details"]["n_rows"] for name, group in part["groups"].items()} == {
        "utm10/embeddings": 700, "utm11/embeddings": 51, "utm2/embeddings": 50, "utm33/embeddings": 49,
    }  # fmt: skip
    with pytest.raises(UsageError, match="'parts', and this source is one array"):
        rs.measure(WHOLE, groups="parts")


def test_labels_of_the_parts_follow_one_another(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    group, kinds = zarr.open_group(store, mode="a"), np.arange(2251) % 3
    edges = np.cumsum([0, *map(len, PARTS.values())])
    for (first, last), (number, name) in zip(pairwise(edges), enumerate(PARTS), strict=True):
        group.create_array(f"{name}/kind", shape=(last - first,), dtype="i4", fill_value=9)[:] = kinds[first:last]
        np.save(tmp_path / f"kind_{name}.npy", kinds[first:last])
        order = np.roll(np.arange(3), number)  # each part has an order of categories of its own
        codes = np.where(kinds[first:last] == 2, -1, np.argsort(order)[kinds[first:last]])
        group.create_array(f"{name}/type/codes", shape=(last - first,), dtype="i1", fill_value=9)[:] = codes
        group.create_array(f"{name}/type/categories", shape=(3,), dtype="i4", fill_value=9)[:] = order
    source = f"{store}::utm*/embeddings"
    wanted = partition_of(kinds, 2251, (0, 2251))
    for spec in (f"{store}::utm*/kind", f"{tmp_path}/kind_utm*.npy"):
        found = partition_of(spec, 2251, (0, 2251), parts=rs.open_source(source).parts)
        assert found.digest == wanted.digest
    found = rs.measure(source, groups=f"{store}::utm*/type/codes")
    assert {name: one["rankme"].details["n_rows"] for name, one in found.groups.items()} == {"0": 751, "1": 750}
    assert found["lidar"].details["rows_unlabelled"] == 750
    np.save(tmp_path / "kind_utm2.npy", kinds[:299])
    np.save(tmp_path / "kind_utm10.npy", kinds[:701])
    with pytest.raises(SourceFormatError, match=r"kind_utm2.npy holds 299 labels, and utm2/embeddings 300 rows"):
        rs.measure(source, groups=f"{tmp_path}/kind_utm*.npy")


def test_a_sample_of_parts_holds_the_number_of_all(tmp_path):
    rows = RNG.standard_normal((60_000, 6)).astype("f4")
    pieces = {f"p{k}": rows[3000 * k : 3000 * (k + 1)] for k in range(20)}
    source = f"{write_store(tmp_path / 's.zarr', pieces)}::p*/embeddings"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rs.measure(source, sample=True, tolerance=0.01)
    exact = rs.measure(rows).rankme.value
    assert found.rows_read < 60_000 and found.rankme.lower <= exact <= found.rankme.upper


def test_a_checkpoint_goes_on_when_parts_are_added_and_not_when_one_changed(tmp_path):
    parts = {f"p{k}": RNG.standard_normal((50_000, 3)).astype("f4") for k in range(4)}
    source = f"{write_store(tmp_path / 's.zarr', parts, chunks=(50_000, 3))}::p*/embeddings"
    options: dict[str, Any] = {"checkpoint": tmp_path / "c.state"}
    rs.measure(source, **options)
    more = {"p10": RNG.standard_normal((7000, 3)).astype("f4")}
    write_store(tmp_path / "s.zarr", more, chunks=(50_000, 3))
    grown = rs.measure(source, **options)
    whole = np.concatenate([*parts.values(), *more.values()])
    assert grown.rankme.value == rs.measure(whole).rankme.value
    assert grown.measured["bytes_read"] < 0.7 * whole.nbytes
    array = zarr.open_array(tmp_path / "s.zarr", path="p1/embeddings", mode="a")
    array[:] = 1.0
    with pytest.raises(SourceChangedError):
        rs.measure(source, **options)


def test_the_fingerprint_changes_with_a_part_that_grew_came_or_went(tmp_path):
    write_store(tmp_path / "s.zarr")
    source = f"{tmp_path}/s.zarr::utm*/embeddings"
    before = rs.open_source(source)
    whole, first = before.fingerprint(0, 2251), before.fingerprint(0, 300)
    zarr.open_array(tmp_path / "s.zarr", path="utm10/embeddings", mode="a").append(np.ones((5, 6), "f4"))
    grown = rs.open_source(source)
    assert grown.fingerprint(0, 2251) != whole and grown.fingerprint(0, 300) == first
    write_store(tmp_path / "s.zarr", {"utm3": PARTS["utm11"]})
    assert rs.open_source(source).fingerprint(0, 400) != grown.fingerprint(0, 400)


def test_bounds_of_files_are_not_listed_one_by_one():
    class Many(NpySource):
        def __init__(self, n_rows: int) -> None:
            self.uri, self.shape = f"{n_rows}.npy", (n_rows, 6)
            self.stored = rs.open_source(WHOLE).stored

        def reopen(self) -> str:
            return self.uri

    source = ConcatSource([Many(3 * 10**11), Many(10**11)])
    bounds = source.bounds(10, 4 * 10**11)
    assert len(bounds) == 4 * 10**11 - 11
    assert largest_unit(bounds, 10, 4 * 10**11) == 1
    assert [*bounds[3 * 10**11 - 12 : 3 * 10**11 - 9]] == [3 * 10**11 - 1, 3 * 10**11, 3 * 10**11 + 1]


def test_joined_bounds_are_those_of_a_list_and_cut_blocks_alike():
    pieces = [(0, 10, [3, 7]), (10, 25, range(12, 25, 2)), (25, 26, range(26, 26)), (26, 40, [30])]
    joined, listed = JoinedBounds(pieces), [3, 7, 10, *range(12, 25, 2), 25, 26, 30]
    assert list(joined) == listed and joined[-1] == 30 and joined[2:5] == listed[2:5] and len(joined) == len(listed)
    assert largest_unit(joined, 0, 40) == largest_unit(listed, 0, 40) == 10
    for size in (1, 5, 100):
        assert [*block_ranges(joined, 0, 40, size, 16)] == [*block_ranges(listed, 0, 40, size, 16)]
    with pytest.raises(IndexError):
        joined[len(listed)]


def test_chunks_of_parts_are_decoded_in_memory_that_they_share(tmp_path):
    source = rs.open_source(f"{write_store(tmp_path / 's.zarr')}::utm*/embeddings")
    source.read(0, 2251)
    assert len({id(part._reader.buffers) for part in source._sources}) == 1
    assert source.read_memory(2000) < 2000 * 24 + 3 * 128 * 24 + 20_000


def test_numbers_in_names_are_sorted_as_numbers():
    names = ["a_10.npy", "a_2.npy", "a_1.npy", "b", "a_02.npy", "a"]
    assert sorted(names, key=natural_key) == ["a", "a_1.npy", "a_02.npy", "a_2.npy", "a_10.npy", "b"]
    assert natural_key("9" * 5000) == natural_key("9" * 5000)  # more digits than Python reads
    assert absent_numbers(["a_1", "a_2", "a_5", "a_9"]) == [(3, 4), (6, 8)]
    assert absent_numbers(["a_1", "b_3"]) == absent_numbers(["utm1", "utm2/x"]) == absent_numbers(["a"]) == []


def test_a_list_of_paths_is_no_stream_of_blocks(tmp_path):
    with pytest.raises(SourceFormatError, match=r"block 0 is a str.*open_source\(\[\.\.\.\]\)"):
        rs.measure(write_files(tmp_path / "f"))
    assert rs.measure(list(PARTS.values())).rankme.value == rs.measure(WHOLE).rankme.value


def test_a_pattern_of_stores_names_an_array_in_each(tmp_path, results):
    for name, rows in PARTS.items():
        zarr.create_array(tmp_path / f"{name}.zarr", name="inner/emb", shape=rows.shape, dtype="f4")[:] = rows
    source = rs.open_source(f"{tmp_path}/utm*.zarr::inner/emb")
    np.testing.assert_array_equal(source.read(0, 2251), WHOLE)
    assert source.parts[0].name == "utm2.zarr::inner/emb"
    stores = [str(tmp_path / f"{name}.zarr") for name in PARTS]
    (found,) = results("score", "--concat", *stores, "--path", "inner/emb")
    assert found["estimates"]["rankme"]["value"] == rs.measure(WHOLE).rankme.value


def test_workers_of_a_cluster_read_parts(tmp_path):
    source = f"{write_store(tmp_path / 's.zarr')}::utm*/embeddings"
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster, Client(cluster) as client:
        found = rs.measure(source, engine="dask", client=client, groups="parts")
    assert numbers(found)["estimates"] == numbers(rs.measure(source, groups="parts"))["estimates"]
