"""Rows on a card to accumulators: one thread queues run after run, and waits for each while the card does the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from rankme_stream.accumulators.accumulator import Accumulator, Queued
from rankme_stream.accumulators.float32_gram import overflow_error
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import RankMeError
from rankme_stream.numerics.devices.card import MISSING, Card, Event, Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.devices.known_products import check_slabs
from rankme_stream.numerics.dtypes import Array
from rankme_stream.numerics.scaling import exponent_of
from rankme_stream.passes.loop.group_feed import GroupFeed
from rankme_stream.passes.loop.row_faults import RowFaults, with_magnitude
from rankme_stream.passes.loop.segment import Interrupted, PassSpec
from rankme_stream.passes.loop.slot_feed import card_rows
from rankme_stream.passes.planning.block_layout import BlockRange
from rankme_stream.passes.planning.card_layout import exact_product_rows
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state.audit import Audit
from rankme_stream.passes.state.merge_tree import MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms, UnitNorms, rows_error, scale_rows
from rankme_stream.passes.state.witnesses import Witnesses, witness_rows


class CardRunner:
    """Reads runs of consecutive segments on a card, one after another, in ascending order.

    Every method is called by one thread. What ``read`` yields is complete: its work is done.

    Parameters
    ----------
    block_ranges
        Blocks that hold the rows of all runs, in row order.
    stop
        Checked between slabs; if set, ``Interrupted`` is raised.
    progress
        Called with the number of rows of each slab.
    """

    def __init__(
        self, spec: PassSpec, block_ranges: Iterable[BlockRange], stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._spec, self._card, self.stop, self._progress = spec, cast(Card, spec.device), stop, progress
        self._computing = self._card.stream()
        self._notes = _WitnessNotes(spec.plan) if _may_be_resumed(spec) else None
        self._groups = None if spec.groups is None else GroupFeed(spec, spec.groups)
        observers = [one for one in (self._notes, self._groups) if one is not None]
        self._rows = card_rows(spec, self._computing, block_ranges, observers)
        self._is_float64 = self._rows.kind.name == "float64"  # no other type holds numbers whose squares underflow
        self._may_be_tiny = self._is_float64  # until a row of usual size was met: the sum of all then needs no exponent
        self._faults, self._workspace = RowFaults(spec.source, spec.rules), Workspace(self._card)
        self._slabs: dict[str, Any] = {}
        # float64 products keep the chains of the host; the error of 16-bit ones is measured, and longer ones are faster
        is_16_bit, rows = spec.panel_type not in ("float64", "float32"), spec.plan.grid.panel_rows
        self._product_rows = exact_product_rows(rows, spec.plan.slab_rows) if is_16_bit else rows

    @property
    def bytes_read(self) -> int:
        """Bytes decoded so far."""
        return self._rows.bytes_read

    def read(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, PartialResult]]:
        """Yield each node, ascending, with the partial result of its segments.

        The work of the next node is queued before that of the last is waited for, so that the card is never idle.

        Raises
        ------
        NonFiniteError, ZeroRowError, MagnitudeError
            As where rows are looked at on the host; the message names the row.
        ArithmeticCheckError
            If the rows were multiplied wrongly.
        """
        last: _QueuedNode | None = None
        for node in nodes:
            try:
                queued = self._queue(node)
            except (RankMeError, Interrupted):
                if last is not None:
                    yield last.node, self._complete(last)  # a fault in its rows comes first
                raise
            if last is not None:
                yield last.node, self._complete(last)
            last = queued
        if last is not None:
            yield last.node, self._complete(last)

    def _queue(self, node: Node) -> _QueuedNode:
        """Queue the work of the segments of a node."""
        if self.stop.is_set():
            raise Interrupted
        first, last = self._spec.plan.rows_of(span(node))
        tree = MergeTree[PartialResult]()
        with self._computing:
            run = self._new_run(first, last)
            try:
                for segment in self._spec.plan.grid.segments(first, last):
                    tree.add(segment, self._queue_segment(segment, run))
            except RankMeError:
                self._row_audit(run)  # a fault in rows before those that could not be read comes first
                raise
            found = tree.total()
        return _QueuedNode(node, run, found, self._computing.record())

    def _complete(self, queued: _QueuedNode) -> PartialResult:
        """Wait for the work of a node and return its partial result."""
        queued.done.wait()
        self._card.check_settings(self._spec.plan.precision, self._spec.panel_type)  # before the result is believed
        run, found = queued.run, queued.found
        audit = self._judged(run, found)
        witnesses = Witnesses() if self._notes is None else self._notes.take(run.first, run.last)
        return replace(found, audit=audit, witnesses=witnesses)

    def check_products(self) -> None:
        """Form products that are known beforehand as ``read`` will, if it queues slabs of rows.

        Raises
        ------
        ArithmeticCheckError
            If one differs.
        """
        plan = self._spec.plan
        if plan.method == "gram":
            is_fast = METHODS[plan.method].multiplies_stored_rows(plan.precision)
            check_slabs(self._card, self._rows.kind, self._spec.panel_type, in_float32=is_fast)

    def close(self) -> None:
        """Read nothing more, and free the memory of slabs once queued work is done."""
        self._rows.close()
        self._computing.record().wait()
        self._slabs.clear()
        self._workspace.clear()

    def _new_run(self, first: int, last: int) -> _Run:
        card, plan, rows = self._card, self._spec.plan, self._product_rows
        seen = Seen(
            card.zeros((last - first,), np.uint8), card.zeros((len(plan.grid.segments(first, last)),)),
            card.zeros((plan.n_features,), np.uint8),
        )  # fmt: skip
        begin = first // plan.grid.segment_rows * plan.grid.segment_rows
        n_products = -(-(last - begin) // rows)
        return _Run(first, last, begin, seen, {key: card.zeros((n_products,), np.uint8) for key in self._keys}, [])

    @property
    def _keys(self) -> list[str]:
        return ["raw", "unit"] if self._spec.normalize else ["raw"]

    def _queue_segment(self, segment: int, run: _Run) -> PartialResult:
        """Queue the work of one segment and return its partial result, which holds when that work is done."""
        spec, grid = self._spec, self._spec.plan.grid
        first, last = spec.plan.rows_of(range(segment, segment + 1))
        made = {"raw": spec.make_accumulator(spec.plan.n_features, self._workspace)}
        if spec.normalize:
            error = rows_error(spec.plan.n_features)
            made["unit"] = spec.make_accumulator(spec.plan.n_features, self._workspace, rows_error=error)
        norms = UnitNorms(last - first, spec.plan.unit_rows) if spec.plan.unit_rows else None
        seen = run.seen_in(segment - run.first // grid.segment_rows)
        for start, end in grid.slabs(first, last, spec.plan.slab_rows):
            if self.stop.is_set():
                raise Interrupted
            slabs = self._filled_slabs(start, end, run, seen)
            if self._may_be_tiny:  # this waits for the card
                largest = float(self._card.download(seen.largest)[0])
                self._may_be_tiny = largest == 0.0 or exponent_of(largest) > 0
            if norms is not None:
                norms.add(start - first, slabs["raw"], self._card)
            for key, accumulator in made.items():
                self._add(accumulator, slabs[key], start, run, key)
            self._progress(end - start)
        found = PartialResult(made, Audit(), RowNorms(), None if self._groups is None else self._groups.take(segment))
        return found if norms is None else replace(found, row_norms=norms.sums, unit_maxima=norms.maxima)

    def _filled_slabs(self, start: int, end: int, run: _Run, of_segment: Seen) -> dict[str, Any]:
        """Queue the filling of slabs with rows [start, end) of a segment, and return them."""
        slabs = {key: self._slab(key)[: end - start, :] for key in self._keys}
        for row, stored in self._rows.rows(start, end):
            n_rows = stored.shape[0]
            seen = of_segment.part(row - run.first, row - run.first + n_rows)
            audit, out = self._faults.missing(row, n_rows)
            if out is not None:
                seen.flags[...] = self._card.upload(out * np.uint8(MISSING))
            run.pieces.append((row, n_rows, audit))
            piece = slabs["raw"][row - start : row - start + n_rows, :]
            self._card.fill_slab(stored, self._rows.kind, piece, seen, self._faults.skipped_flags)
        if "unit" in slabs and self._is_float64:
            scale_rows(slabs["raw"], slabs["unit"], self._card)
        elif "unit" in slabs:
            self._card.unit_rows(slabs["raw"], slabs["unit"])
        return slabs

    def _slab(self, key: str) -> Any:
        if key not in self._slabs:
            plan = self._spec.plan
            n_rows = min(plan.slab_rows, plan.row_stop - plan.row_start)
            self._slabs[key] = self._card.slab((n_rows, 1 + plan.n_features), self._spec.panel_type)
        return self._slabs[key]

    def _add(self, accumulator: Accumulator, slab: Any, start: int, run: _Run, key: str) -> None:
        """Add a slab to an accumulator: whole panels at once where it takes them so."""
        rows, begin = self._product_rows, run.begin
        for first, last in _whole_panels(start - begin, start - begin + slab.shape[0], rows):
            low, high = begin + first, begin + last
            while low < high and not self._takes_slabs(accumulator):
                end = min(low + rows, high)
                accumulator.update(slab[low - start : end - start, :], low)
                low = end
            if low < high and isinstance(accumulator, Queued):
                number, n_products = (low - begin) // rows, -(-(high - low) // rows)
                overflowed = run.overflowed[key][number : number + n_products]
                accumulator.queue(slab[low - start : high - start, :], rows, overflowed)

    def _takes_slabs(self, accumulator: Accumulator) -> bool:
        return isinstance(accumulator, Queued) and accumulator.takes_slabs(may_be_tiny=self._may_be_tiny)

    def _row_audit(self, run: _Run) -> Audit:
        """Return the audit of the rows of a run that were looked at; refuse those that are at fault.

        Their flags are fetched once the work of the current stream is done.
        """
        audit, flags = Audit(), self._card.download(run.seen.flags)
        for row, n_rows, of_missing in run.pieces:
            found = self._faults.of_flags(row, flags[row - run.first : row - run.first + n_rows])
            audit = audit.merge(of_missing).merge(found)
        return audit

    def _judged(self, run: _Run, found: PartialResult) -> Audit:
        """Return the audit of the rows of a run whose work is done; refuse what is at fault."""
        card, audit = self._card, self._row_audit(run)
        nonzero = card.download(run.seen.nonzero) != 0
        for key, accumulator in found.accumulators.items():
            for number in np.flatnonzero(card.download(run.overflowed[key])).tolist():
                low = run.begin + number * self._product_rows
                raise overflow_error(max(low, run.first), min(low + self._product_rows, run.last))
            if isinstance(accumulator, Queued):
                accumulator.set_nonzero(nonzero)
            accumulator.check(run.first, run.last)
        if not self._spec.source.stored.may_be_large:  # it traveled as float64, and is not
            return audit
        return with_magnitude(audit, float(card.download(run.seen.largest).max()))


class _Run(NamedTuple):
    """Rows [first, last) of a run: what the card sees in them, and the pieces in which it was given them.

    Panels are counted from row ``begin``, where the first segment begins, read or not. ``seen`` has a largest magnitude
    for each segment; ``overflowed`` has a number for each product and accumulator. A piece has a first row, a number of
    rows and the audit of those that are missing.
    """

    first: int
    last: int
    begin: int
    seen: Seen
    overflowed: dict[str, Any]
    pieces: list[tuple[int, int, Audit]]

    def seen_in(self, number: int) -> Seen:
        """Return what is seen in the rows of a segment, counted from the first of the run."""
        return self.seen._replace(largest=self.seen.largest[number : number + 1])


class _QueuedNode(NamedTuple):
    """A node whose work is queued, what holds when it is done, and the point at which it is."""

    node: Node
    run: _Run
    found: PartialResult
    done: Event


class _WitnessNotes:
    """Notes a few rows of every segment as they are read, by any thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._lock = plan, threading.Lock()
        self._digests: dict[int, str] = {}

    def __call__(self, start: int, stored: Array) -> None:
        """Note the wanted rows among stored ones."""
        plan = self._plan
        for segment in plan.grid.segments(start, start + len(stored)):
            wanted = witness_rows(*plan.rows_of(range(segment, segment + 1)))
            found = Witnesses.of(wanted, start, stored)
            with self._lock:
                self._digests.update(found.digests)

    def take(self, first: int, last: int) -> Witnesses:
        """Return those of rows [first, last), which are forgotten here."""
        with self._lock:
            taken = {row: self._digests.pop(row) for row in list(self._digests) if first <= row < last}
        return Witnesses().merge(Witnesses(taken))


def _may_be_resumed(spec: PassSpec) -> bool:
    """Return whether a later run may have to recognise the dump."""
    return spec.plan.sample_rows == 0 and spec.source.reopen() is not None


def _whole_panels(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield row ranges of consecutive whole panels, and each shorter panel alone."""
    while start < stop:
        whole = stop // rows * rows
        end = min(stop, (start // rows + 1) * rows) if start % rows or whole <= start else whole
        yield start, end
        start = end
