"""What an inspection says of dumps: every remark on one that shows it and not on one that does not, and its limits."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import SourceNotFoundError, UsageError
from rankme_stream.measuring.inspecting import block_sample
from rankme_stream.numerics import machine
from rankme_stream.results.inspection import Remark
from rankme_stream.sources import ArraySource
from tests.command_line import rankme, refused

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "inspection.schema.json").read_text(encoding="utf-8"))
N, D = 2000, 24


def ordinary(n_rows: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, D))


def changed(rows: np.ndarray, where: object, value: object) -> np.ndarray:
    rows[where] = value
    return rows


def in_clusters(*, is_sorted: bool) -> np.ndarray:
    labels = np.arange(N) % 10
    centres = np.random.default_rng(1).standard_normal((10, D))
    return centres[np.sort(labels) if is_sorted else labels] + 0.3 * ordinary()


def bfloat16_in_float32() -> np.ndarray:
    return (ordinary().astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def with_a_scale_a_row() -> np.ndarray:
    codes = np.random.default_rng(2).integers(-127, 128, (N, 64))
    scales = np.random.default_rng(3).uniform(0.001, 0.003, (N, 1))
    return (codes * scales).astype(np.float16)


def kinds(source: object, **options: object) -> dict[str, Remark]:
    found = rs.inspect(source, **options)
    jsonschema.validate(found.to_dict(), SCHEMA)
    assert json.loads(found.to_json())["remarks"] == found.to_dict()["remarks"]
    return {remark.kind: remark for remark in found.remarks}


def kinds_of(found: rs.Inspection) -> set[str]:
    return {remark.kind for remark in found.remarks}


def test_of_ordinary_rows_nothing_is_remarkable():
    assert kinds(ordinary()) == {}
    assert "Nothing remarkable" in str(rs.inspect(ordinary()))


@pytest.mark.parametrize(
    "kind, rows, evidence",
    [
        ("nonfinite_rows", changed(ordinary(), (7, 3), np.nan), "1 of the 2,000 rows read, the first is row 7"),
        ("huge_values", changed(ordinary(), (7, 3), 1e200), "1e+200"),
        ("zero_rows", changed(ordinary(), slice(5, 8), 0.0), "3 of the 2,000 rows read, the first is row 5"),
        ("constant_rows", changed(ordinary(), 9, -9999.0), "1 of the 2,000 rows read, the first is row 9"),
        ("duplicates", changed(ordinary(), 1500, ordinary()[30]), "such as rows 30 and 1,500"),
        ("few_rows", ordinary(20), "20 rows and 24 features"),
        ("unscaled_codes", (20 * ordinary()).astype(np.int8), "int8, and no scale is declared"),
        ("few_values", np.rint(4 * ordinary()) / 4, "48,000 numbers of float64 have"),
        ("quantised_rows", with_a_scale_a_row(), "levels at most"),
        ("narrower_type", bfloat16_in_float32(), "48,000 numbers of float32 are numbers of bfloat16"),
        ("narrower_type", ordinary().astype(np.float16).astype(np.float32), "numbers of float16"),
        ("narrower_type", ordinary().astype(np.float32).astype(np.float64), "numbers of float32"),
        ("float_bits", (ordinary().astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), "numbers of bfloat16"),
        ("float_bits", (0.05 * ordinary()).astype(np.float16).view(np.int16), "numbers of float16"),
        ("counting_features", np.column_stack([5 + np.arange(N), 1000 * ordinary()]), "feature 0 grows"),
        ("unit_rows", ordinary() / np.linalg.norm(ordinary(), axis=1)[:, None], "from 1 to 1"),
        ("uneven_lengths", changed(ordinary(), 4, 1e4 * ordinary()[4]), "times the median length"),
        ("alike_neighbours", in_clusters(is_sorted=True), "pairs of neighbours is 0.893, and that of all pairs 0.109"),
        ("zero_features", changed(ordinary(), (slice(None), slice(3, 6)), 0.0), "3 of 24 features are zero"),
        ("constant_features", changed(ordinary(), (slice(None), 5), 2.5), "feature 5 with 2.5"),
    ],
)
def test_rows_that_show_something_are_remarked_with_the_evidence_and_nothing_else(kind, rows, evidence):
    found = kinds(rows)
    others = {"uneven_lengths"} if kind in ("huge_values", "constant_rows") else set()
    assert set(found) == {kind} | others
    assert evidence in found[kind].evidence


def test_unsorted_clusters_float16_and_scaled_codes_are_not_remarked(tmp_path):
    shuffled = np.random.default_rng(4).permutation(in_clusters(is_sorted=False))
    assert kinds(shuffled) == {}
    assert kinds(ordinary().astype(np.float16)) == {}
    zarr.create_array(tmp_path / "a.zarr", data=(20 * ordinary()).astype(np.int8)).attrs["scale_factor"] = 0.5
    assert kinds(tmp_path / "a.zarr") == {}
    for integers in (np.abs(3000 * ordinary()).astype(np.uint16), (3000 * ordinary()).astype(np.int16)):
        assert kinds(integers) == {}
    assert kinds(np.random.default_rng(5).integers(0, 2**16, (N, D)).astype(np.uint16)) == {}


def test_what_is_remarked_is_refused_by_score_where_it_says_so():
    for rows in (changed(ordinary(), (7, 3), np.nan), changed(ordinary(), (7, 3), 1e200)):
        assert [one.kind for one in rs.inspect(rows).remarks if one.refuses]
        with pytest.raises(rs.RankMeError):
            rs.measure(rows)


def test_statistics_are_those_of_the_rows():
    rows = ordinary(500) + 0.5
    sample = rs.inspect(rows).sample
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows / lengths[:, None]
    assert sample["rows"] == 500
    assert list(sample["lengths"].values()) == pytest.approx(np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1)).tolist())
    pairs = (unit @ unit.T)[np.triu_indices(500, 1)]
    assert sample["cosines"]["mean"] == pytest.approx(pairs.mean())
    near = (unit[1:] * unit[:-1]).sum(axis=1)
    assert sample["cosines"]["neighbours"] == {"pairs": 499, "mean": pytest.approx(near.mean())}
    assert sample["largest_magnitude"] == np.abs(rows).max()


def test_cosines_of_neighbours_across_pieces_and_beside_rows_left_out(monkeypatch):
    from rankme_stream.measuring.inspecting import row_statistics

    monkeypatch.setattr(row_statistics, "VALUES_AT_ONCE", 7 * D)
    rows = changed(changed(ordinary(100), 13, 0.0), 41, np.nan)
    sample = rs.inspect(rows).sample
    there = np.delete(rows, (13, 41), axis=0)
    unit = there / np.linalg.norm(there, axis=1)[:, None]
    places = np.delete(np.arange(100), (13, 41))
    near = (unit[1:] * unit[:-1]).sum(axis=1)[np.diff(places) == 1]
    assert sample["cosines"]["neighbours"] == {"pairs": 95, "mean": pytest.approx(near.mean())}
    assert (sample["rows_zero"], sample["rows_nonfinite"]) == (1, 1)


# ------------------------------------------------------------------------------------------------------ storage


def test_missing_damaged_and_odd_chunks_are_remarked(tmp_path):
    path = tmp_path / "a.zarr"
    rows = ordinary(3000)
    rows[2400:2500] = 0.0
    zarr.create_array(path, data=rows, chunks=(100, D), compressors=zarr.codecs.ZstdCodec(checksum=True),
                      config={"write_empty_chunks": True})  # fmt: skip
    assert set(kinds(path)) == {"zero_rows", "odd_chunks"}
    (path / "c" / "3" / "0").unlink()
    chunk = path / "c" / "20" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    found = kinds(path)
    assert set(found) == {"missing_chunks", "unreadable", "odd_chunks", "zero_rows"}
    assert "1 chunk never written, the first c/3/0" in found["missing_chunks"].evidence
    assert "c/20/0" in found["unreadable"].evidence
    assert "which holds: zeros" in found["odd_chunks"].evidence or "unreadable" in found["odd_chunks"].evidence
    inspection = rs.inspect(path)
    assert inspection.integrity == {
        "checksum": "zstd", "chunks_missing": 1, "first_missing": "c/3/0", "rows_checked": 3000,
    }  # fmt: skip
    assert inspection.commands[0].command.endswith("--missing skip")


def test_parts_that_are_absent_longer_or_equal_are_remarked(tmp_path):
    for number in range(20):
        np.save(tmp_path / f"e_{number}.npy", ordinary(100 + 7 * (number == 3), seed=2 if number == 9 else number))
    (tmp_path / "e_6.npy").unlink()
    found = rs.inspect(str(tmp_path / "e_*.npy"))
    jsonschema.validate(found.to_dict(), SCHEMA)
    evidence = {kind: [one.evidence for one in found.remarks if one.kind == kind] for kind in kinds_of(found)}
    assert set(evidence) == {"absent_numbers", "odd_parts", "equal_parts", "duplicates"}
    assert evidence["absent_numbers"] == ["the names of the parts skip 6"]
    assert any("e_3.npy (107)" in text for text in evidence["odd_parts"])
    assert any("e_2.npy and e_9.npy" in text for text in evidence["odd_parts"])
    assert "such as e_9.npy and e_2.npy" in evidence["equal_parts"][0]


def test_parts_that_follow_each_other_with_a_short_last_one_are_not_remarked(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"e_{number}.npy", ordinary(100 if number < 3 else 10, seed=number))
    assert kinds(str(tmp_path / "e_*.npy")) == {}


def test_rows_that_do_not_fit_in_memory_are_said_to_be_and_not_read(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(2**20, 2**10), dtype="f4", chunks=(2**20, 2**10))
    found = rs.inspect(tmp_path / "a.zarr", memory_limit=2**30)
    assert {"memory", "missing_chunks"} >= {one.kind for one in found.remarks if one.refuses} >= {"memory"}
    assert found.sample is None and found.plan is None and found.full_pass is None
    assert "needs" in found.plan_refused
    jsonschema.validate(found.to_dict(), SCHEMA)
    assert "plan" in str(found)


def test_a_row_wider_than_the_memory_limit_takes_no_memory(tmp_path):
    """A sparse file of two rows of 2^34 features: statistics of the features alone would take 3 x 128 GiB."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros((2, 1), "f4")) | {"shape": (2, 2**34)}
    with open(tmp_path / "wide.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * 4 * 2**34)
    found = rs.inspect(tmp_path / "wide.npy", memory_limit=2**29)
    assert found.sample is None and found.plan is None
    assert "memory" in {one.kind for one in found.remarks}


def test_wide_rows_whose_matrix_does_not_fit_are_planned_as_a_sketch(tmp_path):
    zarr.create_array(tmp_path / "wide.zarr", shape=(9000, 8000), chunks=(200, 8000), dtype="f4")
    held = machine.limits(1, None).base_bytes  # by this process, after other tests
    found = rs.inspect(tmp_path / "wide.zarr", memory_limit=held + 450 * 2**20)
    assert found.plan["method"] == "frequent-directions" and found.plan_refused
    assert "--method frequent-directions --rank 256" in found.commands[0].command


# ------------------------------------------------------------------------------------------------------- limits


class Counting(ArraySource):
    """Rows of one value that take no memory, in chunks, and the number that were read."""

    def __init__(self, n_rows, n_features, chunk_rows):
        super().__init__(np.broadcast_to(np.ones(n_features, np.float32), (n_rows, n_features)))
        self.chunk_rows, self.n_read = chunk_rows, []

    def bounds(self, start, stop):
        first = start // self.chunk_rows * self.chunk_rows + self.chunk_rows
        return range(first, stop, self.chunk_rows)

    def read(self, start, stop, out=None):
        self.n_read.append((start, stop))
        return super().read(start, stop, out)

    def fingerprint(self, start, stop):
        return ""


def test_a_large_source_is_read_from_all_over_within_64_mb():
    source = Counting(10**9, 256, 4096)
    found = rs.inspect(source)
    assert found.sample["bytes_decoded"] <= block_sample.MOST_BYTES + 16_000_000
    starts = sorted(start for start, _ in source.n_read)
    assert starts[0] == 0 and starts[-1] > 0.99e9 and max(np.diff(starts)) < 0.2e9
    assert all(start % 4096 == 0 for start in starts)


def test_of_huge_chunks_one_is_decoded():
    source = Counting(10**9, 256, 10**6)
    found = rs.inspect(source)
    assert len(source.n_read) == 1 and found.sample["bytes_decoded"] == 10**6 * 256 * 4
    assert found.sample["rows"] < 10_000


def test_blocks_are_as_short_as_the_memory_limit_needs():
    class Costly(Counting):
        def read_memory(self, n_rows):
            return n_rows * 2**20

    source = Costly(10**6, 256, 1)
    left = 512 * 2**20
    found = rs.inspect(source, memory_limit=machine.resident_bytes() + left)
    assert found.sample["blocks"] > 1
    assert 10 < max(stop - start for start, stop in source.n_read) < 512


def test_a_slow_source_is_left_once_its_time_is_up(monkeypatch):
    monkeypatch.setattr(block_sample, "MOST_SECONDS", 0.0)
    assert rs.inspect(Counting(10**9, 256, 4096)).sample["blocks"] == 1


def test_few_rows_are_all_read_each_once():
    source = Counting(30_000, 64, 700)
    assert rs.inspect(source).sample["rows"] == 30_000
    assert sum(stop - start for start, stop in source.n_read) == 30_000


# ------------------------------------------------------------------------------------------------------ servers


class OnAServer(Counting):
    uri = "s3://bucket/dump.npy"

    def __init__(self):
        super().__init__(10**5, 64, 4096)
        self.uri = OnAServer.uri

    def reopen(self):
        return self.uri


def test_a_full_pass_over_a_server_has_its_requests_bytes_and_price():
    found = rs.inspect(OnAServer(), price_per_gb=0.09, price_per_1000_requests=0.4)
    n_bytes = 10**5 * 64 * 4
    assert found.remote["bytes"] == n_bytes
    assert found.remote["requests"] == -(-(10**5) // found.plan["block_rows"])
    assert found.remote["price"] == pytest.approx(0.09 * n_bytes / 1e9 + 0.4 * found.remote["requests"] / 1000)
    assert "requests and 25.6 MB, price" in str(found)
    assert rs.inspect(OnAServer()).remote["price"] is None
    assert rs.inspect(ordinary()).remote is None


# -------------------------------------------------------------------------------------------------- the command


def test_the_command_is_quoted_and_carries_the_options_given(tmp_path):
    path = tmp_path / "a b;$x.zarr"
    zarr.create_array(path, data=ordinary().reshape(20, 100, D), chunks=(5, 100, D))
    found = rs.inspect(str(path), features_axis=2)
    words = shlex.split(found.commands[0].command)
    assert words == ["rankme", "score", str(path), "--features-axis", "2"]
    done = rankme(*words[1:])
    assert done.returncode == 0, done.stderr


def test_several_sources_few_rows_and_arrays_have_the_commands_that_suit_them(tmp_path):
    names = [str(tmp_path / f"{number}.npy") for number in range(2)]
    for number, name in enumerate(names):
        np.save(name, ordinary(50, seed=number))
    commands = [one.command for one in rs.inspect(names).commands]
    assert commands[0] == shlex.join(["rankme", "score", "--concat", *names])
    assert commands[1] == f"{commands[0]} --population --tolerance 0.05"
    np.save(names[0], ordinary(20))
    assert rs.inspect(names[0]).commands[-1].command.endswith("--features-axis 0")
    assert rs.inspect(ordinary()).commands == []


def test_the_command_line_prints_a_table_or_json(tmp_path):
    np.save(tmp_path / "a.npy", changed(ordinary(), (7, 3), np.inf))
    done = rankme("inspect", "a.npy", "--price-per-gb", "0.09", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for words in ("a.npy\n.npy file on this machine: 2,000 rows x 24 features, float64, 384 kB", "--nonfinite skip",
                  "rankme score a.npy --nonfinite skip", "readers", f"zarr {zarr.__version__}"):  # fmt: skip
        assert words in done.stdout
    done = rankme("inspect", "a.npy", "--json", "-", cwd=tmp_path)
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert "--nonfinite skip" in document["remarks"][0]["advice"]


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path):
    path = tmp_path / "a\x1b[31m.npy"
    np.save(path, ordinary())
    assert "\x1b" not in rankme("inspect", path).stdout


def test_sources_and_options_that_do_not_suit_are_refused_in_one_line(tmp_path):
    refused(3, "there is no file", "inspect", tmp_path / "nope.npy")
    refused(2, "--price-per-gb", "inspect", tmp_path / "nope.npy", "--price-per-gb", "inf")
    with pytest.raises(SourceNotFoundError):
        rs.inspect(tmp_path / "nope.npy")
    with pytest.raises(UsageError, match="price_per_1000_requests"):
        rs.inspect(ordinary(), price_per_1000_requests=-1)
    with pytest.raises(UsageError, match="memory_limit"):
        rs.inspect(ordinary(), memory_limit=0)
