"""Objects of other libraries that hold rows: told by the names of their types, so that no library is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, cast

from rankme_stream.errors import SourceFormatError
from rankme_stream.numerics.devices.registry import is_array
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.memory.array import ArraySource
from rankme_stream.sources.memory.box_rows import refuse_other_options
from rankme_stream.sources.source import Source

_HERE = "rankme_stream.sources.memory"
_TABLES = "rankme_stream.sources.tables.held_tables"
_MODULES = {  # with a function open_rows, imported when such an object is opened
    "dask.Array": f"{_HERE}.dask_rows",
    "datasets.Dataset": _TABLES,
    "h5py.Dataset": f"{_HERE}.h5py_rows",
    "pandas.DataFrame": f"{_HERE}.pandas_rows",
    "pandas.Series": f"{_HERE}.pandas_rows",
    "polars.DataFrame": _TABLES,
    "polars.Series": _TABLES,
    "pyarrow.Array": _TABLES,
    "pyarrow.ChunkedArray": _TABLES,
    "pyarrow.RecordBatch": _TABLES,
    "pyarrow.Table": _TABLES,
    "scipy.sparray": f"{_HERE}.sparse_rows",
    "scipy.spmatrix": f"{_HERE}.sparse_rows",
    "xarray.DataArray": f"{_HERE}.xarray_rows",
    "xarray.Dataset": f"{_HERE}.xarray_rows",
    "xarray.Variable": f"{_HERE}.xarray_rows",
}
READ = (
    "a path, an array (numpy, torch, CuPy, JAX, zarr, Dask, xarray, h5py, scipy.sparse), a frame, series or table "
    "(pandas, polars, pyarrow, datasets), an iterable of these, or a Source"
)
_SAMPLES = "torch.Dataset"
_BATCH = 1000


def rows_in_memory(thing: object, options: ArrayOptions) -> Source | None:
    """Open the rows that a Python object holds; None for one that holds none.

    Raises
    ------
    UsageError
        If an option does not apply to it.
    SourceError
        If what it holds is not an array of numbers, or it is not clear which axis is the features.
    """
    is_source = isinstance(thing, Source)
    opener = None if is_source else _opener_of(thing)
    if opener is not None:
        return opener(thing, options)
    if is_array(thing) and not is_source:
        refuse_other_options(options, ("features_axis",))
        return ArraySource(thing, features_axis=options.features_axis)
    refuse_other_options(options, ())
    return thing if isinstance(thing, Source) else None


def address_of(thing: Any) -> str | None:
    """Return the address of a data set of h5py that is open to be read, in a file on this machine; None for others."""
    if "h5py.Dataset" not in _type_names(thing) or thing.name is None or "::" in thing.name:
        return None
    file = thing.file
    is_plain = file.mode == "r" and file.driver == "sec2" and isinstance(file.filename, str)
    return f"{os.path.abspath(file.filename)}::{thing.name}" if is_plain and os.path.isfile(file.filename) else None


def is_object_of_rows(thing: object) -> bool:
    """Return whether an object is one of a library whose rows can be read in any order."""
    return any(name in _MODULES for name in _type_names(thing))


def _opener_of(thing: object) -> Callable[[Any, ArrayOptions], Source] | None:
    module = next((_MODULES[name] for name in _type_names(thing) if name in _MODULES), None)
    if module is None:
        return None
    try:
        return cast(Callable[[Any, ArrayOptions], Source], import_module(module).open_rows)
    except ImportError as error:
        raise SourceFormatError(
            f"a {type(thing).__name__} is read through pyarrow, which is not installed: "
            "pip install 'rankme-stream[parquet]'"
        ) from error


def is_samples(thing: object) -> bool:
    """Return whether an object is a data set of torch, whose items are samples."""
    return _SAMPLES in _type_names(thing)


def blocks_of(things: Any) -> Iterable[Any]:
    """Return the blocks that an iterable yields: samples of torch one by one, those of ``datasets`` by the thousand."""
    if "datasets.IterableDataset" in _type_names(things):
        return cast(Iterable[Any], things.with_format("arrow").iter(_BATCH))
    return things if hasattr(things, "__iter__") else (things[number] for number in range(len(things)))


def _type_names(thing: object) -> list[str]:
    """Return the library and name of the type of an object and of the types that it inherits from."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(thing).__mro__]
