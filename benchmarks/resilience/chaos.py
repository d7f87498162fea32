"""Does a pass whose processes are killed at random instants end in the same bits?

``python -m benchmarks chaos`` scores one zarr store again and again: by threads, by Dask with 1 to 4 workers, as a job
array of 7 parts in random order, and in rounds that are killed (SIGKILL of the process, of a worker, of the scheduler)
at random instants until they finish. It compares every result, bit by bit, with that of one undisturbed pass.
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
from unittest import mock

from dask.config import set as set_config

import rankme_stream as rs
from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, table
from benchmarks.harness.synthetic_stores import Layout
from benchmarks.resilience import killable_pass

CONNECT_TIMEOUT = "rankme_stream.passes.engines.dask.engine._CONNECT_S"
_SIGKILLED = -signal.SIGKILL
_TIMEOUT_S = 300  # of a pass that is not killed


def bits(measurement: rs.Measurement) -> str:
    """Return a hash of every number of a result."""
    plain = measurement.to_dict()
    numbers = {name: plain[name] for name in ("estimates", "spectrum", "audit", "rows_read", "normalized", "dims")}
    return blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=8).hexdigest()


class KilledPass:
    """A pass over a store, killed at most ``max_kills`` times; a quarter as often where workers or schedulers die.

    ``kills`` and ``starts`` count what happened.
    """

    def __init__(self, uri: str, folder: Path, seed: int, max_kills: int) -> None:
        self.uri, self.folder, self.max_kills = uri, folder, max_kills
        self.generator = random.Random(seed)
        self.kills = self.starts = 0

    def run(self, longest_s: float, **options: Any) -> None:
        """Start a process, kill it at a random instant, start it again, until it ends by itself."""
        while True:
            self.starts += 1
            command = [sys.executable, "-m", killable_pass.__name__, self.uri, json.dumps(options)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
                is_spared = self.kills >= self.max_kills
                try:
                    process.wait(_TIMEOUT_S if is_spared else self.generator.uniform(0.0, longest_s))
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
        """Return the path of a file of this pass."""
        return str(self.folder / name)


def kill_process(killed: KilledPass, longest_s: float) -> rs.Measurement:
    """Kill the process of a pass by threads."""
    killed.run(longest_s, checkpoint=killed.file("checkpoint"))
    return rs.measure(killed.uri, checkpoint=killed.file("checkpoint"))


def kill_parts(killed: KilledPass, longest_s: float) -> rs.Measurement:
    """Kill the parts of a job array, which run in random order: 7 of them, or as many as may be killed."""
    n_parts = min(7, killed.max_kills)
    order = list(range(n_parts))
    killed.generator.shuffle(order)
    for number in order:
        killed.run(longest_s / 4, part=[number, n_parts], state=killed.file(f"part-{number}"))
    killed.generator.shuffle(order)
    return rs.measure_state(rs.merge_states([rs.load_state(killed.file(f"part-{number}")) for number in order]))


def kill_workers(killed: KilledPass, longest_s: float) -> rs.Measurement:
    """Kill one worker of a cluster after another, while others take over and new ones start."""
    with _cluster(2) as cluster:
        deadlines = [killed.generator.uniform(0.0, longest_s) for _ in range(killed.max_kills // 4)]
        began = time.monotonic()

        def kill(_: Any) -> None:
            if deadlines and time.monotonic() - began > min(deadlines):
                deadlines.remove(min(deadlines))
                cluster.kill_worker(killed.generator)
                killed.kills += 1

        killed.starts += 1
        return rs.measure(killed.uri, engine="dask", client=cluster.address, progress=kill)


def kill_schedulers(killed: KilledPass, longest_s: float) -> rs.Measurement:
    """Kill the scheduler of a cluster, and continue from the checkpoint on another cluster."""
    path = killed.file("checkpoint")
    for _ in range(killed.max_kills // 4):
        with _cluster(2) as cluster:
            deadline = time.monotonic() + killed.generator.uniform(0.0, longest_s)

            def kill(_: Any, deadline: float = deadline, cluster: Any = cluster) -> None:
                if time.monotonic() > deadline:
                    cluster.scheduler.kill()

            killed.starts += 1
            try:
                return rs.measure(killed.uri, engine="dask", client=cluster.address, checkpoint=path, progress=kill)
            except rs.RankMeError as error:
                if "scheduler" not in str(error):
                    raise
                killed.kills += 1
    return rs.measure(killed.uri, checkpoint=path)


class _Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, n_workers: int) -> None:
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", stderr=subprocess.PIPE)
        assert self.scheduler.stderr is not None
        lines = iter(self.scheduler.stderr)
        self.address = next(match[0] for line in lines if (match := re.search(r"tcp://\S+", line)))
        self.workers = [self._start_worker() for _ in range(n_workers)]

    @staticmethod
    def _start(name: str, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments, "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True)

    def _start_worker(self) -> subprocess.Popen[str]:
        return self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny")

    def kill_worker(self, generator: random.Random) -> None:
        """Kill a random worker, and start another in its place."""
        victim = self.workers.pop(generator.randrange(len(self.workers)))
        victim.kill()
        victim.wait()
        self.workers.append(self._start_worker())

    def close(self) -> None:
        """Kill the processes that are left."""
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
    """Score by threads and by clusters of several sizes, and kill nothing; return the bits by name."""
    by_name = {f"{count} threads": bits(rs.measure(uri, workers=count)) for count in range(1, n_threads + 1)}
    for count in range(1, n_workers + 1):
        with _cluster(count) as cluster:
            by_name[f"Dask, {count} workers"] = bits(rs.measure(uri, engine="dask", client=cluster.address))
    return by_name


_VICTIMS = {
    "the process": kill_process,
    "parts of a job array": kill_parts,
    "a worker": kill_workers,
    "the scheduler": kill_schedulers,
}


def killed_rounds(uri: str, victim: str, n_rounds: int, max_kills: int, longest_s: float) -> dict[str, Any]:
    """Run rounds that kill one kind of process; return bits, kills and starts of each."""
    rounds = []
    for seed in range(n_rounds):
        with tempfile.TemporaryDirectory() as folder:
            killed = KilledPass(uri, Path(folder), seed, max_kills)
            result = bits(_VICTIMS[victim](killed, longest_s))
            rounds.append({"bits": result, "kills": killed.kills, "starts": killed.starts})
    return {"name": victim, "rounds": rounds}


def measured(experiment: Experiment, *, n_rows: int, n_rounds: int, max_kills: int, n_workers: int) -> dict[str, Any]:
    """Run every part of the benchmark on one store."""
    with Layout("", n_rows, 64, chunk_rows=10_000).stored() as uri:
        began = time.monotonic()
        expected = bits(rs.measure(uri))
        longest_s = time.monotonic() - began
        by_name = experiment.part("undisturbed", undisturbed, uri, 3, n_workers)
        rounds = [
            experiment.part(victim, killed_rounds, uri, victim, n_rounds, max_kills, longest_s) for victim in _VICTIMS
        ]
    return {"n_rows": n_rows, "wanted": expected, "undisturbed": by_name, "killed": rounds}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# Does a killed pass end in the same bits?",
        "",
        f"`{result['command']}`, {result['date']}, {result['machine']}; {result['n_rows']:,} rows x 64 float16 in zstd "
        "zarr. Every number of a result, its intervals and singular values included, is compared bit by bit with that "
        "of one undisturbed pass.",
    ]
    rows = [[name, "yes" if found == result["wanted"] else "NO"] for name, found in result["undisturbed"].items()]
    lines += table("No process killed", ["engine", "same bits"], rows)
    rows = [
        [
            victim["name"], len(victim["rounds"]), sum(each["starts"] for each in victim["rounds"]),
            sum(each["kills"] for each in victim["rounds"]),
            f"{sum(each['bits'] == result['wanted'] for each in victim['rounds'])} of {len(victim['rounds'])}",
        ]
        for victim in result["killed"]
    ]  # fmt: skip
    lines += table("SIGKILL at random instants", ["killed", "passes", "starts", "kills", "same bits"], rows)
    return "\n".join(lines)


def main() -> int:
    """Run, print and write the page; return 1 if a bit differs."""
    experiment = Experiment("chaos", __doc__, {"quick": "15 s", "default": "15 minutes"})
    experiment.start()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it would report every kill
    set_config({"distributed.comm.timeouts.connect": "1s"})
    mock.patch(CONNECT_TIMEOUT, 5).start()
    killable_pass.drop_pauses()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(processes.ROOT), os.environ.get("PYTHONPATH", "")])
    sizes = {"n_rows": 6_000_000, "n_rounds": 20, "max_kills": 12, "n_workers": 4}
    if experiment.size == "quick":
        sizes = {"n_rows": 400_000, "n_rounds": 1, "max_kills": 1, "n_workers": 1}
    result = experiment.finish(measured(experiment, **sizes), markdown)
    hashes = [*result["undisturbed"].values(), *(each["bits"] for one in result["killed"] for each in one["rounds"])]
    return 0 if set(hashes) == {result["wanted"]} else 1
