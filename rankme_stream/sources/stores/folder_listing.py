"""What lies in a folder, on this machine or on a server, and which files there a pattern of names matches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from zarr.core.sync import sync

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.stores.attempts import Attempts
from rankme_stream.sources.stores.descriptions import stamp_of
from rankme_stream.sources.stores.file_errors import file_error
from rankme_stream.sources.stores.file_pattern import is_pattern, paths_matching
from rankme_stream.sources.stores.natural_order import natural_key
from rankme_stream.sources.stores.remote_faults import without_secrets
from rankme_stream.sources.stores.store_urls import file_system, install_message

_MAGIC_OF_URLS = re.compile(r"[*\[]")  # a question mark begins a query
_BRACKETED_HOST = re.compile(r"//\[[^]/]*\]")


class FoundFile(NamedTuple):
    """File that was listed.

    Attributes
    ----------
    address
        Path or URL that opens it.
    name
        Name in its folder.
    tag
        Length and tag by which a server tells versions; "" where it states none, and on this machine.
    """

    address: str
    name: str
    tag: str = ""


class Folder(NamedTuple):
    """Files of a folder, and names of the folders in it, in natural order."""

    files: list[FoundFile]
    folders: list[str]


def is_url(location: str) -> bool:
    """Return whether a location is a URL of something that is not a file of this machine."""
    return "://" in location.removeprefix("file://")


def list_folder(location: str) -> Folder:
    """Return what lies in a folder; nothing if there is no such folder on a server.

    Raises
    ------
    SourceError, StorageError
        If it cannot be listed.
    """
    if is_url(location):
        path, rest = _cut(location, len(location))
        return _RemoteFolder(path if path.endswith("/") else f"{path}/", rest).listed("")
    try:
        with os.scandir(location) as entries:
            folders, files = [], []
            for entry in entries:
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files.append(FoundFile(os.path.join(location, entry.name), entry.name))
    except OSError as error:
        raise file_error(location, error) from error
    return _sorted(files, folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link in a circle is a file, which is refused by name when it is opened."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file_pattern(location: str) -> bool:
    """Return whether a location holds characters that stand for others, and no file has just that name.

    In a URL these are ``*`` and ``[``.
    """
    if is_url(location):
        return _first_magic(location) >= 0
    return is_pattern(location) and not os.path.lexists(location)


def matching(location: str) -> list[FoundFile]:
    """Return the files, on this machine folders too, that a pattern matches, in natural order.

    ``**`` stands for any number of folders, but no symbolic links; ``*`` not for a name that begins with a dot.

    Raises
    ------
    SourceError, StorageError
        If a folder cannot be listed.
    """
    if not is_url(location):
        return [FoundFile(one, os.path.basename(one)) for one in paths_matching(location)]
    path, rest = _cut(location, _first_magic(location))
    base, pattern = path[: path.rindex("/", 0, _first_magic(location)) + 1], path
    folder = _RemoteFolder(base, rest)
    return _sorted(list(dict.fromkeys(folder.matching("", pattern[len(base) :].split("/")))), []).files


def _sorted(files: list[FoundFile], folders: list[str]) -> Folder:
    return Folder(sorted(files, key=lambda one: natural_key(one.address)), sorted(folders, key=natural_key))


def _first_magic(url: str) -> int:
    """Return the place of the first character that stands for others; -1 without."""
    masked = _BRACKETED_HOST.sub(lambda found: "x" * len(found[0]), url)
    path, _ = _cut(masked, len(masked)) if masked.startswith("http") else (masked, "")
    found = _MAGIC_OF_URLS.search(path)
    return -1 if found is None else found.start()


def _cut(url: str, place: int) -> tuple[str, str]:
    """Return the path of a URL, and what follows it: a query, or the links of a chain behind the one at a place."""
    link_end = url.find("::", place)
    path = url if link_end < 0 else url[:link_end]
    query = path.find("?", path.rfind("://")) if path.rpartition("::")[2].startswith("http") else -1
    path = path if query < 0 else path[:query]
    return path, url[len(path) :]


class _RemoteFolder:
    """Folder of a server at ``base``, which ends in a slash; ``rest`` follows a path in the URL of a file."""

    def __init__(self, base: str, rest: str) -> None:
        self._base, self._rest, self._uri = base, rest, without_secrets(base + rest)
        try:
            self._fs, self._root = file_system(base + rest)
        except ImportError as error:
            raise SourceFormatError(install_message(base, error)) from error
        self._ask = Attempts(self._uri).ask

    def listed(self, path: str) -> Folder:
        """Return what lies in a folder below this one; names of folders have its path before them."""

        async def request() -> list[dict[str, Any]]:
            self._fs.invalidate_cache()
            try:
                found: list[dict[str, Any]] = await self._fs._ls(self._joined(self._root, path), detail=True)
            except FileNotFoundError:
                return []
            return found

        files, folders = [], []
        for described in sync(self._ask(path, request, is_bounded=False)):
            name = described["name"].rstrip("/").rpartition("/")[2]
            if not name or "?" in name or described["name"].rstrip("/") == self._root.rstrip("/"):
                continue
            name = f"{path}/{name}" if path else name
            if described.get("type") == "directory":
                folders.append(name)
            else:
                address = f"{self._base}{name}{self._rest}"
                files.append(FoundFile(address, name.rpartition("/")[2], stamp_of(described) and _tag(described)))
        return _sorted(files, folders)

    def matching(self, path: str, names: Sequence[str]) -> Iterator[FoundFile]:
        """Yield the files below a folder that match some names."""
        name, rest = names[0], names[1:]
        if not is_pattern(name) and rest:
            yield from self.matching(f"{path}/{name}" if path else name, rest)
            return
        found = self.listed(path)
        if name == "**" and rest:
            yield from self.matching(path, rest)
        for folder in found.folders if rest else ():
            last = folder.rpartition("/")[2]
            if last.startswith("."):
                continue
            if name == "**":
                yield from self.matching(folder, names)
            elif fnmatchcase(last, name):
                yield from self.matching(folder, rest)
        if not rest:
            folders = [FoundFile(f"{self._base}{one}{self._rest}", one.rpartition("/")[2]) for one in found.folders]
            yield from (one for one in (*found.files, *folders) if fnmatchcase(one.name, name) and one.name[0] != ".")

    @staticmethod
    def _joined(root: str, path: str) -> str:
        return f"{root.rstrip('/')}/{path}" if path else root


def _tag(described: dict[str, Any]) -> str:
    """Return length and tag of an object whose tag is one of its bytes, not of the time; "" for others."""
    tag = next((described[name] for name in ("ETag", "e_tag", "md5Hash", "Content-MD5") if described.get(name)), "")
    return tag and f"{described.get('size')} {tag}"
