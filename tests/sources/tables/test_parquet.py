"""Rows of Parquet files are those that pyarrow reads, and what cannot be rows is refused in one line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import rankme_stream as rs  # noqa: E402
from rankme_stream.sources import Source  # noqa: E402
from rankme_stream.sources.array_options import ArrayOptions  # noqa: E402
from rankme_stream.sources.stores.stored_file import LocalFile  # noqa: E402
from rankme_stream.sources.tables import parquet_column  # noqa: E402
from rankme_stream.sources.tables.parquet import open_rows  # noqa: E402
from rankme_stream.sources.tables.thrift import I64, LIST, STRUCT, read_struct, write_struct  # noqa: E402  # noqa: E402
from rankme_stream.testing import SourceLaws  # noqa: E402
from tests.sources.tables.tables import lists, some_rows  # noqa: E402

WITHIN_ROWS = Path(__file__).parents[2] / "data" / "formats" / "pages_within_rows.parquet"


class TestParquet(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path, self.rows = tmp_path / "rows.parquet", some_rows("f2")
        pq.write_table(pa.table({"id": np.arange(103), "emb": lists(self.rows)}), self.path, row_group_size=20)

    def make(self) -> Source:
        return rs.open_source(self.path)

    def expected(self) -> np.ndarray:
        return self.rows


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8"])
def test_lists_of_every_kind_and_type(tmp_path, kind, dtype):
    rows = some_rows(dtype)
    pq.write_table(pa.table({"emb": lists(rows, kind), "name": ["a"] * len(rows)}), tmp_path / "x.parquet")
    source = rs.open_source(tmp_path / "x.parquet")
    assert source.stored.name == rows.dtype.name
    assert np.array_equal(source.read(0, 103), rows)


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "zstd"},
        {"compression": "gzip", "use_dictionary": False},
        {"compression": "lz4"},
        {"compression": "none", "data_page_version": "2.0"},
        {"use_dictionary": False, "use_byte_stream_split": True},
        {"write_page_index": True, "write_page_checksum": True},
    ],
)
def test_large_row_groups_are_read_page_by_page_in_any_order(tmp_path, monkeypatch, how):
    rows = some_rows("f4", (5000, 7))
    monkeypatch.setattr(parquet_column, "_AT_ONCE", 2**14)
    pq.write_table(pa.table({"emb": lists(rows)}), tmp_path / "x.parquet", data_page_size=2**10, **how)
    source = rs.open_source(tmp_path / "x.parquet")
    assert len(source.bounds(0, 5000)) > 5
    ranges = [(low, min(5000, low + 611)) for low in np.random.default_rng(0).integers(0, 4999, 20)]
    with ThreadPoolExecutor(4) as pool:
        for (low, high), found in zip(ranges, pool.map(lambda ends: source.read(*ends), ranges), strict=True):
            assert np.array_equal(found, rows[low:high])


def test_pages_that_begin_within_rows_are_read(monkeypatch):
    monkeypatch.setattr(parquet_column, "_AT_ONCE", 2**11)
    rows = np.arange(2100, dtype=np.float32).reshape(300, 7)
    source = rs.open_source(WITHIN_ROWS)
    bounds = [0, *source.bounds(0, 300), 300]
    assert len(bounds) > 5
    for low, high in [*pairwise(bounds), (0, 300), (13, 20), (299, 300)]:
        assert np.array_equal(source.read(low, high), rows[low:high])


def test_a_file_on_a_server_is_read_in_few_requests(tmp_path, monkeypatch):
    rows, requests = some_rows("f4", (600, 12)), []
    pq.write_table(pa.table({"emb": lists(rows)}), tmp_path / "x.parquet", row_group_size=200, data_page_size=500)
    monkeypatch.setattr(LocalFile, "is_remote", True)
    opened = open_rows(LocalFile(tmp_path / "x.parquet"), "", ArrayOptions())
    with LocalFile(tmp_path / "x.parquet").opened() as file:
        kind = type(file)
    read, read_into = kind.read, kind.read_into
    monkeypatch.setattr(kind, "read", lambda *given: requests.append(given) or read(*given))
    monkeypatch.setattr(kind, "read_into", lambda *given: requests.append(given) or read_into(*given))
    assert np.array_equal(opened.read(0, 600), rows)
    assert len(requests) == 3


@pytest.mark.parametrize("n_values", [10**9, 7])
def test_a_page_that_states_other_sizes_is_refused_before_memory_is_taken(tmp_path, n_values):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"emb": lists(some_rows())}), path, use_dictionary=False, compression="none")
    chunk = pq.read_metadata(path).row_group(0).column(0)
    content, at = bytearray(path.read_bytes()), chunk.data_page_offset
    header, length = read_struct(bytes(content[at:]))
    header[5][1][1] = (5, n_values)
    written = write_struct(header)
    path.write_bytes(content[:at] + written + content[at + length :])
    with pytest.raises(rs.errors.CorruptChunkError, match=r"x.parquet::emb is damaged|should lie in bytes|footer"):
        rs.open_source(path).read(0, 103)


def test_a_column_of_two_types_is_refused(tmp_path):  # of which the statistics of pyarrow end the process
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"emb": lists(some_rows())}), path)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer, _ = read_struct(content[start:-8])
    footer[4][1][1][0][1][1][1][0][3][1][1] = (5, 5)  # the type of the column in the first row group: DOUBLE
    written = write_struct(footer)
    path.write_bytes(content[:start] + written + len(written).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(rs.errors.CorruptChunkError, match="is of two types"):
        rs.open_source(path)


def test_structures_hold_columns(tmp_path):
    rows = some_rows()
    inner = pa.StructArray.from_arrays([lists(rows), pa.array(["x"] * 103)], ["vector", "text"])
    pq.write_table(pa.table({"a": pa.StructArray.from_arrays([inner], ["b"])}), tmp_path / "x.parquet")
    assert np.array_equal(rs.open_source(f"{tmp_path}/x.parquet::a.b.vector").read(5, 50), rows[5:50])
    assert rs.open_source(tmp_path / "x.parquet").uri.endswith("::a.b.vector")


def test_columns_of_numbers_side_by_side(tmp_path):
    rows = some_rows("f8", (5000, 12))
    columns = {f"f_{number}": rows[:, number] for number in range(12)}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=900)
    assert np.array_equal(rs.open_source(tmp_path / "x.parquet").read(7, 4000), rows[7:4000])
    pq.write_table(pa.table({"id": ["a"] * 5000} | columns), tmp_path / "y.parquet", row_group_size=900)
    with pytest.raises(rs.errors.SourceFormatError, match=r"y.parquet has no column of lists.*id \(string\), f_0 "):
        rs.open_source(tmp_path / "y.parquet")
    assert np.array_equal(rs.open_source(f"{tmp_path}/y.parquet::f_*").read(7, 4000), rows[7:4000])
    assert np.array_equal(rs.open_source(tmp_path / "y.parquet", path="f_1*").read(0, 9), rows[:9, [1, 10, 11]])


def test_nested_lists_are_rows_by_the_axis_of_features(tmp_path):
    rows = some_rows("f4", (40, 12))
    pq.write_table(pa.table({"x": lists(rows)[:0]}), tmp_path / "empty.parquet")
    inner = lists(rows.reshape(-1, 4))
    nested = pa.ListArray.from_arrays(pa.array(np.arange(41, dtype=np.int32) * np.int32(3)), inner)
    pq.write_table(pa.table({"x": nested}), tmp_path / "x.parquet", row_group_size=7)
    with pytest.raises(rs.errors.SourceFormatError, match=r"shape \(40, 3, 4\)"):
        rs.open_source(tmp_path / "x.parquet")
    last = rs.open_source(tmp_path / "x.parquet", features_axis=2)
    assert np.array_equal(last.read(4, 100), rows.reshape(-1, 4)[4:100])
    middle = rs.open_source(tmp_path / "x.parquet", features_axis=1)
    assert np.array_equal(middle.read(5, 130), rows.reshape(40, 3, 4).swapaxes(1, 2).reshape(-1, 3)[5:130])
    row, column = middle.coordinates(5, 130).T
    assert np.array_equal(rows.reshape(40, 3, 4)[row, :, column], middle.read(5, 130))
    with pytest.raises(rs.errors.UsageError, match="rows of a table are rows"):
        rs.open_source(tmp_path / "x.parquet", features_axis=0)
    with pytest.raises(rs.errors.SourceFormatError, match="no row with values"):
        rs.open_source(tmp_path / "empty.parquet")


def test_tensors_of_arrow_have_their_declared_shape(tmp_path):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(some_rows("f4", (40, 12)).reshape(40, 3, 4))
    pq.write_table(pa.table({"x": tensors}), tmp_path / "x.parquet")
    assert rs.open_source(tmp_path / "x.parquet", features_axis=-1).shape == (120, 4)


def test_nulls_are_no_data(tmp_path):
    rows = some_rows("f4", (50, 3)).tolist()
    rows[7], rows[20][1] = None, None
    for version in ("1.0", "2.0"):
        path = tmp_path / f"{version}.parquet"
        pq.write_table(pa.table({"emb": rows}), path, row_group_size=30, data_page_version=version)
        source = rs.open_source(path)
        found = source.read(0, 50)
        assert np.isnan(found[7]).all() and np.isnan(found[20, 1]) and np.isnan(found).sum() == 4
        with pytest.raises(rs.errors.NonFiniteError, match="row 7 is null or not finite"):
            rs.measure(source)
        assert rs.measure(source, nonfinite="skip").audit.rows_nonfinite == 2


def test_nulls_of_integers_need_a_number_for_them(tmp_path):
    rows = some_rows("i2", (50, 3)).tolist()
    rows[7] = None
    pq.write_table(pa.table({"emb": pa.array(rows, pa.list_(pa.int16()))}), tmp_path / "x.parquet")
    with pytest.raises(rs.errors.SourceFormatError, match="row 7 is null or holds a null, which int16 cannot hold"):
        rs.open_source(tmp_path / "x.parquet").read(0, 50)
    source = rs.open_source(tmp_path / "x.parquet", nodata=-999)
    assert rs.measure(source, nonfinite="skip").audit.rows_nonfinite == 1


def test_a_row_of_another_width_is_refused_with_its_number(tmp_path):
    rows = some_rows("f4", (50, 3)).tolist()
    rows[31] = [1.0, 2.0]
    pq.write_table(pa.table({"emb": rows}), tmp_path / "x.parquet", row_group_size=20)
    with pytest.raises(rs.errors.SourceFormatError, match="row 31 holds a list of 2 values where 3 are expected"):
        rs.open_source(tmp_path / "x.parquet").read(20, 50)


def test_what_fits_is_listed(tmp_path):
    rows = some_rows("f4", (5, 3))
    pq.write_table(pa.table({"a": lists(rows), "b": lists(rows), "c": ["x"] * 5}), tmp_path / "x.parquet")
    with pytest.raises(rs.errors.SourceFormatError, match=r"several columns of lists of numbers: a .*, b .*; name one"):
        rs.open_source(tmp_path / "x.parquet")
    with pytest.raises(rs.errors.SourceNotFoundError, match=r"there is no column z in .*: it has a .*, b "):
        rs.open_source(f"{tmp_path}/x.parquet::z")
    with pytest.raises(rs.errors.SourceFormatError, match=r"x.parquet::c holds string, which is no list of numbers"):
        rs.open_source(f"{tmp_path}/x.parquet::c")


def test_histograms_of_levels_that_do_not_fit_are_refused(tmp_path):
    """At such a footer, pyarrow 26 ends the process."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"emb": lists(some_rows())}), path)
    whole = path.read_bytes()
    n_bytes = int.from_bytes(whole[-8:-4], "little")
    footer, _ = read_struct(whole[-8 - n_bytes : -8])
    column = footer[4][1][1][0][1][1][1][0][3][1]
    for field, value in ((2, (LIST, (I64, [1] * 7))), (3, (LIST, (I64, [1]))), (1, (I64, 9))):
        damaged = deepcopy(column)
        damaged[16][1][field] = value
        footer[4][1][1][0][1][1][1][0][3] = STRUCT, damaged
        content = write_struct(footer)
        path.write_bytes(whole[: -8 - n_bytes] + content + len(content).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(rs.errors.CorruptChunkError, match=r"x\.parquet has a damaged footer"):
            rs.open_source(path)


def test_row_groups_without_rows_are_passed_over(tmp_path):
    rows, path = some_rows("f4"), tmp_path / "x.parquet"
    table = pa.table({"emb": lists(rows)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, stop in ((0, 0), (0, 50), (50, 50), (50, 103), (103, 103)):
            writer.write_table(table.slice(start, stop - start))
    assert np.array_equal(rs.open_source(path).read(0, 103), rows)


def test_tensors_with_permuted_axes_are_refused(tmp_path):
    kind = pa.fixed_shape_tensor(pa.float32(), [3, 4], permutation=[1, 0])
    tensors = pa.ExtensionArray.from_storage(kind, lists(some_rows("f4", (40, 12)), "fixed"))
    pq.write_table(pa.table({"x": tensors}), tmp_path / "x.parquet")
    with pytest.raises(rs.errors.SourceFormatError, match=r"no column of numbers: x \(.*permutation=\[1,0\]"):
        rs.open_source(tmp_path / "x.parquet", features_axis=-1)


def test_columns_of_all_files_come_in_one_order(tmp_path):
    rows = some_rows("f4", (40, 3))
    for number, order in enumerate(([0, 1, 2], [0, 1, 2], [2, 1, 0])):
        pq.write_table(pa.table({f"f{column}": rows[:, column] for column in order}), tmp_path / f"{number}.parquet")
    for source in (f"{tmp_path}/*.parquet", f"{tmp_path}/*.parquet::f*"):
        with pytest.raises(rs.errors.SourceFormatError, match=r"2\.parquet.* has 'f2' for a feature where .* has 'f0'"):
            rs.open_source(source)
    assert np.array_equal(rs.open_source(f"{tmp_path}/[01].parquet").read(0, 80), np.concatenate([rows, rows]))
