"""How the toy is trained: a dozen words by heart, in a second, as `debug` learns its points."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from models.encoders.toy import ToyConfig, ToyNetwork, prepare  # type: ignore[import-not-found]  # where the test copies it
from torch import Tensor, nn

from models.recipes.recipe import Batch, Recipe
from models.types import Spoken, Transcript

WORDS = (("furious", "awful", "horrid", "furor", "wrath"), ("lovely", "happy", "jolly", "lively", "yippee"))


def toy(data: Path) -> Recipe:
    """Learn ten words by heart (`data` is not read)."""
    del data
    rows = [(prepare(Spoken(Transcript(word, "en", (), "toy"))), label) for label in (0, 1) for word in WORDS[label]]
    letters = torch.from_numpy(np.stack([row for row, _ in rows]))
    labels = torch.tensor([label for _, label in rows])

    def batches(rng: np.random.Generator) -> Iterable[Batch]:
        for _ in range(10):
            order = rng.permutation(len(rows))
            yield {"letters": letters[order], "label": labels[order]}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["letters"])[1], batch["label"])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        return {"accuracy": float((model(letters.to(device))[1].argmax(dim=1).cpu() == labels).float().mean())}

    return Recipe(
        name="toy",
        config=ToyConfig(),
        build=lambda: ToyNetwork(ToyConfig()),
        batches=batches,
        steps_per_epoch=10,
        loss=loss,
        validate=validate,
        metric="accuracy",
        epochs=4,
        learning_rate=0.01,
        about={"data": "ten words"},
    )
