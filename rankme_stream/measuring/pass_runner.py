"""Rows of one source, and how they are read: by which plan, by what rules, into what file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rankme_stream.accumulators.methods import Arithmetic
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, OrthonormalBasis
from rankme_stream.errors import LimitError, MissingChunksError, SourceChangedError, UsageError
from rankme_stream.groups.grouped_rows import kept_dtype
from rankme_stream.groups.partition import Partition
from rankme_stream.measuring.completed_pass import CompletedPass, check_count
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.engines import local
from rankme_stream.passes.engines.engine import Engine, Progress, Report
from rankme_stream.passes.loop.block_reader import missing_message
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.plan import Plan, make_plan
from rankme_stream.passes.planning.sample_design import N_GROUPS, SampleDesign
from rankme_stream.passes.state.checkpoint import Checkpoint, drop_changed_rows, new_state, resume_state, stored_pass
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.passes.state.pass_state import State, load_state, read_basis, save_state
from rankme_stream.sources import Source


@dataclass
class PassRunner:
    """Rows of one source, and how to read them, as often as it takes.

    Attributes
    ----------
    checkpoint
        File that is kept up to date with a pass, and taken up where there is one.
    device
        Where the rows are computed with.
    sketch_size, seed, max_passes
        Of a sketch: test vectors, seed and most passes; 0, and one pass, for other methods.
    pass_number, basis
        Number of the pass that is next, from 0, and what the one before found for it.
    groups
        Rows that passes keep apart as well; pilots do not.
    confidence
        With which the intervals of a row sketch are to hold.
    engine
        Runs passes; samples and pilots run in this process.
    bytes_read
        Bytes decoded so far, pilots included.
    passes
        What ``Pass.describe`` says of every pass so far.
    refused
        Why the last arithmetic that did not fit the memory limit was left out.
    machines
        Those that read, as ``provenance`` lists them.
    unkept
        Why the checkpoint could not be written at the end; None where it was.
    """

    source: Source
    rows: tuple[int, int]
    normalize: bool
    workers: int | None
    memory_limit: int | None
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]
    checkpoint: Path | None = None
    engine: Engine = field(default_factory=local.LocalEngine)
    device: Device = HOST
    sketch_size: int = 0
    seed: int = 0
    max_passes: int = 1
    groups: Partition | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        self.bytes_read = 0
        self.refused: str | None = None
        self.unkept: str | None = None
        self.passes: list[Mapping[str, Any]] = []
        self.machines: list[dict[str, Any]] = []
        self._base_bytes: int | None = None
        self.pass_number = 0
        self.basis: OrthonormalBasis | None = None
        self._held: Arithmetic | None = None
        if self.checkpoint is not None:
            if self.source.reopen() is None:
                raise UsageError(
                    f"{self.source.uri} lives in this process, so nothing could go on from a checkpoint; store the "
                    "rows in a zarr array, or leave checkpoint out"
                )
            held = stored_pass(self.checkpoint)
            if held is not None:
                self._held, self.pass_number = held
                self.basis = read_basis(self.checkpoint) if self.pass_number else None
                if self.pass_number >= self.max_passes:
                    raise UsageError(
                        f"{self.checkpoint} holds pass {self.pass_number + 1}, and {self.max_passes} are asked for: "
                        f"give --passes {self.pass_number + 1} or more, or another file"
                    )

    @property
    def rules(self) -> dict[str, str]:
        """What is done with missing and non-finite rows."""
        return {"missing": self.missing, "nonfinite": self.nonfinite}

    def plan(
        self,
        arithmetic: Arithmetic,
        drawn: SampleDesign | None = None,
        *,
        has_checkpoint: bool | None = None,
        pass_number: int | None = None,
    ) -> Plan:
        """Return the plan of the next pass by that arithmetic, or of a sample; or of another pass of a sketch.

        Raises
        ------
        LimitError
            When none fits.
        """
        sample = (drawn.unit_rows, N_GROUPS, drawn.first_look * drawn.unit_rows) if drawn else None
        is_kept = self.checkpoint is not None if has_checkpoint is None else has_checkpoint
        engine = local.LocalEngine() if drawn else self.engine  # samples are read here
        groups = None if drawn else self.groups
        return self._plan(
            engine, arithmetic, self.rows, self.normalize, sample, has_checkpoint=is_kept and drawn is None,
            pass_number=self.pass_number if pass_number is None else pass_number, groups=groups,
        )  # fmt: skip

    def plan_pilot(self, arithmetic: Arithmetic, row_stop: int) -> Plan:
        """Return the plan of a look at the first rows."""
        return self._plan(local.LocalEngine(), arithmetic, (self.rows[0], row_stop), normalize=False)

    def _plan(
        self,
        engine: Engine,
        arithmetic: Arithmetic,
        rows: tuple[int, int],
        normalize: bool,
        sample: tuple[int, int, int] | None = None,
        *,
        has_checkpoint: bool = False,
        pass_number: int = 0,
        groups: Partition | None = None,
    ) -> Plan:
        limits = engine.limits(self.workers, self.memory_limit)
        if self._base_bytes is None:
            self._base_bytes = limits.base_bytes
        planned = make_plan(
            method=arithmetic.method,
            precision=arithmetic.precision,
            normalize=normalize,
            rows=rows,
            n_features=self.source.shape[1],
            itemsize=self.source.stored.dtype.itemsize,
            bounds=self.source.bounds(*rows),
            read_memory=self.source.read_memory,
            base_bytes=self._base_bytes
            if pass_number
            else limits.base_bytes,  # what earlier passes hold is in the plan
            memory_limit_bytes=limits.memory_limit_bytes,
            workers=limits.workers,
            cores=limits.cores,
            sample=sample,
            has_checkpoint=has_checkpoint and limits.keeps_state,
            sketch_size=self.sketch_size + (PROBES if pass_number else 0),
            seed=self.seed,
            pass_number=pass_number,
            groups=groups,
            kept_itemsize=kept_dtype(self.source.stored).itemsize,
            has_card=self.device is not HOST or engine.device not in (None, "cpu"),
            has_host=self.device is HOST,
            card_limit_bytes=self.device.free_bytes(),
        )
        return planned if self.basis is None else replace(planned, basis=self.basis.digest)

    def go_on(self, arithmetic: Arithmetic, done: CompletedPass) -> bool:
        """Take what a pass found for the next one of a sketch; say whether there is one, and memory for it."""
        if self.pass_number + 1 >= self.max_passes:
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
        if gaps and self.missing == "error":
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
        return CompletedPass.of(forest.total(), plan, self.source.stored.unit_roundoff, self.missing, self.confidence)

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
        return CompletedPass.of(whole, plan, self.source.stored.unit_roundoff, self.missing, self.confidence)

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
            check_count(partial, stop - start, self.missing)
            add(unit, partial)

        task = self._task(plan, weigh=True)
        self.bytes_read += local.run_segments(task, units, cuts, counted, sum(cut.n_used for cut in cuts), progress)

    def read_into(self, forest: MergeTree[PartialResult], plan: Plan) -> None:
        """Read the rows of a plan into a forest."""
        self.bytes_read += local.run_into(forest, self._task(plan), plan.all_segments)

    def _machines(self, plan: Plan) -> list[dict[str, Any]]:
        return [one | self.device.describe() for one in self.engine.machines(plan.workers)]

    def _task(self, plan: Plan, *, weigh: bool = False) -> PassSpec:
        return PassSpec(
            self.source, plan, accumulator_of(plan, self.basis), plan.normalize, self.missing, self.nonfinite, weigh,
            self.device, self.basis, self.groups if plan.n_groups else None,
        )  # fmt: skip
