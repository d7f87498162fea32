"""The code of the README and of the pages of docs runs; their tables are those of the benchmarks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import zarr

from rankme_stream.sources.formats import FORMATS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "rankme" in capsys.readouterr().out


@pytest.fixture
def folder_with_a_dump(tmp_path) -> Path:
    rows = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    zarr.open_group(tmp_path / "dump.zarr", mode="w").create_array("embeddings", data=rows, chunks=(500, 16))
    np.save(tmp_path / "dump.npy", rows)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        "long-passes.md",
        "devices.md",
        "sketches.md",
        "comparing.md",
        "groups.md",
        "choosing.md",
        "few-rows.md",
        "formats.md",
        "layouts.md",
        "stored-values.md",
        "how-many-rows.md",
        "inspecting.md",
    ],
)
def test_the_commands_of_a_page_run(page, folder_with_a_dump):
    """In order, in one folder; blocks of other languages than bash and python are shown only."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, block in blocks:
        command = ["bash", "-euo", "pipefail", "-c", block]
        if language == "python":
            script = folder_with_a_dump / "block.py"
            script.write_text(block, encoding="utf-8")
            command = [sys.executable, str(script)]
        done = subprocess.run(
            command,
            cwd=folder_with_a_dump,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_page_of_formats_names_every_ending_and_extra():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for one in FORMATS:
        (row,) = [row for row in rows if f"`{one.endings[0]}`" in row.split("|")[2]]
        name, extra = row.split("|")[2:4]
        assert all(f"`{ending}`" in name for ending in one.endings), one.name
        assert extra.strip() == (f"`{one.extra}`" if one.extra else ""), one.name


def test_the_table_of_the_readme_is_that_of_the_benchmark():
    result = json.loads(
        (Path(__file__).parents[2] / "benchmarks" / "results" / "speed.json").read_text(encoding="utf-8")
    )
    assert f"{result['date']}, {result['machine']}" in README
    limit_s = median(one["limit"]["limit_s"] for one in result["limits"])
    assert f"take at least {limit_s:.3g} s here" in README
    for row in (row for row in result["rows"] if "wall_s" in row):
        ratio = row.get("wall_ratio", [1])[0]
        figures = f"{row['wall_s'][0]:.3g} | {ratio:.3g} | {row['peak_mb']:,.0f} | {row['relative_error']:.1g}"
        assert f"| {row['name']} | {figures} |" in README


def test_the_tables_of_the_documentation_are_those_of_the_benchmark():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "intervals.md").read_text(encoding="utf-8").split("## What was measured")[1]
    measured = (root / "benchmarks" / "results" / "intervals.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert set(rows) <= set(measured)


def test_the_coverage_of_the_documentation_is_that_of_the_benchmark():
    root = Path(__file__).parents[2]
    page = " ".join((root / "docs" / "sampling.md").read_text(encoding="utf-8").split())
    measured = json.loads((root / "benchmarks" / "results" / "coverage.json").read_text(encoding="utf-8"))
    stated = [cell for cell in measured["cells"] if cell["stated"] and cell.get("is_judged", True)]
    samples, held = (sum(cell[key] for cell in stated) for key in ("stated", "held"))
    assert f"Of {samples:,} intervals {held / samples:.1%} held" in page
    assert f"in {len(measured['rejected'])} of {len(stated)} cells" in page
