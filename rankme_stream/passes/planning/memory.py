"""What a pass holds in memory at its peak, on the host and on a card, predicted; pure arithmetic of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rankme_stream.accumulators.methods import Method, Precision, state_bytes
from rankme_stream.accumulators.sketch_spectrum import gathered_rows
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.symmetric import triangle_bytes
from rankme_stream.passes.planning.grid import Grid

PATIENCE = 2  # segments in flight, in workers, counted from the oldest unfinished one


class Workload(NamedTuple):
    """What is summed, by which arithmetic, of how many features; ``sketch_size`` are those of a sketch, or 0."""

    method: Method
    precision: Precision
    normalize: bool
    n_features: int
    sketch_size: int
    grid: Grid
    slab_rows: int

    @property
    def square(self) -> int:
        """Bytes of a matrix of all features and the ones."""
        return 8 * (self.n_features + 1) ** 2

    @property
    def slab(self) -> int:
        """Bytes of a slab of panels."""
        return 8 * self.slab_rows * (self.n_features + 1)

    @property
    def panel(self) -> int:
        """Bytes of a panel."""
        return 8 * self.grid.panel_rows * (self.n_features + 1)

    @property
    def state(self) -> int:
        """Bytes of an accumulator on the host."""
        return state_bytes(self.method, self.n_features, self.sketch_size)


def host_memory(work: Workload, n_live: int, *, workers: int, at_once: int, n_groups: int) -> dict[str, int]:
    """Return the bytes, on the host, of accumulators, of panels with scratch beside them, and of solving.

    Parameters
    ----------
    n_live
        Partial results alive at once.
    workers, at_once
        Threads, and segments that they run at once.
    n_groups
        Of a sample, each of which keeps an accumulator; 0 without one.
    """
    if n_groups:
        n_live = _in_flight(at_once) + n_groups + 1
    merging = at_once * (2 * work.square if work.method == "tsqr" else work.state)
    cast = at_once * work.slab // 2
    return {
        "accumulators": _accumulators(work, n_live, work.state, merging),
        "panels": _slabs(work, workers, at_once) + cast + workers * _scratch(work),
        "solving": _solving(work, n_groups, workers),
    }


def feeding_memory(work: Workload, *, at_once: int) -> dict[str, int]:
    """Return the same where a card computes: rows on their way to it, and what of a sketch comes back."""
    return {"accumulators": 0, "panels": at_once * work.slab, "solving": 3 * work.state if work.sketch_size else 0}


def card_memory(work: Workload, n_live: int, *, workers: int, at_once: int, n_groups: int) -> dict[str, int]:
    """Return the same on the card, where matrices are whole, rows are copied as they are stored and every step makes an
    array of its own.
    """
    state = work.state if work.sketch_size else work.square
    if n_groups:
        n_live = _in_flight(at_once) + n_groups + 1
    width = work.n_features + 1
    if work.method == "tsqr":  # R above the panel, what a library makes of it, and Q
        scratch = 3 * (work.panel + work.square) + work.square
    elif work.sketch_size:
        scratch = 2 * work.panel + state
    else:
        scratch = 2 * work.square
    if work.precision == "float32":
        scratch += work.panel + 2 * work.square
    masks = 2 * work.slab_rows * width
    return {
        "accumulators": _accumulators(work, n_live, state, at_once * state),
        "rows": at_once * (work.slab + masks),
        "panels": _slabs(work, workers, at_once) + 2 * at_once * work.slab + workers * scratch,
        "solving": (7 + work.normalize + 4 * n_groups) * state + (0 if work.sketch_size else 8 * work.square),
    }


def _slabs(work: Workload, workers: int, at_once: int) -> int:
    """Bytes of panels: one more is filled where threads share the products of one."""
    return (1 + work.normalize) * at_once * (1 if at_once == workers else 2) * work.slab


def _accumulators(work: Workload, n_live: int, state: int, merging: int) -> int:
    vectors = state if work.method == "rsvd" else 0  # which all share
    return (1 + work.normalize) * (n_live * state + merging) + vectors


def _scratch(work: Workload) -> int:
    """Bytes that a thread takes beside panels."""
    width = work.n_features + 1
    if work.method == "rsvd":
        return 8 * 64 * (work.grid.panel_rows + width)
    if work.method == "row-sketch":
        return 8 * 256 * width
    if work.method == "frequent-directions":
        return 8 * work.sketch_size * work.n_features + 8 * 4 * gathered_rows(work.sketch_size) ** 2
    scratch = work.panel + 2 * 8 * 64 * width if work.method == "tsqr" else 8 * HOST.block_columns**2
    if work.precision == "float32":
        scratch += triangle_bytes(width, 4) + work.panel // 2 + 16 * work.panel // work.grid.panel_rows * 3
    return scratch


def _solving(work: Workload, n_groups: int, workers: int) -> int:
    if n_groups:  # a jackknife: the groups, those of a prefix and merges of each; a solve a thread
        squares = 8 + 4 * min(workers, n_groups)
        return (4 * n_groups + workers + 4) * work.state + squares * work.square
    if work.method == "row-sketch":
        return (6 + work.normalize) * work.state + 6 * work.square
    if work.sketch_size:
        return (6 + work.normalize) * work.state + 8 * 8 * gathered_rows(work.sketch_size) ** 2
    return (6 + work.normalize) * work.square


def live(at_once: int, n_segments: int) -> int:
    """How many partial results of segments may be alive at once, those being merged included."""
    return min(_in_flight(at_once) + n_segments.bit_length() + 1, n_segments + 1)


def _in_flight(at_once: int) -> int:
    return PATIENCE * at_once if at_once > 1 else 1


def reading_bytes(window_rows: int, at_once: int, unit: int, read_bytes: int, unit_bytes: int) -> int:
    """Bytes of blocks being read, and of units kept because another segment still needs rows of them.

    ``window_rows`` is how far apart the segments in flight may be; 0 where they share nothing.
    """
    if at_once == 1 or window_rows == 0:
        return at_once * read_bytes
    reading = min(at_once, window_rows // unit + 1)
    kept = min(2 * at_once, window_rows // unit + 2 - reading)
    return reading * read_bytes + kept * unit_bytes


_PASSING = ("accumulators", "panels", "reading", "rows", "checkpoint", "groups")
_TELLING = ("solving", "panels", "scores")
_ALWAYS = ("process", "libraries")


def peak_bytes(memory: Mapping[str, int]) -> int:
    """Return the most that is held at once: while rows are read, or while numbers are told."""
    passing, telling, always = (sum(memory.get(one, 0) for one in names) for names in (_PASSING, _TELLING, _ALWAYS))
    return always + max(passing, telling)
