"""Passes over the rows of a source, as a request needs them, and the file that keeps what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, OrthonormalBasis
from rankme_stream.errors import LimitError, MissingChunksError, SourceChangedError, UsageError, argument
from rankme_stream.groups.grouped_rows import kept_dtype
from rankme_stream.groups.partition import Partition, partition_of
from rankme_stream.measuring.completed_pass import CompletedPass, check_count
from rankme_stream.measuring.placement import device_for, traveling_bytes
from rankme_stream.measuring.request import Request
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.engine import Engine, Progress, Report
from rankme_stream.passes.loop.block_reader import missing_message
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning import sample_batches
from rankme_stream.passes.planning.block_layout import block_ranges
from rankme_stream.passes.planning.plan import Plan, make_plan
from rankme_stream.passes.planning.sample_design import N_REPLICATES, SampleDesign, draw_design, population_design
from rankme_stream.passes.planning.workload import CardLimits, RowLayout, SampleUnits, Workload
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.checkpoint import Checkpoint, drop_changed_rows, new_state, resume_state, stored_plan
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.passes.state.pass_state import State, create_state, impossible_numbers, load_state, read_basis
from rankme_stream.sources import ConcatSource, GatheredRows, Source, content_digest
from rankme_stream.spectra.held_out_units import LEAST_ROWS


class PassRunner:
    """Runs the passes that a request needs over the rows of one source.

    Parameters
    ----------
    engine
        Engine of the passes; samples and pilots run in this process. None uses the threads of this process.
    device
        Device that forms the products; None chooses it by the request and the source.

    Attributes
    ----------
    rows
        Rows [A, B) that are read.
    sketch_size
        Size of the requested sketch; 0 if the method is no sketch.
    groups
        Partition of the rows into groups that passes also keep; pilots do not.
    checkpoint
        File that keeps what a pass has read; if it exists, the pass goes on from it.
    pass_number, basis
        Number of the next pass, from 0, and the basis that the one before found for it.
    probe_seed
        Seed of the probes of float32 products, the same for all parts of a pass; 0 until a pass draws it.
    bytes_read
        Bytes decoded so far, pilots included.
    passes
        ``CompletedPass.describe`` of every pass so far.
    refused
        Message about the last arithmetic that did not fit the memory limit.
    machines
        Machines that read, as ``provenance`` lists them.
    checkpoint_failure
        Reason why the checkpoint could not be written at the end; None if it was.

    Raises
    ------
    UsageError
        If the request does not suit the source: its width, its rows, its device, or what the checkpoint holds.
    """

    def __init__(
        self, source: Source, request: Request, engine: Engine | None = None, device: Device | None = None
    ) -> None:
        self.source, self.request = source, request
        self.engine: Engine = local.LocalEngine() if engine is None else engine
        n_rows, n_features = source.shape
        request.check_dims(n_features)
        if device is None:  # workers of a cluster open devices of their own
            device = device_for(source, request.device if self.engine.device is None else "cpu")
        self.device = device
        self.rows = request.row_range(n_rows)
        self.sketch_size = request.sketch_size(n_features)
        self.groups = self._partition()
        self.checkpoint = None if request.checkpoint is None else Path(request.checkpoint)
        self.bytes_read, self.pass_number, self.probe_seed = 0, 0, 0
        self.refused: str | None = None
        self.checkpoint_failure: str | None = None
        self.passes: list[Mapping[str, Any]] = []
        self.machines: list[dict[str, Any]] = []
        self.basis: OrthonormalBasis | None = None
        self._base_bytes: dict[str, int] = {}  # before the first step, here or on a worker of a cluster
        self._stored_arithmetic: Arithmetic | None = None
        self._has_begun = self._has_loaded = False  # to write the checkpoint; and rows from it
        if self.checkpoint is not None:
            self._note_stored_pass(self.checkpoint)

    def _partition(self) -> Partition | None:
        """Return the partition of the rows into the requested groups."""
        if self.request.groups is None:
            return None
        parts = self.source.parts if isinstance(self.source, ConcatSource) else ()
        return partition_of(
            self.request.groups, self.source.shape[0], self.rows, parts=parts, missing=self.request.missing
        )

    def _note_stored_pass(self, checkpoint: Path) -> None:
        """Note which pass the checkpoint holds, if it exists."""
        if self.source.reopen() is None:
            raise UsageError(
                f"{self.source.uri} lives in this process, so no other could go on from a checkpoint: store the rows "
                f"in a zarr array, or leave {argument('checkpoint')} out"
            )
        stored = stored_plan(checkpoint)
        if stored is None:
            return
        self._stored_arithmetic, self.pass_number = stored.arithmetic, stored.pass_number
        self.probe_seed = stored.probe_seed
        self.basis = read_basis(checkpoint) if self.pass_number else None
        if self.pass_number >= self.request.passes:
            raise UsageError(
                f"{checkpoint} holds pass {self.pass_number + 1}, and {argument('passes')} is "
                f"{self.request.passes}: give {argument('passes', self.pass_number + 1)} or more, or another file"
            )

    def check_rows(self) -> None:
        """Raise ``UsageError`` if the method states no interval for so few rows."""
        if self.request.chosen is not None:
            self.request.chosen.check_rows(self.rows[1] - self.rows[0], self.sketch_size)

    def design(self) -> SampleDesign:
        """Return the design of a sample of the rows."""
        request = self.request
        return draw_design(
            rows=self.rows, n_features=self.source.shape[1], seed=request.seed, rare=request.rare,
            max_rows=request.max_rows,
        )  # fmt: skip

    def population_design(self) -> SampleDesign:
        """Return the design of a sample of rows that are all read, to show how much they vary."""
        return population_design(rows=self.rows, n_features=self.source.shape[1], seed=self.request.seed)

    @property
    def rules(self) -> Rules:
        """Treatment of missing rows, of non-finite rows and of rows of zeros."""
        return Rules(self.request.missing, self.request.nonfinite, self.request.zeros)

    def plan(
        self, arithmetic: Arithmetic, *, pass_number: int | None = None, has_checkpoint: bool | None = None,
        held_bytes: int = 0,
    ) -> Plan:  # fmt: skip
        """Return the plan of the next pass by an arithmetic, or of pass ``pass_number`` of a sketch.

        ``has_checkpoint`` says whether a state file is kept; None takes that of the runner. The result of an earlier
        arithmetic stays beside it in ``held_bytes``.

        Raises
        ------
        LimitError
            If no schedule fits.
        """
        number = self.pass_number if pass_number is None else pass_number
        is_kept = self.checkpoint is not None if has_checkpoint is None else has_checkpoint
        workload = replace(
            self._workload(arithmetic, number), groups=self.groups, normalize=self.request.normalize,
            has_checkpoint=is_kept,
        )  # fmt: skip
        return self._plan(self.engine, workload, self.rows, held_bytes)

    def plan_sample(self, arithmetic: Arithmetic, design: SampleDesign, *, held_bytes: int = 0) -> Plan:
        """Return the plan of a sample, read in this process and without a file; ``held_bytes`` as in ``plan``."""
        is_compared = self.rows[1] - self.rows[0] >= LEAST_ROWS * design.n_features
        row_bytes = design.n_features * self.source.stored.dtype.itemsize
        units = SampleUnits(
            design.unit_rows, N_REPLICATES, sample_batches.segment_rows(design, row_bytes),
            design.first_look * design.unit_rows, sample_batches.units_kept(design) * design.unit_rows, is_compared,
            max(self.request.dims, default=0),
        )  # fmt: skip
        workload = replace(self._workload(arithmetic), normalize=self.request.normalize, sample=units)
        return self._plan(local.LocalEngine(), workload, self.rows, held_bytes)

    def plan_pilot(self, arithmetic: Arithmetic, row_stop: int) -> Plan:
        """Return the plan of a pilot: the rows before ``row_stop``, read in this process."""
        return self._plan(local.LocalEngine(), self._workload(arithmetic), (self.rows[0], row_stop))

    def _workload(self, arithmetic: Arithmetic, pass_number: int = 0) -> Workload:
        sketch_size = self.sketch_size + (PROBES if pass_number else 0)
        return Workload(
            arithmetic, Size(self.source.shape[1], sketch_size, self.rows[1] - self.rows[0]), seed=self.request.seed,
            pass_number=pass_number, kept_itemsize=kept_dtype(self.source.stored).itemsize,
        )  # fmt: skip

    def _plan(self, engine: Engine, workload: Workload, rows: tuple[int, int], held_bytes: int = 0) -> Plan:
        limits = engine.limits(self.request.workers, self.request.memory_limit)
        base = self._base_bytes.setdefault(engine.name, limits.base_bytes)  # plans count what earlier steps hold
        limits = replace(limits, base_bytes=base + held_bytes)
        workload = replace(workload, has_checkpoint=workload.has_checkpoint and limits.keeps_state)
        layout = RowLayout(
            rows, self.source.stored.dtype.itemsize, self.source.bounds(*rows), self.source.read_memory,
            self.source.shape[0],
        )  # fmt: skip
        has_card = self.device is not HOST or engine.device not in (None, "cpu")
        card = None
        if has_card:
            card = CardLimits(self.device.free_bytes(), self.device is HOST, traveling_bytes(self.source, self.device))
        planned = make_plan(workload, layout, limits, card)
        return planned if self.basis is None else replace(planned, basis=self.basis.digest)

    def with_probes(self, plan: Plan) -> Plan:
        """Return a plan with the seed of the probes that its pass draws; a few rows are read for it, once.

        The seed is that of the checkpoint, or drawn from the seed of the request and the content of the rows.
        """
        if not METHODS[plan.method].draws_probes(plan.precision):
            return plan
        self.probe_seed = self.probe_seed or draw_probe_seed(self.source, self.rows, self.request.seed)
        return replace(plan, probe_seed=self.probe_seed)

    def start_next_pass(self, arithmetic: Arithmetic, done: CompletedPass) -> bool:
        """Take the basis for the next pass from the last; return False if no pass is left, or no memory for it."""
        if self.pass_number + 1 >= self.request.passes:
            return False
        try:
            self.plan(arithmetic, pass_number=self.pass_number + 1)
        except LimitError as error:
            self.refused = str(error)
            return False
        self.pass_number += 1
        self.basis = done.partial.directions()
        return True

    def fingerprint(self, rows: tuple[int, int] | None = None) -> str:
        """Return the fingerprint of the stored rows; refuse missing chunks unless the request allows them."""
        start, stop = rows or self.rows
        fingerprint = self.source.fingerprint(start, stop)
        gaps = self.source.missing(start, stop)
        if gaps and self.request.missing == "error":
            raise MissingChunksError(missing_message(self.source, *gaps[0]))
        return fingerprint

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise ``SourceChangedError`` if the stored rows no longer have that fingerprint."""
        if self.source.fingerprint(*self.rows) != fingerprint:
            raise SourceChangedError(
                f"{self.source.uri} changed while it was read: there is no result; run again when nothing writes to it"
            )

    @property
    def has_few_rows(self) -> bool:
        """Whether there are fewer rows than features: products of rows with rows then cost less than of features."""
        return self.rows[1] - self.rows[0] < self.source.shape[1]

    def arithmetics_left(self, choices: Sequence[list[Arithmetic]]) -> list[Arithmetic]:
        """Return the arithmetics still to be tried: the first choice, or that of the checkpoint, from there on.

        Raises
        ------
        UsageError
            If the checkpoint holds a pass by another arithmetic.
        """
        if self._stored_arithmetic is None:
            return choices[0]
        for arithmetics in choices:
            if self._stored_arithmetic in arithmetics:
                return arithmetics[arithmetics.index(self._stored_arithmetic) :]
        method, precision = self._stored_arithmetic
        raise UsageError(
            f"{self.checkpoint} holds a pass by {method} in {precision}: give this method and precision, or another "
            "file"
        )

    def can_resume(self, arithmetic: Arithmetic | None = None) -> bool:
        """Return whether there is a checkpoint to go on from, by that arithmetic or by any."""
        return self._stored_arithmetic is not None and arithmetic in (None, self._stored_arithmetic)

    def read(self, plan: Plan, progress: Report | None) -> CompletedPass:
        """Read all rows of a plan in this process, without a checkpoint."""
        tree, plan = MergeTree[PartialResult](), self.with_probes(plan)
        self.bytes_read += local.run_into(tree, self._spec(plan), plan.all_segments, progress)
        return CompletedPass.of(
            tree.total(), plan, self.source.stored.unit_roundoff, self.rules, self.request.confidence
        )

    def read_pass(
        self, arithmetic: Arithmetic, fingerprint: str, progress: Report | None, *, held_bytes: int = 0
    ) -> CompletedPass:
        """Read all rows by an arithmetic, going on from a checkpoint if there is one; ``held_bytes`` as in ``plan``."""
        plan = self.with_probes(self.plan(arithmetic, held_bytes=held_bytes))
        if self.checkpoint is None:
            tree = MergeTree[PartialResult]()
            self.bytes_read += self.engine(tree, self._spec(plan), plan.all_segments, progress)
        else:
            tree = self.read_segments(plan, plan.all_segments, fingerprint, progress).merge_tree()
        self.machines = joined_workers(self.machines, self._machines(plan, self.engine))
        with self.guarding():
            whole = tree.total().on_basis(self.basis)
            del tree  # frees the nodes that the total was merged from
            return CompletedPass.of(whole, plan, self.source.stored.unit_roundoff, self.rules, self.request.confidence)

    def guarding(self) -> AbstractContextManager[None]:
        """Return a context for computing with rows that may come from a file: impossible numbers are its fault."""
        return impossible_numbers(self.source.uri) if self._has_loaded else nullcontext()

    def read_segments(self, plan: Plan, segments: range, fingerprint: str, progress: Report | None) -> State:
        """Read segments of a pass, going on from the checkpoint if there is one, and keep it up to date.

        Raises
        ------
        SourceChangedError
            If rows changed while they were read; the checkpoint keeps the other rows.
        """
        assert self.checkpoint is not None
        plan = self.with_probes(plan)
        state = self._first_state(plan, segments, fingerprint, self.checkpoint)
        tree = state.merge_tree(self.device)
        rows_before = sum(stop - start for start, stop in state.covered)
        checkpoint = Checkpoint(self.checkpoint, state, tree, lambda: self._machines(plan, self.engine))

        def report(now: Progress) -> None:
            checkpoint.tick()
            if progress is not None:
                progress(replace(now, rows_before=rows_before, checkpoint_age_s=checkpoint.age_s))

        try:
            with self.guarding():
                self.bytes_read += self.engine(tree, self._spec(plan), segments, report)
            state, changed = drop_changed_rows(checkpoint.state, self.source)
            checkpoint.save(state)
        except BaseException as error:
            checkpoint.save()
            note = f"{checkpoint.path} holds what was read: the same command goes on from there"
            error.add_note(
                note if checkpoint.failure is None else f"the checkpoint is not up to date: {checkpoint.failure}"
            )
            raise
        if changed:
            raise SourceChangedError(
                f"rows {changed[0].start:,}-{changed[0].stop - 1:,} of {self.source.uri} changed while they were read, "
                f"so there is no result; {checkpoint.path} keeps the other rows: run again when nothing writes to the "
                "source"
            )
        self.checkpoint_failure = None if checkpoint.failure is None else str(checkpoint.failure)
        return state

    def _first_state(self, plan: Plan, segments: range, fingerprint: str, path: Path) -> State:
        """Return the state to begin with: that of the checkpoint, or an empty one, written to it."""
        wanted = new_state(self.source, plan, segments, fingerprint, self.rules._asdict(), self.basis)
        wanted = replace(wanted, passes=self.passes)
        if self._has_begun or (self._stored_arithmetic is None and create_state(path, wanted)):
            # created now, so that a file that cannot be written is refused before hours are spent
            self._has_begun = True
            return wanted
        stored = load_state(path)
        if (stored.arithmetic, stored.plan.pass_number) != (wanted.arithmetic, plan.pass_number):
            raise UsageError(f"another run began to write {path} meanwhile: give each a file of its own")
        state = resume_state(stored, wanted, self.source, path)
        self._has_begun = self._has_loaded = True
        self._stored_arithmetic = None
        self.passes = list(state.passes)
        self.machines = joined_workers(self.machines, state.workers)
        return state

    def read_gathered(
        self, plan: Plan, gathered: GatheredRows, add: Callable[[int, PartialResult], None], progress: Report
    ) -> None:
        """Read rows of a sample that are in memory, whose numbers there a plan has; pass each segment's result on."""

        def check_and_add(segment: int, partial: PartialResult) -> None:
            start, stop = plan.rows_of(range(segment, segment + 1))
            check_count(partial, stop - start, self.rules)
            add(segment, partial)

        rows = plan.row_start, plan.row_stop
        blocks = block_ranges(gathered.bounds(*rows), *rows, plan.block_rows, plan.grid.segment_rows)
        spec = replace(self._spec(plan), source=gathered)
        local.run_segments(spec, plan.all_segments, blocks, check_and_add, rows[1], progress)
        self.machines = joined_workers(self.machines, self._machines(plan, local.LocalEngine()))

    def read_into(self, tree: MergeTree[PartialResult], plan: Plan) -> None:
        """Read the rows of a plan into a merge tree."""
        self.bytes_read += local.run_into(tree, self._spec(plan), plan.all_segments)
        self.machines = joined_workers(self.machines, self._machines(plan, local.LocalEngine()))

    def _machines(self, plan: Plan, engine: Engine) -> list[dict[str, Any]]:
        return [one | self.device.describe() for one in engine.machines(plan.workers)]

    def _spec(self, plan: Plan) -> PassSpec:
        return PassSpec(
            source=self.source,
            plan=plan,
            make_accumulator=accumulator_of(plan, self.basis),
            normalize=plan.normalize,
            rules=self.rules,
            device=self.device,
            basis=self.basis,
            groups=self.groups if plan.n_groups else None,
        )


def draw_probe_seed(source: Source, rows: tuple[int, int], seed: int) -> int:
    """Return a seed in [1, 2^53), a hash of a user's seed and of values of rows [A, B): copies of a dump share it."""
    digest = blake2b(f"probes {seed} {content_digest(source, *rows)}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) or 1
