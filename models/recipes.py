"""Recipes: functions that return everything needed to train one published result.

To add one: write `def my_recipe(data: Path) -> Recipe` (the data folder is laid out as the data README says; sets it
lacks are a `DataError`), and add it to `RECIPES` at the end of this file. The loop in `models/train.py` calls, in
order: `build()`; then per epoch `batches(rng)` and, on each batch, `loss(model, batch)`; then `validate(model)`. Keep
all randomness in the given generator or in torch's global one: both are seeded per epoch, which makes a resumed run
equal to an undisturbed one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.bundles import EMBEDDED, load_bundle
from models.checkpoint import Config
from models.data import airline, fer2013, goemotions, meld, ravdess, sound
from models.encoders import audio, minilm, text_training
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.encoders.text import PieceReader, TextConfig, TextNetwork, prepare
from models.encoders.text_training import Share
from models.encoders.video import FaceNetwork, VideoConfig, VideoEncoder
from models.fusion import label_pairs
from models.fusion.attention import MODALITIES, FusionConfig, FusionNetwork
from models.metrics import classification

Batch = Mapping[str, Tensor]
"""One step's input; every tensor is moved to the training device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything needed to train one network; the loop adds nothing of its own.

    Attributes:
        name: The network's name, and the stem of the checkpoint that is written.
        config: The architecture, saved in the checkpoint.
        build: The network, freshly initialised (or from pretrained weights).
        batches: One epoch of batches, shuffled and augmented by the given generator.
        steps_per_epoch: How many batches an epoch has (for the schedule).
        loss: The loss of one batch, a scalar; class weights and label smoothing belong in here.
        validate: Figures on the validation split; the model is in `eval` mode, without gradients.
        metric: Which of those figures chooses the best epoch; higher is better.
        epochs: How many.
        learning_rate: Peak of the warm-up, then cosine to zero.
        weight_decay: AdamW's, on tensors of two or more dimensions only.
        warmup_fraction: Part of all steps.
        clip_norm: Largest gradient norm.
        average_decay: Validate and keep an exponential moving average of the weights; 0 keeps the weights themselves.
        int8_keys: Matrices of the state dict to store in 8 bits (`models.checkpoint.save`).
        about: For the card: data, licence, split, counts of skipped rows.
    """

    name: str
    config: Config
    build: Callable[[], nn.Module]
    batches: Callable[[np.random.Generator], Iterable[Batch]]
    steps_per_epoch: int
    loss: Callable[[nn.Module, Batch], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    metric: str
    epochs: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    clip_norm: float = 1.0
    average_decay: float = 0.0
    int8_keys: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)


def balanced_class_weights(labels: np.ndarray[Any, Any], classes: int, power: float = 1.0) -> Tensor:
    """Weights (classes,) proportional to `1 / count ** power`, with mean 1 over the samples; absent classes get 0."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    raw = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return torch.from_numpy((raw * counts.sum() / (raw * counts).sum()).astype(np.float32))


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


def text_multitask(data: Path) -> Recipe:
    """Train the text network on MELD, airline tweets and GoEmotions together, from MiniLM's first five layers.

    The vocabulary is cut to 10,000 pieces. The epoch is chosen by the mean of three figures: weighted F1 of emotion and
    of polarity on MELD dev, and macro F1 of polarity on a tenth of the tweets.
    """
    shares = [
        Share(meld.read(data, "train"), per_epoch=10_000),
        Share(airline.read(data, "train"), per_epoch=5_000),
        Share(goemotions.read(data, "train"), per_epoch=12_000, weight=0.5),
    ]
    held_out = {"meld": meld.read(data, "dev"), "airline": airline.read(data, "validation")}
    texts = [prepare(text) for share in shares for text in share.sentences.texts]
    config = TextConfig(vocabulary=minilm.choose_vocabulary(texts))
    reader = PieceReader(config)

    def validate(model: nn.Module) -> dict[str, float]:
        figures = text_training.validate(model, reader, held_out)
        chosen = ("meld_emotion_f1_weighted", "meld_polarity_f1_weighted", "airline_polarity_f1_macro")
        return figures | {"mean_f1": sum(figures[key] for key in chosen) / len(chosen)}

    return Recipe(
        name="text",
        config=config,
        build=lambda: minilm.start(config),
        batches=lambda rng: text_training.batches(shares, reader, rng),
        steps_per_epoch=text_training.steps_per_epoch(shares),
        loss=text_training.loss,
        validate=validate,
        metric="mean_f1",
        epochs=3,
        learning_rate=1e-4,
        warmup_fraction=0.1,
        int8_keys=frozenset(key for key, value in TextNetwork(config).named_parameters() if value.dim() > 1),
        about={
            "data": "MELD train, airline tweets (nine tenths by hash), GoEmotions train; from all-MiniLM-L6-v2",
            "validation_data": "MELD dev, airline tweets (a tenth by hash)",
            "license": "MELD research (GPL-3.0 repository), tweets CC BY-NC-SA 4.0, GoEmotions and MiniLM Apache-2.0",
            "skipped": sum(share.sentences.skipped for share in shares),
        },
    )


def fusion_label_pairs(data: Path) -> Recipe:
    """Train the fusion on label pairs, as the encoders of the embedded bundle see them (a few minutes).

    Train the encoders first, put their checkpoints into the bundle and seal it (`python -m models.bundles`).
    """
    bundle = load_bundle(EMBEDDED)
    heard, held_out = (label_pairs.read(bundle, data, split) for split in ("train", "validation"))
    exchanged, size = label_pairs.noise(heard, held_out), 128
    config = FusionConfig(embeddings=tuple(heard[modality].embeddings.shape[1] for modality in MODALITIES))
    return Recipe(
        name="fusion",
        config=config,
        build=lambda: FusionNetwork(config),
        batches=lambda rng: label_pairs.batches(heard, exchanged, size, rng),
        steps_per_epoch=len(heard[MODALITIES[-1]].emotions) // size,
        loss=label_pairs.loss,
        validate=label_pairs.validate(held_out),
        metric="mean_f1",
        epochs=20,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        about={
            "data": "label pairs of MELD train, RAVDESS actors 1-18 and 8,000 faces of FER2013 train",
            "validation_data": "label pairs of MELD dev, RAVDESS actors 19-21 and FER2013 public_test",
            "license": "see the encoders",
            "encoders": {part: bundle.parts[part].sha256 for part in MODALITIES},
            "exchanged": {str(modality): round(share, 3) for modality, share in exchanged.items()},
            "doubt": label_pairs.DOUBT,
        },
    )


RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "audio_ravdess": audio_ravdess,
    "debug": debug,
    "fusion_label_pairs": fusion_label_pairs,
    "text_multitask": text_multitask,
    "video_fer2013": video_fer2013,
}
"""What `undertone train RECIPE` knows."""
