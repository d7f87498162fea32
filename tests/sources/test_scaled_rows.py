"""Quantised rows times an array of scales have the numbers of their values, in every kind of pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import rankme_stream as rs
from rankme_stream.errors import MissingChunksError, NonFiniteError, RankMeError, SourceFormatError, UsageError
from rankme_stream.sources import ArraySource, Source, open_source
from rankme_stream.sources.scaled_rows import ScaledRows
from rankme_stream.testing import SourceLaws

N_ROWS, N_FEATURES = 1500, 12
CODES = np.random.default_rng(0).integers(-127, 128, (N_ROWS, N_FEATURES)).astype("i1")
SCALES = np.random.default_rng(1).uniform(0.5, 1.5, (N_ROWS, 3)).astype("f4")
DECLARED = {
    "method": "per_pixel_scale",
    "original_dtype": "float32",
    "quantized_dtype": "int8",
    "scale": {"type": "array", "array_name": "scales", "nodata": "+inf"},
}


def write(folder: Path, codes: np.ndarray = CODES, scales: np.ndarray = SCALES[:, 0], **settings: Any) -> Path:
    """Write a store whose group ``utm30`` holds embeddings and scales; settings are attributes of the top group."""
    path = folder / "a.zarr"
    group = zarr.open_group(path, mode="w", attributes=settings).create_group("utm30")
    chunk = {"chunks": (128, codes.shape[1]), "shards": (512, codes.shape[1])}
    group.create_array("embeddings", shape=codes.shape, dtype="i1", **chunk)[:] = codes
    lengths = (700, *scales.shape[1:])
    group.create_array("scales", shape=scales.shape, dtype=scales.dtype, chunks=lengths)[:] = scales
    return path


def values(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    factors = scales.reshape(len(codes), -1).astype("f8")
    return codes.astype("f8") * np.repeat(factors, codes.shape[1] // factors.shape[1], axis=1)


def same(found: Any, wanted: Any) -> bool:
    return found.lower <= wanted.upper and wanted.lower <= found.upper


class TestScaledRows(SourceLaws):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path: Path) -> None:
        self.path = write(tmp_path, scales=SCALES)

    def make(self) -> Source:
        return open_source(f"{self.path}::utm30/embeddings", scales="utm30/scales")

    def expected(self) -> np.ndarray:
        return values(CODES, SCALES)


def test_a_file_with_the_name_of_the_array_of_scales_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, scales=SCALES)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "utm30").mkdir()
    with open("utm30/scales", "wb") as file:
        np.save(file, np.full_like(SCALES, 7))
    found = open_source(f"{path}::utm30/embeddings", scales="utm30/scales").read(0, len(CODES))
    assert np.array_equal(found, values(CODES, SCALES))


@pytest.mark.parametrize("where", ["in the store", "by its folder", "elsewhere", ".npy", "npy rows", "opened array"])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_an_array_of_scales_is_named_by_an_option(tmp_path, monkeypatch, where, n_groups):
    scales = SCALES[:, 0] if n_groups == 1 else SCALES
    path = write(tmp_path, scales=scales)
    np.save(tmp_path / "scales.npy", scales)
    np.save(tmp_path / "codes.npy", CODES)
    zarr.save_array(tmp_path / "other.zarr", scales)
    monkeypatch.chdir(tmp_path)
    source: Any = f"{path}::utm30/embeddings"
    named = {
        "in the store": "utm30/scales",
        "elsewhere": "other.zarr::",
        ".npy": "scales.npy",
        "npy rows": "scales.npy",
    }
    if where == "by its folder":
        source = path / "utm30" / "embeddings"
    if where == "npy rows":
        source = "codes.npy"
    if where == "opened array":
        source = zarr.open_array(path, path="utm30/embeddings")
    opened = open_source(source, scales=named.get(where, "../scales" if where == "by its folder" else "utm30/scales"))
    np.testing.assert_array_equal(opened.read(0, N_ROWS), values(CODES, scales))
    argument = opened.reopen()
    monkeypatch.chdir("/")  # as another process may
    if argument is not None:
        np.testing.assert_array_equal(open_source(argument).read(5, 9), values(CODES, scales)[5:9])


@pytest.mark.parametrize("level", ["array", "group", "top"])
def test_scales_are_found_by_the_geo_embeddings_convention(tmp_path, level):
    path = write(tmp_path)
    place = {"array": "utm30/embeddings", "group": "utm30", "top": ""}[level]
    zarr.open(path, path=place).attrs["geoemb:quantization"] = DECLARED
    for source, rule in ((f"{path}::utm30/embeddings", None), (path / "utm30" / "embeddings", "linear")):
        opened = open_source(source, decode=rule)
        np.testing.assert_array_equal(opened.read(0, N_ROWS), values(CODES, SCALES[:, 0]))
        assert "geoemb:quantization" in opened.stored.description


def test_a_declared_scale_for_all_rows_is_applied(tmp_path):
    scalar = DECLARED | {"method": "linear", "scale": {"type": "scalar", "scale": 0.0078125, "offset": 0.5}}
    path = write(tmp_path, **{"geoemb:quantization": scalar | {"nodata": -128, "valid_range": [-127, 127]}})
    for rule in (None, "linear"):
        found = open_source(f"{path}::utm30/embeddings", decode=rule).stored.decoding
        assert (found.scale, found.offset, found.nodata, found.valid) == (0.0078125, 0.5, (-128.0,), (-127, 127))
    assert open_source(path / "utm30" / "embeddings", decode="power:2:127.5").stored.decoding.power == 2.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "signed_square", "scale": None}, "method is 'signed_square'"),
        ({"method": "product_quantization"}, "method is 'product_quantization'"),
        ({"formula": "(x/127.5)**2"}, "formula"),
        ({"scale": {"type": "array", "array_name": "scales", "axis": 1}}, "scale.axis"),
        ({"scale": {"type": "array", "array_name": 7}}, "scale.array_name"),
        ({"scale": {"type": "array", "array_name": "scales", "nodata": "sea"}}, "scale.nodata"),
        ({"scale": {"type": "scalar"}, "method": "linear"}, "scale.scale"),
        ({"scale": 0.1, "method": "linear"}, "scale is 0.1, .*type: scalar"),
        ({"quantized_dtype": "int4"}, "quantized_dtype"),
    ],
)
def test_a_quantization_that_is_not_understood_is_refused_by_its_field(tmp_path, change, named):
    path = write(tmp_path, **{"geoemb:quantization": DECLARED | change})
    with pytest.raises(SourceFormatError, match=f"geoemb:quantization.{named}.*decode.*scales") as refusal:
        open_source(f"{path}::utm30/embeddings")
    assert "\n" not in str(refusal.value)
    taken = open_source(f"{path}::utm30/embeddings", decode="linear")  # sets aside what is not understood
    is_scale_understood = change.keys() <= {"method", "formula"}
    assert (taken.stored.name, taken.stored.decoding) == ("float64" if is_scale_understood else "int8", None)


@pytest.mark.parametrize(("held", "as_wide"), [("u1", True), ("i2", False)])
def test_a_quantization_of_a_type_that_is_not_stored_is_refused_on_the_array_itself(tmp_path, held, as_wide):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array("a", shape=CODES.shape, dtype=held)
    array[:] = CODES.astype(held)
    scalar = DECLARED | {"method": "linear", "scale": {"type": "scalar", "scale": 0.5}}
    group.attrs["geoemb:quantization"] = scalar  # of another array of the group
    assert open_source(f"{tmp_path / 'a.zarr'}::a").stored.description == (
        f"{array.dtype} as stored: geoemb:quantization of a group above is of another type"
    )
    array.attrs["geoemb:quantization"] = scalar
    with pytest.raises(SourceFormatError, match=f"is of int8, and {array.dtype} is stored") as refusal:
        open_source(tmp_path / "a.zarr" / "a")
    assert ("dtype" in str(refusal.value).replace("quantized_dtype", "")) == as_wide
    if as_wide:
        assert open_source(tmp_path / "a.zarr" / "a", dtype="int8").stored.decoding.scale == 0.5


def test_integers_beside_scales_that_nothing_declares_are_refused(tmp_path):
    path = write(tmp_path)
    for source in (f"{path}::utm30/embeddings", path / "utm30" / "embeddings"):
        with pytest.raises(SourceFormatError, match="beside the array 'scales'"):
            open_source(source)
    assert open_source(f"{path}::utm30/embeddings", decode="linear").stored.decoding is None


def test_rows_without_a_finite_scale_are_no_data(tmp_path):
    scales = SCALES[:, 0].copy()
    scales[[3, 900]], scales[77] = np.nan, np.inf
    path = write(tmp_path, scales=scales, **{"geoemb:quantization": DECLARED})
    source = f"{path}::utm30/embeddings"
    with pytest.raises(NonFiniteError, match="row 3 has a scale that is not finite, which means no data"):
        rs.measure(source)
    found = rs.measure(source, nonfinite="skip")
    assert found.audit.rows_nonfinite == 3
    assert "1,497 of 1,500 rows x 12 features, " in str(found)
    assert "values: int8 * scales, one a row, by geoemb:quantization\n" in str(found)
    assert same(found.rankme, rs.measure(np.delete(values(CODES, scales), [3, 77, 900], axis=0)).rankme)


def test_a_scale_that_the_convention_names_as_no_data_is_one(tmp_path):
    scales = SCALES[:, 0].copy()
    scales[5] = -1.0
    declared = DECLARED | {"scale": {"type": "array", "array_name": "scales", "nodata": -1}}
    path = write(tmp_path, scales=scales, **{"geoemb:quantization": declared})
    assert np.isnan(open_source(f"{path}::utm30/embeddings").read(4, 7)).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "tsqr"},
        {"workers": 2, "groups": "rows:500"},
        {"normalize": True},
        {"method": "rsvd", "rank": 4, "oversampling": 2},
        {"sample": True, "max_rows": 1400, "tolerance": 0.5},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::rankme_stream.ToleranceWarning")
def test_every_kind_of_pass_is_of_the_scaled_rows(tmp_path, options):
    path = write(tmp_path, **{"geoemb:quantization": DECLARED})
    found = rs.measure(f"{path}::utm30/embeddings", **options)
    wanted = rs.measure(values(CODES, SCALES[:, 0]), **options)
    assert same(found.rankme, wanted.rankme)
    if "groups" in options:
        for name, group in found.groups.items():
            assert same(group["rankme"], wanted.groups[name]["rankme"])


def test_a_checkpoint_of_other_scales_is_refused(tmp_path):
    path = write(tmp_path, **{"geoemb:quantization": DECLARED})
    source = f"{path}::utm30/embeddings"
    rs.measure(source, checkpoint=tmp_path / "state")
    rs.measure(source, checkpoint=tmp_path / "state")
    zarr.open_array(path, path="utm30/scales")[7] = 3.0
    with pytest.raises(RankMeError, match=r"checkpoint|state|changed"):
        rs.measure(source, checkpoint=tmp_path / "state")
    words = r"values int8 \* scales, one a row, by geoemb:quantization there and sign\(int8\)"
    with pytest.raises(UsageError, match=words):
        rs.measure(open_source(source, decode="power:2:1"), checkpoint=tmp_path / "state")


def test_a_missing_chunk_of_scales_is_refused(tmp_path):
    path = write(tmp_path, **{"geoemb:quantization": DECLARED})
    (path / "utm30" / "scales" / "c" / "1").unlink()
    with pytest.raises(MissingChunksError, match="utm30/scales"):
        rs.measure(f"{path}::utm30/embeddings")
    found = rs.measure(f"{path}::utm30/embeddings", missing="skip")
    assert same(found.rankme, rs.measure(np.delete(values(CODES, SCALES[:, 0]), slice(700, 1400), axis=0)).rankme)


def test_scales_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path, scales=SCALES[:-1])
    with pytest.raises(SourceFormatError, match="1,499 rows of 3 scales"):
        open_source(f"{path}::utm30/embeddings", scales="utm30/scales")
    zarr.open_array(path, path="utm30/embeddings").attrs["scale_factor"] = 0.5
    with pytest.raises(SourceFormatError, match="declares scale_factor, and option scales"):
        open_source(f"{path}::utm30/embeddings", scales="utm30/scales")


def test_what_names_no_array_of_scales_and_no_option_is_a_wrong_usage(tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    np.save(tmp_path / "scales.npy", SCALES)
    assert open_source(tmp_path / "codes.npy", scales=tmp_path / "scales.npy").stored.name == "float64"
    with pytest.raises(UsageError, match=r"scales is a ndarray and must be .* or a file"):
        open_source(tmp_path / "codes.npy", scales=SCALES)
    with pytest.raises(UsageError, match=r"open_source has no option 'scale'; it takes path, .*, scales, decode"):
        open_source(tmp_path / "codes.npy", scale="scales.npy")


def test_blocks_of_rows_decode_a_large_chunk_of_scales_once(tmp_path):
    class Counted(ArraySource):
        n_read = 0

        def bounds(self, start: int, stop: int) -> range:
            return range((start // 700 + 1) * 700, stop, 700)

        def read(self, start: int, stop: int, out: Any = None) -> Any:
            self.n_read += stop - start
            return super().read(start, stop, out)

    scales = Counted(SCALES)
    source = ScaledRows(ArraySource(CODES), scales, "a test")
    blocks = [source.read(start, min(start + 100, N_ROWS)) for start in range(0, N_ROWS, 100)]
    np.testing.assert_array_equal(np.concatenate(blocks), values(CODES, SCALES))
    assert scales.n_read <= N_ROWS
    assert source.read_memory(100) >= source.read(0, 100).nbytes + 700 * 3 * 8
    assert json.loads(json.dumps(source.identity())) == source.identity()


@pytest.mark.parametrize("layout", ["one chunk", "chunks", "shards", "bands first"])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_a_grid_is_scaled_place_by_place(tmp_path, layout, n_groups):
    codes, scales = CODES.reshape(2, 25, 30, 12), SCALES[:, :n_groups].reshape(2, 25, 30, n_groups)
    cut = {"one chunk": ((2, 25, 30), None), "chunks": ((1, 10, 8), None), "shards": ((1, 5, 8), (1, 10, 16)),
           "bands first": ((1, 10, 30), None)}[layout]  # fmt: skip
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"geoemb:quantization": DECLARED})
    names = ["time", "y", "x", "band"]
    for name, numbers, is_band in (("embeddings", codes, True), ("scales", scales, n_groups > 1)):
        lengths, shards = ([*one] if one else None for one in cut)
        width = numbers.shape[-1:] if is_band else ()
        held, dimensions = (numbers if is_band else numbers[..., 0]), names if is_band else names[:3]
        lengths, shards = [*lengths, *width], [*shards, *width] if shards else None
        if layout == "bands first" and is_band:
            held = np.moveaxis(held, -1, 1)
            lengths.insert(1, lengths.pop())
            dimensions = ["time", "band", "y", "x"]
        array = group.create_array(
            name, shape=held.shape, dtype=held.dtype, chunks=lengths, shards=shards, dimension_names=dimensions
        )
        array[:] = held
    source = open_source(f"{tmp_path / 'a.zarr'}::embeddings", features_axis="band")
    found, wanted = source.read(0, N_ROWS), values(CODES, SCALES[:, :n_groups])
    np.testing.assert_array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_scales_in_another_order_than_the_rows_are_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"geoemb:quantization": DECLARED})
    group.create_array("embeddings", shape=(50, 30, 12), dtype="i1", chunks=(10, 8, 12))
    group.create_array("scales", shape=(50, 30), dtype="f4", chunks=(50, 30))
    with pytest.raises(SourceFormatError, match="comes in another order"):
        open_source(f"{tmp_path / 'a.zarr'}::embeddings", features_axis=2)


def test_one_array_of_scales_does_not_scale_several_arrays(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UsageError, match="scales names the scales of one array"):
        open_source([f"{path}::utm30/embeddings"] * 2, scales="utm30/scales")
