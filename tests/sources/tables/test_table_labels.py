"""Labels in columns of tables and of CSV files are those that pyarrow and csv read."""

from __future__ import annotations

import csv

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import rankme_stream as rs  # noqa: E402
from rankme_stream.sources.labels import labels_and_rows, open_labels  # noqa: E402
from tests.sources.tables.test_arrow import FORMATS, write  # noqa: E402

N = 103
WORDS = [None if row % 10 == 3 else f"class {row % 7}" for row in range(N)]
NUMBERS = [None if row % 10 == 4 else row % 5 - 1 for row in range(N)]


def table():
    coded = pa.DictionaryArray.from_arrays(pa.array([row % 2 for row in range(N)], pa.int8()), pa.array(["a", "b"]))
    nested = pa.StructArray.from_arrays([pa.array(WORDS)], ["word"], mask=pa.array([row == 9 for row in range(N)]))
    return pa.table(
        {
            "word": WORDS,
            "number": NUMBERS,
            "coded": coded,
            "also": pa.array(WORDS).dictionary_encode(),
            "bool": [row % 3 == 0 for row in range(N)],
            "large": pa.array(WORDS, pa.large_string()),
            "view": pa.array([word and word * 4 for word in WORDS], pa.string_view()),
            "nested": nested,
            "score": np.ones(N),
        }
    )


@pytest.mark.parametrize("how", [*FORMATS, "parquet"])
def test_labels_are_those_of_the_column(tmp_path, how):
    path = tmp_path / ("x.parquet" if how == "parquet" else "x.arrow")
    held = table()
    if how == "parquet":
        pq.write_table(held, path, row_group_size=30)
    else:
        write(held.combine_chunks(), path, how, 1000 if how != "file" else 40)
    for name in ("word", "number", "coded", "also", "bool", "large", "view", "nested.word"):
        column = held["nested"].combine_chunks().flatten()[0] if name == "nested.word" else held[name]
        wanted = [(row, str(label)) for row, label in enumerate(column.to_pylist()) if label is not None and row > 4]
        found, rows = labels_and_rows(open_labels(f"{path}::{name}"), 5, N)
        assert list(zip(rows.tolist(), map(str, found.tolist()), strict=True)) == wanted
    with pytest.raises(rs.errors.SourceFormatError, match=r"name the column of the labels.*word \(string\), number "):
        open_labels(path)
    with pytest.raises(rs.errors.SourceFormatError, match="::score holds double, and labels are integers or strings"):
        open_labels(f"{path}::score")
    with pytest.raises(rs.errors.SourceNotFoundError, match="there is no column z in "):
        open_labels(f"{path}::z")


def test_groups_by_a_column_of_a_table(tmp_path):
    rows = np.random.default_rng(0).standard_normal((N, 4))
    pq.write_table(table(), tmp_path / "x.parquet")
    found = rs.measure(rows, groups=f"{tmp_path}/x.parquet::number")
    assert sorted(found.groups) == ["-1", "0", "1", "2", "3"]


def test_labels_too_long_are_refused_and_never_copied_for_each_row(tmp_path):
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**5, np.int8)), pa.array(["y" * 10**6]))
    pq.write_table(pa.table({"x": long}), tmp_path / "x.parquet")  # 100 GB as strings
    with pytest.raises(rs.errors.SourceFormatError, match="1,000,000 characters"):
        open_labels(tmp_path / "x.parquet").read(0, 10**5)


def test_a_column_of_a_csv_file(tmp_path):
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "word, with\nbreak"])
        writer.writerows([row, word and f'{word} "é"\n,'] for row, word in enumerate(WORDS))
    labels = open_labels(f"{path}::word, with\nbreak")
    assert labels.n_rows == N
    for start, stop in ((0, N), (50, 60), (60, 70), (2, 3)):
        found, rows = labels_and_rows(labels, start, stop)
        wanted = [(row, f'{WORDS[row]} "é"\n,') for row in range(start, stop) if WORDS[row] is not None]
        assert list(zip(rows.tolist(), found.tolist(), strict=True)) == wanted
    with pytest.raises(rs.errors.SourceFormatError, match="has the columns id, word, with"):
        open_labels(path)
    with pytest.raises(rs.errors.SourceNotFoundError, match="there is no column z in "):
        open_labels(f"{path}::z")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"a\n1,2\n", "2 fields in line 2, where its first line names 1"),
        (b"a\n\xff\n", "no CSV file in UTF-8"),
        (b'a\n"x', "no CSV file in UTF-8: unexpected end of data"),
        (b"a\n" + b"x" * 200_000, "field larger than field limit"),
        (b"a\n" + b"x" * 5_000, "label of 5,000 characters in line 2"),
        (b"a" * 2**21, "a line of more than 1,048,576 characters"),
    ],
)
def test_what_is_no_csv_file_is_refused(tmp_path, content, words):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(rs.errors.SourceFormatError, match=words):
        open_labels(tmp_path / "x.csv")


def test_a_csv_file_with_one_column_needs_no_name(tmp_path):
    (tmp_path / "x.csv").write_text("label\na\nb\n\na\n")
    assert open_labels(tmp_path / "x.csv").read(0, 3).tolist() == ["a", "b", "a"]
    (tmp_path / "x.tsv").write_text("label\tother\na\t1\nb\t2\n")
    assert open_labels(f"{tmp_path}/x.tsv::other").read(1, 2).tolist() == ["2"]
