"""A cluster gives the bits of one process, whatever dies; workers are real processes, the scheduler a real one."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import zarr
from dask.config import set as set_config
from distributed import Client, LocalCluster
from distributed.core import error_message
from threadpoolctl import threadpool_info, threadpool_limits

import rankme_stream as rs
from rankme_stream import errors
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.cli.commands import main
from rankme_stream.errors import (
    ArithmeticCheckError,
    DeviceError,
    EngineError,
    LimitError,
    NonFiniteError,
    RankMeError,
    SourceChangedError,
    SourceNotFoundError,
    StorageError,
    ToleranceWarning,
    UsageError,
)
from rankme_stream.numerics.devices import host, registry
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.dask import engine
from rankme_stream.passes.engines.dask import schedule as schedules
from rankme_stream.passes.engines.dask.client_run import ClientRun
from rankme_stream.passes.engines.dask.engine import DaskEngine
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.state.merge_tree import MergeTree, span
from rankme_stream.sources import ZarrSource
from tests.dumps import PASSES, rows_like, same_bits, store
from tests.result_schema import SCHEMA
from tests.slow_source import Slow
from tests.toy_device import TOY

N_ROWS = 1_200_000
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def client():
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "memory_limit": "1GiB"}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("dask") / "a.zarr", rows_like(N_ROWS, 4), chunk=20_000)


def test_workers_that_keep_rows_give_the_bits_of_one_process(client, tmp_path):
    path = store(tmp_path / "a.zarr", rows_like(18, 250_000), chunk=9)  # segments of 16 rows
    found = rs.measure(path, engine="dask", client=client, checkpoint=tmp_path / "kept")
    wanted = rs.measure(path, workers=1)
    assert (found.method, found.plan.segments) == ("row-gram", 2)
    assert same_bits(found, wanted)
    assert same_bits(rs.measure_state(rs.load_state(tmp_path / "kept")), wanted)


@pytest.mark.parametrize("meaning", ["packed", "scaled", "bits"])
def test_workers_decode_stored_numbers_as_one_process_does(client, tmp_path, monkeypatch, meaning):
    numbers = np.random.default_rng(0).integers(0, 200, (70_000, 4)).astype(np.uint8)
    store(tmp_path / "a.zarr", numbers, chunk=10_000, attributes={"scale_factor": 0.1} if meaning == "packed" else {})
    np.save(tmp_path / "scales.npy", np.linspace(1, 2, len(numbers)))
    options = {"packed": {"nodata": 7}, "scaled": {"scales": "scales.npy"}, "bits": {"decode": "bits:30"}}[meaning]
    monkeypatch.chdir(tmp_path)  # the workers stand elsewhere
    opened = rs.open_source("a.zarr", **options)
    wanted = rs.measure(opened, nonfinite="skip")
    found = rs.measure(opened, nonfinite="skip", engine="dask", client=client)
    assert same_bits(found, wanted)
    assert found.source["decoding"] == wanted.source["decoding"] != "uint8 as stored"


class Flaky(Slow):
    """Every range fails once, in a way that says nothing of the rows."""

    error: Exception = ConnectionResetError("the store hung up")

    def read(self, start, stop, out=None):
        mark = Path(f"{self._uri}.failed") / f"{start}"
        if start % 65_536 == 0 and not mark.exists():
            mark.touch()
            raise self.error
        return super().read(start, stop, out)


class FailsHere(Flaky):
    """Every range fails once, after all attempts of one worker."""

    error = StorageError("the server answers 503")


class Hopeless(Slow):
    def read(self, start, stop, out=None):
        raise ConnectionResetError("the store hung up")


@pytest.mark.parametrize("options", PASSES.values(), ids=PASSES)
def test_a_cluster_gives_the_bits_of_one_process(client, source, options):
    wanted = rs.measure(source, dims=(3,), **options)
    found = rs.measure(source, dims=(3,), engine="dask", client=client, **options)
    assert same_bits(found, wanted)
    assert found.dims == wanted.dims
    assert (found.engine, found.rows_read, found.measured["bytes_read"]) == ("dask", N_ROWS, N_ROWS * 16)
    jsonschema.validate(json.loads(found.to_json()), SCHEMA)
    (worker,) = found.provenance["workers"]
    assert (worker["count"], worker["blas_checked"], found.provenance["blas_checked"]) == (2, True, True)
    assert found.provenance["bits_reproducible"]


def test_workers_read_the_same_axis_of_the_features(client, tmp_path):
    values = np.random.default_rng(0).standard_normal((6, 9, 50, 40))
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(1, 4, 20, 20), dimension_names=("t", "band", "y", "x"))
    grid = rs.open_source(tmp_path / "a.zarr", features_axis="band")
    assert same_bits(rs.measure(grid, engine="dask", client=client), rs.measure(grid))


def test_a_worker_with_a_faulty_blas_ends_the_pass(client, source):
    def break_product():
        right = host.cross_product

        def wrong(left, right_columns, out):
            right(left, right_columns, out)
            out[0, 0] += 1.0

        wrong.right, host.cross_product = right, wrong

    def mend_product():
        host.cross_product = host.cross_product.right

    client.run(break_product)
    try:
        with pytest.raises(ArithmeticCheckError, match="computes wrongly"):
            rs.measure(source, engine="dask", client=client)
    finally:
        client.run(mend_product)


def test_a_cluster_reads_a_range_and_skips_bad_rows_to_the_same_bits(client, tmp_path):
    rows = rows_like(300_000, 4)
    rows[[5, 150_000]] = np.nan
    rows[7] = 0.0
    source = store(tmp_path / "a.zarr", rows)
    options = {"rows": (3, 250_001), "nonfinite": "skip"}
    assert same_bits(rs.measure(source, engine="dask", client=client, **options), rs.measure(source, **options))


def test_a_cluster_refuses_the_same_rows_as_one_process(client, tmp_path):
    rows = rows_like(900_000, 4)
    rows[[400_000, 800_000]] = np.inf
    source = store(tmp_path / "a.zarr", rows)
    with pytest.raises(NonFiniteError) as there:
        rs.measure(source, engine="dask", client=client)
    with pytest.raises(NonFiniteError) as here:
        rs.measure(source, workers=1)
    assert "row 400,000 is not finite" in str(here.value)
    assert str(there.value).startswith(str(here.value).split("(")[0])


def test_rows_that_change_under_the_workers_are_refused(client, tmp_path):
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=20_000)
    changed = []

    def change(done):
        if not changed:
            changed.append(True)
            zarr.open_array(source)[N_ROWS - 1] = 5.0

    with pytest.raises(SourceChangedError):
        rs.measure(Slow(source), engine="dask", client=client, progress=change)


def test_a_cluster_refuses_sources_that_live_in_this_process(client, source):
    with pytest.raises(UsageError, match="workers cannot read it: store the rows in a zarr array"):
        rs.measure(rows_like(100, 4), engine="dask", client=client)
    with pytest.raises(UsageError, match="stream of blocks is read once"):
        rs.measure(iter([rows_like(100, 4)]), engine="dask", client=client)
    with pytest.raises(UsageError, match="sampling runs in this process"):
        rs.measure(source, engine="dask", client=client, sample=True)
    with pytest.raises(UsageError, match='pass engine="dask" as well'):
        rs.measure(source, client=client)


def test_memory_is_checked_against_the_workers_before_the_first_read(client, tmp_path):
    wide = str(tmp_path / "wide.zarr")
    zarr.create_array(wide, shape=(12_000, 12_000), chunks=(64, 12_000), dtype=np.float32)
    with pytest.raises(LimitError, match="614 MiB"):
        rs.measure(wide, engine="dask", client=client)


def test_a_pass_stopped_on_a_cluster_goes_on_here_and_the_other_way_round(client, source, tmp_path):
    class Stop(BaseException):
        pass

    def stop(done):
        if done.rows_done:
            raise Stop

    wanted = rs.measure(source)
    with pytest.raises(Stop):
        rs.measure(Slow(source), engine="dask", client=client, checkpoint=tmp_path / "kept", progress=stop)
    held = rs.load_state(tmp_path / "kept")
    assert held.covered
    assert held.missing
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), wanted)
    with pytest.raises(Stop):
        rs.measure(source, checkpoint=tmp_path / "other", progress=stop, workers=1)
    assert rs.load_state(tmp_path / "other").missing
    found = rs.measure(source, engine="dask", client=client, checkpoint=tmp_path / "other")
    assert same_bits(found, wanted)


@pytest.mark.parametrize("kind", [Flaky, FailsHere])
def test_a_store_that_hangs_up_is_asked_again(client, tmp_path, kind):
    source = store(tmp_path / "a.zarr", rows_like(400_000, 4))
    Path(f"{source}.failed").mkdir()
    found = rs.measure(kind(str(source)), engine="dask", client=client)
    assert same_bits(found, rs.measure(source))
    assert len(list(Path(f"{source}.failed").iterdir())) >= 4  # each task's first read at least


def test_a_store_that_never_answers_is_given_up(client, source):
    with pytest.raises(EngineError, match=r"rows [0-9,-]+ failed 4 times here, the last time: .*the store hung up"):
        rs.measure(Hopeless(str(source)), engine="dask", client=client)


def test_workers_that_die_or_start_again_change_nothing(source):
    wanted = rs.measure(source)
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=3, **options) as cluster, Client(cluster) as client:
        deaths = []

        def kill(done):
            if done.rows_done > len(deaths) * 250_000 and len(deaths) < 3:
                pids = client.run(os.getpid, on_error="ignore")  # one that was killed may be listed, but is silent
                if len(deaths) < 2:
                    os.kill(pids[sorted(pids)[0]], signal.SIGKILL)
                else:
                    client.restart_workers(sorted(pids)[:1])
                deaths.append(done.rows_done)

        found = rs.measure(Slow(source), engine="dask", client=client, progress=kill)
    assert len(deaths) == 3
    assert same_bits(found, wanted)


def test_the_worker_that_holds_what_the_last_pass_found_may_die(source):
    asked = {"method": "rsvd", "rank": 1, "oversampling": 1, "passes": 2, "tolerance": 1e-15}
    with pytest.warns(ToleranceWarning):
        wanted = rs.measure(source, **asked)
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        deaths = []

        def kill(done):
            holders = [where for key, where in client.who_has().items() if str(key).endswith("-basis") and where]
            if holders and done.rows_done > 250_000 and not deaths:
                deaths.append(holders[0][0])
                os.kill(client.run(os.getpid, workers=deaths)[deaths[0]], signal.SIGKILL)

        with pytest.warns(ToleranceWarning):
            found = rs.measure(Slow(source), engine="dask", client=client, progress=kill, **asked)
    assert len(deaths) == 1
    assert [one.get("turn", 0) for one in found.passes] == [0, 1]
    assert same_bits(found, wanted)


SCHEDULER = [
    sys.executable,
    "-m",
    "distributed.cli.dask_scheduler",
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--no-dashboard",
]


def test_a_scheduler_that_dies_loses_nothing_that_was_gathered(source, tmp_path, monkeypatch):
    monkeypatch.setattr(schedules, "_GATHER_S", 0.0)
    monkeypatch.setattr(engine, "_CONNECT_S", 5)  # also the wait for a scheduler that is gone
    scheduler = subprocess.Popen([*SCHEDULER, "--no-dashboard"], stderr=subprocess.PIPE, text=True)
    address = next(found[0] for line in scheduler.stderr if (found := re.search(r"tcp://\S+", line)))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    path = str(Path(__file__).parents[3])
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path})

    def kill(done):
        if done.rows_done > 300_000:
            scheduler.kill()

    try:
        with (
            set_config({"distributed.comm.timeouts.connect": "2s"}),
            pytest.raises(EngineError, match="scheduler at tcp"),
        ):
            rs.measure(Slow(source), engine="dask", client=address, checkpoint=tmp_path / "kept", progress=kill)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
        scheduler.stderr.close()
    assert sum(stop - start for start, stop in rs.load_state(tmp_path / "kept").covered) >= 300_000 - 65_536
    assert same_bits(rs.measure(source, checkpoint=tmp_path / "kept"), rs.measure(source))


def test_a_cluster_of_this_machine_is_started_where_none_is_given(source):
    assert same_bits(rs.measure(source, engine="dask", workers=2), rs.measure(source))


def test_a_scheduler_that_is_gone_has_no_threads():
    client = SimpleNamespace(scheduler_info=lambda **_: {}, scheduler=SimpleNamespace(address="tcp://there:1"))
    engine = DaskEngine(client)
    client.scheduler = None  # what a client knows between losing it and saying so
    assert engine.count_threads() == 0
    assert engine.address == "tcp://there:1"


def test_no_scheduler_is_said(source, monkeypatch):
    monkeypatch.setattr(engine, "_CONNECT_S", 1)
    with pytest.raises(EngineError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        rs.measure(source, engine="dask", client="tcp://127.0.0.1:9")


def test_a_source_that_workers_cannot_open_is_said(client, source, tmp_path):
    class Here(ZarrSource):
        def reopen(self):
            return str(tmp_path / "only-here.zarr")

    with pytest.raises(SourceNotFoundError, match=r"only-here\.zarr"):
        rs.measure(Here(source), engine="dask", client=client)


def test_tasks_are_nodes_of_the_merge_tree_and_cover_every_segment_once():
    schedule = schedules.Schedule(2, 3, 0, 1.0, 4, 16, 20.0, 8)
    for missing in ([range(0, 64)], [range(3, 21), range(40, 41)], [range(7, 9)], [range(5, 5)]):
        covered = [segment for node in schedule.nodes(missing) for segment in span(node)]
        assert covered == [segment for run in missing for segment in run]
    assert all(level <= 3 for level, _ in schedule.nodes([range(3, 100)]))


def test_a_plan_of_a_million_million_rows_keeps_to_its_bounds(tmp_path):
    huge = zarr.create_array(tmp_path / "huge.zarr", shape=(10**12, 1024), chunks=(16_384, 1024), dtype="f2")
    planned = rs.plan(huge, workers=1, memory_limit=4 * 2**30, checkpoint=tmp_path / "kept")
    schedule = schedules.schedule_for(planned, 1000)
    assert 30.0 <= schedule.task_s <= 120.0
    assert schedule.in_flight <= schedule.started_ahead <= 8 * 1000
    assert schedule.lost_s <= 120.0
    assert schedule.tasks << schedule.task_level >= planned.segments
    two_a_task = 2 * schedule.tasks * 1e-3  # a read and a merge, a millisecond of the scheduler each
    assert two_a_task < 0.2 * schedule.elapsed_s


class Forgetful(engine.DaskEngine):
    """A cluster that loses results of its workers: every fourth future is cancelled once it is done."""

    def __init__(self, client) -> None:
        super().__init__(client)
        self.lost = 0


@pytest.mark.parametrize("gather_s", [0.0, 1000.0])
def test_results_that_are_lost_are_read_again(client, source, monkeypatch, gather_s):
    """Before they are gathered, and while they are merged."""
    monkeypatch.setattr(schedules, "_GATHER_S", gather_s)
    engine = Forgetful(client)
    planned = rs.plan(source, workers=1)
    spec = PassSpec(ZarrSource(str(source)), planned, GramAccumulator)
    submit = client.submit
    futures = []

    def submitted(*arguments, **options):
        futures.append(submit(*arguments, **options))
        return futures[-1]

    def lose(done):
        finished = [future for future in futures[engine.lost :: 4] if future.status == "finished"]
        if finished and engine.lost < 3:
            engine.lost += 1
            finished[-1].cancel(force=True)

    monkeypatch.setattr(client, "submit", submitted)
    tree = MergeTree()
    engine(tree, spec, planned.all_segments, lose)
    assert engine.lost
    wanted = MergeTree()
    local.run_into(wanted, spec, planned.all_segments)
    mine, theirs = tree.total().to_record()[1], wanted.total().to_record()[1]
    assert {name: array.tobytes() for name, array in mine.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_a_cluster_object_does_as_well_as_its_client(client, source):
    assert same_bits(rs.measure(source, engine="dask", client=client.cluster), rs.measure(source))


class ScriptedFuture:
    def __init__(self) -> None:
        self.status, self.error = "pending", None

    def add_done_callback(self, call) -> None:
        self.call = call

    def exception(self):
        return self.error

    def release(self) -> None:
        pass

    def end(self, status: str, error: BaseException | None = None) -> None:
        self.status, self.error = status, error
        self.call(self)


class ScriptedCluster:
    """Tasks end as a test says."""

    address, device, status, client = "nowhere", "cpu", "running", None
    read, merge = "read", "merge"

    def __init__(self) -> None:
        self.client, self.submitted = self, []

    def submit(self, function, work, *arguments, **_):
        self.submitted.append((arguments[0], ScriptedFuture()))
        return self.submitted[-1][1]

    def count_threads(self) -> int:
        return 2

    def cancel(self, futures, force) -> None:
        pass


def test_a_failure_waits_for_rows_before_it_though_their_worker_dies(source):
    """Those are read again, and then the first failure in row order is raised."""
    planned = rs.plan(source, workers=1)
    spec = PassSpec(ZarrSource(str(source)), planned, GramAccumulator)
    schedule = schedules.Schedule(2, 0, 20, 1.0, 4, 16, 20.0, 8)
    cluster = ScriptedCluster()
    run = ClientRun(cluster, MergeTree(), spec, planned.all_segments, schedule, None)

    def play() -> None:
        while len(cluster.submitted) < 4:
            time.sleep(0.01)
        cluster.submitted[1][1].end("error", NonFiniteError("row 70,000 is not finite"))
        cluster.submitted[0][1].end("error", ConnectionResetError("a worker died"))
        while len(cluster.submitted) < 5:
            time.sleep(0.01)
        assert cluster.submitted[4][0] == (0, 0)
        cluster.submitted[4][1].end("error", NonFiniteError("row 3 is not finite"))

    player = threading.Thread(target=play)
    player.start()
    with pytest.raises(NonFiniteError, match="row 3 is"):
        run.go()
    player.join()
    assert len(cluster.submitted) == 5


KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, RankMeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_reach_the_client_as_they_are(kind):
    made = kind("what went wrong")
    made.add_note("and what to do")
    again = pickle.loads(error_message(made)["exception"].data)
    assert (type(again), str(again), again.__notes__) == (kind, "what went wrong", ["and what to do"])


def test_workers_in_this_process_give_the_threads_of_blas_back(source):
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with threadpool_limits(2, user_api="blas"), LocalCluster(**options) as cluster, Client(cluster) as client:
        found = rs.measure(source, engine="dask", client=client)
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {2}
    assert same_bits(found, rs.measure(source))


@pytest.mark.parametrize("each", [rs.measure_each, None], ids=["measure_each", "score"])
def test_a_cluster_of_several_sources_gets_the_device(monkeypatch, each):
    asked = []

    def connected(*arguments):
        asked.append(arguments)
        raise EngineError("enough")

    monkeypatch.setattr(engine, "connected", connected)
    if each is None:
        with pytest.raises(SystemExit, match="5"):
            main(["score", "a", "b", "--engine", "dask", "--device", "cuda", "--workers", "3", "--memory", "1GiB"])
    else:
        options = {"engine": "dask", "device": "cuda", "workers": 3, "memory_limit": 2**30}
        with pytest.raises(EngineError, match="enough"):
            list(each(["a", "b"], **options))
    assert asked == [(None, 3, 2**30, "cuda")]


def know_the_toy(free=0):
    registry.MODULES["toy"] = ("tests.toy_device",)
    TOY.free_bytes = lambda: free


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "float32"}, {"method": "tsqr"}, {"method": "rsvd", "rank": 1, "oversampling": 1, "passes": 2}],
    ids=str,
)
def test_workers_compute_with_cards_of_their_own(client, source, options, tmp_path, monkeypatch):
    client.run(know_the_toy)
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))  # names are checked here
    asked = options | {"tolerance": 1e9, "engine": "dask", "client": client}
    found = rs.measure(source, **asked, device="toy", checkpoint=tmp_path / "kept")
    there = rs.measure(source, **asked)
    assert (found.device, there.device) == ("toy", "cpu")
    assert [worker["device"] for worker in found.provenance["workers"]] == ["toy:0"]
    assert "device" not in there.provenance["workers"][0]
    assert found.audit == there.audit
    for name, one in found.estimates.items():
        assert one.value is None or (one.lower <= there[name].upper and there[name].lower <= one.upper), name
    assert found.plan.card_peak_bytes > 0 == there.plan.card_peak_bytes
    assert found.plan.memory["accumulators"] >= there.plan.memory["accumulators"]  # merged on processors
    assert found.plan.memory["solving"] == there.plan.memory["solving"]
    jsonschema.validate(found.to_dict(), SCHEMA)
    again = rs.measure(source, **asked, device="toy", checkpoint=tmp_path / "kept")
    assert again.rankme == found.rankme


def test_a_card_that_a_worker_lacks_or_that_is_full_is_reported(client, source, monkeypatch):
    client.run(know_the_toy)
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))  # names are checked here
    asked = {"engine": "dask", "client": client, "device": "toy"}
    with pytest.raises(DeviceError, match=r"device toy:1: there is one toy"):
        rs.measure(source, **asked | {"device": "toy:1"})
    with pytest.raises(UsageError, match="device is 'nothing' and must be one of"):
        rs.measure(source, **asked | {"device": "nothing"})
    client.run(know_the_toy, 1000)
    with pytest.raises(LimitError, match=r"MiB of the card of worker tcp://.*, where 0 are free; leave"):
        rs.measure(source, **asked)
    client.run(know_the_toy)


def test_workers_compute_the_blocks_of_a_dask_array_each_once(client, tmp_path):
    da = pytest.importorskip("dask.array")
    folder = str(tmp_path)

    def noted(block):
        open(f"{folder}/{os.getpid()}-{time.time_ns()}", "x").close()
        return block

    whole = da.random.default_rng(0).standard_normal((150_000, 64), chunks=(60_000, 40), dtype=np.float32)
    lazy = whole.map_blocks(noted, meta=np.empty((0, 0), np.float32))
    wanted = rs.measure(whole.compute())
    found = rs.measure(lazy, engine="dask", client=client)
    assert same_bits(found, wanted)
    assert found.plan.segments == 3
    names = os.listdir(folder)
    assert len(names) == 6 and str(os.getpid()) not in {name.split("-")[0] for name in names}
    held = lazy.T.persist()  # on the cluster
    turned = rs.open_source(held, features_axis=0)
    assert same_bits(rs.measure(turned, engine="dask", client=client), wanted)
    assert same_bits(rs.measure(turned), wanted)
    assert len(os.listdir(folder)) == 12


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_blocks_of_a_dask_array_that_fail_are_an_error_of_one_line(client, tmp_path):
    da = pytest.importorskip("dask.array")
    rows = da.from_array(np.ones((300, 4), np.float32), chunks=(100, 4))
    other = rows.map_blocks(lambda block: block.astype("f8"), dtype="f4", meta=np.empty((0, 0), "f4"))
    with pytest.raises(errors.SourceFormatError, match=r"rows 0-99 is float64 of shape .* and float32"):
        rs.measure(other, engine="dask", client=client)
    with pytest.raises(EngineError, match="failed 4 times on the workers, the last time: ZeroDivisionError"):
        rs.measure(rows.map_blocks(lambda block: 1 / 0, meta=np.empty((0, 0), "f4")), engine="dask", client=client)
    with pytest.raises(UsageError, match="no other could go on from a checkpoint"):
        rs.measure(rows, engine="dask", client=client, checkpoint=tmp_path / "kept")
