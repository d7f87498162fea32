"""BLAS is held to one thread during a pass, whoever set its threads before, and given back after the last pass."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import rankme_stream as rs
from rankme_stream.errors import ArithmeticCheckError
from rankme_stream.numerics import blas_threads
from rankme_stream.sources import ArraySource


def found() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two():
    with threadpool_limits(2, user_api="blas"):
        yield
        assert found() == {2}


def test_the_last_of_several_gives_it_back():
    first, second = blas_threads.one_thread(), blas_threads.one_thread()
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        assert found() == {1}
        other.submit(second.__exit__, None, None, None).result()
        assert found() == {2}


def test_an_error_gives_it_back():
    with pytest.raises(KeyError), blas_threads.one_thread(), blas_threads.one_thread():
        raise KeyError
    assert found() == {2}


def test_a_measurement_in_another_thread_than_set_it_last_is_held_to_one():
    inside, go_on, seen = threading.Event(), threading.Event(), []

    class Slow(ArraySource):
        def read(self, start, stop, out=None):
            inside.set()
            assert go_on.wait(60)
            seen.append(found())
            return super().read(start, stop, out)

    rows = np.random.default_rng(0).standard_normal((100, 3))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(rs.measure, Slow(rows, "slow"))
        assert inside.wait(60)
        rs.measure(rows)
        go_on.set()
        slow.result()
    assert seen and all(counts == {1} for counts in seen)


class OnOpenMP:
    """A library whose number of threads is that of each thread."""

    internal_api, threading_layer, filepath, version = "openblas", "openmp", "libfake.so", "1.2"

    def __init__(self):
        self._local = threading.local()

    @property
    def num_threads(self):
        return getattr(self._local, "count", 7)

    def set_num_threads(self, count):
        self._local.count = count


def test_a_setting_of_each_thread_is_made_in_each(monkeypatch):
    library = OnOpenMP()
    monkeypatch.setattr(blas_threads, "_libraries", lambda: [library])
    with blas_threads.one_thread():
        assert library.num_threads == 1
        with blas_threads.threads(2, "held") as pool, ThreadPoolExecutor(1) as other:
            assert pool.submit(lambda: library.num_threads).result() == 1
            assert other.submit(lambda: library.num_threads).result() == 7
            pool.submit(blas_threads.check_one_thread, 0, 1).result()
            with pytest.raises(ArithmeticCheckError, match=r"BLAS \(openblas 1\.2\) was set to 7 threads"):
                other.submit(blas_threads.check_one_thread, 0, 1).result()
    assert library.num_threads == 7
    with blas_threads.threads(1, "free") as pool:
        assert pool.submit(lambda: library.num_threads).result() == 7
