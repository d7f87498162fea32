"""CPU time of a pass, split among its parts."""

from __future__ import annotations

import pkgutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import rankme_stream as rs

# Part of a pass and a function that belongs to it. Time in another function of this list counts for that one alone.
# `tests/house/test_string_paths.py` resolves the names.
PARTS = (
    ("check of the chunks", "rankme_stream.sources.zarr.ZarrSource.fingerprint"),
    ("reading and decoding", "rankme_stream.sources.zarr.ZarrSource.read"),
    ("audit", "rankme_stream.numerics.dtypes.StoredType.nonfinite_rows"),
    ("audit", "rankme_stream.numerics.dtypes.StoredType.zero_rows"),
    ("audit", "rankme_stream.numerics.dtypes.StoredType.largest_magnitude"),
    ("cast", "rankme_stream.numerics.dtypes.StoredType.widen"),
    ("product", "rankme_stream.numerics.devices.host.cross_product"),
    ("adding", "rankme_stream.numerics.symmetric.Triangle.add_product"),
    ("counting", "rankme_stream.accumulators.gram.GramSums.count"),
    ("merge", "rankme_stream.passes.state.merge_tree.MergeTree.add"),
    ("eigenvalues", "rankme_stream.numerics.devices.host.eigenvalues"),
    ("rest of the loop", "rankme_stream.passes.engines.local.run_segment"),
    ("metrics and intervals", "rankme_stream.measuring.completed_pass.estimate_rankme"),
    ("metrics and intervals", "rankme_stream.measuring.estimate_tables.estimate_all"),
    ("metrics and intervals", "rankme_stream.measuring.estimate_tables.estimate_presets"),
)


class _Clock:
    """CPU seconds of wrapped functions by label, over all threads; a nested wrapped function counts for itself only."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.called: set[str] = set()
        self._inner = threading.local()
        self._lock = threading.Lock()

    def wrap(self, label: str, function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            outer = getattr(self._inner, "seconds", 0.0)
            self._inner.seconds, began = 0.0, time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.thread_time() - began
                with self._lock:
                    self.seconds[label] += spent - self._inner.seconds
                    self.called.add(name)
                self._inner.seconds = outer + spent

        return timed


def where_time_goes(uri: str) -> dict[str, float]:
    """Return the CPU seconds of one float64 pass by part.

    Raises
    ------
    SystemExit
        If a function of `PARTS` was not called, so that its part would be counted as the rest.
    """
    rs.measure(uri)
    clock = _Clock()
    with ExitStack() as patches:
        for label, name in PARTS:
            patches.enter_context(mock.patch(name, clock.wrap(label, pkgutil.resolve_name(name), name)))
        began = time.process_time()
        clock.wrap("rest of the calling thread", rs.measure)(uri)
        total = time.process_time() - began
    uncalled = [name for _, name in PARTS if name not in clock.called]
    if uncalled:
        raise SystemExit(f"the pass did not call {', '.join(uncalled)}: bring PARTS in cpu_profile.py up to date")
    seconds = dict(clock.seconds)
    return seconds | {"other threads": total - sum(seconds.values()), "total": total}
