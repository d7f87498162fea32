"""A state file whose checksum is right but whose content no version writes is refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import StateError, ToleranceWarning
from tests.command_line import refused
from tests.dumps import rows_like, store

N_ROWS = 1100
METHODS: dict[str, dict[str, Any]] = {
    "gram": {},
    "float32": {"method": "gram", "precision": "float32"},
    "unit rows": {"normalize": True},
    "tsqr": {"method": "tsqr"},
    "rsvd": {"method": "rsvd", "rank": 2, "oversampling": 1},
    "frequent directions": {"method": "frequent-directions", "rank": 3},
    "row sketch": {"method": "row-sketch", "rank": 256},
    "groups": {"groups": np.arange(N_ROWS) // 100},
    "fewer rows than features": {"rows": (0, 5), "normalize": True},
}


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the description of a file and seal it again."""
    raw = path.read_bytes()
    start, length = struct.unpack("<QQ", raw[-48:-32])
    document = json.loads(raw[start : start + length])
    change(document)
    text = json.dumps(document).encode()
    whole = raw[:start] + text + struct.pack("<QQ", start, len(text))
    path.write_bytes(whole + blake2b(whole, digest_size=32).digest())
    return path


@pytest.fixture
def state(tmp_path) -> Path:
    rs.segment(store(tmp_path / "a.zarr", rows_like(N_ROWS, 8)), part=(0, 1), state=tmp_path / "a.state")
    return tmp_path / "a.state"


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_what_each_method_writes_is_read_and_each_array_is_checked(tmp_path, options):
    source, path = store(tmp_path / "a.zarr", rows_like(N_ROWS, 8)), tmp_path / "a.state"
    held = rs.segment(source, part=(0, 1), state=path, **options)
    assert rs.load_state(path).results_digest() == held.results_digest()
    raw = path.read_bytes()
    document = json.loads(raw[struct.unpack("<Q", raw[-48:-40])[0] : -48])
    for name, one in document["records"][0]["arrays"].items():
        others = [{"shape": [*one["shape"], 1]}, {"dtype": "|O"}, {"start": 2**40}, {"dtype": "<i4"}, {"shape": [-1]}]
        for other in others:
            if one | other == one:
                continue
            path.write_bytes(raw)
            with pytest.raises(StateError, match="is no state that rankme writes, though its checksum is right"):
                rs.load_state(
                    changed(path, lambda it, name=name, other=other: it["records"][0]["arrays"][name].update(other))
                )


def set_plan(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda it: it["plain"]["plan"].update({name: value})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda it: it["plain"].pop("source"), "lacks source"),
        (lambda it: it.pop("records"), "lacks records"),
        (lambda it: it.update(plain=[]), "in place of"),
        (lambda it: it["plain"].update(tail_start=10**6), "its tail cannot be so"),
        (lambda it: it["plain"].update(stretches=[[0, 1100, ""], [1100, 1200, ""]]), "its stretches cannot be so"),
        (lambda it: it["plain"].update(part=[5, 3]), "its part cannot be so"),
        (lambda it: it["plain"]["source"].update(unit_roundoff=1e-300), "type of the rows"),
        (lambda it: it["plain"]["source"].update(dtype="complex64"), "of no type that is read"),
        (lambda it: it["plain"]["rules"].update(missing="never"), "'error' or 'skip' or 'fill'"),
        (lambda it: it["plain"].update(workers=[{}]), "lacks blas, count, cpu, python"),
        (lambda it: it["plain"].update(passes=[{"method": "gram"}]), "lacks half_width, precision"),
        (set_plan("n_features", 10**9), "number of features"),
        (set_plan("n_features", 9), "number of features"),
        (set_plan("segment_rows", 3), "panels and segments"),
        (set_plan("method", "magic"), "the plan/method is"),
        (set_plan("columns", 4), "its sketch cannot be so"),
        (set_plan("row_stop", 2**62), "its rows cannot be so"),
        (set_plan("unheard", 1), "which is never written"),
        (lambda it: it["records"][0].update(node=[10**6, 0]), "partial results cannot be so"),
        (lambda it: it["records"][0].update(node=[0, 5]), "partial results cannot be so"),
        (lambda it: it["records"].append(it["records"][0]), "an array is not behind the one before it"),
        (lambda it: it["records"][0]["audit"].update(rows_nonfinite=1), "rows counted and rows read do not agree"),
        (lambda it: it["records"][0].update(witnesses=[[7, "x"], [7, "y"]]), "noted rows"),
        (lambda it: it["records"][0]["arrays"].pop("raw/gram"), "an array is not behind the one before it"),
        (lambda it: it.update(records=[]), "do not end where their description begins"),
        (lambda it: it["records"][0]["lengths"].update(node=1), "which is never written"),
    ],
)  # fmt: skip
def test_content_that_contradicts_itself_is_refused_with_its_place(state, change, text):
    with pytest.raises(StateError, match=f"though its checksum is right: .*{text}"):
        rs.load_state(changed(state, change))


def test_commands_refuse_it_in_one_line(state, tmp_path):
    changed(state, set_plan("n_features", -1))
    before = state.read_bytes()
    for arguments in (
        ("show", state), ("merge", state), ("compare", state), ("score", tmp_path / "a.zarr", "--checkpoint", state),
        ("segment", tmp_path / "a.zarr", "--part", "0/1", "--state", state),
    ):  # fmt: skip
        refused(3, "though its checksum is right: the plan/n_features is -1 in place of a count", *arguments)
    assert state.read_bytes() == before


def test_the_basis_of_a_later_pass_is_checked(tmp_path):
    source, path = store(tmp_path / "a.zarr", rows_like(N_ROWS, 200)), tmp_path / "a.state"
    options = {"method": "rsvd", "rank": 2, "oversampling": 1, "passes": 2, "tolerance": 1e-12}
    with pytest.warns(ToleranceWarning):
        rs.measure(source, checkpoint=path, **options)
    assert rs.load_state(path).basis is not None
    with pytest.raises(StateError, match="its basis is of type"):
        rs.load_state(changed(path, lambda it: it["records"][0]["arrays"]["basis"]["shape"].reverse()))


def test_numbers_that_no_rows_give_are_the_fault_of_the_file(state, tmp_path):
    """They are finite and in their places; what is computed from them is refused in one line, wherever it fails."""
    raw = bytearray(state.read_bytes())
    document = json.loads(raw[struct.unpack("<Q", raw[-48:-40])[0] : -48])
    gram = document["records"][0]["arrays"]["raw/gram"]
    for place in range(1, *gram["shape"]):
        struct.pack_into("<d", raw, gram["start"] + 8 * place, -1e6)
    state.write_bytes(raw)
    changed(state, lambda it: it)
    for arguments in (("show", state), ("merge", state), ("score", tmp_path / "a.zarr", "--checkpoint", state)):
        refused(3, "holds numbers that no rows give, or this machine computes wrongly", *arguments)
