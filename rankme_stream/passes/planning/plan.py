"""What a pass will do and what it will hold, worked out before the first read; pure data and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from rankme_stream.accumulators.accumulator import FILE_KEYS
from rankme_stream.accumulators.methods import Arithmetic, Method, Precision, _flops, packed_bytes
from rankme_stream.errors import LimitError, UsageError
from rankme_stream.groups.partition import Partition
from rankme_stream.passes.planning.block_layout import largest_unit
from rankme_stream.passes.planning.grid import Grid, grid_for
from rankme_stream.passes.planning.group_memory import predict_group_memory
from rankme_stream.passes.planning.memory import (
    PATIENCE,
    Workload,
    card_memory,
    feeding_memory,
    host_memory,
    live,
    peak_bytes,
    reading_bytes,
)

_BLOCK_BYTES = (8 * 2**20, 2 * 2**20, 2**19)
_SLAB_VALUES = 2**19  # values that are audited and cast at once: calls cost nothing then, and 4 MiB stay in the cache
_SHARED_FROM = 1536  # features; from here on threads share one Gram, whose triangle has ten blocks or more
_LIBRARY_BYTES = 48 * 2**20  # BLAS buffers, thread stacks, allocator arenas, the store's own tables
_FILE_BYTES = 2**20  # of a state file beside its triangles


@dataclass(frozen=True)
class Plan:
    """What a pass will do: grids, schedule, cost and memory. Bytes are bytes, rows are rows of the source.

    ``sample_rows`` is what the first look at a sample reads, whose units are the segments; 0 where every row is read.
    Bytes and flops are those of all rows. ``checkpoint_bytes`` is what a state file of it may come to; 0 where none is
    kept. ``sketch_size`` and ``seed`` are those of a sketch; 0 for other methods. ``pass_number`` is the number of
    the pass, from 0, where a sketch takes several, and ``basis`` identifies what the one before found.
    ``n_groups`` groups are told apart by labels of the digest ``groups``; ``group_bytes`` is what those of one partial
    result may come to. ``card``
    is what a card holds where one computes, and nothing elsewhere; its limit is 0 where it does not tell.
    """

    method: Method
    precision: Precision
    normalize: bool
    row_start: int
    row_stop: int
    n_features: int
    grid: Grid
    segments: int
    segments_at_once: int
    slab_rows: int
    block_rows: int
    reads_ahead: bool
    workers: int
    memory: dict[str, int]
    predicted_peak_bytes: int
    memory_limit_bytes: int
    bytes_stored: int
    flops: int
    sample_rows: int = 0
    checkpoint_bytes: int = 0
    sketch_size: int = 0
    seed: int = 0
    pass_number: int = 0
    basis: str = ""
    n_groups: int = 0
    groups: str = ""
    group_bytes: int = 0
    card: dict[str, int] = field(default_factory=dict)
    card_peak_bytes: int = 0
    card_limit_bytes: int = 0

    @property
    def arithmetic(self) -> Arithmetic:
        """Method and precision."""
        return Arithmetic(self.method, self.precision)

    @property
    def node_bytes(self) -> int:
        """Bytes of one partial result, as it travels and is stored."""
        return (1 + self.normalize) * packed_bytes(self.method, self.n_features, self.sketch_size) + self.group_bytes

    @property
    def all_segments(self) -> range:
        """Indices of the segments of all rows."""
        return self.grid.segments(self.row_start, self.row_stop)

    def rows_of(self, segments: range) -> tuple[int, int]:
        """Return the rows [A, B) of some segments."""
        rows = self.grid.segment_rows
        return max(self.row_start, segments.start * rows), min(self.row_stop, segments.stop * rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        plain = {FILE_KEYS.get(name, name): value for name, value in asdict(self).items()}
        grid: dict[str, Any] = plain.pop("grid")
        return plain | grid

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        """Return the plan that ``to_dict`` described."""
        names = {key: name for name, key in FILE_KEYS.items()}
        fields = {names.get(key, key): value for key, value in plain.items()}
        grid = Grid(fields.pop("panel_rows"), fields.pop("segment_rows"))
        return cls(**fields, grid=grid)


def make_plan(
    *,
    method: Method,
    precision: Precision,
    normalize: bool,
    rows: tuple[int, int],
    n_features: int,
    itemsize: int,
    bounds: Sequence[int],
    read_memory: Callable[[int], int],
    base_bytes: int,
    memory_limit_bytes: int,
    workers: int | None,
    cores: int,
    sample: tuple[int, int, int] | None = None,
    has_checkpoint: bool = False,
    sketch_size: int = 0,
    seed: int = 0,
    pass_number: int = 0,
    groups: Partition | None = None,
    kept_itemsize: int = 8,
    has_card: bool = False,
    has_host: bool = True,
    card_limit_bytes: int = 0,
) -> Plan:
    """Return the largest schedule that fits the memory limit.

    Parameters
    ----------
    bounds
        Natural row offsets strictly inside ``rows``.
    read_memory
        Bytes that reading so many consecutive rows takes at its peak, result included.
    base_bytes
        What the process holds already.
    workers
        Threads; None takes one a core and fewer when memory asks for it.
    sample
        Rows of a unit, number of groups and rows of the first look, where only some units are to be read.
    has_checkpoint
        Whether a state file is kept: what it is written from stays in memory meanwhile.
    sketch_size, seed, pass_number
        Of a sketch.
    groups, kept_itemsize
        Rows that are kept apart, and bytes of a value in them.
    has_card, card_limit_bytes
        Whether a card computes, and what it has free; 0 where that is not known.
    has_host
        Whether partial results are merged on the host.

    Raises
    ------
    LimitError
        When not even one worker with the smallest blocks fits; the text says what would.
    """
    start, stop = rows
    if stop <= start:
        raise UsageError(f"rows {start}:{stop} holds no row")
    grid = grid_for(n_features, method, precision, sketch_size)
    n_groups = sample_rows = 0
    if sample is not None:
        unit_rows, n_groups, sample_rows = sample
        grid = Grid(min(grid.panel_rows, unit_rows), unit_rows)
    n_segments = len(grid.segments(start, stop))
    unit = largest_unit(bounds, start, stop)
    row_bytes = n_features * itemsize
    slab_rows = grid.panel_rows * max(1, min(grid.segment_rows, _SLAB_VALUES // (n_features + 1)) // grid.panel_rows)
    shared = method == "rsvd" or (method == "gram" and precision == "float64" and n_features >= _SHARED_FROM)
    work = Workload(method, precision, normalize, n_features, sketch_size, grid, slab_rows)
    counts = [workers] if workers else list(range(min(cores, n_segments), 0, -1))
    least: dict[str, int] = {}
    least_card = 0
    for count, reads_ahead, block_bytes in product(counts, (True, False), _BLOCK_BYTES):
        block_rows = max(1, block_bytes // row_bytes)
        held_rows = min(stop - start, max(block_rows, unit))
        at_once = 1 if shared else count
        n_live = live(at_once, n_segments) + has_checkpoint * n_segments.bit_length()  # the tail is merged last
        card: dict[str, int] = {}
        if has_card:
            card = card_memory(work, n_live, workers=count, at_once=at_once, n_groups=n_groups)
            if has_host:  # which solves as well
                del card["solving"]
        if has_host:
            memory = host_memory(work, n_live, workers=count, at_once=at_once, n_groups=n_groups)
        else:
            memory = feeding_memory(work, at_once=at_once)
        if pass_number:  # the directions that the last pass found, on the host
            memory["accumulators"] += work.state
        window = 0 if n_groups else PATIENCE * at_once * grid.segment_rows
        reading = reading_bytes(window, at_once, unit, read_memory(held_rows), unit * row_bytes)
        reading += reads_ahead * at_once * held_rows * row_bytes
        memory |= {"reading": reading, "libraries": _LIBRARY_BYTES, "process": base_bytes}
        if has_checkpoint:
            memory["checkpoint"] = (1 + normalize) * (n_live + 1) * work.state
        held = None if groups is None else predict_group_memory(groups, grid, n_features, kept_itemsize, at_once, count)
        if held is not None:
            memory |= {"groups": held.passing + has_checkpoint * (held.held + held.node), "scores": held.telling}
        peak = peak_bytes(memory)
        card_peak = peak_bytes(card)
        least_card = min(least_card or card_peak, card_peak)
        if not least or peak < peak_bytes(least):
            least = memory
        if peak <= memory_limit_bytes and (card_peak <= card_limit_bytes or not card_limit_bytes):
            return Plan(
                method, precision, normalize, start, stop, n_features, grid, n_segments, at_once, slab_rows, block_rows,
                reads_ahead, count, memory, peak, memory_limit_bytes, (stop - start) * row_bytes,
                (1 + normalize) * _flops(method, stop - start, n_features, sketch_size), sample_rows,
                has_checkpoint * ((1 + normalize) * n_live * packed_bytes(method, n_features, sketch_size) + _FILE_BYTES
                                  + (held.held if held is not None else 0)
                                  + (pass_number > 0) * packed_bytes(method, n_features, sketch_size)),
                sketch_size, seed if method in ("rsvd", "row-sketch") else 0, pass_number, "",
                *((len(groups), groups.digest, held.node) if groups is not None and held is not None else (0, "", 0)),
                card, card_peak, card_limit_bytes,
            )  # fmt: skip
    if card_limit_bytes and least_card > card_limit_bytes:
        raise LimitError(
            f"the pass needs {_size(least_card)} on the card at least and {_size_below(card_limit_bytes)} are free "
            "there; leave --device out, or free some"
        )
    raise LimitError(
        f"the pass needs {_size(peak_bytes(least))} at least and the limit is {_size_below(memory_limit_bytes)} "
        f"({_size(least['reading'])} to read chunks of {unit:,} rows, {_size(least['accumulators'])} for accumulators "
        f"of width {n_features:,}, {_of_groups(groups, least)}{_size(base_bytes)} held already); "
        f"give --memory {-(-_mebibytes(peak_bytes(least)) // 16) * 16}MiB or more"
    )


def extend_plan(plan: Plan, row_stop: int) -> Plan:
    """Return a plan for rows [0, ``row_stop``) in place of those at their end, in the same memory."""
    row_bytes = plan.bytes_stored // (plan.row_stop - plan.row_start)
    return replace(
        plan, row_start=0, row_stop=row_stop, segments=len(plan.grid.segments(0, row_stop)),
        bytes_stored=row_stop * row_bytes,
        flops=(1 + plan.normalize) * _flops(plan.method, row_stop, plan.n_features, plan.sketch_size),
    )  # fmt: skip


def _of_groups(groups: Partition | None, memory: Mapping[str, int]) -> str:
    return "" if groups is None else f"{_size(memory['groups'])} for {len(groups):,} groups, "


def _mebibytes(n_bytes: int) -> int:
    return -(-n_bytes // 2**20)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB" if n_bytes >= 2**30 else f"{_mebibytes(n_bytes)} MiB"


def _size_below(n_bytes: int) -> str:
    return _size(n_bytes // 2**20 * 2**20)
