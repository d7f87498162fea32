"""Measurement of many sources, one after another; a source that fails does not stop the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rankme_stream.errors import OutputError, RankMeError, UsageError
from rankme_stream.measuring.api import measure
from rankme_stream.passes.state.checkpoint import check_place
from rankme_stream.results.measurement import Measurement


def measure_each(
    sources: Iterable[Any], *, checkpoint: str | os.PathLike[str] | None = None, **options: Any
) -> Iterator[tuple[Any, Measurement | RankMeError]]:
    """Measure one source after another and yield each with its result, or with the error that refused it.

    Parameters
    ----------
    sources
        Sources as in ``measure``.
    checkpoint
        Folder for one checkpoint per source, created if absent; only paths and URIs can have a checkpoint.
    options
        Other options as in ``measure``.
    """
    with shared_client(**options) as client:
        for source in sources:
            try:
                file = None if checkpoint is None else checkpoint_in(checkpoint, source)
                yield source, measure(source, checkpoint=file, **options | {"client": client})
            except RankMeError as error:
                yield source, error


@contextmanager
def shared_client(
    engine: str = "local", client: Any = None, workers: int | None = None, memory_limit: int | None = None,
    device: str = "cpu", **_: Any,
) -> Iterator[Any]:  # fmt: skip
    """Open the client that several passes by the Dask engine share; with another engine, yield ``client`` itself.

    Parameters and errors are those of ``measure``; its other options are ignored.
    """
    if engine != "dask":
        yield client
        return
    from rankme_stream.passes.engines.dask.engine import connected

    with connected(client, workers, memory_limit, device) as opened:
        yield opened.client


def checkpoint_in(folder: str | os.PathLike[str], source: Any) -> Path:
    """Return the checkpoint of a source in a folder; the same file for the same path or URI.

    Raises
    ------
    UsageError
        If the source has no path or URI, or the folder has no name, is a file, or is a zarr store or inside one.
    OutputError
        If the folder cannot be created.
    """
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"a {type(source).__name__} has no name for its checkpoint: pass a path or URI instead")
    if not os.fspath(folder):
        raise UsageError("the folder for checkpoints has an empty name: give one, for example '.'")
    folder = Path(folder)
    uri = os.fspath(source)
    address = uri if "://" in uri else os.path.abspath(uri)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", address)[-60:].strip("-.")
    name = f"{readable}-{blake2b(address.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}.state"
    check_place(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is a file; give a folder for the checkpoints of several sources") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be created: {error.strerror}") from None
    return folder / name
