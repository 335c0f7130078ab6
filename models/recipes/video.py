"""How the face network is trained."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.data import fer2013
from models.encoders.video import FaceNetwork, VideoConfig, VideoEncoder
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe


def video_fer2013(data: Path) -> Recipe:
    """Train the face network on FER2013 `train`, choosing the epoch on `public_test`."""
    faces, held_out = fer2013.read(data, "train"), fer2013.read(data, "public_test")
    config, size = VideoConfig(), 128
    steps = len(faces.labels) // size

    def batches(rng: np.random.Generator) -> Iterable[Batch]:
        for rows in np.split(rng.permutation(len(faces.labels))[: steps * size], steps):
            yield {
                "pictures": fer2013.augment(faces.pictures[rows], rng),
                "label": torch.from_numpy(faces.labels[rows]),
            }

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["pictures"])[1], batch["label"], label_smoothing=0.1)

    def validate(model: nn.Module) -> dict[str, float]:
        encoder = VideoEncoder(cast("FaceNetwork", model), config, name="video")
        answer = encoder.frames([held_out.pictures])[0][1].argmax(axis=1)
        return classification(held_out.labels, answer, len(config.labels))

    return Recipe(
        name="video",
        config=config,
        build=lambda: FaceNetwork(config).to(memory_format=torch.channels_last),
        batches=batches,
        steps_per_epoch=steps,
        loss=loss,
        validate=validate,
        metric="accuracy",
        epochs=20,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.998,
        about={
            "data": "FER2013, train",
            "validation_data": "FER2013, public_test",
            "license": "Kaggle 2013 challenge, research use",
            "skipped": faces.skipped + held_out.skipped,
        },
    )
