"""Rates of the host alone, on so many cores: our passes, a plain loop with threaded BLAS, and torch.

``python -m benchmarks.speed.host_parts SETUP`` answers lines of the standard input, as ``benchmarks.speed.card_parts``
does. The process is bound to its cores, and its environment holds BLAS to as many threads, before it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np

import rankme_stream as rs
from benchmarks.harness.part_server import serve

_LOOP_ROWS = 8192  # of a product of the plain loops
_REPEATS = 2


class HostParts:
    """float16 rows in memory and in zarr, and what is measured of them on the cores of this process."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._cores, self._n_features = setup["cores"], setup["features"]
        self._n_rows = max(1024, setup["bytes"] * self._cores // (2 * self._n_features))
        self._kept = ExitStack()

    def __call__(self, part: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the lines of a part."""
        parts: dict[str, Callable[..., float]] = {
            "ours": self.ours, "decoding": self.decoding, "numpy": self.with_numpy, "torch": self.with_torch,
        }  # fmt: skip
        took = parts[part](*arguments)
        return [{"what": "host", "way": " ".join([part, *arguments]), "rows": self._n_rows, "s": took}]

    @cached_property
    def rows(self) -> np.ndarray:
        """Gaussian rows, a few thousand again and again; their singular values fall as k^-1/2."""
        drawn = np.random.default_rng(0).standard_normal((min(self._n_rows, 4096), self._n_features), dtype=np.float32)
        drawn *= np.arange(1, self._n_features + 1, dtype=np.float32) ** -0.5
        return np.tile(drawn.astype(np.float16), (-(-self._n_rows // len(drawn)), 1))[: self._n_rows]

    @cached_property
    def store(self) -> str:
        """URI of as many rows in zarr."""
        from benchmarks.harness.synthetic_stores import Layout

        chunk_rows = min(self._n_rows, max(1, 2**20 // self._n_features))
        return self._kept.enter_context(Layout("rows", self._n_rows, self._n_features, chunk_rows=chunk_rows).stored())

    def ours(self, where: str, precision: Any) -> float:
        """Return the seconds of our pass over rows in memory or in zarr."""
        source = self.store if where == "zarr" else self.rows
        return _least_s(
            lambda: rs.measure(source, method="gram", precision=precision, tolerance=1.0, workers=self._cores)
        )

    def decoding(self) -> float:
        """Return the seconds that reading the rows in zarr takes alone."""
        from benchmarks.speed.bare_loop import bare_loop_s

        return min(bare_loop_s(self.store, reading_alone=True) for _ in range(_REPEATS))

    def with_numpy(self, precision: str) -> float:
        """Return the seconds of a plain loop: cast, multiply by threaded BLAS, add."""

        def loop() -> None:
            gram = np.zeros((self._n_features,) * 2)
            for start in range(0, self._n_rows, _LOOP_ROWS):
                wide = self.rows[start : start + _LOOP_ROWS].astype(precision)
                gram += wide.T @ wide
            np.linalg.eigvalsh(gram)

        return _least_s(loop)

    def with_torch(self, precision: str) -> float:
        """Return the seconds of the same loop in torch."""
        import torch

        torch.set_num_threads(self._cores)
        rows, dtype = torch.from_numpy(self.rows), getattr(torch, precision)

        def loop() -> None:
            gram = torch.zeros((self._n_features,) * 2, dtype=torch.float64)
            for start in range(0, self._n_rows, _LOOP_ROWS):
                wide = rows[start : start + _LOOP_ROWS].to(dtype)
                gram += wide.T @ wide
            torch.linalg.eigvalsh(gram)

        return _least_s(loop)


def _least_s(work: Callable[[], object]) -> float:
    """Return the least seconds of some work, which is done once before."""
    work()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    serve(HostParts)
