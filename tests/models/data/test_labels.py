import numpy as np
import pytest

from models.data.labels import (
    EMOTION_POLARITY,
    EMOTION_SCORE,
    FER2013_LABELS,
    RAVDESS_LABELS,
    TO_EMOTION,
    emotion_matrix,
    prediction_from_emotions,
)
from models.types import EMOTIONS, POLARITIES, SCORE_MAX, SCORE_MIN


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
    assert "bored" not in TO_EMOTION
    with pytest.raises(KeyError, match="bored"):
        emotion_matrix(("bored",))
