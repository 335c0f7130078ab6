"""How the voice network is trained."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibration import temperature
from models.data import ordinary, ravdess, sound
from models.encoders import audio, mel
from models.encoders.audio import AudioConfig, VoiceNetwork
from models.encoders.mel import LogMel
from models.errors import AudioInputError
from models.labels import RAVDESS_LABELS
from models.metrics import classification
from models.recipes.recipe import Batch, Recipe, balanced_class_weights
from models.types import FloatArray

BATCH_CLIPS = 32
ORDINARY_CLIPS = 1
"""How many pieces of speech in which nobody acts, labelled neutral, are added to a batch."""
CERTAINTY, ORDINARY_CERTAINTY = 0.9, 0.5
"""How sure the network shall be of a label; the rest is shared by all classes. Ordinary speech is known by little else than
not being RAVDESS: were it surely neutral, so would be all speech of other people."""
VERSIONS = 7
PASSES = 5
"""Over the clips in an epoch: writing the network down takes longer than a pass."""
POOLED_CLIPS = 16
MIXUP = 0.4
"""Both parameters of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412, section 2)."""
PRETRAINED = "tiny.en"
NEUTRAL = RAVDESS_LABELS.index("neutral")
NOBODY = 0
"""Number of the speakers of ordinary speech, who are in no fold."""

HELD_OUT_ACTORS = tuple(range(first, last) for first, last in ((1, 5), (5, 9), (9, 13), (13, 16), (16, 19), (19, 22)))
"""Actors held out in each fold. Odd actors are men, even ones women; the last fold is the set's own validation split."""


@dataclass(frozen=True, slots=True)
class Voices:
    """Every clip in several versions: as recorded (v = 0), through a telephone (v = 1), or changed at random (v > 1).

    Attributes:
        versions: Statistics (V, N, S) of what Whisper's blocks make of clip n.
        log_mels: `log_mels[v][n]` is clip n itself.
        labels: int64 (N,).
        actors: int64 (N,), 0 of ordinary speech.
        skipped: Files that could not be used.
    """

    versions: FloatArray
    log_mels: Sequence[Sequence[LogMel]]
    labels: NDArray[np.int64]
    actors: NDArray[np.int64]
    skipped: int


def audio_ravdess(data: Path) -> Recipe:
    """Train the voice network on RAVDESS actors 1-18; actors 19-21 only judge it and fit its temperature.

    Whisper's blocks stay as they are: they hear every clip as it is, through a telephone and changed seven times at random
    (`models.data.sound.augment`). Each pass takes one of these, its statistics and its log-mel, which is changed further (`models.data.sound.vary`), and
    mixes pairs of clips; a clip of each batch is ordinary speech, called neutral. Both halves of the network learn beside each other,
    each from its own answers. The last epoch is kept.
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


def _voices(data: Path) -> Voices:
    parts = [ravdess.read(data, split) for split in ("train", "validation")]
    acted = [pair for part in parts for pair in zip(part.clips, part.labels, part.speakers, strict=True)]
    found = [(clip, int(label), int(actor)) for clip, label, actor in acted if _is_heard(clip)]
    skipped = sum(part.skipped for part in parts) + len(acted) - len(found)
    found += [(piece, NEUTRAL, NOBODY) for piece in ordinary.read(data) if _is_heard(piece)]
    clips = [mel.trim(clip) for clip, _, _ in found]
    network = audio.pretrained(AudioConfig(), PRETRAINED)
    recorded = [mel.prepare(clip) for clip in clips]
    changes = [sound.telephone, *(_augmenter(version) for version in range(VERSIONS))]
    log_mels = [recorded, *(_changed(clips, change, recorded) for change in changes)]
    versions = [_pooled(network, version) for version in log_mels]
    labels, actors = (np.array([one[place] for one in found], dtype=np.int64) for place in (1, 2))
    return Voices(np.stack(versions), log_mels, labels, actors, skipped)


def _augmenter(version: int) -> Callable[[FloatArray], FloatArray]:
    """Changes at random: the n-th clip it is given always in the same way."""
    places = itertools.count()
    return lambda clip: sound.augment(clip, np.random.default_rng((version, next(places))))


def _is_heard(clip: FloatArray) -> bool:
    try:
        mel.prepare(clip)
    except AudioInputError:
        return False
    return True


def _changed(
    clips: Sequence[FloatArray], change: Callable[[FloatArray], FloatArray], otherwise: Sequence[LogMel]
) -> list[LogMel]:
    """Changed clips, prepared; `otherwise` where the change left nothing to hear: a click made shorter, hum by telephone."""

    def prepared(clip: FloatArray, own: LogMel) -> LogMel:
        try:
            return mel.prepare(change(clip))
        except AudioInputError:
            return own

    return [prepared(clip, own) for clip, own in zip(clips, otherwise, strict=True)]


@torch.inference_mode()
def _pooled(network: VoiceNetwork, clips: Sequence[LogMel]) -> FloatArray:
    """Statistics (N, S) of each clip."""
    found = np.zeros((len(clips), len(network.center)), np.float32)
    order = sorted(range(len(clips)), key=lambda row: len(clips[row]))
    for first in range(0, len(order), POOLED_CLIPS):
        rows = order[first : first + POOLED_CLIPS]
        found[rows] = audio.statistics(*network.frames(*audio.pad([clips[row] for row in rows]))).numpy()
    return found


def loss(model: nn.Module, batch: Batch, weight: Tensor) -> Tensor:
    """Cross-entropy of each half with the blends' targets, added; `weight` (classes,)."""
    _, logits = cast("VoiceNetwork", model).halves(batch["pooled"], batch["log_mel"], batch["lengths"])
    weight = weight.to(logits.device)
    return torch.stack([nn.functional.cross_entropy(half, batch["target"], weight) for half in logits]).sum()


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out actors' clips as recorded and through a telephone, as in `Voices`, and their labels int64 (N,)."""

    pooled: FloatArray
    log_mels: Sequence[Sequence[LogMel]]
    labels: NDArray[np.int64]
    config: AudioConfig

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Of the clips as recorded, and prefixed `telephone_` of the others."""
        found: dict[str, float] = {}
        for prefix, logits in zip(("", "telephone_"), self._logits(model), strict=True):
            of_clips = classification(self.labels, logits.argmax(dim=1).numpy(), len(self.config.labels))
            found |= {prefix + name: value for name, value in of_clips.items()}
        return found

    def calibrated(self, model: nn.Module) -> AudioConfig:
        """The architecture with the temperature that fits both."""
        answers = torch.cat(self._logits(model))
        return replace(self.config, temperature=temperature(answers, torch.from_numpy(self.labels).repeat(2)))

    def _logits(self, model: nn.Module) -> list[Tensor]:
        """Logits (N, classes) of the clips as recorded and of the others."""
        device = next(model.parameters()).device
        found = []
        for pooled, clips in zip(torch.from_numpy(self.pooled), self.log_mels, strict=True):
            order = np.argsort([len(clip) for clip in clips])
            logits = torch.zeros(len(clips), len(self.config.labels))
            for rows in np.array_split(order, -(-len(order) // POOLED_CLIPS)):
                given = (pooled[rows], *audio.pad([clips[row] for row in rows]))
                logits[rows] = model(*(one.to(device) for one in given))[1].cpu()
            found.append(logits)
        return found


def batches(voices: Voices, rows: NDArray[np.int64], rng: np.random.Generator) -> Iterable[Batch]:
    """One epoch over acted clips `rows`, each in a version drawn at random, with ordinary speech in every batch.

    An incomplete last batch of a pass is left out.
    """
    everyday = np.flatnonzero(voices.actors == NOBODY)
    steps = len(rows) // BATCH_CLIPS
    for _ in range(PASSES):
        for acted in np.split(rng.permutation(rows)[: steps * BATCH_CLIPS], steps):
            drawn = np.concatenate([acted, rng.choice(everyday, min(ORDINARY_CLIPS, len(everyday)))]).astype(np.int64)
            version = rng.integers(len(voices.versions), size=len(drawn))
            log_mels = [
                sound.vary(voices.log_mels[one][row], rng)
                for one, row in zip(version.tolist(), drawn.tolist(), strict=True)
            ]
            yield _mixed(voices.versions[version, drawn], log_mels, _targets(voices, drawn), rng)


def _targets(voices: Voices, rows: NDArray[np.int64]) -> FloatArray:
    """Smoothed targets (B, classes) of clips `rows`."""
    classes = len(RAVDESS_LABELS)
    certainty = np.where(voices.actors[rows] == NOBODY, ORDINARY_CERTAINTY, CERTAINTY)[:, None]
    targets = certainty * np.eye(classes)[voices.labels[rows]] + (1 - certainty) / classes
    return np.asarray(targets, dtype=np.float32)


def _build(config: AudioConfig, pooled: FloatArray) -> VoiceNetwork:
    """The network before training, which knows the mean and deviation of the statistics (V, N, S) of its training part."""
    network = audio.pretrained(config, PRETRAINED)
    network.spectral.to(memory_format=torch.channels_last)
    flat = torch.from_numpy(pooled).flatten(0, 1)
    network.center.copy_(flat.mean(dim=0))
    network.scale.copy_(flat.std(dim=0) + 1e-3)
    return network


def _recipe(get_voices: Callable[[], Voices], held_out_actors: range) -> Recipe:
    voices, config = get_voices(), AudioConfig()
    is_held_out = np.isin(voices.actors, held_out_actors)
    rows, held_out = np.flatnonzero(~is_held_out & (voices.actors != NOBODY)), np.flatnonzero(is_held_out)
    heard = [[version[row] for row in held_out.tolist()] for version in voices.log_mels[:2]]
    validation = Validation(voices.versions[:2, held_out], heard, voices.labels[held_out], config)
    weight = balanced_class_weights(voices.labels[rows], len(config.labels))
    return Recipe(
        name="audio",
        config=config,
        build=lambda: _build(config, voices.versions[:, rows]),
        batches=lambda rng: batches(voices, rows, rng),
        steps_per_epoch=PASSES * (len(rows) // BATCH_CLIPS),
        loss=lambda model, batch: loss(model, batch, weight),
        validate=validation.figures,
        metric=None,
        epochs=20,
        learning_rate=2e-3,
        weight_decay=0.05,
        average_decay=0.99,
        bfloat16=True,
        calibrate=validation.calibrated,
        int8_keys=audio.int8_keys(config),
        about={
            "data": f"RAVDESS speech, actors 1-21 without {held_out_actors[0]}-{held_out_actors[-1]}; LibriVox and an agent's monologue",
            "validation_data": f"RAVDESS speech, actors {held_out_actors[0]}-{held_out_actors[-1]}",
            "license": "CC BY-NC-SA 4.0, public domain, Apache-2.0; start: Whisper tiny.en, MIT",
            "skipped": voices.skipped,
        },
    )


def _mixed(pooled: FloatArray, log_mels: Sequence[FloatArray], targets: FloatArray, rng: np.random.Generator) -> Batch:
    """Statistics (B, S), log-mels and targets (B, classes), half of the rows blended with another row of the batch: mixup.

    A blend is as long as the clip that has the larger share of it.
    """
    drawn = rng.beta(MIXUP, MIXUP, len(pooled))
    drawn = np.where(rng.random(len(pooled)) < 0.5, np.maximum(drawn, 1 - drawn), 1.0)
    share = np.asarray(drawn[:, None], dtype=np.float32)
    partners = rng.permutation(len(pooled))
    blends = (torch.from_numpy(share * one + (1 - share) * one[partners]) for one in (pooled, targets))
    blended = []
    for own, part, partner in zip(log_mels, share, partners, strict=True):
        other = np.full_like(own, own.min())
        size = min(len(own), len(log_mels[partner]))
        other[:size] = log_mels[partner][:size]
        blended.append(part * own + (1 - part) * other)
    padded, lengths = audio.pad(blended)
    return {**dict(zip(("pooled", "target"), blends, strict=True)), "log_mel": padded, "lengths": lengths}
