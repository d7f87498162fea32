"""The networks to train: losses, hyperparameters, and the values that each hyperparameter takes in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

CENTRE = "centre"
VIEWED, VIEWS = 300, 10  # number of images whose random views are dumped at the end of a training; views of each

_TRAINING = {"learning_rate": (1e-4, 5e-4, 1e-2, 5e-2), "weight_decay": (0.0, 1e-1, 1.0, 10.0)}
SWEEPS: Mapping[str, Mapping[str, Sequence[float]]] = {  # the centre, with the defaults of `Setting`, comes on top
    "SimCLR": {"temperature": (0.05, 0.1, 0.5, 1.0), **_TRAINING},
    "VICReg": {
        "variance": (1.0, 5.0, 50.0, 100.0), "invariance": (1.0, 5.0, 50.0, 100.0),
        "covariance": (0.01, 0.1, 5.0, 25.0), **_TRAINING,
    },
    "Barlow Twins": {"redundancy": (1e-4, 1e-3, 2e-2, 1e-1), **_TRAINING},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of one training; a loss ignores those of others. The defaults are the centres of the sweeps.

    ``variance``, ``invariance`` and ``covariance`` weigh the terms of VICReg, ``redundancy`` weighs the off-diagonal
    term of Barlow Twins.
    """

    loss: str
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.2
    variance: float = 25.0
    invariance: float = 25.0
    covariance: float = 1.0
    redundancy: float = 5e-3


@dataclass(frozen=True)
class Schedule:
    """How often (seeds) and how long every setting is trained, and the steps after which the centre is dumped."""

    seeds: int
    n_steps: int
    dumped: Sequence[int]


@dataclass(frozen=True)
class Training:
    """One training: its images, sweep, setting, seed and length, and the steps after which it is dumped."""

    images: str
    sweep: str  # hyperparameter that differs from the centre, or "centre"
    setting: Setting
    seed: int
    n_steps: int
    dumped: Sequence[int]

    @property
    def value(self) -> float | None:
        """Value of the swept hyperparameter; None at the centre."""
        return None if self.sweep == CENTRE else getattr(self.setting, self.sweep)

    def to_dict(self) -> dict[str, Any]:
        """Return the training as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Training:
        """Return the training that `to_dict` described."""
        return cls(**{**plain, "setting": Setting(**plain["setting"])})


def trainings(images: str, loss: str, sweep: str, values: Sequence[float], schedule: Schedule) -> list[Training]:
    """Return the trainings of one sweep without its centre, or those of the centre, which are dumped on the way too."""
    seeds, n_steps = range(schedule.seeds), schedule.n_steps
    centre = Setting(loss)
    swept = [replace(centre, **{sweep: value}) for value in values]  # type: ignore[arg-type]
    settings = [centre] if sweep == CENTRE else swept
    steps = sorted({*schedule.dumped, n_steps}) if sweep == CENTRE else [n_steps]
    return [Training(images, sweep, setting, seed, n_steps, steps) for setting in settings for seed in seeds]
