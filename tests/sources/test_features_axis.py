"""The axis of the features is what the caller says, then what the names of the axes say, then the last of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import LimitError, SourceFormatError, UsageError
from rankme_stream.numerics.devices.device import Adopted
from rankme_stream.sources import ArraySource, open_source
from rankme_stream.sources.features_axis import axis_of_features
from tests.command_line import rankme, refused
from tests.toy_device import TOY

ROWS = np.random.default_rng(5).standard_normal((300, 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("wanted", "axis"),
    [("band", 1), (1, 1), ("1", 1), (-1, 3), ("-4", 0), ("time", 0), ("2", 2), (None, None)],
)
def test_an_axis_is_found_by_name_or_number(wanted: Any, axis: int | None) -> None:
    names, shape = ["time", "band", None, "x"], (3, 4, 5, 6)
    if axis is None:
        with pytest.raises(SourceFormatError, match=r'0: time \(3\), 1: band \(4\), 2: unnamed \(5\).*="band"'):
            axis_of_features(wanted, shape, names, "a.zarr")
    else:
        assert axis_of_features(wanted, shape, names, "a.zarr") == axis


@pytest.mark.parametrize("wanted", ["height", 4, -5, "4", "", "1.5", "x", "10000000000000000000000"])
def test_an_axis_that_is_not_there_is_refused_with_those_that_are(wanted: Any) -> None:
    with pytest.raises(UsageError, match=r"0: time \(3\), .* 3: x \(6\)"):
        axis_of_features(wanted, (3, 4, 5, 6), ["time", "band", "x", "x"], "a.zarr")  # two are called x


def test_a_name_of_two_axes_is_refused_and_their_numbers_are_wanted() -> None:
    with pytest.raises(UsageError, match="features_axis names 2 of them: band; give 0, 1 or 2"):
        axis_of_features("band", (3, 4, 5), ["band", "band", "y"], "a.zarr")


@pytest.mark.parametrize("names", [None, [], ["a"], [None] * 3])
def test_axes_without_names_are_numbered(names: Any) -> None:
    with pytest.raises(SourceFormatError, match=r"shape \(3, 4, 5\), without names .* features_axis 0, 1 or 2;"):
        axis_of_features(None, (3, 4, 5), names, "a.zarr")
    assert axis_of_features(None, (3, 4), names, "a.zarr") == 1


FEATURES = ["feature", "Features", "BAND", "channels", "embedding_dim", "emb", "hidden_size", "dim", "n_features"]
ROW_NAMES = ["sample", "obs", "pixel", "time", "n_obs"]


@pytest.mark.parametrize("feature", FEATURES)
def test_names_that_put_the_features_first_are_refused_with_both_remedies(feature: str) -> None:
    remedies = f'features_axis="{feature}", or features_axis=1'
    for other in (*ROW_NAMES, "whatever", None, "dim_1"):
        with pytest.raises(SourceFormatError, match=remedies):
            axis_of_features(None, (500, 60), [feature, other], "a.zarr")
        assert axis_of_features(None, (500, 60), [other, feature], "a.zarr") == 1
    assert axis_of_features(1, (500, 60), [feature, "sample"], "a.zarr") == 1
    assert axis_of_features(feature, (500, 60), [feature, "sample"], "a.zarr") == 0


@pytest.mark.parametrize(
    "names", [("x", "y"), ("dim_0", "dim_1"), ("obs", "var"), ("cell", "gene"), ("sample", "time")]
)
def test_other_names_leave_the_features_last(names: tuple[str, str]) -> None:
    for shape in ((500, 60), (60, 500)):
        assert axis_of_features(None, shape, names, "a.zarr") == 1


@pytest.mark.parametrize("names", [("band", "embedding"), ("code", "sample"), (None, "pixels")])
def test_fewer_rows_than_features_with_doubtful_names_are_refused(names: tuple[str | None, str]) -> None:
    assert axis_of_features(None, (500, 60), names, "a.zarr") == 1
    with pytest.raises(SourceFormatError, match=r"fewer rows than features.*features_axis=.*, or features_axis=1"):
        axis_of_features(None, (60, 500), names, "a.zarr")


@pytest.mark.parametrize("where", ["dimension_names", "_ARRAY_DIMENSIONS"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_names_are_read_from_either_place(tmp_path: Path, where: str, zarr_format: int) -> None:
    if zarr_format == 2 and where == "dimension_names":
        pytest.skip("zarr v2 has no such field")
    names = ["feature", "sample"]
    given: dict[str, Any] = {where: names} if where == "dimension_names" else {"attributes": {where: names}}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(7, 300), chunks=(7, 50), dtype="f4", zarr_format=zarr_format, **given
    )
    array[:] = ROWS.T
    with pytest.raises(SourceFormatError, match="features come first"):
        open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_source(tmp_path / "a.zarr", features_axis="feature").read(0, 300), ROWS)
    np.testing.assert_array_equal(open_source(tmp_path / "a.zarr", features_axis=1).read(0, 7), ROWS.T)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_and_arrays_are_read_features_first(tmp_path: Path, order: Any) -> None:
    turned = np.array(ROWS.T, order=order)
    np.save(tmp_path / "a.npy", turned)
    for source in (open_source(turned, features_axis=0), open_source(tmp_path / "a.npy", features_axis=-2)):
        assert source.shape == (300, 7)
        np.testing.assert_array_equal(source.read(50, 120), ROWS[50:120])
    assert open_source(tmp_path / "a.npy", features_axis="1").shape == (7, 300)
    with pytest.raises(UsageError, match="names none of them: sample; give 0 or 1"):
        open_source(tmp_path / "a.npy", features_axis="sample")


@pytest.mark.parametrize("method", ["gram", "tsqr"])
def test_rows_on_a_device_are_read_features_first(method: Any) -> None:
    source = ArraySource(Adopted(TOY, TOY.upload(np.ascontiguousarray(ROWS.T))), features_axis=0)
    found, wanted = rs.measure(source, method=method).rankme, rs.measure(ROWS, method=method).rankme
    assert source.device is TOY and found.lower <= wanted.value <= found.upper


def test_more_axes_are_for_arrays_that_are_stored() -> None:
    with pytest.raises(SourceFormatError, match=r"shape \(3, 4, 5\).*reshape it, or store it in a zarr array"):
        open_source(np.zeros((3, 4, 5)), features_axis=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_axes_of_a_npy_file_are_rows_in_storage_order(tmp_path: Path, axis: int, order: str) -> None:
    values = np.arange(3 * 4 * 5, dtype="f4").reshape(3, 4, 5)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    source, stored = open_source(tmp_path / "a.npy", features_axis=axis), values if order == "C" else values.T
    wanted = np.moveaxis(stored, axis if order == "C" else 2 - axis, -1).reshape(-1, values.shape[axis])
    assert source.shape == wanted.shape
    for start, stop in [(0, len(wanted)), (1, len(wanted) - 1), (3, 4)]:
        assert np.array_equal(source.read(start, stop), wanted[start:stop])


def test_one_axis_and_another_of_a_square_array_have_other_fingerprints(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:7])
    zarr.create_array(tmp_path / "a.zarr", data=ROWS[:7], chunks=(7, 7))
    for path in (tmp_path / "a.npy", tmp_path / "a.zarr"):
        found = {open_source(path, features_axis=axis).fingerprint(0, 7) for axis in (0, 1, None)}
        assert len(found) == 2


def test_rows_that_look_transposed_are_no_reason_to_ask_for_memory(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(768, 5_000_000), dtype="f2", chunks=(768, 4096))
    with pytest.raises(LimitError, match=r"768 rows of 5,000,000 features look transposed: .* features_axis") as caught:
        rs.plan(tmp_path / "a.zarr", method="gram")
    assert "memory_limit" not in str(caught.value)
    assert rs.plan(open_source(tmp_path / "a.zarr", features_axis=0)).n_features == 768
    np.save(tmp_path / "a.npy", np.zeros((40, 4000), np.float32))
    with pytest.raises(LimitError, match=r"40 rows of 4,000 .*, or give memory_limit \d+MiB"):
        rs.plan(tmp_path / "a.npy", method="gram", memory_limit=2**27)


def test_the_command_takes_the_axis(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.ascontiguousarray(ROWS.T), dimension_names=("band", "pixel"))
    path = str(tmp_path / "a.zarr")
    refused(3, "give --features-axis band, or --features-axis 1 to", "score", path)
    found = rankme("score", path, "--features-axis", "-2", "--json", "-")
    assert json.loads(found.stdout)["estimates"]["rankme"]["value"] == rs.measure(ROWS).rankme.value
