"""Libraries that read rows, and which of them are installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from rankme_stream.numerics.machine import installed_version
from rankme_stream.sources.formats import FORMATS

_ALWAYS = ("numpy", "zarr", "numcodecs")
_SERVERS = ("http", "s3")  # extras
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*?\])?.*;.*\bextra == ['\"]([A-Za-z0-9_-]+)['\"]")


def installed_readers() -> list[dict[str, Any]]:
    """Return name, version and extra of each library that reads rows; the version None where it is not installed."""
    found: list[dict[str, Any]] = [
        {"name": name, "version": installed_version(name), "extra": None} for name in _ALWAYS
    ]
    wanted = {one.extra for one in FORMATS if one.extra is not None} | {*_SERVERS}
    for name, extra in _optional():
        if extra in wanted and name not in {one["name"] for one in found}:
            found.append({"name": name, "version": _version(name), "extra": extra})
    return found


def _optional() -> Iterator[tuple[str, str]]:
    """Yield the libraries that the extras of this package install, with the extra."""
    try:
        texts = requires("rankme-stream") or []
    except PackageNotFoundError:  # run from a folder: nothing says what the extras are
        return
    for text in texts:
        if (match := _REQUIREMENT.fullmatch(text)) is not None and match[1] != "rankme-stream":
            yield match[1], match[2]


def _version(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None
