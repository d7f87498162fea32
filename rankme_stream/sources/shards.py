"""Files of rows that a folder or a pattern of names stands for: one dump, its shards in natural order."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from rankme_stream.errors import RankMeError, SourceFormatError, SourceNotFoundError, counted
from rankme_stream.sources.address import split_address
from rankme_stream.sources.formats import format_of
from rankme_stream.sources.stores.equal_files import equal_files
from rankme_stream.sources.stores.folder_listing import (
    Folder,
    FoundFile,
    is_file_pattern,
    is_url,
    list_folder,
    matching,
)
from rankme_stream.sources.stores.remote_faults import without_secrets

_ZARR_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
_VARYING = re.compile(r"(?=[0-9a-f]*\d)[0-9a-f]{8,}(?:-[0-9a-f]{4,})*|\d+")  # digests and numbers
_NUMBER = re.compile(r"(\d+)")
_OTHER_ROWS = re.compile(  # before a number of what is no shard: another model, or what all shards are counted to
    r"(?:\A|[^a-z])(?:layer|epoch|step|iter|iteration|ckpt|checkpoint|seed|fold|run|trial|version|v|of)[-_.= ]?\Z", re.I
)
_INDEX = ".index.json"
_NAMED = 5
_FOLDERS_TRIED = 20


class Shards(NamedTuple):
    """Files of one dump.

    Attributes
    ----------
    addresses
        Argument of ``open_source`` for each.
    uri
        The folder or pattern, without secrets.
    remarks
        What is odd about them, for people: files that were left out, files of equal bytes.
    """

    addresses: list[str]
    uri: str
    remarks: tuple[str, ...] = ()


def shards_of(source: object, path: str | None = None) -> Shards | None:
    """Return the files that a pattern, or a folder of this machine that is no store of zarr, stands for; or None.

    Parameters
    ----------
    path
        As of `ArrayOptions`: in place of what stands behind ``::``.

    Raises
    ------
    SourceNotFoundError
        If a pattern matches nothing.
    SourceFormatError
        If a folder holds files of several formats or series, or a pattern matches several formats.
    SourceError, StorageError
        If a folder cannot be listed, or a file not be read.
    """
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(uri, str) or not uri:
        return None
    location, inside = split_address(uri.removeprefix("file://")) if path is None else (uri.removeprefix("file://"), "")
    if is_file_pattern(location):
        found = matching(location)
        if not found:
            raise SourceNotFoundError(f"nothing matches {without_secrets(location)}: check the pattern")
        if any(format_of(file.name) is None for file in found):
            return _shards(found, location, inside)  # stores among them, or what is refused when it is opened
        _refuse_mixture(found, location)
        return _shards(found, location, inside, _of_equals(found))
    is_folder = not is_url(location) and os.path.isdir(location)
    if not is_folder or _is_store(location, inside or path or ""):
        return None
    return _folder_shards(list_folder(location), location, inside)


def shards_on_server(source: object, path: str | None = None) -> Shards | None:
    """Return the files of rows in a folder of a server where no store of zarr was found; None if there are none.

    Parameters are those of ``shards_of``.

    Raises
    ------
    SourceFormatError
        As ``shards_of``.
    """
    if not isinstance(source, str) or not is_url(source):
        return None
    location, inside = split_address(source) if path is None else (source, "")
    try:
        listed = list_folder(location)
    except RankMeError:  # that no store was found is told
        return None
    return _folder_shards(listed, location, inside)


def _folder_shards(listed: Folder, location: str, inside: str) -> Shards | None:
    """Return the files of rows directly in a folder; None if there are none, there or in the folders in it."""
    taken = _of_rows(listed)
    if not taken:
        _refuse_nested(listed.folders, location)
        return None
    _refuse_mixture(taken, location)
    _refuse_several_series(taken, location)
    read = {file.name for file in (listed.files if taken[0].name.endswith(_INDEX) else taken)}
    left_out = [file.name for file in listed.files if file.name not in read]
    remarks = [f"Files in the folder that hold no rows were left out: {_listed(left_out)}."] if left_out else []
    if listed.folders:
        remarks.append(f"Folders in the folder were not looked into: {_listed(listed.folders)}.")
    return _shards(taken, location, inside, [*remarks, *_of_equals(taken)])


def _shards(files: Sequence[FoundFile], location: str, inside: str, remarks: Sequence[str] = ()) -> Shards:
    uri = without_secrets(location) + (f"::{inside}" if inside else "")
    return Shards([f"{one.address}::{inside}" if inside else one.address for one in files], uri, tuple(remarks))


def _of_rows(listed: Folder) -> list[FoundFile]:
    """Return the files of rows; an index of shards, in their place, where there is one."""
    found = [file for file in listed.files if file.name[0] not in "._" and format_of(file.name) is not None]
    return [file for file in found if file.name.endswith(_INDEX)] or found


def _refuse_nested(folders: Sequence[str], location: str) -> None:
    """Refuse a folder whose files of rows lie in folders in it: these may be splits, or other embeddings."""
    inner = {name: list_folder(f"{location.rstrip('/')}/{name}") for name in folders[:_FOLDERS_TRIED]}
    if any(file.name in _ZARR_DOCUMENTS for listed in inner.values() for file in listed.files):
        return  # which is told where a store was looked for
    held = {name: _of_rows(listed) for name, listed in inner.items() if _of_rows(listed)}
    if not held:
        return
    counts = Counter((name, _ending(file.name)) for name, files in held.items() for file in files)
    endings = {ending for _, ending in counts}
    places = [
        f"'{_pattern(f'{location}/{name}', f'*{ending}')}' ({counted(n_files, 'file')})"
        for (name, ending), n_files in counts.items()
    ]
    if len(held) == 1 == len(places):
        remedy = f"its folder does: give {places[0]}"
    else:
        remedy = f"its folders do: give one of {_listed(places)}"
    if len(held) > 1 == len(endings):
        remedy += f", or '{_pattern(location, f'*/*{endings.pop()}')}' for all as one dump"
    raise SourceFormatError(f"{without_secrets(location)} holds no files of rows, but {remedy}")


def _is_store(folder: str, inside: str) -> bool:
    """Return whether a folder of this machine is one that zarr reads."""
    if any(os.path.lexists(os.path.join(folder, name)) for name in _ZARR_DOCUMENTS):
        return True
    return bool(inside) and os.path.isdir(os.path.join(folder, inside))


def _refuse_mixture(files: Sequence[FoundFile], location: str) -> None:
    """Refuse files of several formats: they hold other columns of the same rows, or other rows."""
    endings: dict[str, int] = {}
    for file in files:
        ending = _ending(file.name)
        endings[ending] = endings.get(ending, 0) + 1
    if len({format_of(f"x{ending}") for ending in endings}) > 1:
        counts = " and ".join(f"{counted(n, ending + ' file')}" for ending, n in sorted(endings.items()))
        patterns = " or ".join(f"'{_pattern(location, '*' + ending)}'" for ending in sorted(endings))
        raise SourceFormatError(f"{without_secrets(location)} holds {counts}, which are no one dump: give {patterns}")


def _refuse_several_series(files: Sequence[FoundFile], location: str) -> None:
    """Refuse files whose names differ in more than one number: other embeddings of the same rows, say, or splits."""
    names = [file.name for file in files]
    _refuse_equal_numbers(names, location)
    series = list(dict.fromkeys(_VARYING.sub(_shard, glob.escape(name)) for name in names))
    if len(series) == 1:
        series = _grid_series(names) or series
    if len(series) > 1:
        named = ", ".join(f"'{_pattern(location, name)}'" for name in series[:_NAMED])
        everything = _pattern(location, f"*{_ending(names[0])}")
        raise SourceFormatError(
            f"{without_secrets(location)} holds {len(series):,} series of names, which may be other embeddings of the "
            f"same rows, or other splits: give {named}{' ...' if len(series) > _NAMED else ''}, or '{everything}' for "
            "all files as one dump"
        )


def _shard(number: re.Match[str]) -> str:
    """Return a pattern for a number or digest in a name; the number itself where the word before it is of no shards."""
    is_other = number[0].isdecimal() and _OTHER_ROWS.search(number.string[: number.start()])
    return number[0] if is_other else "*"


def _refuse_equal_numbers(names: Sequence[str], location: str) -> None:
    """Refuse names that differ in leading zeros alone: one may be left of an older dump."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_NUMBER.sub(lambda number: number[0].lstrip("0") or "0", name), name)
        if other != name:
            raise SourceFormatError(
                f"{without_secrets(location)} holds {other} and {name}, which bear one number, and one of them may be "
                f"left of an older dump: remove it, or give '{_pattern(location, '*' + _ending(name))}' for all files "
                "as one dump"
            )


def _grid_series(names: Sequence[str]) -> list[str]:
    """Return a pattern for each value of one number in names, where each occurs with each of the other numbers."""
    split = [_NUMBER.split(name) for name in names]
    if len({len(pieces) for pieces in split}) > 1:
        return []
    columns = [{*column} for column in zip(*split, strict=True)]
    varying = [place for place, column in enumerate(columns) if len(column) > 1]
    if len(varying) < 2 or prod(len(columns[place]) for place in varying) != len(names):
        return []
    kept = min(varying, key=lambda place: len(columns[place]))
    return list(
        dict.fromkeys(
            "".join(
                "*" if place in varying and place != kept else glob.escape(piece) for place, piece in enumerate(one)
            )
            for one in split
        )
    )


def _ending(name: str) -> str:
    found = format_of(name)
    endings = found.endings if found is not None else ()
    return max((one for one in endings if name.lower().endswith(one)), key=len, default="")


def _pattern(location: str, name: str) -> str:
    """Return the pattern of names in a folder, or in that of a pattern."""
    if is_file_pattern(location):
        folder = location.rpartition("/")[0]
    else:
        folder = location.rstrip("/") if is_url(location) else glob.escape(location.rstrip("/"))
    return without_secrets(f"{folder}/{name}" if folder else name)


def _of_equals(files: Sequence[FoundFile]) -> list[str]:
    """Return what to say of files of equal bytes."""
    groups = equal_files(files)
    if not groups:
        return []
    n_files = sum(len(group) for group in groups)
    first = " and ".join(file.name for file in groups[0][:2])
    return [
        f"{n_files:,} files look like copies of others among them ({first}, for one): they have the same size, and the "
        "same bytes where these were compared."
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
