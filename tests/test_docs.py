"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "rankme" in capsys.readouterr().out


def test_the_tables_of_the_documentation_are_those_of_the_benchmark():
    root = Path(__file__).parents[1]
    page = (root / "docs" / "intervals.md").read_text(encoding="utf-8").split("## What was measured")[1]
    measured = (root / "benchmarks" / "results" / "intervals.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert set(rows) <= set(measured)
