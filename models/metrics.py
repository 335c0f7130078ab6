"""Figures of classification, named as scikit-learn's (which the tests compare them with)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.types import FloatArray

Labels = NDArray[np.int64]


class EvaluateError(ValueError):
    """The evaluation cannot start; the message says what to do next."""


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


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked and answered, and how many rows or files were left out as broken.

    Names of tasks start with `emotion`, `polarity` or `score`; the plain name is what the whole network says.
    """

    tasks: Mapping[str, Task | ScoreTask]
    skipped: int


def confusion(truth: Labels, answer: Labels, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): row = truth, column = answer."""
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)


def classification(truth: Labels, answer: Labels, classes: int) -> dict[str, float]:
    """Accuracy, balanced accuracy (UAR), macro and weighted F1, each in [0, 1].

    A class that is absent from the truth takes no part in the balanced accuracy; macro F1 averages over the
    classes that occur in truth or answer, as scikit-learn does.

    Args:
        truth: (N,) class indices, N > 0.
        answer: (N,) class indices.
        classes: Number of classes.

    Raises:
        ValueError: Nothing to judge, or lengths differ.
    """
    if len(truth) == 0 or len(truth) != len(answer):
        raise ValueError(f"need as many answers as truths and at least one, got {len(answer)} and {len(truth)}.")
    counts = confusion(truth, answer, classes).astype(np.float64)
    hits, support, answered = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * hits / np.maximum(support + answered, 1)
    return {
        "accuracy": float(hits.sum() / support.sum()),
        "balanced_accuracy": float((hits[support > 0] / support[support > 0]).mean()),
        "f1_macro": float(f1[support + answered > 0].mean()),
        "f1_weighted": float((f1 * support).sum() / support.sum()),
    }


def classification_task(truth: Labels, answer: Labels, labels: Sequence[str]) -> dict[str, Any]:
    """One task of an evaluation: labels, metrics, and the same of always answering the commonest class."""
    constant = np.full_like(truth, np.bincount(truth, minlength=len(labels)).argmax())
    return {
        "labels": list(labels),
        "metrics": classification(truth, answer, len(labels)),
        "constant": classification(truth, constant, len(labels)),
    }
