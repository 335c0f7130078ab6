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
ORDINARY_CLIPS = 2
"""How many of these are pieces of speech in which nobody acts, labelled neutral."""
FRAMES_MAX = 72
"""1.44 s: a part of most clips, so that no answer can hang on a whole sentence, of which there are only two."""
MASKED_FRAMES = 12
VERSIONS = 3
LOWER_CLIPS = 16
EPOCHS = 20
MIXUP = 0.4
"""Both parameters of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412, section 2)."""
PRETRAINED = "tiny.en"
TUNED_RATE = 0.05
"""What the learning rate is multiplied by for Whisper's own weights."""
NEUTRAL = RAVDESS_LABELS.index("neutral")
NOBODY = 0
"""Number of the speakers of ordinary speech, who are in no fold."""

HELD_OUT_ACTORS = tuple(range(first, last) for first, last in ((1, 5), (5, 9), (9, 13), (13, 16), (16, 19), (19, 22)))
"""Actors held out in each fold. Odd actors are men, even ones women; the last fold is the set's own validation split."""

Lower = NDArray[np.float16]
"""A clip (T', C) behind Whisper's frozen blocks, a frame per 20 ms."""


@dataclass(frozen=True, slots=True)
class Voices:
    """Every clip in several versions, behind the frozen blocks, ready to be cut and masked.

    Attributes:
        versions: `versions[v][n]` is clip n as recorded (v = 0), through a telephone (v = 1), or changed at random (v > 1).
        labels: int64 (N,).
        actors: int64 (N,), 0 of ordinary speech.
        skipped: Files that could not be used.
    """

    versions: Sequence[Sequence[Lower]]
    labels: NDArray[np.int64]
    actors: NDArray[np.int64]
    skipped: int


def audio_ravdess(data: Path) -> Recipe:
    """Train the voice network on RAVDESS actors 1-18; actors 19-21 only judge it and fit its temperature.

    Whisper's first blocks stay as they are: they are asked once, of every clip as it is, through a telephone and changed three
    times at random (`models.data.sound.augment`). Each epoch takes one of these, cuts and masks it (`vary`) and mixes pairs
    of clips; two clips of a batch are ordinary speech, called neutral. The last epoch is kept.
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


def vary(lower: Lower, rng: np.random.Generator) -> FloatArray:
    """At most 72 frames from a random place of a clip (T', C), with up to 12 of them set to zero."""
    first = int(rng.integers(0, max(1, len(lower) - FRAMES_MAX + 1)))
    x = lower[first : first + FRAMES_MAX].astype(np.float32)
    masked = int(rng.integers(0, MASKED_FRAMES + 1))
    start = int(rng.integers(0, max(1, len(x) - masked)))
    x[start : start + masked] = 0
    return x


def _voices(data: Path) -> Voices:
    parts = [ravdess.read(data, split) for split in ("train", "validation")]
    acted = [pair for part in parts for pair in zip(part.clips, part.labels, part.speakers, strict=True)]
    found = [(clip, int(label), int(actor)) for clip, label, actor in acted if _is_heard(clip)]
    skipped = sum(part.skipped for part in parts) + len(acted) - len(found)
    found += [(piece, NEUTRAL, NOBODY) for piece in ordinary.read(data) if _is_heard(piece)]
    clips = [mel.trim(clip) for clip, _, _ in found]
    network = audio.pretrained(AudioConfig(), PRETRAINED)
    recorded = [mel.prepare(clip) for clip in clips]
    versions = [_lower(network, recorded), _lower(network, _changed(clips, sound.telephone, recorded))]
    for version in range(VERSIONS):
        rngs = (np.random.default_rng((version, row)) for row in range(len(clips)))
        versions.append(
            _lower(network, _changed(clips, lambda clip, rngs=rngs: sound.augment(clip, next(rngs)), recorded))
        )
    labels, actors = (np.array([one[place] for one in found], dtype=np.int64) for place in (1, 2))
    return Voices(versions, labels, actors, skipped)


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
def _lower(network: VoiceNetwork, clips: Sequence[LogMel]) -> list[Lower]:
    """What the frozen blocks give of each clip."""
    found: dict[int, Lower] = {}
    order = sorted(range(len(clips)), key=lambda row: len(clips[row]))
    for first in range(0, len(order), LOWER_CLIPS):
        rows = order[first : first + LOWER_CLIPS]
        lower, inside = network.whisper.lower(*audio.pad([clips[row] for row in rows]))
        for row, frames, mask in zip(rows, lower, inside, strict=True):
            found[row] = frames[mask].numpy().astype(np.float16)
    return [found[row] for row in range(len(clips))]


def loss(model: nn.Module, batch: Batch, weight: Tensor) -> Tensor:
    """Smoothed cross-entropy of both clips of a blend, each by its share; `weight` (classes,)."""
    network = cast("VoiceNetwork", model)
    logits = network.pool(network.put_together(batch["lower"], batch["inside"]), batch["inside"])[1].float()
    own, other = (
        nn.functional.cross_entropy(logits, batch[key], weight.to(logits.device), label_smoothing=0.1, reduction="none")
        for key in ("label", "other")
    )
    return (batch["share"] * own + (1 - batch["share"]) * other).mean()


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out actors' clips as recorded and through a telephone, and their labels int64 (N,)."""

    recorded: Sequence[Lower]
    telephone: Sequence[Lower]
    labels: NDArray[np.int64]
    config: AudioConfig

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Of the clips as recorded, and prefixed `telephone_` of the others."""
        found: dict[str, float] = {}
        for prefix, clips in (("", self.recorded), ("telephone_", self.telephone)):
            answer = _logits(model, clips).argmax(dim=1).numpy()
            of_clips = classification(self.labels, answer, len(self.config.labels))
            found |= {prefix + name: value for name, value in of_clips.items()}
        return found

    def calibrated(self, model: nn.Module) -> AudioConfig:
        """The architecture with the temperature that fits both."""
        answers = torch.cat([_logits(model, clips) for clips in (self.recorded, self.telephone)])
        return replace(self.config, temperature=temperature(answers, torch.from_numpy(self.labels).repeat(2)))


def _logits(model: nn.Module, clips: Sequence[Lower]) -> Tensor:
    """Logits (N, classes) of whole clips."""
    network = cast("VoiceNetwork", model)
    device = next(model.parameters()).device
    found = []
    for first in range(0, len(clips), BATCH_CLIPS):
        lower, inside = (part.to(device) for part in _padded(clips[first : first + BATCH_CLIPS]))
        found.append(network.pool(network.put_together(lower, inside), inside)[1].float().cpu())
    return torch.cat(found)


def batches(voices: Voices, rows: NDArray[np.int64], rng: np.random.Generator) -> Iterable[Batch]:
    """One epoch over acted clips `rows`, each in a version drawn at random, with ordinary speech in every batch.

    An incomplete last batch is left out.
    """
    everyday = np.flatnonzero(voices.actors == NOBODY)
    few = min(ORDINARY_CLIPS, len(everyday))
    acted = BATCH_CLIPS - few
    for first in range(0, len(rows) - acted + 1, acted):
        if first == 0:
            rows = rng.permutation(rows)
        drawn = np.concatenate([rows[first : first + acted], rng.choice(everyday, few)]).astype(np.int64)
        clips = [vary(voices.versions[int(rng.integers(len(voices.versions)))][row], rng) for row in drawn.tolist()]
        yield _mixed(clips, voices.labels[drawn], rng)


def _recipe(get_voices: Callable[[], Voices], held_out_actors: range) -> Recipe:
    voices, config = get_voices(), AudioConfig()
    is_held_out = np.isin(voices.actors, held_out_actors)
    rows, held_out = np.flatnonzero(~is_held_out & (voices.actors != NOBODY)), np.flatnonzero(is_held_out).tolist()
    recorded, telephone = ([version[row] for row in held_out] for version in voices.versions[:2])
    validation = Validation(recorded, telephone, voices.labels[held_out], config)
    weight = balanced_class_weights(voices.labels[rows], len(config.labels))
    everyday = min(ORDINARY_CLIPS, int((voices.actors == NOBODY).sum()))
    return Recipe(
        name="audio",
        config=config,
        build=lambda: audio.pretrained(config, PRETRAINED),
        batches=lambda rng: batches(voices, rows, rng),
        steps_per_epoch=len(rows) // (BATCH_CLIPS - everyday),
        loss=lambda model, batch: loss(model, batch, weight),
        validate=validation.figures,
        metric=None,
        epochs=EPOCHS,
        learning_rate=1e-3,
        rate_factors={"whisper.": TUNED_RATE},
        weight_decay=0.05,
        average_decay=0.99,
        calibrate=validation.calibrated,
        int8_keys=audio.int8_keys(config),
        about={
            "data": f"RAVDESS speech, actors 1-21 without {held_out_actors[0]}-{held_out_actors[-1]}; LibriVox and an agent's monologue",
            "validation_data": f"RAVDESS speech, actors {held_out_actors[0]}-{held_out_actors[-1]}",
            "license": "CC BY-NC-SA 4.0, public domain, Apache-2.0; start: Whisper tiny.en, MIT",
            "skipped": voices.skipped,
        },
    )


def _padded(clips: Sequence[NDArray[np.floating]]) -> tuple[Tensor, Tensor]:
    """Clips (T', C) of several lengths as one tensor (B, T', C), and which of its frames are inside (B, T')."""
    padded, lengths = audio.pad(clips)
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None]


def _mixed(clips: Sequence[FloatArray], labels: NDArray[np.int64], rng: np.random.Generator) -> Batch:
    """Clips padded to one tensor, half of them blended with another clip of the batch: mixup.

    A blend is as long as the clip that has the larger `share` of it.
    """
    share = rng.beta(MIXUP, MIXUP, len(clips))
    share = np.where(rng.random(len(clips)) < 0.5, np.maximum(share, 1 - share), 1.0).astype(np.float32)
    partners = rng.permutation(len(clips))
    blended = []
    for row, partner in enumerate(partners):
        own, other = clips[row], np.zeros_like(clips[row])
        size = min(len(own), len(clips[partner]))
        other[:size] = clips[partner][:size]
        blended.append(share[row] * own + (1 - share[row]) * other)
    lower, inside = _padded(blended)
    return {
        "lower": lower,
        "inside": inside,
        "label": torch.from_numpy(labels),
        "other": torch.from_numpy(labels[partners]),
        "share": torch.from_numpy(share),
    }
