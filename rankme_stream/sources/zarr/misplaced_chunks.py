"""Chunks that lie under other keys than the metadata say, which zarr and every other reader takes for missing."""

from __future__ import annotations

import os
from asyncio import gather
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zarr.core.sync import sync

from rankme_stream.errors import RankMeError, SourceFormatError
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.codecs.chain import codec_fields

_OTHER = {"/": ".", ".": "/"}


class MisplacedChunks:
    """Search for chunks under keys in another encoding than that of the metadata.

    Parameters
    ----------
    store, uri
        Store of the array, and its name for errors.
    metadata, path
        Metadata document of the array, and the path of the array in its store.
    """

    def __init__(self, store: AuditingStore, uri: str, metadata: Mapping[str, Any], path: str) -> None:
        self._store, self._uri, self._folder = store, uri, f"{path}/" if path else ""
        self._is_v2 = metadata["zarr_format"] == 2
        if self._is_v2:
            self._name, self._separator = "v2", str(metadata.get("dimension_separator") or ".")
        else:
            self._name, configuration = codec_fields(metadata.get("chunk_key_encoding", {"name": "default"}))
            self._separator = str(configuration.get("separator", "/" if self._name == "default" else "."))

    def check_first(self, key: str) -> None:
        """Refuse an array whose first chunk lies under another key, where to look costs no request to a server."""
        if (self._store.root is not None or self._store.archive is not None) and not self._exists([key]):
            self.check([key])

    def check(self, keys: Iterable[str]) -> None:
        """Refuse an array of which a chunk that is not under one of these keys lies under another.

        Raises
        ------
        SourceFormatError
            The message names both keys and what to set in the metadata.
        """
        others = [(key, *other) for key in keys for other in self._others(key)]
        found = self._exists(other for _, other, _ in others)
        for key, other, remedy in others:
            if other in found:
                raise SourceFormatError(
                    f"{self._uri} has its chunks under other keys than its metadata say ({other}, not {key}), so zarr "
                    f"reads fill values: {remedy}"
                )

    def _others(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield other keys that writers give the chunk of a key, and the remedy."""
        prefix = self._folder + (f"c{self._separator}" if self._name == "default" else "")
        numbers = key.removeprefix(prefix).split(self._separator)
        for name in ("v2",) if self._is_v2 else ("default", "v2"):
            for separator in (_OTHER.get(self._separator, "/"), self._separator):
                other = self._folder + separator.join(["c", *numbers] if name == "default" else numbers)
                if other == key:
                    continue
                if self._is_v2:
                    yield other, f'set "dimension_separator" to "{separator}" in {self._folder}.zarray'
                else:
                    encoding = f'{{"name": "{name}", "configuration": {{"separator": "{separator}"}}}}'
                    yield other, f'set "chunk_key_encoding" to {encoding} in {self._folder}zarr.json'

    def _exists(self, keys: Iterable[str]) -> set[str]:
        """Return those of some keys under which something is stored, as far as the store answers."""
        root = self._store.root
        if root is not None:
            return {key for key in keys if os.path.isfile(os.path.join(root, key))}
        wanted = list(keys)
        return {key for key, is_there in zip(wanted, sync(self._ask(wanted)), strict=True) if is_there}

    async def _ask(self, keys: list[str]) -> list[bool]:
        async def ask(key: str) -> bool:
            try:
                return await self._store.exists(key)
            except (RankMeError, OSError, NotImplementedError):
                return False

        return list(await gather(*map(ask, keys)))
