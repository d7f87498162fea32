"""Passes whose processes are killed at random instants, and whether they end in the same bits.

``python -m benchmarks chaos`` scores one zarr store again and again: by threads, by Dask with 1 to 4 workers, as a job
array of 7 parts in random order, and in rounds of which each is killed (SIGKILL of the process, of a worker, of the
scheduler) at random instants until it is done. Every result is compared, bit by bit, with that of one quiet pass.
Checkpoints are written, and workers' results gathered, all the time instead of once a minute, so that kills fall into
writes as well.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dask.config import set as set_config

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from rankme_stream.passes.engines.dask import engine

_SIGKILLED = -signal.SIGKILL
_PATIENCE_S = 300

# What a killed process runs: no period between two checkpoints, and reads that take a while.
_PASS = """
import json, sys
import rankme_stream as rs
from rankme_stream import checkpoint, tasks
checkpoint._PERIOD_S = checkpoint._PERIODS_A_WRITE = tasks._GATHER_S = 0.0
options = json.loads(sys.argv[2])
print("ready", flush=True)
if "part" in options:
    rs.segment(sys.argv[1], **options | {"part": tuple(options["part"])})
else:
    rs.measure(sys.argv[1], **options)
"""


def bits(found: rs.Measurement) -> str:
    """Hash of every number of a result."""
    whole = found.to_dict()
    numbers = {name: whole[name] for name in ("estimates", "spectrum", "audit", "rows_read", "normalized", "dims")}
    return blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=8).hexdigest()


class Mayhem:
    """Runs passes over a store and kills them, so many times at most; of workers and schedulers a quarter as many."""

    def __init__(self, uri: str, folder: Path, seed: int, most_kills: int) -> None:
        self.uri, self.folder, self.most_kills = uri, folder, most_kills
        self.generator = random.Random(seed)
        self.kills = self.starts = 0

    def until_done(self, longest_s: float, **options: Any) -> None:
        """Start a pass, kill it at a random instant, start it again, until it ends by itself."""
        while True:
            self.starts += 1
            process = subprocess.Popen(
                [sys.executable, "-c", _PASS, self.uri, json.dumps(options)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
                try:
                    calm = _PATIENCE_S if self.kills >= self.most_kills else self.generator.uniform(0.0, longest_s)
                    process.wait(calm)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.returncode == _SIGKILLED:
                self.kills += 1
            elif process.returncode == 0:
                return
            else:
                raise SystemExit(f"a pass ended with {process.returncode}")

    def file(self, name: str) -> str:
        """Name a file of this round."""
        return str(self.folder / name)


def killed_process(chaos: Mayhem, longest_s: float) -> rs.Measurement:
    """Kill the process of a pass by threads."""
    chaos.until_done(longest_s, checkpoint=chaos.file("kept"))
    return rs.measure(chaos.uri, checkpoint=chaos.file("kept"))


def killed_parts(chaos: Mayhem, longest_s: float) -> rs.Measurement:
    """Kill the parts of a job array, which run in random order."""
    order = list(range(7))
    chaos.generator.shuffle(order)
    for number in order:
        chaos.until_done(longest_s / 4, part=[number, 7], state=chaos.file(f"part-{number}"))
    chaos.generator.shuffle(order)
    return rs.measure_state(rs.merge_states([rs.load_state(chaos.file(f"part-{number}")) for number in order]))


def killed_worker(chaos: Mayhem, longest_s: float) -> rs.Measurement:
    """Kill one worker of a cluster after another, while others take over and new ones come."""
    with _cluster(2) as cluster:
        deadlines = [chaos.generator.uniform(0.0, longest_s) for _ in range(chaos.most_kills // 4)]
        began = time.monotonic()

        def kill(done: Any) -> None:
            if deadlines and time.monotonic() - began > min(deadlines):
                deadlines.remove(min(deadlines))
                cluster.kill_worker(chaos.generator)
                chaos.kills += 1

        chaos.starts += 1
        return rs.measure(chaos.uri, engine="dask", client=cluster.address, progress=kill)


def killed_scheduler(chaos: Mayhem, longest_s: float) -> rs.Measurement:
    """Kill the scheduler of a cluster, and go on from the checkpoint on another one."""
    for _ in range(chaos.most_kills // 4):
        with _cluster(2) as cluster:
            deadline = time.monotonic() + chaos.generator.uniform(0.0, longest_s)

            def kill(done: Any, deadline: float = deadline, cluster: Any = cluster) -> None:
                if time.monotonic() > deadline:
                    cluster.scheduler.kill()

            chaos.starts += 1
            try:
                return rs.measure(
                    chaos.uri, engine="dask", client=cluster.address, checkpoint=chaos.file("kept"), progress=kill
                )
            except rs.RankMeError as error:
                if "scheduler" not in str(error):
                    raise
                chaos.kills += 1
    return rs.measure(chaos.uri, checkpoint=chaos.file("kept"))


class _Cluster:
    """A scheduler and workers, each a process of its own, started by their commands."""

    def __init__(self, n_workers: int) -> None:
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", stderr=subprocess.PIPE)
        assert self.scheduler.stderr is not None
        lines = iter(self.scheduler.stderr)
        self.address = next(found[0] for line in lines if (found := re.search(r"tcp://\S+", line)))
        self.workers = [self._start_worker() for _ in range(n_workers)]

    @staticmethod
    def _start(name: str, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments, "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True)

    def _start_worker(self) -> subprocess.Popen[str]:
        return self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny")

    def kill_worker(self, generator: random.Random) -> None:
        """Kill one, and start another in its place."""
        victim = self.workers.pop(generator.randrange(len(self.workers)))
        victim.kill()
        victim.wait()
        self.workers.append(self._start_worker())

    def close(self) -> None:
        """Kill whoever is left."""
        for process in (*self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
        if self.scheduler.stderr is not None:
            self.scheduler.stderr.close()


@contextmanager
def _cluster(n_workers: int) -> Iterator[_Cluster]:
    cluster = _Cluster(n_workers)
    try:
        yield cluster
    finally:
        cluster.close()


def undisturbed(uri: str, n_threads: int, n_workers: int) -> dict[str, str]:
    """Score by threads and by clusters of any size, nobody killed; bits by name."""
    found = {f"{count} threads": bits(rs.measure(uri, workers=count)) for count in range(1, n_threads + 1)}
    for count in range(1, n_workers + 1):
        with _cluster(count) as cluster:
            found[f"Dask, {count} workers"] = bits(rs.measure(uri, engine="dask", client=cluster.address))
    return found


_ROUNDS = {
    "the process": killed_process,
    "parts of a job array": killed_parts,
    "a worker": killed_worker,
    "the scheduler": killed_scheduler,
}


def mayhem(uri: str, name: str, n_rounds: int, most_kills: int, longest_s: float) -> dict[str, Any]:
    """Run rounds of one kind; bits, kills and starts of each."""
    rounds = []
    for seed in range(n_rounds):
        with tempfile.TemporaryDirectory() as folder:
            chaos = Mayhem(uri, Path(folder), seed, most_kills)
            rounds.append({"bits": bits(_ROUNDS[name](chaos, longest_s)), "kills": chaos.kills, "starts": chaos.starts})
    return {"name": name, "rounds": rounds}


def measured(experiment: Experiment, *, n_rows: int, n_rounds: int, most_kills: int, n_workers: int) -> dict[str, Any]:
    """Measure everything on one store."""
    with Layout("", n_rows, 64, chunk_rows=10_000).stored() as uri:
        began = time.monotonic()
        wanted = bits(rs.measure(uri))
        longest_s = time.monotonic() - began
        calm = experiment.part("undisturbed", undisturbed, uri, 3, n_workers)
        rounds = [experiment.part(name, mayhem, uri, name, n_rounds, most_kills, longest_s) for name in _ROUNDS]
    return {"n_rows": n_rows, "wanted": wanted, "undisturbed": calm, "killed": rounds}


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# Whether a pass ends in the same bits, whoever dies",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {result['n_rows']:,} rows x 64 float16 in zstd "
        "zarr. Every number of a result, its intervals and the singular values are compared bit by bit with those of "
        "one quiet pass.",
    ]
    calm = [[name, "yes" if found == result["wanted"] else "NO"] for name, found in result["undisturbed"].items()]
    lines += table("Nobody killed", ["by", "same bits"], calm)
    rows = [
        [
            one["name"], len(one["rounds"]), sum(each["starts"] for each in one["rounds"]),
            sum(each["kills"] for each in one["rounds"]),
            f"{sum(each['bits'] == result['wanted'] for each in one['rounds'])} of {len(one['rounds'])}",
        ]
        for one in result["killed"]
    ]  # fmt: skip
    lines += table("SIGKILL at random instants", ["killed", "passes", "starts", "kills", "same bits"], rows)
    return "\n".join(lines)


def main() -> int:
    """Measure, print the tables, write them where asked; 1 if a bit differs."""
    experiment = Experiment("chaos", __doc__, {"quick": "20 s", "default": "15 minutes"})
    experiment.start()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # of deaths that are meant
    set_config({"distributed.comm.timeouts.connect": "1s"})
    engine._CONNECT_S = 5
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    is_quick = experiment.size == "quick"
    sizes = {"n_rows": 1_000_000, "n_rounds": 1, "most_kills": 4, "n_workers": 1} if is_quick else {}
    result = experiment.finish(
        measured(experiment, **({"n_rows": 6_000_000, "n_rounds": 20, "most_kills": 12, "n_workers": 4} | sizes)),
        markdown,
    )
    found = [*result["undisturbed"].values(), *(each["bits"] for one in result["killed"] for each in one["rounds"])]
    return 0 if set(found) == {result["wanted"]} else 1
