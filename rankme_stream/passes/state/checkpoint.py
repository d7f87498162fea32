"""A state file kept up to date while a pass runs, and resumed by a later run."""

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

from rankme_stream.accumulators.methods import METHODS
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import OutputError, SourceChangedError, StateError, UsageError, argument
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state import state_file
from rankme_stream.passes.state.merge_tree import MergeTree, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.pass_state import State, Stretch, difference, read_plan, save_state
from rankme_stream.passes.state.witnesses import changed_row
from rankme_stream.sources import Source, content_digest, describe_parts

_PERIOD_S = 60.0
_PERIODS_A_WRITE = 50.0  # times the duration of the last write: writes slow the pass down by 2 % at most
_STORE_METADATA = ("zarr.json", ".zarray", ".zgroup")
_STRETCHES = 16  # parts of the rows; changed rows are located no finer


def new_state(
    source: Source,
    plan: Plan,
    segments: range,
    fingerprint: str,
    rules: Mapping[str, str],
    basis: OrthonormalBasis | None = None,
) -> State:
    """Return the state of a pass before ``segments`` of it are read; it lists no earlier passes.

    Notes
    -----
    Takes the fingerprint of their rows once more, a sixteenth of all rows at a time; other rows have an empty one.
    Reads eight rows of the whole pass.
    """
    rows = plan.grid.segment_rows
    whole = plan.row_stop // rows * rows  # the rest of an incomplete segment may be added
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
            "decoding": source.stored.description,
            **describe_parts(source),
        },
        plan=plan,
        tail_start=tail_start,
        stretches=[stretch(start, stop) for start, stop in pairwise(ends)],
        anchor=" ".join(source.fingerprint(row, row + 1) for row in (plan.row_start, plan.row_stop - 1)),
        content=content_digest(source, plan.row_start, plan.row_stop),
        part=(first, max(first, last)),
        is_checked=False,
        rules=rules,
        passes=[],
        workers=[],
        nodes={},
        basis=basis,
    )  # fmt: skip


def _plain(identity: Mapping[str, object]) -> dict[str, Any]:
    """Return an identity as it reads back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def resume_state(stored: State, wanted: State, source: Source, path: Path) -> State:
    """Return the wanted state with the partial results that a file holds of it.

    Raises
    ------
    UsageError
        If the file holds another pass; the message names the difference.
    SourceChangedError
        If rows that it covers are stored differently now, or have other values.
    StateError
        If it is of version 1, which noted no values to recognise them by.

    Notes
    -----
    Reads up to sixteen rows for each partial result that the file holds, and decodes each of their chunks once.
    """
    other = f"give the options and rows it was made with, or another file than {path}"
    if (differs := difference(wanted, stored)) is not None:
        raise UsageError(f"{path} holds another pass: {differs}; {other}")
    for option, rule in stored.rules.items():
        if rule not in ("error", wanted.rules[option]):
            raise UsageError(f"{path} holds a pass with {argument(option, rule)}, which is not requested; {other}")
    grown = wanted.plan.row_stop - stored.plan.row_stop
    if grown < 0:
        raise UsageError(
            f"{path} holds a pass over rows up to {stored.plan.row_stop:,}, and {wanted.plan.row_stop:,} are requested "
            f"or stored now; {other}"
        )
    start, stop = stored.part
    if start < stop and (start < wanted.part[0] or stop > wanted.part[1]):
        first, last = wanted.part
        mine = f"rows {first:,}-{last - 1:,}" if first < last else "no rows"
        raise UsageError(
            f"{path} is for rows {start:,}-{stop - 1:,}, and this part is {mine}: give each part a file of its own, "
            "and new files to the parts of a dump that has grown"
        )
    nodes = dict(stored.nodes)
    if grown or wanted.source["n_rows"] != stored.source["n_rows"]:
        # The last chunk may have been rewritten, and the last segment may be longer now.
        nodes = {node: partial for node, partial in nodes.items() if span(node).stop <= stored.tail_segment}
    _check_rows(replace(stored, nodes=nodes), source, path)
    return replace(wanted, nodes=nodes, passes=stored.passes, workers=stored.workers if nodes else [])


def _check_rows(stored: State, source: Source, path: Path) -> None:
    """Refuse a source whose rows are not those that a file covers: as they are stored, and by the values of some."""
    covered, start_over = stored.covered, f"into {path} from {stored.source['uri']}: delete {path} to start over"
    for stretch in stored.stretches:
        is_covered = any(start < stretch.stop and stretch.start < stop for start, stop in covered)
        if is_covered and source.fingerprint(stretch.start, stretch.stop) != stretch.fingerprint:
            raise SourceChangedError(
                f"rows {stretch.start:,}-{stretch.stop - 1:,} of {source.uri} are not stored as they were when read "
                f"{start_over}"
            )
    noted = [partial.witnesses for partial in stored.nodes.values()]
    if not all(one.digests for one in noted) or (stored.passes and not stored.content):
        raise StateError(
            f"{path} was made by an older version, which noted no values of the rows, so it may be of another dump: "
            "delete it to start over, or let that version end the pass (rankme show and merge read the file)"
        )
    row = changed_row(noted, source)
    if row is not None:
        raise SourceChangedError(f"row {row:,} of {source.uri} has other values than when it was read {start_over}")
    first, last = stored.plan.row_start, stored.plan.row_stop
    if stored.passes and content_digest(source, first, last) != stored.content:
        raise SourceChangedError(
            f"rows {first:,}-{last - 1:,} of {source.uri} have other values than when an earlier pass read them "
            f"{start_over}"
        )


def drop_changed_rows(state: State, source: Source) -> tuple[State, list[Stretch]]:
    """Return a state without the rows that changed since their fingerprints were taken, and their stretches."""
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


def stored_plan(path: Path) -> Plan | None:
    """Return the plan of the pass in a file; None if there is no file.

    Temporary files of killed writers are removed.

    Raises
    ------
    UsageError
        If the path is inside a zarr store.
    StateError
        If the file is no state file, or damaged.
    OutputError
        If a file could not be written there.
    UsageError
        If an earlier version wrote it, whose float32 products cannot be joined to others.
    """
    check_place(path)
    state_file.remove_leftovers(path)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}, or no permission for it")
    if not path.exists():
        return None
    plan = read_plan(path)
    if METHODS[plan.method].draws_probes(plan.precision) and not plan.probe_seed:
        raise UsageError(
            f"{path} holds float32 products of an earlier version, which measured the error of a part of them: delete "
            "it to start over"
        )
    return plan


def check_place(path: Path) -> None:
    """Raise ``UsageError`` if a path is a zarr store or inside one, where no file may be written."""
    absolute = Path(os.path.abspath(path))
    for folder in (absolute, *absolute.parents):
        if any(os.path.lexists(folder / name) for name in _STORE_METADATA):
            raise UsageError(f"{folder} is a zarr store, and {path} would be written into it: give another path")


class Checkpoint:
    """Keeps a file up to date with a merge tree.

    Parameters
    ----------
    state
        State of the pass; its partial results are taken from the tree.
    machines
        Returns the machines that read since the pass was started or resumed.

    Attributes
    ----------
    failure
        Error of the last write; None if it succeeded. The pass goes on, since its result does not need the file.
    """

    def __init__(
        self,
        path: Path,
        state: State,
        tree: MergeTree[PartialResult],
        machines: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        self.path = path
        self.failure: OutputError | None = None
        self._state, self._tree, self._machines = state, tree, machines
        self._written = self._finished = time.monotonic()
        self._cost_s = 0.0
        self._writer: threading.Thread | None = None

    @property
    def age_s(self) -> float:
        """Age of the file's content in seconds."""
        return time.monotonic() - self._written

    def tick(self) -> None:
        """Write in the background if a write is due: 60 s, and 50 times its duration, after the last one ended."""
        if self._writer is not None and self._writer.is_alive():
            return
        if time.monotonic() - self._finished >= max(_PERIOD_S, _PERIODS_A_WRITE * self._cost_s):
            self._writer = threading.Thread(target=self._write, name="rankme-checkpoint")
            self._writer.start()

    @property
    def state(self) -> State:
        """State with the partial results in the tree now."""
        workers = joined_workers(self._state.workers, self._machines())
        return replace(self._state, nodes=self._tree.snapshot(), workers=workers)

    def save(self, state: State | None = None) -> None:
        """Write a state, or the present one, and return when the file is written."""
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
