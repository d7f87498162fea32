"""Zarr arrays of rows and labels; the only package that imports zarr."""

from rankme_stream.sources.zarr.array_pattern import matching_arrays
from rankme_stream.sources.zarr.labels import check_length, open_zarr_labels
from rankme_stream.sources.zarr.locate import is_zarr_node
from rankme_stream.sources.zarr.source import ZarrSource

__all__ = ["ZarrSource", "check_length", "is_zarr_node", "matching_arrays", "open_zarr_labels"]
