"""Objects of libraries that hold rows: the numbers of the array, any range of them, and one line where they are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import rankme_stream as rs
from rankme_stream.errors import SourceFormatError, UsageError
from rankme_stream.sources import Source, open_source
from rankme_stream.testing import SourceLaws

da = pytest.importorskip("dask.array")
ROWS = (np.random.default_rng(0).standard_normal((300, 12)) * np.linspace(1, 0.05, 12)).astype(np.float32)
ROWS[ROWS < -0.3] = 0  # so that sparse matrices leave numbers out
IMAGE = ROWS.reshape(6, 50, 12)


def stored_twice() -> Any:
    """Return a matrix of coordinates, many of which occur several times, and no explicit order."""
    draw = np.random.default_rng(1)
    places = draw.integers(0, 300, 6000), draw.integers(0, 12, 6000)
    return sparse.coo_array((draw.standard_normal(6000).astype(np.float32), places), shape=(300, 12))


MADE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "dask": (lambda: da.from_array(ROWS, chunks=(70, 12)), {}),
    "dask, columns and empty blocks": (lambda: da.from_array(ROWS, chunks=((100, 0, 200), (5, 7))), {}),
    "dask, features first": (lambda: da.from_array(ROWS.T, chunks=(5, 70)), {"features_axis": 0}),
    "dask, three axes": (lambda: da.from_array(IMAGE, chunks=(2, 50, 12)), {"features_axis": 2}),
    **{form: (lambda form=form: sparse.csr_array(ROWS).asformat(form), {}) for form in ("csr", "csc", "coo", "lil")},
    "sparse, features first": (lambda: sparse.csr_matrix(ROWS.T), {"features_axis": 0}),
}


@pytest.mark.parametrize("name", MADE)
class TestRowsOfLibraries(SourceLaws):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def make(self) -> Source:
        made, options = MADE[self.name]
        return open_source(made(), **options)

    def expected(self) -> np.ndarray:
        return ROWS

    def test_it_has_the_bits_of_the_array_in_memory(self) -> None:
        source, stored = self.make(), np.empty_like(ROWS)
        source.read(0, 300, stored)
        assert stored.tobytes() == ROWS.tobytes()
        assert rs.measure(source, workers=2).estimates == rs.measure(ROWS).estimates


def test_numbers_stored_twice_are_added_in_the_order_of_scipy() -> None:
    matrix = stored_twice()
    assert open_source(matrix).read(0, 300).tobytes() == matrix.toarray().tobytes()
    assert rs.measure(matrix).estimates == rs.measure(matrix.toarray()).estimates


def test_explicit_zeros_change_nothing() -> None:
    matrix = sparse.csr_array(ROWS)
    matrix.data[::5] = 0
    assert open_source(matrix).read(0, 300).tobytes() == matrix.toarray().tobytes()


def test_a_sparse_matrix_is_never_made_dense_whole() -> None:
    rows = sparse.random_array((20_000, 512), density=0.01, rng=np.random.default_rng(0), format="csr")
    assert open_source(rows).read_memory(100) < 2**21
    biggest = []
    source = open_source(rows)
    read = source.read
    source.read = lambda *given: biggest.append(given[1] - given[0]) or read(*given)  # type: ignore[method-assign]
    found = rs.measure(source, workers=1)
    assert max(biggest) * 512 * 8 <= 2**23
    assert found.estimates == rs.measure(rows.toarray()).estimates


def test_each_block_of_dask_is_computed_once() -> None:
    computed: list[int] = []

    def block(block_info: Any = None) -> np.ndarray:
        first = block_info[None]["array-location"][0][0]
        computed.append(first)
        return ROWS[first : first + 30]

    rows = da.map_blocks(block, chunks=((30,) * 10, (12,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    assert rs.measure(rows, workers=1).estimates == rs.measure(ROWS).estimates
    assert sorted(computed) == list(range(0, 300, 30))


def test_rows_of_several_axes_follow_the_chunks_as_in_zarr(tmp_path: Any) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=IMAGE.shape, chunks=(4, 20, 5), dtype="f4")
    array[:] = IMAGE
    stored, lazy = open_source(array, features_axis=2), open_source(da.from_zarr(array), features_axis=2)
    assert lazy.read(0, 300).tobytes() == stored.read(0, 300).tobytes()
    assert lazy.read(77, 203).tobytes() == stored.read(77, 203).tobytes()
    assert list(lazy.bounds(0, 300)) == list(stored.bounds(0, 300))
    assert np.array_equal(lazy.coordinates(77, 203), stored.coordinates(77, 203))


def test_numbers_mean_what_the_options_say() -> None:
    held = (ROWS * 30).astype(np.int8)
    found = rs.measure(open_source(da.from_array(held, chunks=50), nodata=-128, decode="power:2:127.5"))
    values = np.sign(held) * (np.abs(held) / 127.5) ** 2
    assert found.rankme.value == pytest.approx(rs.measure(values).rankme.value, rel=1e-9)


BLOCKS = da.from_array(ROWS, chunks=(100, 12))


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: BLOCKS[BLOCKS[:, 0] > 0], r"call array.compute_chunk_sizes\(\) first"),
        (lambda: da.ma.masked_greater(BLOCKS, 2), "is a masked array: fill it"),
        (lambda: BLOCKS.map_blocks(np.float64, dtype="f4"), "is float64 of shape .* and float32 of shape"),
        (
            lambda: BLOCKS.map_blocks(lambda b: b[:5], chunks=BLOCKS.chunks),
            r"of shape \(15, 12\), and float32",
        ),
        (lambda: BLOCKS.map_blocks(sparse.csr_array), "is a csr_array, not an array of numpy"),
        (lambda: BLOCKS.astype(complex), "holds dtype complex128"),
        (lambda: BLOCKS[0], r"has shape \(12,\)"),
        (lambda: da.from_array(IMAGE), "say which of them is the features"),
        (lambda: sparse.csr_array(ROWS > 0), "holds dtype bool"),
        (lambda: sparse.coo_array(ROWS[0]), r"has shape \(12,\)"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(made: Callable[[], Any], text: str) -> None:
    with pytest.raises(SourceFormatError, match=text):
        rs.measure(made())


def test_indices_outside_of_a_sparse_matrix_are_refused() -> None:
    matrix = sparse.csr_array(ROWS)
    matrix.indices[7] = 2_000_000
    with pytest.raises(SourceFormatError, match=r"is damaged: .*; make it again"):
        rs.measure(matrix)


@pytest.mark.parametrize("name", ["path", "scales", "width", "offset"])
def test_options_of_stored_arrays_are_refused(name: str) -> None:
    value: Any = 12 if name in ("width", "offset") else "a"
    with pytest.raises(UsageError, match=f"{name} is for an array that is stored"):
        open_source(BLOCKS, **{name: value})


def test_a_key_needs_columns_or_members() -> None:
    for thing in (ROWS, BLOCKS, sparse.csr_array(ROWS)):
        with pytest.raises(UsageError, match="key names a column or a member"):
            rs.measure(thing, key="a")
    with pytest.raises(UsageError, match="key is for an object in memory"):
        rs.measure("dump.npy", key="a")
    with pytest.raises(UsageError, match="key is True"):
        rs.measure([ROWS], key=True)


def test_what_is_no_rows_is_told_what_is() -> None:
    with pytest.raises(SourceFormatError, match=r"from a object; a path, an array \(numpy, torch.*pandas"):
        rs.measure(object())


def test_no_library_is_imported_to_recognise_a_type() -> None:
    code = """
import sys, numpy as np, rankme_stream as rs
rs.measure([np.eye(3)]); rs.measure(np.eye(3))
print(*{"dask", "pandas", "polars", "pyarrow", "torch", "h5py", "xarray"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
