"""Arrow files and streams, Feather and caches of Hugging Face among them: rows of a column of lists, or of numbers."""

from __future__ import annotations

from hashlib import blake2b

import pyarrow as pa

from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.stores.stored_file import StoredFile
from rankme_stream.sources.tables.arrow_column import ArrowColumn
from rankme_stream.sources.tables.arrow_fields import place_of
from rankme_stream.sources.tables.arrow_labels import ArrowLabels
from rankme_stream.sources.tables.arrow_messages import batches, dictionary, read_schema
from rankme_stream.sources.tables.columns import chosen_columns, columns_of, pandas_index
from rankme_stream.sources.tables.table_labels import TableLabels, label_column
from rankme_stream.sources.tables.table_rows import Table, TableRows


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> TableRows:
    """Open the rows of an Arrow file or stream; parameters and errors as of ``parquet.open_rows``."""
    with file.opened() as opened:
        schema = read_schema(opened, file.uri)
        columns = chosen_columns(
            columns_of(schema, file.uri), inside, file.uri, index=pandas_index(schema), is_scales=is_scales
        )
        found = list(batches(opened, file.uri))
    readers = [ArrowColumn(file, column, place_of(schema, column), found) for column in columns]
    digest = blake2b(schema.serialize(), digest_size=16)
    for batch in found:
        digest.update(f"{batch.n_rows} {batch.body}\n".encode())
    facts = (("batches", f"{len(found):,}" + ("" if readers[0].is_direct else ", compressed")),)
    table = Table(file, sum(batch.n_rows for batch in found), digest.digest(), facts)
    return TableRows(table, columns, readers, options, inside)


def open_labels(file: StoredFile, inside: str) -> TableLabels:
    """Open the labels in a column of an Arrow file or stream; parameters and errors as of ``parquet.open_labels``."""
    with file.opened() as opened:
        schema = read_schema(opened, file.uri)
        column = label_column(columns_of(schema, file.uri), inside, file.uri)
        found = list(batches(opened, file.uri))
        is_coded = pa.types.is_dictionary(column.type)
        different = dictionary(opened, file.uri, column.path) if is_coded else None
    labels = ArrowLabels(file, column, place_of(schema, column), found, different)
    return TableLabels(labels.uri, sum(batch.n_rows for batch in found), labels.arrays)
