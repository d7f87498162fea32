"""Where passes run: the engine and the device that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rankme_stream.errors import UsageError
from rankme_stream.measuring.request import Request
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import Device, device_named
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.dask.engine import connected
from rankme_stream.passes.loop.segment import Task
from rankme_stream.passes.state.merge_tree import Forest
from rankme_stream.passes.state.partial_result import Partial
from rankme_stream.sources import ArraySource, BlockStream, Source

Report = Callable[[local.Progress], None]


class Engine(Protocol):
    """Where passes run."""

    @property
    def name(self) -> str:
        """As results tell it."""

    @property
    def device(self) -> str | None:
        """Name of what its workers compute with, each one of its own; None where the device of a task is meant."""

    def limits(self, workers: int | None, memory_limit: int | None) -> machine.Limits:
        """Return what a pass may take there."""

    def machines(self, workers: int) -> list[dict[str, Any]]:
        """Return what read, as ``provenance`` lists it."""

    @property
    def chunks_missing(self) -> int:
        """Chunks that were met without a value there, where the source here may not know of them."""

    def __call__(self, forest: Forest[Partial], task: Task, segments: range, progress: Report | None, /) -> int:
        """Run segments of a pass that are not in a forest yet, into it; return the bytes decoded."""


@contextmanager
def engine_for(asked: Request) -> Iterator[Engine]:
    """Open the engine that is asked for."""
    if asked.engine == "local":
        yield local.LocalEngine()
        return
    with connected(asked.client, asked.workers, asked.memory_limit, asked.device) as engine:
        yield engine


def device_for(source: Source | BlockStream, name: str) -> Device:
    """Return the device to compute on: where the rows are, or that of the name for rows of this machine.

    Raises
    ------
    UsageError
        If the rows are on another card than is asked for.
    DeviceError
        If it is not there.
    """
    held: Device = source.device if isinstance(source, ArraySource | BlockStream) else HOST
    if name == "cpu":
        return held
    wanted = device_named(name)
    if held is not HOST and held.name != wanted.name:
        raise UsageError(
            f"{source.uri} is on {held.name}, and device {wanted.name} is asked for: leave device out, or move the rows"
        )
    return wanted if held is HOST else held
