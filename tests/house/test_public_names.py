"""The public names, the modules that they load, and that no module hides one."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import rankme_stream as rs


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(chr(10), *(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(shown.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"numpy", "scipy", "zarr", "click", "rich", "dask", "cupy", "torch", "sklearn", "matplotlib"}
    assert not loaded_by("import rankme_stream") & heavy


def test_help_loads_no_numerics():
    statement = "from rankme_stream.cli.commands import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_by(statement) & {"numpy", "scipy", "zarr", "rich", "dask"}


def test_public_names_are_the_same_before_and_after_every_submodule_is_imported():
    before = {name: getattr(rs, name) for name in rs.__all__}
    for module in pkgutil.walk_packages(rs.__path__, "rankme_stream."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(rs, name) for name in rs.__all__} == before


def test_the_newest_python_that_runs_is_found(tmp_path):
    folders = {"path": tmp_path / "bin", "pyenv": tmp_path / "pyenv/versions/3.96.1/bin"}
    answers = {("path", "3.99"): "exit 127", ("path", "3.98"): "echo 0 3.98", ("path", "3.11"): "echo 3011007 3.11"}
    answers |= {("path", "3.97"): "echo 3097000 3.97", ("pyenv", "3.96"): "echo 3096001 3.96"}
    for (where, version), answer in answers.items():
        folders[where].mkdir(parents=True, exist_ok=True)
        python = folders[where] / f"python{version}"
        python.write_text(f"#!/bin/sh\n{answer}\n")
        python.chmod(0o755)
    finder = [shutil.which("bash"), str(Path(__file__).parents[2] / ".ci/newest-python")]
    asked = {"env": {"PATH": str(folders["path"]), "PYENV_ROOT": str(tmp_path / "pyenv")}, "text": True}
    found = []
    for where, version in [("path", "3.97"), ("pyenv", "3.96"), ("path", "3.11")]:
        done = subprocess.run(finder, stdout=subprocess.PIPE, **asked)
        found.append((done.returncode, done.stdout.strip()))
        (folders[where] / f"python{version}").unlink()
    assert found == [(0, "3.97"), (0, "3.96"), (1, "")]
