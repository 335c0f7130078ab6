"""Judging trained networks on labelled data: one JSON object, with the constant predictor's row beside ours.

To add a data set: write `def my_set(bundle: Path, data: Path, split: str) -> Answers`, which loads what it judges from the
folder `bundle` and asks it about everything in the split, and add it to `DATASETS` at the end of this file.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundles import bundle_folder, load_bundle
from models.data import airline as airline_files
from models.data import fer2013 as fer2013_files
from models.data import goemotions as goemotions_files
from models.data import meld as meld_files
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
from models.data.sentences import Sentences, as_recognised
from models.encoders.audio import AudioEncoder, AudioInputError, prepare
from models.encoders.text import TextEncoder
from models.encoders.video import VideoEncoder
from models.fusion import label_pairs
from models.fusion.attention import MODALITIES, AttentionFusion
from models.metrics import Answers, EvaluateError, Task, classification_task
from models.types import EMOTIONS, POLARITIES, FloatArray


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
    folder = bundle_folder(bundle)
    if not folder.is_dir():
        raise EvaluateError(f"no bundle {bundle!r}: name `embedded` or a folder with {modality}.safetensors.")
    answers = choices[dataset](folder, data, split)
    tasks = {
        name: classification_task(task.truth, task.probabilities.argmax(axis=1), task.labels)
        for name, task in answers.tasks.items()
        if isinstance(task, Task)
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


def meld(bundle: Path, data: Path, split: str) -> Answers:
    """Words on MELD: `train`, or `dev` (which is the validation split)."""
    return _words(bundle, meld_files.read(data, "dev" if split == "validation" else split))


def meld_recognised(bundle: Path, data: Path, split: str) -> Answers:
    """The same texts in lower case without punctuation, as a recogniser gives them."""
    sentences = meld_files.read(data, "dev" if split == "validation" else split)
    rng = np.random.default_rng(0)
    texts = tuple(as_recognised(text, rng, dropped=0.0) for text in sentences.texts)
    return _words(bundle, replace(sentences, texts=texts))


def goemotions(bundle: Path, data: Path, split: str) -> Answers:
    """Words on GoEmotions (Ekman): comments with one label; `train`, or `dev` (which is the validation split)."""
    return _words(bundle, goemotions_files.read(data, "dev" if split == "validation" else split))


def tweets(bundle: Path, data: Path, split: str) -> Answers:
    """Words on airline tweets: `train`, `validation` (a tenth by hash) or `all`."""
    return _words(bundle, airline_files.read(data, split))


def fused_label_pairs(bundle: Path, data: Path, split: str) -> Answers:
    """Fusion on label pairs (see `models.fusion.label_pairs`); a task per subset of modalities, and plain averaging."""
    pools = label_pairs.read(load_bundle(bundle), data, split)
    pairs = label_pairs.validation_pairs(pools, doubt=0.0)
    fused = label_pairs.answers_by_subset(AttentionFusion.load(bundle / "fusion.safetensors").network, pairs)
    fused["averaged"] = label_pairs.averaged(pairs)
    everything = "+".join(MODALITIES)
    tasks: dict[str, Task] = {}
    for name, (emotion, polarity) in fused.items():
        suffix = "" if name == everything else f"_{name}"
        tasks[f"emotion{suffix}"] = Task(EMOTIONS, pairs["emotion"].numpy(), emotion)
        tasks[f"polarity{suffix}"] = Task(POLARITIES, pairs["polarity"].numpy(), polarity)
    return Answers(tasks, 0)


def _words(bundle: Path, sentences: Sentences) -> Answers:
    predictions = [one.prediction for one in TextEncoder.load(bundle / "text.safetensors").encode(sentences.texts)]
    asked = {"emotion": (EMOTIONS, sentences.emotion), "polarity": (POLARITIES, sentences.polarity)}
    tasks: dict[str, Task] = {}
    for name, (labels, target) in asked.items():
        rows = np.flatnonzero(target.max(axis=1) == 1.0)
        if len(rows):
            probabilities = np.stack([getattr(predictions[row], name) for row in rows])
            tasks[name] = Task(labels, target[rows].argmax(axis=1), probabilities)
    return Answers(tasks, sentences.skipped)


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
    "text": {"goemotions": goemotions, "meld": meld, "meld_recognised": meld_recognised, "tweets": tweets},
    "fusion": {"label_pairs": fused_label_pairs},
}
"""What `undertone evaluate MODALITY --dataset NAME` knows."""
