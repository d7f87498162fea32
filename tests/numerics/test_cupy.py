"""CuPy without a card: streams, memory and products of slabs, over a stand-in that does what cuBLAS is asked for."""

from __future__ import annotations

import inspect
import re

import array_api_compat.numpy as array_api_numpy
import ml_dtypes
import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.accumulators.float32_gram import Float32GramAccumulator
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.errors import DeviceError
from rankme_stream.numerics.devices import cuda_settings, cuda_source, registry
from rankme_stream.numerics.devices import cupy as cupy_module
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.card import Seen
from rankme_stream.numerics.devices.device import Workspace
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.testing import matrix_with_spectrum, with_ones
from tests import cupy_stand_in

STANDARD = StandardDevice(array_api_numpy, "numpy:0", types=("float16", "float32", "float64"))
SIXTEEN_BIT = ("float16", "bfloat16")


class Standard16(StandardDevice):
    """The standard, with products of 16-bit panels summed in float32."""

    def set_product(self, left, right, out):
        out[...] = left.astype(out.dtype).T @ right.astype(out.dtype)


@pytest.fixture
def card(monkeypatch):
    return cupy_stand_in.device(monkeypatch)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def slabs(card, n_rows, features, panel, scale=1.0):
    """Return a slab on the card and the same on the host; some rows count nowhere."""
    rng = np.random.default_rng(features)
    rows = with_ones(scale * (rng.standard_normal((n_rows, features)) + 0.3)).astype(dtype_of(panel))
    rows[::7] = 0
    slab = card.slab(rows.shape, panel)
    np.asarray(slab).view(rows.dtype)[...] = rows
    return slab, rows


def lower_of(matrix):
    return np.tril(np.asarray(matrix))


@pytest.mark.parametrize("features", [1, 2, 3, 33, 129])
@pytest.mark.parametrize("n_rows, panel_rows", [(96, 32), (70, 35), (5, 64), (1, 1), (4, 1)])
def test_float64_panels_are_added_one_after_another(card, monkeypatch, features, n_rows, panel_rows):
    slab, rows = slabs(card, n_rows, features, "float64")
    wanted = np.random.default_rng(0).standard_normal((1 + features,) * 2)
    totals = [card.upload(wanted) for _ in range(3)]
    STANDARD.add_panels(rows, panel_rows, wanted, Workspace(STANDARD))
    for total, half_from, n_bytes in zip(totals, (2048, 1, 2048), (2**28, 2**28, 1), strict=True):
        monkeypatch.setattr(cupy_module, "_HALF_FROM", half_from)
        monkeypatch.setattr(cupy_module, "_SQUARES_BYTES", n_bytes)
        with cupy_stand_in.own_kernels_only():
            card.add_panels(slab, panel_rows, total, Workspace(card))
        np.testing.assert_allclose(lower_of(total), lower_of(wanted), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(lower_of(totals[0]), lower_of(totals[2]))  # the number at once changes no bit
    assert {name for name, _ in cupy_stand_in.STAND_IN.cublas.calls} == {"dgemm", "dsyrk"}


def test_the_count_of_rows_and_whole_numbers_are_exact(card):
    rows = with_ones(np.random.default_rng(3).integers(-50, 50, (600, 9)).astype(np.float64))
    for panel in ("float64", "float32", *SIXTEEN_BIT):
        slab, total = card.slab(rows.shape, panel), card.zeros((10, 10))
        np.asarray(slab).view(dtype_of(panel))[...] = rows
        flags = card.zeros((3,), np.uint8)
        if panel == "float64":
            card.add_panels(slab, 200, total, Workspace(card))
        else:
            card.add_float32_panels(slab, 200, total, flags, Workspace(card))
        np.testing.assert_array_equal(lower_of(total), lower_of(rows.T @ rows))
        assert not flags.any()


@pytest.mark.parametrize("panel", ["float32", "float64", *SIXTEEN_BIT])
@pytest.mark.parametrize("features", [1, 2, 33, 130])
@pytest.mark.parametrize("n_rows, panel_rows", [(96, 32), (70, 35), (5, 64)])
def test_float32_products_are_those_of_the_standard(card, panel, features, n_rows, panel_rows):
    standard = Standard16(array_api_numpy, "numpy:0")
    slab, rows = slabs(card, n_rows, features, panel)
    total, wanted = card.zeros((1 + features,) * 2), np.zeros((1 + features,) * 2)
    n_panels = max(1, n_rows // panel_rows)
    flags, their_flags = card.zeros((n_panels,), np.uint8), np.zeros(n_panels, np.uint8)
    standard.add_float32_panels(rows, panel_rows, wanted, their_flags, Workspace(standard))
    with cupy_stand_in.own_kernels_only():
        card.add_float32_panels(slab, panel_rows, total, flags, Workspace(card))
    np.testing.assert_allclose(lower_of(total), lower_of(wanted), rtol=1e-5, atol=1e-5 * n_rows)
    np.testing.assert_array_equal(flags, their_flags)
    name = {"float32": "sgemm", "float64": "sgemm"}.get(panel, "gemmEx")
    assert cupy_stand_in.STAND_IN.cublas.calls == [(name, n_panels)]


@pytest.mark.parametrize("panel", SIXTEEN_BIT)
def test_products_that_are_cut_off_are_put_right_by_their_diagonals(card, panel):
    slab, rows = slabs(card, 256, 40, panel)
    exact = rows.astype(np.float64).T @ rows.astype(np.float64)
    cupy_stand_in.STAND_IN.cublas.kept = 1 - 2.0**-9
    total = card.zeros((41, 41))
    card.add_float32_panels(slab, 64, total, card.zeros((4,), np.uint8), Workspace(card))
    np.testing.assert_allclose(lower_of(total), lower_of(exact), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(np.diagonal(total), np.diagonal(exact), rtol=1e-12)


@pytest.mark.parametrize("power", [-66, -73, -75])
def test_squares_that_underflow_put_nothing_right(card, power):
    slab, rows = slabs(card, 64, 12, "bfloat16")
    wide, total = np.abs(rows.astype(np.float64)), card.zeros((13, 13))
    wide[:, 5] *= 2.0**power
    np.asarray(slab).view(dtype_of("bfloat16"))[...] = wide
    card.add_float32_panels(slab, 64, total, card.zeros((1,), np.uint8), Workspace(card))
    np.testing.assert_allclose(np.asarray(total)[5, :5], wide[:, 5] @ wide[:, :5], rtol=1e-4)


@pytest.mark.parametrize("panel, scale", [("float32", 1.0), ("bfloat16", 1e-15)])
def test_float32_panels_and_tiny_sums_are_left_as_they_are(card, panel, scale):
    slab, rows = slabs(card, 256, 40, panel, scale)
    rows = rows.astype(np.float64)
    kept = cupy_stand_in.STAND_IN.cublas.kept = 1 - 2.0**-9
    total = card.zeros((41, 41))
    card.add_float32_panels(slab, 64, total, card.zeros((4,), np.uint8), Workspace(card))
    np.testing.assert_allclose(np.diagonal(total)[1:], kept * np.einsum("ij,ij->j", rows, rows)[1:], rtol=1e-5)


@pytest.mark.parametrize("panel", ["bfloat16", "float32", "float64"])
def test_panels_whose_squares_overflow_are_flagged_and_no_other(card, panel):
    slab, _ = slabs(card, 90, 12, panel)
    np.asarray(slab).view(dtype_of(panel))[65, 4] = 1e20
    flags = card.zeros((3,), np.uint8)
    card.add_float32_panels(slab, 30, card.zeros((13, 13)), flags, Workspace(card))
    assert flags.tolist() == [0, 0, 1]


@pytest.mark.parametrize("panel", ["float32", "float64", *SIXTEEN_BIT])
@pytest.mark.parametrize("features", [1, 33, 600])
def test_probes_see_every_panel_in_float64(card, panel, features):
    slab, rows = slabs(card, 140, features, panel)
    wide = rows.astype(np.float64)
    for count, panel_rows in ((8, 70), (8, 140), (3, 140), (11, 35)):
        drawn = np.random.default_rng(count).standard_normal((1 + features, count))
        for directions in (np.asfortranarray(drawn), drawn):
            products, sums = card.zeros((1 + features, count)), card.zeros((1 + features,))
            there = card.upload(directions)
            with cupy_stand_in.own_kernels_only():
                card.add_probed_panels(slab, panel_rows, there, products, sums, Workspace(card))
                card.add_probed(slab[:33], there, products, sums, Workspace(card))
            wanted = wide.T @ (wide @ drawn) + wide[:33].T @ (wide[:33] @ drawn)
            np.testing.assert_allclose(products, wanted, rtol=1e-12, atol=1e-11)
            np.testing.assert_allclose(sums, wide.sum(axis=0) + wide[:33].sum(axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 33, 70])
def test_a_lower_triangle_is_multiplied_as_a_whole_matrix(card, n):
    rng = np.random.default_rng(n)
    lower, right = rng.standard_normal((n, n)), rng.standard_normal((n, 8))
    exact = (np.tril(lower) + np.tril(lower, k=-1).T) @ right
    np.testing.assert_allclose(STANDARD.symmetric_product(lower, right), exact, rtol=1e-12, atol=1e-12)
    there = card.upload(lower)
    for laid in (right, np.asfortranarray(right)):
        uploaded = card.upload(laid)
        with cupy_stand_in.own_kernels_only():
            found = card.symmetric_product(there, uploaded)
        np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(lower_of(there), np.tril(lower))


def test_products_take_matrices_by_rows_by_columns_and_any_other(card):
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 1), (1, 5, 3), (64, 13, 1), (7, 5, 6)):
        rows, m, n = shape
        left, right = rng.standard_normal((rows, m)), rng.standard_normal((rows, n))
        wide = np.repeat(np.repeat(left, 2, axis=0), 2, axis=1)
        for lay in (np.ascontiguousarray, np.asfortranarray, lambda one: one):
            first = card.upload(lay(left)) if lay is not None else None
            for other in (np.ascontiguousarray, np.asfortranarray):
                out = card.zeros((m, n + 3))[:, :n]
                card.set_product(first, card.upload(other(right)), out)
                np.testing.assert_allclose(out, left.T @ right, rtol=1e-13, atol=1e-13)
                with cupy_stand_in.own_kernels_only():
                    card.add_product(first, card.upload(other(right)), out, Workspace(card))
                np.testing.assert_allclose(out, 2 * (left.T @ right), rtol=1e-13, atol=1e-13)
        out = card.zeros((m, n))
        card.set_product(card.upload(wide)[::2, ::2], card.upload(right), out)
        np.testing.assert_allclose(out, left.T @ right, rtol=1e-13, atol=1e-13)
        alike = np.broadcast_to(card.upload(left)[:1], left.shape, subok=True)
        card.set_product(alike, card.upload(right), out)
        np.testing.assert_allclose(out, np.asarray(alike).T @ right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", SIXTEEN_BIT)
def test_products_of_16_bit_rows_are_tried_before_they_are_used(monkeypatch, name):
    for kept, is_exact in ((1.0, True), (0.999, False)):
        card = cupy_stand_in.device(monkeypatch)
        cupy_stand_in.STAND_IN.cublas.kept = kept
        assert card.multiplies_exactly(named_type(name)) == is_exact
        assert card.panel_type(named_type(name)) == (name if is_exact else "float32")
    assert not card.multiplies_exactly(named_type("float32"))


def test_tf32_is_refused_where_float32_is_multiplied(card, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    slab, _ = slabs(card, 8, 3, "float32")
    with pytest.raises(DeviceError, match="NVIDIA_TF32_OVERRIDE is set to 1"):
        card.add_float32_panels(slab, 8, card.zeros((4, 4)), card.zeros((1,), np.uint8), Workspace(card))
    cuda_settings.refuse_emulation()
    wide, _ = slabs(card, 8, 3, "float64")
    card.add_panels(wide, 8, card.zeros((4, 4)), Workspace(card))


def test_copies_and_events_are_queued_on_their_streams(card):
    streams, kind = cupy_stand_in.STAND_IN.streams, named_type("bfloat16")
    copying, computing = card.stream(), card.stream()
    memory = card.pinned(2 * 5 * 7).view(np.uint16).reshape(5, 7)
    memory[...] = np.arange(35).reshape(5, 7)
    there = card.stored_rows((6, 7), kind)
    copying.copy(memory[:4], there[:4])
    copied = copying.record()
    computing.wait(copied)
    with computing:
        assert streams.current().ptr == computing._stream.ptr
        used = computing.record()
        card.finish()
    copied.wait()
    np.testing.assert_array_equal(there[:4], memory[:4])
    assert (np.asarray(there)[4:] == 0xFFFF).all()
    first, second = copying._stream, computing._stream
    assert streams.calls == [
        ("copy", first.ptr, 56), ("record", first, copied.event), ("wait_event", second, copied.event),
        ("record", second, used.event), ("synchronize", streams.null), ("synchronize", second),
        ("synchronize", copied.event),
    ]  # fmt: skip
    assert streams.current().ptr == 0


def test_pinned_rows_are_those_that_can_be_copied_as_they_lie(card):
    pinned = card.pinned(800).view(np.float64).reshape(10, 10)
    assert card.is_pinned(pinned)
    assert card.is_pinned(pinned[3:5])
    for rows in (np.ones((3, 2)), pinned[:, 1:], pinned.T, pinned[:0], pinned.view(pinned.dtype.newbyteorder())):
        assert not card.is_pinned(rows)
    beyond = np.ndarray((10, 10), np.float64, pinned.base if pinned.base is not None else pinned)
    cupy_stand_in.STAND_IN.pinned[0] = cupy_stand_in.STAND_IN.pinned[0][:792]
    assert not card.is_pinned(beyond)


def test_a_gram_of_slabs_is_that_of_the_host(card):
    rows = 30.0 * matrix_with_spectrum(np.arange(1.0, 25) ** -0.5, n_rows=300, n_features=24) + 0.01
    here, there = GramAccumulator(24), GramAccumulator(24, Workspace(card))
    slab = card.slab((300, 25), "float64")
    np.asarray(slab)[...] = with_ones(rows)
    here.update(with_ones(rows), 0)
    for start in (0, 200):
        part = slab[start : start + 200]
        there.queue(part, 100, card.zeros((2,), np.uint8))
    there.set_nonzero(np.ones(24, bool))
    mine, theirs = (one.spectrum(unit_roundoff=2.0**-53).raw.values for one in (there, here))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)


@pytest.mark.parametrize("panel", ["float32", *SIXTEEN_BIT])
def test_measured_errors_of_slabs_are_small(card, panel):
    there = Float32GramAccumulator(24, Workspace(card))
    slab, rows = slabs(card, 300, 24, panel)
    for start in (0, 200):
        there.queue(slab[start : start + 200], 100, card.zeros((2,), np.uint8))
    there.set_nonzero(np.ones(24, bool))
    there.check(0, 300)
    exact = np.linalg.svd(rows[:, 1:].astype(float), compute_uv=False)
    found = there.spectrum(unit_roundoff=2.0**-53).raw.values
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.fixture
def named(card, monkeypatch):
    """Let `measure` find the stand-in by the name ``cuda``."""
    monkeypatch.setitem(registry.MODULES, "cuda", ("rankme_stream.numerics.devices.cupy",))
    monkeypatch.setattr(cupy_module, "open_device", lambda index: card)
    return card


@pytest.mark.parametrize(
    "dtype, options",
    [
        ("bfloat16", {}), ("bfloat16", {"precision": "float32"}), ("float64", {"precision": "float32"}),
        ("float64", {"normalize": True}), ("int8", {"normalize": True, "dims": (7,)}),
    ],
)  # fmt: skip
def test_a_pass_gives_the_interval_of_the_host(named, dtype, options):
    rows = 30.0 * matrix_with_spectrum(np.arange(1.0, 25) ** -0.5, n_rows=1100, n_features=24)
    rows = rows.astype(dtype_of(dtype))
    rows[40:42] = 0
    found, there = (rs.measure(rows, **options, tolerance=1.0, device=name) for name in ("cuda", "cpu"))
    assert found.device == "cuda:0"
    assert found.audit == there.audit
    for metric, one in found.estimates.items():
        other = there.estimates[metric]
        assert one.value is None or (one.lower <= other.upper and other.lower <= one.upper), metric


def test_each_part_of_the_kernels_is_compiled_once(card):
    compiled = cupy_stand_in.RawModule.compiled
    compiled.clear()
    for panel in ("float16", "float64", "float16"):
        slab, rows = slabs(card, 8, 3, panel)
        seen = Seen(card.zeros((8,), np.uint8), card.zeros((1,)), card.zeros((3,), np.uint8))
        card.fill_slab(card.upload(rows[:, 1:].copy()), named_type(panel), slab, seen, 0)
        card.add_probed(slab, card.zeros((4, 8)), card.zeros((4, 8)), card.zeros((4,)), Workspace(card))
    parts = [cuda_source.fill_source(name, name) for name in ("float16", "float64")]
    parts += [cuda_source.probe_source(name) for name in ("float16", "float64")]
    parts.append(cuda_source.panel_source())
    assert sorted(compiled) == sorted(parts)


def test_the_stand_in_is_called_as_the_library_is():
    cupy = pytest.importorskip("cupy")
    cublas = cupy.cuda.cublas
    for name in ("dgemmStridedBatched", "sgemmStridedBatched", "gemmStridedBatchedEx", "dsyrk", "setStream"):
        text = re.search(r"\((.*)\)", getattr(cublas, name).__doc__)[1]
        theirs = [one.split()[-1] for one in text.split(",")]
        mine = list(inspect.signature(getattr(cupy_stand_in.Cublas, name)).parameters)[1:]
        assert mine == theirs
    stand_in = cupy_stand_in.STAND_IN
    for name, mine in (("memcpyAsync", stand_in.copy), ("pointerGetAttributes", stand_in.pointer_attributes)):
        text = re.search(r"\((.*?)\)", getattr(cupy.cuda.runtime, name).__doc__)[1]
        assert list(inspect.signature(mine).parameters) == [one.split()[-1] for one in text.split(",")]
    for name in ("OP_N", "OP_T", "FILL_MODE_LOWER", "FILL_MODE_UPPER", "COMPUTE_32F", "GEMM_DEFAULT"):
        assert getattr(cublas, f"CUBLAS_{name}") == getattr(cupy_stand_in.Cublas, f"CUBLAS_{name}")
    runtime, mine = (
        one.cuda.runtime for one in (pytest.importorskip("cupy"), cupy_stand_in.STAND_IN.modules()["cupy"])
    )
    for name in ("CUDA_R_16F", "CUDA_R_16BF", "CUDA_R_32F", "memcpyHostToDevice", "memoryTypeHost"):
        assert getattr(runtime, name) == getattr(mine, name)
