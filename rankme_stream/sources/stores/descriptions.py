"""What a store says of its objects beside their bytes: whether they are there, their size, and a tag or time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Protocol

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from rankme_stream.sources.stores.remote_faults import Kind, fault_of

Description = Mapping[str, Any]  # by the names that file systems of fsspec use; empty where only presence is known
_FIRST_BYTE = RangeByteRequest(0, 1)
_STAMPS = (
    "ETag", "etag", "e_tag", "md5Hash", "Content-MD5", "blob_id", "CRC", "mtime", "LastModified", "last_modified",
    "Last-Modified", "updated", "created",
)  # fmt: skip
_WITH_COMPLETE_LISTINGS = {"s3", "s3a", "gs", "gcs"}


def stamp_of(described: Description) -> str:
    """Return size and tag or time of an object, under any of the names that libraries use; "" without the latter."""
    when = next((described[name] for name in _STAMPS if described.get(name) is not None), None)
    return "" if when is None else f"{described.get('size')} {when}"


class Descriptions(Protocol):
    """Descriptions of the objects of a store; errors are those of its library.

    ``lists_all`` is whether what a listing leaves out is absent, ``lists_fast`` whether it takes no request.
    """

    lists_all: bool
    lists_fast: bool

    def forget(self) -> None:
        """Forget what was listed before."""

    async def describe(self, key: str) -> Description | None:
        """Return what is said of an object; None if there is none."""

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return what is said of the objects whose keys begin with a prefix; others may be among them."""


class KeyDescriptions:
    """Presence alone, of any store: zarr's interface has no more.

    A store that says that an object is absent is asked for its first byte, because `exists` may be false where a server
    fails, or not be there. What cannot be asked is taken to be there, and shows when it is read.
    """

    lists_all = lists_fast = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def forget(self) -> None:
        """Do nothing: no listing is kept."""

    async def describe(self, key: str) -> Description | None:
        """Return an empty description; None if the store says that there is no such object."""
        try:
            if await self._store.exists(key):
                return {}
        except NotImplementedError:
            pass
        return await first_byte(self._store, key)

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return empty descriptions of all keys that begin with a prefix."""
        return {key: {} async for key in self._store.list_prefix(prefix)}


async def first_byte(store: Store, key: str) -> Description | None:
    """Return an empty description of an object that can be read, or not be asked so; None if there is none."""
    try:
        value = await store.get(key, default_buffer_prototype(), _FIRST_BYTE)
    except NotImplementedError:
        return {}
    return None if value is None else {}


class LocalDescriptions(KeyDescriptions):
    """Presence in a folder, a zip file or memory, by listing."""

    lists_all = lists_fast = True


class IcechunkDescriptions(KeyDescriptions):
    """Presence in a session of icechunk, whose listings take the path of an array or a group and nothing below."""

    lists_all = True

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return empty descriptions of the keys of the array whose chunks begin with a prefix."""
        return await super().listing(prefix.removesuffix("c/").removesuffix("/"))


class ObjectDescriptions(KeyDescriptions):
    """Objects as obstore describes them."""

    lists_all = True

    def __init__(self, store: ObjectStore[Any]) -> None:
        super().__init__(store)
        self._objects = store.store

    async def describe(self, key: str) -> Description | None:
        """Return size, time and tag."""
        import obstore

        try:
            described: Description = await obstore.head_async(self._objects, key)
        except FileNotFoundError:
            return None
        return described

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return size, time and tag of the objects in a folder, with what lies below it."""
        import obstore

        folder = prefix.rpartition("/")[0]
        return {one["path"]: one async for batch in obstore.list(self._objects, folder or None) for one in batch}


class FsspecDescriptions:
    """Files as a file system of fsspec describes them."""

    lists_fast = False

    def __init__(self, store: FsspecStore) -> None:
        self._store, self._fs = store, store.fs
        root = store.path.rstrip("/")
        self.prefix = f"{root}/" if root else ""
        self.protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else {*self._fs.protocol}
        self.lists_all = bool(self.protocols & _WITH_COMPLETE_LISTINGS)  # others leave out folders that fail

    def forget(self) -> None:
        """Forget listings, which some file systems keep for the whole process."""
        self._fs.invalidate_cache()

    async def describe(self, key: str) -> Description | None:
        """Return size, tag and times."""
        try:
            described: Description = await self._fs._info(self.prefix + key)
        except FileNotFoundError as error:
            # fsspec calls any failed request for a description by HTTP a file that is not found.
            if error.__cause__ is not None and fault_of(error.__cause__).kind is not Kind.ABSENT:
                raise error.__cause__ from None
            is_sure = error.__cause__ is not None or self.lists_all  # of other file systems, reading alone decides
            return None if is_sure else await first_byte(self._store, key)
        return None if described.get("type") == "directory" else described

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return size, tag and times of the files in a folder."""
        found = await self._fs._find((self.prefix + prefix).rpartition("/")[0], detail=True, withdirs=False)
        root = self.prefix.lstrip("/")
        return {name.lstrip("/").removeprefix(root): described for name, described in found.items()}


class ReferenceDescriptions(FsspecDescriptions):
    """Parts of files that references name, as kerchunk writes them: the tag or time of a part is that of its file."""

    def __init__(self, store: FsspecStore) -> None:
        super().__init__(store)
        self._files: dict[str, Description] = {}

    def forget(self) -> None:
        """Forget what was said of the files."""
        super().forget()
        self._files.clear()

    async def describe(self, key: str) -> Description | None:
        """Return size and tag, which names the file, the part, and the tag or time of the file."""
        described = await super().describe(key)
        return None if described is None else await self._with_tag(key, described)

    async def listing(self, prefix: str) -> dict[str, Description]:
        """Return size and tag of the parts whose keys begin with a prefix."""
        found = await super().listing(prefix)
        return {key: await self._with_tag(key, described) for key, described in found.items()}

    async def _with_tag(self, key: str, described: Description) -> Description:
        reference: Any = self._fs.references[self.prefix + key]
        if not isinstance(reference, list | tuple):  # the bytes, or their base64, whose length fsspec takes for theirs
            inlined = reference if isinstance(reference, bytes) else str(reference).encode()
            return {"ETag": sha256(inlined).hexdigest()}
        url = reference[0] or self._fs.target
        if url not in self._files:
            self._files[url] = await self._fs.fss[url.partition("://")[0] if "://" in url else None]._info(url)
        stamp = stamp_of(self._files[url])
        return {**described, "ETag": f"{reference} {stamp}"} if stamp else described


def descriptions_of(store: Store) -> Descriptions:
    """Return what a store can say of its objects."""
    if isinstance(store, FsspecStore):
        refers = "reference" in store.fs.protocol and hasattr(store.fs, "references")
        return ReferenceDescriptions(store) if refers else FsspecDescriptions(store)
    if isinstance(store, ObjectStore):
        return ObjectDescriptions(store)
    if is_icechunk(store):
        return IcechunkDescriptions(store)
    return LocalDescriptions(store) if is_local(store) else KeyDescriptions(store)


def is_local(store: Store) -> bool:
    """Return whether a store holds files or memory of this machine."""
    return isinstance(store, LocalStore | ZipStore | MemoryStore)


def changes_as_a_whole(store: Store) -> bool:
    """Return whether one version stands for all objects of a store."""
    return isinstance(store, ZipStore) or is_icechunk(store)


def version_of(store: Store) -> str:
    """Return the version of such a store; the empty string for others, and where changes have no version yet."""
    if isinstance(store, ZipStore):
        status = os.stat(store.path)
        return f"{status.st_size} {status.st_mtime_ns}"
    if is_icechunk(store):
        session: Any = getattr(store, "session", None)
        return "" if session.has_uncommitted_changes else f"snapshot {session.snapshot_id}"
    return ""


def is_icechunk(store: Store) -> bool:
    """Return whether a store is a session of icechunk, which need not be installed."""
    return any(cls.__name__ == "IcechunkStore" for cls in type(store).__mro__)
