"""The smallest recipe: it shows what one is made of, and lets the tests run the loop in a second."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.recipes.recipe import Batch, Recipe


@dataclass(frozen=True, slots=True)
class DebugConfig:
    """Two layers, for tests of the loop."""

    width: int = 16


def debug(data: Path) -> Recipe:
    """Overfit 8 samples in a second, made here (`data` is not read): points on two rings in the plane.

    `train_accuracy` is on the 8, `accuracy` on 64 points between them.
    """
    del data
    config = DebugConfig()
    (points, rings), (between, their_rings) = _points(8), _points(64)

    def batches(rng: np.random.Generator) -> Iterable[Batch]:
        for _ in range(6):
            rows = rng.permutation(8)
            yield {"x": points[rows], "y": rings[rows]}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    def validate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": _accuracy(model, between, their_rings), "train_accuracy": _accuracy(model, points, rings)}

    return Recipe(
        name="debug",
        config=config,
        build=lambda: nn.Sequential(nn.Linear(2, config.width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(config.width, 2)),
        batches=batches,
        steps_per_epoch=6,
        loss=loss,
        validate=validate,
        metric="accuracy",
        epochs=12,
        learning_rate=0.05,
        about={"data": "synthetic"},
    )


def _points(count: int) -> tuple[Tensor, Tensor]:
    """Evenly spaced around, alternately on the ring of radius 1 and of radius 2: (count, 2), and which ring (count,)."""
    rings = torch.arange(count) % 2
    angle = torch.arange(count) * (2 * torch.pi / count)
    return (1 + rings)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1), rings


def _accuracy(model: nn.Module, points: Tensor, rings: Tensor) -> float:
    answer = model(points.to(next(model.parameters()).device)).argmax(dim=1).cpu()
    return float((answer == rings).float().mean())
