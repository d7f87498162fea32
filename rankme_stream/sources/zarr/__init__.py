"""Zarr arrays of rows and labels; the only package that imports zarr."""

from rankme_stream.sources.zarr.labels import ZarrLabels, check_length
from rankme_stream.sources.zarr.locate import is_zarr_node
from rankme_stream.sources.zarr.source import ZarrSource

__all__ = ["ZarrLabels", "ZarrSource", "check_length", "is_zarr_node"]
