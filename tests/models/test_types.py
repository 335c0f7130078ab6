import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import (
    COMPATIBLE_EMOTIONS,
    EMOTIONS,
    NEUTRAL_SCORE_MAX,
    POLARITIES,
    SCORE_MAX,
    SCORE_MIN,
    FloatArray,
    Prediction,
)

PARTS = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-30]), st.floats(0.0, 1.0))


def probabilities(size: int) -> st.SearchStrategy[FloatArray]:
    """Certain ones, even ones and ties among them."""
    return (
        st.lists(PARTS, min_size=size, max_size=size)
        .map(np.array)
        .filter(lambda parts: parts.sum() > 1e-20)
        .map(lambda parts: np.asarray(parts / parts.sum(), dtype=np.float32))
    )


def named(prediction: Prediction) -> tuple[str, str]:
    return POLARITIES[int(np.argmax(prediction.polarity))], EMOTIONS[int(np.argmax(prediction.emotion))]


@given(st.floats(SCORE_MIN, SCORE_MAX), probabilities(3), probabilities(7))
def test_polarity_score_and_emotion_never_contradict_each_other(
    score: float, polarity: FloatArray, emotion: FloatArray
) -> None:
    found = Prediction(score, polarity, emotion)

    pole, feeling = named(found)
    assert feeling in COMPATIBLE_EMOTIONS[pole]
    assert {
        "negative": found.score <= 0,
        "neutral": abs(found.score) <= NEUTRAL_SCORE_MAX,
        "positive": found.score >= 0,
    }[pole]
    assert found.emotion.sum() == pytest.approx(1, abs=1e-5)
    assert (found.emotion >= 0).all()
    np.testing.assert_array_equal(found.polarity, polarity)


@given(st.floats(SCORE_MIN, SCORE_MAX), probabilities(3), probabilities(7))
def test_applied_again_the_rule_changes_nothing(score: float, polarity: FloatArray, emotion: FloatArray) -> None:
    once = Prediction(score, polarity, emotion)
    again = Prediction(once.score, once.polarity, once.emotion)
    assert again.score == once.score
    np.testing.assert_array_equal(again.emotion, once.emotion)


@pytest.mark.parametrize("feeling", EMOTIONS)
@pytest.mark.parametrize("pole", POLARITIES)
def test_what_does_not_contradict_stays_as_it_was_given(pole: str, feeling: str) -> None:
    polarity = np.where(np.array(POLARITIES) == pole, 0.6, 0.2).astype(np.float32)
    emotion = np.where(np.array(EMOTIONS) == feeling, 0.4, 0.1).astype(np.float32)
    kept = np.array_equal(Prediction(0.0, polarity, emotion).emotion, emotion)
    assert kept is (feeling in COMPATIBLE_EMOTIONS[pole])


def test_the_likeliest_emotion_that_the_polarity_allows_is_named_and_the_excluded_one_comes_next() -> None:
    polarity = np.array([0.6, 0.3, 0.1], dtype=np.float32)
    emotion = np.array([0.1, 0.46, 0.2, 0.14, 0.05, 0.03, 0.02], dtype=np.float32)

    found = Prediction(0.4, polarity, emotion)

    assert named(found) == ("negative", "sadness")
    assert found.score == 0.0
    joy, sadness = (found.emotion[EMOTIONS.index(one)] for one in ("joy", "sadness"))
    assert joy == pytest.approx(0.999 * sadness, rel=1e-5)


def test_what_is_no_number_is_left_for_the_caller_to_refuse() -> None:
    nothing = np.full(7, np.nan, dtype=np.float32)
    assert np.isnan(Prediction(float("nan"), nothing[:3], nothing).emotion).all()
