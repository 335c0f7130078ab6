"""How the voice network is trained."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import temperature
from models.data import ravdess, sound
from models.encoders import audio, mel
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.encoders.mel import LogMel
from models.errors import AudioInputError
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe, balanced_class_weights
from models.types import FloatArray

BATCH_CLIPS = 32
FRAMES_MAX = 224
VERSIONS = 8
MIXUP = 0.4
"""Both parameters of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412, section 2)."""
SILENT = np.log(mel.FLOOR)

HELD_OUT_ACTORS = tuple(range(first, last) for first, last in ((1, 5), (5, 9), (9, 13), (13, 16), (16, 19), (19, 22)))
"""Actors held out in each fold. Odd actors are men, even ones women; the last fold is the set's own validation split."""


@dataclass(frozen=True, slots=True)
class Voices:
    """Every clip of some actors in several versions, ready to be cut and masked.

    Attributes:
        versions: `versions[v][n]` is clip n as recorded (v = 0) or changed at random (v > 0).
        telephone: Every clip through a telephone.
        labels: int64 (N,).
        actors: int64 (N,).
        skipped: Files that could not be used.
    """

    versions: Sequence[Sequence[LogMel]]
    telephone: Sequence[LogMel]
    labels: NDArray[np.int64]
    actors: NDArray[np.int64]
    skipped: int


def audio_ravdess(data: Path) -> Recipe:
    """Train the voice network on RAVDESS actors 1-18; actors 19-21 only judge it and fit its temperature.

    When the recipe starts each clip is changed seven times at random (`models.data.sound.augment`) and once sent through a
    telephone as it is; each epoch takes one of these or the clip itself, changes its log-mel at random (`vary`) and mixes
    pairs of clips. The last epoch is kept.
    """
    return _recipe(lambda: _voices(data), HELD_OUT_ACTORS[-1])


def audio_ravdess_folds(data: Path) -> list[Callable[[], Recipe]]:
    """Cross-validation: six trainings, each validated on actors that are not in its training part."""
    found: list[Voices] = []

    def voices() -> Voices:
        # Minutes of work that all folds share.
        if not found:
            found.append(_voices(data))
        return found[0]

    return [lambda actors=actors: _recipe(voices, actors) for actors in HELD_OUT_ACTORS]  # type: ignore[misc]


def vary(log_mel: LogMel, rng: np.random.Generator) -> FloatArray:
    """At most 224 rows from a random place of a log-mel (T, 64), changed as another speaker, line and moment would.

    Pace 0.85 to 1.18, pitch and formants by up to 2.5 mel bands, a smooth colour within 4 dB; then two bands of up to 10
    mels and two moments of up to 0.25 s are flattened to the mean (SpecAugment; Park et al. 2019, arXiv:1904.08779).
    """
    pace, shift = rng.uniform(0.85, 1.18), rng.uniform(-2.5, 2.5)
    frames = min(FRAMES_MAX, int(len(log_mel) / pace))
    first = rng.uniform(0, max(0.0, len(log_mel) - 1 - frames * pace))
    x = _interpolated(log_mel.astype(np.float32), first + pace * np.arange(frames), axis=0)
    x = _interpolated(x, np.arange(mel.MELS) + shift, axis=1)
    colour = np.interp(np.linspace(0, 4, mel.MELS), np.arange(5), rng.uniform(-0.9, 0.9, 5))
    x = np.maximum(x + colour.astype(np.float32), np.float32(SILENT))
    mean = x.mean()
    for _ in range(2):
        band, moment = int(rng.integers(0, 11)), int(rng.integers(0, 26))
        low, start = int(rng.integers(0, mel.MELS - band)), int(rng.integers(0, max(1, len(x) - moment)))
        x[:, low : low + band] = mean
        x[start : start + moment] = mean
    return x


def _interpolated(x: FloatArray, places: FloatArray | NDArray[np.float64], axis: int) -> FloatArray:
    """Values of `x` at fractional places along an axis, the edges repeated outside."""
    places = places.clip(0, x.shape[axis] - 1)
    low = places.astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    part = np.expand_dims((places - low).astype(np.float32), 1 - axis)
    return np.asarray(x.take(low, axis) * (1 - part) + x.take(high, axis) * part, dtype=np.float32)


def _voices(data: Path) -> Voices:
    parts = [ravdess.read(data, split) for split in ("train", "validation")]
    found: list[tuple[FloatArray, int, int]] = []
    skipped = sum(part.skipped for part in parts)
    for part in parts:
        for clip, label, speaker in zip(part.clips, part.labels, part.speakers, strict=True):
            try:
                mel.prepare(clip)
            except AudioInputError:
                skipped += 1
            else:
                found.append((mel.trim(clip), int(label), int(speaker)))
    rng = np.random.default_rng(0)
    recorded = [mel.prepare(clip) for clip, _, _ in found]

    def changed(change: Callable[[FloatArray], FloatArray]) -> list[LogMel]:
        return [_prepared(change(clip), own) for (clip, _, _), own in zip(found, recorded, strict=True)]

    return Voices(
        [recorded, *(changed(lambda clip: sound.augment(clip, rng)) for _ in range(VERSIONS - 1))],
        changed(sound.telephone),
        np.array([label for _, label, _ in found]),
        np.array([speaker for _, _, speaker in found]),
        skipped,
    )


def _prepared(samples: FloatArray, otherwise: LogMel) -> LogMel:
    """A changed clip's log-mel; `otherwise` where the change left nothing to hear: a click made shorter, hum by telephone."""
    try:
        return mel.prepare(samples)
    except AudioInputError:
        return otherwise


def loss(model: nn.Module, batch: Batch, weight: Tensor) -> Tensor:
    """Smoothed cross-entropy of both clips of a blend, each by its share; `weight` (classes,)."""
    logits = model(batch["log_mel"], batch["lengths"])[1].float()
    own, other = (
        nn.functional.cross_entropy(logits, batch[key], weight.to(logits.device), label_smoothing=0.1, reduction="none")
        for key in ("label", "other")
    )
    return (batch["share"] * own + (1 - batch["share"]) * other).mean()


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out actors' clips as recorded and through a telephone, and their labels int64 (N,)."""

    recorded: Sequence[LogMel]
    telephone: Sequence[LogMel]
    labels: NDArray[np.int64]
    config: AudioConfig

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Of the clips as recorded, and prefixed `telephone_` of the others."""
        found: dict[str, float] = {}
        for prefix, clips in (("", self.recorded), ("telephone_", self.telephone)):
            answer = self._probabilities(model, clips).argmax(axis=1)
            of_clips = classification(self.labels, answer, len(self.config.labels))
            found |= {prefix + name: value for name, value in of_clips.items()}
        return found

    def calibrated(self, model: nn.Module) -> AudioConfig:
        """The architecture with the temperature that fits both."""
        answers = np.concatenate([self._probabilities(model, clips) for clips in (self.recorded, self.telephone)])
        labels = torch.from_numpy(np.tile(self.labels, 2))
        return replace(self.config, temperature=temperature(torch.from_numpy(answers).log(), labels))

    def _probabilities(self, model: nn.Module, clips: Sequence[LogMel]) -> FloatArray:
        return audio.AudioEncoder(cast("VoiceNetwork", model), self.config, name="audio").classify(clips)


def batches(voices: Voices, rows: NDArray[np.int64], rng: np.random.Generator) -> Iterable[Batch]:
    """One epoch over clips `rows`, each in a version drawn at random; an incomplete last batch is left out."""
    versions = [*voices.versions, voices.telephone]
    steps = len(rows) // BATCH_CLIPS
    for drawn in np.split(rng.permutation(rows)[: steps * BATCH_CLIPS], steps):
        yield _mixed(
            [vary(versions[int(rng.integers(len(versions)))][row], rng) for row in drawn.tolist()],
            voices.labels[drawn],
            rng,
        )


def _recipe(get_voices: Callable[[], Voices], held_out_actors: range) -> Recipe:
    voices, config = get_voices(), AudioConfig()
    is_held_out = np.isin(voices.actors, held_out_actors)
    rows, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out).tolist()
    validation = Validation(
        [voices.versions[0][row] for row in held_out],
        [voices.telephone[row] for row in held_out],
        voices.labels[held_out],
        config,
    )
    weight = balanced_class_weights(voices.labels[rows], len(config.labels))
    return Recipe(
        name="audio",
        config=config,
        build=lambda: VoiceNetwork(config).to(memory_format=torch.channels_last),
        batches=lambda rng: batches(voices, rows, rng),
        steps_per_epoch=len(rows) // BATCH_CLIPS,
        loss=lambda model, batch: loss(model, batch, weight),
        validate=validation.figures,
        metric=None,
        epochs=100,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        bfloat16=True,
        calibrate=validation.calibrated,
        about={
            "data": f"RAVDESS speech, actors 1-21 without {held_out_actors[0]}-{held_out_actors[-1]}",
            "validation_data": f"RAVDESS speech, actors {held_out_actors[0]}-{held_out_actors[-1]}",
            "license": "CC BY-NC-SA 4.0",
            "skipped": voices.skipped,
        },
    )


def _mixed(log_mels: Sequence[FloatArray], labels: NDArray[np.int64], rng: np.random.Generator) -> Batch:
    """Clips padded to one tensor, half of them blended with another clip of the batch: mixup.

    A blend is as long as the clip that has the larger `share` of it.
    """
    share = rng.beta(MIXUP, MIXUP, len(log_mels))
    share = np.where(rng.random(len(log_mels)) < 0.5, np.maximum(share, 1 - share), 1.0).astype(np.float32)
    partners = rng.permutation(len(log_mels))
    blended = []
    for row, partner in enumerate(partners):
        own, other = log_mels[row], np.full_like(log_mels[row], SILENT)
        size = min(len(own), len(log_mels[partner]))
        other[:size] = log_mels[partner][:size]
        blended.append(share[row] * own + (1 - share[row]) * other)
    padded, lengths = audio.pad(blended)
    return {
        "log_mel": padded,
        "lengths": lengths,
        "label": torch.from_numpy(labels),
        "other": torch.from_numpy(labels[partners]),
        "share": torch.from_numpy(share),
    }
