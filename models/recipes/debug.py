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
    """Train in a second on values made here (`data` is not read): two interleaved rings in the plane."""
    del data
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 256)
    label = np.arange(256) % 2
    points = torch.from_numpy(((1 + label) * np.stack([np.cos(angle), np.sin(angle)])).T.astype(np.float32))
    rings = torch.from_numpy(label)
    config = DebugConfig()

    def batches(rng: np.random.Generator) -> Iterable[Batch]:
        for rows in np.split(rng.permutation(192), 6):
            yield {"x": points[rows], "y": rings[rows]}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        answer = model(points[192:].to(device)).argmax(dim=1).cpu()
        return {"accuracy": float((answer == rings[192:]).float().mean())}

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
        learning_rate=0.03,
        about={"data": "synthetic"},
    )
