"""The verdicts of the benchmark of cards follow from its lines alone."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.speed import gpu_page

D, ROWS = 768, 4_000_000


def a_pass(where: str, rate: float, precision: str = "float64", **changes: Any) -> dict[str, Any]:
    """Return the line of a pass at so many rows a second, with 0.25 s for everything that is no row."""
    line = {
        "what": "pass", "library": "cupy", "features": D, "stored": "float16", "where": where, "precision": precision,
        "rows": ROWS, "s": 0.25 + ROWS / rate, "quarter_rows": ROWS // 4, "quarter_s": 0.25 + ROWS / 4 / rate,
        "first_s": 1.0, "true": 500.0, "error": 0.0, "half_width": 1e-4, "held": True,
    }  # fmt: skip
    return line | changes


def result_of(*lines: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "command": "c", "date": "d", "machine": "m", "is_card": True, "cores": 16, "missing": [], "left_out": [],
        "facts": {"cupy": {"card": "a card"}}, "lines": list(lines),
    } | changes  # fmt: skip


def verdict(result: dict[str, Any], words: str) -> str:
    (found,) = [one for one in gpu_page.requirements(result) if words in one.name]
    return found.verdict("cupy")


COPY = {"what": "copy", "library": "cupy", "features": D, "from": "pinned", "bytes": 2**28, "s": 2**28 / 50e9}


def at_all_widths(where: str, share: float) -> list[dict[str, Any]]:
    """Return passes at a share of the link."""
    return [a_pass(where, share * 50e9 / (2 * d), features=d) for d in (256, 768, 1024, 2048)]


def test_a_rate_counts_the_rows_alone():
    assert gpu_page.rows_per_s(a_pass("card", 1e7)) == pytest.approx(1e7)


@pytest.mark.parametrize("share, expected", [(0.95, "holds"), (0.85, "**falls short**: 256, 768, 1,024, 2,048")])
def test_pinned_rows_are_judged_by_the_copies_of_the_run(share, expected):
    assert verdict(result_of(COPY, *at_all_widths("pinned", share)), "pinned rows") == expected


def test_a_width_that_is_missing_is_named():
    assert verdict(result_of(COPY, *at_all_widths("pinned", 0.95)[1:]), "pinned rows") == "not measured: 256"
    assert verdict(result_of(*at_all_widths("pinned", 0.95)), "pinned rows") == "not measured"


def test_pageable_rows_need_the_cores_of_the_requirement():
    lines = at_all_widths("pageable", 0.5)
    assert verdict(result_of(*lines), "pageable") == "holds"
    assert verdict(result_of(*lines, cores=8), "pageable") == "not measured"


def test_rows_on_the_card_are_judged_by_the_fastest_product_of_any_library():
    product = {"what": "product", "library": "torch", "features": D, "arithmetic": "float64", "panel_rows": 8192}
    lines = [a_pass("card", 1e7), product | {"s": 8192 / 1.2e7}, product | {"s": 8192 / 0.5e7}]
    (found,) = [one for one in gpu_page.requirements(result_of(*lines)) if "card, float64: share" in one.name]
    assert dict(found.values["cupy"])["768"] == pytest.approx(1 / 1.2)


def test_an_older_build_is_compared_and_its_interval_is_not():
    lines = [a_pass("card", 3.2e7), a_pass("card", 1e6, build="old", held=False)]
    assert verdict(result_of(*lines), "older build") == "holds"
    assert verdict(result_of(*lines), "intervals that hold") == "holds"


def test_an_interval_that_does_not_hold_falls_short():
    assert verdict(result_of(a_pass("card", 1e7, held=False)), "intervals that hold") == (
        "**falls short**: 768 float16 card float64"
    )


def test_first_passes_are_compared_with_second_ones():
    first = {
        "what": "first",
        "library": "cupy",
        "features": D,
        "where": "card",
        "precision": "float64",
        "second_s": 0.1,
    }
    assert verdict(result_of(first | {"first_s": 2.0}), "first pass") == "holds"
    assert verdict(result_of(first | {"first_s": 3.2}), "first pass") == "**falls short**: card float64"


def test_without_a_card_nothing_is_judged():
    result = result_of(COPY, *at_all_widths("pinned", 0.95), is_card=False)
    assert {one.verdict(library) for one in gpu_page.requirements(result) for library in one.values} == {"not measured"}
