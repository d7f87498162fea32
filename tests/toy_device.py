"""A device in one file, as an example for a new card. It computes with the strict namespace of the standard."""

from __future__ import annotations

import array_api_strict

from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices.array_api import StandardDevice


class ToyIsFullError(RuntimeError):
    """Raised by tests."""


TYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
TOY = StandardDevice(array_api_strict, "toy:0", types=TYPES)


def memory_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a full toy."""
    return (ToyIsFullError,)


def open_device(index: int) -> StandardDevice:
    """Return the only one."""
    if index:
        raise DeviceError("there is one toy, counted from 0")
    return TOY
