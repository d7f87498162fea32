"""State of a pass in a file: the rows read so far, the arithmetic, and the partial results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.nystrom.test_vectors import OrthonormalBasis
from rankme_stream.errors import ArithmeticCheckError, RankMeError, StateError, UsageError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Device
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.numerics.machine import joined_workers
from rankme_stream.passes.planning.plan import Plan
from rankme_stream.passes.state import state_file
from rankme_stream.passes.state.audit import Rules
from rankme_stream.passes.state.merge_tree import IntervalSet, MergeTree, Node, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.state_record import check_node, check_nodes, checked_basis, checked_plan

_AGREE = (  # fields of the plans of two parts of one pass
    "method", "precision", "normalize", "n_features", "sketch_size", "seed", "probe_seed", "pass_number",
    "basis", "grid", "row_start",
)  # fmt: skip
_MEANING = ("dtype", "decoding", "codes", "scales")  # of an identity: ``decoding`` of the source has it in words
_RANGES_NAMED = 8  # missing ranges named in a message


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop), and the fingerprint of their storage when they were read."""

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
        Plan of the whole pass.
    tail_start
        First of the rows that are read again once the dump has grown.
    stretches
        All rows of the pass, in order; the fingerprint is empty where no row was to be read.
    anchor
        Fingerprint of the first row and the last, which is the same in every part of a pass.
    content
        Hash of the values of eight of all rows, the same in every part of a pass; empty in a state of version 1.
    part
        Rows [A, B) that the writer of the file reads: all of the pass, or those of one job of an array.
    is_checked
        Whether the rows were found unchanged after they were read.
    rules
        Handling of ``missing`` and ``nonfinite`` rows.
    passes
        Summaries of earlier passes by other arithmetics.
    workers
        Machines that read, as ``provenance`` lists them.
    nodes
        Partial results of the segments, merged as far as possible.
    basis
        Basis that an earlier pass found, if this one multiplies by it.
    """

    source: Mapping[str, Any]
    plan: Plan
    tail_start: int
    stretches: Sequence[Stretch]
    anchor: str
    content: str
    part: tuple[int, int]
    is_checked: bool
    rules: Mapping[str, Any]
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

    def merge_tree(self, device: Device = HOST) -> MergeTree[PartialResult]:
        """Return the tree of the partial results, on a device, ready to take more; the tail is merged last."""
        tree = MergeTree[PartialResult](self.tail_segment)
        with impossible_numbers(self.source["uri"]):
            for node, partial in self.nodes.items():
                tree.add_node(node, partial.on(device, self.arithmetic))
        return tree

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the stored rows of all parts together."""
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
        return [self.plan.rows_of(interval) for interval in IntervalSet(map(span, self.nodes))]

    def results_digest(self) -> str:
        """Return a hash of the partial results: equal for equal bits."""
        digest = blake2b(digest_size=16)
        for node, partial in sorted(self.nodes.items(), key=lambda item: item[0]):
            plain, arrays = partial.to_record()
            digest.update(repr((node, plain, sorted(arrays))).encode())
            for name in sorted(arrays):
                digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        return digest.hexdigest()


def difference(mine: State, theirs: State) -> str | None:
    """Return the difference that keeps two states from being parts of one pass, in words, or None."""
    for name in _AGREE:
        here, there = getattr(mine.plan, name), getattr(theirs.plan, name)
        if here != there:
            return f"{name.replace('_', ' ')} {there} there and {here} here"
    if mine.plan.groups != theirs.plan.groups:
        return f"{_describe_groups(theirs.plan)} there and {_describe_groups(mine.plan)} here"
    here, there = mine.source["identity"], theirs.source["identity"]
    for name in dict.fromkeys((*here, *there)):
        if here.get(name) != there.get(name):
            if name in _MEANING:
                return _other_values(name, _values(theirs), _values(mine))
            return f"{name.replace('_', ' ')} {there.get(name)} there and {here.get(name)} here"
    for option, here_rule in mine.rules.items():
        there_rule = theirs.rules[option]
        if here_rule != there_rule and "error" not in (here_rule, there_rule):
            return f"--{option} {there_rule} there and {here_rule} here"
    return None


def _values(state: State) -> str:
    """Return what the stored numbers of a state mean, in words; an older one says their type only."""
    return str(state.source.get("decoding") or state.source["dtype"])


def _other_values(name: str, there: str, here: str) -> str:
    return f"values {there} there and {here} here" if there != here else f"other {name} there than here"


def _describe_groups(plan: Plan) -> str:
    return f"{plan.n_groups:,} groups of labels {plan.groups}" if plan.groups else "no groups"


def joined_rules(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return rules that hold for both: a state that refuses such rows has none, so the rule of the other holds."""
    return {option: theirs[option] if rule == "error" else rule for option, rule in mine.items()}


def save_state(path: str | os.PathLike[str], state: State) -> int:
    """Write a state to a file, whole or not at all, replacing the one there; return its size in bytes.

    Raises
    ------
    OutputError
        If it cannot be written; the file there is then unchanged.

    Notes
    -----
    Each node of the merge tree takes a triangle of (D + 1)(D + 2)/2 doubles, or its rows where there are fewer than
    features, and one of them is in memory beside the state.
    """
    return state_file.write(Path(path), _plain(state), _records(state))


def create_state(path: str | os.PathLike[str], state: State) -> bool:
    """Write a state to a file as ``save_state`` does, unless there is one; return whether it was written.

    Of several processes that create one file at once, one succeeds.
    """
    return state_file.create(Path(path), _plain(state), _records(state))


def _plain(state: State) -> dict[str, Any]:
    return {
        "source": dict(state.source),
        "plan": state.plan.to_dict(),
        "tail_start": state.tail_start,
        "anchor": state.anchor,
        "content": state.content,
        "part": list(state.part),
        "is_checked": state.is_checked,
        "stretches": [[one.start, one.stop, one.fingerprint] for one in state.stretches],
        "rules": dict(state.rules),
        "passes": [dict(one) for one in state.passes],
        "workers": [dict(one) for one in state.workers],
    }


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
        If there is no such file, or it is damaged, of another kind, written by a newer version, or holds what no
        version writes.
    LimitError
        If there is not enough memory for what it holds.
    """
    with state_file.StateFile(Path(path)) as file, file.refusing(), memory_errors_as_limits():
        plain, plan = file.plain, checked_plan(file.plain)
        nodes: dict[Node, PartialResult] = {}
        basis: OrthonormalBasis | None = None
        for fields, arrays in file.records():
            if "basis" in arrays:
                basis = checked_basis(plan, arrays)
                continue
            node = check_node(plan, fields, arrays)
            nodes[node] = PartialResult.from_record(plan.arithmetic, fields, arrays)
        rules = Rules(**plain["rules"])  # with the default of those that an earlier version did not know
        check_nodes(plan, nodes, rules, basis)
    return State(
        plain["source"], plan, plain["tail_start"], [Stretch(*one) for one in plain["stretches"]], plain["anchor"],
        plain.get("content", ""), tuple(plain.get("part", (plan.row_start, plan.row_stop))), plain["is_checked"],
        rules._asdict(), plain["passes"], plain["workers"], nodes, basis,
    )  # fmt: skip


def read_plan(path: Path) -> Plan:
    """Return the plan of the pass in a file, without its partial results."""
    with state_file.StateFile(path) as file, file.refusing():
        return checked_plan(file.plain)


def read_basis(path: Path) -> OrthonormalBasis | None:
    """Return the basis that the pass in a file multiplies by, without its partial results."""
    with state_file.StateFile(path) as file, file.refusing():
        plan = checked_plan(file.plain)
        arrays = next((arrays for _, arrays in file.records()), {})
        return checked_basis(plan, arrays) if "basis" in arrays else None


def merge_states(states: Iterable[State], names: Sequence[str] = ()) -> State:
    """Return the parts of a pass as one; the same bits as if one process had read them all.

    Parameters
    ----------
    states
        In any order, taken one after another. States with equal contents count once.
    names
        Names of the states, for messages; their numbers if not given.

    Raises
    ------
    StateError
        If they are not parts of one pass, or hold the same rows with other numbers.
    """
    whole: State | None = None
    contents: dict[str, bool] = {}  # whether a state of that content is checked
    tree = MergeTree[PartialResult]()
    with blas_threads.one_thread():  # LAPACK merges factors, and its bits depend on the number of threads
        for number, state in enumerate(states):
            name = names[number] if names else f"state {number}"
            if whole is not None:
                _check_parts(whole, state, name)
            content = state.results_digest()
            is_new = content not in contents
            contents[content] = contents.get(content, False) or state.is_checked or not state.nodes
            if not is_new:
                continue
            if whole is None:
                tree.tail = state.tail_segment
            with impossible_numbers(state.source["uri"]):
                _add_nodes(tree, state, name)
            whole = state if whole is None else _join(whole, state)
    if whole is None:
        raise UsageError("no state was given")
    return replace(whole, nodes=tree.snapshot(), is_checked=all(contents.values()))


def _check_parts(whole: State, state: State, name: str) -> None:
    differs = difference(whole, state)
    is_as_long = state.plan.row_stop == whole.plan.row_stop
    if differs is None and is_as_long and (state.anchor, state.content) != (whole.anchor, whole.content):
        differs = (
            f"rows of {state.source['uri']} there and of {whole.source['uri']} here, or written again meanwhile; to "
            "join several arrays, read each part of a pass with segment over all of them opened as one"
        )
    if differs is not None:
        raise StateError(f"{name} is no part of the pass of the files before it: {differs}")
    if (changed := _describe_change(whole, state)) is not None:
        raise StateError(f"{name} is of {changed}, unlike the files before it: read the part again that is older")


def _describe_change(whole: State, state: State) -> str | None:
    """Return the rows of a state, in words, if they differ from those of ``whole``; None if they do not."""
    if state.plan.row_stop != whole.plan.row_stop:
        return f"rows up to {state.plan.row_stop:,}"
    if state.tail_start != whole.tail_start:
        return f"a dump of {state.source['n_rows']:,} rows"
    if len(state.stretches) != len(whole.stretches):
        return "rows divided into other stretches"
    for mine, other in zip(state.stretches, whole.stretches, strict=True):
        if mine != other and mine.fingerprint and other.fingerprint:
            return f"rows {mine.start:,}-{mine.stop - 1:,} as they were stored at another time"
    return None


def _add_nodes(tree: MergeTree[PartialResult], state: State, name: str) -> None:
    for node, partial in state.nodes.items():
        if tree.missing(span(node)) != [span(node)]:
            start, stop = state.plan.rows_of(span(node))
            raise StateError(
                f"{name} holds rows {start:,}-{stop - 1:,}, some of which are in the files before it, alone or merged "
                "with others: leave one of them out"
            )
        tree.add_node(node, partial.on(HOST, state.arithmetic))


def _join(whole: State, state: State) -> State:
    missing = (
        whole.source["chunks_missing"] + state.source["chunks_missing"]
    )  # a chunk that two parts share counts twice
    return replace(
        whole,
        part=(min(whole.part[0], state.part[0]), max(whole.part[1], state.part[1])),
        stretches=[
            mine if mine.fingerprint else other for mine, other in zip(whole.stretches, state.stretches, strict=True)
        ],
        rules=joined_rules(whole.rules, state.rules),
        workers=joined_workers(whole.workers, state.workers),
        source=dict(whole.source) | {"chunks_missing": missing},
    )


@contextmanager
def impossible_numbers(uri: str) -> Iterator[None]:
    """Raise ``StateError`` where numbers from a file cannot be computed with: no rows of ``uri`` give them."""
    try:
        with np.errstate(all="ignore"):
            yield
    except ArithmeticCheckError as error:
        raise _no_rows_give(uri, error) from error
    except RankMeError:
        raise
    except (ArithmeticError, ValueError) as error:
        raise _no_rows_give(uri, error) from error


def _no_rows_give(uri: str, error: Exception) -> StateError:
    return StateError(
        f"the state of a pass over {uri} holds numbers that no rows give, or this machine computes wrongly: "
        f"{' '.join(str(error).split())}"
    )


def check_complete(state: State) -> None:
    """Refuse a pass that lacks rows, naming them, or whose rows were not found unchanged after they were read."""
    gaps = state.missing
    if not gaps and not state.is_checked:
        raise StateError(
            f"the pass over {state.source['uri']} ended before its rows were seen to be unchanged: give the command "
            "that made the file once more"
        )
    if gaps:
        named = ", ".join(f"{first:,}-{last - 1:,}" for first, last in gaps[:_RANGES_NAMED])
        more = f" and {len(gaps) - _RANGES_NAMED} more ranges" if len(gaps) > _RANGES_NAMED else ""
        raise StateError(f"rows {named}{more} of {state.source['uri']} are in none of the files")
