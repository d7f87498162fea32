"""What lies in a zip file where no zarr array was found, and files that are zip files no more."""

from __future__ import annotations

import json
import posixpath
import zipfile
from pathlib import Path
from typing import Any

_BEGINNING = b"PK\x03\x04"
_LISTED = 10
_LONGEST_DOCUMENT = 2**20  # bytes; longer ones are not looked at for a message
_READ_ERRORS = (OSError, ValueError, LookupError, NotImplementedError, RuntimeError, zipfile.BadZipFile)


def arrays_inside(archive_path: Path, path: str) -> str:
    """Return which arrays of zarr a zip file holds, and how one is read; the empty string if it holds none.

    Parameters
    ----------
    path
        Path where no array was found; an array whose path ends so is proposed first.
    """
    arrays = []
    try:
        with zipfile.ZipFile(archive_path) as archive:
            for name in sorted({*archive.namelist()}):
                folder, document = posixpath.split(name)
                if document in ("zarr.json", ".zarray") and _is_array(archive, name):
                    arrays.append(folder)
    except _READ_ERRORS:
        return ""
    if not arrays:
        return ""
    proposed = next((one for one in arrays if path and one.endswith(f"/{path}")), arrays[0])
    more = f", and {len(arrays) - _LISTED} more" if len(arrays) > _LISTED else ""
    return f"the zip file holds {', '.join(arrays[:_LISTED])}{more}: use e.g. '{archive_path}::{proposed}'"


def _is_array(archive: zipfile.ZipFile, name: str) -> bool:
    """Return whether a metadata document is that of an array of more than one dimension."""
    if archive.getinfo(name).file_size > _LONGEST_DOCUMENT:
        return False
    with archive.open(name) as file:
        metadata: Any = json.loads(file.read(_LONGEST_DOCUMENT))
    return isinstance(metadata, dict) and len(metadata.get("shape", ())) > 1


def is_cut_zip(path: str) -> bool:
    """Return whether a file begins as zip files do; one that is no zip file then has lost its end."""
    with Path(path).open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING
