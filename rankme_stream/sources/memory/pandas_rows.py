"""Rows of a frame of pandas whose columns are the features, or of a series whose elements are rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

import numpy as np

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.memory.box_rows import BoxRows
from rankme_stream.sources.memory.item_members import chosen_member, refuse_key
from rankme_stream.sources.memory.row_objects import RowObjects
from rankme_stream.sources.source import Source

_URI = "<pandas>"
_LACKING = "is not finite or has no value"


class Frame:
    """Frame whose columns are numbers, as boxes; numbers that are absent become NaN."""

    copies = 2
    names: Sequence[str | None] | None = None
    chunks: Sequence[Sequence[int]] | None = None
    uri = _URI

    def __init__(self, frame: Any, types: list[np.dtype[Any]]) -> None:
        self._frame = frame
        self.shape, self.dtype = frame.shape, _common(types)
        self.feature_names = [str(name) for name in frame.columns]
        self.lacking = "" if all(isinstance(kind, np.dtype) for kind in frame.dtypes) else _LACKING

    def read(self, box: tuple[slice, ...]) -> Any:
        """Return some rows of some columns in their common type."""
        part = self._frame.iloc[box]
        absent = {"na_value": np.nan} if self.dtype.kind == "f" else {}
        return part.to_numpy(dtype=self.dtype, **absent)

    def stamp(self) -> None:
        """Return None: some of the numbers are hashed."""


def open_rows(thing: Any, options: ArrayOptions) -> Source:
    """Open the rows of a frame whose columns are numbers, or of a column whose elements are rows."""
    rest = replace(options, key=None)
    if thing.ndim == 1:
        refuse_key(options.key, _URI)
        return _column(thing, rest, _URI)
    names = list(thing.columns)
    types = [_number_type(thing.dtypes.iloc[number]) for number in range(len(names))]
    if options.key is not None or (len(names) == 1 and types[0] is None):
        column = chosen_member(thing, names, options.key, _URI)
        return _column(column, rest, f"{_URI}::{column.name}")
    for number, kind in enumerate(types):
        column = thing.iloc[:, number]
        if kind is None:
            raise SourceFormatError(
                f"{_URI}: column {names[number]!r} holds {column.dtype}, and numbers are needed: leave it out, or name "
                f"the column whose elements are rows, such as key={names[number]!r}"
            )
        if kind.kind in "iu" and not isinstance(column.dtype, np.dtype) and column.isna().any():
            raise SourceFormatError(
                f"{_URI}: column {names[number]!r} has integers and rows without one: drop these rows, as by dropna()"
            )
    return BoxRows(Frame(thing, [kind for kind in types if kind is not None]), rest)


def _column(column: Any, options: ArrayOptions, uri: str) -> Source:
    """Open the rows that the elements of a column are."""
    if hasattr(column.dtype, "pyarrow_dtype") and column.dtype.kind == "O":
        open_arrow = import_module("rankme_stream.sources.tables.held_tables").open_rows
        return cast(Source, open_arrow(column, options))
    if column.dtype.kind != "O":
        raise SourceFormatError(
            f"{uri} has shape {column.shape} and holds {column.dtype}; elements that are rows are needed: give the "
            "columns of all features, or reshape it"
        )
    return BoxRows(RowObjects(column.to_numpy(), uri), options)


def _number_type(dtype: Any) -> np.dtype[Any] | None:
    """Return the number type of a column in numpy, also of those that pandas or Arrow hold; None for others."""
    found = dtype if isinstance(dtype, np.dtype) else getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", None))
    return found if isinstance(found, np.dtype) and found.kind in "iuf" else None


def _common(types: list[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the type that holds the numbers of all columns exactly."""
    common = np.result_type(*types)
    if len(set(types)) > 1 and common.kind == "f" and any(one.kind in "iu" and one.itemsize == 8 for one in types):
        raise SourceFormatError(
            f"{_URI} has columns of {', '.join(sorted({str(one) for one in types}))}, which no one type holds exactly: "
            "leave out those that are no features, or convert them by astype"
        )
    return common
