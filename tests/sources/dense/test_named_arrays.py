"""Which array of a file is meant; the others are listed, shortened, in the message."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import (
    NamedArray,
    chosen_name,
    layout_of_chosen,
    refuse_name,
    refuse_unscaled,
)


def arrays(**shapes):
    return {name: NamedArray(shape, "F32") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "inside", "is_scales", "chosen"),
    [
        ({"a": (3, 2)}, "", False, "a"),
        ({"a": (3, 2), "b": (3,), "c": ()}, "", False, "a"),
        ({"a": (3, 2), "b": (3, 4)}, "b", False, "b"),
        ({"a": (3,)}, "", False, "a"),  # refused by its shape, with the remedy for that
        ({"a": (3,), "b": ()}, "", True, "a"),
    ],
)
def test_the_one_of_the_name_or_the_only_one_that_fits(shapes, inside, is_scales, chosen):
    assert chosen_name(arrays(**shapes), inside, "x", is_scales=is_scales) == chosen


@pytest.mark.parametrize(
    ("shapes", "inside", "said"),
    [
        ({}, "", "x holds no array"),
        ({"a": (3,), "b": (3,)}, "", r"x holds no array of rows and features: it holds a \(3\) F32, b \(3\) F32"),
        ({"a": (3, 2), "b": (3, 2, 1)}, "", r"holds a \(3, 2\) F32, b \(3, 2, 1\) F32: say which .* 'x::a'"),
        ({"abc": (1_000, 2)}, "abd", r"x holds no 'abd': it holds abc \(1,000, 2\) F32: use e.g. 'x::abc'"),
        ({"a": None, "b": None}, "", "say which of them holds the rows, such as 'x::a'"),
    ],
)
def test_others_are_listed(shapes, inside, said):
    with pytest.raises(SourceFormatError, match=said):
        chosen_name(arrays(**shapes), inside, "x")


def test_messages_stay_short_whatever_the_names():
    many = {f"{number}{'n' * 10_000}": NamedArray((3, 2), "F32") for number in range(1_000)}
    for inside in ("", "m" * 10_000):
        with pytest.raises(SourceFormatError, match=r"and 992 more") as caught:
            chosen_name(many, inside, "x")
        assert len(str(caught.value)) < 2_000


def test_an_array_that_is_not_read_says_why():
    with pytest.raises(SourceFormatError, match=r"x::a holds BOOL, which is not read"):
        layout_of_chosen({"a": NamedArray((3, 2), "BOOL", None, "holds BOOL, which is not read")}, "a", "x")


def test_a_file_of_one_array_takes_no_name():
    refuse_name("", NO_OPTIONS, "x")
    with pytest.raises(UsageError, match="leave path out"):
        refuse_name("a", ArrayOptions(path="a"), "x")


@pytest.mark.parametrize(
    ("name", "beside", "is_refused"),
    [
        ("emb", "emb_scale_inv", True),
        ("emb", "scales", True),
        ("emb", "EMB_SCALE", True),
        ("layers.0.qweight", "layers.0.qzeros", True),
        ("codes", "codebook", True),
        ("layers.0.weight", "layers.0.weight_scale", True),
        ("layers.0.weight", "layers.0.weight.absmax", True),
        ("layers.0.weight", "layers.1.weight_scale", False),
        ("emb", "grayscale", False),
        ("emb", "labels", False),
        ("emb_scale", "other_scale", False),
    ],
)
def test_scales_beside_codes_are_told_by_their_names(name, beside, is_refused):
    for dtype, type_name in (("i1", None), ("u1", "float8_e4m3fn"), ("<i4", None)):
        layout = DenseLayout((3, 2), np.dtype(dtype), 0, type_name=type_name)
        if is_refused:
            with pytest.raises(SourceFormatError, match=f"{beside} beside it may be its scales"):
                refuse_unscaled(name, [name, beside], layout, NO_OPTIONS, "x")
        else:
            refuse_unscaled(name, [name, beside], layout, NO_OPTIONS, "x")
        for options in (ArrayOptions(decode="linear"), ArrayOptions(scales="elsewhere")):
            refuse_unscaled(name, [name, beside], layout, options, "x")
    for dtype, type_name in (("<f4", None), ("<u2", "bfloat16")):
        refuse_unscaled(
            name, [name, beside], DenseLayout((3, 2), np.dtype(dtype), 0, type_name=type_name), NO_OPTIONS, "x"
        )
