"""The engine that runs passes on the workers of a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rankme_stream.errors import EngineError, UsageError
from rankme_stream.numerics import machine
from rankme_stream.passes.engines.dask.client_run import ClientRun
from rankme_stream.passes.engines.dask.schedule import schedule_for
from rankme_stream.passes.engines.dask.worker import Result, merge_nodes, read_node
from rankme_stream.passes.engines.engine import Report
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.sources import block_source

_SHARE = 0.6  # of a worker's memory, for its tasks: beyond it Dask spills results to disk, and later pauses
_NO_WORKERS_S = 60
_CONNECT_S = 15
_GIVEN_BYTES = 2**28  # of blocks that are computed for a task, which lie on its worker all at once
_WORKER_BYTES = 250 * 2**20  # of an idle worker


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
        Functions that workers run.
    address
        Address of the scheduler, for messages.
    """

    name = "dask"
    read = staticmethod(read_node)
    merge = staticmethod(merge_nodes)

    def __init__(self, client: Any, device: str = "cpu") -> None:
        self.client, self.device = client, "cpu" if device == "cpu:0" else device
        # noted now, because a client that lost its scheduler no longer knows it
        self.address = str(getattr(getattr(client, "scheduler", None), "address", "an unknown address"))
        self._workers: dict[str, dict[str, Any]] = {}
        self._missing: dict[str, int] = {}

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return the limits of a task: three fifths of a worker's memory, divided by its threads."""
        known = self._wait_for_workers().values()
        every = machine.memory_bytes()
        share = min(int((one["memory_limit"] or every) * _SHARE) // one["nthreads"] for one in known)
        base = max(_WORKER_BYTES // one["nthreads"] for one in known)
        limit = share if memory_limit is None else min(share, memory_limit)
        return machine.Limits(1, 1, base, limit, keeps_state=False)

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return the machines that read so far, equal ones counted together."""
        counted: dict[str, dict[str, Any]] = {}
        for one in self._workers.values():
            alike = {name: value for name, value in one.items() if name != "count"}
            counted.setdefault(repr(sorted(alike.items())), alike | {"count": 0})["count"] += one["count"]
        return list(counted.values())

    @property
    def chunks_missing(self) -> int:
        """Number of chunks that workers found missing."""
        return sum(self._missing.values())

    def count_threads(self) -> int:
        """Return the number of threads of the cluster at the moment."""
        return sum(one["nthreads"] for one in self._known_workers().values())

    def _known_workers(self) -> dict[str, Any]:
        """Return the workers that the client knows: none if the scheduler is gone."""
        workers: dict[str, Any] = self.client.scheduler_info(n_workers=-1).get("workers", {})
        return workers

    def record(self, result: Result) -> None:
        """Record the workers that read a result, and the chunks that they found missing."""
        self._workers = self._workers | result["workers"]  # a new dict: a checkpoint may be reading the old one
        for worker, count in result["missing"].items():
            self._missing[worker] = max(count, self._missing.get(worker, 0))

    def _wait_for_workers(self) -> dict[str, Any]:
        """Return the workers as soon as there is one."""
        workers: dict[str, Any] = {}
        while not workers:
            try:
                self.client.wait_for_workers(1, timeout=_NO_WORKERS_S)
                workers = self._known_workers()
            except TimeoutError:
                raise EngineError(
                    f"no worker came to the cluster at {self.address} within {_NO_WORKERS_S} s: start some"
                ) from None
            except (OSError, RuntimeError) as error:
                raise EngineError(f"the scheduler at {self.address} is lost ({error})") from error
        return workers

    def __call__(
        self,
        tree: MergeTree[PartialResult],
        spec: PassSpec,
        segments: range,
        progress: Report | None = None,
    ) -> int:
        """Read the segments that a tree lacks and add them to it; return the bytes decoded.

        Raises
        ------
        RankMeError
            The error of the first segments, in row order, that failed for good.
        EngineError
            If the cluster fails, after retries; the tree has what was gathered.
        UsageError
            If workers cannot open the source.
        """
        most_bytes = None if block_source(spec.source) is None else _GIVEN_BYTES
        schedule = schedule_for(spec.plan, max(1, self.count_threads()), most_bytes)
        run = ClientRun(self, tree, spec, segments, schedule, progress)
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
        ``distributed.Client`` or a cluster, which stay open; an address; or None to start a cluster here.
    workers, memory_limit
        Number of processes of the cluster started here, and bytes of all together; None takes the machine's.
    device
        Name of the device that workers compute with. A cluster started here for cards has one worker per card if
        ``dask-cuda`` is installed, else one worker.

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
    logger.setLevel(logging.CRITICAL)  # our errors report what happens to a client of ours
    try:
        yield from _open_engine(client, workers, memory_limit, device)
    finally:
        logger.setLevel(level)


def _open_engine(client: Any, workers: int | None, memory_limit: int | None, device: str) -> Iterator[DaskEngine]:
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
        with _start_cluster(workers, memory_limit, device) as cluster, Client(cluster) as opened:
            yield DaskEngine(opened, device)


def _start_cluster(workers: int | None, memory_limit: int | None, device: str) -> Any:
    """Start processes on this machine: one per core, or one per card."""
    from distributed import LocalCluster

    total = machine.memory_bytes() // 2 if memory_limit is None else memory_limit
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    if device.startswith("cuda"):
        try:
            from dask_cuda import LocalCUDACluster
            from dask_cuda.utils import get_n_gpus
        except ImportError:
            pass  # all workers would share the first card: start one, unless more are asked for
        else:
            count = workers or max(1, get_n_gpus())
            return LocalCUDACluster(n_workers=count, memory_limit=total // count, **options)
    count = workers or (1 if device.startswith("cuda") else machine.cores())
    return LocalCluster(n_workers=count, memory_limit=total // count, processes=True, **options)
