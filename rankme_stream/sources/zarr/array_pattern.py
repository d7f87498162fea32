"""Shell-style patterns over the arrays of a zarr store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import zarr

from rankme_stream.errors import SourceError, SourceFormatError, SourceNotFoundError
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.locate import METADATA_ERRORS, locate
from rankme_stream.sources.zarr.remote_faults import in_one_line

_MAGIC = set("*?[")
_NAMED = 8


def is_pattern(text: str | None) -> bool:
    """Return whether a path holds characters that stand for others in a shell."""
    return text is not None and not _MAGIC.isdisjoint(text)


def matching_arrays(source: object, path: str | None = None) -> list[Any] | None:
    """Return arguments that open the arrays of a pattern, in any order; None if the path is no pattern.

    Parameters
    ----------
    source
        ``store.zarr::PATTERN``, or a store, or a ``zarr.Group``, with the pattern as ``path``. Each ``*`` stands for
        characters of one name, not for several levels.

    Raises
    ------
    SourceNotFoundError
        If no array matches.
    SourceFormatError
        If a group matches the first names of the pattern and holds no array for the rest, or the store cannot list.
    """
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not is_pattern(path) and not (isinstance(text, str) and is_pattern(text.partition("::")[2])):
        return None
    store, inside, uri = locate(source)
    pattern = "/".join(one for one in (inside, (path or "").strip("/")) if one)
    if not is_pattern(pattern):
        return None
    base, listed = uri.removesuffix(f"::{inside}"), AuditingStore(store, uri)
    if listed.holds_array(pattern):
        return None  # an array of just that name
    search = _Search(listed, f"{base}::{pattern}")
    found = list(search.arrays("", pattern.split("/")))
    if search.lacking and found:
        named = ", ".join(sorted(search.lacking)[:_NAMED]) + (", ..." if len(search.lacking) > _NAMED else "")
        raise SourceFormatError(
            f"{base}::{pattern}: {len(search.lacking):,} that match its first names have no such array ({named}): give "
            "a narrower pattern, or name every array and pass --concat"
        )
    if not found:
        raise SourceNotFoundError(f"no zarr array matches {base}::{pattern}: '*' stands for characters of one name")
    if isinstance(source, zarr.Group):
        return [source[one.removeprefix(f"{inside}/")] for one in found]
    location = text.removesuffix(f"::{inside}") if inside else text
    return [f"{location}::{one}" for one in found]


class _Search:
    """Search for the arrays that match a pattern; ``lacking`` are the paths that match only its first names."""

    def __init__(self, store: AuditingStore, uri: str) -> None:
        self._store, self._uri = store, uri
        self.lacking: list[str] = []

    def arrays(self, folder: str, names: list[str]) -> Iterator[str]:
        """Yield the paths of the arrays below a folder that match some names."""
        if not names:
            if self._store.holds_array(folder):
                yield folder
            return
        name, rest = names[0], names[1:]
        if not is_pattern(name):
            yield from self.arrays(_joined(folder, name), rest)
            return
        for one in self._names(folder):
            if not fnmatchcase(one, name):
                continue
            found = list(self.arrays(_joined(folder, one), rest))
            if (
                rest
                and not found
                and not self._store.holds_array(_joined(folder, one))
                and self._names(_joined(folder, one))
            ):
                self.lacking.append(_joined(folder, one))
            yield from found

    def _names(self, folder: str) -> list[str]:
        try:
            return self._store.names(folder)
        except (*METADATA_ERRORS, SourceError) as error:
            raise SourceFormatError(
                f"{self._uri} cannot be looked up, because the store does not list what it holds "
                f"({in_one_line(error)}): name every array, and pass --concat"
            ) from error


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
