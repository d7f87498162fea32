"""Tables and columns of Arrow that Python holds: of pyarrow, polars, pandas and Hugging Face's ``datasets``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from rankme_stream.errors import SourceFormatError, UsageError, argument
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.content import content_digest
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.columns import Column, chosen_columns, columns_of, pandas_index
from rankme_stream.sources.tables.list_values import RowValues, first_widths, storage_of
from rankme_stream.sources.tables.table_rows import Table, TableRows

_ROWS_TRIED = 2**12
_REFUSED = ("path", "scales", "width", "offset")
_ONLY = "rows"  # name of a column that has none


class HeldColumn:
    """Column of Arrow in memory.

    Parameters
    ----------
    rows_of
        Function that returns rows [start, stop) of the column, as an array of Arrow in chunks.
    column, n_rows, uri
        The column, its length, and its name in errors.

    Raises
    ------
    SourceFormatError
        If no row has a value.
    """

    is_direct = True
    n_bytes = 0

    def __init__(self, rows_of: Callable[[int, int], Any], column: Column, n_rows: int, uri: str) -> None:
        self._rows_of, self.edges = rows_of, np.array([0, n_rows])
        self.widths = column.widths
        if -1 in self.widths:
            tried = (self._widths(low, min(n_rows, low + _ROWS_TRIED)) for low in range(0, n_rows, _ROWS_TRIED))
            found = next((widths for widths in tried if widths is not None), None)
            if found is None:
                raise SourceFormatError(f"{uri} has no row with values, so that there is no width to read")
            self.widths = found

    @property
    def memory(self) -> int:
        """Bytes that reading takes beside its result: none, but where rows are null."""
        return 0

    def write(self, start: int, stop: int, out: Array, values: RowValues) -> None:
        """Write rows [start, stop) into ``out``."""
        filled = 0
        for chunk in self._rows_of(start, stop).chunks:
            if len(chunk):
                values.write(storage_of(chunk), out[filled : filled + len(chunk)], start + filled)
            filled += len(chunk)

    def _widths(self, start: int, stop: int) -> tuple[int, ...] | None:
        found = (first_widths(storage_of(chunk), self.widths) for chunk in self._rows_of(start, stop).chunks)
        return next((widths for widths in found if widths is not None), None)


class HeldRows(TableRows):
    """Rows of a table in memory."""

    def reopen(self) -> None:
        """Return None: the table lives in this process."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Return a hash of the values of eight rows."""
        return f"memory-{self.axis}-{content_digest(self, start, stop)}"


class _NoFile:
    """What a table in memory has in place of a file."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read_memory(self, n_bytes: int) -> int:
        """Return 0: the numbers are there."""
        return 0


def open_rows(thing: Any, options: ArrayOptions) -> HeldRows:
    """Open the rows of a table, or of a column whose elements are rows.

    Parameters
    ----------
    thing
        Of pyarrow, polars or ``datasets``; or a column of pandas that Arrow holds.

    Raises
    ------
    UsageError, SourceError
        As ``parquet.open_rows``; also if an option does not apply to a table in memory.
    """
    uri = f"<{type(thing).__module__.partition('.')[0]}>"
    for name in _REFUSED:
        if getattr(options, name) is not None:
            raise UsageError(f"{argument(name)} is for an array that is stored, and these rows are not")
    slices, schema, n_rows = _slices(thing, options, uri)
    if isinstance(options.key, int):
        raise UsageError(f"key is {options.key}, and {uri} has columns with names: give a name")
    columns = chosen_columns(columns_of(schema, uri), options.key or "", uri, index=pandas_index(schema))
    readers = [HeldColumn(_rows_of(slices, column), column, n_rows, uri) for column in columns]
    table = Table(cast(StoredFile, _NoFile(uri)), n_rows, b"", ())
    return HeldRows(table, columns, readers, replace(options, key=None), options.key or "")


def _slices(thing: Any, options: ArrayOptions, uri: str) -> tuple[Callable[[int, int], Any], Any, int]:
    """Return a function that returns rows [start, stop) of a table, its schema, and its number of rows."""
    if hasattr(thing, "with_format"):  # of datasets, which may map or choose rows
        if getattr(thing, "format", {}).get("type") == "custom":
            raise SourceFormatError(
                f"{uri} has a function that transforms what is read, and the rows are read as stored: drop it by "
                "reset_format(), or pass an iterable of the blocks that it returns"
            )
        held = thing.with_format("arrow")
        return lambda start, stop: held[start:stop], held[:1].schema, len(held)
    is_column = not hasattr(thing, "columns")  # which some libraries name
    if is_column and options.key is not None:
        raise UsageError("key names a column, and this is one: leave it out")
    try:
        if is_column:
            thing = {getattr(thing, "name", None) or _ONLY: _column(thing)}
        table = pa.table(thing)
    except pa.ArrowException as error:
        raise SourceFormatError(
            f"{uri} has a column that pyarrow does not read ({' '.join(str(error).split())}): leave it out, or "
            "convert it"
        ) from error
    return lambda start, stop: table.slice(start, stop - start), table.schema, table.num_rows


def _column(thing: Any) -> Any:
    """Return a column as Arrow holds it; columns of older releases of pandas offer no stream of their pieces."""
    if hasattr(thing, "__arrow_c_stream__"):
        return pa.chunked_array(thing)
    held = thing if isinstance(thing, pa.Array) else pa.array(thing)
    return held if isinstance(held, pa.ChunkedArray) else pa.chunked_array([held])


def _rows_of(slices: Callable[[int, int], Any], column: Column) -> Callable[[int, int], Any]:
    """Return a function that returns rows [start, stop) of a column, or of a field of structures."""

    def rows(start: int, stop: int) -> Any:
        found = slices(start, stop).column(column.path[0])
        for number in column.path[1:]:
            parts = [pa.compute.struct_field(storage_of(chunk), [number]) for chunk in found.chunks]
            found = pa.chunked_array(parts)
        return found

    return rows
