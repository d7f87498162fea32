"""Arithmetic that is wrong is found before rows are read, BLAS with more threads than one before numbers are kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from rankme_stream.cli.commands import run
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics import blas_threads
from rankme_stream.numerics.devices import host
from rankme_stream.numerics.devices.host import HOST, cross_product
from rankme_stream.numerics.devices.known_products import check_factor, check_products
from rankme_stream.sources.npy import NpySource
from tests.dumps import rows_like, same_bits
from tests.toy_device import TOY

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
