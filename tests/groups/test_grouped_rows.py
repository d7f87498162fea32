"""Groups of rows are scored as if each had been stored alone, in one pass, to the same bits, in the memory planned."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import jsonschema
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from zarr.errors import UnstableSpecificationWarning

import rankme_stream as rs
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.errors import LimitError, MissingChunksError, SourceFormatError, StateError, UsageError
from rankme_stream.groups import partition as rooms
from rankme_stream.groups.group import OpenGroup
from rankme_stream.groups.packing import pack_open, unpack_open
from rankme_stream.groups.partition import partition_of
from rankme_stream.passes.planning.grid import Grid
from rankme_stream.passes.planning.group_memory import GroupWork, predict_group_memory
from rankme_stream.testing import with_ones
from tests.dumps import store
from tests.interruptions import stopped
from tests.result_schema import SCHEMA

N_ROWS, WIDTH = 150_000, 12
U = 2.0**-53
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def planted(n_rows: int = N_ROWS, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Rows with a mean, whose spread falls off."""
    drawn = np.random.default_rng(seed).standard_normal((n_rows, width))
    return (drawn * np.linspace(1.0, 0.05, width) + 2.0).astype(np.float32)


def labelled(kind: str, n_rows: int = N_ROWS) -> np.ndarray:
    generator = np.random.default_rng(1)
    uneven = (generator.random(n_rows) ** 4 * 90).astype(int)  # from a third of the rows down to a few hundred
    return {
        "contiguous": np.sort(uneven),
        "shuffled": uneven,
        "many": generator.integers(0, 3000, n_rows) * (generator.random(n_rows) < 0.1),  # few rows, but for one
        "two": np.arange(n_rows) // (n_rows // 2 + 7),
    }[kind]


def assert_dense(found, rows: np.ndarray) -> None:
    """Both sides of the spectrum agree with a dense SVD to within the interval and the SVD's own error."""
    rows = rows.astype(np.float64)
    slack = 1.0 + 1e4 * U * len(rows) ** 0.5
    for name, metric, matrix in (
        ("rankme", rs.metrics.rankme, rows),
        ("centered_rankme", rs.metrics.rankme, rows - rows.mean(axis=0)),
        ("participation_ratio", rs.metrics.participation_ratio, rows - rows.mean(axis=0)),
    ):
        estimate = found[name]
        if len(rows) == 1 and matrix is not rows:
            assert estimate.value is None
            continue
        dense = metric(np.linalg.svd(matrix, compute_uv=False))
        assert estimate.lower <= dense * slack, name
        assert dense <= estimate.upper * slack, name
        assert estimate.half_width <= 1e-6 * dense, name
    assert found["rankme"].details["n_rows"] == len(rows)


def same(found: rs.Measurement, wanted: rs.Measurement) -> bool:
    one, other = found.to_dict(), wanted.to_dict()
    return all(one[name] == other[name] for name in ("estimates", "groups", "spectrum", "audit"))


@pytest.mark.parametrize("kind", ["contiguous", "shuffled", "many", "two"])
def test_every_group_is_scored_as_if_it_were_stored_alone(kind):
    rows, labels = planted(), labelled(kind)
    found = rs.measure(rows, groups=labels)
    assert list(found.groups) == [str(label) for label in np.unique(labels)]
    for label in np.unique(labels)[:: max(1, len(found.groups) // 25)]:
        assert_dense(found.groups[str(label)], rows[labels == label])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int32"])
def test_rows_of_every_type_are_kept_exactly(dtype, tmp_path):
    rows = np.round(planted(3000) * 16)
    labels = np.arange(3000) % 400
    if dtype == "bfloat16":
        rows = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)  # what it can hold
        array = zarr.create_array(tmp_path / "b.zarr", data=(rows.view(np.uint32) >> 16).astype(np.uint16))
        array.attrs["dtype"] = "bfloat16"
        source = tmp_path / "b.zarr"
    else:
        source = rows.astype(dtype)
    found = rs.measure(source, groups=labels).groups
    for label in (0, 77, 399):
        assert_dense(found[str(label)], rows[labels == label])


def test_runs_of_rows_are_groups_named_by_their_rows():
    rows = planted(1000)
    found = rs.measure(rows, groups="rows:300", rows=(100, 950)).groups
    assert list(found) == ["100:300", "300:600", "600:900", "900:950"]
    for name, estimates in found.items():
        start, stop = map(int, name.split(":"))
        assert_dense(estimates, rows[start:stop])


def test_a_row_range_applies_to_the_labels_as_well():
    rows, labels = planted(1000), np.arange(1000) // 7 % 30
    found = rs.measure(rows, groups=labels, rows=(123, 890)).groups
    for label in range(30):
        assert_dense(found[str(label)], rows[123:890][labels[123:890] == label])


def test_rows_left_out_leave_their_group():
    rows, labels = planted(2000), np.arange(2000) % 50
    labels[1999] = 77  # a group of one row
    rows[[5, 55, 1999], 3] = np.nan
    found = rs.measure(rows, groups=labels, nonfinite="skip")
    kept = np.isfinite(rows).all(axis=1)
    assert_dense(found.groups["5"], rows[kept & (labels == 5)])
    assert found.groups["77"]["rankme"].value is None
    assert "left out" in found.groups["77"]["rankme"].reason
    assert sum(one["rankme"].details.get("n_rows", 0) for one in found.groups.values()) == found.rows_read == 1997


def test_one_row_has_a_rank_of_one_and_no_spread():
    found = rs.measure(planted(10), groups=np.arange(10)).groups["4"]
    assert abs(found["rankme"].value - 1.0) < 2e-6
    assert found["variance_effective_rank"].value is None


@pytest.mark.parametrize("method", ["tsqr", "rsvd", "frequent-directions"])
def test_groups_are_the_same_under_any_method_for_the_total(method):
    rows, labels = planted(40_000), labelled("shuffled", 40_000)
    options = {} if method == "tsqr" else {"rank": 3, "oversampling": 2, "tolerance": 9.0}
    found = rs.measure(rows, groups=labels, method=method, **options)
    for label in (0, 12, 89):
        assert_dense(found.groups[str(label)], rows[labels == label])


def test_groups_of_rows_so_wide_that_threads_share_one_gram_are_scored_alike():
    rows, labels = planted(2400, 1540), np.arange(2400) // 3 % 3
    found = rs.measure(rows, groups=labels, workers=2)
    assert found.plan.segments_at_once == 1
    for label in range(3):
        group, mine = found.groups[str(label)]["rankme"], rows[labels == label].astype(np.float64)
        squares = np.linalg.eigvalsh(mine @ mine.T)[::-1]
        dense = rs.metrics.rankme(np.sqrt(squares))
        assert abs(group.value - dense) <= 2 * group.half_width <= 1e-6 * dense


def test_workers_chunks_and_memory_change_no_bit(tmp_path):
    rows, labels = planted(), labelled("shuffled")
    wanted = rs.measure(rows, groups=labels, workers=1)
    for number, (workers, chunk) in enumerate([(2, 999), (3, 40_000), (1, 3000)]):
        path = store(tmp_path / f"{number}.zarr", rows, chunk=chunk)
        found = rs.measure(path, groups=labels, workers=workers, memory_limit=2**30)
        assert same(found, wanted)


@pytest.mark.parametrize("kind", ["contiguous", "shuffled"])
def test_a_pass_that_goes_on_and_parts_that_are_merged_end_in_the_same_bits(kind, tmp_path):
    rows, labels = planted(200_000), labelled(kind, 200_000)
    path = store(tmp_path / "a.zarr", rows)
    np.save(tmp_path / "labels.npy", labels)
    wanted = rs.measure(path, groups=labels)
    rs.segment(path, part=(1, 3), state=tmp_path / "kept", groups=labels)  # rows of every group are still to come
    stopped(path, tmp_path / "kept", 1, workers=2, groups=labels)
    assert same(rs.measure(path, checkpoint=tmp_path / "kept", groups=labels), wanted)
    parts = [
        rs.segment(path, part=(part, 3), state=tmp_path / f"{part}", groups=str(tmp_path / "labels.npy"))
        for part in range(3)
    ]
    loaded = [rs.load_state(tmp_path / f"{part}") for part in range(3)]
    assert [one.results_digest() for one in loaded] == [one.results_digest() for one in parts]
    assert same(rs.measure_state(rs.merge_states(loaded[::-1])), wanted)


def test_a_cluster_ends_in_the_same_bits(tmp_path):
    rows, labels = planted(), labelled("shuffled")
    path = store(tmp_path / "a.zarr", rows)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        found = rs.measure(path, groups=labels, engine="dask", client=client)
    assert same(found, rs.measure(path, groups=labels))


def test_states_of_other_labels_do_not_join(tmp_path):
    rows, labels = planted(200_000), labelled("two", 200_000)
    path = store(tmp_path / "a.zarr", rows)
    stopped(path, tmp_path / "kept", 1, groups=labels)
    other = labels.copy()
    other[199_999] = 0
    for changed in (other, None, "rows:1000"):
        with pytest.raises(UsageError, match=r"another pass: 2 groups of labels \w+ there and "):
            rs.measure(path, checkpoint=tmp_path / "kept", groups=changed)
    states = [rs.segment(path, part=(part, 2), state=tmp_path / f"{part}", groups=other) for part in (0, 1)]
    states[1] = rs.segment(path, part=(1, 2), state=tmp_path / "other", groups=labels)
    with pytest.raises(StateError, match="groups of labels"):
        rs.merge_states(states)


STRINGS = np.array(["dog", "cat", "été", "a very long name of a class"])


@pytest.mark.parametrize("kind", ["U", "S", "object", "list", "npy", "zarr", "vlen", "sharded", "zip", "v2"])
def test_labels_may_be_strings_of_any_kind(kind, tmp_path):
    labels = STRINGS[np.arange(1000) % 4]
    path = tmp_path / "l.zarr"
    if kind == "npy":
        np.save(tmp_path / "l.npy", labels)
    elif kind == "zip":
        with zarr.storage.ZipStore(tmp_path / "l.zip", mode="w") as opened:
            zarr.create_array(opened, data=np.arange(1000) % 4, chunks=(64,))
    elif kind in ("zarr", "vlen", "sharded", "v2"):
        layout = {"shards": (256,)} if kind == "sharded" else {}
        layout |= {"zarr_format": 2} if kind == "v2" else {}
        held = np.arange(1000) % 4 if kind in ("sharded", "v2") else labels
        dtype = {"zarr": labels.dtype, "vlen": str}.get(kind, held.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnstableSpecificationWarning)
            array = zarr.create_array(path, shape=(1000,), dtype=dtype, chunks=(64,), **layout)
        array[:] = held
    source = {
        "U": labels, "S": np.char.encode(labels, "utf-8"), "object": labels.astype(object), "list": labels.tolist(),
        "npy": tmp_path / "l.npy", "zip": tmp_path / "l.zip",
    }.get(kind, path)  # fmt: skip
    found = partition_of(source, 1000, (0, 1000))
    is_number = kind in ("sharded", "zip", "v2")
    assert list(found.names) == ([str(number) for number in range(4)] if is_number else STRINGS.tolist())
    assert found.group_indices(0, 1000).tolist() == (np.arange(1000) % 4).tolist()
    assert found.counts.tolist() == [250] * 4


@pytest.mark.parametrize("layout", [{}, {"shards": (400,)}])
def test_labels_of_chunks_that_are_missing_are_refused(layout, tmp_path):
    array = zarr.create_array(tmp_path / "l.zarr", shape=(1000,), dtype="i4", chunks=(100,), fill_value=0, **layout)
    array[:500] = 1
    with pytest.raises(MissingChunksError, match=r"labels 500-999\) is missing"):
        rs.measure(planted(1000), groups=tmp_path / "l.zarr")
    assert len(rs.measure(planted(1000), groups=tmp_path / "l.zarr", rows=(0, 500)).groups) == 1


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (np.zeros(999, int), SourceFormatError, "999 labels, and the source 1,000 rows"),
        (np.zeros((1000, 1), int), SourceFormatError, "one dimension"),
        (np.zeros(1000), SourceFormatError, "float64; integers or strings"),
        ([None] * 1000, SourceFormatError, "none of rows 0-999 a label"),
        ([1.5, None] * 500, SourceFormatError, "integers or strings"),
        ("column:label", UsageError, "no source here has columns"),
        ("rows:0", UsageError, "no number of rows"),
        ("rows:1", UsageError, "more than 500 groups"),
        (np.arange(1000), UsageError, "more than 500 groups"),
        ("nowhere.npy", rs.RankMeError, "no file nowhere.npy"),
        ("nowhere.zarr::labels", rs.RankMeError, "no file or folder 'nowhere.zarr'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(spec, error, text, monkeypatch):
    monkeypatch.setattr(rooms, "MOST_GROUPS", 500)
    with pytest.raises(error, match=text):
        rs.measure(planted(1000), groups=spec)


def test_runs_of_a_few_of_10_to_the_12_rows_are_counted_before_they_are_listed():
    with pytest.raises(UsageError, match=r"more than 100,000 groups"):
        partition_of("rows:10", 10**12, (0, 10**12))


@pytest.mark.parametrize("kind", ["contiguous", "shuffled", "many"])
def test_the_rows_of_groups_are_counted_and_their_ends_known(kind):
    labels = labelled(kind, 300_000)
    found = partition_of(labels, 300_000, (1000, 299_000))
    for place in range(0, len(found), max(1, len(found) // 50)):
        mine = 1000 + np.flatnonzero(labels[1000:299_000] == int(found.names[place]))
        assert (found.counts[place], found.first[place], found.last[place]) == (len(mine), mine[0], mine[-1])
    assert np.ptp(np.bincount(found.batches)) <= 1


def test_large_groups_in_runs_cost_no_more_than_a_few_and_shuffled_ones_are_refused():
    """A group is closed as soon as its last row is in."""
    grid, n_rows = Grid(1024, 16_384), 20_000_000
    runs = partition_of("rows:10000", n_rows, (0, n_rows))
    contiguous = predict_group_memory(runs, grid, 512, 2, GroupWork.on_host(2, 2))
    labels = np.arange(n_rows) % len(runs)
    shuffled = predict_group_memory(partition_of(labels, n_rows, (0, n_rows)), grid, 512, 2, GroupWork.on_host(2, 2))
    assert contiguous.reading < 2**30
    assert shuffled.reading > len(runs) * 4 * 512**2
    with pytest.raises(LimitError, match=r"for 2,000 groups, .*; give memory_limit \d+MiB"):
        rs.measure(planted(20_000, 200), groups=np.arange(20_000) % 2000, memory_limit=200 * 2**20)


MEMORY = """
import json, sys
import numpy as np
import rankme_stream as rs
labels = np.repeat(np.arange(int(sys.argv[2])), int(sys.argv[3]))
if sys.argv[4] == "shuffled":
    np.random.default_rng(0).shuffle(labels)
kept = sys.argv[1] + ".state" if labels.size == 24_000 else None
found = rs.measure(sys.argv[1], groups=labels, memory_limit=int(sys.argv[5]), tolerance=9.0, workers=2, checkpoint=kept)
print(json.dumps([len(found.groups), found.measured["peak_bytes"], found.plan.predicted_peak_bytes]))
"""


@pytest.mark.parametrize(
    ("n_groups", "n_rows", "width", "dtype", "order", "limit"),
    [
        (2500, 20, 512, "f2", "shuffled", 10**9),
        (6, 4000, 768, "f2", "shuffled", 10**9),  # these two with a state file
        (6, 4000, 768, "f2", "contiguous", 10**9),
        (250, 100, 512, "f8", "shuffled", 10**9),  # most of it rows
    ],
)
def test_the_measured_peak_of_groups_stays_under_the_prediction_and_the_limit(
    n_groups, n_rows, width, dtype, order, limit, tmp_path
):
    pattern = np.random.default_rng(0).standard_normal((1000, width)).astype(dtype)
    array = zarr.create_array(
        tmp_path / "d.zarr", shape=(n_groups * n_rows, width), dtype=dtype, chunks=(5000, width), compressors=None
    )
    for start in range(0, n_groups * n_rows, 5000):
        array[start : start + 5000] = np.tile(pattern, (5, 1))[: n_groups * n_rows - start]
    command = [sys.executable, "-c", MEMORY, tmp_path / "d.zarr", *map(str, (n_groups, n_rows, order, limit))]
    count, measured, predicted = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{measured / 2**20:.0f} of {predicted / 2**20:.0f} MiB")
    assert count == n_groups
    assert measured <= predicted <= limit


def test_the_command_scores_groups(tmp_path):
    rows, labels = planted(3000), STRINGS[np.arange(3000) % 4]
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    group.create_array("embeddings", data=rows)
    group.create_array("labels", shape=(3000,), dtype=str)[:] = labels
    command = [sys.executable, "-m", "rankme_stream", "score", f"{tmp_path / 'd.zarr'}::embeddings"]
    command += ["--group-by", f"{tmp_path / 'd.zarr'}::labels"]
    done = subprocess.run([*command, "--json", tmp_path / "out.json"], capture_output=True, text=True, check=True)
    result = json.loads((tmp_path / "out.json").read_text())
    jsonschema.validate(result, SCHEMA)
    assert sorted(result["groups"]) == sorted(STRINGS)
    assert result["plan"]["n_groups"] == 4
    wanted = rs.measure(rows, groups=labels)
    assert result["groups"] == wanted.to_dict()["groups"]
    assert "été" in done.stdout
    refused = subprocess.run([*command, "--sample"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_open_groups_of_tiny_rows_keep_their_exponent_in_a_file():
    gram = GramAccumulator(2)
    gram.update(with_ones(np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]]) * 2.0**-600), 0)
    usual = GramAccumulator(2)
    usual.update(with_ones(np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]])), 0)
    groups = [OpenGroup(0, 9, 3, (), one) for one in (usual, gram)]
    again = unpack_open(pack_open(groups, 2))
    assert [one.gram.exponent for one in again] == [0, gram.exponent]
    assert np.array_equal(again[1].gram.sums(), gram.sums())
    assert "exponents" not in pack_open(groups[:1], 2)
