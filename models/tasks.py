"""What an evaluation asks of every sample: an emotion, a polarity or a score, and what the network answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.labels import (
    EMOTION_SCORE,
    POLARITY_SCORE,
    TO_EMOTION,
    emotion_matrix,
    polarity_of,
    prediction_from_emotions,
)
from models.recognition import WordsTask
from models.types import EMOTIONS, POLARITIES, FloatArray

Labels = NDArray[np.int64]

EMOTION_SCORES = np.array([EMOTION_SCORE[one] for one in EMOTIONS], dtype=np.float32)
POLARITY_SCORES = np.array([POLARITY_SCORE[one] for one in POLARITIES], dtype=np.float32)
"""The declared truth of the task `score`, in the order of `EMOTIONS` and `POLARITIES`."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question asked of every sample: label names (C), true indices int64 (N,), probabilities (N, C)."""

    labels: tuple[str, ...]
    truth: Labels
    probabilities: FloatArray


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """The score asked of every sample: true and answered numbers (N,) in [-3, 3]."""

    truth: FloatArray
    answer: FloatArray


AnyTask = Task | ScoreTask | WordsTask
Tasks = dict[str, Task | ScoreTask]
"""What is asked of a network."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked and answered, and how many rows or files were left out as broken.

    Names of tasks start with `emotion`, `polarity`, `score` or `words`; the plain name is what the whole network says. Of
    behavioural tests, `capabilities` counts for each how many there are (`n`) and how many are `passed`.
    """

    tasks: Mapping[str, AnyTask]
    skipped: int
    capabilities: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def emotion_tasks(
    names: tuple[str, ...], truth: NDArray[np.int64], known: tuple[str, ...], probabilities: FloatArray
) -> tuple[Tasks, int]:
    """The tasks of a set with emotion labels, and how many samples have an emotion that is none of `EMOTIONS`.

    Args:
        names: The data set's labels.
        truth: (N,) indices into `names`.
        known: The network's own classes.
        probabilities: (N, len(known)).

    Returns:
        Emotion in the set's own labels where the network knows exactly these, else both mapped to `EMOTIONS`; and
        polarity and score, both sides by `models.labels`.
    """
    predictions = [prediction_from_emotions(one) for one in probabilities @ emotion_matrix(known)]
    mapped = np.array([TO_EMOTION[name] is not None for name in names])[truth]
    polarity = np.array([POLARITIES.index(polarity_of(name)) for name in names])[truth]
    emotion = emotion_matrix(names).argmax(axis=1)[truth]
    tasks: Tasks = {}
    if names == known:
        tasks["emotion"] = Task(names, truth, probabilities)
    elif mapped.any():
        tasks["emotion"] = Task(EMOTIONS, emotion[mapped], np.stack([one.emotion for one in predictions])[mapped])
    tasks["polarity"] = Task(POLARITIES, polarity, np.stack([one.polarity for one in predictions]))
    score = np.where(mapped, EMOTION_SCORES[emotion], POLARITY_SCORES[polarity])
    tasks["score"] = ScoreTask(score, np.array([one.score for one in predictions], dtype=np.float32))
    return tasks, 0 if names == known else int((~mapped).sum())
