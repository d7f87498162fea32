"""RankMe of embedding dumps of any size: every row, one pass, bounded memory."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in ``typing``, which takes longer to import than the rest of this module
if TYPE_CHECKING:
    from typing import Any

    __version__: str
    from rankme_stream.errors import CheckpointWarning as CheckpointWarning
    from rankme_stream.errors import RankMeError as RankMeError
    from rankme_stream.errors import ToleranceWarning as ToleranceWarning
    from rankme_stream.measuring.api import measure as measure
    from rankme_stream.measuring.api import measure_state as measure_state
    from rankme_stream.measuring.api import plan as plan
    from rankme_stream.measuring.api import segment as segment
    from rankme_stream.measuring.batch import measure_each as measure_each
    from rankme_stream.measuring.copying.convert import Conversion as Conversion
    from rankme_stream.measuring.copying.convert import convert as convert
    from rankme_stream.measuring.estimator import RankMe as RankMe
    from rankme_stream.measuring.inspecting.inspect_source import inspect as inspect
    from rankme_stream.measuring.rows_needed import RowsNeeded as RowsNeeded
    from rankme_stream.measuring.rows_needed import rows_needed as rows_needed
    from rankme_stream.passes.state.pass_state import State as State
    from rankme_stream.passes.state.pass_state import load_state as load_state
    from rankme_stream.passes.state.pass_state import merge_states as merge_states
    from rankme_stream.passes.state.pass_state import save_state as save_state
    from rankme_stream.results.inspection import Inspection as Inspection
    from rankme_stream.results.measurement import Measurement as Measurement
    from rankme_stream.sources import Source as Source
    from rankme_stream.sources import open_source as open_source
    from rankme_stream.spectra import metrics as metrics
    from rankme_stream.spectra.estimates import Estimate as Estimate

_HOMES = {
    "CheckpointWarning": "errors",
    "Conversion": "measuring.copying.convert",
    "Estimate": "spectra.estimates",
    "Inspection": "results.inspection",
    "Measurement": "results.measurement",
    "RankMe": "measuring.estimator",
    "RankMeError": "errors",
    "RowsNeeded": "measuring.rows_needed",
    "Source": "sources",
    "State": "passes.state.pass_state",
    "ToleranceWarning": "errors",
    "convert": "measuring.copying.convert",
    "inspect": "measuring.inspecting.inspect_source",
    "load_state": "passes.state.pass_state",
    "measure": "measuring.api",
    "measure_each": "measuring.batch",
    "measure_state": "measuring.api",
    "merge_states": "passes.state.pass_state",
    "open_source": "sources",
    "plan": "measuring.api",
    "rows_needed": "measuring.rows_needed",
    "save_state": "passes.state.pass_state",
    "segment": "measuring.api",
}

__all__ = [
    "CheckpointWarning",
    "Conversion",
    "Estimate",
    "Inspection",
    "Measurement",
    "RankMe",
    "RankMeError",
    "RowsNeeded",
    "Source",
    "State",
    "ToleranceWarning",
    "convert",
    "inspect",
    "load_state",
    "measure",
    "measure_each",
    "measure_state",
    "merge_states",
    "metrics",
    "open_source",
    "plan",
    "rows_needed",
    "save_state",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looked up late: the command handles signals before it imports what this needs
        return import_module("importlib.metadata").version("rankme-stream")
    if name == "metrics":
        return import_module("rankme_stream.spectra.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'rankme_stream' has no attribute {name!r}")
    return getattr(import_module(f"rankme_stream.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
