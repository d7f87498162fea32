"""Where passes run: the engine and the device that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rankme_stream.errors import UsageError
from rankme_stream.measuring.request import Request
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import device_named
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.dask.engine import connected
from rankme_stream.passes.engines.engine import Engine
from rankme_stream.sources import ArraySource, BlockStream, Source


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
