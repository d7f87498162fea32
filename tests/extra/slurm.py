"""A real SLURM on this machine: a job array, killed and requeued, and workers of dask-jobqueue, one of them cancelled.

Run by ``make test-extra``; it needs root and ``apt install slurm-wlm munge``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rankme_stream as rs
from tests.dumps import rows_like, same_bits, store
from tests.slow_source import Slow

N_PARTS = 7
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if shutil.which("slurmctld") is None or os.geteuid() != 0:
        pytest.fail("this needs root and SLURM: apt install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).parent / "slurm-node.sh"
    subprocess.run([script, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    show("sinfo", "--version")
    show("sinfo")
    yield
    subprocess.run([script, "stop", folder], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("dump") / "a.zarr", rows_like(2_400_000, 16), chunk=20_000)


def show(*command: str) -> str:
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"$ {' '.join(command)}\n{text}", flush=True)
    return text


def states() -> dict[str, str]:
    lines = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %T"], check=True, capture_output=True, text=True
    )
    return dict(line.split() for line in lines.stdout.splitlines())


def test_a_job_array_killed_and_requeued_gives_the_bits_of_one_pass(slurm, source, tmp_path):
    """Its parts start in random order; three of them are killed while they run and put into the queue again."""
    script = tmp_path / "part.sh"
    rankme = Path(sys.executable).parent / "rankme"
    script.write_text(
        "#!/bin/bash\n"
        f"exec {rankme} segment {source} --part $SLURM_ARRAY_TASK_ID/{N_PARTS} --workers 1 "
        f"--state {tmp_path}/$SLURM_ARRAY_TASK_ID.state\n"
    )
    generator = random.Random(0)
    order = generator.sample(range(N_PARTS), N_PARTS)
    for part in order:
        options = [f"--array={part}", "--requeue", "--ntasks=1", f"--output={tmp_path}/%a.log"]
        show("sbatch", *options, str(script))
    kills = 0
    began = time.monotonic()
    while states():
        running = [job for job, state in states().items() if state == "RUNNING"]
        if running and kills < 3:
            time.sleep(generator.uniform(0.1, 0.6))
            job = generator.choice(running)
            done = subprocess.run(["scancel", "--signal=KILL", "--full", job], check=False)
            again = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True)
            kills += done.returncode == 0 and again.returncode == 0
            show("squeue", "--array")
        time.sleep(0.2)
        assert time.monotonic() - began < 300
    for part in set(range(N_PARTS)) - {int(path.stem) for path in tmp_path.glob("*.state")}:
        pytest.fail(f"part {part} wrote no state")
    held = [rs.load_state(tmp_path / f"{part}.state") for part in order]
    lost = [part for part, state in zip(order, held, strict=True) if not state.nodes]
    print(f"killed and requeued: {kills}; order {order}; parts without a row: {lost}")
    assert kills
    found = rs.measure_state(rs.merge_states(held))
    assert same_bits(found, rs.measure(source))
    print(f"RankMe {found.rankme.value!r}, the same bits as one pass")


def test_workers_of_dask_jobqueue_give_the_bits_of_one_pass(slurm, source, tmp_path):
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    wanted = rs.measure(source)
    path = str(Path(__file__).parents[2])
    options = {
        "queue": "main", "cores": 1, "processes": 1, "memory": "1GB", "python": sys.executable,
        "job_directives_skip": ["--mem", "-t"], "job_script_prologue": [f"export PYTHONPATH={path}"],
        "log_directory": str(tmp_path), "scheduler_options": {"dashboard_address": ":0", "host": "127.0.0.1"},
    }  # fmt: skip
    cancelled = []

    def cancel(done):
        running = [job for job, state in states().items() if state == "RUNNING"]
        if done.rows_done > 400_000 and not cancelled and len(running) == 2:
            cancelled.append(running[0])
            show("squeue")
            show("scancel", running[0])

    with SLURMCluster(**options) as cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=120)
        found = rs.measure(
            Slow(str(source)), engine="dask", client=client, checkpoint=tmp_path / "kept", progress=cancel
        )
    assert cancelled
    assert same_bits(found, wanted)
    print(f"RankMe {found.rankme.value!r} with a worker cancelled, the same bits as one pass")
