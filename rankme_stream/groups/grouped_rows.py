"""All groups of some rows: divided by their labels, merged, and closed as soon as each is complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from rankme_stream.accumulators.method import PANEL_ROWS
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.groups.group import ClosedGroup, OpenGroup
from rankme_stream.groups.packing import pack_closed, pack_open, unpack_closed, unpack_open
from rankme_stream.groups.partition import Partition
from rankme_stream.groups.within_scatter import WithinScatter, join_scatters
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import Array, FloatArray, StoredType
from rankme_stream.sources import natural_key

_SHARED_FROM = 64  # groups that a merge closes; from here on threads share them
_MOST_DIGITS = 4000  # of a label taken as a number; Python reads 4,300

_Group = OpenGroup | ClosedGroup
_Build = Callable[[Workspace], OpenGroup]  # builds a group only when it is about to be closed, to save memory


def kept_dtype(stored: StoredType) -> np.dtype[Any]:
    """Return the smallest type that keeps rows exactly: the stored type, or float32, or float64."""
    if stored.decoding is None and stored.dtype.kind == "f":
        return stored.dtype
    return np.dtype(np.float32 if stored.fits_float32 else np.float64)


@dataclass(frozen=True)
class GroupedRows:
    """The groups of some rows.

    Attributes
    ----------
    n_features
        Width D of the rows.
    unit_roundoff
        Unit roundoff of the stored type.
    groups
        Groups by name; a group without a row among these is left out.
    scatters
        Scatter of the rows of closed groups about the means of their groups, by batch.
    n_all
        Number of groups in the whole pass.
    threads
        Number of threads that share the groups of a merge which closes more than half of all groups. A pass has one
        such merge at most, so that no more than these threads run beside those of the pass.
    n_unlabelled
        Number of rows without a label, which are in no group; rows left out are not counted.
    """

    n_features: int
    unit_roundoff: float
    groups: Mapping[str, _Group]
    scatters: Mapping[int, WithinScatter]
    n_all: int
    threads: int = 1
    n_unlabelled: int = 0

    def merge(self, other: GroupedRows) -> GroupedRows:
        """Return the groups of both sets of rows, those of ``other`` last; neither changes."""
        builds: dict[str, tuple[int, _Build]] = {}
        n_complete = 0
        for name, theirs in other.groups.items():
            mine = self.groups.get(name)
            if isinstance(mine, OpenGroup) and isinstance(theirs, OpenGroup):
                builds[name] = mine.batch, partial(mine.merge, theirs, self.n_features)
                n_complete += mine.n_seen + theirs.n_seen == mine.n_expected
            elif mine is not None:
                raise ArithmeticCheckError(f"group {name} has more rows than were counted; please report this")
        threads = max(self.threads, other.threads)
        n_shared = threads if n_complete >= max(_SHARED_FROM, self.n_all // 2 + 1) else 1
        both = {**self.groups, **other.groups}
        joined = GroupedRows(self.n_features, self.unit_roundoff, both, self.scatters, self.n_all, n_shared)
        groups, scatters = joined.build(builds, [other.scatters])
        n_unlabelled = self.n_unlabelled + other.n_unlabelled
        return GroupedRows(self.n_features, self.unit_roundoff, groups, scatters, self.n_all, threads, n_unlabelled)

    def build(
        self,
        builds: Mapping[str, tuple[int, _Build]],
        other_scatters: Sequence[Mapping[int, WithinScatter]] = (),
        scratch: Workspace | None = None,
    ) -> tuple[dict[str, _Group], dict[int, WithinScatter]]:
        """Return these groups and scatters with some groups built, closed where complete, and other scatters added.

        Each batch builds and closes one group before the next, in name order: few groups are complete and not closed
        at a time, and the order of additions depends on names alone.

        Parameters
        ----------
        builds
            Batch of each group and the function that builds it, by name.
        """
        by_batch: dict[int, dict[str, _Build]] = {
            batch: {} for batch in sorted({batch for batch, _ in builds.values()}.union(self.scatters, *other_scatters))
        }
        for name in sorted(builds):
            batch, build = builds[name]
            by_batch[batch][name] = build
        if self.threads > 1:
            with blas_threads.threads(self.threads, "rankme-groups") as pool:
                built = list(pool.map(lambda some: self._build_batch(some, Workspace()), by_batch.values()))
        else:
            workspace = Workspace() if scratch is None else scratch
            built = [self._build_batch(some, workspace) for some in by_batch.values()]
        groups, scatters = dict(self.groups), {}
        for batch, (built_groups, added) in zip(by_batch, built, strict=True):
            groups |= built_groups
            terms = [known[batch] for known in (self.scatters, *other_scatters) if batch in known]
            terms += [added] if added is not None else []
            if terms:
                scatters[batch] = join_scatters(terms)
        return groups, scatters

    def _build_batch(
        self, builds: Mapping[str, _Build], scratch: Workspace
    ) -> tuple[dict[str, _Group], WithinScatter | None]:
        """Return groups of one batch, closed where complete, and the scatter of those that were closed."""
        groups: dict[str, _Group] = {}
        scatter: WithinScatter | None = None
        waiting: list[FloatArray] = []
        for name, build in builds.items():
            group = build(scratch)
            if not group.is_complete:
                groups[name] = group
                continue
            scatter = scatter or WithinScatter.empty(self.n_features)
            groups[name], centered = group.close(self.n_features, scatter, self.unit_roundoff)
            waiting += [centered] if len(centered) else []
            if sum(map(len, waiting)) >= PANEL_ROWS:  # small groups share a product
                scatter.add_rows(np.concatenate(waiting), scratch)
                waiting = []
        if scatter is not None and waiting:
            scatter.add_rows(np.concatenate(waiting), scratch)
        return groups, scatter if scatter is not None and scatter.n_groups else None

    @property
    def closed(self) -> dict[str, ClosedGroup]:
        """The groups, all of which must be closed, in the natural order of their names."""
        closed = {name: group for name, group in self.groups.items() if isinstance(group, ClosedGroup)}
        if len(closed) != len(self.groups):
            raise ArithmeticCheckError("rows of some groups were not met although all were read; please report this")
        return {name: closed[name] for name in in_order(closed)}

    def to_record(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the groups as JSON types and arrays; ``from_record`` gives the same bits back."""
        still_open = {name: group for name, group in self.groups.items() if isinstance(group, OpenGroup)}
        closed = {name: group for name, group in self.groups.items() if isinstance(group, ClosedGroup)}
        plain = {
            "n_features": self.n_features, "unit_roundoff": self.unit_roundoff, "open": list(still_open),
            "closed": list(closed), "scatters": sorted(self.scatters), "n_all": self.n_all,
        }  # fmt: skip
        plain |= {"n_unlabelled": self.n_unlabelled} if self.n_unlabelled else {}
        packed = {"open": pack_open(list(still_open.values()), self.n_features)}
        packed |= {"closed": pack_closed(list(closed.values()), self.n_features)}
        packed |= {f"scatter {batch}": scatter.to_arrays() for batch, scatter in self.scatters.items()}
        return plain, {f"{key}/{name}": array for key, arrays in packed.items() for name, array in arrays.items()}

    @classmethod
    def from_record(cls, plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> GroupedRows:
        """Return the groups that ``to_record`` described."""
        parts: dict[str, dict[str, Array]] = {}
        for path, array in arrays.items():
            key, _, name = path.partition("/")
            parts.setdefault(key, {})[name] = array
        groups: dict[str, _Group] = dict(zip(plain["open"], unpack_open(parts["open"]), strict=True))
        groups |= zip(plain["closed"], unpack_closed(parts["closed"]), strict=True)
        scatters = {batch: WithinScatter.from_arrays(parts[f"scatter {batch}"]) for batch in plain["scatters"]}
        return cls(
            plain["n_features"], plain["unit_roundoff"], groups, scatters, plain["n_all"],
            n_unlabelled=plain.get("n_unlabelled", 0),
        )  # fmt: skip


def in_order(names: Mapping[str, Any]) -> list[str]:
    """Return sorted names of groups: by number if all are whole numbers or ``first:last``, else in natural order."""
    heads = [name.partition(":")[0] for name in names]
    if all(head.removeprefix("-").isdecimal() and len(head) <= _MOST_DIGITS for head in heads):
        return sorted(names, key=lambda name: int(name.partition(":")[0]))
    return sorted(names, key=natural_key)


class SegmentGrouper:
    """Collects the rows of one segment and divides them into groups.

    Parameters
    ----------
    partition
        Group of each row.
    stored
        Stored type of the rows.
    rows
        First and last row of the segment, [start, stop).
    n_features
        Width D of the rows.
    scratch
        Holds a copy of the rows until they are grouped.
    threads
        Number of threads, as in ``GroupedRows``.
    """

    def __init__(
        self,
        partition: Partition,
        stored: StoredType,
        rows: tuple[int, int],
        n_features: int,
        scratch: Workspace,
        threads: int,
    ) -> None:
        start, stop = rows
        dtype = kept_dtype(stored)
        self._partition, self._stored, self._start, self._scratch = partition, stored, start, scratch
        self._threads = threads
        self._is_as_stored = stored.decoding is None and dtype == stored.dtype
        self._rows = scratch.room("group rows", (stop - start, n_features), dtype)
        self._is_kept = np.empty(stop - start, bool)

    def add(self, row: int, stored: Array, panel: Array) -> None:
        """Add rows from ``row`` on: as they are stored, and as a panel, where rows left out have a zero in front."""
        offsets = slice(row - self._start, row - self._start + len(stored))
        self._rows[offsets, :] = stored if self._is_as_stored else panel[:, 1:]
        self._is_kept[offsets] = panel[:, 0] != 0.0

    def group(self) -> GroupedRows:
        """Return the groups of the rows of the segment that have a label."""
        n_rows, n_features = self._rows.shape
        codes = self._partition.group_indices(self._start, self._start + n_rows)
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
        builds: dict[str, tuple[int, _Build]] = {}
        n_unlabelled = 0
        for low, high in pairwise(edges):
            code = int(ordered[low])
            if code >= len(self._partition):
                n_unlabelled += int(self._is_kept[order[low:high]].sum())
                continue
            batch = int(self._partition.batches[code])
            builds[self._partition.names[code]] = batch, partial(self._open_group, code, order[low:high])
        n_all, unit_roundoff = len(self._partition), self._stored.unit_roundoff
        groups, scatters = GroupedRows(n_features, unit_roundoff, {}, {}, n_all).build(builds, scratch=self._scratch)
        return GroupedRows(n_features, unit_roundoff, groups, scatters, n_all, self._threads, n_unlabelled)

    def _open_group(self, code: int, offsets: Array, scratch: Workspace) -> OpenGroup:
        """Return a group of rows at some offsets in the segment; rows left out are counted only."""
        kept = offsets[self._is_kept[offsets]]
        pieces = (self._rows[kept],) if kept.size else ()
        batch, n_expected = int(self._partition.batches[code]), int(self._partition.counts[code])
        return OpenGroup(batch, n_expected, len(offsets), pieces).compact(self._rows.shape[1], scratch)
