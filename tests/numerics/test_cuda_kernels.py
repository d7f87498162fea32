"""The kernels of a card on the processor: what they find in rows, and the rows and sums that they write."""

from __future__ import annotations

import ctypes
import itertools
from importlib import metadata

import array_api_compat.numpy as array_api_numpy
import ml_dtypes
import numpy as np
import pytest

from rankme_stream.numerics.devices import cuda_source
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import INEXACT, LARGE, MISSING, NONFINITE, ZERO, Seen
from rankme_stream.numerics.devices.cuda_source import STORED_TYPES
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import named_type
from tests import cupy_stand_in

STANDARD = StandardDevice(array_api_numpy, "numpy:0", types=tuple(STORED_TYPES))
WIDTHS = (1, 2, 3, 33, 768)
SKIPPED = (0, MISSING, MISSING | NONFINITE, MISSING | NONFINITE | ZERO, MISSING | NONFINITE | LARGE | INEXACT)


@pytest.fixture
def card(monkeypatch):
    return cupy_stand_in.device(monkeypatch)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def special_values(dtype):
    """Return the numbers of a type at which something may go wrong."""
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        near = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 3, -(2**53), -(2**53) - 1, 2**24 + 1, 0, 1]
        return [ends.min, ends.max, *(one for one in near if ends.min <= one <= ends.max)]
    ends = ml_dtypes.finfo(dtype)
    return [0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, *(float(one) for one in (
        ends.max, ends.min, ends.tiny, ends.smallest_subnormal, -ends.smallest_subnormal
    ))]  # fmt: skip


def rows_of(name, width):
    """Return rows of a type: usual ones, ones with a special value, constant ones, and some of zeros."""
    dtype, rng = dtype_of(name), np.random.default_rng(width)
    special = special_values(dtype)
    rows = rng.integers(0, 100, (len(special) * 2 + 9, width)).astype(dtype)
    for number, one in enumerate(special):
        rows[number, rng.integers(width)] = one
        rows[len(special) + number] = one
    rows[-4:-2] = 0
    if dtype.kind not in "iu":
        rows[-2, ::2] = -0.0
        rows[-2, 1::2] = 0.0
        if name == "float64":
            rows[-1, 0], rows[-1, -1] = np.nan, 1e200
    rows[:, width // 2] = np.where(np.arange(len(rows)) < len(rows) // 2, rows[:, width // 2], 0)  # often zero
    if width > 3:
        rows[:, 1:3] = 0  # one feature is zero throughout, one but for rows that are missing
        rows[5:7, 2] = 1
    return rows


def seen_of(device, n_rows, width):
    flags = np.zeros(n_rows, np.uint8)
    flags[5:7] = MISSING
    return Seen(device.upload(flags), device.zeros((1,)), device.zeros((width,), np.uint8))


def panel_types(name):
    return ("float64", "float32", *([name] if name in ("float16", "bfloat16") else []))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("name", STORED_TYPES)
def test_a_look_finds_and_writes_what_the_standard_does(card, name):
    kind = named_type(name)
    for width, skip in zip(WIDTHS, SKIPPED, strict=True):
        rows = rows_of(name, width)
        stored = card.stored_rows((len(rows) + 1, width + 2), kind)[:-1, 1:-1]
        np.asarray(stored)[...] = rows.view(kind.dtype)
        for panel in panel_types(name):
            slab, theirs = card.slab((len(rows), 1 + width), panel), np.zeros((len(rows), 1 + width), dtype_of(panel))
            np.asarray(slab)[...] = 77
            seen, wanted = (seen_of(one, len(rows), width) for one in (card, STANDARD))
            STANDARD.fill_slab(rows, kind, theirs, wanted, skip)
            with cupy_stand_in.own_kernels_only():
                card.fill_slab(stored, kind, slab, seen, skip)
            for found, true in zip(seen, wanted, strict=True):
                np.testing.assert_array_equal(found, true, err_msg=f"{width} {panel} {skip}")
            bits = np.uint16 if theirs.itemsize == 2 else theirs.dtype
            np.testing.assert_array_equal(np.asarray(slab).view(bits), theirs.view(bits), err_msg=f"{width} {panel}")


def test_a_look_adds_to_what_was_seen_before(card):
    kind = named_type("float64")
    seen = seen_of(card, 3, 2)
    for rows in ([[0.0, 2.0], [0.0, 3.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]):
        card.fill_slab(card.upload(np.array(rows)), kind, card.slab((3, 3), "float64"), seen, 0)
    assert seen.largest.tolist() == [3.0]
    assert seen.nonzero.tolist() == [1, 1]
    assert seen.flags[1] & ZERO
    assert not seen.flags[0] & ZERO


def test_rows_that_are_not_side_by_side_are_copied_first(card):
    kind, rows = named_type("float32"), rows_of("float32", 33)
    slab, seen = card.slab((len(rows), 34), "float64"), seen_of(card, len(rows), 33)
    card.fill_slab(card.upload(np.asfortranarray(rows)), kind, slab, seen, 0)
    np.testing.assert_array_equal(np.asarray(slab)[:, 1:], rows.astype(np.float64))


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_scaled_to_unit_length(card, width):
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.ones((40, 1)), rng.standard_normal((40, width))], axis=1)
    rows[3], rows[7, 1:] = 0.0, 0.0
    slab, out = (card.slab(rows.shape, "float64") for _ in range(2))
    np.asarray(slab)[...] = rows
    theirs = np.full(rows.shape, 7.0)
    STANDARD.unit_rows(rows, theirs)
    with cupy_stand_in.own_kernels_only():
        card.unit_rows(slab, out)
        lengths = card.squared_lengths(slab[:, 1:])
    np.testing.assert_allclose(out, theirs, rtol=1e-14)
    np.testing.assert_array_equal(np.asarray(out)[[3, 7]], 0.0)
    np.testing.assert_allclose(lengths, STANDARD.squared_lengths(rows[:, 1:]), rtol=1e-14)
    scales, scaled = card.upload(rng.standard_normal(40)), card.slab(rows.shape, "float64")
    with cupy_stand_in.own_kernels_only():
        card.scale(slab[:, 1:], scales, scaled[:, 1:])
    np.testing.assert_array_equal(scaled[:, 1:], rows[:, 1:] * np.asarray(scales)[:, None])


@pytest.mark.parametrize("panel", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("panel_rows", [1, 31, 32, 33, 1100])
def test_columns_are_summed_panel_by_panel(card, panel, panel_rows):
    width, n_panels = 35, 2
    values = np.random.default_rng(1).integers(-9, 9, (panel_rows * n_panels, width))
    slab = card.slab(values.shape, panel)
    np.asarray(slab).view(dtype_of(panel))[...] = values
    with cupy_stand_in.own_kernels_only():
        sums = card._kernels.column_sums(slab, panel_rows, Workspace(card))
    panels = values.reshape(n_panels, panel_rows, width)
    np.testing.assert_array_equal(sums, np.stack([panels.sum(axis=1), (panels**2).sum(axis=1)], axis=1))


def test_numbers_are_rounded_to_the_nearest_float32(card):
    values = np.array([[1e300, -1e300, 1e-300, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-149, 2.0**-140 * 1.3, np.nan]])
    narrow = card.slab(values.shape, "float32")
    there = card.upload(values)
    with cupy_stand_in.own_kernels_only():
        card.narrow(there, narrow)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_equal(narrow, values.astype(np.float32))


def test_the_features_of_a_slab_are_aligned_as_products_need_them(card):
    for dtype, width in itertools.product(("float16", "bfloat16", "float32", "float64"), WIDTHS):
        slab = card.slab((3, 1 + width), dtype)
        assert slab.shape == (3, 1 + width)
        assert slab[:, 1:].data.ptr % 128 == 0
        assert slab.strides[0] // slab.itemsize % 16 == 0
        assert slab.strides[0] >= slab.itemsize * (1 + width)
        assert not np.asarray(slab).any()


def nvrtc():
    """Return NVIDIA's compiler for kernels, which needs no card; skip the test where it is not installed."""
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = [str(one.locate()) for one in metadata.files(name) or []]
        except metadata.PackageNotFoundError:
            continue
        ctypes.CDLL(next(one for one in files if "libnvrtc-builtins.so" in one))  # found by name once it is loaded
        return ctypes.CDLL(next(one for one in files if "libnvrtc.so" in one))
    pytest.skip("NVRTC is not installed")


@pytest.mark.parametrize(
    "text",
    [
        cuda_source.panel_source(), cuda_source.probe_source("float16"), cuda_source.fill_source("float16", "float64"),
        cuda_source.fill_source("bfloat16", "bfloat16"), cuda_source.fill_source("uint64", "float32"),
    ],
    ids=["panels", "probe", "float16", "bfloat16", "uint64"],
)  # fmt: skip
def test_nvrtc_compiles_the_text_without_a_word(text):
    compiler, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert compiler.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = [b"-std=c++14", b"-ftz=true", b"--device-as-default-execution-space", b"-arch=sm_80"]  # as CuPy
    status = compiler.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    assert (status, log.value.decode().strip()) == (0, "")
    compiler.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetPTX(program, ptx)
    assert ".entry" in ptx.value.decode()
    assert ".ftz" not in ptx.value.decode()  # nothing takes a subnormal number for zero
    compiler.nvrtcDestroyProgram(ctypes.byref(program))
