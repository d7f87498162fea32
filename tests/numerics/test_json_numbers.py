"""JSON is read with finite numbers of a limited number of digits, or refused with the reason."""

from __future__ import annotations

import json

import pytest

from rankme_stream.numerics.json_numbers import read


def test_json_is_read_as_it_is_written():
    value = {"a": [1, -2.5, None, True, "x"], "b": {"c": -(10**19), "d": 5e-324}}
    assert read(json.dumps(value), 20) == read(json.dumps(value).encode(), 20) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[NaN]", "it holds NaN, which is not JSON"), ("[-Infinity]", "it holds -Infinity, which is not JSON"),
        ("[1e999]", "the number 1e999 is beyond the range of doubles"),
        ("[123456]", "a whole number has more than 5 digits"), ("[-123456]", "more than 5 digits"),
        ("9" * 5000, "more than 5 digits"), ("{", "Expecting"),
    ],
)  # fmt: skip
def test_other_numbers_are_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        read(text, 5)


def test_text_that_is_no_json_and_values_that_are_nested_without_end_have_errors_of_their_own():
    with pytest.raises(json.JSONDecodeError):
        read("{1: 2}", 5)
    with pytest.raises(RecursionError):
        read("[" * 100_000, 5)
