"""Every combination of options works or is refused in one line, as docs/combinations.md says."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import rankme_stream as rs
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.cli.commands import main
from rankme_stream.errors import UsageError
from rankme_stream.numerics.devices import registry
from rankme_stream.passes.engines import local
from rankme_stream.passes.loop.card_run import CardRunner
from rankme_stream.passes.planning import card_layout
from tests.dumps import rows_like, store

PAGE = (Path(__file__).parents[2] / "docs" / "combinations.md").read_text(encoding="utf-8")
REFUSED = {
    frozenset(cell.strip(" `") for cell in line.split("|")[1:3])
    for line in PAGE.partition("## On a card")[0].splitlines()
    if line.startswith("|") and not re.match(r"\| this|\|---", line)
}
WHERE_READING_STOPPED = re.compile(r"[\d,]+ such rows? among rows [\d,]+-[\d,]+|[\d.]+ ?[GM]iB")
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
    wanted: dict[tuple[bool, bool, bool], rs.Measurement] = {}  # on the host
    for number, (there, sample, dask, kept) in enumerate(product([False, True], repeat=4)):
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
        agree(found, wanted.setdefault((sample, dask, kept), found))


def agree(found: rs.Measurement, wanted: rs.Measurement) -> None:
    """Check that a card states what the host states, in intervals that meet."""
    for name in ("method", "precision", "rows_read", "audit", "chunks_missing", "rules", "tolerance_met", "remedy"):
        assert getattr(found, name) == getattr(wanted, name), name
    tables = [(found.estimates, wanted.estimates), (found.normalized, wanted.normalized)]
    tables += [(found.dims[d], wanted.dims[d]) for d in wanted.dims]
    for mine, theirs in tables:
        assert mine.keys() == theirs.keys()
        for metric, one in mine.items():
            other = theirs[metric]
            assert (one.value is None, one.reason, one.covers) == (other.value is None, other.reason, other.covers)
            if one.lower is not None and other.lower is not None:
                assert one.lower <= other.upper and other.lower <= one.upper, metric
    assert found.to_dict()["groups"] == wanted.to_dict()["groups"]


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
    flags = {
        "nothing else": {}, "--sample": {"sample": True}, "--population": {"population": True},
        "--engine dask": {"engine": "dask", "client": client},
        "--checkpoint": {}, "--precision float32": {"precision": "float32"},
    }  # fmt: skip
    wanted: dict[str, rs.Measurement] = {}  # on the host
    for device, (flag, option) in product(["cpu", "toy"], flags.items()):
        named = {rows, f"--method {method}", "--group-by", flag}
        options = {"method": method, "groups": "rows:500", "device": device} | option
        if flag == "--checkpoint":
            options["checkpoint"] = tmp_path / device
        if flag == "--population" or any(frozenset(pair) in REFUSED for pair in combinations(named, 2)):
            with pytest.raises(UsageError):
                rs.measure(source(), **options, **always)
            continue
        found = rs.measure(source(), **options, **always)
        assert [one["rankme"].details["n_rows"] for one in found.groups.values()] == [499, *[500] * 7]
        for one in found.groups["0:500"].values():
            assert one.value is not None or one.reason
        agree(found, wanted.setdefault(flag, found))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rows, random = rows_like(3000, 40), np.random.default_rng(0)
    faulty, packed = rows.copy(), random.integers(-127, 128, (3000, 40)).astype(np.int8)
    faulty[17, 3], faulty[2000], faulty[40:42], faulty[60] = np.nan, np.inf, 0.0, 3.0
    packed[17, 3] = -128
    return {
        "rows": rows, "faulty rows": faulty, "bytes": packed, "fewer rows": random.standard_normal((60, 90)),
        "features first": np.ascontiguousarray(rows.T), "bits": random.integers(0, 256, (3000, 5)).astype(np.uint8),
        "large rows": np.where(np.arange(3000)[:, None] == 1500, 1e200, rows.astype(np.float64)),
        "tiny rows": rows * np.float64(1e-200), "rows of zeros": np.zeros((300, 4)), "one row": rows[:1],
    }  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory, arrays) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stored")
    paths = {name: store(folder / f"{name}.zarr", rows, 300) for name, rows in arrays.items()}
    paths["rows with a gap"] = store(folder / "gap.zarr", arrays["rows"], 300)
    (paths["rows with a gap"] / "c" / "2" / "0").unlink()
    for number, rows in enumerate(np.array_split(arrays["faulty rows"], 3)):
        store(folder / f"part-{number}.zarr", rows, 300)
    np.save(folder / "scales.npy", np.linspace(0.5, 2.0, 3000, dtype=np.float32))
    return paths | {"parts": folder / "part-*.zarr", "scales": folder / "scales.npy"}


SKIP, SKETCH = {"nonfinite": "skip"}, {"rank": 6, "oversampling": 2}
GROUPED = {"groups": "rows:700", "normalize": True, "dims": (3,)}
OPENED = {"bytes": {"nodata": -128}, "features first": {"features_axis": 0}, "bits": {"decode": "bits"}}
TRIED = [
    *(("rows", options) for options in (
        {"tolerance": 1e-13}, {"precision": "auto", "tolerance": 1e-9}, {"precision": "auto", "normalize": True},
        {"method": "rsvd", "passes": 2, "tolerance": 1e-9} | SKETCH, {"method": "rsvd", "normalize": True} | SKETCH,
        {"method": "frequent-directions", "normalize": True} | SKETCH, {"method": "row-sketch", "confidence": 0.5},
        {"rows": (100, 2500)}, {"sample": True, "max_rows": 1500, "confidence": 0.5}, {"population": True},
        {"sample": True, "normalize": True, "dims": (3, 20)}, {"method": "tsqr", "population": True, "dims": (3,)},
        {"workers": 1, "seed": 5, "precision": "float32"}, GROUPED, {"memory_limit": 2**20},
    )),
    *(("faulty rows", options) for options in (
        {}, {"rows": (18, 1900), "zeros": "error"}, SKIP, SKIP | {"zeros": "skip"} | GROUPED, {"method": "tsqr"} | SKIP,
        {"precision": "float32"} | SKIP, {"method": "row-sketch"} | SKIP, {"sample": True} | SKIP,
    )),
    *(("fewer rows", options) for options in (
        {}, GROUPED, {"tolerance": 1e-14}, {"precision": "float32"}, {"method": "tsqr"}, {"method": "gram"},
    )),
    *(("rows with a gap", options) for options in (
        {}, {"missing": "skip"} | GROUPED, {"missing": "fill"}, {"missing": "skip", "sample": True},
        {"missing": "fill", "zeros": "error"}, {"missing": "skip", "method": "frequent-directions"} | SKETCH,
    )),
    *(("parts", options) for options in ({}, SKIP | GROUPED, SKIP | {"groups": "parts"}, SKIP | {"sample": True})),
    *(("bytes", options) for options in ({}, SKIP | GROUPED, SKIP | {"precision": "float32"}, SKIP | {"sample": True})),
    *(("large rows", options) for options in ({}, GROUPED, {"method": "tsqr"}, {"precision": "float32"})),
    *(("tiny rows", options) for options in ({}, GROUPED, {"method": "tsqr"}, {"precision": "float32"})),
    ("features first", GROUPED), ("bits", GROUPED), ("bits", {"precision": "float32"}), ("one row", {}),
    ("rows of zeros", {"normalize": True}), ("rows of zeros", {"zeros": "skip", "groups": "rows:90"}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::rankme_stream.errors.ToleranceWarning")
@pytest.mark.parametrize(("rows", "options"), TRIED, ids=str)
def test_a_card_gives_what_the_host_gives(arrays, stored, monkeypatch, rows, options):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    opened = OPENED.get(rows, {}) | ({"scales": stored["scales"]} if rows == "bytes" else {})
    found: list[rs.Measurement | rs.RankMeError] = []
    for device in ("cpu", "toy"):
        try:
            found.append(
                rs.measure(rs.open_source(stored[rows], **opened), device=device, **{"tolerance": 9.0} | options)
            )
        except rs.RankMeError as error:
            found.append(error)
    there, here = found
    if isinstance(there, rs.Measurement) and isinstance(here, rs.Measurement):
        agree(replace(here, audit=replace(here.audit, largest_magnitude=there.audit.largest_magnitude)), there)
        return
    assert type(here) is type(there)
    assert WHERE_READING_STOPPED.sub("", str(here)) == WHERE_READING_STOPPED.sub("", str(there))


@pytest.fixture(scope="module")
def long_path(tmp_path_factory) -> Path:
    rows = rows_like(140_000, 3)  # three segments, one a run
    rows[70_017] = np.nan
    return store(tmp_path_factory.mktemp("long") / "a.zarr", rows, 5000)


@pytest.mark.parametrize(
    "options", [{"groups": "rows:30000", "normalize": True}, {"method": "tsqr"}, {"method": "row-sketch"}], ids=str
)
def test_parts_of_the_host_and_of_a_card_join(long_path, tmp_path, monkeypatch, options):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    first, second, third, on_card = (
        rs.segment(long_path, part=(part, 3), state=tmp_path / f"{part}{device}", device=device, **SKIP, **options)
        for part, device in ((0, "cpu"), (1, "cpu"), (2, "cpu"), (1, "toy"))
    )
    assert on_card.nodes.keys() == second.nodes.keys()
    for node, wanted in second.nodes.items():
        assert (on_card.nodes[node].audit, on_card.nodes[node].witnesses) == (wanted.audit, wanted.witnesses)
    joined, wanted = (
        rs.measure_state(rs.merge_states([first, middle, third]), tolerance=9.0) for middle in (on_card, second)
    )
    agree(joined, wanted)
    assert [one.get("device", "cpu") for one in joined.provenance["workers"]] == ["cpu", "toy:0"]
    assert (joined.provenance["bits_reproducible"], wanted.provenance["bits_reproducible"]) == (False, True)


@pytest.mark.parametrize("first, second", [("toy", "toy"), ("toy", "cpu"), ("cpu", "toy")])
def test_a_pass_with_groups_goes_on_elsewhere(long_path, tmp_path, monkeypatch, first, second):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    monkeypatch.setattr(card_layout, "_RUN_BYTES", 2**19)
    is_under_way, is_interrupted = threading.Event(), threading.Event()

    run_segment, read = local.run_segment, CardRunner.read

    def run_segment_later(*arguments):
        if arguments[2]:  # the first segment is done
            is_under_way.set()
            is_interrupted.wait(10)
        return run_segment(*arguments)

    def read_later(runner, nodes):
        for node, found in read(runner, nodes):
            yield node, found
            is_under_way.set()
            if not is_interrupted.is_set():
                runner.stop.wait(10)

    def stop(_):
        if is_under_way.is_set():
            is_interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(CardRunner, "read", read_later)
    monkeypatch.setattr(local, "run_segment", run_segment_later)
    kept, asked = tmp_path / "kept", SKIP | {"tolerance": 9.0, "groups": "rows:30000", "normalize": True, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        rs.measure(long_path, device=first, checkpoint=kept, progress=stop, **asked)
    begun = rs.load_state(kept)
    assert begun.covered
    assert begun.missing
    found, wanted = rs.measure(long_path, device=second, checkpoint=kept, **asked), rs.measure(long_path, **asked)
    agree(found, wanted)
    assert found.provenance["bits_reproducible"] == (first == second)


@pytest.mark.parametrize("first, second", [("toy", "cpu"), ("cpu", "toy")])
def test_a_dump_that_has_grown_goes_on_elsewhere(long_path, tmp_path, monkeypatch, first, second):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    rows = rs.open_source(long_path).read(0, 140_000)
    path, asked = store(tmp_path / "a.zarr", rows[:80_000], 5000), SKIP | {"tolerance": 9.0}
    rs.measure(path, device=first, checkpoint=tmp_path / "kept", **asked)
    array = zarr.open_array(path)
    array.resize(rows.shape)
    array[80_000:] = rows[80_000:]
    found = rs.measure(path, device=second, checkpoint=tmp_path / "kept", **asked)
    agree(found, rs.measure(long_path, **asked))
    assert found.measured["bytes_read"] < rows.nbytes


@pytest.mark.parametrize("device", ["cpu", "toy"])
def test_dumps_are_compared_and_planned_on_a_card(stored, tmp_path, monkeypatch, capsys, device):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    asked = ["--group-by", "rows:700", "--device", device]
    paths = [str(stored[name]) for name in ("rows", "tiny rows")]
    for command in (["compare", *paths], ["plan", paths[0]], ["score", *paths]):
        with pytest.raises(SystemExit) as end:
            main([*command, *asked])
        assert not end.value.code
        out = capsys.readouterr().out
        assert ("  card  " in out) == (command[0] == "plan" and device == "toy")
        assert ("computed on the processor, not on toy:0" in out) == (command[0] == "score" and device == "toy")


def store_rows(path: Path) -> np.ndarray:
    return rs.open_source(path).read(0, 4000)


def test_the_table_is_read():
    assert len(REFUSED) == 16
