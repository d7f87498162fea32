"""Versions of the writers, printed at the top of a run; without the writers nothing here is collected."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

WRITERS = (
    "zarr", "tensorstore", "xarray", "anndata", "dask", "zarrs", "kerchunk", "virtualizarr", "icechunk", "obstore",
    "fsspec", "s3fs", "moto", "h5py", "hdf5plugin", "netCDF4", "pandas", "polars", "pyarrow", "numcodecs", "numpy",
    "ml_dtypes",
)  # fmt: skip

collect_ignore_glob = [] if find_spec("tensorstore") else ["*.py"]


def pytest_report_header() -> str:
    return "writers: " + ", ".join(f"{name} {_version(name)}" for name in WRITERS)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
