"""Small networks trained on images without labels, and their outputs, stored as zarr.

``python -m benchmarks.selection.pretraining FOLDER PART PARTS`` runs one of PARTS equal shares of the trainings in
``FOLDER/trainings.json`` and prints a line of JSON for each dump. Everything runs on one thread and follows from the
seed: the bits are the same every time on one machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.selection import probing
from benchmarks.selection.trainings import VIEWED, VIEWS, Setting, Training

_CHANNELS = 16  # of the first convolution; a representation has four times as many features
_EMBEDDING = 256
_BATCH = 128
_WARM_UP = 0.05  # of the steps
_ROTATION, _SCALE, _SHIFT = 0.26, 0.15, 0.15  # largest: radians, relative, half-widths of the image
_INTENSITY, _NOISE = 0.4, 0.1
_BLOCK = 2048  # images encoded at once


@dataclass(frozen=True)
class Network:
    """An encoder, which returns representations, and a projector, which turns them into embeddings."""

    encoder: nn.Module
    projector: nn.Module

    def encode(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return representations and embeddings of images, (n, 64) and (n, 256) in float32.

        Batch normalisation uses its running means.
        """
        self.encoder.eval()
        self.projector.eval()
        with torch.no_grad():
            parts = [self.encoder(block) for block in images.split(_BLOCK)]
            embeddings = torch.cat([self.projector(part) for part in parts])
        self.encoder.train()
        self.projector.train()
        return torch.cat(parts).numpy(), embeddings.numpy()


def network(side: int) -> Network:
    """Return an untrained network for square images; the first layer halves those wider than 8."""
    widths = (1, _CHANNELS, 2 * _CHANNELS, 4 * _CHANNELS)
    strides = (1 if side <= 8 else 2, 2, 2)
    layers: list[nn.Module] = []
    for n_in, n_out, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    projector = nn.Sequential(
        nn.Linear(widths[-1], _EMBEDDING), nn.BatchNorm1d(_EMBEDDING), nn.ReLU(), nn.Linear(_EMBEDDING, _EMBEDDING)
    )
    return Network(encoder, projector)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image rotated, scaled, shifted, brightened and with noise, all at random."""
    n_images = images.shape[0]
    angle, scale, right, down, light = (2.0 * torch.rand(5, n_images, generator=generator) - 1.0).unbind()
    angle, scale = _ROTATION * angle, 1.0 + _SCALE * scale
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), _SHIFT * right], 1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), _SHIFT * down], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    noise = torch.randn(images.shape, generator=generator)
    return moved * (1.0 + _INTENSITY * light).view(-1, 1, 1, 1) + _NOISE * noise


def simclr(first: Tensor, second: Tensor, setting: Setting) -> Tensor:
    """NT-Xent (Chen et al., ICML 2020, arXiv 2002.05709): pick out the other view among all rows by its cosine."""
    rows = functional.normalize(torch.cat([first, second]))
    cosines = rows @ rows.T / setting.temperature
    cosines = cosines.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(cosines, torch.arange(len(rows)).roll(len(first)))


def vicreg(first: Tensor, second: Tensor, setting: Setting) -> Tensor:
    """VICReg (Bardes et al., ICLR 2022, arXiv 2105.04906): equal views, features spread out and uncorrelated."""
    spread = torch.zeros(())
    mixed = torch.zeros(())
    for rows in (first, second):
        centered = rows - rows.mean(0)
        covariance = centered.T @ centered / (len(rows) - 1)
        variances = covariance.diagonal()
        spread = spread + functional.relu(1.0 - (variances + 1e-4).sqrt()).mean() / 2.0
        mixed = mixed + (covariance.square().sum() - variances.square().sum()) / rows.shape[1]
    alike = functional.mse_loss(first, second)
    return setting.invariance * alike + setting.variance * spread + setting.covariance * mixed


def barlow_twins(first: Tensor, second: Tensor, setting: Setting) -> Tensor:
    """Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230): make the views' cross-correlation the identity."""
    standard = [(rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-5) for rows in (first, second)]
    correlations = standard[0].T @ standard[1] / len(first)
    alike = (correlations.diagonal() - 1.0).square().sum()
    others = correlations.square().sum() - correlations.diagonal().square().sum()
    return alike + setting.redundancy * others


LOSSES: dict[str, Callable[[Tensor, Tensor, Setting], Tensor]] = {
    "SimCLR": simclr, "VICReg": vicreg, "Barlow Twins": barlow_twins,
}  # fmt: skip


def trained(images: Tensor, training: Training) -> Iterator[tuple[int, Network]]:
    """Train a network on images, (n, 1, side, side), and yield it after each step that is to be dumped.

    The optimizer is AdamW; the learning rate rises for a twentieth of the steps and then falls as a cosine. A training
    ends when its loss is not finite.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(training.seed)  # for the first weights
    generator = torch.Generator().manual_seed(training.seed)
    setting, n_steps = training.setting, training.n_steps
    net = network(images.shape[-1])
    weights = [*net.encoder.parameters(), *net.projector.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=setting.learning_rate, weight_decay=setting.weight_decay)
    for step in range(n_steps + 1):
        if step in training.dumped:
            yield step, net
        if step == n_steps:
            return
        for group in optimizer.param_groups:
            group["lr"] = setting.learning_rate * _pace(step / n_steps)
        batch = images[torch.randint(len(images), (_BATCH,), generator=generator)]
        rows = net.projector(net.encoder(augmented(torch.cat([batch, batch]), generator)))
        loss = LOSSES[setting.loss](rows[:_BATCH], rows[_BATCH:], setting)
        if not torch.isfinite(loss):
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _pace(done: float) -> float:
    """Return the share of the learning rate after a share of the steps."""
    return min((done + 1e-3) / _WARM_UP, 0.5 + 0.5 * float(np.cos(np.pi * done)))


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images)[:, None]


def dump(net: Network, images: Tensor, store: Path, *, has_views: bool) -> None:
    """Store embeddings and representations of images and, for LiDAR, of random views of the first images.

    Every network gets the same views; the views of an image are next to one another.
    """
    inputs = {"": images}
    if has_views:
        views = images[:VIEWED].repeat_interleave(VIEWS, 0)
        inputs["_views"] = augmented(views, torch.Generator().manual_seed(0))
    group = zarr.open_group(store, mode="w")
    for suffix, shown in inputs.items():
        for kind, rows in zip(("representations", "embeddings"), net.encode(shown), strict=True):
            group.create_array(kind + suffix, data=rows, chunks=rows.shape)


def dump_rows(training: Training, task: probing.Task, folder: Path) -> Iterator[dict[str, Any]]:
    """Train, and yield the path and the probe accuracies of each dump; both are None after the training diverged."""
    images = _tensor(task.train.images)
    steps = []
    for step, net in trained(images, training):
        store = folder / f"{training.sweep} {training.value} {training.seed} {step}.zarr"
        dump(net, images, store, has_views=step == training.n_steps)
        accuracy = probing.accuracies(lambda rows, net=net: net.encode(_tensor(rows))[0], task)  # type: ignore[misc]
        steps.append(step)
        yield _named(training, step) | {"dump": str(store), "accuracy": accuracy}
    for step in sorted({*training.dumped} - {*steps}):
        yield _named(training, step) | {"dump": None, "accuracy": None}


def _named(training: Training, step: int) -> dict[str, Any]:
    return {
        "images": training.images, "loss": training.setting.loss, "sweep": training.sweep, "value": training.value,
        "seed": training.seed, "step": step,
    }  # fmt: skip


def main() -> int:
    """Run one share of a folder's trainings."""
    folder, part, parts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    planned = json.loads((folder / "trainings.json").read_text(encoding="utf-8"))
    for plain in planned[part::parts]:
        training = Training.from_dict(plain)
        task = probing.task(probing.DATA[training.images]())
        for row in dump_rows(training, task, folder):
            print(json.dumps(row))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
