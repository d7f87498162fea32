"""Groups above an array and arrays beside it: their metadata, wherever the array's own path begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.stores.remote_faults import in_one_line
from rankme_stream.sources.zarr.auditing_store import AuditingStore

_MOST_LEVELS = 16


class Group(NamedTuple):
    """Group above an array: its path in the store, or its folder, and its attributes."""

    path: str
    attributes: Mapping[str, Any]


class Surroundings:
    """What lies around an array: of a folder, also above the path that was opened, up to the top group.

    Parameters
    ----------
    store, path
        Store of the array, and its path in it.
    zarr_format
        Version of the metadata, 2 or 3.

    Attributes
    ----------
    path
        Path of the array: in its store, or of its folder.
    """

    def __init__(self, store: AuditingStore, path: str, zarr_format: int) -> None:
        self._store, self._zarr_format = store, zarr_format
        self._root = store.root
        self.path = path if self._root is None else os.path.abspath(os.path.join(self._root, path))

    @property
    def name(self) -> str:
        """Last part of the path of the array."""
        return os.path.basename(self.path)

    @property
    def is_seen(self) -> bool:
        """Whether what lies around the array can be read: not where the address of a store is that of the array."""
        return self._root is not None or bool(self.path)

    def groups(self) -> Iterator[Group]:
        """Yield the groups above the array, the nearest first.

        Raises
        ------
        SourceFormatError
            If the metadata of one are damaged.
        """
        path = self.path
        for _ in range(_MOST_LEVELS):
            above = self._above(path)
            if above is None:
                return
            document = self._document(above, "zarr.json" if self._zarr_format == 3 else ".zgroup")
            if document is None or document.get("node_type", "group") != "group":
                return
            attributes = document.get("attributes") if self._zarr_format == 3 else self._document(above, ".zattrs")
            yield Group(above, attributes if isinstance(attributes, Mapping) else {})
            path = above

    def array(self, name: str, group: str | None = None) -> Mapping[str, Any] | None:
        """Return the metadata document of an array in a group, by default beside this one; None where none is."""
        above = self._above(self.path) if group is None else group
        if above is None:
            return None
        document = self._document(self.location(name, above), "zarr.json" if self._zarr_format == 3 else ".zarray")
        return document if document is not None and "shape" in document else None

    def location(self, name: str, group: str | None = None) -> str:
        """Return the path of an array in a group, by default beside this one; of a folder, its folder."""
        above = self._above(self.path) if group is None else group
        return f"{above}/{name}" if above else name

    def name_in_store(self, name: str) -> str:
        """Return the path in the store, as callers name it, of an array beside this one."""
        location = self.location(name)
        return location if self._root is None else os.path.relpath(location, self._root)

    def _above(self, path: str) -> str | None:
        """Return the path one level up; None at the top."""
        if self._root is not None:
            above = os.path.dirname(path)
            return None if above == path else above
        return path.rpartition("/")[0] if path else None

    def _document(self, path: str, name: str) -> Mapping[str, Any] | None:
        """Return a document as JSON; None where there is none, or none that can be read."""
        key = f"{path}/{name}" if path else name
        content = self._store.fetch_if_allowed(key)
        if not content:
            return None
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SourceFormatError(
                f"{key} cannot be read ({in_one_line(error)}), and may say what the numbers of its arrays mean: mend it"
            ) from error
        return document if isinstance(document, Mapping) else None
