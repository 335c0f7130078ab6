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

CKPLUS48_LABELS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
"""Names of the class folders; the seven emotions of CK+ (Lucey et al. 2010, doi:10.1109/CVPRW.2010.5543262)."""

EMODB_LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral")
"""Behind the letters W L E A F T N of the file names (Burkhardt et al. 2005, doi:10.21437/Interspeech.2005-446)."""

GOEMOTIONS_EKMAN: Mapping[str, tuple[str, ...]] = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        "joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief", "pride",
        "admiration", "desire", "caring",
    ),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
    "neutral": ("neutral",),
}  # fmt: skip
"""The paper's own grouping of its 28 labels (Demszky et al. 2020, arXiv:2005.00547, appendix B)."""

TO_EMOTION: Mapping[str, str | None] = {
    **{emotion: emotion for emotion in EMOTIONS},
    **{label: emotion for emotion, labels in GOEMOTIONS_EKMAN.items() for label in labels},
    "calm": "neutral",  # RAVDESS's second baseline; MELD has one
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "angry": "anger",
    "afraid": "fear",
    "fearful": "fear",
    "anxiety": "fear",  # EmoDB's own word beside fear
    "disgusted": "disgust",
    "surprised": "surprise",
    "boredom": None,  # none of the seven comes near: it has little arousal and is not sad
    "bored": None,
    "contempt": None,  # CK+ and Ekman's later list count it beside disgust, not under it
}
"""From any data set's label, in lower case, to one of `EMOTIONS`; None: the label is known and has no counterpart there.

Rows of such a label are left out of what is asked about emotion, and counted; their polarity still counts.
"""

EMOTION_POLARITY: Mapping[str, str] = {
    "neutral": "neutral",
    "joy": "positive",
    "sadness": "negative",
    "anger": "negative",
    "surprise": "positive",  # in MELD it is either; acted surprise (RAVDESS, FER2013) looks and sounds pleasant
    "fear": "negative",
    "disgust": "negative",
}

UNMAPPED_POLARITY = "negative"
"""Of every label without an emotion: boredom and contempt are both unpleasant."""

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

POLARITY_SCORE: Mapping[str, float] = {"negative": -2.0, "neutral": 0.0, "positive": 2.0}
"""Declared, not trained: what a set that only knows polarities says on the [-3, 3] scale."""

_SCORES = np.array([EMOTION_SCORE[emotion] for emotion in EMOTIONS], dtype=np.float32)
_POLARITY = np.array([[EMOTION_POLARITY[e] == p for p in POLARITIES] for e in EMOTIONS], dtype=np.float32)


def emotion_matrix(labels: tuple[str, ...]) -> FloatArray:
    """The matrix (len(labels), 7) that sums a data set's class probabilities into `EMOTIONS`.

    The row of a label without a counterpart holds zeros.

    Raises:
        KeyError: A label that `TO_EMOTION` does not know.
    """
    return np.array([[TO_EMOTION[label] == emotion for emotion in EMOTIONS] for label in labels], dtype=np.float32)


def polarity_of(label: str) -> str:
    """One of `POLARITIES` for any label of `TO_EMOTION`, those without an emotion included.

    Raises:
        KeyError: An unknown label.
    """
    emotion = TO_EMOTION[label]
    return UNMAPPED_POLARITY if emotion is None else EMOTION_POLARITY[emotion]


def find_label(name: str, labels: tuple[str, ...]) -> int | None:
    """Where a set's `labels` hold what a folder or a cell calls `name`, whatever its case.

    The name itself wins; else the only label of the same emotion ("happiness" finds "happy"); else None.
    """
    name = name.strip().lower()
    if name in labels:
        return labels.index(name)
    emotion = TO_EMOTION.get(name)
    same = [place for place, label in enumerate(labels) if TO_EMOTION[label] == emotion]
    return same[0] if emotion is not None and len(same) == 1 else None


def prediction_from_emotions(emotion: FloatArray) -> Prediction:
    """Derive polarity (sums by `EMOTION_POLARITY`) and score (mean of `EMOTION_SCORE`) from probabilities (7,)."""
    emotion = np.asarray(emotion, dtype=np.float32)
    emotion = emotion / emotion.sum()
    return Prediction(score=float(emotion @ _SCORES), polarity=emotion @ _POLARITY, emotion=emotion)


def score_of(polarity: FloatArray) -> float:
    """The score in [-3, 3] that follows from polarity probabilities (3,): 3 (P(positive) - P(negative))."""
    return float(SCORE_MAX * (polarity[POLARITIES.index("positive")] - polarity[POLARITIES.index("negative")]))
