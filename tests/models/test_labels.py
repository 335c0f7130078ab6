import numpy as np
import pytest

from models.labels import (
    CKPLUS48_LABELS,
    EMODB_LABELS,
    EMOTION_POLARITY,
    EMOTION_SCORE,
    FER2013_LABELS,
    GOEMOTIONS_EKMAN,
    POLARITY_SCORE,
    RAVDESS_LABELS,
    TO_EMOTION,
    emotion_matrix,
    find_label,
    polarity_of,
    prediction_from_emotions,
)
from models.types import EMOTIONS, POLARITIES, SCORE_MAX, SCORE_MIN

ALL_SETS = (RAVDESS_LABELS, FER2013_LABELS, CKPLUS48_LABELS, EMODB_LABELS, tuple(GOEMOTIONS_EKMAN), EMOTIONS)


@pytest.mark.parametrize("labels", [RAVDESS_LABELS, FER2013_LABELS, EMOTIONS])
def test_every_label_becomes_one_emotion_and_no_emotion_is_lost(labels: tuple[str, ...]) -> None:
    matrix = emotion_matrix(labels)

    assert matrix.shape == (len(labels), 7)
    assert (matrix.sum(axis=1) == 1).all()
    assert (matrix.sum(axis=0) >= 1).all()


def test_calm_counts_as_neutral() -> None:
    assert EMOTIONS[emotion_matrix(RAVDESS_LABELS)[RAVDESS_LABELS.index("calm")].argmax()] == "neutral"


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_certain_emotion_has_the_polarity_and_score_of_the_table(emotion: str) -> None:
    prediction = prediction_from_emotions(np.eye(7, dtype=np.float32)[EMOTIONS.index(emotion)])

    sign = {"negative": -1, "neutral": 0, "positive": 1}[EMOTION_POLARITY[emotion]]
    assert POLARITIES[int(prediction.polarity.argmax())] == EMOTION_POLARITY[emotion]
    assert prediction.score == EMOTION_SCORE[emotion]
    assert np.sign(prediction.score) == sign
    assert SCORE_MIN <= prediction.score <= SCORE_MAX


def test_probabilities_sum_to_one() -> None:
    prediction = prediction_from_emotions(np.full(7, 0.3, dtype=np.float32))

    assert prediction.emotion.sum() == pytest.approx(1)
    assert prediction.polarity.sum() == pytest.approx(1)


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(KeyError, match="hungry"):
        emotion_matrix(("hungry",))
    with pytest.raises(KeyError, match="hungry"):
        polarity_of("hungry")


def test_every_set_is_mapped_and_what_has_no_counterpart_has_a_row_of_zeros() -> None:
    without = {label for labels in ALL_SETS for label in labels if not emotion_matrix((label,)).any()}

    assert without == {"boredom", "contempt"}
    assert {polarity_of(label) for label in without} == {"negative"}


def test_goemotions_groups_are_the_papers_28_labels() -> None:
    assert len([label for group in GOEMOTIONS_EKMAN.values() for label in group]) == 28
    assert set(GOEMOTIONS_EKMAN) == set(EMOTIONS)
    assert (TO_EMOTION["remorse"], TO_EMOTION["curiosity"], TO_EMOTION["nervousness"]) == (
        "sadness",
        "surprise",
        "fear",
    )


@pytest.mark.parametrize("label", [label for label in TO_EMOTION if TO_EMOTION[label]])
def test_a_labels_polarity_is_its_emotions(label: str) -> None:
    assert polarity_of(label) == EMOTION_POLARITY[str(TO_EMOTION[label])]


@pytest.mark.parametrize(
    ("name", "labels", "found"),
    [
        ("happy", FER2013_LABELS, "happy"),
        (" HAPPINESS ", FER2013_LABELS, "happy"),
        ("Anger", FER2013_LABELS, "angry"),
        ("fearful", FER2013_LABELS, "fear"),
        ("happy", EMOTIONS, "joy"),
        ("neutral", RAVDESS_LABELS, "neutral"),
        ("calm", RAVDESS_LABELS, "calm"),
        ("contempt", FER2013_LABELS, None),
        ("contempt", CKPLUS48_LABELS, "contempt"),
        ("hungry", EMOTIONS, None),
        ("", EMOTIONS, None),
    ],
)
def test_a_label_is_found_by_name_or_synonym(name: str, labels: tuple[str, ...], found: str | None) -> None:
    assert find_label(name, labels) == (None if found is None else labels.index(found))


def test_polarities_have_scores_of_their_sign() -> None:
    assert {polarity: np.sign(score) for polarity, score in POLARITY_SCORE.items()} == {
        "negative": -1,
        "neutral": 0,
        "positive": 1,
    }
    assert all(SCORE_MIN <= score <= SCORE_MAX for score in POLARITY_SCORE.values())
