"""Accumulators updated with panels on the host, by one thread or several."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from rankme_stream.accumulators.accumulator import Accumulator, Divisible
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Workspace


class PanelFeed:
    """Updates accumulators with panels, one segment after another: on the caller's thread, or on several.

    Parameters
    ----------
    threads
        Number of threads. With one, an update is done when ``update`` returns. With more, they share the parts of an
        update while the caller fills the next panel; each part sees the panels in order, so the bits are the same.
    """

    def __init__(self, threads: int) -> None:
        self.workspace = Workspace()
        self._pool = blas_threads.threads(threads, "rankme-feed") if threads > 1 else None
        self._scratch = threading.local()
        self._last: dict[tuple[int, Any], Future[None]] = {}
        self._slots: list[list[Future[None]]] = [[], []] if threads > 1 else [[]]
        self._slot = 0

    def panels(self, names: Sequence[str], shape: tuple[int, int], dtype: str = "float64") -> list[Any]:
        """Return arrays to fill next, which no update still reads."""
        self._slot = (self._slot + 1) % len(self._slots)
        for update in self._slots[self._slot]:
            update.result()
        self._slots[self._slot].clear()
        return [self.workspace.array(f"{name} {self._slot}", shape, dtype=dtype) for name in names]

    def update(self, accumulator: Accumulator, panel: Any, start: int) -> None:
        """Update an accumulator with a panel in the arrays that ``panels`` returned last."""
        if self._pool is None or not isinstance(accumulator, Divisible):
            accumulator.update(panel, start)
            return
        exponent = accumulator.exponent_with(panel)
        if exponent != accumulator.exponent:
            self.finish()
        accumulator.fit_exponent(panel, exponent)
        accumulator.count(panel)
        for part in accumulator.parts:
            before = self._last.get((id(accumulator), part))
            future = self._pool.submit(self._update_part, accumulator, part, panel, before)
            self._last[id(accumulator), part] = future
            self._slots[self._slot].append(future)

    def _update_part(self, accumulator: Divisible, part: Any, panel: Any, before: Future[None] | None) -> None:
        if before is not None:
            before.result()  # started earlier, so no two threads can wait for each other
        if not hasattr(self._scratch, "workspace"):
            self._scratch.workspace = Workspace()
        accumulator.update_part(part, panel, self._scratch.workspace)

    def finish(self) -> None:
        """Wait for every update to end."""
        for slot in self._slots:
            for update in slot:
                update.result()
            slot.clear()
        self._last.clear()

    def close(self) -> None:
        """Start no more updates and free the panels, to which finished accumulators also refer."""
        self.workspace.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
