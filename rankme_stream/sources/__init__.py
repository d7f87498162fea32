"""Sources of rows and labels: zarr arrays, files of many formats, objects in memory, streams of blocks."""

from rankme_stream.sources.array_options import ArrayOptions, Opening
from rankme_stream.sources.concat import (
    ConcatSource,
    JoinedBounds,
    absent_numbers,
    describe_parts,
    joined_name,
    row_place,
)
from rankme_stream.sources.content import content_digest, row_digest, row_digests
from rankme_stream.sources.dense.npy import NpySource
from rankme_stream.sources.memory.array import ArraySource
from rankme_stream.sources.memory.block_stream import BlockStream, Window
from rankme_stream.sources.memory.gathered_rows import GatheredRows
from rankme_stream.sources.memory.held_blocks import BlockSource, BlockType, ComputedBlock, HeldBlocks, block_source
from rankme_stream.sources.memory.library_objects import is_object_of_rows
from rankme_stream.sources.opening import is_blocks, open_source
from rankme_stream.sources.row_values import read_values
from rankme_stream.sources.source import Source
from rankme_stream.sources.storage import Storage, describe_storage, is_remote, storage_of
from rankme_stream.sources.stores.file_pattern import matching_files
from rankme_stream.sources.stores.natural_order import natural_key
from rankme_stream.sources.stores.remote_faults import without_secrets
from rankme_stream.sources.zarr import ZarrSource

__all__ = [
    "ArrayOptions", "ArraySource", "BlockSource", "BlockStream", "BlockType", "ComputedBlock", "ConcatSource",
    "GatheredRows", "HeldBlocks", "JoinedBounds", "NpySource", "Opening", "Source", "Storage", "Window",
    "ZarrSource", "absent_numbers", "block_source", "content_digest", "describe_parts", "describe_storage",
    "is_blocks", "is_object_of_rows", "is_remote", "joined_name", "matching_files", "natural_key", "open_source",
    "read_values", "row_digest", "row_digests", "row_place", "storage_of", "without_secrets",
]  # fmt: skip
