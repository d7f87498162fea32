"""Shell-style patterns over the files and stores of this machine."""

from __future__ import annotations

import glob
import os
import re

from rankme_stream.errors import SourceNotFoundError, SourcePermissionError
from rankme_stream.sources.address import split_address
from rankme_stream.sources.stores.natural_order import natural_key

_MAGIC = set("*?[")
_ANY_FOLDERS = re.compile(r"(?:^|(?<=/))(?:\*\*/+)+")


def is_pattern(text: str | None) -> bool:
    """Return whether a path holds characters that stand for others in a shell."""
    return text is not None and not _MAGIC.isdisjoint(text)


def paths_matching(pattern: str) -> list[str]:
    """Return the paths of this machine that a shell-style pattern matches, in natural order.

    ``**/`` stands for any number of folders that are no symbolic links, since these may lead in circles; what is hidden
    is passed over.

    Raises
    ------
    SourcePermissionError
        If a folder that may hold some of them cannot be listed, which ``glob`` takes for an empty one.
    """
    before, *rest = _ANY_FOLDERS.split(pattern, maxsplit=1)
    if not rest:
        _check_listable(os.path.dirname(pattern))
        return sorted(glob.glob(pattern), key=natural_key)
    found: set[str] = set()
    for top in paths_matching(before) if before else [""]:
        for folder, inner, _ in os.walk(top or os.curdir, onerror=_refuse_hidden):
            inner[:] = [name for name in inner if not name.startswith(".")]
            place = folder if top else os.path.relpath(folder)
            found.update(paths_matching(os.path.join("" if place == os.curdir else glob.escape(place), rest[0])))
    return sorted(found, key=natural_key)


def _check_listable(pattern: str) -> None:
    """Refuse folders that a pattern matches, or those above, that may not be listed."""
    for folder in glob.iglob(pattern):
        if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise _unlisted(folder)
    if is_pattern(pattern):
        _check_listable(os.path.dirname(pattern))


def _refuse_hidden(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise _unlisted(error.filename) from error


def _unlisted(folder: str) -> SourcePermissionError:
    return SourcePermissionError(f"{folder} may not be read: check its permissions")


def matching_files(source: object) -> list[str] | None:
    """Return the paths that a pattern of files or stores matches, with what stands behind ``::``, in natural order.

    None for a URL, for what is no pattern before ``::``, and for a file of just that name.

    Raises
    ------
    SourceNotFoundError
        If there are none.
    SourcePermissionError
        As ``paths_matching``.
    """
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(uri, str) or "://" in uri:
        return None
    location, path = split_address(uri)
    if not is_pattern(location) or os.path.lexists(location):
        return None
    found = paths_matching(location)
    if not found:
        raise SourceNotFoundError(f"nothing matches {location}: check the pattern")
    return [f"{one}::{path}" if path else one for one in found]
