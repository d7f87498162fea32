"""The public names, the modules that they load, and that no module hides one."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

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
