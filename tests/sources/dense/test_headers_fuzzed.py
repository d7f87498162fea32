"""Any bytes in place of a header are refused in one line, or read; tests/extra/fuzz_headers.py tries far more."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.sources.dense.inert_pickle import PickleError, tree_of
from rankme_stream.sources.dense.torch_file import ALLOWED
from tests.bytes_file import TORCH_FILES
from tests.fuzzed_headers import ENDINGS, SOUND, read_any

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])


@st.composite
def changed(draw, sound: bytes) -> bytes:
    """Draw a file in which a few pieces are others: bytes, or numbers of 1 to 8 bytes."""
    held = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(held)))
        if draw(st.booleans()):
            piece = draw(numbers).to_bytes(8, "little")[: draw(st.sampled_from([1, 2, 4, 8]))]
            held[at : at + len(piece)] = piece
        else:
            held[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(held)


@pytest.mark.parametrize("ending", ENDINGS)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(ending, content):
    read_any(ending, content)


@pytest.mark.parametrize("number", range(len(SOUND)))
@given(data=st.data())
def test_changed_files_are_refused_or_read(number, data):
    ending, sound = SOUND[number]
    read_any(ending, data.draw(changed(sound)))


@pytest.mark.parametrize(("ending", "sound"), [one for one in SOUND if not one[0].endswith(".json")])
def test_sound_files_are_read(ending, sound):
    assert read_any(ending, sound) or b"codes_scale" in sound


@given(data=st.data())
def test_changed_pickles_are_refused_or_read(data):
    sound = (TORCH_FILES / "tensors.pt").read_bytes()
    begin = sound.index(b"\x80\x02}")
    with suppress(PickleError):
        tree_of(data.draw(changed(sound[begin : begin + 1500])), ALLOWED)
