"""One BLAS thread for the tests of this folder: for matrices as small as theirs, more only take processor time."""

import pytest

from rankme_stream.numerics import blas_threads


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with blas_threads.one_thread():
        yield
