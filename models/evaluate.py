"""Judging trained networks on labelled data: one JSON object, with the constant predictor's row beside ours.

To add a data set: write `def my_set(bundle: Path, data: Path, split: str) -> Answers`, which loads what it judges from the
folder `bundle` and asks it about everything in the split, and add it to `DATASETS` at the end of this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data import fer2013 as fer2013_files
from models.data import ravdess as ravdess_files
from models.data import sound
from models.data.labels import (
    EMOTION_POLARITY,
    FER2013_LABELS,
    RAVDESS_LABELS,
    TO_EMOTION,
    emotion_matrix,
    prediction_from_emotions,
)
from models.encoders.audio import AudioEncoder, AudioInputError, prepare
from models.encoders.video import VideoEncoder
from models.metrics import classification_task
from models.types import EMOTIONS, POLARITIES, FloatArray

EMBEDDED = Path(__file__).parent / "bundles" / "embedded"


class EvaluateError(ValueError):
    """The evaluation cannot start; the message says what to do next."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question asked of every sample: label names (C), true indices int64 (N,), probabilities (N, C)."""

    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: FloatArray


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked and answered, and how many rows or files were left out as broken."""

    tasks: Mapping[str, Task]
    skipped: int


def run(modality: str, bundle: str, dataset: str, data: Path, split: str = "validation") -> dict[str, Any]:
    """Evaluate one network of a bundle on one data set; this is `undertone evaluate`.

    Args:
        modality: `audio`, `video`, `text` or `fusion`.
        bundle: `embedded`, or a folder of checkpoints.
        dataset: A name in `DATASETS[modality]`.
        data: The data folder.
        split: The data set's own name of a split, or `all`; `validation` is understood by every set.

    Returns:
        `{"dataset", "split", "n", "skipped", "tasks": {task: {"labels", "metrics", "constant"}}}`, a JSON value.

    Raises:
        EvaluateError: No such modality, data set or bundle.
        DataError: The data are not there.
        CheckpointError: The checkpoint is damaged or missing.
    """
    choices = DATASETS.get(modality, {})
    if dataset not in choices:
        known = ", ".join(f"{name} {one}" for name, sets in sorted(DATASETS.items()) for one in sorted(sets))
        raise EvaluateError(f"cannot evaluate {modality!r} on {dataset!r}: choose one of {known}.")
    folder = EMBEDDED if bundle == "embedded" else Path(bundle)
    if not folder.is_dir():
        raise EvaluateError(f"no bundle {bundle!r}: name `embedded` or a folder with {modality}.safetensors.")
    answers = choices[dataset](folder, data, split)
    tasks = {
        name: classification_task(task.truth, task.probabilities.argmax(axis=1), task.labels)
        for name, task in answers.tasks.items()
    }
    n = max(len(task.truth) for task in answers.tasks.values())
    return {"dataset": dataset, "split": split, "n": n, "skipped": answers.skipped, "tasks": tasks}


def emotion_tasks(
    labels: tuple[str, ...], truth: NDArray[np.int64], known: tuple[str, ...], probabilities: FloatArray
) -> dict[str, Task]:
    """The tasks `emotion` and `polarity` of a set with emotion labels.

    Args:
        labels: The data set's.
        truth: (N,) indices into `labels`.
        known: The network's own classes.
        probabilities: (N, len(known)).

    Returns:
        Emotion in the set's own labels where the network knows exactly these, else both mapped to `EMOTIONS`; and
        polarity, both sides mapped by `models.data.labels`.
    """
    emotions = probabilities @ emotion_matrix(known)
    own = known == labels
    mapped = emotion_matrix(labels).argmax(axis=1)[truth]
    polarity = np.array([POLARITIES.index(EMOTION_POLARITY[TO_EMOTION[label]]) for label in labels])[truth]
    return {
        "emotion": Task(labels, truth, probabilities) if own else Task(EMOTIONS, mapped, emotions),
        "polarity": Task(POLARITIES, polarity, np.stack([prediction_from_emotions(e).polarity for e in emotions])),
    }


def ravdess(bundle: Path, data: Path, split: str) -> Answers:
    """Voice on RAVDESS: `train`, `validation`, `test` or `all` actors."""
    return _ravdess(bundle, data, split, lambda samples: samples)


def ravdess_telephone(bundle: Path, data: Path, split: str) -> Answers:
    """The same clips through a telephone: 300-3400 Hz, 8 kHz, G.711."""
    return _ravdess(bundle, data, split, sound.telephone)


def fer2013(bundle: Path, data: Path, split: str) -> Answers:
    """Faces on FER2013: `train`, `public_test` (which is the validation split), or `all`."""
    faces = fer2013_files.read(data, "public_test" if split == "validation" else split)
    encoder = VideoEncoder.load(bundle / "video.safetensors")
    probabilities = np.concatenate([one for _, one in encoder.frames([faces.pictures])])
    return Answers(emotion_tasks(FER2013_LABELS, faces.labels, encoder.labels, probabilities), faces.skipped)


def _ravdess(bundle: Path, data: Path, split: str, line: Callable[[FloatArray], FloatArray]) -> Answers:
    recordings = ravdess_files.read(data, split)
    encoder = AudioEncoder.load(bundle / "audio.safetensors")
    heard, truth = [], []
    for clip, label in zip(recordings.clips, recordings.labels, strict=True):
        try:
            heard.append(prepare(line(clip)))
        except AudioInputError:
            continue
        truth.append(label)
    if not heard:
        raise EvaluateError(f"every clip of split {split!r} is silent or too short: nothing to judge.")
    probabilities = np.stack([one for _, one in encoder.clips(heard)])
    skipped = recordings.skipped + len(recordings.clips) - len(heard)
    return Answers(emotion_tasks(RAVDESS_LABELS, np.array(truth), encoder.labels, probabilities), skipped)


Evaluation = Callable[[Path, Path, str], Answers]

DATASETS: dict[str, dict[str, Evaluation]] = {
    "audio": {"ravdess": ravdess, "ravdess_telephone": ravdess_telephone},
    "video": {"fer2013": fer2013},
    "text": {},
    "fusion": {},
}
"""What `undertone evaluate MODALITY --dataset NAME` knows."""
