"""Columns of a table that may be rows: lists of numbers, and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.sources.stores.file_pattern import is_pattern

_LISTED = 12  # columns in a message
_DEEPEST = 32  # structures in structures


@dataclass(frozen=True)
class Column:
    """Column of a table, or a field of a structure in one.

    Attributes
    ----------
    name
        Its name; of a field, with those of its structures before it: ``a.b``.
    path
        Number of the column, and of the fields in it.
    type
        Its type; extension types are taken as what stores them.
    leaf
        Number of the first of the columns of numbers that Parquet cuts it into.
    shape
        Lengths of the lists in a row, as far as types and metadata say; -1 where they do not. Empty for one number.
    names
        Names of these axes.
    """

    name: str
    path: tuple[int, ...]
    type: Any
    leaf: int
    shape: tuple[int, ...]
    names: tuple[str | None, ...]

    @property
    def value_type(self) -> Any:
        """Type of the numbers in its lists."""
        kind = self.type
        while _is_list(kind):
            kind = _storage(kind.value_type)
        return kind

    @property
    def depth(self) -> int:
        """Number of lists in one another."""
        kind, depth = self.type, 0
        while _is_list(kind):
            kind, depth = _storage(kind.value_type), depth + 1
        return depth

    @property
    def widths(self) -> tuple[int, ...]:
        """Lengths of its lists, -1 where not known: those of `shape`, or their product where one list holds all."""
        return self.shape if len(self.shape) == self.depth else (math.prod(self.shape),)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype of the numbers; None if there are none."""
        kind = self.value_type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
            return dtype
        return None

    @property
    def words(self) -> str:
        """Name and type."""
        return f"{self.name} ({self.type})"


def columns_of(schema: Any, uri: str) -> list[Column]:
    """Return the columns of a schema and the fields of its structures, which are no structures themselves.

    Raises
    ------
    SourceFormatError
        If structures are nested too deeply.
    """
    found: list[Column] = []
    shapes = _declared_shapes(schema.metadata or {})
    leaf = 0
    for number, field in enumerate(schema):
        for column in _fields(field, (number,), "", leaf, uri):
            shape = shapes.get(column.name)
            if shape is not None and len(shape) == len(column.shape):
                column = Column(column.name, column.path, column.type, column.leaf, shape, column.names)
            found.append(column)
        leaf += _n_leaves(field.type, uri)
    return found


def chosen_columns(
    columns: Sequence[Column], name: str, uri: str, *, index: Sequence[str] = (), is_scales: bool = False
) -> list[Column]:
    """Return the column of lists, or the columns of numbers, that are the rows.

    Parameters
    ----------
    name
        Name of the column, or a shell-style pattern over columns of numbers; empty to find them: the only column of
        lists, or else all columns of the table, if they hold numbers of one type.
    index
        Names of columns that are an index, which are no features unless named.
    is_scales
        Whether one column of numbers may be found as well.

    Raises
    ------
    SourceNotFoundError
        If there is no such column.
    SourceFormatError
        If it holds no numbers, or none is named and it is not clear which one is meant.
    """
    if name:
        return _named(columns, name, uri)
    lists = [column for column in columns if column.depth and column.dtype is not None]
    if len(lists) == 1:
        return lists
    if lists:
        raise SourceFormatError(
            f"{uri} has several columns of lists of numbers: {listed(lists)}; name one: {_naming(uri, lists[0].name)}"
        )
    features = [column for column in columns if column.name not in index]
    is_alike = all(one.dtype is not None and one.dtype == features[0].dtype for one in features)
    if is_alike and len(features) > (0 if is_scales else 1):
        return features
    if any(column.dtype is not None for column in features):
        raise SourceFormatError(
            f"{uri} has no column of lists of numbers, and its columns are not all numbers of one type: "
            f"{listed(features)}; name those that are features by a pattern, such as {_naming(uri, 'feature_*')}"
        )
    raise SourceFormatError(f"{uri} has no column of numbers: {listed(columns) or 'it has no columns'}")


def pandas_index(schema: Any) -> list[str]:
    """Return the names of the columns that hold an index of pandas."""
    try:
        found = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return [name for name in found if isinstance(name, str)]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []


def _naming(uri: str, name: str) -> str:
    """Return how a caller names a column: of a file behind its path, of a table in memory by its key."""
    return f"key={name!r}" if uri.startswith("<") else f"'{uri}::{name}'"


def _named(columns: Sequence[Column], name: str, uri: str) -> list[Column]:
    """Return the columns of a name or pattern."""
    found = [column for column in columns if column.name == name]
    if len(found) > 1:
        raise SourceFormatError(f"{uri} has {len(found)} columns of the name {name}: give each another")
    if not found and is_pattern(name):
        found = [column for column in columns if fnmatchcase(column.name, name)]
        if len(found) > 1 and (lists := [column for column in found if column.depth]):
            raise SourceFormatError(f"{uri}::{name} matches columns of lists, and one is read: {listed(lists)}")
    fitting = [column for column in columns if column.dtype is not None]
    have = f"it has {listed(fitting)}" if fitting else f"and none of numbers: it has {listed(columns)}"
    if not found:
        raise SourceNotFoundError(f"there is no column {name} in {uri}: {have}")
    if unfit := [column for column in found if column.dtype is None]:
        raise SourceFormatError(f"{uri}::{unfit[0].name} holds {unfit[0].type}, which is no list of numbers: {have}")
    if len({column.dtype for column in found}) > 1:
        raise SourceFormatError(
            f"the columns of {uri}::{name} are of several types: {listed(found)}; write them in one"
        )
    return found


def _fields(field: Any, path: tuple[int, ...], before: str, leaf: int, uri: str) -> Iterator[Column]:
    """Yield the columns that a field holds."""
    kind, name = _storage(field.type), f"{before}{field.name}"
    if pa.types.is_struct(kind) and kind.num_fields:
        if len(path) > _DEEPEST:
            raise SourceFormatError(f"{uri} nests structures more than {_DEEPEST} deep, which is not read: flatten it")
        for number, inner in enumerate(kind):
            yield from _fields(inner, (*path, number), f"{name}.", leaf, uri)
            leaf += _n_leaves(inner.type, uri)
        return
    shape, names = _shape(field.type)
    yield Column(name, path, kind, leaf, shape, names)


def _shape(kind: Any) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
    """Return the lengths of the lists of a type, -1 where they vary, and the names of these axes."""
    if isinstance(kind, pa.FixedShapeTensorType) and not _is_permuted(kind):
        return tuple(kind.shape), tuple(kind.dim_names or [None] * len(kind.shape))
    kind, shape = _storage(kind), []
    while _is_list(kind):
        shape.append(kind.list_size if pa.types.is_fixed_size_list(kind) else -1)
        kind = _storage(kind.value_type)
    return tuple(shape), (None,) * len(shape)


def _declared_shapes(metadata: dict[bytes, bytes]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the metadata of Hugging Face ``datasets`` give, by column; reads hold rows to them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {name: feature.get("shape") for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: tuple(shape)
        for name, shape in found.items()
        if isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    }


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _storage(kind: Any) -> Any:
    """Return what stores an extension type; a tensor with permuted axes stays one, which is no list of numbers."""
    while isinstance(kind, pa.BaseExtensionType) and not _is_permuted(kind):
        kind = kind.storage_type
    return kind


def _is_permuted(kind: Any) -> bool:
    """Return whether a type is of tensors whose axes are stored in another order than they have."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return False
    order = kind.permutation or []
    return bool(order != sorted(order))


def _n_leaves(kind: Any, uri: str) -> int:
    """Return the number of columns that Parquet cuts a type into."""
    n_leaves, waiting = 0, [_storage(kind)]
    while waiting:
        kind = waiting.pop()
        n_fields = 0 if pa.types.is_dictionary(kind) else kind.num_fields
        n_leaves += n_fields == 0
        waiting += [_storage(kind.field(number).type) for number in range(n_fields)]
    return n_leaves


def listed(columns: Sequence[Column]) -> str:
    """Return names and types of columns in words."""
    words = [column.words for column in columns[:_LISTED]]
    more = f" and {len(columns) - _LISTED:,} more" if len(columns) > _LISTED else ""
    return ", ".join(words) + more
