"""A GPU, or the processor in its place: products in several arithmetics, and ways to copy rows there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import rankme_stream as rs

STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ARITHMETICS = ("float64", "float32", "16-bit")
_TILE = 8  # 16-bit columns that tensor cores multiply at once


class Card:
    """A GPU, or the processor in its place."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.is_card = self.device.type == "cuda"

    def describe(self) -> dict[str, str]:
        """Return the name, the driver and the versions of libraries."""
        facts = {"torch": torch.__version__, "rankme_stream": rs.__version__}
        if self.is_card:
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
            facts |= {
                "card": torch.cuda.get_device_name(self.device), "driver": driver, "CUDA": str(torch.version.cuda),
                "memory": f"{torch.cuda.mem_get_info(self.device)[1] / 2**30:.0f} GiB",
            }  # fmt: skip
        return facts

    def wait(self) -> None:
        """Wait for all work that was queued."""
        if self.is_card:
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], object], seconds: float) -> float:
        """Return the seconds that some work takes: the least mean of three runs, each at least ``seconds`` long."""
        work()
        self.wait()
        means, count = [], 1
        while len(means) < 3:
            began = time.perf_counter()
            for _ in range(count):
                work()
            self.wait()
            took = time.perf_counter() - began
            if took < seconds:
                count = max(count + 1, int(count * min(16.0, 1.2 * seconds / max(took, 1e-9))))
                continue
            means.append(took / count)
        return min(means)

    def rows(self, n_rows: int, n_features: int, kind: str, seed: int = 0) -> Tensor:
        """Return Gaussian rows on the device; their singular values fall as k^-1/2."""
        generator = torch.Generator(self.device).manual_seed(seed)
        scales = torch.arange(1, n_features + 1, device=self.device, dtype=torch.float32) ** -0.5
        made = torch.empty((n_rows, n_features), dtype=STORED[kind], device=self.device)
        for start in range(0, n_rows, 2**16):
            some = made[start : start + 2**16]
            drawn = torch.randn(some.shape, generator=generator, device=self.device)
            some[...] = (drawn * scales).to(some.dtype)
        return made


def product(arithmetic: str, panel: Tensor) -> Tensor:
    """Return the Gram matrix of a panel in an arithmetic, never TF32; 16-bit products are summed in float32."""
    if arithmetic != "16-bit":
        return panel.T @ panel
    if panel.device.type == "cuda":
        return torch.mm(panel.T, panel, out_dtype=torch.float32)
    wide = panel.float()  # the processor has no such product; float32 gives the same exact products
    return wide.T @ wide


def add_product(total: Tensor, arithmetic: str, panel: Tensor) -> None:
    """Add the Gram matrix of a panel to a float64 sum."""
    total += product(arithmetic, panel)


def as_taken(arithmetic: str, rows: Tensor) -> Tensor:
    """Return rows in the type in which an arithmetic multiplies them."""
    return {"float64": rows.double, "float32": rows.float, "16-bit": lambda: rows}[arithmetic]()


def with_ones(rows: Tensor, columns: int) -> Tensor:
    """Return rows with a column of ones in front, as in a pass, and columns of zeros up to ``columns``."""
    made = torch.zeros((len(rows), columns), dtype=rows.dtype, device=rows.device)
    made[:, 0] = 1.0
    made[:, 1 : 1 + rows.shape[1]] = rows
    return made


def widths(n_features: int) -> dict[str, int]:
    """Return widths of a panel: features alone, with the ones, and with zeros up to whole tiles."""
    with_one = n_features + 1
    return {"D": n_features, "D + 1": with_one, "D + 1, in whole tiles": -(-with_one // _TILE) * _TILE}


Feed = Callable[[Tensor, int, Callable[[Tensor], None]], None]


def _blocks(n_rows: int, block_rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + block_rows, n_rows)) for start in range(0, n_rows, block_rows))


class Feeds:
    """Ways to copy rows from the host to a card block by block; each block is used before the next overwrites it."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def ways(self) -> dict[str, tuple[bool, Feed]]:
        """Return the ways by name, each with whether it reads pinned memory."""
        ways: dict[str, tuple[bool, Feed]] = {"one after the other": (False, self.in_turn)}
        if self._card.is_card:
            ways["pinned, one after the other"] = True, self.in_turn
            ways["pinned, copied beside the products"] = True, self.beside
        return ways

    def in_turn(self, rows: Tensor, block_rows: int, use: Callable[[Tensor], None]) -> None:
        """Copy a block, use it, copy the next."""
        for start, stop in _blocks(len(rows), block_rows):
            use(rows[start:stop].to(self._card.device))

    def beside(self, rows: Tensor, block_rows: int, use: Callable[[Tensor], None]) -> None:
        """Copy on another stream into two buffers; a buffer is overwritten once its block was used."""
        cuda = torch.cuda
        copying, using = cuda.Stream(self._card.device), cuda.current_stream(self._card.device)
        shape = (block_rows, rows.shape[1])
        buffers = [torch.empty(shape, dtype=rows.dtype, device=self._card.device) for _ in range(2)]
        copied, used = [cuda.Event(), cuda.Event()], [cuda.Event(), cuda.Event()]
        copying.wait_stream(using)  # queued work may still read the memory of the buffers
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
