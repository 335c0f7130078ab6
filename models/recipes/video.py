"""How the face network is trained."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models import checkpoint
from models.calibration import temperature
from models.data import fer2013
from models.data.faces import Faces
from models.encoders.video import FaceNetwork, VideoConfig, VideoEncoder
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe
from models.types import FloatArray

START, START_SHA256 = "video_start.safetensors", "72326cb3380851bd5ca7715883ba179c61061a133b28355986feb9c2ac806549"
"""Where the training starts, in the data folder: the face network of commit ff5e0b9, trained on the same faces for 78 epochs
that no command repeats. `git show ff5e0b9:models/bundles/embedded/video.safetensors > DATA/video_start.safetensors`."""
BATCH_FACES = 128
LARGE_FILTER = 50_000
FACES_POOLED = 4
"""Faces of one label that are pooled as if they were frames of one utterance."""


def started(config: VideoConfig, path: Path, sha256: str = START_SHA256) -> FaceNetwork:
    """The network of an earlier checkpoint.

    Raises:
        CheckpointError: No such file, or another one.
    """
    network = FaceNetwork(config)
    network.load_state_dict(checkpoint.load(path, sha256)[0])
    return network.to(memory_format=torch.channels_last)


def video_fer2013(data: Path) -> Recipe:
    """Train the face network further on FER2013 `train`, from `START`, choosing the epoch on `public_test`."""
    faces, held_out = fer2013.read(data, "train"), fer2013.read(data, "public_test")
    config = VideoConfig()

    def judged(model: nn.Module) -> FloatArray:
        encoder = VideoEncoder(cast("FaceNetwork", model), config, name="video")
        return encoder.classify(list(held_out.pictures[:, None]))

    def calibrated(model: nn.Module) -> VideoConfig:
        logits = torch.from_numpy(judged(model)).log()
        return replace(config, temperature=temperature(logits, torch.from_numpy(held_out.labels)))

    return Recipe(
        name="video",
        config=config,
        build=lambda: started(config, data / START),
        batches=lambda rng: batches(faces, rng),
        steps_per_epoch=len(faces.labels) // BATCH_FACES,
        loss=loss,
        validate=lambda model: classification(held_out.labels, judged(model).argmax(axis=1), len(config.labels)),
        metric="accuracy",
        epochs=12,
        learning_rate=1e-3,
        weight_decay=0.05,
        average_decay=0.999,
        bfloat16=True,
        calibrate=calibrated,
        int8_keys=int8_keys(config),
        about={
            "start": f"{START}, SHA-256 {START_SHA256}",
            "data": "FER2013, train",
            "validation_data": "FER2013, public_test",
            "license": "Kaggle 2013 challenge, research use",
            "skipped": faces.skipped + held_out.skipped,
        },
    )


def int8_keys(config: VideoConfig) -> frozenset[str]:
    """The large filters, nine tenths of the file: in 8 bits they cost 0.1 points of accuracy (models/cards/video.md)."""
    parameters = FaceNetwork(config).named_parameters()
    return frozenset(key for key, value in parameters if value.dim() == 4 and value.numel() > LARGE_FILTER)


def batches(faces: Faces, rng: np.random.Generator) -> Iterable[Batch]:
    """One epoch of augmented faces; an incomplete last batch is left out."""
    steps = len(faces.labels) // BATCH_FACES
    for rows in np.split(rng.permutation(len(faces.labels))[: steps * BATCH_FACES], steps):
        yield {
            "pictures": fer2013.augment(faces.pictures[rows], rng),
            "label": torch.from_numpy(faces.labels[rows]),
        }


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Smoothed cross-entropy of every face, plus half of that of four faces of one label pooled by their weights.

    Augmentation blurs and covers some of the four, which teaches the weights to pass over what shows little.
    """
    label = batch["label"]
    _, logits, weights = (value.float() for value in model(batch["pictures"]))
    alone = nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
    groups = label.argsort()[: len(label) // FACES_POOLED * FACES_POOLED].reshape(-1, FACES_POOLED)
    groups = groups[(label[groups] == label[groups[:, :1]]).all(dim=1)]
    if len(groups) == 0:
        return alone
    pooled = (weights[groups].softmax(dim=1)[..., None] * logits[groups]).sum(dim=1)
    return alone + 0.5 * nn.functional.cross_entropy(pooled, label[groups[:, 0]], label_smoothing=0.1)
