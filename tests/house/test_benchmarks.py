"""Every benchmark runs at its quick size and writes what the documentation quotes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


NAMES = [
    "accuracy",
    "billion",
    "chaos",
    "chunk_check",
    "cluster",
    "coverage",
    "intervals",
    "row_sketch",
    "sampled",
    "scaling",
    pytest.param(
        "selection", marks=pytest.mark.skipif(find_spec("torch") is None, reason="it trains: torch is not installed")
    ),
    "speed",
    "wide",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_quick_size(name, tmp_path):
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["command"] == f"python -m benchmarks {name} --quick"
    assert result["machine"] and result["date"]
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")
    assert (ROOT / "benchmarks" / "results" / f"{name}.json").exists()


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_the_benchmark_of_cards_runs_without_one_and_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    assert result["ours"] and all(one["held"] for one in result["ours"])
    assert all(one["error"] < 1e-6 for one in result["errors"])
    assert result["is_card"] or ("**No card" in text and "Wanted" not in text)
