"""Labels and rows in what pandas itself makes; the suite has stand-ins for labels (test_labels), and no pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rankme_stream as rs
from rankme_stream.errors import NonFiniteError, RankMeError
from tests.sources.test_labels import CELLS, HAS, KIND, NAMES, WANTED, counts
from tests.writers.frame import check, rows_of


@pytest.mark.parametrize(
    "made",
    [
        lambda: pd.Categorical(CELLS),
        lambda: pd.Series(pd.Categorical(CELLS)),
        lambda: pd.CategoricalIndex(pd.Categorical(CELLS)),
        lambda: pd.Series(CELLS),
        lambda: pd.Series(CELLS, dtype="string"),
        lambda: np.array([name if name else pd.NA for name in CELLS], dtype=object),
        lambda: pd.Index(CELLS),
    ],
)
def test_strings_of_pandas_may_be_none(made: Any) -> None:
    assert counts(made()) == WANTED


@pytest.mark.parametrize(
    "made",
    [
        lambda: pd.Series(KIND).astype("Int64").mask(~HAS),
        lambda: pd.Categorical(np.where(HAS, KIND, -1), categories=range(5)),
    ],
)
def test_integers_of_pandas_may_be_none(made: Any) -> None:
    assert counts(made()) == {str(kind): WANTED[str(name)] for kind, name in enumerate(NAMES)}


def test_booleans_of_pandas_may_be_none() -> None:
    assert counts(pd.Series(KIND > 2).astype("boolean").mask(~HAS))["True"] == (HAS & (KIND > 2)).sum()


ROWS = rows_of()


def test_frames_and_series_are_rows() -> None:
    lists = pd.Series(ROWS.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float32())))
    check(pd.DataFrame(ROWS), ROWS)
    check(pd.DataFrame(ROWS).astype("Float32"), ROWS)
    check(pd.DataFrame(ROWS).astype(pd.ArrowDtype(pa.float32())), ROWS)
    check(pd.DataFrame(ROWS).astype({3: np.float64}), ROWS.astype(np.float64))
    check(pd.Series(list(ROWS)), ROWS)
    check(pd.Series(ROWS.tolist()), ROWS.astype(np.float64))
    check(lists, ROWS)
    check(pd.DataFrame({"id": range(len(ROWS)), "rows": list(ROWS)}), ROWS, key="rows")
    check(pd.DataFrame({"rows": lists}), ROWS)


def test_frames_are_blocks() -> None:
    frames = (pd.DataFrame({"id": 0, "rows": list(block)}) for block in np.split(ROWS, 6))
    assert rs.measure(frames, key="rows").estimates == rs.measure(ROWS).estimates


def test_what_is_absent_is_no_data() -> None:
    frame = pd.DataFrame(ROWS).astype("Float32")
    frame.iloc[5, 3] = pd.NA
    for made in (frame, pd.Series([*ROWS[:5], None, *ROWS[6:]])):
        with pytest.raises(NonFiniteError, match="row 5 is not finite or has no value"):
            rs.measure(made)
        assert rs.measure(made, nonfinite="skip").rows_read == len(ROWS) - 1


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: pd.DataFrame({"id": range(600), "x": ROWS[:, 0]}), "columns of float32, int64, which no one type"),
        (lambda: pd.DataFrame({"id": range(600), "rows": list(ROWS)}), "column 'rows' holds object, .* key='rows'"),
        (lambda: pd.DataFrame({"a": ["x"] * 3}), "row 0 is no list or array of numbers but str"),
        (lambda: pd.Series(ROWS[:, 0]), "elements that are rows are needed"),
        (lambda: pd.Series([ROWS[0], ROWS[1][:3]]), r"row 1 is float32 of shape \(3,\)"),
        (lambda: pd.Series([ROWS[0], ROWS[1].astype("f8")]), "row 1 is float64 of shape"),
        (lambda: pd.Series([[2**53 + 1, 1]]), "row 0 holds integers beyond 2"),
        (lambda: pd.Series([[1, 2], None]).map(lambda row: row and np.array(row)), "row 1 is absent"),
        (lambda: pd.DataFrame({"a": pd.array([1, None], "Int32"), "b": [1, 2]}), "'a' has integers and rows without"),
    ],
)
def test_what_is_no_rows_is_refused(made: Any, text: str) -> None:
    with pytest.raises(RankMeError, match=text):
        rs.measure(made())


def test_masked_arrays_are_no_rows() -> None:
    rows = pd.Series([np.ma.masked_array([1.0, 2.0], [False, True])] * 3)
    with pytest.raises(RankMeError, match="row 0 is a masked array"):
        rs.open_source(rows)


def test_columns_of_all_frames_come_in_one_order() -> None:
    frame = pd.DataFrame(ROWS)
    frames = [frame, frame[frame.columns[::-1]]]
    for opened in (lambda: rs.measure(iter(frames)), lambda: rs.open_source(frames)):
        with pytest.raises(RankMeError, match=r"has '23' for a feature where .* '0'"):
            opened()
