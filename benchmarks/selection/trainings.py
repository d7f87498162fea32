"""Which networks are trained: the losses, their hyperparameters, and the values that each takes in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

CENTRE = "centre"
VIEWED, VIEWS = 300, 10  # images whose views are dumped at the end of a training, and views of each

_TRAINING = {"learning_rate": (1e-4, 5e-4, 1e-2, 5e-2), "weight_decay": (0.0, 1e-1, 1.0, 10.0)}
SWEEPS: Mapping[str, Mapping[str, Sequence[float]]] = {  # besides the centre, whose values are those of `Setting`
    "SimCLR": {"temperature": (0.05, 0.1, 0.5, 1.0), **_TRAINING},
    "VICReg": {
        "variance": (1.0, 5.0, 50.0, 100.0), "invariance": (1.0, 5.0, 50.0, 100.0),
        "covariance": (0.01, 0.1, 5.0, 25.0), **_TRAINING,
    },
    "Barlow Twins": {"redundancy": (1e-4, 1e-3, 2e-2, 1e-1), **_TRAINING},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of one training; a loss ignores what is another's. The defaults are the centres of the sweeps.

    ``variance``, ``invariance`` and ``covariance`` weigh VICReg's terms, ``redundancy`` the off-diagonal one of Barlow
    Twins.
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
class Training:
    """One training: on which images, of which sweep, from which seed, for how long, dumped after which steps."""

    images: str
    sweep: str  # the hyperparameter that is not its centre's, or "centre"
    setting: Setting
    seed: int
    n_steps: int
    dumped: Sequence[int]

    @property
    def value(self) -> float | None:
        """The swept hyperparameter's; None at the centre."""
        return None if self.sweep == CENTRE else getattr(self.setting, self.sweep)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Training:
        """Return what `to_dict` was made of."""
        return cls(**{**plain, "setting": Setting(**plain["setting"])})


def trainings(
    images: str, loss: str, sweep: str, values: Sequence[float], *, seeds: int, n_steps: int, dumped: Sequence[int]
) -> list[Training]:
    """Return the trainings of one sweep without its centre, or of the centre, which is dumped on the way too."""
    centre = Setting(loss)
    swept = [replace(centre, **{sweep: value}) for value in values]  # type: ignore[arg-type]
    settings = [centre] if sweep == CENTRE else swept
    steps = sorted({*dumped, n_steps}) if sweep == CENTRE else [n_steps]
    return [Training(images, sweep, setting, seed, n_steps, steps) for setting in settings for seed in range(seeds)]
