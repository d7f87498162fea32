"""Other libraries that give the singular values of a zarr array, as their users would call them, and our passes.

``python -m benchmarks.speed.peers NAME URI`` runs one of them in a process of its own and prints a line of JSON: its
RankMe, and the seconds from the opened array to that number. Imports, and a run over a few rows that starts threads,
are not timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

import rankme_stream as rs
from rankme_stream.numerics import machine
from rankme_stream.spectra import metrics

# So many chunks keep all cores decoding. On 2 cores, 2 chunks were at least as fast as 1, 4 and 8 for every peer.
_SLAB_CHUNKS = machine.cores()
_RANK = 256  # of the truncated SVD
_WARM_UP = 2  # rows a feature in the run that is not timed

Solve = Callable[[Any, int], float]  # an opened array, how many of its rows -> RankMe


@dataclass(frozen=True)
class Peer:
    """One way to RankMe.

    Attributes
    ----------
    prepare
        Function that imports the library and returns the function that is timed.
    package
        Distribution whose version is reported.
    is_centered
        Whether the singular values are those of the centred rows.
    """

    prepare: Callable[[], Solve]
    package: str
    is_centered: bool = False


def _ours(**options: Any) -> Solve:
    return lambda array, n_rows: rs.measure(array, rows=(0, n_rows), **options).rankme.value


def _rankme(singular_values: Any) -> float:
    return metrics.rankme(np.sort(np.asarray(singular_values, np.float64))[::-1])


def _rankme_of_squares(squares: np.ndarray) -> float:
    return _rankme(np.sqrt(np.maximum(squares, 0.0)))


def _slabs(array: Any, n_rows: int, n_chunks: int) -> Iterator[np.ndarray]:
    """Yield ``n_chunks`` chunks of rows at a time; a rest too short for full rank joins the rows before it."""
    step, start = n_chunks * array.chunks[0], 0
    while start < n_rows:
        stop = n_rows if n_rows - start < step + array.shape[1] else start + step
        yield array[start:stop]
        start = stop


def _numpy_svd(dtype: type) -> Solve:
    return lambda array, n_rows: _rankme(np.linalg.svd(array[:n_rows].astype(dtype), compute_uv=False))


def _naive(dtype: type) -> Solve:
    def solve(array: Any, n_rows: int) -> float:
        gram = np.zeros((array.shape[1], array.shape[1]), dtype)
        for slab in _slabs(array, n_rows, _SLAB_CHUNKS):
            x = slab.astype(dtype)
            gram += x.T @ x
        return _rankme_of_squares(np.linalg.eigvalsh(gram))

    return solve


def _torch_svdvals() -> Solve:
    import torch

    return lambda array, n_rows: _rankme(torch.linalg.svdvals(torch.from_numpy(array[:n_rows]).float()))


def _dask(values: Callable[[Any, Any], Any], blas_threads: int | None = 1) -> Solve:
    """Return a solver by Dask, whose manual says to hold BLAS to one thread: threads of both would compete."""
    import dask.array as da

    def solve(array: Any, n_rows: int) -> float:
        with threadpool_limits(blas_threads, user_api="blas"):
            return _rankme(values(da, da.from_zarr(array)[:n_rows].astype(np.float64)))

    return solve


def _dask_svd(da: Any, rows: Any) -> Any:
    return da.linalg.svd(rows)[1].compute()


def _dask_tsqr(da: Any, rows: Any) -> Any:
    return np.linalg.svd(da.linalg.tsqr(rows)[1].compute(), compute_uv=False)


def _dask_svd_compressed(da: Any, rows: Any) -> Any:
    return da.linalg.svd_compressed(rows, k=min(_RANK, rows.shape[1]), seed=0)[1].compute()


def _incremental_pca() -> Solve:
    from sklearn.decomposition import IncrementalPCA

    def solve(array: Any, n_rows: int) -> float:
        n_chunks = -(-5 * array.shape[1] // array.chunks[0])  # the default of scikit-learn is 5 rows a feature
        pca = IncrementalPCA()
        for slab in _slabs(array, n_rows, n_chunks):
            pca.partial_fit(slab.astype(np.float64))
        return _rankme(pca.singular_values_)

    return solve


def _intelex_covariance(dtype: type) -> Solve:
    from sklearnex.covariance import IncrementalEmpiricalCovariance

    def solve(array: Any, n_rows: int) -> float:
        covariance = IncrementalEmpiricalCovariance()
        for slab in _slabs(array, n_rows, _SLAB_CHUNKS):
            covariance.partial_fit(slab.astype(dtype))
        return _rankme_of_squares(n_rows * np.linalg.eigvalsh(covariance.covariance_))

    return solve


PEERS: dict[str, Peer] = {
    "rankme float64": Peer(_ours, "rankme-stream"),
    "rankme auto": Peer(partial(_ours, precision="auto"), "rankme-stream"),
    "rankme qr": Peer(partial(_ours, method="tsqr"), "rankme-stream"),
    "naive Gram float64": Peer(partial(_naive, np.float64), "numpy"),
    "naive Gram float32": Peer(partial(_naive, np.float32), "numpy"),
    "numpy svd float64": Peer(partial(_numpy_svd, np.float64), "numpy"),
    "numpy svd float32": Peer(partial(_numpy_svd, np.float32), "numpy"),
    "torch svdvals float32": Peer(_torch_svdvals, "torch"),
    "sklearnex covariance float64": Peer(partial(_intelex_covariance, np.float64), "scikit-learn-intelex", True),
    "sklearnex covariance float32": Peer(partial(_intelex_covariance, np.float32), "scikit-learn-intelex", True),
    "sklearn IncrementalPCA": Peer(_incremental_pca, "scikit-learn", True),
    "dask svd": Peer(partial(_dask, _dask_svd), "dask"),
    "dask svd, BLAS not held to 1 thread": Peer(partial(_dask, _dask_svd, None), "dask"),
    "dask tsqr": Peer(partial(_dask, _dask_tsqr), "dask"),
    f"dask svd_compressed k={_RANK}": Peer(partial(_dask, _dask_svd_compressed), "dask"),
}


def run(name: str, uri: str, rows: int | None = None) -> dict[str, Any]:
    """Run a peer over the first rows of an array, or all; return its figures, or the package that is missing."""
    peer = PEERS[name]
    try:
        solve = peer.prepare()
    except ImportError as error:
        return {"name": name, "missing": error.name or peer.package}
    store, _, path = uri.partition("::")
    array = zarr.open_array(store, path=path.strip("/"), mode="r")
    n_rows = array.shape[0] if rows is None else min(rows, array.shape[0])
    solve(array, min(n_rows, _WARM_UP * array.shape[1]))
    cpu, wall = time.process_time(), time.perf_counter()
    rankme = solve(array, n_rows)
    return {
        "name": name,
        "elapsed_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "rankme": rankme,
        "version": f"{peer.package} {version(peer.package)}",
    }


def main() -> None:
    """Print the figures of one peer as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.peers", description=__doc__)
    parser.add_argument("name", choices=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("uri")
    parser.add_argument("--rows", type=int, help="read only the first ROWS rows")
    print(json.dumps(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
