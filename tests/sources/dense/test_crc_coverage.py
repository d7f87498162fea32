"""The CRC-32 of pieces in any order is that of the whole."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.sources.dense import crc_coverage
from rankme_stream.sources.dense.crc_coverage import CrcCoverage, joined_crc


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crcs_of_two_pieces_are_joined(first, second):
    assert joined_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_whole_once_each_byte_was_read_and_right_only_then(content, data):
    n = len(content)
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n)))})
    pieces = data.draw(st.permutations(list(pairwise(cuts))))
    earlier = data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), max_size=5))
    for expected, is_wrong in ((zlib.crc32(content), False), (zlib.crc32(content) ^ 1, True)):
        coverage = CrcCoverage(n, expected)
        for start, stop in [*earlier, *pieces]:
            coverage.add(start, content[start:stop])
        assert coverage.is_whole
        assert coverage.is_wrong == is_wrong


@given(st.integers(2, 100), st.data())
def test_not_whole_while_a_byte_is_missing(n, data):
    missing = data.draw(st.integers(0, n - 1))
    coverage = CrcCoverage(n, 0)
    for start, stop in data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)))):
        if not start <= missing < stop:
            coverage.add(start, bytes(max(0, stop - start)))
    assert not coverage.is_whole


def test_reads_of_single_rows_do_not_take_ever_more_memory(monkeypatch):
    monkeypatch.setattr(crc_coverage, "_MOST_RUNS", 10)
    content = bytes(range(100))
    coverage = CrcCoverage(100, zlib.crc32(content))
    for start in range(1, 99, 2):
        coverage.add(start, content[start : start + 1])
        assert len(coverage._runs) <= 10
    for start in range(0, 100, 20):
        coverage.add(start, content[start : start + 20])
    assert coverage.is_whole and not coverage.is_wrong
