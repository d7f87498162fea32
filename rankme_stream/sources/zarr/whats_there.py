"""What lies where a zarr array was looked for, and how it could be read; from names and first bytes alone."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import zarr

from rankme_stream.errors import RankMeError, counted
from rankme_stream.sources.stores.regular_file import regular_file
from rankme_stream.sources.zarr.auditing_store import AuditingStore

_BEGINNING = 2**16  # bytes of a file that are looked at
_NAMED = 5
_CHILDREN_TRIED = 20
_CONVERT = "which is not read: write its rows as zarr or .npy"
_UNPACK = "unpack it first"
_TEXT = re.compile(rb"[\t\n\r -~]+")
_MAGIC = (
    (b"CDF", f"a netCDF file, {_CONVERT}, or read it as zarr through kerchunk or VirtualiZarr"),
    (b"\x1f\x8b", f"compressed by gzip: {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK}"),
    (b"BZh", f"compressed by bzip2: {_UNPACK}"),
    (b"\xfd7zXZ\0", f"compressed by xz: {_UNPACK}"),
    (b"SQLite format 3\0", f"an SQLite database, {_CONVERT}"),
    (b"rankme-state\n", "a state of rankme: rankme show prints it, rankme merge joins several"),
    (b"\x80", "a pickle, which could run code and is not read: write its rows as zarr or .npy"),
)
_ENDINGS = {
    ".csv": f"text, {_CONVERT}",
    ".tfrecord": f"TFRecord, {_CONVERT}",
}
_ENCODINGS = {  # the attribute "encoding-type" of AnnData
    "anndata": "an AnnData store",
    "csr_matrix": "a sparse matrix, which is not read: write it as an array",
    "csc_matrix": "a sparse matrix, which is not read: write it as an array",
    "dataframe": "a table of columns, which are not read as one: write them as an array",
    "categorical": "labels of rows, not rows",
}
_INDEX = "_index"  # names of rows in a table of AnnData, each different
_ICECHUNK = {"snapshots", "manifests"}


def file_content(path: str) -> str:
    """Return what a file is that is neither zarr nor zip, and what to do with it."""
    try:
        with regular_file(path) as file:
            beginning = file.read(_BEGINNING)
    except OSError:
        beginning = b""
    for magic, words in _MAGIC:
        if beginning.startswith(magic):
            return f"is {words}"
    if beginning[257:262] == b"ustar":
        return f"is a tar archive: {_UNPACK}"
    if beginning.lstrip().startswith(b"{"):
        if b'"refs"' in beginning or b'"version": 1' in beginning or b".zarray" in beginning:
            return f"holds references of kerchunk: give 'reference://::file://{os.path.abspath(path)}::array'"
        if b'"schema_version"' in beginning:
            return "is a result of rankme: rankme show prints it"
    if _TEXT.fullmatch(beginning):
        return f"is text, {_CONVERT}"
    return "is in no format that is read: write its rows as zarr or .npy, or name it .bin if it holds bare numbers"


def store_content(store: AuditingStore, path: str, uri: str, ndim: int = 2) -> str | None:
    """Return what lies at a path of a store where there is no array or group, and what to do; None if unknown.

    Arrays of fewer dimensions than ``ndim``, or of another number where that is 1, are not proposed.

    Notes
    -----
    A listing of the folder, and of twenty folders in it at most, with three requests each.
    """
    location = uri.removesuffix(f"::{path}")
    with suppress(RankMeError, OSError, ValueError, NotImplementedError):
        for place in dict.fromkeys((path, path.rpartition("/")[0], "")):
            if names := store.names(place):
                return (
                    _icechunk(names)
                    or _nodes(_Look(store, ndim), names, place, path, location)
                    or _files(store, names, place)
                )
        if store.root is not None and not os.listdir(store.root):
            return "the folder is empty"
    return None


class _Look(NamedTuple):
    """Look for arrays of as many dimensions as are needed: 2 or more for rows, 1 for labels."""

    store: AuditingStore
    ndim: int

    def dimensions(self, folder: str) -> int | None:
        """Return the number of dimensions of an array, 0 for a group; None where there is neither."""
        for document in ("zarr.json", ".zarray", ".zgroup"):
            if found := self.store.fetch(f"{folder}/{document}"):
                with suppress(ValueError, TypeError, AttributeError):  # broken metadata are refused where they are read
                    return len(json.loads(found).get("shape", ()))
                return 0
        return None

    def fits(self, folder: str) -> bool:
        """Return whether an array, or a column of AnnData in several arrays, is what is needed."""
        n_axes = self.dimensions(folder) or 0
        if self.ndim > 1:
            return n_axes >= self.ndim
        is_column = not n_axes and any(self.store.holds_array(f"{folder}/{one}") for one in ("codes", "values"))
        return is_column or n_axes == 1

    def first(self, folders: Sequence[str]) -> str | None:
        """Return the first that is what is needed, or the first in one of them."""
        if found := next(filter(self.fits, folders), None):
            return found
        inner = (f"{folder}/{name}" for folder in folders for name in self.store.names(folder)[:_CHILDREN_TRIED])
        return next(filter(self.fits, inner), None)


def _icechunk(names: Sequence[str]) -> str | None:
    if not {*names} >= _ICECHUNK:
        return None
    return (
        "it is an icechunk repository: in Python open a session of it and pass "
        "zarr.open_array(session.store, path=..., mode='r')"
    )


def _nodes(look: _Look, names: Sequence[str], place: str, path: str, location: str) -> str | None:
    """Return which of the names at a place are zarr arrays or groups."""

    def full(name: str) -> str:
        return f"{place}/{name}" if place else name

    found = [name for name in names[:_CHILDREN_TRIED] if look.dimensions(full(name)) is not None]
    if not found:
        return None
    if not place and path and len(found) == 1 and look.store.holds_array(f"{found[0]}/{path}"):
        return f"it lies in the folder {found[0]} there: use '{location}::{found[0]}/{path}'"
    if look.ndim == 1 and place:
        found = [name for name in found if name != _INDEX and look.fits(full(name))] or found
    listed = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
    close = get_close_matches(path.rpartition("/")[2], found, n=len(found))
    first = look.first([full(name) for name in [*close, *found]])
    where = f"{place} there" if place and place != path else "it"
    return f"{where} holds {listed}" + (f": use e.g. '{location}::{first}'" if first else "")


def _files(store: AuditingStore, names: Sequence[str], place: str) -> str | None:
    """Return what most files of a folder are by their endings, or those of the first folder in it that has any."""
    for name in ("", *names[:_CHILDREN_TRIED]):
        folder = "/".join(one for one in (place, name) if one)
        inside = store.names(folder) if name else names
        endings = Counter(ending for one in inside if (ending := os.path.splitext(one)[1]) in _ENDINGS)
        if endings:
            ending, count = endings.most_common(1)[0]
            holder = f"its folder {folder}" if name else "it"
            return f"{holder} holds {counted(count, f'{ending} file')} ({_ENDINGS[ending]})"
    return None


def group_content(group: zarr.Group, members: Sequence[zarr.Array[Any]], store: str, ndim: int) -> str:
    """Return what a group is, if its attributes say so, and how one of its arrays is read.

    Parameters
    ----------
    members
        Arrays below the group.
    store
        Name of the store, for the remedy.
    ndim
        Number of dimensions that is needed: 2 for rows, 1 for labels.
    """
    encoding = _ENCODINGS.get(str(group.attrs.get("encoding-type")), "")
    if ndim == 1:
        paths = [member.path for member in members if member.ndim == 1 and not member.path.endswith(f"/{_INDEX}")]
        found = list(dict.fromkeys(path.removesuffix("/codes").removesuffix("/categories") for path in paths))
        none = "labels need one dimension, and none of them has one"
    else:
        fit = [member for member in members if member.ndim >= 2 and np.dtype(member.dtype).kind in "iuf"]
        found = [one.path for one in sorted(fit, key=lambda one: (one.ndim, "obsm/" not in one.path))]
        none = "none of them is an array of numbers of two dimensions or more"
    remedy = f"use e.g. {_address(store, found[0])}" if found else none
    if ndim == 2 and (alike := _same_last_name(found)):
        remedy += f", or {_address(store, alike)} for all of that name as one dump"
    return f"{encoding}; {remedy}" if encoding else remedy


def _address(store: str, path: str) -> str:
    """Return how an array is named; of a store that was opened elsewhere, the argument of Python."""
    return f"path={path!r}" if store.startswith("<") else f"'{store}::{path}'"


def _same_last_name(paths: Sequence[str]) -> str | None:
    """Return the pattern that matches several paths that differ in one name before their last; None without such."""
    split = [path.split("/") for path in paths]
    if len(split) < 2 or len({len(names) for names in split}) > 1:
        return None
    columns = list(zip(*split, strict=True))
    varying = [len({*names}) > 1 for names in columns]
    if sum(varying) != 1 or varying[-1]:
        return None
    return "/".join("*" if varies else names[0] for varies, names in zip(varying, columns, strict=True))
