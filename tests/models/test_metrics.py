import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from models import metrics
from models.errors import EvaluateError
from models.metrics import classification, judge, recall_at_precision
from models.tasks import ScoreTask, Task, emotion_tasks
from models.types import EMOTIONS, POLARITIES

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
LABELS = ("a", "b", "c", "d")


@st.composite
def tasks(draw: st.DrawFn, classes: int = 4) -> Task:
    """Small samples with coarse probabilities, so that ties, missing classes and empty bins are common."""
    n = draw(st.integers(1, 30))
    truth = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.lists(st.integers(1, 6), min_size=classes, max_size=classes), min_size=n, max_size=n))
    probabilities = np.array(weights, dtype=np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Task(LABELS[:classes], np.array(truth), probabilities.astype(np.float32))


def certain(truth: list[int], answer: list[int], classes: int = 3) -> Task:
    return Task(LABELS[:classes], np.array(truth), np.eye(classes, dtype=np.float32)[answer])


@given(PAIRS)
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_figures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, answer = np.array(pairs).T

    figures = classification(truth, answer, 4)

    assert figures == pytest.approx(
        {
            "accuracy": reference.accuracy_score(truth, answer),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, answer),
            "f1_macro": reference.f1_score(truth, answer, average="macro", zero_division=0),
            "f1_weighted": reference.f1_score(truth, answer, average="weighted", zero_division=0),
        }
    )


@given(tasks())
@settings(max_examples=40, deadline=None)
def test_roc_auc_is_scikit_learns_over_the_classes_present(task: Task) -> None:
    present = [row for row in range(4) if (task.truth == row).any()]

    found = roc_auc_ovr(task)

    if len(present) == 1:
        assert found is None
    else:
        areas = [reference.roc_auc_score(task.truth == row, task.probabilities[:, row]) for row in present]
        assert found == pytest.approx(np.mean(areas))


def roc_auc_ovr(task: Task) -> float | None:
    area: float | None = judge(task)["metrics"]["roc_auc_ovr"]
    return area


def test_with_every_class_present_it_is_scikit_learns_roc_auc_ovr() -> None:
    rng = np.random.default_rng(0)
    truth, probabilities = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200).astype(np.float32)
    expected = reference.roc_auc_score(truth, probabilities, multi_class="ovr")
    assert roc_auc_ovr(Task(LABELS, truth, probabilities)) == pytest.approx(expected)
    two = probabilities[:, :2] / probabilities[:, :2].sum(axis=1, keepdims=True)
    assert roc_auc_ovr(Task(LABELS[:2], truth % 2, two)) == pytest.approx(reference.roc_auc_score(truth % 2, two[:, 1]))


@given(tasks())
@settings(max_examples=40, deadline=None)
def test_per_class_figures_and_confusion_are_scikit_learns(task: Task) -> None:
    answer = task.probabilities.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        task.truth, answer, labels=range(4), zero_division=np.nan
    )

    judged = judge(task)

    for row, label in enumerate(LABELS):
        found = judged["per_class"][label]
        assert found["support"] == support[row]
        for name, value in (("precision", precision[row]), ("recall", recall[row])):
            assert found[name] is None if np.isnan(value) else found[name] == pytest.approx(value)
        if support[row] or (answer == row).any():
            assert found["f1"] == pytest.approx(np.nan_to_num(f1[row]))
        else:
            assert found["f1"] is None
    assert judged["confusion"] == reference.confusion_matrix(task.truth, answer, labels=range(4)).tolist()


@given(tasks())
@settings(max_examples=40, deadline=None)
def test_ece_is_guos_equation_3(task: Task) -> None:
    confidence, right = (
        task.probabilities.max(axis=1).astype(np.float64),
        task.probabilities.argmax(axis=1) == task.truth,
    )
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert judge(task)["metrics"]["ece"] == pytest.approx(expected, abs=1e-6)


def test_the_reliability_bins_hold_every_answer() -> None:
    task = Task(("a", "b"), np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.3, 0.7], [0.29, 0.71]], dtype=np.float32))
    bins = metrics.reliability(task)
    assert len(bins) == 15
    assert [one["count"] for one in bins] == [0] * 10 + [2, 0, 0, 1, 0]
    assert bins[10]["accuracy"] == 0.5
    assert bins[10]["confidence"] == pytest.approx(0.705)
    assert bins[0]["accuracy"] is None


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=30))
@settings(deadline=None)
def test_mae_and_pearson_are_scikit_learns_and_numpys(pairs: list[tuple[float, float]]) -> None:
    truth, answer = np.array(pairs).T

    found = judge(ScoreTask(truth, answer))

    assert found["metrics"]["mae"] == pytest.approx(reference.mean_absolute_error(truth, answer))
    assert found["constant"]["mae"] == pytest.approx(np.abs(truth - np.median(truth)).mean())
    if min(truth.std(), answer.std()) > 1e-3:
        assert found["metrics"]["pearson"] == pytest.approx(np.corrcoef(truth, answer)[0, 1], abs=1e-6)


@pytest.mark.parametrize(("truth", "answer"), [([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [1, 1, 1]), ([1], [2])])
def test_no_correlation_with_what_never_changes(truth: list[float], answer: list[float]) -> None:
    found = judge(ScoreTask(np.array(truth, dtype=np.float32), np.array(answer, dtype=np.float32)))
    assert found["metrics"]["pearson"] is None
    assert found["intervals"]["pearson"] is None
    assert found["constant"]["pearson"] is None
    assert found["labels"] == []


@given(tasks())
@settings(max_examples=40, deadline=None)
def test_every_figure_is_a_json_value_and_stands_in_every_row(task: Task) -> None:
    judged = judge(task)

    json.dumps(judged, allow_nan=False)
    assert judged["labels"] == list(LABELS)
    assert judged["n"] == len(task.truth)
    assert set(judged["metrics"]) == set(judged["intervals"]) == set(judged["constant"])
    for name, value in judged["metrics"].items():
        ends = judged["intervals"][name]
        assert (value is None) == (ends is None)
        assert ends is None or 0 <= ends[0] <= ends[1] <= 1 + 1e-9


def test_a_split_of_one_class_has_no_roc_auc() -> None:
    judged = judge(certain([1, 1, 1], [1, 1, 0]))
    assert judged["metrics"]["roc_auc_ovr"] is None
    assert judged["constant"]["roc_auc_ovr"] is None
    assert judged["metrics"]["balanced_accuracy"] == pytest.approx(2 / 3)
    assert judged["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "roc_auc": None, "support": 0}


def test_the_constant_row_always_answers_the_commonest_class() -> None:
    judged = judge(certain([0, 1, 1, 2], [0, 1, 1, 2]))

    assert judged["metrics"]["accuracy"] == 1.0
    assert judged["constant"]["accuracy"] == 0.5
    assert judged["constant"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert (judged["constant"]["roc_auc_ovr"], judged["constant"]["ece"]) == (0.5, 0.0)


def resampled(task: Task, resamples: int) -> NDArray[np.float64]:
    """The plain way: draw rows, ask scikit-learn."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(resamples):
        rows = rng.integers(0, len(task.truth), len(task.truth))
        truth, probabilities = task.truth[rows], task.probabilities[rows]
        area = reference.roc_auc_score(truth, probabilities, multi_class="ovr")
        found.append((reference.accuracy_score(truth, probabilities.argmax(axis=1)), area))
    return np.array(found)


def test_intervals_are_those_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 150)
    probabilities = rng.dirichlet(np.ones(3), 150) + 0.4 * np.eye(3)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    task = Task(LABELS[:3], truth, probabilities.astype(np.float32))

    intervals = judge(task)["intervals"]

    expected = np.percentile(resampled(task, 250), [2.5, 97.5], axis=0)
    assert intervals["accuracy"] == pytest.approx(expected[:, 0], abs=0.02)
    assert intervals["roc_auc_ovr"] == pytest.approx(expected[:, 1], abs=0.02)
    assert judge(task)["intervals"] == intervals


def test_large_samples_are_resampled_in_bounded_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = certain([0, 1, 2] * 40, [0, 1, 1] * 40)
    whole = judge(task)["intervals"]["accuracy"]
    monkeypatch.setattr(metrics, "CHUNK_WEIGHTS", 60)  # fewer than one resample needs
    assert judge(task)["intervals"]["accuracy"] == pytest.approx(whole, abs=0.03)


@pytest.mark.parametrize(("truth", "answer"), [([], []), ([1], [1, 0])])
def test_nothing_to_judge_is_an_error(truth: list[int], answer: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        classification(np.array(truth, dtype=np.int64), np.array(answer, dtype=np.int64), 2)
    with pytest.raises(EvaluateError, match="at least one"):
        judge(Task(("a", "b"), np.array(truth, dtype=np.int64), np.zeros((len(answer), 2), dtype=np.float32)))


def test_answers_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(EvaluateError, match="NaN"):
        judge(Task(("a", "b"), np.array([0]), np.array([[np.nan, 1.0]], dtype=np.float32)))


def test_a_network_of_other_classes_is_judged_on_the_seven_emotions() -> None:
    names, known = ("neutral", "calm", "happy", "sad", "angry"), ("angry", "neutral", "sad")
    probabilities = np.eye(3, dtype=np.float32)[[1, 2]]  # neutral, sad

    tasks, unsayable = emotion_tasks(names, np.array([1, 4]), known, probabilities)  # calm, angry

    emotion, polarity, score = tasks["emotion"], tasks["polarity"], tasks["score"]
    assert isinstance(emotion, Task)
    assert isinstance(polarity, Task)
    assert isinstance(score, ScoreTask)
    assert unsayable == 0
    assert emotion.labels == EMOTIONS
    assert [EMOTIONS[row] for row in emotion.truth] == ["neutral", "anger"]
    assert [EMOTIONS[row] for row in emotion.probabilities.argmax(axis=1)] == ["neutral", "sadness"]
    assert polarity.truth.tolist() == polarity.probabilities.argmax(axis=1).tolist()
    assert score.truth.tolist() == [0.0, -2.5]
    assert score.answer.tolist() == [0.0, -2.0]


def test_a_label_without_counterpart_still_has_polarity_and_score() -> None:
    probabilities = np.eye(2, dtype=np.float32)[[0, 1, 0]]

    tasks, unsayable = emotion_tasks(("joy", "contempt"), np.array([0, 1, 1]), ("joy", "anger"), probabilities)

    assert unsayable == 2
    assert {name: len(task.truth) for name, task in tasks.items()} == {"emotion": 1, "polarity": 3, "score": 3}
    assert tasks["score"].truth.tolist() == [2.0, -2.0, -2.0]


def test_only_labels_without_counterpart_leave_no_emotion_task() -> None:
    probabilities = np.eye(2, dtype=np.float32)[[0]]
    tasks, _ = emotion_tasks(("contempt",), np.array([0]), ("joy", "anger"), probabilities)
    assert set(tasks) == {"polarity", "score"}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40), st.sampled_from([0.5, 0.7, 1.0]))
def test_recall_at_a_precision_is_the_best_that_any_threshold_gives(
    pairs: list[tuple[bool, int]], precision: float
) -> None:
    positive, score = np.array([one for one, _ in pairs]), np.array([one for _, one in pairs], dtype=np.float32)
    (found,) = recall_at_precision(positive, score, np.ones((1, len(pairs))), precision)
    wanted = [
        (positive & (score >= threshold)).sum() / positive.sum()
        for threshold in np.unique(score)
        if positive.any() and positive[score >= threshold].mean() >= precision
    ]
    assert np.isnan(found) if not positive.any() else found == pytest.approx(max(wanted, default=0.0))


def test_a_resample_counts_each_row_as_often_as_it_was_drawn() -> None:
    positive, score = np.array([True, False, True]), np.array([0.9, 0.8, 0.7], dtype=np.float32)
    weights = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 3.0, 2.0]])
    assert recall_at_precision(positive, score, weights, 0.7) == pytest.approx([0.5, 1.0, 1 / 3])


def test_polarities_have_the_recall_of_negative_at_a_precision_of_70() -> None:
    truth = np.array([0, 0, 1, 2])
    answers = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.4, 0.5, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
    judged = judge(Task(POLARITIES, truth, answers))
    assert judged["metrics"]["negative_recall_at_precision_70"] == 0.5
    assert judged["constant"]["negative_recall_at_precision_70"] == 0.0
    assert judge(Task(POLARITIES, truth[2:], answers[2:]))["constant"]["negative_recall_at_precision_70"] is None
