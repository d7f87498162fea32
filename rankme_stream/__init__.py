"""RankMe of embedding dumps of any size: one pass, every row, bounded memory."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankme_stream import metrics as metrics
    from rankme_stream.batch import measure_each as measure_each
    from rankme_stream.errors import CheckpointWarning as CheckpointWarning
    from rankme_stream.errors import RankMeError as RankMeError
    from rankme_stream.errors import ToleranceWarning as ToleranceWarning
    from rankme_stream.estimates import Estimate as Estimate
    from rankme_stream.estimator import RankMe as RankMe
    from rankme_stream.measurement import Measurement as Measurement
    from rankme_stream.measuring import measure as measure
    from rankme_stream.measuring import measure_state as measure_state
    from rankme_stream.reading import plan as plan
    from rankme_stream.reading import segment as segment
    from rankme_stream.sources import Source as Source
    from rankme_stream.sources import open_source as open_source
    from rankme_stream.state import State as State
    from rankme_stream.state import load_state as load_state
    from rankme_stream.state import merge_states as merge_states
    from rankme_stream.state import save_state as save_state

_HOMES = {
    "CheckpointWarning": "errors",
    "Estimate": "estimates",
    "Measurement": "measurement",
    "RankMe": "estimator",
    "RankMeError": "errors",
    "Source": "sources",
    "State": "state",
    "ToleranceWarning": "errors",
    "load_state": "state",
    "measure": "measuring",
    "measure_each": "batch",
    "measure_state": "measuring",
    "merge_states": "state",
    "open_source": "sources",
    "plan": "reading",
    "save_state": "state",
    "segment": "reading",
}

__version__ = version("rankme-stream")
__all__ = [
    "CheckpointWarning",
    "Estimate",
    "Measurement",
    "RankMe",
    "RankMeError",
    "Source",
    "State",
    "ToleranceWarning",
    "load_state",
    "measure",
    "measure_each",
    "measure_state",
    "merge_states",
    "metrics",
    "open_source",
    "plan",
    "save_state",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("rankme_stream.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'rankme_stream' has no attribute {name!r}")
    return getattr(import_module(f"rankme_stream.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
