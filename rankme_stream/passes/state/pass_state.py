"""A pass as far as it has come, in a file: what was read, by which arithmetic, and what it came to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import StateError, UsageError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state import state_file
from rankme_stream.passes.state.merge_tree import IntervalSet, MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult

_AGREE = (  # fields of the plans of two parts of one pass
    "method", "precision", "normalize", "n_features", "sketch_size", "seed", "pass_number", "basis", "grid",
    "row_start",
)  # fmt: skip
_NAMED = 8  # of what is missing, in a message


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop) and the fingerprint of what stored them when they were read."""

    start: int
    stop: int
    fingerprint: str


@dataclass(frozen=True)
class State:
    """A pass over rows of a source, or a part of one.

    Attributes
    ----------
    source
        ``uri``, ``n_rows``, ``n_features``, ``dtype``, ``fingerprint``, ``identity``, ``unit_roundoff``, ``integrity``
        and ``chunks_missing`` of the rows.
    plan
        Of the whole pass.
    tail_start
        Row from which on the rows are read again when the dump has grown.
    stretches
        All rows of the pass, in order; without a fingerprint where no row was to be read.
    anchor
        Fingerprint of the first row and the last, which every part of a pass has.
    is_checked
        Whether the rows that are covered were seen to be unchanged after they were read.
    rules
        ``missing`` and ``nonfinite``: what is done with such rows.
    passes
        What passes by other arithmetics before this one came to.
    workers
        Machines that read, as ``provenance`` lists them.
    nodes
        What the segments came to, merged as far as they can be.
    basis
        What an earlier pass found, where this one multiplies by it.
    """

    source: Mapping[str, Any]
    plan: Plan
    tail_start: int
    stretches: Sequence[Stretch]
    anchor: str
    is_checked: bool
    rules: Mapping[str, str]
    passes: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    nodes: Mapping[Node, PartialResult] = field(repr=False)
    basis: OrthonormalBasis | None = field(default=None, repr=False)

    @property
    def arithmetic(self) -> Arithmetic:
        """Method and precision."""
        return self.plan.arithmetic

    @property
    def tail_segment(self) -> int:
        """First segment of the tail."""
        return self.tail_start // self.plan.grid.segment_rows

    def forest(self, device: Device = HOST) -> MergeTree[PartialResult]:
        """Return what the segments came to, on a device, ready to take more; the tail is merged last."""
        forest = MergeTree[PartialResult](self.tail_segment)
        for node, partial in self.nodes.items():
            forest.add_node(node, partial.on(device, self.arithmetic))
        return forest

    @property
    def fingerprint(self) -> str:
        """What identifies the stored rows of all parts together."""
        digest = blake2b(digest_size=16)
        for stretch in self.stretches:
            digest.update(stretch.fingerprint.encode())
        return f"parts-{digest.hexdigest()}"

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Row ranges that were not read yet."""
        return [self.plan.rows_of(gap) for gap in IntervalSet(map(span, self.nodes)).missing(self.plan.all_segments)]

    @property
    def covered(self) -> list[tuple[int, int]]:
        """Row ranges that were read."""
        return [self.plan.rows_of(run) for run in IntervalSet(map(span, self.nodes))]

    def content(self) -> str:
        """Hash of what the segments came to: the same for the same bits."""
        digest = blake2b(digest_size=16)
        for node, partial in sorted(self.nodes.items(), key=lambda item: item[0]):
            plain, arrays = partial.to_record()
            digest.update(repr((node, plain, sorted(arrays))).encode())
            for name in sorted(arrays):
                digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        return digest.hexdigest()


def difference(mine: State, theirs: State) -> str | None:
    """Say what two states differ in that must agree for them to be parts of one pass; None where nothing does."""
    for what in _AGREE:
        here, there = getattr(mine.plan, what), getattr(theirs.plan, what)
        if here != there:
            return f"{what.replace('_', ' ')} {there} there and {here} here"
    if mine.plan.groups != theirs.plan.groups:
        return f"{_labelled(theirs.plan)} there and {_labelled(mine.plan)} here"
    here, there = mine.source["identity"], theirs.source["identity"]
    for what in here.keys() | there.keys():
        if here.get(what) != there.get(what):
            return f"{what.replace('_', ' ')} {there.get(what)} there and {here.get(what)} here"
    for what, here_rule in mine.rules.items():
        there_rule = theirs.rules[what]
        if here_rule != there_rule and "error" not in (here_rule, there_rule):
            return f"--{what} {there_rule} there and {here_rule} here"
    return None


def _labelled(plan: Plan) -> str:
    return f"{plan.n_groups:,} groups of labels {plan.groups}" if plan.groups else "no groups"


def joined_rules(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return the rules that both keep: where one refused such rows, it had none."""
    return {what: theirs[what] if rule == "error" else rule for what, rule in mine.items()}


def save_state(path: str | os.PathLike[str], state: State) -> int:
    """Write a state to a file, in place of what was there, whole or not at all; return its bytes.

    Raises
    ------
    OutputError
        If it cannot be written; what was there is kept then.

    Notes
    -----
    One triangle a node of the merge tree, (D + 1)(D + 2)/2 doubles, and one of them in memory beside the state.
    """
    plain = {
        "source": dict(state.source),
        "plan": state.plan.to_dict(),
        "tail_start": state.tail_start,
        "anchor": state.anchor,
        "is_checked": state.is_checked,
        "stretches": [[one.start, one.stop, one.fingerprint] for one in state.stretches],
        "rules": dict(state.rules),
        "passes": [dict(one) for one in state.passes],
        "workers": [dict(one) for one in state.workers],
    }
    return state_file.write(Path(path), plain, _records(state))


def _records(state: State) -> Iterator[state_file.Record]:
    if state.basis is not None:
        yield {}, {"basis": state.basis.rows}
    for node, partial in state.nodes.items():
        fields, arrays = partial.to_record()
        yield fields | {"node": list(node)}, arrays


def load_state(path: str | os.PathLike[str]) -> State:
    """Return the state in a file.

    Raises
    ------
    StateError
        If there is none, or it is damaged, of another kind, or written by a newer version.
    """
    with state_file.StateFile(Path(path)) as held:
        plain = held.plain
        plan = Plan.from_dict(plain["plan"])
        nodes: dict[Node, PartialResult] = {}
        basis: OrthonormalBasis | None = None
        for fields, arrays in held.records():
            if "node" in fields:
                nodes[fields["node"][0], fields["node"][1]] = PartialResult.from_record(plan.arithmetic, fields, arrays)
            else:
                basis = OrthonormalBasis(arrays["basis"])
    return State(
        plain["source"], plan, plain["tail_start"], [Stretch(*one) for one in plain["stretches"]], plain["anchor"],
        plain["is_checked"], plain["rules"], plain["passes"], plain["workers"], nodes, basis,
    )  # fmt: skip


def read_arithmetic(path: Path) -> tuple[Arithmetic, int]:
    """Return method, precision and number of the pass in a file, without what it came to."""
    with state_file.StateFile(path) as held:
        plan = held.plain["plan"]
    return Arithmetic(plan["method"], plan["precision"]), plan.get("turn", 0)


def read_basis(path: Path) -> OrthonormalBasis | None:
    """Return what the pass in a file multiplies by, without what it came to."""
    with state_file.StateFile(path) as held:
        for _, arrays in held.records():
            return OrthonormalBasis(arrays["basis"]) if "basis" in arrays else None
    return None


def merge_states(states: Iterable[State], names: Sequence[str] = ()) -> State:
    """Return the parts of a pass as one; the same bits as if one process had read them all.

    Parameters
    ----------
    states
        In any order, taken one after another. One that says the same as another counts once.
    names
        Of the states, for messages; their numbers when not given.

    Raises
    ------
    StateError
        If they are not parts of one pass, or hold the same rows and not the same numbers.
    """
    whole: State | None = None
    contents: dict[str, bool] = {}  # and whether a file of that content is checked
    forest = MergeTree[PartialResult]()
    with blas_threads.one_thread():  # factors are merged by LAPACK, whose bits follow its threads
        for number, state in enumerate(states):
            name = names[number] if names else f"state {number}"
            if whole is not None:
                _check_joins(whole, state, name)
            content = state.content()
            is_new = content not in contents
            contents[content] = contents.get(content, False) or state.is_checked or not state.nodes
            if not is_new:
                continue
            if whole is None:
                forest.tail = state.tail_segment
            _add(forest, state, name)
            whole = state if whole is None else _joined(whole, state)
    if whole is None:
        raise UsageError("no state was given")
    return replace(whole, nodes=forest.snapshot(), is_checked=all(contents.values()))


def _check_joins(whole: State, state: State, name: str) -> None:
    differs = difference(whole, state)
    is_as_long = state.plan.row_stop == whole.plan.row_stop
    if differs is None and is_as_long and state.anchor != whole.anchor:
        differs = f"rows of {state.source['uri']} there and of {whole.source['uri']} here, or written again meanwhile"
    if differs is not None:
        raise StateError(f"{name} is no part of the pass of the files before it: {differs}")
    if (changed := _changed(whole, state)) is not None:
        raise StateError(f"{name} is of {changed}, unlike the files before it: read the part again that is older")


def _changed(whole: State, state: State) -> str | None:
    """Say what rows a state is of, if not of those that another is of."""
    if state.plan.row_stop != whole.plan.row_stop:
        return f"rows up to {state.plan.row_stop:,}"
    if state.tail_start != whole.tail_start:
        return f"a dump of {state.source['n_rows']:,} rows"
    for mine, other in zip(state.stretches, whole.stretches, strict=True):
        if mine != other and mine.fingerprint and other.fingerprint:
            return f"rows {mine.start:,}-{mine.stop - 1:,} as they were stored at another time"
    return None


def _add(forest: MergeTree[PartialResult], state: State, name: str) -> None:
    for node, partial in state.nodes.items():
        if forest.missing(span(node)) != [span(node)]:
            start, stop = state.plan.rows_of(span(node))
            raise StateError(
                f"{name} holds rows {start:,}-{stop - 1:,}, some of which are in the files before it, alone or merged "
                "with others: leave one of them out"
            )
        forest.add_node(node, partial.on(HOST, state.arithmetic))


def _joined(whole: State, state: State) -> State:
    missing = whole.source["chunks_missing"] + state.source["chunks_missing"]  # one that two parts share counts twice
    return replace(
        whole,
        stretches=[
            mine if mine.fingerprint else other for mine, other in zip(whole.stretches, state.stretches, strict=True)
        ],
        rules=joined_rules(whole.rules, state.rules),
        workers=joined_workers(whole.workers, state.workers),
        source=dict(whole.source) | {"chunks_missing": missing},
    )


def check_complete(state: State) -> None:
    """Refuse a pass of which a part is missing, naming it, or not known to be of rows that stayed as they were."""
    gaps = state.missing
    if not gaps and not state.is_checked:
        raise StateError(
            f"the pass over {state.source['uri']} ended before its rows were seen to be unchanged: give the command "
            "that made the file once more"
        )
    if gaps:
        named = ", ".join(f"{first:,}-{last - 1:,}" for first, last in gaps[:_NAMED])
        more = f" and {len(gaps) - _NAMED} more ranges" if len(gaps) > _NAMED else ""
        raise StateError(f"rows {named}{more} of {state.source['uri']} are in none of the files")
