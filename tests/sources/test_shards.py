"""A folder of files is one dump: its shards in natural order, what is odd about them said, and mixtures refused."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import (
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    StorageError,
    UsageError,
)
from rankme_stream.sources import absent_numbers
from rankme_stream.sources.stores.attempts import SECONDS
from rankme_stream.testing import SourceLaws
from tests.dumps import rows_like, same_bits

LENGTHS = (100, 3, 97, 1, 250, 100, 41, 8, 199, 100, 101)
ROWS = rows_like(sum(LENGTHS), 8)
CHAFF = ("_SUCCESS", ".part.crc", "README.md", "dataset_info.json", "x.npy.sha256", ".DS_Store")


def write_shards(folder: Path, rows: np.ndarray = ROWS, name: str = "img_emb_{}.npy", chaff: Any = CHAFF) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.split(rows, np.cumsum(LENGTHS)[:-1])):
        np.save(folder / name.format(number), part)
    for one in chaff:
        (folder / one).write_bytes(b"chaff")
    return folder


class TestFolder(SourceLaws):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = write_shards(tmp_path / "dump")

    def make(self):
        return rs.open_source(self.folder)

    def expected(self):
        return ROWS


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of a folder on a server that lists by web pages and knows no ranges, as Python's own, and the folder."""
    folder = tmp_path_factory.mktemp("web")
    write_shards(folder / "dump")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECONDS, "3")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


@pytest.mark.parametrize("address", [
    "{}/dump", "{}/dump/", "{}/dump/*.npy", "{}/d?mp/img_emb_*", "{}/dump/img_emb_[0-9]*", "{}/**/img_emb_*.npy",
    "file://{}/dump",
])  # fmt: skip
def test_a_folder_or_a_pattern_is_one_dump_in_natural_order(tmp_path, address):
    write_shards(tmp_path / "dump")
    source = rs.open_source(address.format(tmp_path))
    assert np.array_equal(source.read(0, len(ROWS)), ROWS)
    assert [part.name for part in source.parts] == [f"img_emb_{number}.npy" for number in range(11)]
    assert same_bits(rs.measure(source), rs.measure(ROWS))


@pytest.mark.parametrize("address", [
    "{}/dump", "{}/dump/", "{}/dump/*.npy", "{}/d*/img_emb_[0-9]*", "{}/**/img_emb_*.npy",
])  # fmt: skip
def test_so_is_one_on_a_server(web, address):
    url, _ = web
    source = rs.open_source(f"simplecache::{address.format(url)}")
    assert np.array_equal(source.read(0, len(ROWS)), ROWS)
    assert source.parts[10].name == "img_emb_10.npy"


def test_patterns_on_a_server_that_match_nothing_or_list_nothing_are_refused(web, monkeypatch):
    url, _ = web
    for pattern in ("none*.npy", "none/*.npy", "*/none*"):
        with pytest.raises(SourceNotFoundError, match=r"nothing matches http.*: check the pattern"):
            rs.open_source(f"{url}/{pattern}")
    with pytest.raises(SourceNotFoundError, match="there is no zarr array at"):
        rs.open_source(f"{url}/none")
    monkeypatch.setenv(SECONDS, "0.2")
    with pytest.raises(StorageError, match="cannot be reached"):
        rs.open_source("http://127.0.0.1:1/x*.npy?token=secret")


def test_what_was_left_out_is_said_and_what_is_odd(tmp_path, capsys):
    folder = write_shards(tmp_path / "dump")
    (folder / "metadata").mkdir()
    for number in (4, 9):
        np.save(folder / f"img_emb_{number}.npy", ROWS[:100])
    np.save(folder / "img_emb_0.npy", ROWS[:100])
    os.remove(folder / "img_emb_7.npy")
    found = rs.measure(folder)
    text = " ".join(str(found).split())
    first, second, third = found.source["remarks"]
    assert first == (
        "Files in the folder that hold no rows were left out: .DS_Store, .part.crc, README.md, _SUCCESS, "
        "dataset_info.json and 1 more."
    )
    assert second == "Folders in the folder were not looked into: metadata."
    assert third.startswith("3 files look like copies of others among them (img_emb_0.npy and img_emb_4.npy, for one)")
    assert all(remark in text for remark in found.source["remarks"])
    assert "10 arrays as one, img_emb_0.npy to img_emb_10.npy; there is none of number 7" in text
    assert found.to_dict()["remarks"][:3] == found.source["remarks"]


def test_lengths_unlike_those_of_nearly_all_are_said(tmp_path):
    for number in range(30):
        np.save(tmp_path / f"a{number:02}.npy", ROWS[number : number + (7 if number in (12, 29) else 20)])
    (remark,) = rs.open_source(tmp_path).remarks
    assert remark == "Of 30 arrays nearly all have 20 rows, but not a12.npy (7)."


@pytest.mark.parametrize(("odd", "said"), [
    (ROWS[:5, :7], r"img_emb_0\.npy has 7 features, and .*img_emb_1\.npy has 8"),
    (ROWS[:5].astype("f8"), r"img_emb_0\.npy holds numbers of type float64, and .*img_emb_1\.npy of type float32"),
    (ROWS[:0], r"img_emb_0\.npy has shape \(0, 8\)"),
])  # fmt: skip
def test_the_odd_shard_is_named_wherever_it_is(tmp_path, odd, said):
    np.save(write_shards(tmp_path / "dump") / "img_emb_0.npy", odd)
    with pytest.raises(SourceFormatError, match=said):
        rs.open_source(tmp_path / "dump")


def test_series_of_names_are_refused_with_the_patterns_that_would_do(tmp_path):
    folder = write_shards(write_shards(tmp_path / "du[m]p"), name="text_emb_{}.npy")
    with pytest.raises(SourceFormatError, match=r"holds 2 series of names, .*other embeddings") as caught:
        rs.open_source(folder)
    patterns = str(caught.value).split("give ")[1].split("'")[1::2]
    assert [rs.open_source(pattern).shape[0] for pattern in patterns] == [901 + 99, 1000, 2000]


def test_numbers_that_occur_each_with_each_are_series_too(tmp_path):
    for layer in (6, 12):
        write_shards(tmp_path, ROWS + layer, f"block{layer}_part{{}}.npy", chaff=())
    with pytest.raises(SourceFormatError, match="holds 2 series of names") as caught:
        rs.open_source(tmp_path)
    patterns = str(caught.value).split("give ")[1].split("'")[1::2]
    assert [rs.open_source(pattern).shape[0] for pattern in patterns] == [1000, 1000, 2000]
    os.remove(tmp_path / "block12_part10.npy")
    assert rs.open_source(tmp_path).shape[0] == 1899


@pytest.mark.parametrize("names", [
    ["layer_0.npy", "layer_1.npy"],
    ["emb_epoch3.npy", "emb_epoch10.npy"],
    ["x.step=100.npy", "x.step=200.npy"],
    ["emb-v1.npy", "emb-v2.npy"],
    ["Layer6_part0.npy", "Layer6_part1.npy", "Layer12_part1.npy"],
    ["train-0-of-2.npy", "train-1-of-2.npy", "train-0-of-1.npy"],
])  # fmt: skip
def test_numbers_of_what_is_no_shard_make_series(tmp_path, names):
    for number, name in enumerate(names):
        np.save(tmp_path / name, ROWS[number:])
    with pytest.raises(SourceFormatError, match="holds 2 series of names") as caught:
        rs.open_source(tmp_path)
    patterns = str(caught.value).split("give ")[1].split("'")[1::2]
    first, second, every = (rs.open_source(pattern).shape[0] for pattern in patterns)
    assert first + second == every


def test_files_that_bear_one_number_are_refused(tmp_path):
    for name in ("emb_1.npy", "emb_01.npy", "emb_2.npy"):
        np.save(tmp_path / name, ROWS[len(name) :])
    with pytest.raises(SourceFormatError, match=r"emb_0?1\.npy and emb_0?1\.npy, which bear one number"):
        rs.open_source(tmp_path)


def test_arrays_of_other_names_are_other_arrays(tmp_path):
    for number, name in enumerate(("text", "text", "image")):
        np.savez(tmp_path / f"emb_{number}.npz", **{name: ROWS + number})
    for source in (tmp_path, [tmp_path / f"emb_{number}.npz" for number in range(3)]):
        with pytest.raises(SourceFormatError, match=r"emb_2\.npz::image is the only array there, and .* it is text: "):
            rs.open_source(source)
    os.remove(tmp_path / "emb_2.npz")
    assert np.array_equal(rs.open_source(tmp_path).read(1000, 2000), ROWS + 1)


@pytest.mark.parametrize("names", [
    ["part-00000-of-00002.npy", "part-00001-of-00002.npy"],
    [f"part-0000{number}-3f2a9c10-77aa-4e11-9f00-0123456789ab-c000.npy" for number in (0, 1)],
    ["0a1b2c3d4e5f.npy", "ffe0dead1234.npy"],
])  # fmt: skip
def test_numbers_and_digests_in_names_make_no_series(tmp_path, names):
    for name in names:
        np.save(tmp_path / name, ROWS[: 9 + len(name)])
    assert len(rs.open_source(tmp_path).parts) == 2


@pytest.mark.parametrize("where", ["{}", "{}/*"])
def test_several_formats_are_refused_with_the_patterns_that_would_do(tmp_path, monkeypatch, where):
    from rankme_stream.sources import formats

    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, formats.Format("x", (".odd",), "none")))
    (write_shards(tmp_path / "dump", chaff=()) / "metadata.odd").write_bytes(b"")
    with pytest.raises(SourceFormatError, match=r"holds 11 \.npy files and 1 \.odd file, .*/\*\.npy' or '.*\*\.odd'"):
        rs.open_source(where.format(tmp_path / "dump"))


def test_a_folder_with_metadata_of_zarr_stays_zarr(tmp_path):
    array = zarr.create_array(tmp_path / "x.zarr", shape=(9, 2), dtype="f4")
    array[:] = 1
    np.save(tmp_path / "x.zarr" / "more.npy", ROWS)
    assert rs.open_source(tmp_path / "x.zarr").shape == (9, 2)
    zarr.create_array(tmp_path / "plain" / "inner", shape=(9, 2), dtype="f4", zarr_format=2)[:] = 1
    np.save(tmp_path / "plain" / "more.npy", ROWS)
    assert rs.open_source(f"{tmp_path}/plain::inner").shape == (9, 2)
    assert rs.open_source(tmp_path / "plain").shape == ROWS.shape


@pytest.mark.parametrize("name", ["shards", "shards [1]"])
def test_a_folder_in_a_folder_is_named_with_the_pattern_that_reads_its_files(tmp_path, name):
    write_shards(tmp_path / "outer" / name)
    with pytest.raises(
        SourceFormatError, match=r"holds no files of rows, but its folder does: .* \(11 files\)$"
    ) as caught:
        rs.open_source(tmp_path / "outer")
    (pattern,) = str(caught.value).split("'")[1::2]
    assert np.array_equal(rs.open_source(pattern).read(0, len(ROWS)), ROWS)


def test_several_folders_in_a_folder_are_named_with_patterns_for_one_and_for_all(tmp_path):
    for number in range(3):
        write_shards(tmp_path / "dump" / f"split={number}", ROWS + number, "part-{}.npy", chaff=())
    with pytest.raises(SourceFormatError, match=r"its folders do: give one of '.*' for all as one dump$") as caught:
        rs.open_source(tmp_path / "dump")
    one, *_, every = str(caught.value).split("'")[1::2]
    assert rs.open_source(one).shape == (1000, 8) and rs.open_source(every).shape == (3000, 8)


def test_folders_of_rows_and_of_labels_in_a_folder_are_named_with_their_patterns(tmp_path):
    write_shards(tmp_path / "dump" / "img_emb", chaff=())
    (tmp_path / "dump" / "metadata").mkdir()
    (tmp_path / "dump" / "metadata" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceFormatError, match=r"img_emb/\*\.npy' \(11 files\), '.*metadata/\*\.parquet' \(1 file\)$"):
        rs.open_source(tmp_path / "dump")


@pytest.mark.parametrize("pattern", ["*/*.npy", "**/*.npy", "split=1/*.npy"])
def test_folders_that_may_not_be_listed_are_no_folders_without_files(tmp_path, monkeypatch, pattern):
    for number in range(3):
        write_shards(tmp_path / f"split={number}", ROWS, chaff=())
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("split=1") and allowed(path, mode))
    with pytest.raises(SourcePermissionError, match=r"split=1 may not be read: check its permissions"):
        rs.open_source(tmp_path / pattern)


def test_links_are_followed_and_no_file_counts_twice(tmp_path):
    folder = write_shards(tmp_path / "dump")
    os.rename(folder / "img_emb_3.npy", tmp_path / "blob")
    os.symlink(tmp_path / "blob", folder / "img_emb_3.npy")
    assert rs.open_source(folder).shape == ROWS.shape
    os.symlink(folder / "img_emb_2.npy", folder / "img_emb_11.npy")
    with pytest.raises(UsageError, match="given twice"):
        rs.open_source(folder)
    os.remove(folder / "img_emb_2.npy")
    with pytest.raises(SourceNotFoundError, match=r"img_emb_\d+\.npy"):
        rs.open_source(folder)


def test_links_that_lead_in_circles_are_not_entered(tmp_path, monkeypatch):
    dump, began = write_shards(tmp_path / "top" / "dump"), time.perf_counter()
    for name in ("one", "two", "three"):
        (dump / name).symlink_to(tmp_path / "top", target_is_directory=True)
    (dump / ".hidden").mkdir()
    np.save(dump / ".hidden" / "img_emb_99.npy", ROWS)
    monkeypatch.chdir(tmp_path)
    for pattern in (f"{tmp_path}/**/*.npy", "**/*.npy", "top/**/**/img_emb_*", "**/dump/**/*[0-9].npy"):
        assert np.array_equal(rs.open_source(pattern).read(0, len(ROWS)), ROWS)
    assert time.perf_counter() - began < 5


def test_a_link_that_names_itself_is_refused_by_its_name(tmp_path):
    (write_shards(tmp_path / "dump") / "img_emb_11.npy").symlink_to("img_emb_11.npy")
    with pytest.raises(SourceError, match=r"img_emb_11\.npy cannot be"):
        rs.open_source(tmp_path / "dump")


def test_options_hold_for_every_shard(tmp_path):
    folder = write_shards(tmp_path / "dump")
    with pytest.raises(UsageError, match="one array"):
        rs.open_source(folder, scales="scales.npy")
    assert rs.open_source(folder, nodata=-1).stored.decoding.nodata == (-1,)
    with pytest.raises(SourceFormatError, match="holds one array"):
        rs.open_source(f"{folder}::column")


def test_numbers_that_names_skip_reach_to_the_number_of_all():
    names = [f"part-{number:05}-of-00007.npy" for number in (0, 1, 4)]
    assert absent_numbers(names) == [(2, 3), (5, 6)]
    assert absent_numbers([f"part-{number:05}-of-00003.npy" for number in range(3)]) == []


def test_a_thousand_shards_open_in_under_a_second(tmp_path):
    for number in range(1000):
        np.save(tmp_path / f"a{number}.npy", ROWS[:4] + number)
    rs.open_source(ROWS)
    began = time.process_time()
    source = rs.open_source(tmp_path)
    assert time.process_time() - began < 1.0 and source.shape == (4000, 8)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "dump")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="may not be read: check its permissions"):
        rs.open_source(folder)
