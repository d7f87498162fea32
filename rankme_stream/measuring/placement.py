"""Choice of the engine and the device of a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from rankme_stream.errors import UsageError, argument
from rankme_stream.measuring.request import Request
from rankme_stream.numerics.devices.card import Card
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import device_named
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.engine import Engine
from rankme_stream.sources import ArraySource, BlockStream, Source


@contextmanager
def engine_for(request: Request) -> Iterator[Engine]:
    """Open the engine of a request."""
    if request.engine == "local":
        yield local.LocalEngine()
        return
    from rankme_stream.passes.engines.dask.engine import connected

    with connected(request.client, request.workers, request.memory_limit, request.device) as engine:
        yield engine


def device_for(source: Source | BlockStream, name: str) -> Device:
    """Return the device to compute on: the card that holds the rows, or, for rows on the host, the named device.

    Raises
    ------
    UsageError
        If the rows are on another card than the named one.
    DeviceError
        If there is no such device.
    """
    current: Device = source.device if isinstance(source, ArraySource | BlockStream) else HOST
    if name == "cpu":
        return current
    named = device_named(name)
    if current is not HOST and current.name != named.name:
        raise UsageError(
            f"{source.uri} is on {current.name}, and {argument('device')} is {named.name}: leave it out, or move "
            "the rows"
        )
    return named if current is HOST else current


def traveling_bytes(source: Source | BlockStream, device: Device) -> int:
    """Return the bytes of a value as it travels from the host to a card; 0 if the rows lie there, 8 if unknown."""
    if device is HOST:  # workers of a cluster open their cards themselves
        return 8
    if isinstance(source, ArraySource | BlockStream) and source.device is device:
        return 0
    return cast(Card, device).taken_as(source.stored).dtype.itemsize
