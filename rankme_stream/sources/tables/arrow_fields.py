"""Which buffers of a batch of Arrow hold a column."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from rankme_stream.sources.tables.columns import Column


class Level(NamedTuple):
    """Structure, list or numbers of a column, from the outermost.

    Attributes
    ----------
    type
        Type of Arrow.
    node
        Number of the field.
    buffer
        Number of its first buffer, which says what is null; behind it those of its offsets or numbers.
    """

    type: Any
    node: int
    buffer: int


class FieldPlace(NamedTuple):
    """Levels of a column, and what stands before it and in all.

    Attributes
    ----------
    levels
        As above.
    n_views
        Number of fields of views before it, which have further buffers.
    n_nodes, n_buffers
        Number of fields and buffers in all, without those further ones.
    """

    levels: tuple[Level, ...]
    n_views: int
    n_nodes: int
    n_buffers: int


def place_of(schema: Any, column: Column) -> FieldPlace:
    """Return where a column of a schema lies in every batch."""
    levels: list[Level] = []
    before, whole = _Count(), _Count()
    for number, field in enumerate(schema):
        if number < column.path[0]:
            before.add(field.type)
        whole.add(field.type)
    kind = _storage(schema.field(column.path[0]).type)
    for number in column.path[1:]:
        levels.append(Level(kind, before.nodes, before.buffers))
        before.nodes, before.buffers = before.nodes + 1, before.buffers + 1
        for earlier in range(number):
            before.add(kind.field(earlier).type)
        kind = _storage(kind.field(number).type)
    for depth in range(column.depth + 1):
        levels.append(Level(kind, before.nodes, before.buffers))
        before.nodes, before.buffers = before.nodes + 1, before.buffers + 1 + (not pa.types.is_fixed_size_list(kind))
        if depth < column.depth:
            kind = _storage(kind.value_type)
    return FieldPlace(tuple(levels), before.views, whole.nodes, whole.buffers)


class _Count:
    """Number of fields and buffers of types, and of those whose number of buffers is not the same in all batches."""

    def __init__(self) -> None:
        self.nodes = self.buffers = self.views = 0

    def add(self, kind: Any) -> None:
        """Count a type and those in it."""
        waiting = [kind]
        while waiting:
            kind = _storage(waiting.pop())
            self.nodes += 1
            self.buffers += _n_buffers(kind)
            self.views += pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
            if not pa.types.is_dictionary(kind):
                waiting += [kind.field(number).type for number in range(kind.num_fields)]


def _n_buffers(kind: Any) -> int:
    """Return the number of buffers of a type by itself."""
    types = pa.types
    if types.is_null(kind) or types.is_run_end_encoded(kind):
        return 0
    if types.is_struct(kind) or types.is_fixed_size_list(kind):
        return 1
    if types.is_union(kind):
        return 2 if kind.mode == "dense" else 1
    is_long = types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind)
    if is_long or types.is_large_binary(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return 3
    return 2


def _storage(kind: Any) -> Any:
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind
