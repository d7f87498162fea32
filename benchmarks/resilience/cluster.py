"""What a Dask cluster costs beside threads, what checkpoints cost, and how busy a large plan keeps a scheduler.

``python -m benchmarks cluster`` scores 400,000 x 768 float16 with two workers and with two threads in turn, with and
without a checkpoint, and pushes the tasks of a plan (10^12 rows x 1,024 features on 1,000 threads) through a real
scheduler, as tasks that do nothing: a twentieth of them, all with ``--full``.
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

import zarr
from distributed import Client, LocalCluster

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.numerics import machine
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

_WANTED_SPEED, _WANTED_BUSY, _WANTED_CHECKPOINT = 0.9, 0.2, 0.02
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_LAPS = 20  # of a push, to see whether a task costs more as they go by
_HUGE_ROWS, _HUGE_FEATURES, _HUGE_THREADS = 10**12, 1024, 1000


def speed(uri: str, repeats: int) -> dict[str, Any]:
    """Score a store by two workers and by two threads in turn; warm."""
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
    """Score a store with and without a checkpoint in turn, and time the writes of one that is never at rest."""
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


class Nothing:
    """The rows of a plan, which nobody reads."""

    uri = "nothing"

    def fingerprint(self, start: int, stop: int) -> str:
        """Return no fingerprint."""
        return ""

    def identity(self) -> dict[str, object]:
        """Return nothing."""
        return {}

    def reopen(self) -> str:
        """Return nothing to open."""
        return "nothing"


def _do_nothing(*_: Any) -> dict[str, Any]:
    plain, arrays = PartialResult({"raw": GramAccumulator(1)}, Audit(), RowNorms()).to_record()
    return {"plain": plain, "arrays": arrays, "bytes": 0, "workers": {}, "missing": {}}


class Idle(DaskEngine):
    """An engine whose tasks do nothing, for a cluster of more threads than there are."""

    read = staticmethod(_do_nothing)
    merge = staticmethod(_do_nothing)

    def count_threads(self) -> int:
        """Return those of the plan."""
        return _HUGE_THREADS


def huge_plan() -> tuple[Plan, Schedule]:
    """Plan 10^12 rows x 1,024 features for tasks of 4 GiB."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (_HUGE_ROWS, _HUGE_FEATURES)
        zarr.create_array(folder, shape=shape, chunks=(16_384, _HUGE_FEATURES), dtype="float16", overwrite=True)
        plan = rs.plan(folder, workers=1, memory_limit=4 * 2**30)
    return plan, schedule_for(plan, _HUGE_THREADS)


@dataclass(frozen=True)
class Lap:
    """How far a push was, and the processor time of scheduler and client by then."""

    done: float
    elapsed_s: float
    scheduler_s: float
    client_s: float


def push(n_tasks: int) -> dict[str, Any]:
    """Push so many tasks of the plan, and their merges, through a scheduler; seconds of the processor each."""
    plan, schedule = huge_plan()
    engine_task = PassSpec(Nothing(), plan, GramAccumulator)  # type: ignore[arg-type]  # nobody reads it
    last = min(plan.all_segments.stop, n_tasks << schedule.task_level)
    with _scheduler() as (scheduler, address), Client(address) as client:
        forest, began, laps = MergeTree[PartialResult](), time.perf_counter(), list[Lap]()

        def take_lap(done: float) -> None:
            elapsed_s = time.perf_counter() - began
            laps.append(Lap(done, elapsed_s, _processor_s(scheduler.pid), time.process_time()))
            print(f"{done:.0%} pushed after {elapsed_s:.0f} s", flush=True)

        def look(now: Progress) -> None:
            done = now.rows_done / now.rows_total
            if done < 1 and done - laps[-1].done >= 1 / _LAPS:
                take_lap(done)

        take_lap(0.0)
        Idle(client)(forest, engine_task, range(last), look)
        take_lap(1.0)
    assert not forest.missing(range(last))
    n_pushed = sum(1 for _ in schedule.nodes([range(last)]))  # more than asked for: the last ones are smaller
    first, last_lap = laps[0], laps[-1]
    return {
        "tasks": n_pushed,
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
    address = next(found[0] for line in scheduler.stderr if (found := re.search(r"tcp://\S+", line)))
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "4", "--no-dashboard"]
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
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
    """Measure everything."""
    with Layout("", n_rows, 768).stored() as uri:
        fast = experiment.part("speed", speed, uri, repeats)
        kept = experiment.part("checkpoints", checkpoints, uri, repeats)
    return {"n_rows": n_rows, "speed": fast, "checkpoints": kept, "pushed": experiment.part("tasks", push, n_tasks)}


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    fast, kept, pushed = result["speed"], result["checkpoints"], result["pushed"]
    schedule = pushed["schedule"]
    lines = [
        "# What a cluster and checkpoints cost",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}. Medians (least to most).",
    ]
    missed = _no(median(fast["ratios"]) < _WANTED_SPEED)
    lines += table(
        f"Two workers beside two threads, {result['n_rows']:,} x 768",
        ["two Dask workers, s", "two threads, s", "speed of workers / threads"],
        [
            [
                _spread(fast["workers_s"]),
                _spread(fast["threads_s"]),
                _spread(fast["ratios"]) + missed,
            ]
        ],
    )
    lines += [
        "",
        f"Wanted: {_WANTED_SPEED}. Workers and threads take turns, in one process that has made a pass before; the "
        "scheduler and the client share the two cores with the workers.",
    ]
    write_s = median(kept["writes_s"])
    period_s = max(60.0, 50.0 * write_s)
    share = write_s / period_s
    lines += table(
        f"A checkpoint of {result['n_rows']:,} x 768",
        ["pass with, s", "pass without, s", "a write, s", "file, MB", "share of a long pass"],
        [
            [
                _spread(kept["with_s"]), _spread(kept["without_s"]), _spread(kept["writes_s"], 3),
                f"{kept['n_bytes'] / 1e6:.1f}", f"{share:.2%}" + _no(share > _WANTED_CHECKPOINT),
            ]
        ],
    )  # fmt: skip
    lines += [
        "",
        f"Share of a long pass: a write every {period_s:.0f} s, on a thread of its own ({_WANTED_CHECKPOINT:.0%} "
        "wanted at most). These passes are shorter than that: they write once, at their end.",
    ]
    a_task_s = pushed["scheduler_s"] / pushed["tasks"]
    node_mebi = schedule["node_bytes"] / 2**20
    busy = a_task_s * schedule["tasks"] / schedule["elapsed_s"]
    lines += table(
        f"A plan of {_HUGE_ROWS:,} x {_HUGE_FEATURES:,} on {_HUGE_THREADS:,} threads",
        ["tasks", "s each", "hours", "pushed", "in, s", "scheduler, ms a task", "client, ms a task", "scheduler busy"],
        [
            [
                f"{schedule['tasks']:,}", f"{schedule['task_s']:.0f}", f"{schedule['elapsed_s'] / 3600:.1f}",
                f"{pushed['tasks']:,}", f"{pushed['elapsed_s']:.0f}", f"{a_task_s * 1e3:.2f}",
                f"{pushed['client_s'] / pushed['tasks'] * 1e3:.2f}", f"{busy:.1%}" + _no(busy > _WANTED_BUSY),
            ]
        ],
    )  # fmt: skip
    first, last = (_a_task_s(pushed, laps) * 1e3 for laps in (pushed["laps"][:2], pushed["laps"][-2:]))
    lines += [
        "",
        f"Scheduler, ms a task: {first:.2f} in the first {1 / _LAPS:.0%} of what was pushed, {last:.2f} in the last.",
        "",
        f"Pushed: tasks that do nothing, with their merges, {schedule['in_flight']:,} in flight, through a scheduler "
        "in a process of its own. Busy: its processor time a task times the tasks of the plan, over the plan's time "
        f"({_WANTED_BUSY:.0%} wanted at most). At most {schedule['live_nodes']:,} partial results are alive on the "
        f"workers, {schedule['live_nodes'] * node_mebi / _HUGE_THREADS:.0f} MiB a thread; up to "
        f"{schedule['nodes_gathered']:,} go to the client every {schedule['gather_s']:.0f} s, "
        f"{schedule['nodes_gathered'] * node_mebi / schedule['gather_s']:.0f} MiB/s; the death of everything but the "
        f"state file loses {schedule['lost_s']:.0f} s of work.",
    ]
    return "\n".join(lines)


def _a_task_s(pushed: dict[str, Any], laps: list[dict[str, float]]) -> float:
    """Return the scheduler's processor time of a task between two laps."""
    before, after = laps
    return (after["scheduler_s"] - before["scheduler_s"]) / ((after["done"] - before["done"]) * pushed["tasks"])


def _no(is_missed: bool) -> str:
    return ": NO" if is_missed else ""


def main() -> int:
    """Measure, print the tables, write them where asked."""
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
