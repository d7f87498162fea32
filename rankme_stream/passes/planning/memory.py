"""Prediction of the bytes that a pass holds at its peak, on the host and on a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rankme_stream.accumulators.method import Size
from rankme_stream.passes.planning.card_layout import PIECE_BYTES, run_level
from rankme_stream.passes.planning.grid import PATIENCE
from rankme_stream.passes.planning.group_memory import GroupMemory, GroupWork, predict_group_memory
from rankme_stream.passes.planning.sample_batches import most_readers
from rankme_stream.passes.planning.workload import CardLimits, Concurrency, RowLayout, SampleUnits, Workload

_LIBRARY_BYTES = 40 * 2**20  # imports, and the store's own tables
_THREAD_BYTES = 4 * 2**20  # of each worker: BLAS buffers, its stack, and what the allocator keeps for it
_READER_BYTES = 2**20  # of each thread that reads for a sample, beside what it reads
_SLABS_BYTES = 64 * 2**20  # of the products of rows kept of a sample
_FILE_BYTES = 2**20  # of a state file, beside its triangles


@dataclass(frozen=True)
class Footprint:
    """Bytes of a pass by purpose, on the host and on a card, and those of its state file and its groups."""

    host: dict[str, int]
    card: dict[str, int]
    checkpoint_bytes: int
    groups: GroupMemory | None


def predict_memory(
    workload: Workload, layout: RowLayout, concurrency: Concurrency, base_bytes: int, card: CardLimits | None
) -> Footprint:
    """Return the bytes that a pass holds.

    Parameters
    ----------
    base_bytes
        Bytes that the process holds already.
    card
        Limits of the card that computes; None for the host.
    """
    n_segments, workers = workload.n_segments(layout.rows), concurrency.workers
    if concurrency.segments_at_once == workers:  # a thread without a segment holds nothing
        concurrency = concurrency._replace(
            workers=min(workers, n_segments), segments_at_once=min(workers, n_segments)
        )  # fmt: skip
    at_once = concurrency.segments_at_once
    n_live = live(at_once, n_segments) + workload.has_checkpoint * n_segments.bit_length()  # the tail is merged last
    if card is not None:  # those of a run, which are merged by themselves, and the total of the run before it
        n_live += run_level(workload.grid.segment_rows, workload.size.n_features * layout.itemsize) + 3
    if workload.method.keeps_rows:  # which partial results share: together they are as large as the last
        n_live = 1
    on_card: dict[str, int] = {}
    if card is None:
        memory = host_memory(workload, n_live, concurrency)
        reading = _reading_bytes(workload, layout, concurrency)
    else:
        slot_bytes = _slot_rows(layout, concurrency) * workload.size.n_features * card.itemsize
        n_slots = _n_slots(workload, layout, concurrency)
        on_card = card_memory(workload, n_live, layout)
        on_card["rows"] += n_slots * slot_bytes
        reading = n_slots * slot_bytes + _pieces_bytes(workload, layout, workers)
        if card.has_host:  # which then solves
            del on_card["solving"]
            memory = host_memory(workload, n_live, concurrency)
        else:
            memory = {"accumulators": 0, "panels": 0, "solving": _solving(workload, workers)}
    if workload.pass_number:  # for the basis, on the host, that the previous pass found
        memory["accumulators"] += workload.state_bytes
        memory["solving"] += workload.state_bytes
    if workload.sample is not None:
        staged, gathering = _gathering_bytes(workload.sample, layout, concurrency, workload.size.n_features)
        if card is None or card.itemsize:
            reading += staged
        else:
            on_card["rows"] += staged
        reading += gathering
        kept = 8 * workload.sample.kept_rows * (workload.size.n_features + 2)
        memory["accumulators"] += kept
        memory["solving"] += kept
    memory |= {
        "reading": reading,
        "libraries": _LIBRARY_BYTES + workers * _THREAD_BYTES, "process": base_bytes,
    }  # fmt: skip
    if workload.has_checkpoint:
        held = 1 if workload.method.keeps_rows else n_live + 1  # of those being merged meanwhile, and one packed
        memory["checkpoint"] = workload.n_matrices * held * workload.state_bytes
    groups = None
    if workload.groups is not None:
        work = GroupWork.on_host(at_once, workers)
        if card is not None:
            work = _group_work(workload, layout, concurrency, card)
            memory["panels"] += workers * 2 * workload.grid.panel_rows * 8 * workload.size.width
        groups = predict_group_memory(workload.groups, workload.grid, workload.size.n_features, workload.kept_itemsize,
                                      work)  # fmt: skip
        stored = workload.has_checkpoint * (groups.waiting + groups.node)
        memory |= {"groups": groups.reading + stored, "scores": groups.scoring}
    return Footprint(memory, on_card, _checkpoint_bytes(workload, n_live, groups), groups)


def _group_work(workload: Workload, layout: RowLayout, concurrency: Concurrency, card: CardLimits) -> GroupWork:
    """Return what is done at once for groups of rows on their way to a card: every slot may hold parts of segments."""
    rows = _n_slots(workload, layout, concurrency) * _slot_rows(layout, concurrency)
    rows = rows if card.itemsize else workload.slab_rows  # of rows on the card, one slab after another is grouped
    at_once = min(rows // workload.grid.segment_rows + 2, len(workload.grid.segments(*layout.rows)))
    return GroupWork(at_once, at_once, concurrency.workers, 2, concurrency.workers)  # a run waits while one is merged


def _checkpoint_bytes(workload: Workload, n_live: int, groups: GroupMemory | None) -> int:
    """Return the largest size of the state file; 0 without one."""
    if not workload.has_checkpoint:
        return 0
    basis = workload.packed_bytes if workload.pass_number else 0
    group_bytes = 0 if groups is None else groups.waiting
    return workload.n_matrices * n_live * workload.packed_bytes + _FILE_BYTES + group_bytes + basis


def host_memory(workload: Workload, n_live: int, concurrency: Concurrency) -> dict[str, int]:
    """Return the bytes on the host for accumulators, for panels with their scratch memory, and for solving.

    ``n_live`` partial results exist at once.
    """
    at_once, workers = concurrency.segments_at_once, concurrency.workers
    method, size = workload.method, workload.size
    cast = at_once * workload.slab_bytes // 2
    scratch = method.scratch_bytes(size, workload.arithmetic.precision, workload.grid.panel_rows)
    return {
        "accumulators": _accumulators(
            workload, _n_live(workload, n_live, at_once), workload.state_bytes, at_once * method.merging_bytes(size)
        ),
        "panels": _slabs(workload, concurrency) + cast + workers * scratch,
        "solving": _solving(workload, workers),
    }


def card_memory(workload: Workload, n_live: int, layout: RowLayout) -> dict[str, int]:
    """Return the bytes on the card beside the slots: matrices are whole, and every merge makes a new one."""
    size, method, grid = workload.size, workload.method, workload.grid
    slab_rows = min(workload.slab_rows, layout.n_rows)
    slab_bytes = 8 * slab_rows * size.width
    is_whole = not (method.is_sketch or method.keeps_rows)  # a D x D matrix
    state = size.square_bytes if is_whole else workload.state_bytes
    scratch = method.card_scratch_bytes(size, grid.panel_rows)
    if is_whole:
        scratch += -(-slab_rows // grid.panel_rows) * size.square_bytes  # a product for each panel of a slab
    if workload.arithmetic.precision == "float32":
        scratch += slab_bytes
    run_rows = min(layout.n_rows, _run_rows(workload, layout))
    n_copies = 7 + workload.normalize + 4 * workload.n_replicates
    found = {
        "accumulators": _accumulators(workload, _n_live(workload, n_live, 1), state, state),
        "rows": 2 * run_rows + size.n_features,  # what was seen in a run, and in the one before it
        "panels": (workload.n_matrices + 2) * slab_bytes + scratch,
        "solving": n_copies * state + is_whole * 8 * size.square_bytes,
    }
    if method.keeps_rows:
        found["solving"] = method.solving_bytes(size, normalize=workload.normalize)
    return found


def _slot_rows(layout: RowLayout, concurrency: Concurrency) -> int:
    """Return the rows of the largest block that a slot holds."""
    return min(layout.n_rows, max(concurrency.block_rows, layout.largest_unit))


def _n_slots(workload: Workload, layout: RowLayout, concurrency: Concurrency) -> int:
    """Return the slots that are used: no more than blocks, all of them half full but two of each run: its last, and
    that of a chunk which straddles its end.
    """
    if workload.sample is not None:  # each of its segments is a run
        return concurrency.n_slots
    run_rows = _run_rows(workload, layout)
    n_runs = layout.rows[1] // run_rows - layout.rows[0] // run_rows + 1
    return min(concurrency.n_slots, 2 * layout.n_rows // concurrency.block_rows + 2 * n_runs - 1)


def _run_rows(workload: Workload, layout: RowLayout) -> int:
    """Return the rows that a card reads before it is waited for."""
    row_bytes = workload.size.n_features * layout.itemsize
    return workload.grid.segment_rows << run_level(workload.grid.segment_rows, row_bytes)


def _pieces_bytes(workload: Workload, layout: RowLayout, workers: int) -> int:
    """Return the bytes that threads take to read the pieces of a block; none where they are in memory."""
    if workload.sample is not None:
        return 0
    piece_rows = PIECE_BYTES // (workload.size.n_features * layout.itemsize) + layout.largest_unit
    return workers * layout.read_memory(min(layout.n_rows, piece_rows))


def _n_live(workload: Workload, n_live: int, at_once: int) -> int:
    """Return the number of partial results that exist at once; in a sample, each replicate keeps one."""
    return _in_flight(at_once) + workload.n_replicates + 1 if workload.n_replicates else n_live


def _slabs(workload: Workload, concurrency: Concurrency) -> int:
    """Return the bytes of panels: if threads share the products of one panel, another is filled meanwhile."""
    at_once = concurrency.segments_at_once
    return workload.n_matrices * at_once * (1 if at_once == concurrency.workers else 2) * workload.slab_bytes


def _accumulators(workload: Workload, n_live: int, state: int, merging: int) -> int:
    return workload.n_matrices * (n_live * state + merging) + workload.method.shared_bytes(workload.size)


def _solving(workload: Workload, workers: int) -> int:
    if workload.sample is not None:
        return _jackknife_bytes(workload, workload.sample, min(workers, workload.n_replicates))
    return workload.method.solving_bytes(workload.size, normalize=workload.normalize)


def _jackknife_bytes(workload: Workload, sample: SampleUnits, workers: int) -> int:
    """Return the bytes of all replicates and their merge, of the same cut to a prefix, of merges of all but one, and of
    the matrices solved for: those of the whole sample, or of one part for each thread; later, of rows that were kept.
    """
    method, state, n = workload.method, workload.state_bytes, sample.n_replicates
    kept = workload.n_matrices * (n + 1) * state + method.merging_bytes(workload.size)
    if sample.prefix_features:
        kept += (n + 1) * method.state_bytes(Size(sample.prefix_features))
    square, solved, turned = workload.size.square_bytes, max(6, 3 * workers) * workload.size.square_bytes, 0
    if sample.is_compared:
        solved += (n + workers + 1) * state
        if sample.kept_rows:  # as they enter the Gram, and turned into its eigenvectors, twice
            turned = 3 * 8 * sample.kept_rows * workload.size.width + 6 * square + _SLABS_BYTES
    return kept + max(solved, turned)


def _reading_bytes(workload: Workload, layout: RowLayout, concurrency: Concurrency) -> int:
    """Return the bytes of blocks, including those read ahead; none where they are in memory."""
    if workload.sample is not None:
        return 0
    at_once, unit, n_units = concurrency.segments_at_once, layout.largest_unit, len(layout.bounds) + 1
    row_bytes = workload.size.n_features * layout.itemsize
    block_rows = min(layout.n_rows, max(concurrency.block_rows, unit))
    reading, kept = min(at_once, n_units), 0
    if at_once > 1:  # segments share units, kept until each has had its rows
        most = PATIENCE * at_once * workload.grid.segment_rows // unit + 1  # units that the segments in flight touch
        reading = min(reading, most)
        kept = min(2 * at_once, most + 1 - reading, n_units - reading)
    ahead = concurrency.reads_ahead * min(at_once, n_units - reading)
    return reading * layout.read_memory(block_rows) + (kept * unit + ahead * block_rows) * row_bytes


def _gathering_bytes(
    sample: SampleUnits, layout: RowLayout, concurrency: Concurrency, n_features: int
) -> tuple[int, int]:
    """Return the bytes of a batch in memory, and of the reads that fill it, each into memory of its thread."""
    batch_rows = min(layout.n_rows, sample.n_replicates * sample.segment_rows)
    read_bytes = layout.read_memory(min(layout.n_rows, max(concurrency.block_rows, layout.largest_unit)))
    readers = most_readers(concurrency.workers, read_bytes, reads_ahead=concurrency.reads_ahead)
    return batch_rows * n_features * layout.itemsize, readers * (read_bytes + _READER_BYTES)


def live(at_once: int, n_segments: int) -> int:
    """Return the most partial results of segments that exist at once, including those being merged."""
    return min(_in_flight(at_once) + n_segments.bit_length() + 1, n_segments + 1)


def _in_flight(at_once: int) -> int:
    return PATIENCE * at_once if at_once > 1 else 1


_WHILE_READING = ("accumulators", "panels", "reading", "rows", "checkpoint", "groups")
_WHILE_SOLVING = ("solving", "scores")
_ALWAYS = ("process", "libraries")


def peak_bytes(memory: Mapping[str, int]) -> int:
    """Return the most bytes held at once: while rows are read, or while the spectrum is solved for."""
    reading, solving, always = (
        sum(memory.get(name, 0) for name in names) for names in (_WHILE_READING, _WHILE_SOLVING, _ALWAYS)
    )
    return always + max(reading, solving)
