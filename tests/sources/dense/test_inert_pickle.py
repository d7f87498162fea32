"""A pickle becomes a tree of what it describes; nothing runs, and memory and time are those of its size."""

from __future__ import annotations

import collections
import io
import pickle
import re
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankme_stream.sources.dense import inert_pickle
from rankme_stream.sources.dense.inert_pickle import Called, Named, Persistent, PickleError, tree_of

ANY, NOTHING = re.compile(".*"), re.compile("(?!)")
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary()
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=8,
)


@given(trees, st.integers(2, 5))
def test_containers_and_scalars_come_back(tree, protocol):
    assert tree_of(pickle.dumps(tree, protocol), ANY if protocol == 2 else NOTHING) == without_bytes(tree, protocol)


def without_bytes(tree, protocol):
    """Return a tree as it comes back: of protocol 2, bytes are what a function would make."""
    if isinstance(tree, dict):
        return {key: without_bytes(value, protocol) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(without_bytes(value, protocol) for value in tree)
    return AnyCall() if protocol == 2 and isinstance(tree, bytes) else tree


class AnyCall:
    def __eq__(self, other):
        return isinstance(other, Called)

    def __hash__(self):
        return 0


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", 7) if thing is Ellipsis else None


def test_names_and_calls_are_kept_inert():
    stream = io.BytesIO()
    made = {"order": collections.OrderedDict(a=1), "outside": Ellipsis, "set": {1, 2}, "at": collections.deque([1], 3)}
    Pickler(stream, 2).dump(made)
    tree = tree_of(stream.getvalue(), ANY)
    assert isinstance(tree["outside"], Persistent) and tree["outside"].key == ("storage", 7)
    assert isinstance(tree["at"], Called) and tree["at"].name == "collections.deque"
    assert isinstance(tree["set"], Called)


def test_an_ordered_dict_is_a_dict():
    for protocol in (2, 4):
        held = pickle.dumps(collections.OrderedDict(a=1, b=collections.defaultdict(list, c=2)), protocol)
        assert tree_of(held, ANY) == {"a": 1, "b": {"c": 2}}


class Runs:
    ran = False

    def __reduce__(self):
        return setattr, (Runs, "ran", True)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_runs(protocol):
    held = pickle.dumps([Runs()], protocol)
    with pytest.raises(PickleError, match=r"which could run code|which files of tensors lack"):
        tree_of(held, re.compile("tests[.].*"))
    if protocol >= 2:
        assert isinstance(tree_of(held, ANY)[0], Called)
    assert not Runs.ran
    with pytest.raises(PickleError):
        tree_of(b"\x80\x02cos\nsystem\nq\x00.", NOTHING)
    assert isinstance(tree_of(b"\x80\x02cos\nsystem\nq\x00.", ANY), Named)


@pytest.mark.parametrize(
    "held",
    [
        b"", b".", b"\x80\x02", b"\x80\x02(.", b"\x80\x02t.", b"\x80\x02R.", b"\x80\x02h\x07.",
        b"\x80\x02]K\x01K\x02s.", b"\x80\x02}K\x01a.",
        b"\x80\x02K\x01)R.", b"\x80\x02(K\x01u.", b"\x80\x02K\x01K\x02.", b"\x80\x04\x8c\x01\xff.",
        b"\x80\x02(0.", b"\x80\x02X\xff\xff\xff\x7fabc.", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"P7\n.", b"\x80\x02K\x01K\x02\x93.", b"\x80\x05\x96\0\0\0\0\0\1\0\0.",
    ],
)  # fmt: skip
def test_a_damaged_pickle_is_refused(held):
    with pytest.raises(PickleError):
        tree_of(held, ANY)


def test_memory_and_time_are_those_of_the_size():
    doubled = b"\x80\x02]q\x00" + b"".join(b"(h%ch%cl" % (n, n) + b"q%c" % (n + 1) for n in range(100)) + b"."
    hashed = b"\x80\x02}" + b")q\x00" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(100)) + b"hdK\x01s."
    far = b"\x80\x02]r\xff\xff\xff\x7f."
    tracemalloc.start()
    began = time.monotonic()
    for held in (doubled, hashed, far):
        try:
            tree_of(held, ANY)
        except PickleError:
            continue
    assert time.monotonic() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_large_pickles_are_refused(monkeypatch):
    monkeypatch.setattr(inert_pickle, "LARGEST_PICKLE", 1000)
    monkeypatch.setattr(inert_pickle, "_MOST_STEPS", 100)
    with pytest.raises(PickleError, match=r"it has 1,[0-9]+ bytes, and 1,000 are read"):
        tree_of(pickle.dumps(list(range(500))), ANY)
    with pytest.raises(PickleError, match=r"it describes more than 100 things"):
        tree_of(pickle.dumps(list(range(200))), ANY)


def test_backslashes_of_damaged_text_are_no_warning():
    """Python warns of escapes that it does not know, and the tests turn warnings into errors."""
    with pytest.raises(PickleError):
        tree_of(b"S'\\c'\n", ANY)
