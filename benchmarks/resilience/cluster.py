"""What do a Dask cluster and checkpoints cost, and how busy is the scheduler of a large plan?

``python -m benchmarks cluster`` scores 400,000 x 768 float16 with two workers and with two threads in turn, with and
without a checkpoint. Then it sends the tasks of a plan (10^12 rows x 1,024 features on 1,000 threads) through a real
scheduler, as tasks that do nothing: a twentieth of them, or all with ``--full``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr
from distributed import Client, LocalCluster

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.numerics import machine
from rankme_stream.numerics.dtypes import Array, stored_type
from rankme_stream.passes.engines.dask.engine import DaskEngine
from rankme_stream.passes.engines.dask.schedule import Schedule, schedule_for
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state import checkpoint
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms

_TARGET_SPEED, _TARGET_BUSY, _TARGET_CHECKPOINT = 0.9, 0.2, 0.02
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_LAPS = 20  # parts of the run through the scheduler, to see whether later tasks cost more
_HUGE_ROWS, _HUGE_FEATURES, _HUGE_THREADS = 10**12, 1024, 1000


def speed(uri: str, repeats: int) -> dict[str, Any]:
    """Score a store by two workers and by two threads in turn, after one pass that is not timed."""
    workers, threads = [], []
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        rs.measure(uri, engine="dask", client=client)
        for _ in range(repeats):
            workers.append(rs.measure(uri, engine="dask", client=client).measured["elapsed_s"])
            threads.append(rs.measure(uri, workers=2).measured["elapsed_s"])
    ratios = [local / there for local, there in zip(threads, workers, strict=True)]
    return {"workers_s": workers, "threads_s": threads, "ratios": ratios}


def checkpoints(uri: str, repeats: int) -> dict[str, Any]:
    """Score a store with and without a checkpoint in turn, and time every write."""
    with_s, without_s, writes_s = [], [], []
    write = checkpoint.save_state

    def timed(path: Path, state: rs.State) -> int:
        began = time.perf_counter()
        n_bytes = write(path, state)
        writes_s.append(time.perf_counter() - began)
        return n_bytes

    checkpoint.save_state = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(repeats):
                without_s.append(rs.measure(uri).measured["elapsed_s"])
                with_s.append(rs.measure(uri, checkpoint=Path(folder) / f"{number}").measured["elapsed_s"])
            n_bytes = (Path(folder) / "0").stat().st_size
    finally:
        checkpoint.save_state = write
    return {"with_s": with_s, "without_s": without_s, "writes_s": writes_s, "n_bytes": n_bytes}


class NoSource:
    """Source of a plan whose rows are not read, but for the few that a dump is known by: zeros."""

    uri = "nothing"
    shape = (10**12, 1024)
    stored = stored_type(np.dtype(np.float16), uri=uri)

    def bounds(self, start: int, stop: int) -> Sequence[int]:
        """Return no bounds: nothing is decoded."""
        return range(0)

    def read(self, start: int, stop: int) -> Array:
        """Return rows of zeros without memory of their own."""
        return np.broadcast_to(np.zeros((), self.stored.dtype), (stop - start, self.shape[1]))

    def fingerprint(self, start: int, stop: int) -> str:
        """Return an empty fingerprint."""
        return ""

    def identity(self) -> dict[str, object]:
        """Return an empty identity."""
        return {}

    def reopen(self) -> str:
        """Return a name; nothing opens it."""
        return "nothing"


def _do_nothing(*_: Any) -> dict[str, Any]:
    plain, arrays = PartialResult({"raw": GramAccumulator(1)}, Audit(), RowNorms()).to_record()
    return {"plain": plain, "arrays": arrays, "bytes": 0, "workers": {}, "missing": {}}


class IdleEngine(DaskEngine):
    """Engine whose tasks do nothing, for a cluster of more threads than this machine has."""

    read = staticmethod(_do_nothing)
    merge = staticmethod(_do_nothing)

    def count_threads(self) -> int:
        """Return the number of threads that the plan is made for."""
        return _HUGE_THREADS


def huge_plan() -> tuple[Plan, Schedule]:
    """Return the plan of 10^12 rows x 1,024 features with 4 GiB a task, and its schedule."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (_HUGE_ROWS, _HUGE_FEATURES)
        zarr.create_array(folder, shape=shape, chunks=(16_384, _HUGE_FEATURES), dtype="float16", overwrite=True)
        plan = rs.plan(folder, workers=1, memory_limit=4 * 2**30)
    return plan, schedule_for(plan, _HUGE_THREADS)


@dataclass(frozen=True)
class Lap:
    """Share of the tasks that were done at one moment, and the processor time of scheduler and client until then."""

    done: float
    elapsed_s: float
    scheduler_s: float
    client_s: float


def run_idle_tasks(n_tasks: int) -> dict[str, Any]:
    """Send tasks of the plan, and their merges, through a scheduler; return the processor time of both sides."""
    plan, schedule = huge_plan()
    spec = PassSpec(NoSource(), plan, GramAccumulator)  # type: ignore[arg-type]  # its rows are not read
    last = min(plan.all_segments.stop, n_tasks << schedule.task_level)
    with _scheduler() as (scheduler, address), Client(address) as client:
        tree, began, laps = MergeTree[PartialResult](), time.perf_counter(), list[Lap]()

        def take_lap(done: float) -> None:
            elapsed_s = time.perf_counter() - began
            laps.append(Lap(done, elapsed_s, _processor_s(scheduler.pid), time.process_time()))
            print(f"{done:.0%} of the tasks after {elapsed_s:.0f} s", flush=True)

        def watch(now: Progress) -> None:
            done = now.rows_done / now.rows_total
            if done < 1 and done - laps[-1].done >= 1 / _LAPS:
                take_lap(done)

        take_lap(0.0)
        IdleEngine(client)(tree, spec, range(last), watch)
        take_lap(1.0)
    assert not tree.missing(range(last))
    n_run = sum(1 for _ in schedule.nodes([range(last)]))  # more than n_tasks: the last ones are smaller
    first, last_lap = laps[0], laps[-1]
    return {
        "tasks": n_run,
        "elapsed_s": last_lap.elapsed_s,
        "scheduler_s": last_lap.scheduler_s - first.scheduler_s,
        "client_s": last_lap.client_s - first.client_s,
        "laps": [asdict(lap) for lap in laps],
        "schedule": schedule.to_dict(),
        "segments": plan.segments,
    }


@contextmanager
def _scheduler() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a scheduler and one worker a core, as processes of their own."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.PIPE, text=True)
    assert scheduler.stderr is not None
    address = next(match[0] for line in scheduler.stderr if (match := re.search(r"tcp://\S+", line)))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "4", "--no-dashboard"]
    path = os.pathsep.join([str(processes.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    workers = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(machine.cores())
    ]
    try:
        yield scheduler, address
    finally:
        for process in (*workers, scheduler):
            process.terminate()
            process.wait()
        scheduler.stderr.close()


def _processor_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def measured(experiment: Experiment, *, n_rows: int, repeats: int, n_tasks: int) -> dict[str, Any]:
    """Run every part of the benchmark."""
    with Layout("", n_rows, 768).stored() as uri:
        result = {
            "n_rows": n_rows,
            "speed": experiment.part("speed", speed, uri, repeats),
            "checkpoints": experiment.part("checkpoints", checkpoints, uri, repeats),
        }
    return result | {"pushed": experiment.part("tasks", run_idle_tasks, n_tasks)}


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join([
        "# Cost of a Dask cluster and of checkpoints",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Medians (least to most).",
        *_speed_lines(result["speed"], result["n_rows"]),
        *_checkpoint_lines(result["checkpoints"], result["n_rows"]),
        *_scheduler_lines(result["pushed"]),
    ])  # fmt: skip


def _speed_lines(speeds: dict[str, Any], n_rows: int) -> list[str]:
    missed = _no(median(speeds["ratios"]) < _TARGET_SPEED)
    return [
        *table(
            f"Two workers beside two threads, {n_rows:,} x 768",
            ["two Dask workers, s", "two threads, s", "speed of workers / threads"],
            [[_spread(speeds["workers_s"]), _spread(speeds["threads_s"]), _spread(speeds["ratios"]) + missed]],
        ),
        "",
        f"Target: at least {_TARGET_SPEED}. Workers and threads take turns, in one process that has made a pass "
        "before; the scheduler and the client share the two cores with the workers.",
    ]


def _checkpoint_lines(timings: dict[str, Any], n_rows: int) -> list[str]:
    write_s = median(timings["writes_s"])
    period_s = max(60.0, 50.0 * write_s)
    share = write_s / period_s
    return [
        *table(
            f"A checkpoint of {n_rows:,} x 768",
            ["pass with, s", "pass without, s", "a write, s", "file, MB", "share of a long pass"],
            [
                [
                    _spread(timings["with_s"]), _spread(timings["without_s"]), _spread(timings["writes_s"], 3),
                    f"{timings['n_bytes'] / 1e6:.1f}", f"{share:.2%}" + _no(share > _TARGET_CHECKPOINT),
                ]
            ],
        ),
        "",
        f"Share of a long pass: a write every {period_s:.0f} s, on a thread of its own (target: at most "
        f"{_TARGET_CHECKPOINT:.0%}). These passes are shorter than that: they write once, at their end.",
    ]  # fmt: skip


def _scheduler_lines(run: dict[str, Any]) -> list[str]:
    schedule = run["schedule"]
    a_task_s = run["scheduler_s"] / run["tasks"]
    node_mebi = schedule["node_bytes"] / 2**20
    busy = a_task_s * schedule["tasks"] / schedule["elapsed_s"]
    first, last = (_seconds_a_task(run, laps) * 1e3 for laps in (run["laps"][:2], run["laps"][-2:]))
    return [
        *table(
            f"A plan of {_HUGE_ROWS:,} x {_HUGE_FEATURES:,} on {_HUGE_THREADS:,} threads",
            ["tasks", "s each", "hours", "tasks run", "in, s", "scheduler, ms a task", "client, ms a task",
             "scheduler busy"],
            [
                [
                    f"{schedule['tasks']:,}", f"{schedule['task_s']:.0f}", f"{schedule['elapsed_s'] / 3600:.1f}",
                    f"{run['tasks']:,}", f"{run['elapsed_s']:.0f}", f"{a_task_s * 1e3:.2f}",
                    f"{run['client_s'] / run['tasks'] * 1e3:.2f}", f"{busy:.1%}" + _no(busy > _TARGET_BUSY),
                ]
            ],
        ),
        "",
        f"Scheduler, ms a task: {first:.2f} in the first {1 / _LAPS:.0%} of the tasks run, {last:.2f} in the last.",
        "",
        f"Tasks run: they do nothing, with their merges, {schedule['in_flight']:,} in flight, through a scheduler in a "
        "process of its own. Busy: the scheduler's processor time a task, times the tasks of the plan, over the time "
        f"of the plan (target: at most {_TARGET_BUSY:.0%}). At most {schedule['live_nodes']:,} partial results are "
        f"alive on the workers, {schedule['live_nodes'] * node_mebi / _HUGE_THREADS:.0f} MiB a thread; up to "
        f"{schedule['nodes_gathered']:,} go to the client every {schedule['gather_s']:.0f} s, "
        f"{schedule['nodes_gathered'] * node_mebi / schedule['gather_s']:.0f} MiB/s; if everything but the state file "
        f"is lost, {schedule['lost_s']:.0f} s of work is lost with it.",
    ]  # fmt: skip


def _seconds_a_task(run: dict[str, Any], laps: list[dict[str, float]]) -> float:
    """Return the scheduler's processor time per task between two laps."""
    before, after = laps
    return (after["scheduler_s"] - before["scheduler_s"]) / ((after["done"] - before["done"]) * run["tasks"])


def _no(is_missed: bool) -> str:
    return ": NO" if is_missed else ""


def main() -> int:
    """Run, print and write the page."""
    experiment = Experiment("cluster", __doc__, {"quick": "15 s", "default": "4 minutes", "full": "an hour"})
    experiment.start()
    _, schedule = huge_plan()
    sizes: dict[str, dict[str, int]] = {
        "quick": {"n_rows": 20_000, "repeats": 1, "n_tasks": 4},
        "default": {"n_rows": 400_000, "repeats": 7, "n_tasks": schedule.tasks // 20},
        "full": {"n_rows": 400_000, "repeats": 7, "n_tasks": schedule.tasks},
    }
    experiment.finish(measured(experiment, **sizes[experiment.size]), markdown)
    return 0
