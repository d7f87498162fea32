"""Tables of Arrow that Python holds: the bits of the array, nulls as no data, and iterables of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import NonFiniteError, RankMeError, SourceFormatError, SourceNotFoundError, UsageError
from rankme_stream.sources import Source, open_source
from rankme_stream.testing import SourceLaws

pa = pytest.importorskip("pyarrow")
ROWS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
LISTS = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
FLAT = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 12)
TABLE = pa.table({"id": range(300), "rows": LISTS})

MADE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "table": (lambda: TABLE, {}),
    "named column": (lambda: pa.table({"a": LISTS, "b": LISTS}), {"key": "b"}),
    "columns of numbers": (lambda: pa.table({f"f{i}": ROWS[:, i] for i in range(12)}), {}),
    "batch": (lambda: TABLE.to_batches()[0], {}),
    "array": (lambda: LISTS, {}),
    "fixed size": (lambda: FLAT[:], {}),
    "chunks": (lambda: pa.chunked_array([LISTS[:7], LISTS[7:7], LISTS[7:]]), {}),
    "structure": (lambda: pa.table({"s": pa.StructArray.from_arrays([FLAT], ["x"])}), {"key": "s.x"}),
}


@pytest.mark.parametrize("name", MADE)
class TestHeldTables(SourceLaws):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def make(self) -> Source:
        made, options = MADE[self.name]
        return open_source(made(), **options)

    def expected(self) -> np.ndarray:
        return ROWS

    def test_it_has_the_bits_of_the_array_in_memory(self) -> None:
        made, options = MADE[self.name]
        assert self.make().read(0, 300).tobytes() == ROWS.tobytes()
        assert rs.measure(made(), **options).estimates == rs.measure(ROWS).estimates


def test_batches_of_a_reader_and_of_an_iterable_are_blocks() -> None:
    wanted = rs.measure(ROWS).estimates
    assert rs.measure(pa.table({"rows": LISTS}).to_reader(max_chunksize=50)).estimates == wanted
    assert rs.measure(iter(TABLE.to_batches(70)), key="rows").estimates == wanted


def test_nulls_are_no_data() -> None:
    rows: list[Any] = ROWS.tolist()
    rows[5], rows[7][2] = None, None
    lists = pa.array(rows, pa.list_(pa.float32()))
    with pytest.raises(NonFiniteError, match="row 5 is null or not finite"):
        rs.measure(lists)
    kept = np.delete(ROWS, [5, 7], axis=0)
    found = rs.measure(lists, nonfinite="skip")
    assert (found.rows_read, found.rankme.value) == (298, pytest.approx(rs.measure(kept).rankme.value))


@pytest.mark.parametrize(
    ("made", "options", "error", "text"),
    [
        (lambda: pa.table({"a": LISTS, "b": LISTS}), {}, SourceFormatError, "name one: key='a'"),
        (lambda: TABLE, {"key": "z"}, SourceNotFoundError, "there is no column z"),
        (lambda: TABLE, {"key": 0}, UsageError, "key is 0, and <pyarrow> has columns with names"),
        (lambda: LISTS, {"key": "rows"}, UsageError, "key names a column, and this is one"),
        (lambda: pa.array([[1.0, 2.0], [3.0]]), {}, SourceFormatError, "row 1 holds a list of 1 values"),
        (lambda: pa.array([[1, None], [3, 4]]), {}, SourceFormatError, "row 0 is null or holds a null"),
        (lambda: pa.array([None, []], pa.list_(pa.float32())), {}, SourceFormatError, "no row with values"),
        (lambda: pa.array(["a", "b"]), {}, SourceFormatError, "no column of numbers"),
        (
            lambda: pa.table({"a": [1, 2], "b": [0.5, 1.0]}),
            {},
            SourceFormatError,
            r"by a pattern, such as key='feature_\*'",
        ),
    ],
)
def test_what_is_not_clear_is_refused(made: Any, options: Any, error: type[RankMeError], text: str) -> None:
    with pytest.raises(error, match=text):
        rs.measure(made(), **options)


def test_options_of_stored_arrays_are_refused() -> None:
    with pytest.raises(UsageError, match="offset is for an array that is stored"):
        open_source(LISTS, offset=4)


def test_labels_of_columns_may_be_null() -> None:
    kinds = [number % 3 for number in range(300)]
    wanted = rs.measure(ROWS, groups=np.array(kinds)).groups
    for labels in (pa.array(kinds), pa.chunked_array([pa.array(kinds)]), pa.array(map(str, kinds)).dictionary_encode()):
        assert rs.measure(ROWS, groups=labels).groups.keys() == wanted.keys()
    for labels in (
        pa.array([None if kind == 2 else kind for kind in kinds]),
        pa.array([None if kind == 2 else str(kind) for kind in kinds]).dictionary_encode(),
    ):
        found = rs.measure(ROWS, groups=labels).groups
        assert {name: one["rankme"] for name, one in found.items()} == {name: wanted[name]["rankme"] for name in "01"}


def test_columns_of_all_blocks_come_in_one_order() -> None:
    frames = [pa.table({f"f{i}": ROWS[:, i] for i in order}) for order in (range(12), range(11, -1, -1))]
    with pytest.raises(SourceFormatError, match="block 1 has 'f11' for a feature where blocks before it have 'f0'"):
        rs.measure(iter(frames))
    with pytest.raises(SourceFormatError, match="<pyarrow> has 'f11' for a feature where <pyarrow> has 'f0'"):
        rs.open_source(frames)


def test_a_function_that_transforms_rows_is_not_passed_over() -> None:
    """Of ``datasets``, of which this has the names: what is stored are not the rows that its user sees."""
    members = {"__module__": "datasets.arrow_dataset", "format": {"type": "custom"}, "with_format": lambda *_: TABLE}
    with pytest.raises(SourceFormatError, match="<datasets> has a function that transforms what is read"):
        open_source(type("Dataset", (), members)(), key="rows")
