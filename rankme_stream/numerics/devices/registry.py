"""Devices by name, and arrays of any library as arrays of a device.

A new device is one module here and one line in ``MODULES``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from rankme_stream.errors import DeviceError, LimitError, SourceFormatError, UsageError, argument
from rankme_stream.numerics.devices.device import Adopted, Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.dtypes import Array, StoredType

MODULES: dict[str, tuple[str, ...]] = {  # modules that serve each kind of device; the first that can does
    "cpu": ("rankme_stream.numerics.devices.host",),
    "cuda": ("rankme_stream.numerics.devices.cupy", "rankme_stream.numerics.devices.torch"),
}
_DLPACK_KINDS = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}  # 3 is pinned memory of the host, 13 managed memory


def device_named(name: str) -> Device:
    """Return the device of a name.

    Raises
    ------
    UsageError
        If no device has that name.
    DeviceError
        If the device is missing, or the library that it needs; the text says which.
    """
    kind, index = check_device_name(name)
    reasons = []
    for module in MODULES[kind]:
        try:
            found: Device = import_module(module).open_device(index)
        except DeviceError as error:
            reasons.append(str(error))
        else:
            return found
    raise DeviceError(f"device {name}: {'; '.join(reasons)}")


def check_device_name(name: str) -> tuple[str, int]:
    """Return the kind of a device and its number, 0 where the name has none; nothing is opened.

    Raises
    ------
    UsageError
        If no device is called so.
    """
    match = re.fullmatch(r"([a-z]+)(?::(\d+))?", str(name))
    if match is None or match[1] not in MODULES:
        raise UsageError(
            f"{argument('device')} is {name!r} and must be one of {', '.join(MODULES)}, or cuda:1 for the second card"
        )
    return match[1], int(match[2] or 0)


@contextmanager
def memory_errors_as_limits() -> Iterator[None]:
    """Raise ``LimitError`` where the host or a device has no memory left, in place of what its library raises."""
    try:
        yield
    except LimitError:
        raise
    except _memory_errors() as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise LimitError(
            f"no memory is left ({text}); take fewer {argument('workers')}, or a smaller {argument('memory_limit')}"
        ) from error


def _memory_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that numpy and the loaded libraries of devices raise for it."""
    loaded = (sys.modules.get(module) for modules in MODULES.values() for module in modules)
    return (MemoryError, *(kind for module in loaded if module is not None for kind in module.memory_errors()))


def is_array(thing: object) -> bool:
    """Return whether an object is an array of numpy, or of a library that shares its memory (DLPack)."""
    return isinstance(thing, np.ndarray) or hasattr(thing, "__dlpack__")


def adopted(array: Any, uri: str) -> Adopted:
    """Return an array of any library as one of the device that it is on; nothing is copied.

    Raises
    ------
    SourceFormatError
        If its memory cannot be shared.
    DeviceError
        If no installed library computes on that device.
    """
    if isinstance(array, Adopted):
        return array
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        try:
            found = np.asarray(array)
        except (TypeError, ValueError) as error:
            raise SourceFormatError(f"{uri} is no array of rows: {error}") from error
        return Adopted(HOST, found, "bfloat16" if found.dtype.name == "bfloat16" else None)
    libraries = {kind.__module__.partition(".")[0] for kind in type(array).__mro__}
    for module in (module for modules in MODULES.values() for module in modules):
        if module.rpartition(".")[2] in libraries:  # the library has types that DLPack does not carry
            theirs: Adopted = import_module(module).adopted(array, uri)
            return theirs
    kind, index = array.__dlpack_device__()
    name = _DLPACK_KINDS.get(int(kind))
    if name is None:
        raise SourceFormatError(f"{uri} is on a device of DLPack kind {int(kind)}, which is not supported: copy it")
    device = device_named(name if name == "cpu" else f"{name}:{index}")
    try:
        return Adopted(device, device.xp.from_dlpack(array))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise SourceFormatError(f"{uri} does not share its memory: {error}") from error


def on_host(values: Any) -> Array:
    """Return values of any library, or a sequence of numbers, as an array of the host."""
    found = adopted(values, "values")
    held = found.device.download(found.rows)
    if found.declared != "bfloat16":
        return held
    kind, exact = StoredType("bfloat16", np.dtype(np.uint16)), np.empty(held.shape)
    kind.widen(np.ascontiguousarray(held).view(np.uint16), exact, np.empty(held.shape, np.int32))
    return exact
