"""Zarr arrays of rows and labels; the only package that imports zarr."""

from rankme_stream.sources.zarr.labels import ZarrLabels
from rankme_stream.sources.zarr.locate import is_zarr_node
from rankme_stream.sources.zarr.source import ZarrSource

__all__ = ["ZarrLabels", "ZarrSource", "is_zarr_node"]
