"""Which datasets lie in an HDF5 file, and where a path leads that stays within the file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import h5py

from .numbers import ERRORS, AbsentError, RefusalError, number_type

_MOST_LINKS, _MOST_LEVELS = 32, 16
_MOST_OBJECTS, _MOST_LISTED = 10_000, 20


def find(file: Any, path: str) -> tuple[str, Any]:
    """Return the object at a path without leaving the file; soft links are followed by their text."""
    names, found = [name for name in path.split("/") if name], list[str]()
    n_links = 0
    while names:
        here = file["/" + "/".join(found)]
        if not isinstance(here, h5py.Group):
            raise RefusalError(f"has a dataset at {'/'.join(found)!r}, in which nothing lies: check the path")
        name = names.pop(0)
        if name in (".", ".."):
            raise RefusalError(f"has no path {path!r}: HDF5 knows no '..'")
        link = here.get(name, getlink=True)
        if link is None:
            raise AbsentError(f"nothing lies there; {_listing(file)}")
        if isinstance(link, h5py.ExternalLink):
            raise RefusalError(f"is a link into another file, {link.filename!r}: give that file")
        if isinstance(link, h5py.SoftLink):
            n_links += 1
            if n_links > _MOST_LINKS:
                raise RefusalError(f"has links that lead around in a circle at {path!r}: name the dataset itself")
            target = [part for part in link.path.split("/") if part and part != "."]
            found = [] if link.path.startswith("/") else found
            names = [*target, *names]
        elif isinstance(link, h5py.HardLink):
            found.append(name)
        else:
            raise RefusalError("is a link of an unknown kind: name the dataset itself")
    return "/".join(found), file["/" + "/".join(found)]


def _datasets(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the datasets in a group that hard links lead to, with their paths; each once."""
    seen, waiting, n_seen = set[Any](), [(path, group, 0)], 0
    while waiting:
        where, here, level = waiting.pop(0)
        for name in islice(here, _MOST_OBJECTS):
            n_seen += 1
            if n_seen > _MOST_OBJECTS:
                return
            if not isinstance(here.get(name, getlink=True), h5py.HardLink):
                continue
            try:
                one = here[name]
                address = h5py.h5o.get_info(one.id).addr
            except ERRORS:
                continue
            inside = f"{where}/{name}" if where else name
            if address in seen:
                continue
            seen.add(address)
            if isinstance(one, h5py.Dataset):
                yield inside, one
            elif isinstance(one, h5py.Group) and level < _MOST_LEVELS:
                waiting.append((inside, one, level + 1))


def _fitting(group: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return the datasets of numbers in a group that have two axes or more, or one and rows of numbers."""
    found = []
    for inside, one in _datasets(group, path):
        try:
            n_axes = len(one.shape or ()) + len(number_type(one)[1])
            is_scale = bool(h5py.h5ds.is_scale(one.id))
        except (RefusalError, *ERRORS):
            continue
        if n_axes >= 2 and not is_scale:
            found.append((inside, one))
    return found


def only(file: Any) -> tuple[str, Any]:
    """Return the one dataset of a file that fits."""
    found = _fitting(file)
    flat = [one for one in found if len(one[1].shape) + len(number_type(one[1])[1]) == 2]
    chosen = flat or found
    if len(chosen) == 1:
        return chosen[0]
    raise RefusalError(_listing(file).removeprefix("it "))


def _listing(group: Any, path: str = "") -> str:
    """Return the words that say which datasets fit."""
    found = _fitting(group, path)
    here = f"{path!r} of it" if path else "it"
    if not found:
        return f"{here} holds no dataset of numbers with two axes or more: check what was written"
    named = [f"{inside} {tuple(one.shape)} {one.dtype}" for inside, one in found[:_MOST_LISTED]]
    more = f", and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    return f"{here} holds {', '.join(named)}{more}: name one after '::', such as ::{found[0][0]}"


def words_of_group(group: Any, path: str) -> str:
    kind = group.attrs.get("encoding-type") if "encoding-type" in group.attrs else None
    if kind in ("csr_matrix", "csc_matrix"):
        return (
            "is a sparse matrix of AnnData: score a dense array of the file (such as ::obsm/X_pca), or store it with "
            "adata.X = adata.X.toarray()"
        )
    if "pandas_type" in group.attrs:
        return f"is a frame of pandas; {_listing(group, path)}; or read it by pandas and give its numbers"
    return f"is a group; {_listing(group, path)}"
