"""Labels as AnnData, pandas, xarray and numpy hold them: names are theirs, and rows without a label are in no group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import MissingChunksError, SourceFormatError, SourceNotFoundError
from rankme_stream.groups.partition import partition_of
from rankme_stream.sources.labels import open_labels

N = 1800
RNG = np.random.default_rng(3)
ROWS = RNG.standard_normal((N, 8)).astype("f4")
KIND = RNG.integers(0, 5, N)
NAMES = np.array(["B", "T", "NK", "Mono", "DC"])
HAS = RNG.random(N) > 0.3
CELLS = np.where(HAS, NAMES[KIND].astype(object), None)
WANTED = {str(name): int(((NAMES[KIND] == name) & HAS).sum()) for name in NAMES}


def counts(labels: Any, missing: str = "error") -> dict[str, int]:
    found = partition_of(labels, N, (0, N), missing=missing)
    return dict(zip(found.names, found.counts.tolist(), strict=True))


def text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.dtypes.StringDType())


def column(path: Path, zarr_format: int, encoding: str, **arrays: np.ndarray) -> str:
    """Write a column of AnnData as it writes it: a group with its encoding, and the arrays of it."""
    group = zarr.open_group(path, mode="a", zarr_format=zarr_format).create_group("obs/cell_type")
    group.attrs["encoding-type"] = encoding
    for name, values in arrays.items():
        chunks = (min(500, len(values)), *values.shape[1:])
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[:] = values
    return f"{path}::obs/cell_type"


def categorical(path: Path, zarr_format: int = 3, **changes: np.ndarray) -> str:
    codes, categories = np.where(HAS, KIND, -1).astype("i1"), text(NAMES.tolist())
    return column(path, zarr_format, "categorical", **({"codes": codes, "categories": categories} | changes))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("inner", ["", "/codes"])
def test_a_categorical_of_anndata_has_names_and_none(tmp_path, zarr_format, inner):
    labels = categorical(tmp_path / "a.zarr", zarr_format) + inner
    assert counts(labels) == WANTED
    group = zarr.open(tmp_path / "a.zarr", mode="r")[f"obs/cell_type{inner}"]
    found, wanted = rs.measure(ROWS, groups=group), rs.measure(ROWS[HAS], groups=CELLS[HAS].astype(str))
    assert {name: one["rankme"].value for name, one in found.groups.items()} == {
        name: one["rankme"].value for name, one in wanted.groups.items()
    }
    assert found["lidar"].value == pytest.approx(wanted["lidar"].value, rel=1e-12)
    assert found["lidar"].details["rows_unlabelled"] == N - HAS.sum()
    assert f"{N - HAS.sum():,} rows have no label" in str(found)
    assert found.rankme.value == rs.measure(ROWS).rankme.value


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_nullable_arrays_of_anndata_have_a_mask(tmp_path, zarr_format):
    integers = column(tmp_path / "i.zarr", zarr_format, "nullable-integer", values=KIND, mask=~HAS)
    named = {str(kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}
    assert counts(integers) == counts(f"{integers}/values") == named
    strings = column(
        tmp_path / "s.zarr", zarr_format, "nullable-string-array", values=text(NAMES[KIND].tolist()), mask=~HAS
    )
    assert counts(strings) == WANTED
    flags = column(tmp_path / "b.zarr", zarr_format, "nullable-boolean", values=KIND > 2, mask=~HAS)
    assert counts(flags) == {"True": int((HAS & (KIND > 2)).sum()), "False": int((HAS & (KIND <= 2)).sum())}


def test_categories_may_be_a_nullable_array_or_integers(tmp_path):
    labels = categorical(tmp_path / "a.zarr", categories=np.arange(10, 15))
    assert counts(labels) == {str(10 + kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}
    group = zarr.open_group(tmp_path / "b.zarr", mode="w").create_group("cat")
    group.create_array("codes", shape=(N,), dtype="i1")[:] = np.where(HAS, KIND, -1)
    group.create_array("categories/values", shape=(5,), dtype=str)[:] = text(NAMES.tolist())
    group.create_array("categories/mask", shape=(5,), dtype=bool)[:] = False
    assert counts(f"{tmp_path}/b.zarr::cat") == WANTED


def test_codes_with_a_reference_to_categories_are_named(tmp_path):
    """As AnnData wrote them before 0.7."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    codes = group.create_array("obs/cell_type", shape=(N,), dtype="i1")
    codes[:] = np.where(HAS, KIND, -1)
    group.create_array("obs/__categories/cell_type", shape=(5,), dtype=str)[:] = text(NAMES.tolist())
    for reference in ("/obs/__categories/cell_type", "__categories/cell_type"):
        codes.attrs["categories"] = reference
        assert counts(f"{tmp_path}/a.zarr::obs/cell_type") == WANTED


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"codes": np.full(N, 5, "i1")}, "the code 5, and there are 5 categories"),
        ({"codes": np.full(N, -2, "i1")}, "the code -2, and there are 5 categories"),
        ({"codes": np.full(N, 0.5)}, "codes of dtype float64"),
        ({"categories": text(["a", "b", "a", "c", "d"])}, "a category twice"),
        ({"categories": np.arange(5) / 2}, "not all integers or strings"),
        ({"codes": np.full(N, -1, "i1")}, r"none of rows 0-1,799 a label"),
        ({"codes": np.zeros((N, 1), "i1")}, r"shape \(1800, 1\); labels are an array of one dimension"),
    ],
)
def test_a_categorical_that_contradicts_itself_is_refused(tmp_path, changes, problem):
    with pytest.raises(SourceFormatError, match=problem):
        counts(categorical(tmp_path / "a.zarr", **changes))


@pytest.mark.parametrize(
    ("attributes", "none", "options"),
    [
        ({"_FillValue": -1}, -1, {}),
        ({"missing_value": [-1, -9]}, -9, {}),
        ({"_FillValue": 255, "_Unsigned": "true"}, -1, {}),
        ({"_ARRAY_DIMENSIONS": ["cell"]}, -1, {"zarr_format": 2, "fill_value": -1}),
    ],
)
def test_fill_values_of_integer_labels_are_none(tmp_path, attributes, none, options):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(N,), dtype="i1", chunks=(500,), **options)
    array[:] = np.where(HAS, KIND, none)
    array.attrs.update(attributes)
    assert counts(tmp_path / "a.zarr") == {str(kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}


def test_the_default_fill_value_of_zarr_is_a_label(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(N,), dtype="i4", zarr_format=2)
    array[:] = KIND
    assert counts(tmp_path / "a.zarr") == {str(kind): int((kind == KIND).sum()) for kind in range(5)}


def test_a_fill_value_that_is_no_whole_number_is_refused(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(N,), dtype="i4")
    array[:], array.attrs["_FillValue"] = KIND, "none"
    with pytest.raises(SourceFormatError, match="names 'none' as its missing label"):
        counts(tmp_path / "a.zarr")


def test_a_chunk_of_labels_that_was_never_written_follows_the_rule(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(N,), dtype="i4", chunks=(600,))
    array[:] = np.repeat([0, 1, 2], 600)  # zarr leaves the chunk of zeros out
    with pytest.raises(MissingChunksError, match=r'labels 0-599\) is missing; .* pass missing="fill" if that is their'):
        counts(tmp_path / "a.zarr")
    assert counts(tmp_path / "a.zarr", "fill") == {"0": 600, "1": 600, "2": 600}
    assert counts(tmp_path / "a.zarr", "skip") == {"1": 600, "2": 600}
    array.attrs["_FillValue"] = 0
    assert counts(tmp_path / "a.zarr") == {"1": 600, "2": 600}


class NAType:
    """Stand-in for what pandas has for no value, whose comparisons have no truth value."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


NA = NAType()
CATEGORICAL = SimpleNamespace(codes=np.where(HAS, KIND, -1).astype("i1"), categories=NAMES.astype(object))
IN_MEMORY: dict[str, Any] = {
    "objects with None": CELLS,
    "objects with NaN": np.array([name if name else np.nan for name in CELLS], dtype=object),
    "objects with NA": np.array([name if name else NA for name in CELLS], dtype=object),
    "list with NaN": [name if name else np.nan for name in CELLS],
    "categorical": CATEGORICAL,
    "series of a categorical": SimpleNamespace(cat=CATEGORICAL),
    "masked": np.ma.MaskedArray(NAMES[KIND], ~HAS),
    "numpy's own strings": np.array(CELLS.tolist(), dtype=np.dtypes.StringDType(na_object=None)),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_labels_in_memory_may_be_none(kind):
    assert counts(IN_MEMORY[kind]) == WANTED


@pytest.mark.parametrize(
    "labels",
    [
        np.array([kind if has else None for kind, has in zip(KIND.tolist(), HAS, strict=True)], dtype=object),
        np.array([kind if has else NA for kind, has in zip(KIND, HAS, strict=True)], dtype=object),
        np.ma.masked_equal(np.where(HAS, KIND, -1), -1),
        SimpleNamespace(codes=np.where(HAS, KIND, -1), categories=np.arange(5)),
        SimpleNamespace(dtype="Int64", isna=lambda: ~HAS, to_numpy=lambda dtype: KIND.astype(dtype)),
    ],
)
def test_integer_labels_in_memory_may_be_none(labels):
    assert counts(labels) == {str(kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}


def test_booleans_in_memory_may_be_none():
    flags = np.array([bool(kind > 2) if has else NA for kind, has in zip(KIND, HAS, strict=True)], dtype=object)
    assert counts(flags) == {"True": int((HAS & (KIND > 2)).sum()), "False": int((HAS & (KIND <= 2)).sum())}


@pytest.mark.parametrize("labels", [[1, "a"] * (N // 2), [True, 2] * (N // 2), [b"a", None] * (N // 2)])
def test_labels_of_several_kinds_are_refused(labels):
    with pytest.raises(SourceFormatError, match="integers or strings"):
        counts(np.array(labels, dtype=object))


@pytest.mark.parametrize("kind", ["first rows", "last rows", "a whole segment", "many groups"])
def test_rows_without_a_label_change_no_other_group(kind):
    n = 150_000
    rows = np.random.default_rng(0).standard_normal((n, 3)).astype("f4")
    names = np.arange(n) % (300 if kind == "many groups" else 3)
    has = np.ones(n, bool)
    has[{"first rows": slice(0, 7), "last rows": slice(n - 3, n), "a whole segment": slice(60_000, 140_000),
         "many groups": slice(None, None, 2)}[kind]] = False  # fmt: skip
    labels = np.ma.MaskedArray(names, ~has)
    found = rs.measure(rows, groups=labels)
    wanted = rs.measure(rows[has], groups=names[has])
    assert {name: one["rankme"].details["n_rows"] for name, one in found.groups.items()} == {
        name: one["rankme"].details["n_rows"] for name, one in wanted.groups.items()
    }
    assert found["lidar"].value == pytest.approx(wanted["lidar"].value, rel=1e-9)
    assert found["lidar"].details["rows_unlabelled"] == n - has.sum()


def test_rows_without_a_label_are_counted_through_parts_and_states(tmp_path):
    n = 200_000
    rows = np.random.default_rng(0).standard_normal((n, 3)).astype("f4")
    np.save(tmp_path / "rows.npy", rows)
    labels = np.ma.masked_equal(np.arange(n) % 5, 4)
    for part in range(2):
        rs.segment(tmp_path / "rows.npy", part=(part, 2), state=tmp_path / f"{part}", groups=labels)
    joined = rs.measure_state(rs.merge_states([rs.load_state(tmp_path / f"{part}") for part in range(2)]))
    whole = rs.measure(rows, groups=labels)
    assert joined["lidar"] == whole["lidar"] and joined["lidar"].details["rows_unlabelled"] == n // 5


def test_a_group_that_is_no_column_names_the_labels_in_it(tmp_path):
    categorical(tmp_path / "a.zarr")
    with pytest.raises(SourceFormatError, match=r"group of arrays.*use e\.g\. '.*a\.zarr::obs/cell_type'"):
        open_labels(f"{tmp_path}/a.zarr::obs")
    zarr.open_group(tmp_path / "b.zarr", mode="w").create_array("x", shape=(4, 4), dtype="f4")
    with pytest.raises(SourceFormatError, match="labels need one dimension, and none of them has one"):
        open_labels(f"{tmp_path}/b.zarr")


def test_labels_that_are_not_there_name_the_columns_beside_them(tmp_path, monkeypatch):
    categorical(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="a")
    group.create_array("X", shape=ROWS.shape, dtype="f4")
    group.create_array("obs/_index", shape=(N,), dtype="i4")
    group.create_array("obs/leiden", shape=(N,), dtype="i4")
    group["obs"].attrs["encoding-type"] = "dataframe"
    with pytest.raises(SourceNotFoundError, match=r"obs there holds cell_type, leiden: use e\.g\. '.*::obs/leiden'"):
        open_labels(f"{tmp_path}/a.zarr::obs/leidn")
    with pytest.raises(SourceFormatError, match=r"use e\.g\. '.*::obs/cell_type'"):
        open_labels(f"{tmp_path}/a.zarr::obs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceNotFoundError, match="of labels in a store give STORE::obs/leiden"):
        open_labels("obs/leiden")


def test_labels_are_one_for_each_row():
    with pytest.raises(SourceFormatError, match="holds 10 labels, and the source 1,800 rows: one for each row"):
        counts(np.arange(10))


def test_groups_come_in_natural_order():
    names = [f"s_{number}" for number in range(12)]
    found = rs.measure(ROWS, groups=np.repeat(names[::-1], N // 12))
    assert list(found.groups) == names


def test_a_folder_of_labels_is_that_of_the_parts_in_natural_order(tmp_path):
    labels = np.arange(24) // 2
    for number, part in enumerate(np.split(labels, 12)):
        np.save(tmp_path / f"labels_{number}.npy", part)
    assert np.array_equal(open_labels(tmp_path).read(0, 24), labels)
    assert np.array_equal(open_labels(f"{tmp_path}/labels_*.npy").read(1, 23), labels[1:23])
