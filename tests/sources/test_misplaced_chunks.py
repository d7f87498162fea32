"""Chunks under other keys than the metadata say are refused with the setting that would find them, never filled in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import rankme_stream as rs
from rankme_stream.errors import MissingChunksError, SourceFormatError
from rankme_stream.sources.labels import open_labels

ROWS = np.random.default_rng(0).standard_normal((2000, 8)).astype("f4")
ENCODINGS: dict[str, dict[str, Any]] = {
    "v2 flat": {"zarr_format": 2},
    "v2 nested": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3": {},
    "v3 flat": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3, keys of v2": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}
WRONG = [
    ("v2 nested", "v2 flat", 'set "dimension_separator" to "/"'),
    ("v2 flat", "v2 nested", 'set "dimension_separator" to "."'),
    ("v3, keys of v2", "v3", '"name": "v2", "configuration": {"separator": "."}'),
    ("v3", "v3, keys of v2", '"name": "default", "configuration": {"separator": "/"}'),
    ("v3 flat", "v3", '"name": "default", "configuration": {"separator": "."}'),
]


def write(path: Path, written: str, said: str, *, rows: np.ndarray = ROWS, skipped: int = 0) -> Path:
    """Write a dump with one encoding of keys and the metadata of another; leave its first rows out."""
    store = {name: ENCODINGS[name] for name in (written, said)}
    for name, encoding in store.items():
        array = zarr.create_array(
            path.with_name(name), shape=rows.shape, chunks=(100, *rows.shape[1:]), dtype=rows.dtype, **encoding
        )
        array[skipped:] = rows[skipped:]
    document = ".zarray" if (path.with_name(written) / ".zarray").exists() else "zarr.json"
    metadata = json.loads((path.with_name(said) / document).read_text())
    if said == "v2 flat":
        metadata.pop("dimension_separator", None)  # as before zarr 2.8
    (path.with_name(written) / document).write_text(json.dumps(metadata))
    return path.with_name(written)


@pytest.mark.parametrize("missing", ["error", "skip", "fill"])
@pytest.mark.parametrize(("written", "said", "remedy"), WRONG)
def test_chunks_under_other_keys_are_refused_with_the_setting(tmp_path, written, said, remedy, missing):
    path = write(tmp_path / "a", written, said)
    for read in (lambda: rs.measure(path, missing=missing), lambda: rs.plan(path)):
        with pytest.raises(SourceFormatError) as caught:
            read()
        assert remedy in str(caught.value) and "under other keys" in str(caught.value)


def test_the_setting_is_the_remedy(tmp_path):
    path = write(tmp_path / "a", "v2 nested", "v2 flat")
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(metadata | {"dimension_separator": "/"}))
    assert rs.measure(path).rankme.value == rs.measure(ROWS).rankme.value


def test_they_are_found_where_the_first_chunks_were_never_written(tmp_path):
    path = write(tmp_path / "a", "v2 nested", "v2 flat", skipped=1000)
    with pytest.raises(SourceFormatError, match="under other keys"):
        rs.measure(path, missing="fill")


@pytest.mark.parametrize("kind", ["zip", "memory"])
def test_they_are_found_in_other_stores(tmp_path, kind):
    path = write(tmp_path / "a", "v2 nested", "v2 flat")
    if kind == "zip":
        shutil.make_archive(str(path), "zip", path)
        source = f"{path}.zip"
    else:
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        source = zarr.open_array(MemoryStore({name: buffer.from_bytes(one) for name, one in files.items()}), mode="r")
    with pytest.raises(SourceFormatError, match="under other keys"):
        rs.measure(source, missing="fill")


def test_a_part_of_the_chunks_under_other_keys_is_enough(tmp_path):
    path = write(tmp_path / "a", "v2 flat", "v2 flat")
    (path / "7").mkdir()
    (path / "7.0").rename(path / "7/0")
    with pytest.raises(SourceFormatError, match=r"\(7/0, not 7\.0\)"):
        rs.measure(path, missing="skip")


def test_chunks_that_are_missing_stay_missing(tmp_path):
    path = write(tmp_path / "a", "v2 nested", "v2 nested")
    shutil.rmtree(path / "0")
    with pytest.raises(MissingChunksError, match="chunk 0/0"):
        rs.measure(path)
    assert rs.measure(path, missing="skip").rows_read == 1900


def test_labels_under_other_keys_are_refused(tmp_path):
    labels = np.arange(2000) % 3
    path = write(tmp_path / "a", "v3", "v3, keys of v2", rows=labels)
    with pytest.raises(SourceFormatError, match="under other keys"):
        open_labels(str(path))
