"""The options of a measurement, checked before anything is opened."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from rankme_stream.accumulators.method import Method, MethodName
from rankme_stream.accumulators.methods import METHODS, OFFERED
from rankme_stream.errors import OutputError, UsageError, argument
from rankme_stream.numerics.devices.registry import check_device_name
from rankme_stream.sources.array_options import checked_options

MethodChoice = Literal["auto"] | MethodName
PrecisionChoice = Literal["float64", "float32", "auto"]
RowRange = tuple[int | None, int | None]

LARGEST_CONFIDENCE = 1.0 - 1e-6
_LARGEST_RARE = 0.5
_AMOUNTS = ("memory_limit", "max_rows")  # which may be floats, such as 2e9 or 0.5 * total


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options of ``measure``, ``measure_state``, ``plan`` and ``segment``, by their names.

    Every public function builds one and checks it. An option that a function does not take has its default.
    """

    method: MethodChoice = "auto"
    precision: PrecisionChoice = "float64"
    tolerance: float = 1e-3
    confidence: float = 0.95
    sample: bool = False
    population: bool = False
    rare: float = 0.01
    max_rows: int | None = None
    rows: RowRange | None = None
    seed: int = 0
    normalize: bool = False
    dims: tuple[int, ...] = ()
    groups: Any = None
    workers: int | None = None
    memory_limit: int | None = None
    missing: Literal["error", "skip", "fill"] = "error"
    nonfinite: Literal["error", "skip"] = "error"
    zeros: Literal["error", "skip", "count"] = "count"
    engine: Literal["local", "dask"] = "local"
    client: Any = None
    device: str = "cpu"
    rank: int | None = None
    oversampling: int = 10
    passes: int = 1
    checkpoint: str | os.PathLike[str] | None = None
    key: str | int | None = None

    def check(self) -> Request:
        """Return the request with Python numbers, which JSON and state files take, or refuse it.

        Raises
        ------
        UsageError
            If an option has no such value, or two options exclude each other.
        """
        _check_choice("method", self.method, ("auto", *OFFERED))
        _check_choice("precision", self.precision, ("float64", "float32", "auto"))
        _check_choice("missing", self.missing, ("error", "skip", "fill"))
        _check_choice("nonfinite", self.nonfinite, ("error", "skip"))
        _check_choice("zeros", self.zeros, ("error", "skip", "count"))
        _check_choice("engine", self.engine, ("local", "dask"))
        check_device_name(self.device)
        self._check_interval()
        self._check_rare()
        for name in ("workers", "rank"):
            if getattr(self, name) is not None:
                _check_count(argument(name), getattr(self, name), least=1)
        for name in _AMOUNTS:
            if getattr(self, name) is not None:
                _check_amount(argument(name), getattr(self, name))
        _check_count(argument("passes"), self.passes, least=1)
        _check_count(argument("oversampling"), self.oversampling, least=0)
        _check_count(argument("seed"), self.seed, least=0, bits=64)
        for d in self.dims:
            _check_count(f"one of {argument('dims')}", d, least=1)
        checked_options({"key": self.key})
        self._check_rows()
        self._check_checkpoint()
        self._check_pairs()
        return self._in_plain_numbers()

    def _in_plain_numbers(self) -> Request:
        """Return the request without numbers of numpy, and with whole amounts."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {name: value.item() for name, value in values.items() if isinstance(value, np.generic)}
        changes |= {name: int(values[name]) for name in _AMOUNTS if values[name] is not None}
        changes["dims"] = tuple(map(int, self.dims))
        changes["rare"] = float(self.rare)
        if self.rows is not None:
            start, stop = (None if end is None else int(end) for end in self.rows)
            changes["rows"] = start, stop
        return replace(self, **changes)

    def _check_interval(self) -> None:
        """Check tolerance and confidence."""
        if not _is_between(self.tolerance, 0.0, math.inf):
            is_exact = self.sample and self.tolerance == 0.0
            exact = f"; for the exact value read every row: leave {argument('sample')} out" if is_exact else ""
            raise UsageError(
                f"{argument('tolerance')} is {_shown(self.tolerance)} and must be finite and above 0{exact}"
            )
        if not _is_between(self.confidence, 0.0, 1.0):
            raise UsageError(f"{argument('confidence')} is {_shown(self.confidence)} and must be between 0 and 1")
        if self.confidence > LARGEST_CONFIDENCE:
            raise UsageError(
                f"{argument('confidence')} is {self.confidence!r} and must be 0.999999 at most: that a statement from "
                "few replicates holds more surely is not known"
            )

    def _check_rare(self) -> None:
        """Check the share of rare units that a sample must find."""
        if not _is_real(self.rare) or not 0.0 < self.rare <= _LARGEST_RARE:
            raise UsageError(
                f"{argument('rare')} is {_shown(self.rare)} and must be above 0 and at most {_LARGEST_RARE}: the share "
                "of the units that may differ from all others and go unseen"
            )

    def _check_rows(self) -> None:
        """Check a range of rows, without the source."""
        if self.rows is None:
            return
        try:
            start, stop = self.rows
        except (TypeError, ValueError):
            raise UsageError(
                f"{argument('rows')} is {_shown(self.rows)} and must be a pair (A, B) for rows [A, B)"
            ) from None
        for name, end in (("start", start), ("end", stop)):
            if end is not None:
                _check_count(f"the {name} of {argument('rows')}", end, least=0)
        if stop is not None and stop <= (start or 0):
            raise UsageError(
                f"{argument('rows')} {start or 0}:{stop} is an empty range: the end must be above the start"
            )

    def _check_checkpoint(self) -> None:
        """Refuse a name that no file can have."""
        if self.checkpoint is None:
            return
        name = os.fspath(self.checkpoint)
        if not name or "\0" in str(name):
            raise UsageError(f"the file that keeps what was read is called {name!r}, which is no name: give it another")
        try:
            os.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            return  # it is still to be made
        except OSError as error:  # a name too long, a loop of links
            raise OutputError(f"{name!s} cannot be written: {error.strerror}; give the file another name") from None

    def _check_pairs(self) -> None:
        """Refuse options that exclude each other."""
        if self.max_rows is not None and not self.sample:
            raise UsageError(
                f"{argument('max_rows')} limits a sample: pass {argument('sample')} as well, or pass "
                f"{argument('rows')} to read a range"
            )
        if self.client is not None and self.engine != "dask":
            raise UsageError(
                f"{argument('client')} belongs to the dask engine: pass {argument('engine', 'dask')} as well"
            )
        if self.engine == "dask" and self.sample:
            raise UsageError(
                f"sampling runs in this process: drop {argument('engine', 'dask')}, or drop {argument('sample')}"
            )
        if self.checkpoint is not None and self.sample:
            raise UsageError(
                f"sampling keeps no checkpoint: drop {argument('checkpoint')}, or drop {argument('sample')}"
            )
        if self.groups is not None and (self.sample or self.population):
            raise UsageError(
                f"groups need every row: leave {argument('sample')} and {argument('population')} out, or leave "
                f"{argument('groups')} out"
            )
        chosen = self.chosen
        if self.rank is not None and (chosen is None or not chosen.is_sketch):
            sketches = ", ".join(name for name, method in METHODS.items() if method.is_sketch)
            raise UsageError(
                f"{argument('rank')} is the size of a sketch: pass {argument('method')} {sketches} as well"
            )
        if self.passes > 1 and (chosen is None or not chosen.takes_passes):
            raise UsageError(
                f"method {self.method} makes one pass: leave {argument('passes')} out, or pass "
                f"{argument('method', 'rsvd')}"
            )
        if chosen is None:
            return
        if chosen.is_sketch and self.dims:
            raise UsageError(
                f"a sketch cannot be cut to its first features: leave {argument('dims')} out, or pass "
                f"{argument('method', 'gram')}"
            )
        if chosen.is_sketch and (self.sample or self.population):
            raise UsageError(
                f"{self.method} reads every row: leave {argument('sample')} and {argument('population')} out"
            )
        if self.precision not in ("auto", *chosen.precisions):
            raise UsageError(
                f"{self.method} works in float64 only: its error is not measured; leave {argument('precision')} out"
            )

    @property
    def chosen(self) -> Method | None:
        """The requested method; None for ``auto``."""
        return None if self.method == "auto" else METHODS[self.method]

    @property
    def remedy(self) -> str:
        """Advice for an interval that is wider than the tolerance."""
        if self.precision == "float32":
            return f"try {argument('precision', 'auto')}"
        return f"pass a larger {argument('tolerance')}" if self.chosen is None else self.chosen.remedy

    def sketch_size(self, n_features: int) -> int:
        """Return the size of the sketch for rows of that width; 0 without a sketch.

        Raises
        ------
        UsageError
            If the rank does not suit the width.
        """
        return 0 if self.chosen is None else self.chosen.sketch_size(self.rank, self.oversampling, n_features)

    def row_range(self, n_rows: int) -> tuple[int, int]:
        """Return rows [A, B) of a source of ``n_rows``, or refuse a range that exceeds them."""
        start, stop = self.rows or (None, None)
        first, last = start or 0, n_rows if stop is None else stop
        if not 0 <= first < last <= n_rows:
            raise UsageError(f"{argument('rows')} {first}:{last} is not within the {n_rows:,} rows of the source")
        return first, last

    def check_dims(self, n_features: int) -> None:
        """Raise ``UsageError`` for dims above the number of features."""
        for d in self.dims:
            if d > n_features:
                raise UsageError(f"{argument('dims')} holds {d}, and the rows have only {n_features:,} features")


def widths(dims: object) -> tuple[int, ...]:
    """Return the widths of ``dims`` as a tuple; ``Request.check`` checks each.

    Raises
    ------
    UsageError
        If it is no sequence.
    """
    if isinstance(dims, str) or not isinstance(dims, Iterable):
        raise UsageError(f"{argument('dims')} is {_shown(dims)} and must be a sequence of widths")
    return tuple(dims)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_between(value: Any, lower: float, upper: float) -> bool:
    try:
        return _is_real(value) and lower < float(value) < upper
    except OverflowError:
        return False


def _shown(value: object) -> str:
    """Return a value as a message shows it; Python does not print a number of thousands of digits."""
    return "too long a number" if isinstance(value, int) and abs(value) >= 2**128 else repr(value)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{argument(name)} is {_shown(value)} and must be one of {', '.join(choices)}")


def _check_count(name: str, value: object, *, least: int, bits: int = 63) -> None:
    """Check that a value is an integer of at least ``least`` and below ``2**bits``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"{name} is {_shown(value)} and must be an integer")
    if value < least:
        raise UsageError(f"{name} is {_shown(value)} and must be at least {least}")
    if value >= 2**bits:
        raise UsageError(f"{name} is {_shown(value)} and must be below 2^{bits}")


def _check_amount(name: str, value: Any) -> None:
    """Check that a value is a number of at least 1 and below 2^63."""
    if not _is_real(value) or value != value:
        raise UsageError(f"{name} is {_shown(value)} and must be a number")
    if value < 1:
        raise UsageError(f"{name} is {_shown(value)} and must be at least 1")
    if value >= 2**63:
        raise UsageError(f"{name} is {_shown(value)} and must be below 2^63")
