"""A failure at any read or write ends in the right answer or a named error, and the checkpoint stays usable."""

from __future__ import annotations

import builtins
import errno
import os
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from zarr.codecs import Crc32cCodec, ZstdCodec

import rankme_stream as rs
from rankme_stream.errors import CheckpointWarning, CorruptChunkError, SourceError, StateError
from rankme_stream.passes.state import checkpoint, state_file
from rankme_stream.sources.zarr import stored_values
from tests.dumps import rows_like, same_bits, store

N_ROWS = 100_000


class Nth:
    """Counts calls of any thread and picks out the n-th; none for n = None."""

    def __init__(self, n: int | None = None) -> None:
        self.n, self.calls = n, 0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self.calls += 1
            return self.calls - 1 == self.n


def raises(read, file, buffers, place):
    raise OSError(errno.EIO, "Input/output error")


def reads_short(read, file, buffers, place):
    return read(file, [buffers[0][: len(buffers[0]) // 2]], place)


def flips_a_bit(read, file, buffers, place):
    n_bytes = read(file, buffers, place)
    np.frombuffer(buffers[0], np.uint8)[n_bytes // 2] ^= 4
    return n_bytes


def is_slow(read, file, buffers, place):
    time.sleep(0.005)
    return read(file, buffers, place)


def is_gone(read, file, buffers, place):
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")


READ_FAULTS = [raises, reads_short, flips_a_bit, is_slow, is_gone]
LAYOUTS = {
    "checked": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "shards": {"shards": (30_000, 4), "compressors": [ZstdCodec(), Crc32cCodec()]},
}


def patch_reads(monkeypatch, nth: Nth, fault) -> None:
    def preadv(file, buffers, place):
        return fault(os.preadv, file, buffers, place) if nth() else os.preadv(file, buffers, place)

    monkeypatch.setattr(stored_values, "os", SimpleNamespace(**vars(os) | {"preadv": preadv}))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("fault", READ_FAULTS)
def test_a_fault_at_any_read_never_gives_a_wrong_number(tmp_path, monkeypatch, fault, layout):
    """A read that fails once is done again; the store itself is sound."""
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=10_000, **layout)
    wanted = rs.measure(source)
    counted = Nth()
    patch_reads(monkeypatch, counted, fault)
    rs.measure(source)
    assert counted.calls >= 10
    for n in range(counted.calls):
        nth = Nth(n)
        patch_reads(monkeypatch, nth, fault)
        assert same_bits(rs.measure(source), wanted)
        assert nth.calls > n


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("deed", ["flip", "cut", "empty", "remove"])
def test_a_fault_that_stays_is_named_and_the_checkpoint_goes_on_when_it_is_mended(tmp_path, deed, layout):
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=10_000, **layout)
    wanted = rs.measure(source)
    chunks = sorted(path for path in (source / "c").rglob("*") if path.is_file())
    assert len(chunks) >= 4
    for number, chunk in enumerate(chunks):
        kept = tmp_path / f"kept-{number}"
        whole, status = chunk.read_bytes(), chunk.stat()
        if deed == "remove":
            chunk.unlink()
        else:
            broken = bytearray(whole)
            broken[len(broken) // 2] ^= 16
            chunk.write_bytes({"flip": broken, "cut": whole[: len(whole) // 2], "empty": b""}[deed])
            os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(SourceError, match=r"does not decode|is missing"):
            rs.measure(source, checkpoint=kept, workers=1)
        chunk.write_bytes(whole)
        os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert same_bits(rs.measure(source, checkpoint=kept), wanted)


class Torn(BaseException):
    """The process dies here."""


def fails(write, data):
    raise OSError(errno.EIO, "Input/output error")


def is_full(write, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def writes_half(write, data):
    write(memoryview(data)[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def writes_a_flipped_bit(write, data):
    return write(bytes([data[0] ^ 1]) + bytes(data[1:]))


def writes_slowly(write, data):
    time.sleep(0.005)
    return write(data)


WRITE_FAULTS = [fails, is_full, writes_half, writes_a_flipped_bit, writes_slowly]


def patch_writes(monkeypatch, nth: Nth, fault) -> None:
    def opened(path, mode="r", **options):
        file = builtins.open(path, mode, **options)  # noqa: SIM115 - closed by the context that is returned
        if "w" not in mode:
            return file
        write = file.write
        wrapped = SimpleNamespace(
            write=lambda data: fault(write, data) if nth() else write(data), flush=file.flush, fileno=file.fileno
        )

        class Context:
            def __enter__(self):
                return wrapped

            def __exit__(self, *_):
                file.close()

        return Context()

    monkeypatch.setattr(state_file, "open", opened, raising=False)


@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_a_fault_at_any_write_leaves_the_result_and_a_checkpoint_of_use(tmp_path, monkeypatch, fault):
    """Rows written before are kept; a file that is damaged all the same is refused, not believed."""
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=10_000)
    kept = tmp_path / "kept"
    rs.measure(source, checkpoint=kept, rows=(0, 70_000))
    before = kept.read_bytes()
    wanted = rs.measure(source)
    counted = Nth()
    patch_writes(monkeypatch, counted, lambda write, data: write(data))
    rs.measure(source, checkpoint=kept)
    assert counted.calls > 8
    refused = 0
    for n in range(counted.calls):
        kept.write_bytes(before)
        patch_writes(monkeypatch, Nth(n), fault)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert same_bits(rs.measure(source, checkpoint=kept), wanted)
        if caught:
            assert caught[0].category is CheckpointWarning
            assert kept.read_bytes() == before
        patch_writes(monkeypatch, Nth(), fault)
        try:
            assert same_bits(rs.measure(source, checkpoint=kept), wanted)
        except StateError:
            refused += 1
        assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []
    assert refused == (counted.calls if fault is writes_a_flipped_bit else 0)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_death_before_the_file_takes_its_place_leaves_the_one_before(tmp_path, monkeypatch, step):
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=10_000)
    kept = tmp_path / "kept"
    rs.measure(source, checkpoint=kept, rows=(0, 70_000))
    before = kept.read_bytes()

    def die(*_):
        raise Torn

    if step == "fsync":
        monkeypatch.setattr(state_file.os, "fsync", die)
    else:
        monkeypatch.setattr(state_file.os, "replace", die)
    with pytest.raises(Torn):
        rs.measure(source, checkpoint=kept)
    monkeypatch.undo()
    assert kept.read_bytes() == before
    assert same_bits(rs.measure(source, checkpoint=kept), rs.measure(source))


def test_a_disk_that_fills_while_a_pass_runs_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PERIOD_S", 0.0)
    monkeypatch.setattr(checkpoint, "_PERIODS_A_WRITE", 0.0)
    source = store(tmp_path / "a.zarr", rows_like(600_000, 4), chunk=10_000)
    rs.measure(source, checkpoint=tmp_path / "kept", rows=(0, 100_000))
    full = Nth(0)
    patch_writes(monkeypatch, full, is_full)
    found = rs.measure(source, checkpoint=tmp_path / "kept", progress=lambda done: time.sleep(0.01))
    assert full.calls > 1
    assert same_bits(rs.measure_state(rs.load_state(tmp_path / "kept")), found)


def test_a_result_says_whether_the_store_checks_its_chunks(tmp_path):
    """A flipped bit of a raw chunk cannot be seen by anybody: the result says that nothing vouches for the values."""
    raw = rs.measure(store(tmp_path / "raw.zarr", rows_like(1000, 4), compressors=None))
    checked = rs.measure(store(tmp_path / "checked.zarr", rows_like(1000, 4), **LAYOUTS["checked"]))
    assert (raw.integrity, checked.integrity) == ("none", "crc32c")


def test_an_error_of_a_chunk_names_it(tmp_path):
    source = store(tmp_path / "a.zarr", rows_like(N_ROWS, 4), chunk=10_000, **LAYOUTS["checked"])
    chunk = source / "c" / "7" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(CorruptChunkError, match=r"c/7/0 .* \(rows 70,000-80,000\)"):
        rs.measure(source)
