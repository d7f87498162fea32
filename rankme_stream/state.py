"""A pass as far as it has come, in a file: what was read, by which arithmetic, and what it came to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rankme_stream import container
from rankme_stream.errors import StateError, UsageError
from rankme_stream.ledger import Forest, Node
from rankme_stream.partial import Partial, Rung
from rankme_stream.planning import Plan

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
        All rows of the pass, in order.
    rules
        ``missing`` and ``nonfinite``: what is done with such rows.
    passes
        What passes by other arithmetics before this one came to.
    workers
        Machines that read, as ``provenance`` lists them.
    nodes
        What the segments came to, merged as far as they can be.
    """

    source: Mapping[str, Any]
    plan: Plan
    tail_start: int
    stretches: Sequence[Stretch]
    rules: Mapping[str, str]
    passes: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    nodes: Mapping[Node, Partial] = field(repr=False)

    @property
    def rung(self) -> Rung:
        """Method and precision."""
        return self.plan.method, self.plan.precision

    @property
    def segments(self) -> range:
        """Segments of the whole pass."""
        return self.plan.grid.segments(self.plan.row_start, self.plan.row_stop)

    def forest(self) -> Forest[Partial]:
        """Return what the segments came to, ready to take more; the tail is merged last."""
        forest = Forest[Partial](self.tail_start // self.plan.grid.segment_rows)
        for node, partial in self.nodes.items():
            forest.add_node(node, partial)
        return forest

    def rows_of(self, segments: range) -> tuple[int, int]:
        """Return the rows [A, B) of some segments."""
        rows = self.plan.grid.segment_rows
        return max(self.plan.row_start, segments.start * rows), min(self.plan.row_stop, segments.stop * rows)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Row ranges that were not read yet."""
        return [self.rows_of(gap) for gap in self.forest().missing(self.segments)]

    @property
    def covered(self) -> list[tuple[int, int]]:
        """Row ranges that were read."""
        return [self.rows_of(run) for run in self.forest().covered()]

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
    for what in ("method", "precision", "normalize", "n_features", "grid", "row_start"):
        here, there = getattr(mine.plan, what), getattr(theirs.plan, what)
        if here != there:
            return f"{what.replace('_', ' ')} {there} there and {here} here"
    here, there = mine.source["identity"], theirs.source["identity"]
    for what in here.keys() | there.keys():
        if here.get(what) != there.get(what):
            return f"{what.replace('_', ' ')} {there.get(what)} there and {here.get(what)} here"
    for what, here_rule in mine.rules.items():
        there_rule = theirs.rules[what]
        if here_rule != there_rule and "error" not in (here_rule, there_rule):
            return f"--{what} {there_rule} there and {here_rule} here"
    return None


def joined_rules(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return the rules that both keep: where one refused such rows, it had none."""
    return {what: theirs[what] if rule == "error" else rule for what, rule in mine.items()}


def joined_workers(*listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all machines, those that are alike counted together: the most that were at work at once."""
    found: dict[str, dict[str, Any]] = {}
    for worker in (worker for workers in listed for worker in workers):
        key = repr(sorted((name, value) for name, value in worker.items() if name != "count"))
        before = found.setdefault(key, dict(worker))
        before["count"] = max(before["count"], worker["count"])
    return list(found.values())


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
        "stretches": [[one.start, one.stop, one.fingerprint] for one in state.stretches],
        "rules": dict(state.rules),
        "passes": [dict(one) for one in state.passes],
        "workers": [dict(one) for one in state.workers],
    }
    return container.write(Path(path), plain, _records(state))


def _records(state: State) -> Iterator[container.Record]:
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
    held = container.Container(Path(path))
    plain = held.plain
    plan = Plan.from_dict(plain["plan"])
    rung = (plan.method, plan.precision)
    nodes: dict[Node, Partial] = {
        (fields["node"][0], fields["node"][1]): Partial.from_record(rung, fields, arrays)
        for fields, arrays in held.records()
    }
    return State(
        plain["source"], plan, plain["tail_start"], [Stretch(*one) for one in plain["stretches"]], plain["rules"],
        plain["passes"], plain["workers"], nodes,
    )  # fmt: skip


def merge_states(states: Sequence[State], names: Sequence[str] = ()) -> State:
    """Return the parts of a pass as one; the same bits as if one process had read them all.

    Parameters
    ----------
    states
        In any order. One that says the same as another counts once.
    names
        Of the states, for messages; their numbers when not given.

    Raises
    ------
    StateError
        If they are not parts of one pass, or hold the same rows and not the same numbers.
    """
    if not states:
        raise UsageError("no state was given")
    names = names or [f"state {number}" for number in range(len(states))]
    whole, contents = states[0], {states[0].content(): names[0]}
    for name, state in zip(names[1:], states[1:], strict=True):
        if (differs := difference(whole, state)) is not None:
            raise StateError(f"{name} and {names[0]} are not parts of one pass: {differs}")
        if (state.plan.row_stop, state.stretches) != (whole.plan.row_stop, whole.stretches):
            raise StateError(f"{name} is of {_changed(whole, state)}, and {names[0]} of other rows: read it again")
        content = state.content()
        if content in contents:
            continue
        contents[content] = name
        whole = _joined(whole, state, name)
    return whole


def _changed(whole: State, state: State) -> str:
    if state.plan.row_stop != whole.plan.row_stop:
        return f"rows up to {state.plan.row_stop:,}"
    changed = next(mine for mine, other in zip(state.stretches, whole.stretches, strict=True) if mine != other)
    return f"rows {changed.start:,}-{changed.stop - 1:,} as they were stored at another time"


def _joined(whole: State, state: State, name: str) -> State:
    forest = whole.forest()
    for first, last in state.covered:
        rows = whole.plan.grid.segments(first, last)
        held = len(rows) - sum(map(len, forest.missing(rows)))
        if held:
            raise StateError(
                f"{name} holds rows {first:,}-{last - 1:,}, some of which are in the files before it with other "
                "content: leave one of them out"
            )
    for node, partial in state.nodes.items():
        forest.add_node(node, partial)
    return replace(
        whole, nodes=forest.snapshot(), rules=joined_rules(whole.rules, state.rules),
        workers=joined_workers(whole.workers, state.workers),
        source=dict(whole.source)
        | {"chunks_missing": max(whole.source["chunks_missing"], state.source["chunks_missing"])},
    )  # fmt: skip


def check_complete(state: State) -> None:
    """Refuse a pass of which a part is missing, naming it."""
    gaps = state.missing
    if gaps:
        named = ", ".join(f"{first:,}-{last - 1:,}" for first, last in gaps[:_NAMED])
        more = f" and {len(gaps) - _NAMED} more ranges" if len(gaps) > _NAMED else ""
        raise StateError(f"rows {named}{more} of {state.source['uri']} are in none of the files")
