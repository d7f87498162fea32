"""Names with numbers in their natural order, and shell-style patterns over the files and stores of this machine."""

from __future__ import annotations

import glob
import os
import re

from rankme_stream.errors import SourceNotFoundError, SourcePermissionError
from rankme_stream.sources.address import split_address

_MAGIC = set("*?[")
_NUMBER = re.compile(r"(\d{1,4000})")  # Python reads 4,300 digits


def natural_key(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts names as people number them: ``a_2`` before ``a_10``."""
    pieces = _NUMBER.split(text)
    return tuple((piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces)


def is_pattern(text: str | None) -> bool:
    """Return whether a path holds characters that stand for others in a shell."""
    return text is not None and not _MAGIC.isdisjoint(text)


def matching_files(source: object) -> list[str] | None:
    """Return the paths that a pattern of files or stores matches, with what stands behind ``::``, in natural order.

    None for a URL, for what is no pattern before ``::``, and for a file of just that name.

    Raises
    ------
    SourceNotFoundError
        If there are none.
    SourcePermissionError
        As ``matching_paths``.
    """
    uri = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(uri, str) or "://" in uri:
        return None
    location, path = split_address(uri)
    if not is_pattern(location) or os.path.lexists(location):
        return None
    found = matching_paths(location)
    if not found:
        raise SourceNotFoundError(f"nothing matches {location}: check the pattern")
    return [f"{one}::{path}" if path else one for one in found]


def matching_paths(pattern: str, *, recursive: bool = False) -> list[str]:
    """Return the paths of this machine that a pattern matches, in natural order.

    With ``recursive``, ``**`` stands for any number of folders.

    Raises
    ------
    SourcePermissionError
        If a folder that may hold some of them cannot be listed.
    """
    found = glob.glob(pattern, recursive=recursive)  # it passes over such folders in silence
    parents = os.path.dirname(pattern)
    while parents:
        for folder in glob.iglob(parents, recursive=recursive):
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
                raise SourcePermissionError(f"{folder} may not be read: check its permissions")
        parents = os.path.dirname(parents) if is_pattern(parents) else ""
    return sorted(found, key=natural_key)
