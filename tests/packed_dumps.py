"""Dumps of packed integers, as xarray and as hands write them, with the rows that they mean."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import GzipCodec, TransposeCodec

SHAPE = (90, 6)
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2},
    "v2, filtered": {"zarr_format": 2, "filters": [numcodecs.Shuffle(2)], "compressors": numcodecs.Zlib()},
    "v3": {},
    "v3, sharded": {"shards": (40, 6)},
    "v3, filtered": {"filters": TransposeCodec(order=(1, 0)), "compressors": GzipCodec()},
}
STORED = ("int8", "uint8", "int16", "_Unsigned")
DECLARED = ("scale", "offset", "fill", "all")
WRITERS = ("xarray", "by hand")
CASES = tuple(product(LAYOUTS, STORED, DECLARED, WRITERS))
SCALE, OFFSET = 0.0371, -1.25
FILLS = {"int8": -128, "uint8": 255, "int16": -32768, "_Unsigned": 255}


def write(path: Path, layout: str, stored: str, declared: str, writer: str) -> np.ndarray:
    """Write a dump; return the rows that it means in float64, NaN where there is no data."""
    generator = np.random.default_rng(len(layout + stored))
    low, high = {"int8": (-127, 127), "int16": (-999, 999)}.get(stored, (0, 254))
    numbers = generator.integers(low, high + 1, SHAPE)
    numbers[:, 1] = numbers[:, 0] // 3  # of a spectrum that an offset changes
    attributes: dict[str, Any] = {}
    if declared in ("scale", "all"):
        attributes["scale_factor"] = SCALE
    if declared in ("offset", "all"):
        attributes["add_offset"] = OFFSET
    if stored == "_Unsigned":
        attributes["_Unsigned"] = "true"
    values = numbers * attributes.get("scale_factor", 1.0) + attributes.get("add_offset", 0.0)
    settings = dict(LAYOUTS[layout])
    if declared in ("fill", "all"):
        fill = FILLS[stored]
        for row, column in ((4, slice(None)), (33, 2), (89, slice(None))):
            numbers[row, column] = fill
            values[row] = np.nan
        fill = -1 if stored == "_Unsigned" else fill  # as its bits are stored
        if writer == "xarray" and "v2" in layout:
            settings["fill_value"] = fill
        elif writer == "xarray":
            attributes["_FillValue"] = fill
        else:
            attributes["missing_value"] = [fill]
    if writer == "xarray":
        if "v2" in layout:
            attributes["_ARRAY_DIMENSIONS"] = ["sample", "feature"]
            settings.setdefault("fill_value", None)
        else:
            settings["dimension_names"] = ("sample", "feature")
    dtype = np.dtype("int8" if stored == "_Unsigned" else stored)
    array = zarr.create_array(path, shape=SHAPE, chunks=(20, 6), dtype=dtype, attributes=attributes, **settings)
    array[:] = numbers.astype(f"i{2 * dtype.itemsize}").astype(dtype)
    return values
