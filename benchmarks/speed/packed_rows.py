"""How many rows a second are read of packed and quantised dumps, beside the same rows in float16?

``python -m benchmarks packed_rows`` writes the same rows in zstd zarr, 1 MiB chunks, as float16; as int8 with a scale,
an offset and a number that means no data; as int8 of a signed square root; and as int8 with one scale a row. It
measures each in turn, one worker, several rounds; the ratio of a round is that of its own times, and the median is
stated. Wall time from the opened array to the number, warm page cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import rankme_stream as rs
from benchmarks.harness.experiment import Experiment, table

SHAPES = ((400_000, 128), (120_000, 768), (40_000, 2_048))
_QUICK = ((4_000, 64),)
_CHUNK_BYTES = 2**20


def dumps(folder: Path, n_rows: int, n_features: int) -> dict[str, Any]:
    """Return the sources of the same rows, by how they are stored."""
    rows = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
    rows *= np.arange(1, n_features + 1, dtype=np.float32) ** -0.25
    scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
    codes = np.clip(np.sign(rows) * np.sqrt(np.abs(rows) / 5) * 127.5, -127, 127)
    packed = np.clip(np.round((rows - 0.1) / 0.04), -127, 127)

    def store(name: str, values: np.ndarray, **attributes: Any) -> str:
        chunk = max(1, min(n_rows, _CHUNK_BYTES // (n_features * values.dtype.itemsize)))
        array = zarr.create_array(
            folder / name, shape=values.shape, chunks=(chunk, n_features), dtype=values.dtype,
            compressors=zarr.codecs.ZstdCodec(level=1), attributes=attributes,
        )  # fmt: skip
        array[:] = values
        return str(folder / name)

    np.save(folder / "scales.npy", scales)
    affine = {"scale_factor": 0.04, "add_offset": 0.1, "_FillValue": -128}
    return {
        "float16": rs.open_source(store("half", rows.astype(np.float16))),
        "int8, scale and offset": rs.open_source(store("affine", packed.astype(np.int8), **affine)),
        "int8, signed square root": rs.open_source(store("power", codes.astype(np.int8)), decode="power:2:127.5"),
        "int8, a scale a row": rs.open_source(
            store("scaled", np.round(rows / scales[:, None]).astype(np.int8)), scales=str(folder / "scales.npy")
        ),
    }


def compared(n_rows: int, n_features: int, rounds: int) -> dict[str, Any]:
    """Return wall seconds and RankMe of each dump, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        sources = dumps(Path(folder), n_rows, n_features)
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        rankme: dict[str, float | None] = {}
        for _ in range(rounds + 1):
            for name, source in sources.items():
                began = time.perf_counter()
                rankme[name] = rs.measure(source, workers=1).rankme.value
                seconds[name].append(time.perf_counter() - began)
    warm = {name: times[1:] for name, times in seconds.items()}
    return {"shape": [n_rows, n_features], "seconds": warm, "rankme": rankme}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = ["# Packed and quantised rows", ""]
    lines += [f"`{result['command']}`, {result['date']}, {result['machine']}; one worker, medians of rounds."]
    shown = []
    for one in result["dumps"]:
        n_rows, n_features = one["shape"]
        for name, times in one["seconds"].items():
            ratios = [mine / half for mine, half in zip(times, one["seconds"]["float16"], strict=True)]
            rate, ratio = n_rows / statistics.median(times), statistics.median(ratios)
            shown.append(
                [f"{n_rows:,} x {n_features:,}", name, f"{rate:,.0f}", f"{ratio:.3f}", f"{one['rankme'][name]:.3f}"]
            )
    lines += table("Time", ["rows x features", "stored as", "rows a second", "time / float16", "RankMe"], shown)
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    experiment = Experiment("packed_rows", __doc__, {"quick": "5 s", "default": "3 minutes on two free cores"})
    experiment.start()
    is_quick = experiment.size == "quick"
    found = [
        experiment.part(f"{n_rows} x {n_features}", compared, n_rows, n_features, 1 if is_quick else 7)
        for n_rows, n_features in (_QUICK if is_quick else SHAPES)
    ]
    experiment.finish({"dumps": found}, markdown)
