"""Parquet files: rows of a column of lists, or of columns of numbers."""

from __future__ import annotations

from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.columns import Column, chosen_columns, columns_of, pandas_index
from rankme_stream.sources.tables.parquet_column import ParquetColumn
from rankme_stream.sources.tables.parquet_footer import Footer
from rankme_stream.sources.tables.table_labels import TableLabels, label_column
from rankme_stream.sources.tables.table_rows import Table, TableRows


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> TableRows:
    """Open the rows of a Parquet file.

    Parameters
    ----------
    inside
        Name of the column, ``a.b`` for a field of a structure, or a pattern over columns of numbers; empty to find
        them.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is damaged, or has no such columns of numbers.
    UsageError
        If an option is not understood.
    """
    footer = Footer(file)
    columns = chosen_columns(
        columns_of(footer.schema, file.uri), inside, file.uri, index=pandas_index(footer.schema), is_scales=is_scales
    )
    readers = [ParquetColumn(file, footer, column, _itemsize(column)) for column in columns]
    n_groups = len(footer.edges) - 1
    facts = (("row groups", f"{n_groups:,}"),)
    return TableRows(Table(file, footer.n_rows, footer.digest, facts), columns, readers, options, inside)


def open_labels(file: StoredFile, inside: str) -> TableLabels:
    """Open the labels in a column of a Parquet file; ``inside`` is its name, or empty for the only one that fits.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is damaged, or has no such column of integers, strings or booleans.
    """
    footer = Footer(file)
    column = label_column(columns_of(footer.schema, file.uri), inside, file.uri)
    return TableLabels(f"{file.uri}::{column.name}", footer.n_rows, ParquetColumn(file, footer, column, 8).arrays)


def _itemsize(column: Column) -> int:
    assert column.dtype is not None  # of columns that were chosen
    return column.dtype.itemsize
