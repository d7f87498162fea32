"""A card, or the processor in its place; products there in several arithmetics, and ways to bring rows there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import rankme_stream as rs

STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ARITHMETICS = ("float64", "float32", "16-bit")
_TILE = 8  # 16-bit columns that tensor cores take at once


class Card:
    """A card, or the processor in its place."""

    def __init__(self, place: str) -> None:
        self.place = torch.device(place)
        self.is_card = self.place.type == "cuda"

    def describe(self) -> dict[str, str]:
        """Return name, driver and libraries."""
        facts = {"torch": torch.__version__, "rankme_stream": rs.__version__}
        if self.is_card:
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
            facts |= {
                "card": torch.cuda.get_device_name(self.place), "driver": driver, "CUDA": str(torch.version.cuda),
                "memory": f"{torch.cuda.mem_get_info(self.place)[1] / 2**30:.0f} GiB",
            }  # fmt: skip
        return facts

    def wait(self) -> None:
        """Wait until everything asked for is done."""
        if self.is_card:
            torch.cuda.synchronize(self.place)

    def timed(self, work: Callable[[], object], seconds: float) -> float:
        """Return the seconds that a piece of work takes: the least mean of three runs of so many seconds."""
        work()
        self.wait()
        found, count = [], 1
        while len(found) < 3:
            began = time.perf_counter()
            for _ in range(count):
                work()
            self.wait()
            took = time.perf_counter() - began
            if took < seconds:
                count = max(count + 1, int(count * min(16.0, 1.2 * seconds / max(took, 1e-9))))
                continue
            found.append(took / count)
        return min(found)

    def rows(self, n_rows: int, n_features: int, kind: str, seed: int = 0) -> Tensor:
        """Return Gaussian rows there whose singular values fall as k^-1/2."""
        generator = torch.Generator(self.place).manual_seed(seed)
        scales = torch.arange(1, n_features + 1, device=self.place, dtype=torch.float32) ** -0.5
        made = torch.empty((n_rows, n_features), dtype=STORED[kind], device=self.place)
        for start in range(0, n_rows, 2**16):
            some = made[start : start + 2**16]
            drawn = torch.randn(some.shape, generator=generator, device=self.place)
            some[...] = (drawn * scales).to(some.dtype)
        return made


def product(arithmetic: str, panel: Tensor) -> Tensor:
    """Return the Gram matrix of a panel as an arithmetic forms it: TF32 never, sums of 16-bit products in float32."""
    if arithmetic != "16-bit":
        return panel.T @ panel
    if panel.device.type == "cuda":
        return torch.mm(panel.T, panel, out_dtype=torch.float32)
    wide = panel.float()  # the processor has no such product: its exact products are those of float32
    return wide.T @ wide


def add_product(total: Tensor, arithmetic: str, panel: Tensor) -> None:
    """Add the Gram matrix of a panel to a float64 sum."""
    total += product(arithmetic, panel)


def as_taken(arithmetic: str, rows: Tensor) -> Tensor:
    """Return rows in the type that an arithmetic multiplies."""
    return {"float64": rows.double, "float32": rows.float, "16-bit": lambda: rows}[arithmetic]()


def with_ones(rows: Tensor, columns: int) -> Tensor:
    """Return rows as a pass multiplies them, a column of ones in front, and zeros up to so many columns."""
    made = torch.zeros((len(rows), columns), dtype=rows.dtype, device=rows.device)
    made[:, 0] = 1.0
    made[:, 1 : 1 + rows.shape[1]] = rows
    return made


def widths(n_features: int) -> dict[str, int]:
    """Return columns of a panel: of the features alone, with the ones, and with zeros to whole tiles."""
    with_one = n_features + 1
    return {"D": n_features, "D + 1": with_one, "D + 1, in whole tiles": -(-with_one // _TILE) * _TILE}


Feed = Callable[[Tensor, int, Callable[[Tensor], None]], None]


def _blocks(n_rows: int, block_rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + block_rows, n_rows)) for start in range(0, n_rows, block_rows))


class Feeds:
    """Ways to bring rows of the host to a card, block by block, each to be used there before it is written over."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def ways(self) -> dict[str, tuple[bool, Feed]]:
        """Return them by name, and whether they read pinned memory."""
        found: dict[str, tuple[bool, Feed]] = {"one after the other": (False, self.in_turn)}
        if self._card.is_card:
            found["pinned, one after the other"] = True, self.in_turn
            found["pinned, copied beside the products"] = True, self.beside
        return found

    def in_turn(self, rows: Tensor, block_rows: int, use: Callable[[Tensor], None]) -> None:
        """Copy a block, use it, copy the next."""
        for start, stop in _blocks(len(rows), block_rows):
            use(rows[start:stop].to(self._card.place))

    def beside(self, rows: Tensor, block_rows: int, use: Callable[[Tensor], None]) -> None:
        """Copy on a stream of its own into two buffers, each written again once what uses it is done."""
        cuda = torch.cuda
        copying, using = cuda.Stream(self._card.place), cuda.current_stream(self._card.place)
        shape = (block_rows, rows.shape[1])
        buffers = [torch.empty(shape, dtype=rows.dtype, device=self._card.place) for _ in range(2)]
        copied, used = [cuda.Event(), cuda.Event()], [cuda.Event(), cuda.Event()]
        copying.wait_stream(using)  # the buffers may hold what something there still reads
        for number, (start, stop) in enumerate(_blocks(len(rows), block_rows)):
            slot = number % 2
            with cuda.stream(copying):
                if number >= 2:
                    copying.wait_event(used[slot])
                buffers[slot][: stop - start].copy_(rows[start:stop], non_blocking=True)
                copied[slot].record(copying)
            using.wait_event(copied[slot])
            use(buffers[slot][: stop - start])
            used[slot].record(using)
        self._card.wait()
