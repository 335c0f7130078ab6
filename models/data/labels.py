"""The one table that maps every data set's labels to the seven emotions, and these to polarity and score.

Numpy only: the encoders use it at run time.
"""

from collections.abc import Mapping

import numpy as np

from models.types import EMOTIONS, POLARITIES, SCORE_MAX, FloatArray, Prediction

RAVDESS_LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""In the order of the file names' third field, 01 to 08 (Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391)."""

FER2013_LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Names of the class folders (Goodfellow et al. 2013, arXiv:1307.0414)."""

TO_EMOTION: Mapping[str, str] = {
    **{emotion: emotion for emotion in EMOTIONS},
    "calm": "neutral",  # RAVDESS's second baseline; MELD has one
    "happy": "joy",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "surprised": "surprise",
}
"""From any data set's label to one of `EMOTIONS`."""

EMOTION_POLARITY: Mapping[str, str] = {
    "neutral": "neutral",
    "joy": "positive",
    "sadness": "negative",
    "anger": "negative",
    "surprise": "positive",  # in MELD it is either; acted surprise (RAVDESS, FER2013) looks and sounds pleasant
    "fear": "negative",
    "disgust": "negative",
}

EMOTION_SCORE: Mapping[str, float] = {
    "neutral": 0.0,
    "joy": 2.0,
    "sadness": -2.0,
    "anger": -2.5,
    "surprise": 0.5,
    "fear": -2.0,
    "disgust": -2.0,
}
"""Declared, not trained: neither RAVDESS nor FER2013 is scored on MOSEI's [-3, 3] scale. The signs follow
`EMOTION_POLARITY`; sizes stay inside the scale, so that a certain anger is "negative" and not yet the worst there is.
"""

_SCORES = np.array([EMOTION_SCORE[emotion] for emotion in EMOTIONS], dtype=np.float32)
_POLARITY = np.array([[EMOTION_POLARITY[e] == p for p in POLARITIES] for e in EMOTIONS], dtype=np.float32)


def emotion_matrix(labels: tuple[str, ...]) -> FloatArray:
    """The matrix (len(labels), 7) that sums a data set's class probabilities into `EMOTIONS`.

    Raises:
        KeyError: A label that `TO_EMOTION` does not know.
    """
    return np.array([[TO_EMOTION[label] == emotion for emotion in EMOTIONS] for label in labels], dtype=np.float32)


def prediction_from_emotions(emotion: FloatArray) -> Prediction:
    """Derive polarity (sums by `EMOTION_POLARITY`) and score (mean of `EMOTION_SCORE`) from probabilities (7,)."""
    emotion = np.asarray(emotion, dtype=np.float32)
    emotion = emotion / emotion.sum()
    return Prediction(score=float(emotion @ _SCORES), polarity=emotion @ _POLARITY, emotion=emotion)


def score_of(polarity: FloatArray) -> float:
    """The score in [-3, 3] that follows from polarity probabilities (3,): 3 (P(positive) - P(negative))."""
    return float(SCORE_MAX * (polarity[POLARITIES.index("positive")] - polarity[POLARITIES.index("negative")]))
