"""Results are those of the commit that ``data/frozen.json`` names: the same keys, the same numbers, the same bits.

Keys, strings, integers and booleans are compared everywhere, and numbers to within their intervals. Bits are compared
where processor, BLAS and libraries are those that made the file: elsewhere these round otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.frozen_cases import CASES, EXPECTED, World, computed, inputs, signature, unfolded

FROZEN = json.loads(EXPECTED.read_text(encoding="utf-8"))
PATHS = [f"{parent}/{name}" for parent, names in FROZEN["paths"].items() for name in names.split()]
OTHER = [
    f"{what} is {mine}, not {FROZEN['signature'].get(what)}"
    for what, mine in signature().items()
    if mine != FROZEN["signature"].get(what)
]
WIDER = 3.0  # times; an interval may be so much wider or narrower where errors are measured on another processor
SHOWN = 12  # differences in a message
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("frozen"))
    yield made
    made.close()


def test_the_arithmetic_is_that_of_the_frozen_bits():
    if OTHER:
        pytest.skip(f"bits are not compared on this machine: {'; '.join(OTHER)}")


def test_the_inputs_are_the_frozen_ones(world):
    assert inputs(world) == FROZEN["inputs"]


def test_every_case_is_frozen():
    assert list(CASES) == list(FROZEN["cases"]), "run python -m tests.data.make_frozen"


@pytest.mark.parametrize("name", CASES)
def test_a_result_is_the_frozen_one(world, name):
    kept, found = FROZEN["cases"][name], computed(name, world)
    differences = [
        *_different_leaves(unfolded(kept["skeleton"], FROZEN["shared"]), found["skeleton"]),
        *_different_figures(kept["figures"], found["figures"]),
    ]
    if not OTHER:
        keys = sorted(kept["bits"].keys() | found["bits"].keys())
        differences += [f"bits of {key}" for key in keys if kept["bits"].get(key) != found["bits"].get(key)]
    if differences:
        more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        pytest.fail("\n  ".join([f"{name} changed:", *differences[:SHOWN]]) + more)


def _different_leaves(kept: Any, found: Any, path: str = "") -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in kept.keys() | found.keys():
            if key not in found or key not in kept:
                yield f"{path}/{key}: {'gone' if key in kept else 'new'}"
            else:
                yield from _different_leaves(kept[key], found[key], f"{path}/{key}")
        if kept.keys() == found.keys() and list(kept) != list(found):
            yield f"{path}: keys in the order {', '.join(found)}, not {', '.join(kept)}"
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for number, (one, other) in enumerate(zip(kept, found, strict=True)):
            yield from _different_leaves(one, other, f"{path}/{number}")
    elif kept != found or type(kept) is not type(found):
        yield f"{path}: {found!r}, not {kept!r}"


def _different_figures(kept: list[str], found: dict[str, tuple[float, float]]) -> Iterator[str]:
    wanted = {}
    for line in kept:
        place, value, width = line.split()
        wanted[PATHS[int(place)]] = float(value), float(width)
    for path in sorted(wanted.keys() | found.keys()):
        if path not in wanted or path not in found:
            yield f"{path}: {'no number any more' if path in wanted else 'a number, where there was none'}"
            continue
        (value, width), (value_now, width_now) = wanted[path], found[path]
        if abs(value_now - value) > max(width, 1e-9 * abs(value)):
            yield f"{path}: {value_now!r}, not {value!r} to within {width:.1e}"
        slack = 1e-10 * abs(value)  # the ends of the interval are doubles, and the file holds ten digits of the value
        if not (width - slack) / WIDER <= width_now <= WIDER * width + slack:
            yield f"{path}: half-width {width_now:.3g}, not {width:.3g}"
