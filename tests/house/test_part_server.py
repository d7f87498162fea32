"""A part of a benchmark that fails or hangs ends alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.harness.part_server import PartError, PartServer, Setup


@pytest.fixture
def server() -> Iterator[PartServer]:
    made = PartServer(Setup("tests.house.slow_parts", {"features": 8}, cores=1))
    yield made
    made.close()


def test_parts_share_a_process_its_cores_and_its_setup_and_what_they_print_is_no_answer(server):
    assert server.ask(["first"], 30.0) == {"asked": 1, "cores": 1, "setup": {"features": 8}}
    assert server.ask(["talk"], 30.0)["asked"] == 2


def test_a_part_that_hangs_is_stopped_at_its_limit_and_the_next_one_is_made(server):
    server.ask(["first"], 30.0)  # the process runs
    began = time.monotonic()
    with pytest.raises(PartError, match=r"^it took more than 0\.2 s$"):
        server.ask(["hang"], 0.2)
    assert time.monotonic() - began < 10.0
    assert server.ask(["next"], 30.0)["asked"] == 1


def test_a_part_that_fails_says_the_last_line_of_its_error(server):
    with pytest.raises(PartError, match=r"^ValueError: no such rows$"):
        server.ask(["fail"], 30.0)


def test_a_process_that_dies_without_a_word_says_its_exit_code(server):
    with pytest.raises(PartError, match=r"^its process ended with 3$"):
        server.ask(["die"], 30.0)
