"""Labels in a column of a CSV file, read as a stream."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np

from rankme_stream.errors import SourceFormatError, SourceNotFoundError
from rankme_stream.numerics.dtypes import Array
from rankme_stream.sources.stores.file_object import FileObject
from rankme_stream.sources.stores.stored_file import StoredFile

ENDINGS = {".csv": ",", ".tsv": "\t"}  # and what separates the fields
_LONGEST = 4096  # characters of a label
_LONGEST_LINE = 2**20
_BUFFER_BYTES = 2**20
_NAMED = 12  # columns in a message


class CsvLabels:
    """Labels in a column of a CSV file in UTF-8 whose first line names the columns; an empty field is no label.

    Reading is fast from where the last read ended on, and begins anew for rows before.

    Parameters
    ----------
    column
        Name of the column; empty for the only one.

    Raises
    ------
    SourceNotFoundError
        If there is no such column.
    SourceFormatError
        If it is no CSV file in UTF-8, no column is named and there are several, or a label is too long.
    StorageError, SourcePermissionError
        If the file cannot be read.
    """

    names = None

    def __init__(self, file: StoredFile, column: str, separator: str) -> None:
        self.uri, self._file, self._separator = f"{file.uri}::{column}" if column else file.uri, file, separator
        header = next(self._records(), None)
        if header is None:
            raise SourceFormatError(f"{self.uri} is empty: its first line must name the columns")
        self._number = self._number_of(column, header[1])
        self._n_fields = len(header[1])
        self._row, self._labels = 0, self._all_labels()
        self.n_rows = sum(1 for _ in self._all_labels())

    def read(self, start: int, stop: int) -> Array:
        """Return the labels of rows ``[start, stop)``, None for an empty field; raises as the class."""
        if start < self._row:
            self._row, self._labels = 0, self._all_labels()
        for _ in range(start - self._row):
            next(self._labels)
        found = np.empty(stop - start, object)
        for number in range(stop - start):
            found[number] = next(self._labels, None) or None
        self._row = stop
        return found

    def _all_labels(self) -> Iterator[str]:
        """Yield the labels of all rows."""
        records = self._records()
        next(records)
        for line, fields in records:
            if len(fields) != self._n_fields:
                raise SourceFormatError(
                    f"{self.uri} has {len(fields):,} fields in line {line:,}, where its first line names "
                    f"{self._n_fields:,}: correct it"
                )
            label = fields[self._number]
            if len(label) > _LONGEST:
                raise SourceFormatError(
                    f"{self.uri} holds a label of {len(label):,} characters in line {line:,}; at most {_LONGEST:,} are "
                    "read: use shorter names"
                )
            yield label

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the last line of each record, and its fields; lines without any are left out."""
        with FileObject(self._file) as binary:
            buffered = io.BufferedReader(binary, _BUFFER_BYTES)
            with io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="") as text:
                reader = csv.reader(self._lines(text), delimiter=self._separator, strict=True)
                try:
                    for fields in reader:
                        if fields:
                            yield reader.line_num, fields
                except (csv.Error, UnicodeDecodeError) as error:
                    raise SourceFormatError(
                        f"{self.uri} is no CSV file in UTF-8: {error} (behind line {reader.line_num:,})"
                    ) from error

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Yield lines; refuse one that is longer than memory should hold."""
        while line := text.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise SourceFormatError(f"{self.uri} has a line of more than {_LONGEST_LINE:,} characters")
            yield line

    def _number_of(self, column: str, header: list[str]) -> int:
        """Return the number of the column of a name, or of the only one."""
        names = ", ".join(header[:_NAMED]) + (f" and {len(header) - _NAMED:,} more" if len(header) > _NAMED else "")
        if not column and len(header) > 1:
            raise SourceFormatError(f"{self.uri} has the columns {names}: name one, as {self.uri}::{header[0]}")
        if header.count(column) > 1:
            raise SourceFormatError(f"{self.uri}: {header.count(column)} columns have that name: give each another")
        if column and column not in header:
            raise SourceNotFoundError(f"there is no column {column} in {self._file.uri}: its first line has {names}")
        return header.index(column) if column else 0
