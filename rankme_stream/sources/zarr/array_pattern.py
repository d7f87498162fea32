"""Shell-style patterns over the arrays of a zarr store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from rankme_stream.errors import SourceError, SourceFormatError, SourceNotFoundError
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.file_pattern import is_pattern
from rankme_stream.sources.stores.natural_order import natural_key
from rankme_stream.sources.stores.remote_faults import in_one_line
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.locate import METADATA_ERRORS, locate
from rankme_stream.sources.zarr.whats_there import store_content

_NAMED = 8


class Matches(NamedTuple):
    """Arrays that match a pattern.

    Attributes
    ----------
    source, paths
        Argument of ``open_source``, and the paths for it, in natural order.
    uri
        The pattern with its store.
    """

    source: Any
    paths: list[str]
    uri: str


def matching_arrays(source: object, path: str | None = None) -> Matches | None:
    """Return the arrays of a store that match a pattern; None if there is no pattern.

    Parameters
    ----------
    source
        ``store.zarr::PATTERN``, or what is opened as a store or a ``zarr.Group``, with the pattern as ``path``. Each
        ``*`` stands for characters of one name, not for several levels.

    Raises
    ------
    SourceNotFoundError
        If no array matches.
    SourceFormatError
        If a group matches the first names of the pattern and holds no array for the rest, or the store cannot list.
    """
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(text, str) or not is_pattern(split_address(text)[1] if path is None else path):
        return None
    store, pattern, uri = locate(source, path)
    base, listed = uri.removesuffix(f"::{pattern}"), AuditingStore(store, uri)
    if listed.holds_array(pattern):
        return None  # an array of just that name
    search = _Search(listed, uri)
    found = sorted(search.arrays("", pattern.split("/")), key=natural_key)
    if search.lacking and found:
        raise SourceFormatError(
            f"{uri}: {_lacking_in_words(search.lacking, pattern)}: give a narrower pattern, or name every array and "
            "open them as one"
        )
    if not found and (alike := _alike(search, pattern)):
        raise SourceNotFoundError(f"no zarr array matches {uri}: use e.g. '{base}::{alike}'")
    if not found:
        content = store_content(listed, "", base) or "no metadata of zarr is there"
        raise SourceNotFoundError(
            f"no zarr array matches {uri}, where '*' stands for characters of one name: {content}"
        )
    location = split_address(text)[0] if path is None else text
    return Matches(location or store, found, uri)


def _lacking_in_words(lacking: list[str], pattern: str) -> str:
    """Return which paths match the first names of a pattern and hold no array of the others."""
    names, n_first = pattern.split("/"), min(lacking, key=natural_key).count("/") + 1
    listed = sorted((path for path in lacking if path.count("/") + 1 == n_first), key=natural_key)
    named = ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else "")
    match, hold = ("matches", "holds") if len(listed) == 1 else ("match", "hold")
    return f"{named} {match} '{'/'.join(names[:n_first])}' and {hold} no '{'/'.join(names[n_first:])}'"


def _alike(search: _Search, pattern: str) -> str | None:
    """Return a pattern that differs in its last name and matches arrays; None if there is none."""
    folder, _, name = pattern.rpartition("/")
    if not is_pattern(folder):
        return None
    found = Counter(path.rpartition("/")[2] for path in search.arrays("", [*folder.split("/"), "*"]))
    close = get_close_matches(name, found, n=1)
    last = close[0] if close else next((one for one, _ in found.most_common(1)), None)
    return None if last is None else f"{folder}/{last}"


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
                f"({in_one_line(error)}): name every array, and open them as one"
            ) from error


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
