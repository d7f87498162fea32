"""Files that torch 2.13 wrote (tests/data/formats/make_torch.py) are read without torch, and nothing in them runs."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import rankme_stream as rs
from rankme_stream.errors import CorruptChunkError, SourceError, SourceFormatError
from rankme_stream.sources.array_options import NO_OPTIONS
from rankme_stream.sources.dense.torch_file import open_rows
from tests.bytes_file import ROWS, TORCH_FILES, BytesFile

TENSORS = TORCH_FILES / "tensors.pt"
READ = {
    "emb": ROWS, "transposed": ROWS, "slice": ROWS, "some": ROWS[2:5], "half": ROWS, "bfloat16": ROWS, "e4m3": ROWS,
    "e5m2": ROWS, "uint16": 2 * np.abs(ROWS), "parameter": ROWS, "attribute": ROWS, "inner.list.1": 2 * ROWS,
    "inner.7": 4 * ROWS,
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_tensors_are_read_to_the_same_values(name):
    source = rs.open_source(f"{TENSORS}::{name}")
    np.testing.assert_array_equal(source.stored.values(source.read(0, source.shape[0])), READ[name])
    np.testing.assert_array_equal(source.stored.values(source.read(1, 3)), READ[name][1:3])
    assert source.read(1, 1).shape == (0, READ[name].shape[1])
    assert rs.open_source(source.reopen()).shape == READ[name].shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("negated", "is a view that negates or conjugates its numbers"),
        ("quantized", "is a tensor that torch._utils._rebuild_qtensor makes, which is not read"),
        ("bool", "holds torch.BoolStorage, which is not read"),
        ("complex", "holds torch.ComplexFloatStorage, which is not read"),
        ("stepped", r"has shape \(7, 5\) and strides \(15, 3\), or is compressed"),
        ("expanded", r"has shape \(7, 5\) and strides \(0, 1\), or is compressed"),
        ("vector", r"has shape \(5,\); a non-empty \(rows, features\) array is needed"),
        ("numpy", r"holds no 'numpy': it holds emb \(7, 5\) float32"),
        ("inner", "holds no 'inner': it holds"),
    ],
)
def test_other_tensors_are_refused_with_the_reason(name, said):
    with pytest.raises(SourceFormatError, match=said):
        rs.open_source(f"{TENSORS}::{name}")


def test_a_file_of_one_tensor_needs_no_name():
    source = rs.open_source(TORCH_FILES / "tensor.pt")
    np.testing.assert_array_equal(source.read(0, 7), ROWS)
    assert source.reopen() == str(TORCH_FILES / "tensor.pt")
    with pytest.raises(SourceFormatError, match=r"holds one array: leave '::' and what follows out"):
        rs.open_source(f"{TORCH_FILES}/tensor.pt::emb")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("legacy.pt", r"write it again with torch.save\(torch.load\(path, weights_only=True\), path\)"),
        ("evil.pt", "it names os.getenv, which could run code"),
        ("script.pt", "is a model of TorchScript"),
    ],
)
def test_files_that_are_not_read_say_why(name, said):
    with pytest.raises(SourceFormatError, match=said):
        rs.open_source(TORCH_FILES / name)


def test_scales_lie_in_the_same_file():
    source = rs.open_source(TORCH_FILES / "scaled.pt::codes", scales="codes_scale")
    np.testing.assert_array_equal(source.read(0, 7), np.ones((7, 5)) * np.arange(7)[:, None] / 2)
    with pytest.raises(SourceFormatError, match=r"codes_scale beside it may be its scales"):
        rs.open_source(TORCH_FILES / "scaled.pt::codes")


def repacked(change, *, method=zipfile.ZIP_STORED) -> BytesFile:
    """Return the file of one tensor with members changed: a function from name and content to both, or None."""
    stream = io.BytesIO()
    with zipfile.ZipFile(TORCH_FILES / "tensor.pt") as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            kept = change(name.removeprefix("tensor/"), old.read(name))
            if kept is not None:
                new.writestr(*kept)
    return BytesFile(stream.getvalue(), "dump.pt")


def with_member(member: str, content: bytes | None):
    """Return a change that replaces the content of a member, or leaves it out."""

    def change(name: str, held: bytes):
        held_now = content if name == member else held
        return None if held_now is None else (f"tensor/{name}", held_now)

    return change


def with_pickle(old: bytes, new: bytes):
    return lambda name, held: (f"tensor/{name}", held.replace(old, new, 1) if name == "data.pkl" else held)


def test_a_big_endian_file_is_read():
    def swapped(name, held):
        held = {"byteorder": b"big", "data/0": ROWS.astype(">f4").tobytes()}.get(name, held)
        return f"tensor/{name}", held

    np.testing.assert_array_equal(open_rows(repacked(swapped), "", NO_OPTIONS).read(0, 7), ROWS)


def test_a_file_of_torch_1_lacks_some_members():
    def old(name, held):
        return (f"tensor/{name}", held) if name in ("data.pkl", "data/0", "version") else None

    np.testing.assert_array_equal(open_rows(repacked(old), "", NO_OPTIONS).read(0, 7), ROWS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (with_member("data/0", None), CorruptChunkError),
        (with_member("data/0", b"\0" * 139), CorruptChunkError),
        (with_member("data/0", b"\0" * 141), CorruptChunkError),
        (with_member("version", None), CorruptChunkError),
        (with_member("version", b"x"), CorruptChunkError),
        (with_member("byteorder", b"middle"), CorruptChunkError),
        (with_member("byteorder", b"little" * 100), SourceFormatError),
        (with_member(".storage_alignment", b""), CorruptChunkError),
        (with_member("data.pkl", None), SourceFormatError),
        (with_member("data.pkl", b""), SourceFormatError),
        (with_member("data.pkl", b"\x80\x02]q\x00."), SourceFormatError),
        (with_pickle(b"K#", b"K$"), CorruptChunkError),  # numbers that are stored
        (with_pickle(b"K\x00K\x07", b"K\x01K\x07"), CorruptChunkError),  # the first number of the view
        (with_pickle(b"K\x07K\x05", b"K\x08K\x05"), CorruptChunkError),  # its shape
        (with_pickle(b"K\x07K\x05", b"K\x07K\x06"), SourceFormatError),
        (with_pickle(b"FloatStorage", b"DoubleStorage"), CorruptChunkError),
        (with_pickle(b"FloatStorage", b"EvilStorage"), SourceFormatError),
        (with_pickle(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), SourceFormatError),
        (with_pickle(b"ctorch._utils\n_rebuild_tensor_v2", b"cposix\nsystem"), SourceFormatError),
        (with_pickle(b"storage", b"storagf"), CorruptChunkError),
        (with_pickle(b"cpu", b"gpu"), CorruptChunkError),
        (lambda name, held: (f"{'other' if name == 'version' else 'tensor'}/{name}", held), CorruptChunkError),
        (lambda name, held: (name, held), SourceFormatError),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change, error):
    assert open_rows(repacked(lambda name, held: (f"tensor/{name}", held)), "", NO_OPTIONS).shape == (7, 5)
    with pytest.raises(SourceError) as caught:
        open_rows(repacked(change), "", NO_OPTIONS)
    assert type(caught.value) is error


def test_a_file_that_was_packed_again_is_refused():
    with pytest.raises(SourceFormatError, match=r"is compressed"):
        open_rows(repacked(lambda name, held: (f"tensor/{name}", held), method=zipfile.ZIP_DEFLATED), "", NO_OPTIONS)


def test_a_checkpoint_by_another_name_is_known_by_its_first_bytes(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(TENSORS.read_bytes())
    np.testing.assert_array_equal(rs.open_source(f"{tmp_path}/pytorch_model.bin::emb").read(0, 7), ROWS)


def tensor_under(key: bytes) -> BytesFile:
    """Return a file of a dict that holds one tensor under a key, which is given as the pickle holds it."""
    held = io.BytesIO()
    with zipfile.ZipFile(TORCH_FILES / "tensor.pt") as archive, zipfile.ZipFile(held, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("/data.pkl"):
                content = b"\x80\x02}" + key + content.removeprefix(b"\x80\x02").removesuffix(b".") + b"s."
            changed.writestr(name, content)
    return BytesFile(held.getvalue(), "t.pt")


def test_a_key_of_half_a_surrogate_pair_names_a_tensor():
    source = open_rows(tensor_under(b"X\x03\x00\x00\x00\xed\xa0\x80"), "\ud800", NO_OPTIONS)
    assert len(source.fingerprint(0, 7)) == 32
    np.testing.assert_array_equal(source.read(0, 7), ROWS)


def test_a_key_that_is_an_endless_number_is_refused():
    with pytest.raises(SourceFormatError, match="it has the operation LONG4"):
        open_rows(tensor_under(b"\x8b\x00\x08\x00\x00" + b"\x01" * 2048), "", NO_OPTIONS)
