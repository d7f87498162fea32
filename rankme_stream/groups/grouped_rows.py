"""All groups of some rows: divided by their labels, merged, and closed as soon as each is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.groups.group import ClosedGroup, OpenGroup
from rankme_stream.groups.packing import pack_closed, pack_open, unpack_closed, unpack_open
from rankme_stream.groups.partition import Partition
from rankme_stream.groups.within_scatter import WithinScatter, join_scatters
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType

_ROWS_AT_ONCE = 1024

_MANY = 64  # groups to close, from which on threads share them

_Make = Callable[[Workspace], OpenGroup]  # a group that is made when its turn comes


def kept_dtype(stored: StoredType) -> np.dtype[Any]:
    """Return the smallest type in which rows are kept exactly: as they are stored, or float32, or float64."""
    if stored.is_float and stored.name != "bfloat16":
        return stored.dtype
    return np.dtype(np.float32 if stored.name == "bfloat16" or stored.dtype.itemsize <= 2 else np.float64)


@dataclass(frozen=True)
class GroupedRows:
    """The groups of some rows.

    Attributes
    ----------
    groups
        By name; those of which no row was met are not in.
    scatters
        By batch, how the rows of closed groups lie about the means of their groups.
    unit_roundoff
        Of the stored type.
    n_all
        Groups of the whole pass.
    threads
        That share the groups of a merge that closes more than half of all: one merge of a pass at most, so that no more
        than so many are at work beside those of the pass.
    """

    n_features: int
    unit_roundoff: float
    groups: Mapping[str, OpenGroup | ClosedGroup]
    scatters: Mapping[int, WithinScatter]
    n_all: int
    threads: int = 1

    @classmethod
    def of(
        cls,
        rows: Array,
        is_kept: Array,
        start: int,
        table: Partition,
        unit_roundoff: float,
        scratch: Workspace,
        threads: int = 1,
    ) -> GroupedRows:
        """Divide the rows of a segment.

        Parameters
        ----------
        rows
            Shape ``(n, D)``, as ``kept_dtype`` says; those that are left out hold anything.
        is_kept
            Shape ``(n,)``, whether each is in.
        start
            Number of the first row.
        """
        n_features = rows.shape[1]
        codes = table.of(start, start + len(rows))
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
        made: dict[str, tuple[int, _Make]] = {}
        for low, high in pairwise(edges):
            code, mine = int(ordered[low]), order[low:high]
            batch, n_expected = int(table.batches[code]), int(table.counts[code])
            made[table.names[code]] = batch, partial(_taken, batch, n_expected, rows, mine, is_kept)
        groups, scatters = cls(n_features, unit_roundoff, {}, {}, len(table))._made_anew(made, [], scratch)
        return cls(n_features, unit_roundoff, groups, scatters, len(table), threads)

    def merge(self, other: GroupedRows) -> GroupedRows:
        """Return those of both sets of rows, ``other``'s behind; neither changes."""
        made: dict[str, tuple[int, _Make]] = {}
        n_whole = 0
        for name, theirs in other.groups.items():
            mine = self.groups.get(name)
            if isinstance(mine, OpenGroup) and isinstance(theirs, OpenGroup):
                made[name] = mine.batch, partial(mine.merge, theirs, self.n_features)
                n_whole += mine.n_seen + theirs.n_seen == mine.n_expected
            elif mine is not None:
                raise ArithmeticCheckError(f"group {name} has more rows than were counted; please report this")
        threads = max(self.threads, other.threads)
        n_shared = threads if n_whole >= max(_MANY, self.n_all // 2 + 1) else 1
        both = {**self.groups, **other.groups}
        whole = GroupedRows(self.n_features, self.unit_roundoff, both, self.scatters, self.n_all, n_shared)
        groups, scatters = whole._made_anew(made, [other.scatters], None)
        return GroupedRows(self.n_features, self.unit_roundoff, groups, scatters, self.n_all, threads)

    def _made_anew(
        self,
        made: Mapping[str, tuple[int, _Make]],
        others: Sequence[Mapping[int, WithinScatter]],
        scratch: Workspace | None,
    ) -> tuple[dict[str, OpenGroup | ClosedGroup], dict[int, WithinScatter]]:
        """Return the groups with some made anew and closed where complete, and the scatters with those of others.

        Of each batch one group at a time, so that few are whole and not closed, in an order that hangs on names alone.
        """
        by_batch: dict[int, dict[str, _Make]] = {
            batch: {} for batch in sorted({batch for batch, _ in made.values()}.union(self.scatters, *others))
        }
        for name in sorted(made):
            batch, make = made[name]
            by_batch[batch][name] = make
        if self.threads > 1:
            with blas_threads.threads(self.threads, "rankme-groups") as pool:
                done = list(pool.map(lambda some: self._closed(some, Workspace()), by_batch.values()))
        else:
            place = Workspace() if scratch is None else scratch
            done = [self._closed(some, place) for some in by_batch.values()]
        groups, scatters = dict(self.groups), {}
        for batch, (found, fresh) in zip(by_batch, done, strict=True):
            groups |= found
            parts = [held[batch] for held in (self.scatters, *others) if batch in held]
            parts += [fresh] if fresh is not None else []
            if parts:
                scatters[batch] = join_scatters(parts)
        return groups, scatters

    def _closed(
        self, made: Mapping[str, _Make], scratch: Workspace
    ) -> tuple[dict[str, OpenGroup | ClosedGroup], WithinScatter | None]:  # fmt: skip
        """Make groups of one batch; return them, and how the rows of those that were closed lie about their means."""
        groups: dict[str, OpenGroup | ClosedGroup] = {}
        fresh: WithinScatter | None = None
        waiting: list[FloatArray] = []
        for name, make in made.items():
            group = make(scratch)
            if not group.is_complete:
                groups[name] = group
                continue
            fresh = fresh or WithinScatter(self.n_features)
            groups[name], centered = group.close(self.n_features, fresh, self.unit_roundoff)
            waiting += [centered] if len(centered) else []
            if sum(map(len, waiting)) >= _ROWS_AT_ONCE:  # small groups share a product
                fresh.add_rows(np.concatenate(waiting), scratch)
                waiting = []
        if fresh is not None and waiting:
            fresh.add_rows(np.concatenate(waiting), scratch)
        return groups, fresh if fresh is not None and fresh.n_groups else None

    @property
    def closed(self) -> dict[str, ClosedGroup]:
        """The groups, all of which must be closed, in the order of their names: numbers as numbers."""
        found = {name: group for name, group in self.groups.items() if isinstance(group, ClosedGroup)}
        if len(found) != len(self.groups):
            raise ArithmeticCheckError("rows of some groups were not met although all were read; please report this")
        return {name: found[name] for name in in_order(found)}

    def to_record(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return them as JSON types and arrays; ``from_record`` gives the same bits back."""
        still = {name: group for name, group in self.groups.items() if isinstance(group, OpenGroup)}
        done = {name: group for name, group in self.groups.items() if isinstance(group, ClosedGroup)}
        plain = {
            "n_features": self.n_features, "unit_roundoff": self.unit_roundoff, "open": list(still),
            "closed": list(done), "scatters": sorted(self.scatters), "n_all": self.n_all,
        }  # fmt: skip
        packed = {"open": pack_open(list(still.values()), self.n_features)}
        packed |= {"closed": pack_closed(list(done.values()), self.n_features)}
        packed |= {f"scatter {batch}": scatter.to_arrays() for batch, scatter in self.scatters.items()}
        return plain, {f"{key}/{name}": array for key, arrays in packed.items() for name, array in arrays.items()}

    @classmethod
    def from_record(cls, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> GroupedRows:
        """Return what ``to_record`` described."""
        parts: dict[str, dict[str, Array]] = {}
        for path, array in arrays.items():
            key, _, name = path.partition("/")
            parts.setdefault(key, {})[name] = array
        groups: dict[str, OpenGroup | ClosedGroup] = dict(zip(plain["open"], unpack_open(parts["open"]), strict=True))
        groups |= zip(plain["closed"], unpack_closed(parts["closed"]), strict=True)
        scatters = {batch: WithinScatter.from_arrays(parts[f"scatter {batch}"]) for batch in plain["scatters"]}
        return cls(plain["n_features"], plain["unit_roundoff"], groups, scatters, plain["n_all"])


def _taken(batch: int, n_expected: int, rows: Array, mine: Array, is_kept: Array, scratch: Workspace) -> OpenGroup:
    """Return the group of some of the rows, those left out counted."""
    kept = mine[is_kept[mine]]
    pieces = (rows[kept],) if kept.size else ()
    return OpenGroup(batch, n_expected, len(mine), pieces).settled(rows.shape[1], scratch)


def in_order(names: Mapping[str, Any]) -> list[str]:
    """Return names of groups sorted: whole numbers and ``first:last`` by size where all are such, else as text."""
    heads = [name.partition(":")[0] for name in names]
    if all(head.removeprefix("-").isdecimal() for head in heads):
        return sorted(names, key=lambda name: int(name.partition(":")[0]))
    return sorted(names)


class Division:
    """The rows of one segment on their way into groups.

    Parameters
    ----------
    table
        Which row is in which group.
    stored
        Type of the rows.
    start, stop
        The rows [start, stop) of the segment.
    threads
        For ``Grouped``.
    """

    def __init__(
        self,
        table: Partition,
        stored: StoredType,
        start: int,
        stop: int,
        n_features: int,
        scratch: Workspace,
        threads: int,
    ) -> None:
        dtype = kept_dtype(stored)
        self._table, self._stored, self._start, self._scratch = table, stored, start, scratch
        self._threads = threads
        self._is_as_stored = dtype == stored.dtype
        self._rows = scratch.room("group rows", (stop - start, n_features), dtype)
        self._is_kept = np.empty(stop - start, bool)

    def take(self, row: int, stored: Array, panel: Array) -> None:
        """Keep rows from ``row`` on: as they are stored, and in a panel, where those left out have a zero in front."""
        place = slice(row - self._start, row - self._start + len(stored))
        self._rows[place, :] = stored if self._is_as_stored else panel[:, 1:]
        self._is_kept[place] = panel[:, 0] != 0.0

    def divided(self) -> GroupedRows:
        """Return the groups."""
        return GroupedRows.of(
            self._rows, self._is_kept, self._start, self._table, self._stored.unit_roundoff, self._scratch,
            self._threads,
        )  # fmt: skip
