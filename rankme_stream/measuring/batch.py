"""Many sources, one pass each; one that fails does not stop the others."""

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
from rankme_stream.passes.engines.dask.engine import connected
from rankme_stream.results.measurement import Measurement


def measure_each(
    sources: Iterable[Any], *, checkpoint: str | os.PathLike[str] | None = None, **options: Any
) -> Iterator[tuple[Any, Measurement | RankMeError]]:
    """Measure one source after another and yield each with its result, or with the error that refused it.

    Parameters
    ----------
    sources
        As ``measure`` takes them.
    checkpoint
        Folder, made when it is not there, of a file a source; only paths and URIs can have one.
    options
        As ``measure`` takes them.
    """
    with shared_client(**options) as client:
        for source in sources:
            try:
                kept = None if checkpoint is None else checkpoint_in(Path(checkpoint), source)
                yield source, measure(source, checkpoint=kept, **options | {"client": client})
            except RankMeError as error:
                yield source, error


@contextmanager
def shared_client(
    engine: str = "local", client: Any = None, workers: int | None = None, memory_limit: int | None = None,
    device: str = "cpu", **_: Any,
) -> Iterator[Any]:  # fmt: skip
    """Open the client that several passes by the Dask engine share; what is given where another engine is asked for.

    Parameters and errors are those of ``measure``, of which the others are of no matter here.
    """
    if engine != "dask":
        yield client
        return
    with connected(client, workers, memory_limit, device) as opened:
        yield opened.client


def checkpoint_in(folder: Path, source: Any) -> Path:
    """Return the file in a folder that keeps the pass over a source; the same for the same path or URI.

    Raises
    ------
    UsageError
        If the source has neither, or the folder is a file.
    OutputError
        If the folder cannot be made.
    """
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"a {type(source).__name__} has no name to keep a checkpoint under: pass a path instead")
    uri = os.fspath(source)
    place = uri if "://" in uri else os.path.abspath(uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is a file; checkpoints of several sources need a folder") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", place)[-60:].strip("-.")
    return folder / f"{name}-{blake2b(place.encode(), digest_size=4).hexdigest()}.state"
