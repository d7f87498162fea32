"""Labels in a column of a table: integers, strings or booleans, one a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.tables.columns import Column, listed

LONGEST = 4096  # characters


class TableLabels:
    """Labels in a column; a row that is null has none.

    Parameters
    ----------
    arrays
        Returns arrays of Arrow with the rows [start, stop), in order.
    """

    names = None

    def __init__(self, uri: str, n_rows: int, arrays: Callable[[int, int], Iterable[Any]]) -> None:
        self.uri, self.n_rows, self._arrays = uri, n_rows, arrays

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``, masked where there is none.

        Raises
        ------
        SourceError, StorageError
            If they cannot be read, or are too long.
        """
        pieces = [self._labels(values) for values in self._arrays(start, stop)]
        if not pieces:
            return np.empty(0, object)
        is_null = np.concatenate([np.ma.getmaskarray(piece) for piece in pieces])
        return np.ma.MaskedArray(np.concatenate([np.ma.getdata(piece) for piece in pieces]), is_null)

    def _labels(self, values: Any) -> Array:
        """Return the labels of an array of Arrow."""
        is_null = values.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_dictionary(values.type):
            different = self._labels(values.dictionary)
            codes = np.asarray(values.indices.fill_null(0))
            is_null |= np.ma.getmaskarray(different)[codes] if len(different) else True
            labels = np.ma.getdata(different)[codes] if len(different) else np.full(len(values), "", object)
        elif pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            labels = np.asarray(values.fill_null(0 if pa.types.is_integer(values.type) else False))
        else:
            longest = _longest(values)
            if longest > LONGEST:
                raise SourceFormatError(
                    f"{self.uri} holds labels of {longest:,} characters; at most {LONGEST:,} are read: use shorter "
                    "names"
                )
            labels = values.to_numpy(zero_copy_only=False)
        return np.ma.MaskedArray(labels, is_null)


def label_column(columns: list[Column], name: str, uri: str) -> Column:
    """Return the column of labels: that of a name, or the only one of integers, strings or booleans.

    Raises
    ------
    SourceNotFoundError
        If there is no such column.
    SourceFormatError
        If it holds something else, or none is named and there are several.
    """
    fitting = [column for column in columns if _is_label(column.type)]
    have = f"it has {listed(fitting)}" if fitting else "and none of integers, strings or booleans"
    found = [column for column in columns if column.name == name] if name else fitting
    if name and not found:
        raise SourceNotFoundError(f"there is no column {name} in {uri}: {have}")
    if len(found) > 1 or not found:
        raise SourceFormatError(f"name the column of the labels, as {uri}::NAME: {have}")
    if found[0] not in fitting:
        raise SourceFormatError(f"{uri}::{name} holds {found[0].type}, and labels are integers or strings: {have}")
    return found[0]


def _longest(values: Any) -> int:
    """Return the length of the longest string: in characters, or in bytes where long ones may be shared."""
    if pa.types.is_string_view(values.type):
        views = np.frombuffer(values.buffers()[1], np.int32).reshape(-1, 4)
        return int(views[values.offset : values.offset + len(values), 0].max(initial=0))
    return pc.max(pc.utf8_length(values)).as_py() or 0


def _is_label(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(is_text or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
