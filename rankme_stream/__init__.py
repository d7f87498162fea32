"""RankMe of embedding dumps of any size: one pass, every row, bounded memory."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankme_stream import metrics as metrics
    from rankme_stream.errors import RankMeError as RankMeError
    from rankme_stream.errors import ToleranceWarning as ToleranceWarning
    from rankme_stream.estimates import Estimate as Estimate
    from rankme_stream.estimator import RankMe as RankMe
    from rankme_stream.measurement import Measurement as Measurement
    from rankme_stream.measuring import measure as measure
    from rankme_stream.reading import plan as plan
    from rankme_stream.sources import Source as Source
    from rankme_stream.sources import open_source as open_source

_HOMES = {
    "Estimate": "estimates",
    "Measurement": "measurement",
    "RankMe": "estimator",
    "RankMeError": "errors",
    "Source": "sources",
    "ToleranceWarning": "errors",
    "measure": "measuring",
    "open_source": "sources",
    "plan": "reading",
}

__version__ = version("rankme-stream")
__all__ = [
    "Estimate",
    "Measurement",
    "RankMe",
    "RankMeError",
    "Source",
    "ToleranceWarning",
    "measure",
    "metrics",
    "open_source",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("rankme_stream.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'rankme_stream' has no attribute {name!r}")
    return getattr(import_module(f"rankme_stream.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
