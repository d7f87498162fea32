"""A disk or network file system that fails is told apart from data that are refused."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from rankme_stream.errors import SourceError, SourceNotFoundError, SourcePermissionError, StorageError
from rankme_stream.sources import NpySource, ZarrSource
from rankme_stream.sources.stores.file_errors import file_error
from rankme_stream.sources.zarr import chunk_storage
from tests.dumps import rows_like, store


@pytest.mark.parametrize(
    "number, kind, code",
    [
        (errno.EIO, StorageError, 5),
        (errno.ESTALE, StorageError, 5),
        (errno.ETIMEDOUT, StorageError, 5),
        (errno.ENOMEM, StorageError, 5),
        (errno.EMFILE, StorageError, 5),
        (None, StorageError, 5),
        (errno.ENOENT, SourceNotFoundError, 3),
        (errno.EACCES, SourcePermissionError, 3),
        (errno.ELOOP, SourceError, 3),
        (errno.EINVAL, SourceError, 3),
    ],
)
def test_an_error_of_the_system_has_the_exit_code_of_whose_remedy_it_is(number, kind, code):
    error = OSError("hung up") if number is None else OSError(number, os.strerror(number), "a/b")
    told = file_error("c/0/0 of a.zarr", error)
    assert (type(told), told.exit_code) == (kind, code)
    assert "c/0/0 of a.zarr" in str(told) and "\n" not in str(told)


def fails(*_: object, **__: object) -> None:
    raise OSError(errno.ESTALE, "Stale file handle")


def test_a_npy_file_on_a_file_system_that_fails_is_not_corrupt(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", rows_like(100, 4))
    source = NpySource(tmp_path / "a.npy")
    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(StorageError, match=r"rows 0-100 of .*a\.npy cannot be read.*Stale file handle"):
        source.read(0, 100)
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(StorageError, match=r"a\.npy cannot be read"):
        NpySource(tmp_path / "a.npy")


def test_a_folder_on_a_file_system_that_fails_is_not_refused_as_data(tmp_path, monkeypatch):
    path = store(tmp_path / "a.zarr", rows_like(100, 4), chunk=10)
    source = ZarrSource(path)
    monkeypatch.setattr(chunk_storage, "scan_folder", fails)
    with pytest.raises(StorageError, match=r"of .*a\.zarr cannot be read.*Stale file handle"):
        source.fingerprint(0, 100)
    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(StorageError, match=r"a\.zarr cannot be read"):
        ZarrSource(path)
