"""Rows of one source, and how they are read: by which plan, by what rules, into what file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, OrthonormalBasis
from rankme_stream.errors import LimitError, MissingChunksError, SourceChangedError, UsageError
from rankme_stream.groups.grouped_rows import kept_dtype
from rankme_stream.groups.partition import partition_of
from rankme_stream.measuring.completed_pass import CompletedPass, check_count
from rankme_stream.measuring.placement import device_for
from rankme_stream.measuring.request import Request
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.engine import Engine, Progress, Report
from rankme_stream.passes.loop.block_reader import missing_message
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.memory import CardLimits, RowLayout, SampleUnits, Workload
from rankme_stream.passes.planning.plan import Plan, make_plan
from rankme_stream.passes.planning.sample_design import N_GROUPS, SampleDesign
from rankme_stream.passes.state.checkpoint import Checkpoint, drop_changed_rows, new_state, resume_state, stored_pass
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.passes.state.pass_state import State, load_state, read_basis, save_state
from rankme_stream.sources import Source


class PassRunner:
    """Runs passes over the rows of one source, as a request asks for them.

    Parameters
    ----------
    engine
        Runs passes; samples and pilots run in this process. None takes the threads of this process.
    device
        Where products are formed; None finds out.

    Attributes
    ----------
    rows
        Rows [A, B) that are read.
    sketch_size
        Of the method that is asked for; 0 where it is no sketch.
    groups
        Rows that passes keep apart as well; pilots do not.
    checkpoint
        File that is kept up to date with a pass, and taken up where there is one.
    pass_number, basis
        Number of the pass that is next, from 0, and what the one before found for it.
    bytes_read
        Bytes decoded so far, pilots included.
    passes
        What ``CompletedPass.describe`` says of every pass so far.
    refused
        Why the last arithmetic that did not fit the memory limit was left out.
    machines
        Those that read, as ``provenance`` lists them.
    unkept
        Why the checkpoint could not be written at the end; None where it was.

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
        if device is None:  # workers of a cluster open their own
            device = device_for(source, request.device if self.engine.device is None else "cpu")
        self.device = device
        self.rows = request.row_range(n_rows)
        self.sketch_size = request.sketch_size(n_features)
        self.groups = None if request.groups is None else partition_of(request.groups, n_rows, self.rows)
        if self.groups is not None and self.device is not HOST:
            raise UsageError(
                f"groups are kept and scored by the processor, and the rows are on {self.device.name}: bring them "
                "here, or leave groups out"
            )
        self.checkpoint = None if request.checkpoint is None else Path(request.checkpoint)
        self.bytes_read, self.pass_number = 0, 0
        self.refused: str | None = None
        self.unkept: str | None = None
        self.passes: list[Mapping[str, Any]] = []
        self.machines: list[dict[str, Any]] = []
        self.basis: OrthonormalBasis | None = None
        self._base_bytes: int | None = None
        self._held: Arithmetic | None = None
        if self.checkpoint is not None:
            self._look_into(self.checkpoint)

    def _look_into(self, checkpoint: Path) -> None:
        """Take note of the pass that a file holds, where there is one."""
        if self.source.reopen() is None:
            raise UsageError(
                f"{self.source.uri} lives in this process, so nothing could go on from a checkpoint; store the "
                "rows in a zarr array, or leave checkpoint out"
            )
        held = stored_pass(checkpoint)
        if held is None:
            return
        self._held, self.pass_number = held
        self.basis = read_basis(checkpoint) if self.pass_number else None
        if self.pass_number >= self.request.passes:
            raise UsageError(
                f"{checkpoint} holds pass {self.pass_number + 1}, and {self.request.passes} are asked for: give "
                f"--passes {self.pass_number + 1} or more, or another file"
            )

    def check_rows(self) -> None:
        """Raise ``UsageError`` if the method states no interval for so few rows."""
        if self.request.chosen is not None:
            self.request.chosen.check_rows(self.rows[1] - self.rows[0], self.sketch_size)

    @property
    def rules(self) -> dict[str, str]:
        """What is done with missing and non-finite rows."""
        return {"missing": self.request.missing, "nonfinite": self.request.nonfinite}

    def plan(
        self, arithmetic: Arithmetic, *, pass_number: int | None = None, has_checkpoint: bool | None = None
    ) -> Plan:
        """Return the plan of the next pass by that arithmetic, or of another pass of a sketch.

        ``has_checkpoint`` says whether a state file is kept, where that is not what the runner does.

        Raises
        ------
        LimitError
            When none fits.
        """
        number = self.pass_number if pass_number is None else pass_number
        is_kept = self.checkpoint is not None if has_checkpoint is None else has_checkpoint
        workload = replace(
            self._workload(arithmetic, number), groups=self.groups, normalize=self.request.normalize,
            has_checkpoint=is_kept,
        )  # fmt: skip
        return self._plan(self.engine, workload, self.rows)

    def plan_sample(self, arithmetic: Arithmetic, design: SampleDesign) -> Plan:
        """Return the plan of a sample, which is read in this process and keeps no file."""
        units = SampleUnits(design.unit_rows, N_GROUPS, design.first_look * design.unit_rows)
        workload = replace(self._workload(arithmetic), normalize=self.request.normalize, sample=units)
        return self._plan(local.LocalEngine(), workload, self.rows)

    def plan_pilot(self, arithmetic: Arithmetic, row_stop: int) -> Plan:
        """Return the plan of a look at the first rows."""
        return self._plan(local.LocalEngine(), self._workload(arithmetic), (self.rows[0], row_stop))

    def _workload(self, arithmetic: Arithmetic, pass_number: int = 0) -> Workload:
        sketch_size = self.sketch_size + (PROBES if pass_number else 0)
        return Workload(
            arithmetic, Size(self.source.shape[1], sketch_size), seed=self.request.seed, pass_number=pass_number,
            kept_itemsize=kept_dtype(self.source.stored).itemsize,
        )  # fmt: skip

    def _plan(self, engine: Engine, workload: Workload, rows: tuple[int, int]) -> Plan:
        limits = engine.limits(self.request.workers, self.request.memory_limit)
        if self._base_bytes is None:
            self._base_bytes = limits.base_bytes
        if workload.pass_number:  # what earlier passes hold is in the plan
            limits = replace(limits, base_bytes=self._base_bytes)
        workload = replace(workload, has_checkpoint=workload.has_checkpoint and limits.keeps_state)
        layout = RowLayout(
            rows, self.source.stored.dtype.itemsize, self.source.bounds(*rows), self.source.read_memory
        )  # fmt: skip
        has_card = self.device is not HOST or engine.device not in (None, "cpu")
        card = CardLimits(self.device.free_bytes(), has_host=self.device is HOST) if has_card else None
        planned = make_plan(workload, layout, limits, card)
        return planned if self.basis is None else replace(planned, basis=self.basis.digest)

    def go_on(self, arithmetic: Arithmetic, done: CompletedPass) -> bool:
        """Take the basis that a pass found for the next one; return whether there is one, and memory for it."""
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
        """Return what identifies the stored rows; missing chunks are refused here where they are to be."""
        start, stop = rows or self.rows
        fingerprint = self.source.fingerprint(start, stop)
        gaps = self.source.missing(start, stop)
        if gaps and self.request.missing == "error":
            raise MissingChunksError(missing_message(self.source, *gaps[0]))
        return fingerprint

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise ``SourceChangedError`` if the stored rows are not those of that fingerprint any more."""
        if self.source.fingerprint(*self.rows) != fingerprint:
            raise SourceChangedError(
                f"{self.source.uri} changed while it was read; no number is given, run again when nothing writes to it"
            )

    def arithmetics_left(self, arithmetics: list[Arithmetic]) -> list[Arithmetic]:
        """Return the arithmetics that are still to be tried: from that of the checkpoint on, where there is one.

        Raises
        ------
        UsageError
            If the checkpoint is of an arithmetic that was not asked for.
        """
        if self._held is None:
            return arithmetics
        if self._held not in arithmetics:
            method, precision = self._held
            raise UsageError(
                f"{self.checkpoint} holds a pass by {method} in {precision}, which is not what is asked for; give the "
                "method and precision it was made with, or another file"
            )
        return arithmetics[arithmetics.index(self._held) :]

    def holds(self, arithmetic: Arithmetic | None = None) -> bool:
        """Whether a checkpoint is there to go on from, by that arithmetic or any."""
        return self._held is not None and arithmetic in (None, self._held)

    def read(self, plan: Plan, progress: Report | None) -> CompletedPass:
        """Read all rows of a plan in this process, keeping no file."""
        forest = MergeTree[PartialResult]()
        self.bytes_read += local.run_into(forest, self._task(plan), plan.all_segments, progress)
        return CompletedPass.of(
            forest.total(), plan, self.source.stored.unit_roundoff, self.request.missing, self.request.confidence
        )

    def read_pass(self, arithmetic: Arithmetic, fingerprint: str, progress: Report | None) -> CompletedPass:
        """Read all rows by that arithmetic, on from the checkpoint where there is one."""
        plan = self.plan(arithmetic)
        if self.checkpoint is None:
            forest = MergeTree[PartialResult]()
            self.bytes_read += self.engine(forest, self._task(plan), plan.all_segments, progress)
        else:
            forest = self.read_segments(plan, plan.all_segments, fingerprint, progress).merge_tree()
        self.machines = joined_workers(self.machines, self._machines(plan))
        whole = forest.total().on_basis(self.basis)
        del forest  # what it was merged from
        return CompletedPass.of(
            whole, plan, self.source.stored.unit_roundoff, self.request.missing, self.request.confidence
        )

    def read_segments(self, plan: Plan, segments: range, fingerprint: str, progress: Report | None) -> State:
        """Read some segments of a pass, on from the checkpoint where there is one, and keep it up to date.

        Raises
        ------
        SourceChangedError
            If rows changed while they were read; the checkpoint keeps the others.
        """
        assert self.checkpoint is not None
        state = self._begun(plan, segments, fingerprint, self.checkpoint)
        forest = state.merge_tree(self.device)
        before = sum(stop - start for start, stop in state.covered)
        kept = Checkpoint(self.checkpoint, state, forest, lambda: self._machines(plan))

        def report(now: Progress) -> None:
            kept.tick()
            if progress is not None:
                progress(replace(now, rows_before=before, checkpoint_age_s=kept.age_s))

        try:
            self.bytes_read += self.engine(forest, self._task(plan), segments, report)
            done, changed = drop_changed_rows(kept.state, self.source)
            kept.save(done)
        except BaseException as error:
            kept.save()
            held = f"{kept.path} holds what was read: the same command goes on from there"
            error.add_note(held if kept.failure is None else f"the checkpoint is not up to date: {kept.failure}")
            raise
        if changed:
            raise SourceChangedError(
                f"rows {changed[0].start:,}-{changed[0].stop - 1:,} of {self.source.uri} changed while they were read; "
                f"no number is given, and {kept.path} keeps the other rows: run again when nothing writes to it"
            )
        self.unkept = None if kept.failure is None else str(kept.failure)
        return done

    def _begun(self, plan: Plan, segments: range, fingerprint: str, path: Path) -> State:
        """Return the state to begin with: from the file where there is one, which is made where there is none."""
        wanted = new_state(self.source, plan, segments, fingerprint, self.rules, self.basis)
        wanted = replace(wanted, passes=self.passes)
        if not self.holds(wanted.arithmetic):
            if not path.exists():
                save_state(path, wanted)  # fails now, if it does, and not after hours
            return wanted
        state = resume_state(load_state(path), wanted, self.source, path)
        self._held = None
        self.passes = list(state.passes)
        self.machines = joined_workers(self.machines, state.workers)
        covered = state.merge_tree().covered()
        strange = [run for run in covered if run.start < segments.start or run.stop > segments.stop]
        if strange:
            start, stop = plan.rows_of(strange[0])
            first, last = plan.rows_of(segments)
            raise UsageError(
                f"{path} holds rows {start:,}-{stop - 1:,}, and rows {first:,}-{last - 1:,} are asked for; give a file "
                "of its own to each part"
            )
        return state

    def read_units(
        self,
        plan: Plan,
        units: Sequence[int],
        cuts: Sequence[BlockRange],
        add: Callable[[int, PartialResult], None],
        progress: Report | None,
    ) -> None:
        """Read some units of a sample, which are the segments of its plan."""

        def counted(unit: int, partial: PartialResult) -> None:
            start, stop = plan.rows_of(range(unit, unit + 1))
            check_count(partial, stop - start, self.request.missing)
            add(unit, partial)

        task = self._task(plan, records_norms=True)
        self.bytes_read += local.run_segments(task, units, cuts, counted, sum(cut.n_used for cut in cuts), progress)

    def read_into(self, forest: MergeTree[PartialResult], plan: Plan) -> None:
        """Read the rows of a plan into a forest."""
        self.bytes_read += local.run_into(forest, self._task(plan), plan.all_segments)

    def _machines(self, plan: Plan) -> list[dict[str, Any]]:
        return [one | self.device.describe() for one in self.engine.machines(plan.workers)]

    def _task(self, plan: Plan, *, records_norms: bool = False) -> PassSpec:
        return PassSpec(
            source=self.source,
            plan=plan,
            make_accumulator=accumulator_of(plan, self.basis),
            normalize=plan.normalize,
            missing=self.request.missing,
            nonfinite=self.request.nonfinite,
            records_norms=records_norms,
            device=self.device,
            basis=self.basis,
            groups=self.groups if plan.n_groups else None,
        )
