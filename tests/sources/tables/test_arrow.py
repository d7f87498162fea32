"""Rows of Arrow files and streams are those that pyarrow reads, and what cannot be rows is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

import rankme_stream as rs  # noqa: E402
from rankme_stream.sources import Source  # noqa: E402
from rankme_stream.testing import SourceLaws  # noqa: E402
from tests.sources.tables.tables import lists, some_rows  # noqa: E402

FORMATS = ["file", "stream", "lz4", "zstd"]


def write(table: Any, path: Path, kind: str, batch_rows: int = 20) -> Path:
    """Write a table as an Arrow file, a stream, or a file that is compressed."""
    options = pa.ipc.IpcWriteOptions(compression=kind if kind in ("lz4", "zstd") else None)
    make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with make(str(path), table.schema, options=options) as writer:
        writer.write_table(table, batch_rows)
    return path


class TestArrow(SourceLaws):
    kind = "file"

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.rows = some_rows("f2")
        table = pa.table({"text": ["a"] * 103, "emb": lists(self.rows), "id": np.arange(103)})
        self.path = write(table, tmp_path / "rows.arrow", self.kind)

    def make(self) -> Source:
        return rs.open_source(self.path)

    def expected(self) -> np.ndarray:
        return self.rows


class TestStream(TestArrow):
    kind = "stream"


class TestCompressed(TestArrow):
    kind = "zstd"


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("how", FORMATS)
def test_lists_of_every_kind_and_type(tmp_path, kind, how):
    for dtype in ("f2", "f8", "u1", "i4", "i8"):
        rows = some_rows(dtype)
        source = rs.open_source(write(pa.table({"emb": lists(rows, kind)}), tmp_path / f"{dtype}.arrow", how))
        assert source.stored.name == rows.dtype.name
        assert np.array_equal(source.read(7, 95), rows[7:95])


def test_columns_of_every_type_may_stand_before(tmp_path):
    rows = some_rows()
    words = [f"word {number} that is longer than twelve bytes" for number in range(103)]
    before = {
        "null": pa.nulls(103),
        "bool": pa.array([True, None] * 51 + [False]),
        "view": pa.array(words, pa.string_view()),
        "dictionary": pa.array(["a", "b"] * 51 + ["a"]).dictionary_encode(),
        "large": pa.array(words, pa.large_string()),
        "map": pa.array([[("k", 1)]] * 103, pa.map_(pa.string(), pa.int8())),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([50, 103], pa.int32()), pa.array([1.0, 2.0])),
        "lists": pa.array([[words[0]]] * 103, pa.list_view(pa.string())),
        "union": pa.UnionArray.from_sparse(pa.array([0] * 103, pa.int8()), [pa.array(range(103))]),
        "fixed": pa.array([b"abc"] * 103, pa.binary(3)),
        "emb": lists(rows),
        "after": pa.array(words, pa.string_view()),
    }
    inner = pa.StructArray.from_arrays([pa.array(words), lists(rows * 2)], ["text", "vector"])
    table = pa.table(before | {"a": pa.StructArray.from_arrays([pa.array(words, pa.string_view()), inner], ["x", "b"])})
    for how in FORMATS:
        path = write(table, tmp_path / f"{how}.arrow", how, 1000)
        assert np.array_equal(rs.open_source(f"{path}::emb").read(0, 103), rows)
        assert np.array_equal(rs.open_source(f"{path}::a.b.vector").read(0, 103), rows * 2)


def test_sliced_batches_are_read(tmp_path):
    rows = some_rows()
    table = pa.table({"emb": lists(rows), "fixed": lists(rows, "fixed")}).slice(31, 50)
    for how in FORMATS:
        path = write(table, tmp_path / f"{how}.arrow", how)
        for name in ("emb", "fixed"):
            assert np.array_equal(rs.open_source(f"{path}::{name}").read(0, 50), rows[31:81])


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("kind", ["list_", "large_list", "fixed"])
def test_nulls_are_no_data(tmp_path, how, kind):
    rows: list[Any] = some_rows("f4", (50, 3)).tolist()
    rows[7], rows[20] = None, [1.0, None, 2.0]
    column = pa.array(rows, {"fixed": pa.list_(pa.float32(), 3)}.get(kind) or getattr(pa, kind)(pa.float32()))
    inner = pa.StructArray.from_arrays([column], ["emb"], mask=pa.array([number == 11 for number in range(50)]))
    path = write(pa.table({"emb": column, "s": inner}), tmp_path / "x.arrow", how, 30)
    found = rs.open_source(f"{path}::emb").read(3, 50)
    assert np.isnan(found[4]).all() and np.isnan(found[17, 1]) and np.isnan(found).sum() == 4
    found = rs.open_source(f"{path}::s.emb").read(3, 50)
    assert np.isnan(found[8]).all() and np.isnan(found).sum() == 7


def test_numbers_side_by_side_and_scales(tmp_path):
    rows = some_rows("f4", (103, 5))
    path = write(pa.table({f"f{k}": rows[:, k] for k in range(5)}), tmp_path / "x.arrow", "file")
    assert np.array_equal(rs.open_source(path).read(3, 99), rows[3:99])
    codes, scales = some_rows("i1"), some_rows("f4", (103, 1))
    path = write(pa.table({"emb": lists(codes), "scale": scales[:, 0]}), tmp_path / "y.arrow", "stream")
    scaled = rs.open_source(f"{path}::emb", scales=f"{path}::scale")
    assert np.array_equal(scaled.read(0, 103), codes * scales.astype(float))


def test_tensors_and_nested_lists_have_axes(tmp_path):
    rows = some_rows("f4", (40, 12))
    nested = pa.ListArray.from_arrays(pa.array(np.arange(0, 121, 3, dtype=np.int32)), lists(rows.reshape(-1, 4)))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows.reshape(40, 3, 4), dim_names=["layer", "feature"])
    path = write(pa.table({"nested": nested, "tensor": tensors}), tmp_path / "x.arrow", "stream", 7)
    for name in ("nested", "tensor"):
        source = rs.open_source(f"{path}::{name}", features_axis=-1)
        assert np.array_equal(source.read(4, 100), rows.reshape(-1, 4)[4:100])
    named = rs.open_source(f"{path}::tensor", features_axis="layer")
    assert np.array_equal(named.read(5, 130), rows.reshape(40, 3, 4).swapaxes(1, 2).reshape(-1, 3)[5:130])


@pytest.mark.parametrize("how", FORMATS)
def test_a_row_of_another_width_is_refused_with_its_number(tmp_path, how):
    for odd in ([1.0, 2.0], [1.0] * 99):
        rows = some_rows("f4", (50, 3)).tolist()
        rows[31] = odd
        path = write(pa.table({"emb": rows}), tmp_path / f"{len(odd)}.arrow", how)
        words = f"row 31 holds a list of {len(odd)} values where 3 are expected"
        with pytest.raises(rs.errors.SourceFormatError, match=words):
            rs.open_source(path).read(0, 50)


@pytest.mark.parametrize("how", FORMATS)
def test_a_file_that_is_cut_is_refused(tmp_path, how):
    path = write(pa.table({"emb": lists(some_rows())}), tmp_path / "x.arrow", how)
    whole = path.read_bytes()
    for n_bytes in (0, 5, 100, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises((rs.errors.CorruptChunkError, rs.errors.SourceFormatError), match=r"x\.arrow"):
            rs.measure(path)


def test_a_footer_that_contradicts_the_first_message_is_refused(tmp_path):
    path = write(pa.table({"emb": lists(some_rows())}), tmp_path / "x.arrow", "file")
    whole = path.read_bytes()
    place = whole.rfind(b"emb")
    path.write_bytes(whole[:place] + b"emc" + whole[place + 3 :])
    with pytest.raises(rs.errors.CorruptChunkError, match=r"its first message and its footer describe different"):
        rs.open_source(path)


@pytest.mark.parametrize("how", ["file", "stream"])
def test_names_that_are_no_text_and_descriptions_that_arrow_refuses_are_refused(tmp_path, how):
    path = write(pa.table({"emb": lists(some_rows())}), tmp_path / "x.arrow", how)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"emb\0", b"e\xf3b\0"))
    with pytest.raises(rs.errors.CorruptChunkError, match=r"x\.arrow is damaged: pyarrow refuses it \('utf-8'"):
        rs.open_source(path)
    begin = 8 if how == "file" else 0
    path.write_bytes(whole[: begin + 12] + b"\xff" * 4 + whole[begin + 16 :])
    with pytest.raises(rs.errors.CorruptChunkError, match=r"x\.arrow is damaged"):
        rs.open_source(path)


def test_a_batch_that_states_no_rows_and_has_some_is_refused(tmp_path):
    """Its rows would be lost."""
    path = write(pa.table({"emb": lists(some_rows())}), tmp_path / "x.arrow", "stream", batch_rows=77)
    whole = path.read_bytes()
    n_rows = (77).to_bytes(8, "little")
    path.write_bytes(whole.replace(n_rows, bytes(8), 1))
    with pytest.raises(rs.errors.CorruptChunkError, match=r"the batch from row 0 on has 0 rows, and 77 of this column"):
        rs.open_source(path)


def test_a_file_is_described_by_its_footer(tmp_path):
    """Readers of files look at nothing else, and polars writes no message before the batches."""
    rows = some_rows()
    path = write(pa.table({"emb": lists(rows)}), tmp_path / "x.arrow", "file")
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + whole[16:24] + whole[16:])
    assert np.array_equal(rs.open_source(path).read(0, len(rows)), rows)
