"""How the rows of a source are stored, for people: format, layout, place and stored size."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from rankme_stream.sources.address import split_address
from rankme_stream.sources.array_options import Opening
from rankme_stream.sources.source import Source

_LOCAL_SCHEMES = ("file", "local", "memory", "reference")


class Storage(NamedTuple):
    """How rows are stored.

    Attributes
    ----------
    format
        Name of the format in words; empty where the ending of the name says it.
    facts
        Labels and words about the layout, in the order to show them: ``("chunks", "25 of 1,024 x 384")``.
    n_bytes
        Bytes as stored; None where finding them would take requests, or a look at very many files.
    n_requests
        Requests to a server that reading every row takes, about; None where that depends on the blocks that are read.
    where
        Place in words, without secrets; ``storage_of`` fills it in where it is empty.
    """

    format: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    n_bytes: int | None = None
    n_requests: int | None = None
    where: str = ""


def storage_of(source: Source) -> Storage:
    """Return how the rows of a source are stored.

    A source says it by a method ``storage()``, beside those of the protocol, without a request to a server: what its
    metadata and its last fingerprint found, or the local file system says.
    """
    found = own_storage(source)
    return found._replace(format=found.format or _format_by_name(source), where=found.where or _place(source))


def own_storage(source: Source) -> Storage:
    """Return what a source itself says of how it is stored."""
    find = getattr(source, "storage", None)
    found: Storage = Storage() if find is None else find()
    return found


def describe_storage(source: Source, found: Storage | None = None) -> dict[str, Any]:
    """Return format, place and bytes of the rows, as numbers and as stored, for records; ``found`` if it is known."""
    found, (n_rows, n_features) = found or storage_of(source), source.shape
    n_bytes = n_rows * n_features * source.stored.dtype.itemsize
    known = {} if found.n_bytes is None else {"bytes_stored": found.n_bytes}
    return {"storage": {"format": found.format, "where": found.where, "bytes": n_bytes, **known}}


def is_remote(source: Source) -> bool:
    """Return whether reading waits for a server."""
    address = _first_address(source)
    return isinstance(address, str) and "://" in address and address.partition("://")[0] not in _LOCAL_SCHEMES


def _format_by_name(source: Source) -> str:
    if source.uri.startswith("<"):  # of an object in memory
        return source.uri.strip("<>")
    ending = os.path.splitext(split_address(source.uri)[0].partition("?")[0])[1]
    if ending:
        return f"{ending} file"
    return "file" if isinstance(_first_address(source), str) else type(source).__name__


def _place(source: Source) -> str:
    """Return where the rows are: this process, this machine, or the server."""
    if _first_address(source) is None:
        return "in this process"
    if not is_remote(source):
        return "on this machine"
    scheme, _, rest = source.uri.partition("://")
    return f"on {scheme}://{rest.split('/')[0]}"  # without a password: names for messages carry none


def _first_address(source: Source) -> Any:
    """Return what opens the source, or the first of its parts, in another process."""
    found = source.reopen()
    while isinstance(found, list | Opening):
        found = found.source if isinstance(found, Opening) else found[0]
    return found
