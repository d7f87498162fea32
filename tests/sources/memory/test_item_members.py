"""Members of tuples and dicts that an iterable yields: one named, or the only one."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import rankme_stream as rs
from rankme_stream.errors import RankMeError, SourceFormatError, UsageError

ROWS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
Pair = namedtuple("Pair", "rows label")


def each(made: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    return (made(block) for block in np.split(ROWS, 6))


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (lambda b: (b, b[:, 0]), 0),
        (lambda b: [b[:, 0], b], 1),
        (lambda b: (b,), None),
        (lambda b: [b], None),
        (lambda b: {"label": 3, "rows": b}, "rows"),
        (lambda b: {"rows": b}, None),
        (lambda b: Pair(b, 3), "rows"),
        (lambda b: sparse.csr_array(b), None),
        (lambda b: {"rows": sparse.coo_matrix(b), 3: 4}, "rows"),
        (lambda b: b.tolist(), None),
        (lambda b: (b.tolist(), "x"), 0),
    ],
)
def test_the_rows_of_each_item_are_found(made: Callable[[np.ndarray], Any], key: Any) -> None:
    assert rs.measure(each(made), key=key).rankme.value == rs.measure(ROWS).rankme.value


@pytest.mark.parametrize(
    ("made", "key", "error", "text"),
    [
        (lambda b: (b, b[:, 0]), None, SourceFormatError, "block 0 has 2 members: name the one that .* key=0"),
        (lambda b: [b[0], b[1]], None, SourceFormatError, "block 0 has 2 members"),  # columns, or rows?
        (lambda b: {"a": b, "b": b}, None, SourceFormatError, "the members 'a', 'b': name the one .* key='a'"),
        (lambda b: {}, None, SourceFormatError, "block 0 has no members"),
        (lambda b: {"a": b}, "b", UsageError, "key is 'b', and <blocks>: block 0 has the members 'a'"),
        (lambda b: (b, 1), 2, UsageError, "key is 2, and <blocks>: block 0 has 2 members"),
        (lambda b: (b, 1), -1, UsageError, "key is -1, and <blocks>: block 0 has 2 members"),
        (lambda b: b, "a", UsageError, "key names a column or a member, and <blocks>: block 0 has none"),
        (lambda b: (b, "x"), 1, SourceFormatError, "block 0 is a str, not an array"),
        (lambda b: (np.ma.masked_array(b), 1), 0, SourceFormatError, "block 0 is a masked array"),
    ],
)
def test_an_item_that_is_not_clear_is_refused(made: Any, key: Any, error: type[RankMeError], text: str) -> None:
    with pytest.raises(error, match=text):
        rs.measure(each(made), key=key)


def test_a_mapping_holds_the_rows_in_one_of_its_members(tmp_path: Any) -> None:
    np.savez(tmp_path / "a.npz", rows=ROWS, label=ROWS[:, 0])
    with np.load(tmp_path / "a.npz") as archive:
        for source in (archive, {"rows": ROWS, "label": 3}):
            assert rs.measure(source, key="rows").rankme.value == rs.measure(ROWS).rankme.value
            with pytest.raises(SourceFormatError, match=r"has the members 'rows', 'label': name the one .* key='rows'"):
                rs.measure(source)
            with pytest.raises(UsageError, match="key is 'row', and"):
                rs.open_source(source, key="row")
    assert rs.open_source({"rows": ROWS}).shape == ROWS.shape


def test_a_large_item_is_read_in_pieces() -> None:
    da = pytest.importorskip("dask.array")
    computed: list[int] = []

    def block(values: np.ndarray) -> np.ndarray:
        computed.append(len(values))
        return values

    rows = np.random.default_rng(1).standard_normal((40_000, 64))
    lazy = da.from_array(rows, chunks=(5000, 32)).map_blocks(block, meta=np.empty((0, 0)))
    assert rs.measure(iter([lazy])).estimates == rs.measure(rows).estimates
    assert computed == [5000] * 16
