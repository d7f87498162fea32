"""Resolution of a path, a URL or an opened array to a zarr store and the array inside it."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from dataclasses import replace
from typing import Any, NoReturn

import zarr
from zarr.abc.store import Store
from zarr.errors import BaseZarrError, NodeNotFoundError, ZarrUserWarning
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from rankme_stream.errors import RankMeError, SourceError, SourceFormatError, SourceNotFoundError, argument
from rankme_stream.sources.address import split_address
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions, Opening
from rankme_stream.sources.stores.descriptions import is_icechunk, version_of
from rankme_stream.sources.stores.file_errors import file_error, is_storage_fault
from rankme_stream.sources.stores.joined_archives import bytes_before_archive
from rankme_stream.sources.stores.regular_file import regular_file
from rankme_stream.sources.stores.remote_faults import in_one_line, without_secrets
from rankme_stream.sources.stores.store_urls import install_message, open_url
from rankme_stream.sources.stores.zip_contents import arrays_inside, is_cut_zip
from rankme_stream.sources.zarr.auditing_store import AuditingStore
from rankme_stream.sources.zarr.codecs.chain import CODEC_PACKAGES, REWRITE, chunk_codecs, codec_chain
from rankme_stream.sources.zarr.codecs.unpack import BYTES_CODECS
from rankme_stream.sources.zarr.whats_there import file_content, group_content, store_content

METADATA_ERRORS = (
    BaseZarrError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,  # such as lists in lists in lists
    TypeError,
    ValueError,
    AssertionError,
    MemoryError,
)
_LISTED = 20
_LONGEST_NAME = 200  # characters: some stores name all that they hold
_DEEPEST = 4  # levels of groups: links may lead around in circles
_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"  # not the one configured: it reads only through our store


def is_zarr_node(source: object) -> bool:
    """Return whether ``source`` is an opened zarr array or group, or a store."""
    return isinstance(source, zarr.Array | zarr.Group | Store)


def locate(source: object, path: str | None = None) -> tuple[Store, str, str]:
    """Return the store, the path of the array in it, and the URI of both.

    With a ``path``, a URI names the store alone, and the path of a group or a store is taken from there.
    """
    if isinstance(source, zarr.Array | zarr.Group | Store):
        store, inside = (source, "") if isinstance(source, Store) else (source.store, source.path)
        inside = "/".join(part for part in (inside, (path or "").strip("/")) if part)
        return store, inside, f"{_name_of(store)}::{inside}" if inside else _name_of(store)
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else source
    if not isinstance(uri, str):
        raise SourceFormatError(f"rows cannot be read from a {type(source).__name__}")
    location, inside = split_address(uri) if path is None else (uri, path)
    if not location:
        raise SourceNotFoundError("the source is empty: give the path or URL of a store")
    alone = split_address(location)[0]
    if path is not None and alone != location and "://" not in location and not os.path.lexists(location):
        raise SourceNotFoundError(
            f"there is no file or folder {location!r}: with {argument('path')} the address is the store alone, {alone}"
        )
    inside = inside.strip("/")
    name = without_secrets(location if path is None and not inside else f"{location}::{inside}")
    return _open_location(location.removeprefix("file://"), name), inside, name


def _open_location(location: str, uri: str) -> Store:
    """Return the store at a path or URL."""
    try:
        if "://" in location:
            return open_url(location)
        if os.path.isdir(location):
            with os.scandir(location):
                pass
            return LocalStore(location, read_only=True)
        with regular_file(location) as file:
            if not zipfile.is_zipfile(file):
                refuse_file(location)
            if n_bytes := bytes_before_archive(file):
                raise SourceFormatError(
                    f"{location} has {n_bytes:,} bytes before the zip file that it ends with, as after two were joined "
                    "into one: only the last would be read; give each by itself, or unpack both into one folder"
                )
        return ZipStore(location, mode="r", read_only=True)
    except RankMeError:
        raise
    except ImportError as error:
        raise SourceFormatError(install_message(location, error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(f"there is no file or folder {location!r}: check the path") from error
    except OSError as error:
        if isinstance(error, PermissionError) or is_storage_fault(error):
            raise file_error(location, error) from error
        raise SourceFormatError(f"{uri} cannot be opened: {in_one_line(error)}") from error
    except ValueError as error:
        raise SourceFormatError(f"{uri} cannot be opened: {in_one_line(error)}") from error


def refuse_file(location: str) -> NoReturn:
    """Raise a ``SourceFormatError`` that says why a file is no store."""
    if is_cut_zip(location):
        raise SourceFormatError(
            f"{location} is a zip file whose end is missing, with the list of what it holds: copy or write it again"
        )
    one = "holds one array: leave '::' and what follows out"
    raise SourceFormatError(f"{location} {one if location.endswith('.npy') else file_content(location)}")


def _name_of(store: Store) -> str:
    """Return the name of a store that was opened elsewhere, the same for the same store in any process."""
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol if isinstance(store.fs.protocol, str) else store.fs.protocol[0]
        return without_secrets(store.path if "://" in store.path else f"{protocol}://{store.path}")
    if is_icechunk(store):
        return f"<{type(store).__name__}, {version_of(store) or 'with uncommitted changes'}>"
    text = str(store)
    is_name = " at 0x" not in text and "\n" not in text and len(text) <= _LONGEST_NAME
    return without_secrets(text) if is_name else f"<{type(store).__name__}>"


def reopening_argument(source: object, store: Store, path: str, options: ArrayOptions) -> Any:
    """Return a picklable argument that opens the array in another process; None if the store lives in this one."""
    if isinstance(store, MemoryStore) or (isinstance(store, FsspecStore) and "memory" in store.fs.protocol):
        return None
    here: Any = source if isinstance(source, str) else store
    if isinstance(source, os.PathLike):
        here = os.fspath(source)
    if isinstance(here, str) and options.path is None:
        here, _ = split_address(here)
    if type(store) is LocalStore:
        here = os.path.abspath(store.root)
    elif isinstance(store, ZipStore):
        if not store.read_only:  # its file is not whole yet
            return None
        here = os.path.abspath(store.path)
    if isinstance(here, str):
        here, options = f"{here}::{path}" if path or "::" in here else here, replace(options, path=None)
    else:
        options = replace(options, path=path)
    return here if options == NO_OPTIONS else Opening(here, options)


def open_array(
    store: AuditingStore, path: str, uri: str, ndim: int = 2, *, looks_around: bool = True
) -> zarr.Array[Any]:
    """Return the array at a path of a store; raise an error that says what is there instead.

    ``ndim`` is the number of dimensions that the message looks for in a group; without ``looks_around`` no request is
    made for what is said where there is nothing.
    """
    try:
        with zarr.config.set({"codec_pipeline.path": _PIPELINE}):
            node = zarr.open(store=store, path=path, mode="r")
    except RankMeError:
        raise
    except (FileNotFoundError, NodeNotFoundError) as error:
        if store.denied is not None:
            raise store.denied from error
        check = "check the path after '::'" if path else "no metadata of zarr is there"
        found = None if store.archive is None else arrays_inside(store.archive, path)
        if looks_around:
            found = found or store_content(store, path, uri, ndim)
        hint = f"{check}; {found}" if path and found else found or check
        raise SourceNotFoundError(f"there is no zarr array at {uri}: {hint}") from error
    except (*METADATA_ERRORS, ImportError) as error:
        _refuse_codec(store, path, uri, error)
        refuse_metadata(uri, error)
    if isinstance(node, zarr.Array):
        return node
    raise SourceFormatError(_group_message(node, uri, ndim))


def _refuse_codec(store: AuditingStore, path: str, uri: str, error: Exception) -> None:
    """Raise a ``SourceFormatError`` if the error is that of a codec in the metadata that zarr does not know."""
    for document in ("zarr.json", ".zarray"):
        try:
            metadata = json.loads(store.fetch(f"{path}/{document}" if path else document))
            names = [name.removeprefix("numcodecs.") for name, _ in chunk_codecs(codec_chain(metadata))]
        except METADATA_ERRORS:
            continue
        for name in names:
            is_named = f"'{name}'" in str(error) or (isinstance(error, ImportError) and name in str(error))
            if is_named and name not in ("bytes", "transpose", *BYTES_CODECS):
                package = CODEC_PACKAGES.get(name)
                remedy = f"pip install {package}" if package else REWRITE
                raise SourceFormatError(f"{uri} has the codec {name!r}, which is not read here: {remedy}") from error


def _group_message(group: Any, uri: str, ndim: int) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # about objects other than arrays, which are not listed
            found = sorted(group.members(max_depth=_DEEPEST), key=lambda item: item[0])  # a folder lists in any order
    except (*METADATA_ERRORS, SourceError) as error:
        return f"{uri} is a group, whose members cannot be listed ({in_one_line(error)}): name an array after '::'"
    members = [member for _, member in found if isinstance(member, zarr.Array)]
    if not members:
        return f"{uri} is a group without arrays: check the path"
    store = split_address(uri)[0]
    listed = ", ".join(f"{member.path} {member.shape} {member.dtype}" for member in members[:_LISTED])
    more = f", and {len(members) - _LISTED} more" if len(members) > _LISTED else ""
    return f"{uri} is a group of arrays, not an array: {listed}{more}; {group_content(group, members, store, ndim)}"


def refuse_metadata(uri: str, error: BaseException) -> NoReturn:
    """Raise a ``SourceFormatError`` that says why the metadata cannot be read."""
    if isinstance(error, RankMeError):
        raise error
    raise SourceFormatError(f"{uri} has metadata that cannot be read: {in_one_line(error)}") from error
