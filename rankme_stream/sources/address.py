"""Addresses of arrays: a store, and after ``::`` the path of an array in it."""

from __future__ import annotations


def split_address(address: str) -> tuple[str, str]:
    """Return the store and the path in it: what follows the last ``::``, unless a scheme stands behind that.

    Examples
    --------
    >>> split_address("dump.zarr::group/array")
    ('dump.zarr', 'group/array')
    >>> split_address("simplecache::s3://bucket/dump.zarr::array")
    ('simplecache::s3://bucket/dump.zarr', 'array')
    >>> split_address("zip://::file:///data/dump.zip")
    ('zip://::file:///data/dump.zip', '')
    """
    location, separator, path = address.rpartition("::")
    if not separator or "://" in path:
        return address, ""
    return location, path
