"""Workers of a Dask cluster: the same tasks, somewhere else."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rankme_stream.errors import EngineError, UsageError
from rankme_stream.numerics import machine
from rankme_stream.passes.engines.dask.client_run import ClientRun
from rankme_stream.passes.engines.dask.schedule import schedule_for
from rankme_stream.passes.engines.dask.worker import Result, WorkerPass, merge_nodes, read_node
from rankme_stream.passes.engines.engine import Progress
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult

_SHARE = 0.6  # of a worker's memory that a task may take: from there on Dask spills what it holds, later it pauses
_NO_WORKERS_S = 60
_CONNECT_S = 15
_WORKER_BYTES = 250 * 2**20  # of a worker that has done nothing yet


class DaskEngine:
    """Runs passes on the workers of a cluster.

    Parameters
    ----------
    client
        A ``distributed.Client``.
    device
        Name of the device that each worker computes with.

    Attributes
    ----------
    read, merge
        What workers are sent.
    """

    name = "dask"
    read = staticmethod(read_node)
    merge = staticmethod(merge_nodes)

    def __init__(self, client: Any, device: str = "cpu") -> None:
        self.client, self.device = client, "cpu" if device == "cpu:0" else device
        # when the engine was made, for messages: a client that lost its scheduler does not know any more
        self.address = str(getattr(getattr(client, "scheduler", None), "address", "an unknown address"))
        self._workers: dict[str, dict[str, Any]] = {}
        self._missing: dict[str, int] = {}

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return what a task may take: of a worker's memory three fifths, shared out over its threads."""
        found = self._described().values()
        every = machine.memory_bytes()
        share = min(int((one["memory_limit"] or every) * _SHARE) // one["nthreads"] for one in found)
        base = max(_WORKER_BYTES // one["nthreads"] for one in found)
        limit = share if memory_limit is None else min(share, memory_limit)
        return machine.Limits(1, 1, base, limit, keeps_state=False)

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return the machines that read so far, those that are alike counted together."""
        found: dict[str, dict[str, Any]] = {}
        for one in self._workers.values():
            alike = {name: value for name, value in one.items() if name != "count"}
            found.setdefault(repr(sorted(alike.items())), alike | {"count": 0})["count"] += one["count"]
        return list(found.values())

    @property
    def chunks_missing(self) -> int:
        """Chunks that workers met no value in."""
        return sum(self._missing.values())

    def count_threads(self) -> int:
        """Return the threads of the cluster at the moment."""
        return sum(one["nthreads"] for one in self._known().values())

    def _known(self) -> dict[str, Any]:
        """Return the workers that the client knows of: none of a scheduler that is gone."""
        found: dict[str, Any] = self.client.scheduler_info(n_workers=-1).get("workers", {})
        return found

    def note(self, result: Result) -> None:
        """Take note of who read, and of the chunks that were not there."""
        self._workers = self._workers | result["workers"]  # a checkpoint may be looking at the one before
        for worker, count in result["missing"].items():
            self._missing[worker] = max(count, self._missing.get(worker, 0))

    def _described(self) -> dict[str, Any]:
        """Return the workers, once there is one."""
        found: dict[str, Any] = {}
        while not found:
            try:
                self.client.wait_for_workers(1, timeout=_NO_WORKERS_S)
                found = self._known()
            except TimeoutError:
                raise EngineError(
                    f"no worker came to the cluster at {self.address} within {_NO_WORKERS_S} s: start some"
                ) from None
            except (OSError, RuntimeError) as error:
                raise EngineError(f"the scheduler at {self.address} is lost ({error})") from error
        return found

    def __call__(
        self,
        forest: MergeTree[PartialResult],
        task: PassSpec,
        segments: range,
        progress: Callable[[Progress], None] | None = None,
    ) -> int:
        """Run segments of a pass that are not in the forest yet, into it; return the bytes decoded.

        Raises
        ------
        RankMeError
            Of the first segments, in row order, that failed for good.
        EngineError
            If the cluster does, after retries; what came in is in the forest.
        UsageError
            If workers cannot open the source.
        """
        place = task.source.reopen()
        if place is None:
            raise UsageError(
                f"{task.source.uri} lives in this process, and workers cannot read it: store the rows in a zarr array"
            )
        try:
            pickled = pickle.dumps(place)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UsageError(f"{task.source.uri} cannot be sent to workers: {error}; pass its path or URL") from error
        work = WorkerPass(
            pickled, f"{time.time_ns():x}", task.source.uri, task.source.identity(), task.plan, task.missing,
            task.nonfinite, task.groups, self.device,
        )  # fmt: skip
        run = ClientRun(
            self, forest, task.source, work, schedule_for(task.plan, max(1, self.count_threads())), segments, progress,
            task.basis,
        )  # fmt: skip
        try:
            run.go()
        except BaseException:
            run.stop()
            raise
        return run.n_bytes


@contextmanager
def connected(client: Any, workers: int | None, memory_limit: int | None, device: str = "cpu") -> Iterator[DaskEngine]:
    """Open an engine on a client, on the scheduler at an address, or on a cluster of processes on this machine.

    Parameters
    ----------
    client
        ``distributed.Client`` or a cluster, which stay open; an address; or None for one of its own.
    workers, memory_limit
        Processes of such a cluster and bytes of all of them together; None takes the machine's.
    device
        What its workers compute with. A cluster of ours has a worker a card where ``dask-cuda`` is installed, else one.

    Raises
    ------
    UsageError
        If ``distributed`` is not installed.
    EngineError
        If nothing answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("the dask engine needs distributed: pip install 'rankme-stream[dask]'") from error
    if isinstance(client, Client):
        yield DaskEngine(client, device)
        return
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what becomes of a client of ours is told by errors
    try:
        yield from _opened(client, workers, memory_limit, device)
    finally:
        logger.setLevel(level)


def _opened(client: Any, workers: int | None, memory_limit: int | None, device: str) -> Iterator[DaskEngine]:
    from distributed import Client

    if hasattr(client, "scheduler_address"):  # a cluster
        with Client(client) as opened:
            yield DaskEngine(opened, device)
    elif client is not None:
        try:
            opened = Client(str(client), timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise EngineError(f"no scheduler answers at {client}: {error}") from error
        with opened:
            yield DaskEngine(opened, device)
    else:
        with _cluster(workers, memory_limit, device) as cluster, Client(cluster) as opened:
            yield DaskEngine(opened, device)


def _cluster(workers: int | None, memory_limit: int | None, device: str) -> Any:
    """Start processes on this machine: one a core, or one a card."""
    from distributed import LocalCluster

    total = machine.memory_bytes() // 2 if memory_limit is None else memory_limit
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    if device.startswith("cuda"):
        try:
            from dask_cuda import LocalCUDACluster
            from dask_cuda.utils import get_n_gpus
        except ImportError:
            pass  # all workers would share the first card: one, unless more are asked for
        else:
            count = workers or max(1, get_n_gpus())
            return LocalCUDACluster(n_workers=count, memory_limit=total // count, **options)
    count = workers or (1 if device.startswith("cuda") else machine.cores())
    return LocalCluster(n_workers=count, memory_limit=total // count, processes=True, **options)
