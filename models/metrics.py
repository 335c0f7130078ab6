"""The figures of an evaluation's answers, named as scikit-learn's (which the tests compare them with).

A figure that does not exist is None, which is JSON's null, and never NaN: the ROC-AUC of a split with one class, the
correlation with a truth that never changes, the recall of a class that does not occur.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluateError
from models.recognition import WordsTask, judge_words
from models.tasks import AnyTask, Labels, ScoreTask, Task
from models.types import POLARITIES, FloatArray

Rows = NDArray[np.float64]
"""(R, ...): one row per resample; the first axis of whatever is worked out from weights (R, N)."""

BINS = 15
"""Of top-1 confidence, equally wide, as in Guo et al. 2017."""
RESAMPLES = 1_000
INTERVAL_PERCENT = (2.5, 97.5)
CHUNK_WEIGHTS = 1 << 20
"""Weights worked on at once; this bounds the memory of the bootstrap, whatever the size of the split."""
NEGATIVE_RECALL, PRECISION = "negative_recall_at_precision_70", 0.7
"""Of the negative answers that `negative_recall_at_precision_70` counts: three alarms in ten may be false."""
VARIANCE_MIN = 1e-12
"""Scores of a smaller variance count as constant: float32 does not tell them apart."""


Figures = Callable[[Rows], dict[str, Rows]]
"""From weights (R, N), how often each sample counts, to every metric (R,); NaN where it does not exist."""


def judge(task: AnyTask) -> dict[str, Any]:
    """Every figure of one task, as a JSON value.

    Args:
        task: Of N > 0 samples.

    Returns:
        `labels` (empty where the answers are no classes); `n`; `metrics`; `intervals`: per metric [low, high], the 95 %
        percentile interval of 1,000 bootstrap resamples (Efron & Tibshirani 1993, section 13.3, seed 0) that takes samples
        as independent, so it is too narrow where few speakers say much; `constant`: the same metrics of a predictor that
        always answers the commonest class with the split's own frequencies (so ROC-AUC 0.5, ECE 0), the median score, or no
        words. And of classes: `per_class`, label to `precision`, `recall`, `f1`, `roc_auc` (one against the rest) and `support`;
        `confusion`, counts, row = truth, column = answer; `reliability`, see there.

        Metrics of classes: `accuracy`, `balanced_accuracy` (UAR, over the classes in the truth), `f1_macro` (over the
        classes in truth or answer), `f1_weighted`, `roc_auc_ovr` (macro, over the classes in the truth), `ece`; of
        `POLARITIES` also `negative_recall_at_precision_70`, see `recall_at_precision`.
        Of a score: `mae`, `pearson`. Of words: see `models.recognition.judge_words`. A resample in which a figure does not
        exist takes no part in its interval.

    Raises:
        EvaluateError: Nothing was judged, or the network's answers are not numbers.
    """
    if isinstance(task, WordsTask):
        return _judge_words(task)
    answers = task.probabilities if isinstance(task, Task) else task.answer
    if len(task.truth) == 0 or len(task.truth) != len(answers):
        raise EvaluateError(f"{len(answers)} answers to {len(task.truth)} samples: need as many, and at least one.")
    if not np.isfinite(answers).all():
        raise EvaluateError("the network answers NaN or infinity: its checkpoint is damaged, train it again.")
    figures = _class_figures(task) if isinstance(task, Task) else _score_figures(task)
    metrics, intervals = _measured(figures, len(answers))
    labels = list(task.labels) if isinstance(task, Task) else []
    found = {"labels": labels, "n": len(answers), "metrics": metrics, "intervals": intervals}
    if isinstance(task, ScoreTask):
        median_error = np.abs(task.truth - np.median(task.truth)).mean()
        return found | {"constant": {"mae": float(median_error), "pearson": None}}
    answer = task.probabilities.argmax(axis=1)
    return found | {
        "constant": _constant(task, metrics),
        "per_class": _per_class(task),
        "confusion": confusion(task.truth, answer, len(task.labels)).tolist(),
        "reliability": reliability(task),
    }


def _judge_words(task: WordsTask) -> dict[str, Any]:
    if len(task) == 0:
        raise EvaluateError("no sound was transcribed: nothing to judge.")
    figures, others = judge_words(task)
    metrics, intervals = _measured(figures, len(task))
    return {"labels": [], "n": len(task), "metrics": metrics, "intervals": intervals} | others


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
    counts = confusion(truth, answer, classes)[None].astype(np.float64)
    return {name: float(rows[0]) for name, rows in _from_confusion(counts).items()}


def calibration_error(task: Task) -> float:
    """Expected calibration error (ECE) in [0, 1] over the bins of `reliability` (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
    return float(np.abs(_calibration_gaps(task).sum(axis=0)).sum() / len(task.truth))


def reliability(task: Task) -> list[dict[str, float | int | None]]:
    """Per bin of top-1 confidence, ((b-1)/15, b/15]: `count`, mean `confidence` and `accuracy` (None when empty)."""
    confidence, bins = _confidence(task.probabilities)
    right = task.probabilities.argmax(axis=1) == task.truth
    count, sure, hits = (np.bincount(bins, values, BINS) for values in (None, confidence, right))
    return [
        {"count": int(n), "confidence": _number(s / n if n else np.nan), "accuracy": _number(h / n if n else np.nan)}
        for n, s, h in zip(count, sure, hits, strict=True)
    ]


def roc_auc(positive: NDArray[np.bool_], score: FloatArray, weights: Rows) -> Rows:
    """Area under the ROC curve (R,): the chance that a positive outranks a negative, ties counting half.

    This is the Mann-Whitney statistic (Hanley & McNeil 1982), so one sort serves all R resamples.

    Args:
        positive: (N,).
        score: (N,).
        weights: (R, N), how often each sample counts.

    Returns:
        NaN where there is no positive or no negative.
    """
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.concatenate([[True], np.diff(score[order]) > 0]))
    ranked, is_positive = weights[:, order], positive[order]
    hits = np.add.reduceat(ranked * is_positive, ties, axis=1)
    others = np.add.reduceat(ranked * ~is_positive, ties, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    return _ratio((hits * below).sum(axis=1), hits.sum(axis=1) * others.sum(axis=1))


def recall_at_precision(positive: NDArray[np.bool_], score: FloatArray, weights: Rows, precision: float) -> Rows:
    """The highest recall (R,) among the thresholds on the score whose answers are right at least so often.

    Args as of `roc_auc`; of equal scores all or none are answered; `precision` in (0, 1].

    Returns:
        0 where no threshold is that precise; NaN where there is no positive.
    """
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(score[order]) < 0), len(order) - 1)
    ranked = weights[:, order]
    answered = ranked.cumsum(axis=1)[:, last_of_ties]
    hits = (ranked * positive[order]).cumsum(axis=1)[:, last_of_ties]
    recall = _ratio(hits, np.broadcast_to(hits[:, -1:], hits.shape))
    enough = hits >= precision * answered - 1e-9
    return np.where(hits[:, -1] > 0, np.max(np.where(enough, recall, 0.0), axis=1), np.nan)


def _class_figures(task: Task) -> Figures:
    classes = len(task.labels)
    cells = np.eye(classes * classes)[task.truth * classes + task.probabilities.argmax(axis=1)]
    gaps = _calibration_gaps(task)

    def figures(weights: Rows) -> dict[str, Rows]:
        counts = (weights @ cells).reshape(-1, classes, classes)
        found = _from_confusion(counts) | {
            "roc_auc_ovr": _mean(np.stack([roc_auc(*one, weights) for one in _against_rest(task)], axis=1)),
            "ece": np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1),
        }
        if task.labels == POLARITIES:
            negative = POLARITIES.index("negative")
            found[NEGATIVE_RECALL] = recall_at_precision(
                task.truth == negative, task.probabilities[:, negative], weights, PRECISION
            )
        return found

    return figures


def _calibration_gaps(task: Task) -> Rows:
    """Hits minus confidence (N, bins), each sample in its bin; in Guo's equation 3 the bin's count cancels out."""
    confidence, bins = _confidence(task.probabilities)
    gaps = (task.probabilities.argmax(axis=1) == task.truth) - confidence
    return np.asarray(np.eye(BINS)[bins] * gaps[:, None], dtype=np.float64)


def _score_figures(task: ScoreTask) -> Figures:
    truth, answer = task.truth.astype(np.float64), task.answer.astype(np.float64)
    x, y = truth - truth.mean(), answer - answer.mean()
    moments = np.stack([np.abs(truth - answer), x, y, x * x, y * y, x * y], axis=1)

    def figures(weights: Rows) -> dict[str, Rows]:
        error, mean_x, mean_y, xx, yy, xy = ((weights @ moments) / weights.sum(axis=1, keepdims=True)).T
        spread_x, spread_y = xx - mean_x**2, yy - mean_y**2
        varies = (spread_x > VARIANCE_MIN) & (spread_y > VARIANCE_MIN)
        return {"mae": error, "pearson": _ratio((xy - mean_x * mean_y) * varies, np.sqrt(spread_x * spread_y * varies))}

    return figures


def _from_confusion(counts: Rows) -> dict[str, Rows]:
    """The figures of counts (R, C, C)."""
    hits, support, answered = counts.diagonal(axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)
    total = support.sum(axis=1)
    f1 = _ratio(2 * hits, support + answered)
    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": _mean(_ratio(hits, support)),
        "f1_macro": _mean(f1),
        "f1_weighted": np.nansum(f1 * support, axis=1) / total,
    }


def _measured(figures: Figures, n: int) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
    """Every metric over n samples, and of those that exist the percentile interval over resamples drawn by a fixed seed."""
    metrics = {name: _number(float(rows[0])) for name, rows in figures(np.ones((1, n))).items()}
    rng = np.random.default_rng(0)
    found: dict[str, list[Rows]] = {name: [] for name in metrics}
    rows = max(1, CHUNK_WEIGHTS // n)
    for first in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - first)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        for name, values in figures(weights).items():
            found[name].append(values)
    return metrics, {
        name: None
        if value is None
        else [float(end) for end in np.nanpercentile(np.concatenate(found[name]), INTERVAL_PERCENT)]
        for name, value in metrics.items()
    }


def _constant(task: Task, metrics: dict[str, float | None]) -> dict[str, float | None]:
    classes = len(task.labels)
    commonest = np.full_like(task.truth, np.bincount(task.truth, minlength=classes).argmax())
    figures: dict[str, float | None] = dict(classification(task.truth, commonest, classes))
    figures |= {"roc_auc_ovr": None if metrics["roc_auc_ovr"] is None else 0.5, "ece": 0.0}
    if NEGATIVE_RECALL in metrics:  # all alike: every sample is called negative, or none
        share = float((task.truth == POLARITIES.index("negative")).mean())
        figures[NEGATIVE_RECALL] = None if share == 0 else float(share >= PRECISION)
    return figures


def _per_class(task: Task) -> dict[str, dict[str, float | int | None]]:
    counts = confusion(task.truth, task.probabilities.argmax(axis=1), len(task.labels)).astype(np.float64)
    hits, support, answered = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    columns: dict[str, Sequence[float] | Rows] = {
        "precision": _ratio(hits, answered),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + answered),
        "roc_auc": [
            roc_auc(task.truth == label, task.probabilities[:, label], np.ones((1, len(task.truth))))[0]
            for label in range(len(task.labels))
        ],
    }
    return {
        label: {name: _number(float(column[row])) for name, column in columns.items()} | {"support": int(support[row])}
        for row, label in enumerate(task.labels)
    }


def _against_rest(task: Task) -> list[tuple[NDArray[np.bool_], FloatArray]]:
    """Each class against the rest; of two classes the second alone, as scikit-learn does: the first is its mirror."""
    rows = [1] if len(task.labels) == 2 else range(len(task.labels))
    return [(task.truth == row, task.probabilities[:, row]) for row in rows]


def _confidence(probabilities: FloatArray) -> tuple[Rows, Labels]:
    """Top-1 confidence (N,) and its bin (N,)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    return confidence, (np.ceil(confidence * BINS).astype(np.int64) - 1).clip(0, BINS - 1)


def _ratio(above: Rows, below: Rows) -> Rows:
    """NaN where it would divide by zero."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0))


def _mean(rows: Rows) -> Rows:
    """Mean over the last axis of what exists; NaN where nothing does."""
    exists = ~np.isnan(rows)
    return _ratio(np.where(exists, rows, 0).sum(axis=1), exists.sum(axis=1).astype(np.float64))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
