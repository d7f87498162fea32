"""Names that the code spells as strings exist: a moved module or function fails here, not in the middle of a run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import resolve_name

import pytest

import rankme_stream
from rankme_stream.numerics.devices.registry import MODULES

THIRD_PARTY = {"cupy", "torch"}
DEVICES = sorted({module for modules in MODULES.values() for module in modules})


@pytest.mark.parametrize("name", rankme_stream._HOMES)
def test_a_public_name_is_in_its_home(name):
    home = import_module(f"rankme_stream.{rankme_stream._HOMES[name]}")
    assert getattr(rankme_stream, name) is vars(home)[name]


def test_every_public_name_but_the_module_of_metrics_has_a_home():
    assert {*rankme_stream.__all__} == {*rankme_stream._HOMES, "metrics"}
    assert rankme_stream.metrics is import_module("rankme_stream.spectra.metrics")


@pytest.mark.parametrize("name", DEVICES)
def test_a_module_of_devices_can_be_imported_or_lacks_its_library(name):
    assert find_spec(name) is not None
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        missing = None
        assert all(callable(getattr(module, function)) for function in ("open_device", "memory_errors"))
    assert missing in {None, *THIRD_PARTY}


def profiled() -> list[str]:
    from benchmarks.harness.cpu_profile import PARTS

    return [name for _, name in PARTS]


@pytest.mark.parametrize("name", profiled())
def test_a_function_that_the_cpu_profile_times_exists(name):
    assert callable(resolve_name(name))


def test_the_pauses_that_the_benchmark_of_kills_drops_are_numbers():
    pytest.importorskip("distributed")
    from benchmarks.resilience import chaos, killable_pass

    for name in (*killable_pass.PAUSES, chaos.CONNECT_TIMEOUT):
        assert isinstance(resolve_name(name), int | float), name


def test_the_module_that_trains_can_be_run_by_its_name():
    from benchmarks.selection import study

    assert find_spec(study.PRETRAINING) is not None
