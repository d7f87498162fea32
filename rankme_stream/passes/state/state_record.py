"""What a state file may hold: the types of its description, and what must hold between its numbers.

A checksum shows that a file is as it was written, not who wrote it. So nothing is computed from a file before it is
found to be of the form that ``save_state`` writes, with arrays of the sizes that its plan needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from rankme_stream.accumulators.accumulator import FILE_KEYS
from rankme_stream.accumulators.method import Arithmetic
from rankme_stream.accumulators.methods import ARITHMETICS, METHODS
from rankme_stream.accumulators.nystrom.test_vectors import PROBES, OrthonormalBasis
from rankme_stream.errors import StateError
from rankme_stream.groups.packing import check_packed
from rankme_stream.numerics.dtypes import Array, named_type
from rankme_stream.numerics.scaling import EXPONENTS
from rankme_stream.passes.planning.plan import Plan, fields_of
from rankme_stream.passes.state.audit import Audit, Rules
from rankme_stream.passes.state.merge_tree import IntervalSet, Node, span
from rankme_stream.passes.state.partial_result import PartialResult
from rankme_stream.passes.state.row_norms import RowNorms
from rankme_stream.passes.state.typed_json import check

_MOST_LEVEL = 62
_MOST_STRETCHES = 1000
_MOST_ROWS = 2**53
_TINY = {"n_features": 8, "sketch_size": 4}  # of an accumulator that shows which numbers there are


class _Part(TypedDict):
    name: str
    n_rows: int


class _Source(TypedDict):
    uri: str
    n_rows: int
    n_features: int
    dtype: str
    fingerprint: str
    identity: dict[str, Any]
    integrity: str
    unit_roundoff: float
    chunks_missing: int
    decoding: NotRequired[str]
    parts: NotRequired[list[_Part]]


class _Rules(TypedDict):
    missing: Literal["error", "skip", "fill"]
    nonfinite: Literal["error", "skip"]
    zeros: NotRequired[Literal["error", "skip", "count"]]


class _Worker(TypedDict):
    cpu: str
    blas: str
    python: str
    count: int
    blas_checked: NotRequired[bool]


class _Pass(TypedDict):
    method: str
    precision: str
    half_width: float
    turn: NotRequired[int]


class _State(TypedDict):
    source: _Source
    plan: dict[str, Any]
    tail_start: int
    stretches: list[tuple[int, int, str]]
    anchor: str
    content: NotRequired[str]
    part: NotRequired[tuple[int, int]]
    is_checked: bool
    rules: _Rules
    passes: list[_Pass]
    workers: list[_Worker]


class _Groups(TypedDict):
    n_features: int
    unit_roundoff: float
    open: list[str]
    closed: list[str]
    scatters: list[int]
    n_all: int
    n_unlabelled: NotRequired[int]


class _Node(TypedDict):
    node: tuple[int, int]
    audit: Audit
    lengths: RowNorms
    witnesses: NotRequired[list[tuple[int, str]]]
    groups: NotRequired[_Groups]


def checked_plan(plain: Mapping[str, Any]) -> Plan:
    """Return the plan of a state after a check of all that the file says beside its partial results.

    Raises
    ------
    StateError
        If a field is absent, of another type, or contradicts another.
    """
    check(plain, _State, "the state")
    check(fields_of(plain["plan"]), Plan, "the plan")
    plan, source = Plan.from_dict(plain["plan"]), plain["source"]
    rows = plan.grid.segment_rows
    stretches = [(start, stop) for start, stop, _ in plain["stretches"]]
    ends = [plan.row_start, *(stop for _, stop in stretches)]
    try:
        stored = named_type(source["dtype"])
    except (TypeError, ValueError):
        raise StateError("its rows are of no type that is read") from None
    first, last = plain.get("part", (plan.row_start, plan.row_stop))
    _require(stored.name == source["dtype"] and stored.unit_roundoff == source["unit_roundoff"], "type of the rows")
    _require(Arithmetic(plan.method, plan.precision) in ARITHMETICS, "method and precision")
    _require(0 <= plan.row_start < plan.row_stop <= source["n_rows"] <= _MOST_ROWS, "rows")
    _require(1 <= plan.n_features == source["n_features"] < 2**31, "number of features")
    _require(1 <= plan.grid.panel_rows <= rows == 1 << (rows.bit_length() - 1), "panels and segments")
    _require(plan.segments == len(plan.all_segments), "number of segments")
    _require(plan.seed < 2**64 and bool(plan.sketch_size) == METHODS[plan.method].is_sketch, "sketch")
    _require(
        plan.sketch_size <= max(2 * plan.n_features, 2**20)
        and (plan.pass_number == 0 or METHODS[plan.method].takes_passes),
        "sketch",
    )
    _require(bool(plan.groups) == bool(plan.n_groups), "groups")
    _require(plan.row_start // rows * rows <= plain["tail_start"] <= source["n_rows"], "tail")
    _require(len(stretches) <= _MOST_STRETCHES and ends[-1] == plan.row_stop, "stretches")
    _require(stretches == list(pairwise(ends)) and all(a < b for a, b in stretches), "stretches")
    _require(plan.row_start <= first <= last <= plan.row_stop, "part")
    return plan


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise StateError(f"its {what} cannot be so")


def check_node(plan: Plan, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> Node:
    """Return the node of a record after a check that record and arrays are those of a partial result of the plan.

    Raises
    ------
    StateError
        If a field or an array is absent, of another type or shape, or holds what is not finite.
    """
    check(plain, _Node, "a partial result")
    level, index = plain["node"]
    _require(level <= _MOST_LEVEL and index < 2**_MOST_LEVEL, "partial results")
    covered, everything = span((level, index)), plan.all_segments
    _require(everything.start <= covered.start and covered.stop <= everything.stop, "partial results")
    start, stop = plan.rows_of(covered)
    witnesses = [row for row, _ in plain.get("witnesses", ())]
    _require(witnesses == sorted(set(witnesses)) and all(start <= row < stop for row in witnesses), "noted rows")
    parts: dict[str, dict[str, Array]] = {}
    for path, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise StateError(f"the array {path[:40]!a} holds what is not finite")
        key, _, name = path.partition("/")
        parts.setdefault(key, {})[name] = array
    of_groups = parts.pop("groups", None)
    _require(parts.keys() == ({"raw", "unit"} if plan.normalize else {"raw"}), "arrays")
    _require((of_groups is not None) == bool(plan.groups) == ("groups" in plain), "groups")
    for part in parts.values():
        _check_accumulator(plan, part)
    if of_groups is not None:
        _check_groups(plan, plain["groups"], of_groups)
    return level, index


def _check_groups(plan: Plan, described: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    _require(described["n_features"] == plan.n_features and described["n_all"] == plan.n_groups, "groups")
    names = described["open"] + described["closed"]
    _require(len(set(names)) == len(names) <= plan.n_groups, "groups")
    check_packed(described, arrays, plan.n_features)


def _check_accumulator(plan: Plan, arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that are not those of an accumulator of a plan."""
    shapes = METHODS[plan.method].array_shapes(plan.size, plan.precision)
    kinds = _number_kinds(plan.arithmetic)
    for name in sorted(arrays.keys() & (shapes.keys() | kinds.keys())):
        array, shape = arrays[name], shapes.get(name, ())
        kind = "b" if name == "nonzero" else "f" if name in shapes else kinds[name]
        sizes_agree = len(shape) == array.ndim and all(
            found in size if isinstance(size, range) else found == size
            for size, found in zip(shape, array.shape, strict=True)
        )
        if not sizes_agree or array.dtype.kind not in kind or array.dtype.itemsize != (1 if kind == "b" else 8):
            raise StateError(f"the array {name} is of type {array.dtype} and shape {array.shape}")
    needed = (shapes.keys() | kinds.keys()) - {FILE_KEYS["pass_number"]}
    if "probes_seed" not in arrays:  # an earlier version, whose probes are not used any more
        needed = {name for name in needed if not name.startswith("probes")}
    if absent := sorted(needed - arrays.keys()):
        raise StateError(f"the array {absent[0]} is absent")
    given = {"n_features": plan.n_features, "sketch_size": plan.sketch_size, "seed": plan.seed}
    given |= {"pass_number": plan.pass_number, "probes_seed": plan.probe_seed}
    wanted = {FILE_KEYS.get(name, name): value for name, value in given.items()}
    for name, kind in kinds.items():
        value = arrays[name].item() if name in arrays else 0
        if name in wanted:
            _require(value == wanted[name], "sketches or width")
        elif "seed" not in name and "exponent" not in name:
            _require(value >= 0 and (kind == "f" or value <= _MOST_ROWS), "counts and bounds")
    exponent = arrays.get("exponent", np.array(0))  # there only for tiny rows
    _require(exponent.ndim == 0 and exponent.dtype.kind in "iu" and exponent.item() in EXPONENTS, "exponent")
    _require(arrays["filled"].item() <= len(arrays["rows"]) if "filled" in arrays else True, "gathered rows")


@cache
def _number_kinds(arithmetic: Arithmetic) -> dict[str, str]:
    """Return the kinds of dtype of the numbers, as against arrays, in the state of an accumulator."""
    method = METHODS[arithmetic.method]
    size = _TINY if method.is_sketch else {"n_features": _TINY["n_features"]}
    arrays = method.accumulator(arithmetic.precision)(**size).to_arrays()
    kinds = {name: array.dtype.kind for name, array in arrays.items() if array.ndim == 0}
    return {name: "iu" if kind in "iu" else kind for name, kind in kinds.items()}


def check_nodes(plan: Plan, nodes: Mapping[Node, PartialResult], rules: Rules, basis: OrthonormalBasis | None) -> None:
    """Refuse partial results that share rows, or do not count all of theirs, and a pass without its basis."""
    _require((basis is not None) == (plan.pass_number > 0), "basis")
    intervals = IntervalSet()
    for node, partial in nodes.items():
        if intervals.first_of(span(node)) is not None:
            raise StateError("two of its partial results share rows")
        intervals.add(span(node))
        start, stop = plan.rows_of(span(node))
        left_out = partial.audit.rows_left_out(rules)
        zeros = 0 if rules.zeros == "skip" else partial.audit.rows_zero  # which have no direction
        counts = {key: one.n_rows + (zeros if key == "unit" else 0) for key, one in partial.accumulators.items()}
        if any(count + left_out != stop - start for count in counts.values()):
            raise StateError("rows counted and rows read do not agree")


def checked_basis(plan: Plan, arrays: Mapping[str, Array]) -> OrthonormalBasis:
    """Return the basis of a later pass after a check of its shape."""
    rows = arrays["basis"]
    shape = (plan.sketch_size - PROBES, plan.n_features)
    if rows.dtype != np.float64 or rows.shape != shape or not np.isfinite(rows).all():
        raise StateError(f"its basis is of type {rows.dtype} and shape {rows.shape}, or not finite")
    return OrthonormalBasis(rows)
