"""How the voice network is trained."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.data import ravdess, sound
from models.encoders import audio
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe, balanced_class_weights


def audio_ravdess(data: Path) -> Recipe:
    """Train the voice network on RAVDESS actors 1-18, choosing the epoch by UAR on actors 19-21.

    Each clip is changed five times at random when the recipe starts (`models.data.sound.augment`), each epoch takes one
    of the six versions, cuts at most 2.24 s out of it and masks bands and moments (SpecAugment, arXiv:1904.08779).
    """
    heard, held_out = ravdess.read(data, "train"), ravdess.read(data, "validation")
    clips, rng = [audio.trim(clip) for clip in heard.clips], np.random.default_rng(0)
    versions = [[audio.prepare(clip) for clip in clips]]
    versions += [[audio.prepare(sound.augment(clip, rng)) for clip in clips] for _ in range(5)]
    rows_held_out = {
        "": [audio.prepare(clip) for clip in held_out.clips],
        "telephone_": [audio.prepare(sound.telephone(clip)) for clip in held_out.clips],
    }
    config, size = AudioConfig(), 32
    steps = len(clips) // size
    weight = balanced_class_weights(heard.labels, len(config.labels))

    def batches(rng: np.random.Generator) -> Iterable[Batch]:
        for rows in np.split(rng.permutation(len(clips))[: steps * size], steps):
            chosen = [audio.mask_at_random(versions[rng.integers(6)][row], rng) for row in rows]
            log_mel, lengths = audio.pad(chosen)
            yield {"log_mel": log_mel, "lengths": lengths, "label": torch.from_numpy(heard.labels[rows])}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        _, logits = model(batch["log_mel"], batch["lengths"])
        return nn.functional.cross_entropy(logits, batch["label"], weight.to(logits.device), label_smoothing=0.1)

    def validate(model: nn.Module) -> dict[str, float]:
        encoder = audio.AudioEncoder(cast("VoiceNetwork", model), config, name="audio")
        figures: dict[str, float] = {}
        for prefix, log_mels in rows_held_out.items():
            answer = np.array([probabilities.argmax() for _, probabilities in encoder.clips(log_mels)])
            found = classification(held_out.labels, answer, len(config.labels))
            figures |= {prefix + name: value for name, value in found.items()}
        return figures

    return Recipe(
        name="audio",
        config=config,
        build=lambda: VoiceNetwork(config).to(memory_format=torch.channels_last),
        batches=batches,
        steps_per_epoch=steps,
        loss=loss,
        validate=validate,
        metric="balanced_accuracy",
        epochs=48,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        about={
            "data": "RAVDESS speech, actors 1-18",
            "validation_data": "RAVDESS speech, actors 19-21",
            "license": "CC BY-NC-SA 4.0",
            "skipped": heard.skipped + held_out.skipped,
        },
    )
