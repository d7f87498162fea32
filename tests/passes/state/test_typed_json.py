"""Documents are checked whole against the types of their fields."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from rankme_stream.errors import StateError
from rankme_stream.passes.state.typed_json import Signed, check, parse


@dataclass
class Inner:
    low: Signed
    high: float = 1.0


class Document(TypedDict):
    number: int
    name: str | None
    kind: Literal["a", "b"]
    is_done: bool
    inner: Inner
    pairs: NotRequired[list[tuple[int, str]]]
    sizes: NotRequired[dict[str, int]]
    rest: NotRequired[Any]


GOOD = {"number": 1, "name": None, "kind": "a", "is_done": True, "inner": {"low": -3}}


def test_a_document_of_these_types_passes():
    check(GOOD, Document, "it")
    check(GOOD | {"pairs": [[1, "x"]], "sizes": {"x": 0}, "rest": [{"y": [None]}], "number": 2**63 - 1}, Document, "it")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"number": -1}, "it/number is -1 in place of a count"),
        ({"number": True}, "it/number is true in place of a count"),
        ({"number": 2**63}, "in place of a count"),
        ({"number": 1.0}, "in place of a count"),
        ({"name": 3}, "it/name is 3 in place of text"),
        ({"kind": "c"}, "it/kind is \"c\" in place of 'a' or 'b'"),
        ({"kind": []}, "it/kind is a list in place of 'a' or 'b'"),
        ({"is_done": 0}, "in place of true or false"),
        ({"inner": []}, "it/inner is a list in place of"),
        ({"inner": {}}, "it/inner lacks low"),
        ({"inner": {"low": 1, "x": 2}}, 'it/inner holds "x", which is never written'),
        ({"pairs": [[1]]}, r"it/pairs\[0\] has 1 values in place of 2"),
        ({"pairs": [[1, "x"], ["x", 1]]}, r"it/pairs\[1\]\[0\] is \"x\" in place of a count"),
        ({"sizes": {"\x1b[2J": None}}, r'it/sizes/"\\u001b\[2J" is null in place of a count'),
    ],
)
def test_each_other_value_is_refused_with_its_place(changes, text):
    with pytest.raises(StateError, match=text):
        check(GOOD | changes, Document, "it")


def test_values_of_any_type_are_not_nested_without_end():
    value: Any = 0
    for _ in range(40):
        value = [value]
    with pytest.raises(StateError, match="nested too deeply"):
        check(GOOD | {"rest": value}, Document, "it")


@pytest.mark.parametrize(
    "text", [b"[NaN]", b"[Infinity]", b"[1e999]", b"9" * 5000, b"\xff", b"", b"[" * 50_000, b"{'a': 1}", b"[1,]"]
)
def test_what_is_no_json_or_not_finite_is_refused(text):
    with pytest.raises(StateError, match=r"no JSON|nested too deeply|more values"):
        parse(text, 1000)


def test_a_short_file_cannot_hold_values_that_fill_the_memory():
    text = b"[" + b"[]," * 10**6 + b"0]"
    tracemalloc.start()
    with pytest.raises(StateError, match="more values than the file has room for"):
        parse(text, len(text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
