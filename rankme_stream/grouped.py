"""All groups of some rows: divided by their labels, merged, and closed as soon as each is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from rankme_stream.arrays import Array, StoredType
from rankme_stream.devices import Workspace
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.groups import Groups
from rankme_stream.members import Closed, Open, pack_closed, pack_open, unpack_closed, unpack_open
from rankme_stream.scatter import Scatter

_ROWS_AT_ONCE = 1024


def kept_dtype(stored: StoredType) -> np.dtype[Any]:
    """Return the smallest type in which rows are kept exactly: as they are stored, or float32, or float64."""
    if stored.is_float and stored.name != "bfloat16":
        return stored.dtype
    return np.dtype(np.float32 if stored.name == "bfloat16" or stored.dtype.itemsize <= 2 else np.float64)


@dataclass(frozen=True)
class Grouped:
    """The groups of some rows.

    Attributes
    ----------
    groups
        By name; those of which no row was met are not in.
    scatters
        By batch, how the rows of closed groups lie about the means of their groups.
    unit_roundoff
        Of the stored type.
    """

    n_features: int
    unit_roundoff: float
    groups: Mapping[str, Open | Closed]
    scatters: Mapping[int, Scatter]

    @classmethod
    def of(
        cls, rows: Array, is_kept: Array, start: int, table: Groups, unit_roundoff: float, scratch: Workspace
    ) -> Grouped:
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
        groups: dict[str, Open | Closed] = {}
        for low, high in pairwise(edges):
            code, mine = int(ordered[low]), order[low:high]
            kept = mine[is_kept[mine]]
            some = Open(
                int(table.batches[code]), int(table.counts[code]), high - low, (rows[kept],) if kept.size else ()
            )
            groups[table.names[code]] = some.settled(n_features, scratch)
        return cls(n_features, unit_roundoff, groups, {})._closed(list(groups), scratch)

    def merge(self, other: Grouped) -> Grouped:
        """Return those of both sets of rows, ``other``'s behind; neither changes."""
        groups, scratch = dict(self.groups), Workspace()
        met = []
        for name, theirs in other.groups.items():
            mine = groups.get(name)
            if mine is None:
                groups[name] = theirs
                continue
            if not (isinstance(mine, Open) and isinstance(theirs, Open)):
                raise ArithmeticCheckError(f"group {name} has more rows than were counted; please report this")
            groups[name] = mine.merge(theirs, self.n_features, scratch)
            met.append(name)
        scatters = dict(self.scatters)
        for batch, scatter in other.scatters.items():
            scatters[batch] = scatters[batch].merge(scatter) if batch in scatters else scatter
        return Grouped(self.n_features, self.unit_roundoff, groups, scatters)._closed(met, scratch)

    def _closed(self, names: Sequence[str], scratch: Workspace) -> Grouped:
        """Return the same with those groups of some names closed that are complete."""
        groups, scatters = dict(self.groups), dict(self.scatters)
        for batch, some in _by_batch(groups, names):
            fresh, waiting, n_waiting = Scatter(self.n_features), [], 0
            for name, group in some:
                groups[name], centered = group.close(self.n_features, fresh, self.unit_roundoff)
                waiting.append(centered)
                n_waiting += len(centered)
                if n_waiting >= _ROWS_AT_ONCE or name == some[-1][0]:  # small groups share a product
                    fresh.add_rows(np.concatenate(waiting), scratch)
                    waiting, n_waiting = [], 0
            if fresh.n_groups:
                scatters[batch] = scatters[batch].merge(fresh) if batch in scatters else fresh
        return Grouped(self.n_features, self.unit_roundoff, groups, scatters)

    @property
    def closed(self) -> dict[str, Closed]:
        """The groups, all of which must be closed, in the order of their names: numbers as numbers."""
        found = {name: group for name, group in self.groups.items() if isinstance(group, Closed)}
        if len(found) != len(self.groups):
            raise ArithmeticCheckError("rows of some groups were not met although all were read; please report this")
        return {name: found[name] for name in in_order(found)}

    def to_record(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return them as JSON types and arrays; ``from_record`` gives the same bits back."""
        still = {name: group for name, group in self.groups.items() if isinstance(group, Open)}
        done = {name: group for name, group in self.groups.items() if isinstance(group, Closed)}
        plain = {
            "n_features": self.n_features, "unit_roundoff": self.unit_roundoff, "open": list(still),
            "closed": list(done), "scatters": sorted(self.scatters),
        }  # fmt: skip
        packed = {"open": pack_open(list(still.values()), self.n_features)}
        packed |= {"closed": pack_closed(list(done.values()), self.n_features)}
        packed |= {f"scatter {batch}": scatter.to_arrays() for batch, scatter in self.scatters.items()}
        return plain, {f"{key}/{name}": array for key, arrays in packed.items() for name, array in arrays.items()}

    @classmethod
    def from_record(cls, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> Grouped:
        """Return what ``to_record`` described."""
        parts: dict[str, dict[str, Array]] = {}
        for path, array in arrays.items():
            key, _, name = path.partition("/")
            parts.setdefault(key, {})[name] = array
        groups: dict[str, Open | Closed] = dict(zip(plain["open"], unpack_open(parts["open"]), strict=True))
        groups |= zip(plain["closed"], unpack_closed(parts["closed"]), strict=True)
        scatters = {batch: Scatter.from_arrays(parts[f"scatter {batch}"]) for batch in plain["scatters"]}
        return cls(plain["n_features"], plain["unit_roundoff"], groups, scatters)


def _by_batch(
    groups: Mapping[str, Open | Closed], names: Sequence[str]
) -> Iterator[tuple[int, list[tuple[str, Open]]]]:
    """Yield batch and complete groups, in an order that hangs on nothing but names."""
    found = [(name, group) for name in sorted(names) if isinstance(group := groups[name], Open) and group.is_complete]
    found.sort(key=lambda item: item[1].batch)
    for batch, some in groupby(found, key=lambda item: item[1].batch):
        yield batch, list(some)


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
    """

    def __init__(
        self, table: Groups, stored: StoredType, start: int, stop: int, n_features: int, scratch: Workspace
    ) -> None:
        dtype = kept_dtype(stored)
        self._table, self._stored, self._start, self._scratch = table, stored, start, scratch
        self._is_as_stored = dtype == stored.dtype
        self._rows = scratch.room("group rows", (stop - start, n_features), dtype)
        self._is_kept = np.empty(stop - start, bool)

    def take(self, row: int, stored: Array, panel: Array) -> None:
        """Keep rows from ``row`` on: as they are stored, and in a panel, where those left out have a zero in front."""
        place = slice(row - self._start, row - self._start + len(stored))
        self._rows[place, :] = stored if self._is_as_stored else panel[:, 1:]
        self._is_kept[place] = panel[:, 0] != 0.0

    def divided(self) -> Grouped:
        """Return the groups."""
        return Grouped.of(
            self._rows, self._is_kept, self._start, self._table, self._stored.unit_roundoff, self._scratch
        )  # fmt: skip
