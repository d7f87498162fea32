"""A state file that is kept up to date while a pass runs, and how a later run takes it up."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import OutputError, SourceChangedError, UsageError
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state import state_file
from rankme_stream.passes.state.merge_tree import MergeTree, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.pass_state import State, Stretch, difference, read_arithmetic, save_state
from rankme_stream.sources import Source

_PERIOD_S = 60.0
_PERIODS_A_WRITE = 50.0  # of the time that the last write took: a write may slow the pass down by 2 % at most
_STRETCHES = 16  # of the rows; what changed since is told as finely


def new_state(
    source: Source,
    plan: Plan,
    segments: range,
    fingerprint: str,
    rules: Mapping[str, str],
    passes: Sequence[Mapping[str, Any]],
    basis: OrthonormalBasis | None = None,
) -> State:
    """Return the state of a pass, some segments of which are about to be read.

    Notes
    -----
    Takes the fingerprint of their rows once more, a sixteenth of all rows at a time; that of the others is left empty.
    """
    rows = plan.grid.segment_rows
    whole = plan.row_stop // rows * rows  # of a segment that is cut, the rest may come later
    tail_start = max(plan.row_start, min(whole, source.tail_start // rows * rows))
    body = plan.grid.segments(plan.row_start, tail_start) if tail_start > plan.row_start else range(0)
    edges = [body.start + len(body) * part // _STRETCHES for part in range(_STRETCHES + 1)]
    first, last = plan.rows_of(segments)

    def stretch(start: int, stop: int) -> Stretch:
        return Stretch(start, stop, source.fingerprint(start, stop) if start < last and first < stop else "")

    ends = sorted({plan.row_start, *(max(plan.row_start, edge * rows) for edge in edges), plan.row_stop})
    n_rows, n_features = source.shape
    return State(
        source={
            "uri": source.uri, "n_rows": n_rows, "n_features": n_features, "dtype": source.stored.name,
            "fingerprint": fingerprint, "identity": _plain(source.identity()), "integrity": source.integrity,
            "unit_roundoff": source.stored.unit_roundoff, "chunks_missing": source.chunks_missing,
        },
        plan=plan,
        tail_start=tail_start,
        stretches=[stretch(start, stop) for start, stop in pairwise(ends)],
        anchor=" ".join(source.fingerprint(row, row + 1) for row in (plan.row_start, plan.row_stop - 1)),
        is_checked=False,
        rules=rules,
        passes=passes,
        workers=[],
        nodes={},
        basis=basis,
    )  # fmt: skip


def _plain(identity: Mapping[str, object]) -> dict[str, Any]:
    """Return an identity as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def resume_state(held: State, wanted: State, source: Source, path: Path) -> State:
    """Return the pass that is wanted with what a file holds of it.

    Raises
    ------
    UsageError
        If the file holds another pass; the text says what differs.
    SourceChangedError
        If rows that it covers are stored otherwise now.
    """
    other = f"give the options and rows it was made with, or another file than {path}"
    if (differs := difference(wanted, held)) is not None:
        raise UsageError(f"{path} holds another pass: {differs}; {other}")
    for what, rule in held.rules.items():
        if rule not in ("error", wanted.rules[what]):
            raise UsageError(f"{path} holds a pass with --{what} {rule}, which is not asked for; {other}")
    grown = wanted.plan.row_stop - held.plan.row_stop
    if grown < 0:
        raise UsageError(
            f"{path} holds a pass over rows up to {held.plan.row_stop:,}, and {wanted.plan.row_stop:,} are asked for "
            f"or there; {other}"
        )
    nodes = dict(held.nodes)
    if grown or wanted.source["n_rows"] > held.source["n_rows"]:
        # What the last chunk holds may have been written again, and the last segment may be longer now.
        nodes = {node: partial for node, partial in nodes.items() if span(node).stop <= held.tail_segment}
    covered = replace(held, nodes=nodes).covered
    for stretch in held.stretches:
        is_covered = any(start < stretch.stop and stretch.start < stop for start, stop in covered)
        if is_covered and source.fingerprint(stretch.start, stretch.stop) != stretch.fingerprint:
            raise SourceChangedError(
                f"rows {stretch.start:,}-{stretch.stop - 1:,} of {source.uri} are not stored as they were when {path} "
                f"covered them ({held.source['uri']} then): delete it to start over"
            )
    return replace(wanted, nodes=nodes, passes=held.passes, workers=held.workers if nodes else [])


def drop_changed_rows(state: State, source: Source) -> tuple[State, list[Stretch]]:
    """Return a state of rows that did not change since their fingerprints were taken, and the stretches that did.

    What was read of those is left out.
    """
    rows = state.plan.grid.segment_rows
    changed = [
        stretch
        for stretch in state.stretches
        if stretch.fingerprint and source.fingerprint(stretch.start, stretch.stop) != stretch.fingerprint
    ]
    nodes = {
        node: partial
        for node, partial in state.nodes.items()
        if not any(span(node).start * rows < one.stop and one.start < span(node).stop * rows for one in changed)
    }
    return replace(state, nodes=nodes, is_checked=not changed), changed


def held_pass(path: Path) -> tuple[Arithmetic, int] | None:
    """Return by which arithmetic the pass in a file is, and its number; None where there is no file.

    What killed writers left beside it is removed.

    Raises
    ------
    StateError
        If it is no state file, or damaged.
    OutputError
        If the file could not be written.
    """
    state_file.sweep(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}, or no permission for it")
    return read_arithmetic(path) if path.exists() else None


class Checkpoint:
    """Keeps a file up to date with a forest.

    Parameters
    ----------
    state
        Of the pass; what it came to is taken from the forest.
    machines
        Returns those that read since it was begun or taken up.

    Attributes
    ----------
    failure
        Why the last write failed; None when it did not. A pass goes on without: its result may still be had.
    """

    def __init__(
        self,
        path: Path,
        state: State,
        forest: MergeTree[PartialResult],
        machines: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        self.path = path
        self.failure: OutputError | None = None
        self._state, self._forest, self._machines = state, forest, machines
        self._written = self._finished = time.monotonic()
        self._cost_s = 0.0
        self._writer: threading.Thread | None = None

    @property
    def age_s(self) -> float:
        """Seconds since what the file holds was true."""
        return time.monotonic() - self._written

    def tick(self) -> None:
        """Write in the background if it is time to; 60 s after the last write, and 50 times what that took."""
        if self._writer is not None and self._writer.is_alive():
            return
        if time.monotonic() - self._finished >= max(_PERIOD_S, _PERIODS_A_WRITE * self._cost_s):
            self._writer = threading.Thread(target=self._write, name="rankme-checkpoint")
            self._writer.start()

    @property
    def state(self) -> State:
        """What the forest holds now."""
        workers = joined_workers(self._state.workers, self._machines())
        return replace(self._state, nodes=self._forest.snapshot(), workers=workers)

    def save(self, state: State | None = None) -> None:
        """Write that state, or what there is now, and return when it is done."""
        if self._writer is not None:
            self._writer.join()
        self._write(state)

    def _write(self, state: State | None = None) -> None:
        began = time.monotonic()
        try:
            save_state(self.path, self.state if state is None else state)
        except (OutputError, MemoryError) as error:
            self.failure = OutputError(str(error) or "no memory is left to write it from")
        else:
            self.failure, self._written = None, began
        self._finished = time.monotonic()
        self._cost_s = self._finished - began
