"""Plan of a pass: its steps and its memory, computed before the first read; pure data and arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any

from rankme_stream.accumulators.accumulator import FILE_KEYS
from rankme_stream.accumulators.method import Arithmetic, MethodName, Precision, Size
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import LimitError, UsageError, argument
from rankme_stream.numerics.machine import Limits
from rankme_stream.passes.planning.card_layout import SLOT_BYTES, slots
from rankme_stream.passes.planning.grid import Grid
from rankme_stream.passes.planning.memory import Footprint, peak_bytes, predict_memory
from rankme_stream.passes.planning.sample_design import N_REPLICATES
from rankme_stream.passes.planning.workload import CardLimits, Concurrency, RowLayout, Workload

_FAR_WIDER = 16  # features per row
_NO_MACHINE_BYTES = 2**40  # of memory, which it makes no sense to ask for
_BLOCK_BYTES = (8 * 2**20, 2 * 2**20, 2**19)


@dataclass(frozen=True)
class Plan:
    """Plan of a pass: grid, schedule, cost and memory; rows are rows of the source.

    Attributes
    ----------
    memory, predicted_peak_bytes
        Bytes by purpose and at the peak; of a measurement in several steps, those of the step that holds most.
    sample_rows, unit_rows
        Rows of the first look at a sample, and of a unit; 0 if every row is read. The segments are those of a batch of
        its units, one for each replicate. Bytes and flops are those of all rows.
    checkpoint_bytes
        Largest size of the state file; 0 without one.
    sketch_size
        Size of a sketch; 0 for other methods.
    seed
        Seed of the request, if a sketch or the probes of float32 products are drawn from it; otherwise 0.
    probe_seed
        Seed of the probes, below 2^53, drawn from ``seed`` and the content of the rows when a pass begins; 0 before,
        and where there are none.
    pass_number, basis
        Number of the pass, from 0, if a sketch makes several, and the digest of the basis that the one before found.
    n_groups, groups, group_bytes
        Number of groups, digest of their labels, and most bytes of the groups of one partial result.
    card, card_peak_bytes, card_limit_bytes
        Bytes on the card that computes, by purpose; empty without a card. The limit is 0 if unknown.
    """

    method: MethodName
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
    probe_seed: int = 0
    unit_rows: int = 0

    @property
    def arithmetic(self) -> Arithmetic:
        """Method and precision of the products."""
        return Arithmetic(self.method, self.precision)

    @property
    def size(self) -> Size:
        """Width of the rows, size of the sketch, and number of the rows."""
        return Size(self.n_features, self.sketch_size, self.row_stop - self.row_start)

    @property
    def n_slots(self) -> int:
        """Number of blocks that are read or copied to a card at once."""
        return slots(reads_ahead=self.reads_ahead)

    @property
    def node_bytes(self) -> int:
        """Bytes of one partial result when sent or stored."""
        return (1 + self.normalize) * METHODS[self.method].packed_bytes(self.size) + self.group_bytes

    @property
    def result_bytes(self) -> int:
        """Bytes of the accumulators that a pass leaves, or a sample with those of its replicates."""
        n_results = N_REPLICATES + 1 if self.sample_rows else 1
        return n_results * (1 + self.normalize) * METHODS[self.method].state_bytes(self.size)

    @property
    def all_segments(self) -> range:
        """Indices of the segments of all rows."""
        return self.grid.segments(self.row_start, self.row_stop)

    def rows_of(self, segments: range) -> tuple[int, int]:
        """Return the rows [A, B) of consecutive segments."""
        rows = self.grid.segment_rows
        return max(self.row_start, segments.start * rows), min(self.row_stop, segments.stop * rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types, without the seed of probes and the rows of a unit where there are none."""
        record = {FILE_KEYS.get(name, name): value for name, value in asdict(self).items()}
        for name in ("probe_seed", "unit_rows"):
            if not record[name]:
                del record[name]
        grid: dict[str, Any] = record.pop("grid")
        return record | grid

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Plan:
        """Return the plan from the result of ``to_dict``."""
        given = fields_of(record)
        return cls(**given | {"grid": Grid(**given["grid"])})


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan by name, those of its grid together, from the result of ``Plan.to_dict``."""
    names = {key: name for name, key in FILE_KEYS.items()}
    found = {names.get(key, key): value for key, value in record.items()}
    of_grid = {one.name: found.pop(one.name) for one in fields(Grid) if one.name in found}
    return found | {"grid": of_grid}


def make_plan(workload: Workload, layout: RowLayout, limits: Limits, card: CardLimits | None = None) -> Plan:
    """Return the largest schedule that fits the memory limit.

    Parameters
    ----------
    limits
        Limits of the process; ``workers`` None uses one thread per core, fewer if memory requires it.
    card
        Limits of the card that computes; None for the host.

    Raises
    ------
    LimitError
        If not even one worker with the smallest blocks fits, here or on the card; the message says what would.
    """
    start, stop = layout.rows
    if stop <= start:
        raise UsageError(f"rows {start}:{stop} is an empty range: the end must be above the start")
    least: Footprint | None = None
    least_card = 0
    workload = replace(workload, is_on_card=card is not None)
    for concurrency in _candidates(workload, layout, limits):
        footprint = predict_memory(workload, layout, concurrency, limits.base_bytes, card)
        peak, card_peak = peak_bytes(footprint.host), peak_bytes(footprint.card)
        least_card = min(least_card or card_peak, card_peak)
        if least is None or peak < peak_bytes(least.host):
            least = footprint
        fits_card = card is None or card_peak <= card.free_bytes or not card.free_bytes
        if peak <= limits.memory_limit_bytes and fits_card:
            return _plan(workload, layout, limits, concurrency, footprint, 0 if card is None else card.free_bytes)
    assert least is not None  # there is at least one candidate
    if card is not None and card.free_bytes and least_card > card.free_bytes:
        raise LimitError(
            f"the pass needs {_size(least_card)} on the card at least and {_size_below(card.free_bytes)} are free "
            f"there; leave {argument('device')} out, or free some"
        )
    raise _too_little_memory(workload, layout, limits, least.host)


def _candidates(workload: Workload, layout: RowLayout, limits: Limits) -> Iterator[Concurrency]:
    """Yield the ways to run a pass, fastest first."""
    row_bytes = workload.size.n_features * layout.itemsize
    if workload.is_on_card:  # one thread queues the work of the card, the others read
        counts = [limits.workers] if limits.workers else list(range(limits.cores, 0, -1))
        for count, reads_ahead, block_bytes in product(counts, (True, False), SLOT_BYTES):
            yield Concurrency(count, 1, reads_ahead, max(1, block_bytes // row_bytes))
        return
    n_segments = workload.n_segments(layout.rows)
    shared = workload.method.shares_update(workload.size.n_features, workload.arithmetic.precision)
    counts = [limits.workers] if limits.workers else list(range(min(limits.cores, n_segments), 0, -1))
    for count, reads_ahead, block_bytes in product(counts, (True, False), _BLOCK_BYTES):
        yield Concurrency(count, 1 if shared else count, reads_ahead, max(1, block_bytes // row_bytes))


def _plan(
    workload: Workload, layout: RowLayout, limits: Limits, concurrency: Concurrency, memory: Footprint, card_limit: int
) -> Plan:
    method, groups = workload.method, workload.groups
    return Plan(
        method=method.name,
        precision=workload.arithmetic.precision,
        normalize=workload.normalize,
        row_start=layout.rows[0],
        row_stop=layout.rows[1],
        n_features=workload.size.n_features,
        grid=workload.grid,
        segments=workload.n_segments(layout.rows),
        segments_at_once=concurrency.segments_at_once,
        slab_rows=workload.slab_rows,
        block_rows=concurrency.block_rows,
        reads_ahead=concurrency.reads_ahead,
        workers=concurrency.workers,
        memory=memory.host,
        predicted_peak_bytes=peak_bytes(memory.host),
        memory_limit_bytes=limits.memory_limit_bytes,
        bytes_stored=layout.n_rows * workload.size.n_features * layout.itemsize,
        flops=workload.n_matrices * method.flops(layout.n_rows, workload.size),
        sample_rows=0 if workload.sample is None else workload.sample.first_look_rows,
        checkpoint_bytes=memory.checkpoint_bytes,
        sketch_size=workload.size.sketch_size,
        seed=workload.seed if method.uses_seed or method.draws_probes(workload.arithmetic.precision) else 0,
        pass_number=workload.pass_number,
        n_groups=0 if groups is None else len(groups),
        groups="" if groups is None else groups.digest,
        group_bytes=0 if memory.groups is None else memory.groups.node,
        card=memory.card,
        card_peak_bytes=peak_bytes(memory.card),
        card_limit_bytes=card_limit,
        unit_rows=0 if workload.sample is None else workload.sample.unit_rows,
    )


def _too_little_memory(workload: Workload, layout: RowLayout, limits: Limits, memory: Mapping[str, int]) -> LimitError:
    """Return the error that says what the smallest schedule needs."""
    peak, groups = peak_bytes(memory), workload.groups
    of_groups = "" if groups is None else f"{_size(memory['groups'])} for {len(groups):,} groups, "
    remedy = f"give {argument('memory_limit')} {-(-_mebibytes(peak) // 16) * 16}MiB or more"
    if looks_transposed(layout.n_stored, workload.size.n_features):
        hint = (
            f"{layout.n_stored:,} rows of {workload.size.n_features:,} features look transposed: name the axis of the "
            f"features by {argument('features_axis')}, 0 for the first"
        )
        remedy = f"{hint}, or {remedy}" if peak < _NO_MACHINE_BYTES else hint
    return LimitError(
        f"the pass needs {_size(peak)} at least and the limit is {_size_below(limits.memory_limit_bytes)} "
        f"({_size(memory['reading'])} to read chunks of {layout.largest_unit:,} rows, {_size(memory['accumulators'])} "
        f"for accumulators of width {workload.size.n_features:,}, {of_groups}{_size(limits.base_bytes)} held already); "
        f"{remedy}"
    )


def looks_transposed(n_rows: int, n_features: int) -> bool:
    """Return whether so many features of so few rows are rather rows of features."""
    return 0 < n_rows * _FAR_WIDER < n_features


def with_largest_memory(plan: Plan, steps: Collection[Plan]) -> Plan:
    """Return a plan that states the memory of the step of a measurement that holds most, on the host and on a card."""
    host = max(steps, key=lambda step: step.predicted_peak_bytes)
    card = max(steps, key=lambda step: step.card_peak_bytes)
    return replace(
        plan, memory=host.memory, predicted_peak_bytes=host.predicted_peak_bytes, card=card.card,
        card_peak_bytes=card.card_peak_bytes,
    )  # fmt: skip


def extend_plan(plan: Plan, row_stop: int) -> Plan:
    """Return a plan of the last rows extended to all rows [0, ``row_stop``), in the same memory."""
    row_bytes = plan.bytes_stored // (plan.row_stop - plan.row_start)
    return replace(
        plan, row_start=0, row_stop=row_stop, segments=len(plan.grid.segments(0, row_stop)),
        bytes_stored=row_stop * row_bytes,
        flops=(1 + plan.normalize) * METHODS[plan.method].flops(row_stop, plan.size),
    )  # fmt: skip


def _mebibytes(n_bytes: int) -> int:
    return -(-n_bytes // 2**20)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB" if n_bytes >= 2**30 else f"{_mebibytes(n_bytes)} MiB"


def _size_below(n_bytes: int) -> str:
    return _size(n_bytes // 2**20 * 2**20)
