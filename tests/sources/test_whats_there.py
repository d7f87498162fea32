"""Where no zarr array is, the message says what is there and the command that reads it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import rankme_stream as rs
from rankme_stream.errors import SourceError, SourceFormatError, UsageError

ROWS = np.random.default_rng(0).standard_normal((60, 4)).astype("f4")


def message(source: object, **options: object) -> str:
    with pytest.raises(SourceError) as caught:
        rs.open_source(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("beginning", "said"),
    [
        (b"CDF\x02\0\0", "is a netCDF file"),
        (b"\x93NUMPY\x01\0", "is not a .npy file that can be read"),
        (b"PK\x03\x04\x14\0\0", "is a zip file whose end is missing"),
        (b"\x1f\x8b\x08\0", "is compressed by gzip: unpack it first"),
        (b"\x80\x04\x95", "is a pickle, which could run code"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"emb":{"dtype":"F32"}}', "is no safetensors file, or it is cut"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "is a tar archive: unpack it first"),
        (b'{"version": 1, "refs": {".zgroup": "..."}}', "holds references of kerchunk: give 'reference://::"),
        (b'{"schema_version": 1, "source": {}}', "is a result of rankme: rankme show prints it"),
        (b"rankme-state\n\x02\0\0\0", "is a state of rankme"),
        (b"", "is in no format that is read: write its rows as zarr or .npy, or name it .bin if it holds bare numbers"),
        (
            b"\1\2\3",
            "is in no format that is read: write its rows as zarr or .npy, or name it .bin if it holds bare numbers",
        ),
        (b"0.1,0.2\n", "is text, which is not read: write its rows as zarr or .npy"),
        (b'{"embedding": [0.1, 0.2]}\n', "is text, which is not read: write its rows as zarr or .npy"),
    ],
)
def test_a_file_is_known_by_its_first_bytes(tmp_path, beginning, said):
    (tmp_path / "dump").write_bytes(beginning)
    assert f"dump {said}" in message(tmp_path / "dump")
    if not beginning.startswith(b"\x93NUMPY"):
        assert f"dump {said}" in message(f"{tmp_path}/dump::emb")


def test_references_of_kerchunk_are_read_as_the_message_says(tmp_path):
    pytest.importorskip("fsspec")
    array = zarr.create_array(tmp_path / "s.zarr", name="emb", shape=ROWS.shape, dtype="f4", zarr_format=2)
    array[:] = ROWS
    references = {
        path.relative_to(tmp_path / "s.zarr").as_posix(): path.read_text()
        if path.name.startswith(".")
        else "base64:" + base64.b64encode(path.read_bytes()).decode()
        for path in (tmp_path / "s.zarr").rglob("*")
        if path.is_file()
    }
    (tmp_path / "refs.json").write_text(json.dumps({"version": 1, "refs": references}))
    address = message(tmp_path / "refs.json").partition("give '")[2].partition("'")[0]
    np.testing.assert_array_equal(rs.open_source(address.replace("::array", "::emb")).read(0, 60), ROWS)


def test_a_zip_of_a_named_folder_says_what_is_inside(tmp_path):
    zarr.create_array(tmp_path / "named.zarr", name="emb", shape=ROWS.shape, dtype="f4")[:] = ROWS
    archive = shutil.make_archive(str(tmp_path / "dump"), "zip", tmp_path, "named.zarr")
    for given in (archive, f"{archive}::emb"):
        assert f"the zip file holds named.zarr/emb: use e.g. '{archive}::named.zarr/emb'" in message(given)
    np.testing.assert_array_equal(rs.open_source(f"{archive}::named.zarr/emb").read(0, 60), ROWS)


@pytest.mark.parametrize("zip64", [False, True])
def test_zip_files_joined_into_one_are_refused(tmp_path, zip64, monkeypatch):
    if zip64:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    for number in range(2):
        with zarr.storage.ZipStore(tmp_path / f"{number}.zip", mode="w") as store:
            zarr.create_array(store, shape=ROWS.shape, dtype="f4", chunks=(20, 4))[:] = ROWS + number
        np.testing.assert_array_equal(rs.open_source(tmp_path / f"{number}.zip").read(0, 60), ROWS + number)
    first, second = ((tmp_path / f"{number}.zip").read_bytes() for number in range(2))
    (tmp_path / "both.zip").write_bytes(first + second)
    assert f"both.zip has {len(first):,} bytes before the zip file that it ends with" in message(tmp_path / "both.zip")
    with zipfile.ZipFile(tmp_path / "0.zip", "a") as archive:
        archive.comment = b"PK\x05 a comment"
    assert rs.open_source(tmp_path / "0.zip").shape == ROWS.shape


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["part-0.tfrecord", "part-1.tfrecord"], "it holds 2 .tfrecord files (TFRecord, which is not read"),
        (["data/part-0.tfrecord"], "its folder data holds 1 .tfrecord file"),
        (["snapshots/A", "manifests/B", "refs/branch.main/ref.json"], "it is an icechunk repository: in Python open"),
        ([], "the folder is empty"),
        (["readme.txt"], "no metadata of zarr is there"),
    ],
)
def test_a_folder_is_known_by_the_names_in_it(tmp_path, files, said):
    for name in files:
        (tmp_path / "dump" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dump" / name).write_bytes(b"")
    (tmp_path / "dump").mkdir(exist_ok=True)
    assert said in message(tmp_path / "dump")


def test_a_folder_of_stores_names_one(tmp_path):
    for name in ("a", "b"):
        zarr.create_array(tmp_path / "dumps" / name, shape=(3, 2), dtype="f4")[:] = 1
    said = message(tmp_path / "dumps")
    assert "it holds a, b: use e.g. '" in said
    assert rs.open_source(said.partition("use e.g. '")[2].partition("'")[0]).shape == (3, 2)


def test_a_path_that_is_not_in_the_store_names_what_is(tmp_path):
    zarr.create_array(tmp_path / "s.zarr", name="emb", shape=(3, 2), dtype="f4")[:] = 1
    said = message(f"{tmp_path}/s.zarr::embeddings")
    assert f"check the path after '::'; it holds emb: use e.g. '{tmp_path}/s.zarr::emb'" in said
    memory = MemoryStore()
    zarr.create_array(memory, name="emb", shape=(3, 2), dtype="f4")
    with pytest.raises(SourceFormatError, match=r"is a group of arrays, .*; use e\.g\. '.*::emb'"):
        rs.open_source(zarr.open_group(memory, mode="r"))


def test_a_path_that_is_not_in_a_group_names_an_array_beside_it_that_is_alike(tmp_path):
    for name in ("g/half", "g/embeddings", "other"):
        zarr.create_array(tmp_path / "s.zarr", name=name, shape=(3, 2), dtype="f4")[:] = 1
    assert f"g there holds embeddings, half: use e.g. '{tmp_path}/s.zarr::g/embeddings'" in message(
        f"{tmp_path}/s.zarr::g/embedding"
    )
    assert "use e.g. " in (said := message(f"{tmp_path}/s.zarr::none"))
    assert rs.open_source(said.partition("use e.g. '")[2].partition("'")[0]).shape == (3, 2)  # never a group


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("nothere", {}, "there is no file or folder 'nothere': check the path"),
        ("nothere.npy", {}, "there is no file nothere.npy: check the path"),
        ("", {}, "the source is empty"),
        ("::", {}, "the source is empty"),
        ("s.zarr::emb", {"path": "emb"}, "with path the address is the store alone, s.zarr"),
        ("text.npy", {}, "is no .npy file, whatever its name: it begins with b'hello '"),
        ("empty.npy", {}, "it is empty; write it again"),
        ("flat.npy", {}, "(rows, features) array is needed: reshape it"),
        ("file:///x/a.npy", {}, "there is no file /x/a.npy: check the path"),
        ("foo://bucket/a.zarr", {}, "has the scheme 'foo', which fsspec does not know: check the address"),
    ],
)
def test_a_source_that_is_not_there_says_what_to_give(tmp_path, monkeypatch, source, options, said):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("s.zarr", name="emb", shape=(3, 2), dtype="f4")[:] = 1
    (tmp_path / "text.npy").write_text("hello world")
    (tmp_path / "empty.npy").touch()
    np.save("flat.npy", np.ones(6))
    assert said in message(source, **options)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("abfs", "adlfs")])
def test_a_scheme_without_its_package_names_it(scheme, package):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    assert message(f"{scheme}://bucket/a.zarr").endswith(f"pip install fsspec {package}")


def test_a_file_of_one_array_takes_no_path(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(UsageError, match=r"a\.npy holds one array: leave path out"):
        rs.open_source(tmp_path / "a.npy", path="emb")


def test_links_in_circles_end(tmp_path):
    (tmp_path / "dump").mkdir()
    for number in range(30):
        os.symlink(tmp_path / "dump", tmp_path / "dump" / f"again{number}")
    assert "no metadata of zarr is there" in message(tmp_path / "dump")


def test_the_embeddings_of_anndata_come_first(tmp_path):
    group = zarr.open_group(tmp_path / "cells.zarr", mode="w")
    group.attrs["encoding-type"] = "anndata"
    group.create_array("X", shape=(60, 9), dtype="f4")
    group.create_array("obsm/X_pca", shape=(60, 4), dtype="f4")[:] = ROWS
    assert f"an AnnData store; use e.g. '{tmp_path}/cells.zarr::obsm/X_pca'" in message(tmp_path / "cells.zarr")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("csr_matrix", "a sparse matrix, which is not read: write it as an array"),
        ("dataframe", "a table of columns, which are not read as one"),
        ("categorical", "labels of rows, not rows"),
    ],
)
def test_a_group_of_anndata_says_what_it_is(tmp_path, encoding, said):
    group = zarr.open_group(tmp_path / "cells.zarr", mode="w").create_group("X")
    group.attrs["encoding-type"] = encoding
    group.create_array("data", shape=(9,), dtype="f4")
    assert said in message(f"{tmp_path}/cells.zarr::X")


def test_arrays_of_one_name_in_several_groups_are_offered_as_one_dump(tmp_path):
    for zone in (1, 2, 10):
        zarr.create_array(tmp_path / "s.zarr", name=f"utm{zone}/emb", shape=ROWS.shape, dtype="f4")[:] = ROWS
    said = message(tmp_path / "s.zarr")
    assert f"or '{tmp_path}/s.zarr::*/emb' for all of that name as one dump" in said
    assert rs.open_source(f"{tmp_path}/s.zarr::*/emb").shape == (180, 4)


def test_broken_metadata_beside_are_no_traceback(tmp_path):
    (tmp_path / "dump/child").mkdir(parents=True)
    (tmp_path / "dump/child/zarr.json").write_text(json.dumps([1, 2]))
    assert "it holds child" in message(tmp_path / "dump")
    assert "child" in message(f"{tmp_path}/dump::emb")
