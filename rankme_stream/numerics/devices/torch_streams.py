"""Streams of PyTorch, and a stream of the processor, on which everything is done at once.

torch keeps freed memory of a stream for later work of the same stream, and does not know what other streams still do
with it. So what two streams use (rows that one copies to the card and another looks at) is made on the stream that
writes it first and lives until both were waited for, and each waits for a point of the other before it goes on.
Everything else is used on the stream on which it was made. A pass waits for both streams at the end of each run, and
before it drops what it holds.
"""

from __future__ import annotations

import ctypes
from typing import Any

from rankme_stream.numerics.devices.array_api import ImmediateStream, StandardDevice
from rankme_stream.numerics.dtypes import Array


class CudaEvent:
    """A point in the work of a stream of torch."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def wait(self) -> None:
        """Wait, on the host, until the work before that point is done."""
        self.event.synchronize()


class CudaStream:
    """A stream of torch."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._stream = torch, torch.cuda.Stream(device)
        self._entered: list[Any] = []

    def __enter__(self) -> None:
        """Let the operations of this thread go to the stream."""
        self._entered.append(self._torch.cuda.stream(self._stream))
        self._entered[-1].__enter__()

    def __exit__(self, *error: object) -> None:
        """Let them go to where they went before."""
        self._entered.pop().__exit__(*error)

    def copy(self, rows: Array, out: Any) -> None:
        """Queue a copy of rows in pinned memory into a tensor of their shape and type."""
        with self._torch.cuda.stream(self._stream):
            _copy(self._torch, rows, out)

    def record(self) -> CudaEvent:
        """Return the point after all work queued so far."""
        event = self._torch.cuda.Event()
        event.record(self._stream)
        return CudaEvent(event)

    def wait(self, event: CudaEvent) -> None:
        """Let work queued from here on begin after a point of another stream."""
        self._stream.wait_event(event.event)


class HostStream(ImmediateStream):
    """Work of the processor, done when it is queued."""

    def __init__(self, torch: Any, device: StandardDevice) -> None:
        super().__init__(device)
        self._torch = torch

    def copy(self, rows: Array, out: Any) -> None:
        """Copy rows into a tensor of their shape and type."""
        _copy(self._torch, rows, out)


def _copy(torch: Any, rows: Array, out: Any) -> None:
    """Copy rows in C order as bytes: torch does not know all types of numpy, nor numpy all of torch."""
    there = out.view(torch.uint8)
    there.copy_(bytes_of(torch, rows).view(there.shape), non_blocking=True)


def bytes_of(torch: Any, rows: Array) -> Any:
    """Return the bytes of rows in C order as a flat tensor; torch has none that is read only, as lent rows are.

    The memory must outlive the tensor.
    """
    return torch.frombuffer((ctypes.c_uint8 * rows.nbytes).from_address(rows.ctypes.data), dtype=torch.uint8)
