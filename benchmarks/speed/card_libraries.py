"""CuPy and torch on a CUDA card, or torch on the processor in its place: rows, copies, products, eigenvalues.

Nothing here is a part of the package: these are the rates that it is compared with, and rows for it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_DRAWN_ROWS = 2**16  # drawn, or widened, at once
Work = Callable[[], object]


class CupyCard:
    """CuPy on the first card."""

    is_card = True

    def __init__(self) -> None:
        import cupy
        import cupyx
        from cupy_backends.cuda.libs import cublas

        cupy.cuda.runtime.getDeviceCount()  # raises where there is no card
        self._cupy, self._cupyx, self._cublas = cupy, cupyx, cublas

    def describe(self) -> dict[str, str]:
        """Return card, memory, driver and versions."""
        runtime = self._cupy.cuda.runtime
        return {
            "card": runtime.getDeviceProperties(0)["name"].decode(),
            "memory": f"{self._cupy.cuda.Device(0).mem_info[1] / 2**30:.0f} GiB",
            "driver": _driver(),
            "CuPy": f"{self._cupy.__version__} with CUDA {runtime.runtimeGetVersion()}",
        }

    def wait(self) -> None:
        """Wait for all work that was queued."""
        self._cupy.cuda.Device().synchronize()

    def rows(self, n_rows: int, n_features: int, stored: str) -> Any:
        """Return Gaussian rows on the card, bfloat16 as their bits; their singular values fall as k^-1/2."""
        cupy = self._cupy
        generator = cupy.random.default_rng(1)
        scales = cupy.arange(1, n_features + 1, dtype=cupy.float32) ** -0.5
        made = cupy.empty((n_rows, n_features), "uint16" if stored == "bfloat16" else stored)
        for start in range(0, n_rows, _DRAWN_ROWS):
            shape = min(_DRAWN_ROWS, n_rows - start), n_features
            drawn = generator.standard_normal(shape, dtype=cupy.float32) * scales
            made[start : start + shape[0]] = drawn.view(cupy.uint32) >> 16 if stored == "bfloat16" else drawn
        return made

    def upload(self, rows: np.ndarray) -> Any:
        """Return rows of the host on the card."""
        return self._cupy.asarray(rows)

    def download(self, rows: Any) -> np.ndarray:
        """Return rows in pageable memory."""
        return self._cupy.asnumpy(rows)

    def pin(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of the host in pinned memory."""
        pinned = self._cupyx.empty_pinned(rows.shape, rows.dtype)
        pinned[...] = rows
        return pinned

    def gram(self, rows: Any) -> Any:
        """Return the Gram matrix in float64."""
        gram = self._cupy.zeros((rows.shape[1],) * 2)
        for start in range(0, rows.shape[0], _DRAWN_ROWS):
            some = rows[start : start + _DRAWN_ROWS]
            if some.dtype == self._cupy.uint16:  # bits of bfloat16, the upper half of a float32
                some = (some.astype(self._cupy.uint32) << 16).view(self._cupy.float32)
            wide = some.astype(self._cupy.float64)
            gram += wide.T @ wide
        return gram

    def eigenvalues(self, gram: Any) -> np.ndarray:
        """Return the eigenvalues, ascending, on the host."""
        return self._cupy.asnumpy(self._cupy.linalg.eigvalsh(gram))

    def copies(self, n_bytes: int) -> dict[str, Work]:
        """Return copies of so many bytes from pinned memory, from pageable memory, and within the card."""
        cupy, runtime = self._cupy, self._cupy.cuda.runtime
        pageable = np.ones(n_bytes, np.uint8)
        pinned = self.pin(pageable)
        there, other = cupy.empty(n_bytes, cupy.uint8), cupy.empty(n_bytes, cupy.uint8)
        stream = cupy.cuda.Stream(non_blocking=True)

        def copy(source: np.ndarray) -> None:
            runtime.memcpyAsync(there.data.ptr, source.ctypes.data, n_bytes, 1, stream.ptr)  # 1: host to card

        def within() -> None:
            runtime.memcpyAsync(other.data.ptr, there.data.ptr, n_bytes, 3, stream.ptr)  # 3: card to card

        return {"pinned": lambda: copy(pinned), "pageable": lambda: copy(pageable), "within the card": within}

    def products(self, rows: Any) -> dict[tuple[str, str], Work]:
        """Return products of rows with themselves, by arithmetic and function.

        cuBLAS stores matrices by columns, so it takes the rows as their transpose.
        """
        cupy, cublas = self._cupy, self._cublas
        k, d = rows.shape
        handle = cupy.cuda.device.get_cublas_handle()
        cublas.setStream(handle, cupy.cuda.get_current_stream().ptr)
        plain, turned, lower = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T, cublas.CUBLAS_FILL_MODE_LOWER
        wide, single = rows.astype(cupy.float64), rows.astype(cupy.float32)
        out, out32 = cupy.empty((d, d), cupy.float64), cupy.empty((d, d), cupy.float32)
        one, zero, one32, zero32 = np.ones(1), np.zeros(1), np.ones(1, np.float32), np.zeros(1, np.float32)

        def dgemm() -> None:
            x, to = wide.data.ptr, out.data.ptr
            cublas.dgemm(handle, plain, turned, d, d, k, one.ctypes.data, x, d, x, d, zero.ctypes.data, to, d)

        def dsyrk() -> None:
            x, to = wide.data.ptr, out.data.ptr
            cublas.dsyrk(handle, lower, plain, d, k, one.ctypes.data, x, d, zero.ctypes.data, to, d)

        def gemm_ex() -> None:
            x, to = rows.data.ptr, out32.data.ptr
            half, full = cupy.cuda.runtime.CUDA_R_16F, cupy.cuda.runtime.CUDA_R_32F
            cublas.gemmEx(
                handle, plain, turned, d, d, k, one32.ctypes.data, x, half, d, x, half, d, zero32.ctypes.data,
                to, full, d, cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip

        ways: dict[tuple[str, str], Work] = {
            ("float64", "dgemm"): dgemm,
            ("float64", "dsyrk"): dsyrk,
            ("float32", "matmul"): lambda: cupy.matmul(single.T, single, out=out32),
        }
        return ways | ({("16-bit", "gemmEx"): gemm_ex} if rows.dtype == cupy.float16 else {})


class TorchCard:
    """Torch on the first card, or on the processor."""

    def __init__(self, device: str) -> None:
        import torch

        self.is_card = device == "cuda"
        if self.is_card and not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA card")
        torch.backends.cuda.matmul.allow_tf32 = False
        self._torch, self._device = torch, torch.device("cuda:0" if self.is_card else device)

    def describe(self) -> dict[str, str]:
        """Return card, memory, driver and versions."""
        torch = self._torch
        if not self.is_card:
            return {"torch": torch.__version__}
        return {
            "card": torch.cuda.get_device_name(self._device),
            "memory": f"{torch.cuda.mem_get_info(self._device)[1] / 2**30:.0f} GiB",
            "driver": _driver(),
            "torch": f"{torch.__version__} with CUDA {torch.version.cuda}",
        }

    def wait(self) -> None:
        """Wait for all work that was queued."""
        if self.is_card:
            self._torch.cuda.synchronize(self._device)

    def rows(self, n_rows: int, n_features: int, stored: str) -> Any:
        """Return Gaussian rows on the device; their singular values fall as k^-1/2."""
        torch = self._torch
        generator = torch.Generator(self._device).manual_seed(1)
        scales = torch.arange(1, n_features + 1, device=self._device, dtype=torch.float32) ** -0.5
        made = torch.empty((n_rows, n_features), dtype=getattr(torch, stored), device=self._device)
        for start in range(0, n_rows, _DRAWN_ROWS):
            some = made[start : start + _DRAWN_ROWS]
            some.copy_(torch.randn(some.shape, generator=generator, device=self._device) * scales)
        return made

    def upload(self, rows: np.ndarray) -> Any:
        """Return rows of the host on the device."""
        return self._torch.from_numpy(rows).to(self._device)

    def download(self, rows: Any) -> np.ndarray:
        """Return rows in pageable memory."""
        return rows.cpu().numpy()

    def pin(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of the host in pinned memory, where there is a card."""
        return self._torch.from_numpy(rows).pin_memory().numpy() if self.is_card else rows

    def gram(self, rows: Any) -> Any:
        """Return the Gram matrix in float64."""
        gram = self._torch.zeros((rows.shape[1],) * 2, dtype=self._torch.float64, device=self._device)
        for start in range(0, rows.shape[0], _DRAWN_ROWS):
            wide = rows[start : start + _DRAWN_ROWS].double()
            gram += wide.T @ wide
        return gram

    def eigenvalues(self, gram: Any) -> np.ndarray:
        """Return the eigenvalues, ascending, on the host."""
        return self._torch.linalg.eigvalsh(gram).cpu().numpy()

    def copies(self, n_bytes: int) -> dict[str, Work]:
        """Return copies of so many bytes from pinned memory, from pageable memory, and within the device."""
        torch = self._torch
        pageable = torch.ones(n_bytes, dtype=torch.uint8)
        pinned = pageable.pin_memory() if self.is_card else pageable
        there = torch.empty(n_bytes, dtype=torch.uint8, device=self._device)
        other = torch.empty_like(there)
        return {
            "pinned": lambda: there.copy_(pinned, non_blocking=True),
            "pageable": lambda: there.copy_(pageable),
            "within the card": lambda: other.copy_(there),
        }

    def products(self, rows: Any) -> dict[tuple[str, str], Work]:
        """Return products of rows with themselves, by arithmetic and function."""
        torch = self._torch
        wide, single = rows.double(), rows.float()
        ways: dict[tuple[str, str], Work] = {
            ("float64", "mm"): lambda: torch.mm(wide.T, wide),
            ("float32", "mm"): lambda: torch.mm(single.T, single),
        }
        if self.is_card and rows.dtype in (torch.float16, torch.bfloat16):
            ways["16-bit", "mm"] = lambda: torch.mm(rows.T, rows, out_dtype=torch.float32)
        return ways


Card = CupyCard | TorchCard


def open_card(library: str, device: str) -> Card:
    """Return a library on a device, ``cuda`` or ``cpu``; it raises what the library raises where there is none."""
    return CupyCard() if library == "cupy" else TorchCard(device)


def _driver() -> str:
    """Return the version of the driver, as ``nvidia-smi`` states it."""
    if shutil.which("nvidia-smi") is None:
        return "not known: no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]


def mean_s(card: Card, work: Work, seconds: float) -> float:
    """Return the seconds that some work takes: the least mean of three runs, each at least ``seconds`` long."""
    work()
    card.wait()
    means: list[float] = []
    count = 1
    while len(means) < 3:
        began = time.perf_counter()
        for _ in range(count):
            work()
        card.wait()
        took = time.perf_counter() - began
        if took < seconds:
            count = max(count + 1, int(count * min(16.0, 1.2 * seconds / max(took, 1e-9))))
            continue
        means.append(took / count)
    return min(means)
