"""How the face network is trained."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import checkpoint
from models.calibration import temperature
from models.data import fer2013
from models.data.faces import Faces
from models.encoders.video import FaceNetwork, VideoConfig, VideoEncoder
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe
from models.types import FloatArray

START, START_SHA256 = "video_start.safetensors", "da35c18d362251190366de09982e5dc3d43128580a4f38a16dc76c0cb71bebb4"
"""Where the training starts, in the data folder, and who teaches it: the face network of commit 18368a8, trained on the same faces for
90 epochs. `git show 18368a8:models/bundles/embedded/video.safetensors > DATA/video_start.safetensors`."""
TEACHER_SHARE = 0.5
"""Of a face's target: what the network of `START` says of it, at temperature 1; the rest is its label. Self-distillation (Furlanello
et al. 2018, arXiv:1805.04770): people agree with FER2013's labels about 65 % of the time (Goodfellow et al. 2013,
arXiv:1307.0414, section 3), and the teacher says where they are doubtful."""
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = VideoEncoder(started(config, data / START), config, name="teacher", device=device)
    targets = softened(faces.labels, teacher.classify(list(faces.pictures[:, None])))

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
        batches=lambda rng: batches(faces, targets, rng),
        steps_per_epoch=len(faces.labels) // BATCH_FACES,
        loss=loss,
        validate=lambda model: classification(held_out.labels, judged(model).argmax(axis=1), len(config.labels)),
        metric="accuracy",
        epochs=40,
        learning_rate=2e-3,
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


def softened(labels: NDArray[np.int64], probabilities: FloatArray) -> Tensor:
    """Targets (N, classes): `TEACHER_SHARE` of the teacher's probabilities (N, classes), the rest the label (N,)."""
    hard = functional.one_hot(torch.from_numpy(labels), probabilities.shape[1])
    return TEACHER_SHARE * torch.from_numpy(probabilities) + (1 - TEACHER_SHARE) * hard


def int8_keys(config: VideoConfig) -> frozenset[str]:
    """The large filters, nine tenths of the file: in 8 bits they change accuracy by 0.1 points (models/cards/video.md)."""
    parameters = FaceNetwork(config).named_parameters()
    return frozenset(key for key, value in parameters if value.dim() == 4 and value.numel() > LARGE_FILTER)


def batches(faces: Faces, targets: Tensor, rng: np.random.Generator) -> Iterable[Batch]:
    """One epoch of augmented faces; an incomplete last batch is left out."""
    steps = len(faces.labels) // BATCH_FACES
    for rows in np.split(rng.permutation(len(faces.labels))[: steps * BATCH_FACES], steps):
        yield {
            "pictures": fer2013.augment(faces.pictures[rows], rng),
            "label": torch.from_numpy(faces.labels[rows]),
            "target": targets[torch.from_numpy(rows)],
        }


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every face to its target, plus half of that of four faces of one label pooled by their weights.

    Augmentation blurs and covers some of the four, which teaches the weights to pass over what shows little.
    """
    label, target = batch["label"], batch["target"]
    _, logits, weights = (value.float() for value in model(batch["pictures"]))
    alone = functional.cross_entropy(logits, target)
    groups = label.argsort()[: len(label) // FACES_POOLED * FACES_POOLED].reshape(-1, FACES_POOLED)
    groups = groups[(label[groups] == label[groups[:, :1]]).all(dim=1)]
    if len(groups) == 0:
        return alone
    pooled = (weights[groups].softmax(dim=1)[..., None] * logits[groups]).sum(dim=1)
    return alone + 0.5 * functional.cross_entropy(pooled, target[groups].mean(dim=1))
