"""The command as people run it: a process, its exit code, its two streams."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import zarr

import rankme_stream as rs
from tests.command_line import RANKME, rankme, refused
from tests.result_schema import SCHEMA

BUNDLED = Path(rs.__file__).parent / "cli" / "data" / "minilm-docstrings-4096.zarr"


def store(path: Path, n_rows: int = 4000, n_features: int = 8, **layout: object) -> zarr.Array:
    rows = np.random.default_rng(5).standard_normal((n_rows, n_features)).astype(np.float32)
    array = zarr.create_array(path, shape=rows.shape, dtype=rows.dtype, **({"chunks": (500, n_features)} | layout))
    array[:] = rows
    return array


def test_json_on_stdout_is_the_schema_and_nothing_else():
    done = rankme("score", f"{BUNDLED}::embeddings", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    assert result["rows_read"] == 4096
    assert result["measured"]["peak_bytes"] <= result["plan"]["predicted_peak_bytes"]


def test_every_option_of_a_pass_gives_the_schema(tmp_path):
    store(tmp_path / "a.zarr")
    for options in (
        ["--normalize", "--dims", "2,8"], ["--precision", "float32"], ["--precision", "auto"], ["--method", "tsqr"],
    ):  # fmt: skip
        done = rankme("score", tmp_path / "a.zarr", "--json", "-", *options)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        jsonschema.validate(result, SCHEMA)
        for estimate in result["estimates"].values():
            assert estimate["value"] is None or estimate["lower"] <= estimate["value"] <= estimate["upper"]
    done = rankme("score", tmp_path / "a.zarr", "--normalize", "--dims", "2,8")
    assert all(text in done.stdout for text in ("Unit rows", "First 2 features", "First 8 features", "vendi"))


def test_a_tolerance_that_is_not_met_exits_4_with_the_result_printed_and_written(tmp_path):
    out = tmp_path / "result.json"
    done = rankme("score", f"{BUNDLED}::embeddings", "--method", "gram", "--tolerance", "1e-12", "--json", out)
    assert done.returncode == 4
    assert re.fullmatch(r"rankme: error: [^\n]+wider than the tolerance 1e-12[^\n]+\n", done.stderr), done.stderr
    assert "rankme" in done.stdout and "wider than the tolerance" in done.stdout
    result = json.loads(out.read_text())
    jsonschema.validate(result, SCHEMA)
    assert result["tolerance_met"] is False
    again = rankme("score", f"{BUNDLED}::embeddings", "--tolerance", "1e-10", "--json", out)
    assert again.returncode == 0, again.stderr
    assert [attempt["method"] for attempt in json.loads(out.read_text())["passes"]] == ["gram", "tsqr"]


def test_numbers_read_back_as_the_same_double(tmp_path):
    rows = np.random.default_rng(0).standard_normal((300, 6))
    measurement = rs.measure(rows)
    again = json.loads(measurement.to_json())
    assert again["estimates"]["rankme"]["value"] == measurement.rankme.value
    assert again["spectrum"]["singular_values"] == measurement.spectrum.singular_values.tolist()
    jsonschema.validate(again, SCHEMA)


def test_a_result_without_values_meets_the_schema():
    jsonschema.validate(json.loads(rs.measure(np.zeros((3, 1))).to_json()), SCHEMA)


def test_the_table_of_a_result_file_is_the_table_of_the_pass(tmp_path):
    done = rankme("score", f"{BUNDLED}::embeddings", "--json", tmp_path / "r.json")
    assert "rankme" in done.stdout
    shown = rankme("show", tmp_path / "r.json")
    assert shown.stdout.strip() == done.stdout.strip()


def test_plan_reads_metadata_only(tmp_path):
    store(tmp_path / "s.zarr")
    shutil.rmtree(tmp_path / "s.zarr" / "c")
    done = rankme("plan", tmp_path / "s.zarr")
    assert done.returncode == 0, done.stderr
    assert "segments" in done.stdout
    assert "predicted" in done.stdout


def test_a_plan_of_a_sample_says_what_its_first_look_opens(tmp_path):
    store(tmp_path / "s.zarr", 4000, 16)
    shutil.rmtree(tmp_path / "s.zarr" / "c")
    done = rankme("plan", tmp_path / "s.zarr", "--sample")
    assert "first look  448 units, about 8 chunks opened, 0.2 MiB decoded" in done.stdout
    rare = rankme("plan", tmp_path / "s.zarr", "--sample", "--rare", "5%", "--json", "-")
    assert json.loads(rare.stdout)["first_look"] == {
        "rows": 160, "units": 160, "chunks": 8, "bytes_decoded": 256_000, "price": None
    }  # fmt: skip
    assert "first_look" not in json.loads(rankme("plan", tmp_path / "s.zarr", "--json", "-").stdout)


def test_a_plan_for_a_tolerance_says_how_many_rows_it_takes_and_what_they_cost(tmp_path):
    store(tmp_path / "s.zarr", 4000, 16)
    priced = "--tolerance", "0.05", "--price-per-gb", "1000"
    done = rankme("plan", tmp_path / "s.zarr", *priced)
    assert "rows needed for a half-width of 5 % of RankMe of all 4,000 rows, 95 %, as an expectation:" in done.stdout
    assert re.search(r"448 rows, 28 a feature, if all singular values are equal\n", done.stdout)
    assert re.search(r"\n +rows  a feature  \+- equal  \+- k\^-1/2  \+- k\^-1  chunks  decoded  price\n", done.stdout)
    assert re.search(r"\n +4,000 +250 +0 % +0 % +0 % +8  0\.2 MiB +0\.26\n", done.stdout)
    piloted = rankme("plan", tmp_path / "s.zarr", *priced, "--pilot", "--population", "--json", "-")
    needed = json.loads(piloted.stdout)["rows_needed"]
    assert (needed["population"], needed["pilot"]["rows"]) == (True, 64)
    assert list(needed["rows"]) == ["pilot"]
    shown = rankme("plan", tmp_path / "s.zarr", *priced, "--pilot").stdout
    assert "pilot: 64 rows read, in 64 random units, about 8 chunks opened" in shown
    refused(2, "--pilot belongs to --tolerance", "plan", tmp_path / "s.zarr", "--pilot")
    refused(2, "--price-per-gb", "plan", tmp_path / "s.zarr", "--tolerance", "0.1", "--price-per-gb", "-1")


def test_demo_and_version_run():
    assert "4,096 of 4,096 rows" in rankme("demo").stdout
    assert rankme("--version").stdout.strip().endswith(rs.__version__)
    assert rankme("demo", "--quiet").stdout == ""


def test_several_sources_give_a_line_each_and_the_highest_code(tmp_path):
    store(tmp_path / "good.zarr")
    done = rankme("score", tmp_path / "good.zarr", tmp_path / "absent.zarr", "--json", "-")
    assert done.returncode == 3
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["rows_read"] == 4000
    assert second["error"]["exit"] == 3
    jsonschema.validate(second, SCHEMA)


def test_a_file_that_does_not_exist_is_named(tmp_path):
    refused(3, "absent.zarr", "score", tmp_path / "absent.zarr")
    refused(3, "absent.npy", "score", tmp_path / "absent.npy")
    refused(3, "absent.json", "show", tmp_path / "absent.json")


def test_a_group_lists_the_arrays_inside():
    assert "embeddings" in refused(3, "group", "score", BUNDLED)


def test_shapes_and_types_without_a_spectrum_are_refused(tmp_path):
    for name, array in {
        "flat": np.zeros(5),
        "cube": np.zeros((2, 3, 4)),
        "empty": np.zeros((0, 4)),
        "text": np.array([["a", "b"]]),
        "complex": np.zeros((2, 2), dtype=complex),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        refused(3, name, "score", tmp_path / f"{name}.npy")
    for name, shape in {"flat": (5,), "cube": (2, 3, 4), "empty": (0, 4)}.items():
        zarr.create_array(tmp_path / f"{name}.zarr", shape=shape, dtype="f4")
        refused(3, name, "score", tmp_path / f"{name}.zarr")


def test_a_pickle_is_never_opened(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[{}, 1]], dtype=object), allow_pickle=True)
    refused(3, "objects.npy", "score", tmp_path / "objects.npy")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps([1, 2]))
    refused(3, "bare.npy", "score", tmp_path / "bare.npy")


def test_rows_that_are_not_finite_are_counted_and_placed(tmp_path):
    array = store(tmp_path / "s.zarr")
    array[[1203, 1204], 0] = np.array([np.nan, np.inf])
    refused(3, r"row 1,203 is not finite \(2 such rows", "score", tmp_path / "s.zarr")
    result = json.loads(rankme("score", tmp_path / "s.zarr", "--nonfinite", "skip", "--json", "-").stdout)
    assert result["rows_read"] == 3998
    assert result["audit"]["rows_nonfinite"] == 2


def test_a_deleted_chunk_is_named_and_may_be_skipped_or_filled(tmp_path):
    store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/c/3/0").unlink()
    refused(3, r"chunk c/3/0 \(rows 1,500-1,999\) is missing", "score", tmp_path / "s.zarr")
    for policy, n_rows in (("skip", 3500), ("fill", 4000)):
        result = json.loads(rankme("score", tmp_path / "s.zarr", "--missing", policy, "--json", "-").stdout)
        assert result["rows_read"] == n_rows
        assert (result["audit"]["rows_missing"], result["audit"]["chunks_missing"]) == (500, 1)


def test_a_truncated_chunk_is_named(tmp_path):
    store(tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/c/2/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    refused(3, r"c/2/0", "score", tmp_path / "s.zarr")


def test_a_flipped_byte_under_a_checksum_is_found(tmp_path):
    store(tmp_path / "s.zarr", compressors=[zarr.codecs.Crc32cCodec()])
    chunk = tmp_path / "s.zarr/c/2/0"
    damaged = bytearray(chunk.read_bytes())
    damaged[100] ^= 1
    chunk.write_bytes(damaged)
    refused(3, r"c/2/0", "score", tmp_path / "s.zarr")


def test_absurd_chunks_and_a_small_limit_are_refused_before_the_first_read(tmp_path):
    store(tmp_path / "s.zarr")
    assert "give --memory" in refused(4, "limit is 10 MiB", "score", tmp_path / "s.zarr", "--memory", "10MiB")
    metadata = tmp_path / "s.zarr/zarr.json"
    text = metadata.read_text()
    described = json.loads(text)
    described["chunk_grid"]["configuration"]["chunk_shape"] = [10**15, 8]
    metadata.write_text(json.dumps(described))
    refused(4, "chunks", "score", tmp_path / "s.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_said(tmp_path):
    store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/c/2/0").chmod(0)
    refused(3, "permission", "score", tmp_path / "s.zarr")


def test_outputs_that_cannot_be_written_are_refused_or_reported(tmp_path):
    store(tmp_path / "s.zarr")
    refused(5, "does not exist", "score", tmp_path / "s.zarr", "--json", tmp_path / "no" / "r.json")
    done = rankme("score", tmp_path / "s.zarr", "--json", "/dev/full")
    assert done.returncode == 5
    assert "rankme" in done.stdout  # the table is not lost with the file
    assert "/dev/full cannot be written: No space left on device; free space, or write elsewhere" in done.stderr
    with open("/dev/full", "w") as full:
        done = subprocess.run([*RANKME, "score", tmp_path / "s.zarr"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5
    assert "stdout" in done.stderr


def test_wrong_usage_exits_2(tmp_path):
    refused(2, "not a size", "score", "x", "--memory", "lots")
    refused(2, "not a row range", "score", "x", "--rows", "5")
    refused(2, "svd", "score", "x", "--method", "svd")
    refused(2, "--samples", "score", "x", "--samples")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_end_promptly_with_their_code(number, code, tmp_path):
    big = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float16, shape=(2_000_000, 512))
    big[::4096] = 1.0
    del big
    command = [*RANKME, "score", tmp_path / "big.npy", "--checkpoint", tmp_path / "kept"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "kept").exists():  # made when the pass begins
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch(r"rankme: error: [^\n]+kept holds what was read: the same command goes on from there\n", stderr)
    assert rs.load_state(tmp_path / "kept").missing  # promptly: before the pass, which takes far longer, ended


def test_parts_are_merged_shown_and_named_when_they_are_missing(tmp_path):
    store(tmp_path / "a.zarr", n_rows=150_000)
    for part in (2, 0, 1):
        done = rankme("segment", tmp_path / "a.zarr", "--part", f"{part}/3", "--state", tmp_path / f"{part}.state")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"part {part}/3" in done.stdout
    refused(3, "rows 65,536-131,071 of .* are in none", "merge", tmp_path / "0.state", tmp_path / "2.state")
    states = [tmp_path / f"{part}.state" for part in range(3)]
    whole = rankme("merge", *states, "--state", tmp_path / "whole.state", "--json", tmp_path / "whole.json")
    wanted = json.loads(rankme("score", tmp_path / "a.zarr", "--json", "-").stdout)
    found = json.loads((tmp_path / "whole.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert (found["estimates"], found["spectrum"]) == (wanted["estimates"], wanted["spectrum"])
    assert rankme("show", tmp_path / "whole.state").stdout.splitlines()[3:] == whole.stdout.splitlines()[3:-1]
    assert "65,536 of 150,000 read" in rankme("show", tmp_path / "0.state").stdout
    too_wide = rankme("merge", *states, "--tolerance", "1e-14")
    assert too_wide.returncode == 4
    assert "--method tsqr" in too_wide.stderr
    refused(2, "not a part", "segment", tmp_path / "a.zarr", "--part", "3/3", "--state", tmp_path / "x")


def test_a_batch_writes_each_result_as_it_ends_and_keeps_a_checkpoint_each(tmp_path):
    for name in "ab":
        store(tmp_path / f"{name}.zarr")
    sources = [tmp_path / "a.zarr", tmp_path / "absent.zarr", tmp_path / "b.zarr"]
    output = tmp_path / "all.jsonl"
    done = rankme("score", *sources, "--json", output, "--checkpoint", tmp_path / "kept", "--quiet")
    assert done.returncode == 3
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [("error" in line, line["source"]["uri"]) for line in lines] == [
        (source.stem == "absent", str(source)) for source in sources
    ]
    assert len(list((tmp_path / "kept").iterdir())) == 2
    found = dict(rs.measure_each(sources, checkpoint=tmp_path / "kept"))
    assert found[sources[0]].rankme.value == lines[0]["estimates"]["rankme"]["value"]
    assert isinstance(found[sources[1]], rs.RankMeError)
    with pytest.raises(rs.RankMeError, match="is a file"):
        raise next(iter(rs.measure_each(sources, checkpoint=output)))[1]


@pytest.mark.parametrize("deed", ["delete", "rewrite"])
def test_a_chunk_changed_during_the_pass_is_refused(deed, tmp_path):
    store(tmp_path / "s.zarr", n_rows=200_000)
    chunk = tmp_path / "s.zarr/c/2/0"
    body = chunk.read_bytes()

    def change(progress):
        if progress.rows_done and chunk.exists() and not done.is_set():
            done.set()
            chunk.unlink()
            if deed == "rewrite":
                chunk.write_bytes(body)

    done = threading.Event()
    with pytest.raises(rs.RankMeError, match=r"changed while it was read|missing"):
        rs.measure(tmp_path / "s.zarr", progress=change)
    assert done.is_set()


def test_one_row_is_no_plural_an_empty_label_is_seen_and_lidar_without_groups_says_why(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 2))
    rows[2] = 0.0
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "labels.npy", np.array(["", "b", "c"]))
    shown = rankme("score", tmp_path / "a.npy", "--group-by", tmp_path / "labels.npy").stdout
    assert re.search(r"^  '' .* 1 row$", shown, re.MULTILINE)
    assert "  1 row zero throughout" in shown and "1 rows" not in shown
    assert "LiDAR uses no group: it takes those of two rows or more, and no group has so many." in shown
    refused(3, r"\(1 such row where reading stopped\)", "score", tmp_path / "a.npy", "--zeros", "error")


def test_a_plan_says_what_the_numbers_mean_and_how_many_arrays_there_are(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"a_{number}.npy", np.ones((40, 4), "i1"))
    arguments = (f"{tmp_path}/a_*.npy", "--decode", "power:2:127")
    planned, done = rankme("plan", *arguments), rankme("score", *arguments, "--verbose")
    said = "values: sign(int8) * |int8 / 127|^2", "3 arrays as one, a_0.npy to a_2.npy"
    assert all(line in text for line in said for text in (planned.stdout, done.stdout, done.stderr))
    assert rankme("score", *arguments, "--verbose", "--quiet").stderr == ""


def test_help_speaks_of_the_options_of_the_command_alone():
    assert "--concat" not in rankme("compare", "--help").stdout
    for command in ("score", "plan", "segment"):
        assert "SOURCE..." in rankme(command, "--help").stdout.partition("\n\n")[0]
