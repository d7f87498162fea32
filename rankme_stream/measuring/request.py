"""What ``measure`` is asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

from rankme_stream.accumulators.methods import SKETCHES
from rankme_stream.errors import UsageError

Method = Literal["auto", "gram", "tsqr", "rsvd", "frequent-directions", "row-sketch"]
Precision = Literal["float64", "float32", "auto"]


def check_passes(method: str, passes: int) -> None:
    """Refuse several passes of what takes one."""
    if passes < 1:
        raise UsageError(f"passes is {passes} and must be at least 1")
    if passes > 1 and method != "rsvd":
        raise UsageError(f"method {method} takes one pass: leave passes out, or pass method rsvd")


@dataclass(frozen=True)
class Request:
    """Arguments of ``measure``, by their names."""

    method: Method
    precision: Precision
    tolerance: float
    confidence: float
    sample: bool
    population: bool
    max_rows: int | None
    rows: tuple[int | None, int | None] | None
    seed: int
    normalize: bool
    dims: tuple[int, ...]
    workers: int | None
    memory_limit: int | None
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]
    checkpoint: str | os.PathLike[str] | None = None
    engine: str = "local"
    client: Any = None
    device: str = "cpu"
    rank: int | None = None
    oversampling: int = 10
    passes: int = 1
    groups: Any = None

    def check(self) -> None:
        """Refuse what cannot be."""
        if self.missing not in ("error", "skip", "fill"):
            raise UsageError(f"missing {self.missing!r} is not one of error, skip, fill")
        if self.nonfinite not in ("error", "skip"):
            raise UsageError(f"nonfinite {self.nonfinite!r} is not one of error, skip")
        if not 0.0 < self.tolerance < math.inf:
            is_exact = self.sample and self.tolerance == 0.0
            exact = "; the exact value comes from every row: leave sample out" if is_exact else ""
            raise UsageError(f"tolerance {self.tolerance!r} is not above 0 and finite{exact}")
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"confidence {self.confidence!r} is not between 0 and 1")
        if self.max_rows is not None and not self.sample:
            raise UsageError("max_rows is the end of a sample: pass sample as well, or rows to read a range")
        if self.engine not in ("local", "dask"):
            raise UsageError(f"engine {self.engine!r} is not one of local, dask")
        if self.client is not None and self.engine != "dask":
            raise UsageError("a client or scheduler is for the dask engine: pass engine dask as well")
        if self.engine == "dask" and self.sample:
            raise UsageError("a sample is read in this process: leave engine out, or sample to read every row")
        if self.checkpoint is not None and self.sample:
            raise UsageError("a sample is read in one go: leave checkpoint out, or sample to read every row")
        if self.groups is not None and (self.sample or self.population):
            raise UsageError("groups are of every row: leave sample and population out, or groups")
        if self.groups is not None and self.device != "cpu":
            raise UsageError("groups are kept and scored by the processor: leave device out, or groups")
        if self.method in SKETCHES:
            self._check_sketch()
        check_passes(self.method, self.passes)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers is {self.workers} and must be at least 1")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed} is not a non-negative integer below 2^64")

    def _check_sketch(self) -> None:
        if self.dims:
            raise UsageError("a sketch holds all features together: leave dims out, or pass method gram")
        if self.sample or self.population:
            raise UsageError(f"{self.method} reads every row: leave sample and population out")

    def check_dims(self, n_features: int) -> None:
        """Refuse widths that the rows do not have."""
        for d in self.dims:
            if not 1 <= d <= n_features:
                raise UsageError(f"dims holds {d}, and the rows have {n_features:,} features")
