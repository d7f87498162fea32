"""Arithmetic that is wrong is found before rows are read, BLAS with more threads than one before numbers are kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import array_api_compat.numpy as array_api_numpy
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from rankme_stream.cli.commands import run
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices import host, registry
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.host import HOST, cross_product
from rankme_stream.numerics.devices.known_products import check_factor, check_products, check_slabs
from rankme_stream.numerics.dtypes import named_type
from rankme_stream.passes.loop import card_run
from rankme_stream.sources.dense.npy import NpySource
from tests.dumps import rows_like, same_bits
from tests.toy_device import TOY, TYPES

KINDS = [(name, is_one) for name in ("float64", "float32") for is_one in (True, False)]


def wrong_for(name: str, is_one: bool, fault: float = 1.0):
    """Return a product whose last entry is wrong in one type, of one block with itself or of two."""

    def multiply(left, right, out):
        cross_product(left, right, out)
        if out.dtype == name and (left.ctypes.data == right.ctypes.data) is is_one:
            out[-1, -1] += fault

    return multiply


def check(device=HOST) -> None:
    with ThreadPoolExecutor(1) as pool:
        for of_rows in (False, True):
            check_products(device, pool, of_rows=of_rows)
    check_factor(device)


@pytest.mark.parametrize("device", [HOST, TOY], ids=lambda device: device.name)
def test_arithmetic_that_is_right_passes(device):
    check(device)


@pytest.mark.parametrize(("name", "is_one"), KINDS)
def test_a_wrong_product_is_refused_with_what_is_wrong_and_which_blas(monkeypatch, name, is_one):
    monkeypatch.setattr(host, "cross_product", wrong_for(name, is_one))
    blocks = "one block" if is_one else "two blocks"
    with pytest.raises(ArithmeticCheckError, match=rf"BLAS \(.+\) computes .*{name} product.* of {blocks}, has .*; "):
        check()


def test_products_of_rows_are_tried_in_the_order_in_which_rows_lie(monkeypatch):
    def wrong(left, right, out):
        cross_product(left, right, out)
        out[0, 0] += left.strides[0] < left.strides[1]  # columns lie one after another

    monkeypatch.setattr(host, "cross_product", wrong)
    rs.measure(np.eye(6, 4))
    with pytest.raises(ArithmeticCheckError, match="product of whole numbers"):
        rs.measure(np.eye(4, 6))


def test_a_product_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setattr(host, "cross_product", wrong_for("float64", False, fault=np.nan))
    with pytest.raises(ArithmeticCheckError, match="has nan in place of"):
        check()


def test_products_of_two_threads_that_are_mixed_up_are_refused(monkeypatch):
    both, latest = threading.Barrier(2), {}

    def mixing(left, right, out):
        latest["left"] = left
        both.wait(60)  # now it is that of the thread that came last
        cross_product(latest["left"], right, out)
        both.wait(60)

    monkeypatch.setattr(host, "cross_product", mixing)
    with pytest.raises(ArithmeticCheckError, match="product of whole numbers"):
        check()


def test_a_wrong_factor_is_refused(monkeypatch):
    right = host.stack_triangle

    def wrong(r, below, triangular_rows, scratch):
        right(r, below, triangular_rows, scratch)
        r[3, 70] += 1e-9

    monkeypatch.setattr(host, "stack_triangle", wrong)
    with pytest.raises(ArithmeticCheckError, match=r"a QR decomposition of signs, has 1.0.*e-09 in place of 0; "):
        check()
    with pytest.raises(ArithmeticCheckError, match="QR"):
        rs.measure(np.eye(4), method="tsqr")
    rs.measure(np.eye(4))


def test_a_device_that_multiplies_wrongly_is_named():
    class Faulty(type(TOY)):
        def set_product(self, left, right, out):
            super().set_product(left, right, out)
            out += 1.0

    with pytest.raises(ArithmeticCheckError, match=r"toy:0 computes wrongly: .*; update its driver"):
        check(Faulty(TOY.xp, "toy:0"))


SLABS = [("float64", "float64", False), ("float64", "float64", True), ("float32", "float32", True),
         ("float16", "float16", True), ("float16", "float64", False), ("uint8", "float64", False),
         ("int64", "float64", True)]  # fmt: skip


def check_all_slabs(card) -> None:
    for kind, panel_type, in_float32 in SLABS:
        check_slabs(card, named_type(kind), panel_type, in_float32=in_float32)


class Narrow(StandardDevice):
    """A card that adds up products of 16-bit rows in float32."""

    def __init__(self) -> None:
        super().__init__(array_api_numpy, "narrow:0", types=(*TYPES, "float16"))

    def set_product(self, left, right, out):
        super().set_product(left.astype(out.dtype), right.astype(out.dtype), out)


class LosesAShortSlab(Narrow):
    def add_panels(self, slab, panel_rows, total, scratch):
        if len(slab) >= panel_rows:
            super().add_panels(slab, panel_rows, total, scratch)


class MixesPanels(Narrow):
    def add_panels(self, slab, panel_rows, total, scratch):
        for start in range(0, len(slab), panel_rows):
            panel = slab[start : start + panel_rows]
            total += panel.T @ slab[: len(panel)]


class ScalesByADiagonalOfItsOwn(Narrow):
    def _with_true_diagonal(self, product, panel):
        return super()._with_true_diagonal(product, panel[:-1])


class AddsUpIn16Bits(Narrow):
    def set_product(self, left, right, out):
        out[...] = left.T @ right


class CountsRowsThatAreLeftOut(Narrow):
    def fill_slab(self, stored, kind, slab, seen, skip):
        super().fill_slab(stored, kind, slab, seen, skip)
        slab[:, 0] = 1


class SeesNoNumberAsOne(Narrow):
    def fill_slab(self, stored, kind, slab, seen, skip):
        super().fill_slab(np.nan_to_num(stored), kind, slab, seen, skip)


def test_slabs_that_are_right_pass():
    check_all_slabs(Narrow())
    for kind in TYPES:
        for in_float32 in (False, True):
            check_slabs(TOY, named_type(kind), "float64", in_float32=in_float32)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (LosesAShortSlab, "products of whole numbers, of slabs of float64"),
        (MixesPanels, "products of whole numbers, of slabs of float64"),
        (ScalesByADiagonalOfItsOwn, "products of whole numbers, of slabs of float16"),
        (AddsUpIn16Bits, "products of whole numbers, of slabs of float16"),
        (CountsRowsThatAreLeftOut, "products of whole numbers, of slabs of float64"),
        (SeesNoNumberAsOne, "what is found in rows of float64, as bits, has 0 in place of 1"),
    ],
)
def test_a_card_that_adds_up_slabs_wrongly_is_refused(kind, what):
    with pytest.raises(ArithmeticCheckError, match=rf"narrow:0 computes wrongly: .*{what}.*; update its driver"):
        check_all_slabs(kind())


def test_a_pass_on_a_card_tries_its_slabs_before_it_reads(monkeypatch):
    monkeypatch.setitem(registry.MODULES, "toy", ("tests.toy_device",))
    rows, tried = rows_like(2_000, 4).astype(np.float32), []
    monkeypatch.setattr(card_run, "check_slabs", lambda *arguments, **options: tried.append((arguments[1:], options)))
    for options in ({"precision": "float64"}, {"precision": "float32"}, {"method": "tsqr"}, {"normalize": True}):
        rs.measure(rows, device="toy", tolerance=1.0, **{"method": "gram"} | options)
    kind = named_type("float32")
    assert tried == [
        ((kind, "float64"), {"in_float32": False}), ((kind, "float32"), {"in_float32": True}),
        ((kind, "float64"), {"in_float32": False}),
    ]  # fmt: skip


def test_a_pass_by_a_faulty_blas_ends_with_exit_code_5_before_it_reads(monkeypatch, tmp_path, capsys):
    np.save(tmp_path / "a.npy", rows_like(2_000, 4))
    monkeypatch.setattr(host, "cross_product", wrong_for("float32", True))
    assert run(["score", str(tmp_path / "a.npy"), "--checkpoint", str(tmp_path / "kept")]) == 5
    assert capsys.readouterr().err.splitlines()[-1].startswith("rankme: error: BLAS (")
    with pytest.raises(ArithmeticCheckError):
        rs.measure(iter([rows_like(10, 4)]))
    with pytest.raises(ArithmeticCheckError):
        rs.RankMe().fit(rows_like(10, 4))
    monkeypatch.undo()
    assert run(["score", str(tmp_path / "a.npy"), "--checkpoint", str(tmp_path / "kept")]) == 0


def test_a_result_says_that_it_was_checked(tmp_path):
    rows, path = rows_like(2_000, 4), tmp_path / "a.npy"
    np.save(path, rows)
    for found in (rs.measure(rows), rs.measure(iter([rows])), rs.measure(rows, sample=True, tolerance=0.5)):
        assert found.provenance["blas_checked"] is True
    part = rs.segment(path, part=(0, 1), state=tmp_path / "part")
    assert rs.measure_state(part).provenance["blas_checked"] is True
    assert rs.measure_state(rs.load_state("tests/data/state-v1-gram.rankme")).provenance["blas_checked"] is False


def test_rows_that_blas_multiplied_in_several_threads_are_not_kept(monkeypatch, tmp_path):
    path, kept = tmp_path / "a.npy", tmp_path / "kept"
    np.save(path, rows_like(140_000, 4))
    read = NpySource.read

    def meddled(self, start, stop, out=None):  # as other code in the process does when it pleases
        for library in blas_threads._libraries():
            blas_threads._set(library, 2)
        return read(self, start, stop, out)

    with monkeypatch.context() as patched, threadpool_limits(2, user_api="blas"):
        patched.setattr(NpySource, "read", meddled)
        with pytest.raises(ArithmeticCheckError, match=r"set to 2 threads by other code .* while rows 0-65,535 were"):
            rs.measure(path, workers=1, checkpoint=kept)
    assert not rs.load_state(kept).nodes
    assert same_bits(rs.measure(path, checkpoint=kept), rs.measure(path))
