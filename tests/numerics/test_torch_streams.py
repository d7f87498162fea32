"""The calls that streams of torch make, on a stand-in that writes them down: neither torch nor a card is needed."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from rankme_stream.numerics.devices.torch_streams import CudaStream


class StandIn:
    """A library with the names of torch that streams use."""

    uint8 = np.uint8

    def __init__(self):
        self.calls, self.current, self.n_streams = [], ["default"], 0
        self.cuda = SimpleNamespace(Stream=self.new_stream, Event=self.new_event, stream=self.entered)

    def new_stream(self, device):
        self.n_streams += 1
        name = f"{device} {self.n_streams}"
        return SimpleNamespace(name=name, wait_event=lambda event: self.calls.append(f"{name} waits for {event.name}"))

    def new_event(self, **options):
        assert not options
        event = SimpleNamespace(name="nothing", synchronize=lambda: self.calls.append(f"host waits for {event.name}"))

        def record(stream):
            event.name = f"point of {stream.name}"
            self.calls.append(f"{stream.name} recorded")

        event.record = record
        return event

    @contextmanager
    def entered(self, stream):
        self.current.append(stream.name)
        yield
        self.current.pop()

    def frombuffer(self, memory, *, dtype):
        return SimpleNamespace(view=np.frombuffer(memory, dtype).reshape)

    def tensor(self, shape, dtype):
        """Return an array that is copied to as a tensor is."""
        library = self

        class Tensor(np.ndarray):
            def copy_(self, values, *, non_blocking):
                library.calls.append(f"copied on {library.current[-1]}, non_blocking={non_blocking}")
                self[...] = values

        return np.zeros(shape, dtype).view(Tensor)


def test_a_slot_goes_round_in_the_order_of_the_streams():
    torch = StandIn()
    copying, computing = CudaStream(torch, "cuda"), CudaStream(torch, "cuda")
    rows, out = np.arange(12, dtype=np.uint16).reshape(4, 3), torch.tensor((4, 3), np.int16)
    copying.copy(rows, out)
    copied = copying.record()
    computing.wait(copied)
    with computing:
        torch.calls.append(f"looked at on {torch.current[-1]}")
    copying.wait(computing.record())
    copied.wait()
    assert torch.calls == [
        "copied on cuda 1, non_blocking=True", "cuda 1 recorded", "cuda 2 waits for point of cuda 1",
        "looked at on cuda 2", "cuda 2 recorded", "cuda 1 waits for point of cuda 2", "host waits for point of cuda 1",
    ]  # fmt: skip
    assert np.array_equal(out, rows)
    assert torch.current == ["default"]


def test_streams_are_entered_inside_each_other():
    torch = StandIn()
    one, other = CudaStream(torch, "cuda:1"), CudaStream(torch, "cuda:1")
    with one, other, one:
        assert torch.current == ["default", "cuda:1 1", "cuda:1 2", "cuda:1 1"]
    assert torch.current == ["default"]
