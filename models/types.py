"""The values that cross the border of `models`: numpy only, so that importing them never imports torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
SCORE_MIN, SCORE_MAX = -3.0, 3.0

POLARITIES = ("negative", "neutral", "positive")
"""The three MELD sentiments, and the signs of a MOSEI score."""

EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
"""MELD's seven emotions (Poria et al. 2019, arXiv:1810.02508), the label set of every prediction."""

PARTICIPANTS = ("agent", "customer", "mixed")
UNKNOWN_PARTICIPANT = "mixed"
"""Both parties on one channel, or nobody knows who speaks."""

COMPATIBLE_EMOTIONS: Mapping[str, tuple[str, ...]] = {
    "negative": ("sadness", "anger", "surprise", "fear", "disgust"),
    "neutral": ("neutral", "surprise"),
    "positive": ("joy", "surprise"),
}
"""The emotions that an answer of each polarity may name; surprise is either, as in MELD."""

NEUTRAL_SCORE_MAX = 0.5
"""The score of a neutral answer lies between this and its negative: rounded to the seven steps of MOSEI's scale it is 0."""

FloatArray = NDArray[np.float32]
Times = NDArray[np.int32]
"""Milliseconds from the start of the utterance."""
Picture = NDArray[np.uint8]
"""RGB (H, W, 3) or grey (H, W)."""

PreparedT = TypeVar("PreparedT")


class Modality(StrEnum):
    """One of the three ways a feeling shows."""

    AUDIO = "audio"
    VIDEO = "video"
    TEXT = "text"


PROBABILITY_MIN, JUST_BELOW = 1e-6, 0.999
_EXCLUDED = {
    polarity: np.array([emotion not in allowed for emotion in EMOTIONS])
    for polarity, allowed in COMPATIBLE_EMOTIONS.items()
}
_SCORES_OF = {
    "negative": (SCORE_MIN, 0.0),
    "neutral": (-NEUTRAL_SCORE_MAX, NEUTRAL_SCORE_MAX),
    "positive": (0.0, SCORE_MAX),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one network says of one utterance.

    `score` is in [-3, 3]; `polarity` (3,) and `emotion` (7,) are probabilities in the order of `POLARITIES`
    and `EMOTIONS`, each summing to 1.

    The three never contradict each other, whatever is given, because the likeliest polarity decides: the emotions that it
    excludes (`COMPATIBLE_EMOTIONS`) are lowered to just below the likeliest one that it allows, the others then share
    what was taken; and a score on the other side of zero becomes 0, that of a neutral answer at most `NEUTRAL_SCORE_MAX`
    from it. What does not contradict, and what is no number, stays as it was given.
    """

    score: float
    polarity: FloatArray
    emotion: FloatArray

    def __post_init__(self) -> None:
        """Apply the rule."""
        if not (np.isfinite(self.polarity).all() and np.isfinite(self.emotion).all() and np.isfinite(self.score)):
            return
        polarity = POLARITIES[int(np.argmax(self.polarity))]
        low, high = _SCORES_OF[polarity]
        object.__setattr__(self, "score", float(min(max(self.score, low), high)))
        excluded = _EXCLUDED[polarity]
        if excluded[int(np.argmax(self.emotion))]:
            # Nothing is wholly impossible: a network may be sure of an excluded emotion and know nothing of the others.
            emotion = np.maximum(self.emotion, PROBABILITY_MIN)
            emotion[excluded] = np.minimum(emotion[excluded], JUST_BELOW * emotion[~excluded].max())
            object.__setattr__(self, "emotion", (emotion / emotion.sum()).astype(np.float32))


@dataclass(frozen=True, slots=True)
class FeatureSequence:
    """An utterance step by step: `vectors` (T, D), and `times_ms` (T,), when the sound, face or word of each begins.

    Milliseconds from the start of the utterance, never falling; -1 where it is not known (words without times).
    """

    vectors: FloatArray
    times_ms: Times


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder hands to the fusion: an embedding (D,) and the encoder's own prediction.

    `sequence` is there when the encoder was given `Timed` input: a fusion over time wants it, the others spare its bytes.
    """

    modality: Modality
    embedding: FloatArray
    prediction: Prediction
    sequence: FeatureSequence | None = None


@dataclass(frozen=True, slots=True)
class Timed(Generic[PreparedT]):
    """Prepared input with the time of each of its units (a log-mel row, a face, a character); asks for `Features.sequence`.

    `times_ms` (len(prepared),) is as in `FeatureSequence`.
    """

    prepared: PreparedT
    times_ms: Times

    def __len__(self) -> int:
        """How many units."""
        return len(self.times_ms)


@dataclass(frozen=True, slots=True)
class Contribution:
    """How the fused prediction changes when one modality is left out: with it, minus without it.

    `score` in [-6, 6]; `polarity` (3,) and `emotion` (7,) are differences of probabilities, each summing to 0.
    For the only modality present, "without" is the fusion's own answer to an empty input.
    """

    score: float
    polarity: FloatArray
    emotion: FloatArray


@dataclass(frozen=True, slots=True)
class FusedPrediction:
    """The fusion's answer; `weights` (attention, summing to 1) and `contributions` per modality present."""

    prediction: Prediction
    weights: Mapping[Modality, float]
    contributions: Mapping[Modality, Contribution]


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word; times in milliseconds from the start of the utterance, confidence in [0, 1]."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of one utterance, and whether they may be believed.

    `language` as in BCP 47, `und` where nobody said it. `unreliable` names the gate that rejected the text (`no_speech`,
    `repetition`, `low_confidence`; `language`, one that the text network has not learned), or is None. `redacted` says how many
    items of each kind were replaced by a mark (`[CARD]`), which an encoder may see and which says nothing of the item.
    """

    text: str
    language: str
    words: tuple[Word, ...]
    engine: str
    unreliable: str | None = None
    redacted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the words of an utterance are judged by: the transcript, and who speaks.

    Attributes:
        transcript: The words.
        participant: One of `PARTICIPANTS`.
        before: What the same participant said before in this call, oldest first; empty where it is not known.
    """

    transcript: Transcript
    participant: str = UNKNOWN_PARTICIPANT
    before: tuple[str, ...] = ()


class Transcriber(Protocol):
    """A batch of utterances in, a transcript for each out, in order."""

    @property
    def engine(self) -> str:
        """Name and version, as every result reports it."""

    def transcribe(self, batch: Sequence[FloatArray]) -> list[Transcript]:
        """Each item: mono samples (N,) at 16 kHz in [-1, 1]."""


class Encoder(Protocol):
    """One modality's network. Its input is what its family's `prepare` function returned (`models.families`)."""

    @property
    def name(self) -> str:
        """Name and hash, as in `audio@1a2b3c4d`; a result puts the bundle's name before it: `embedded/audio@1a2b3c4d`."""

    def encode(self, batch: Sequence[Any]) -> list[Features]:
        """A batch of prepared inputs in, features for each out, in order; of a `Timed` one with their sequence."""

    def probe(self) -> Any:
        """The smallest prepared input, for health checks."""


@runtime_checkable
class Classifier(Encoder, Protocol):
    """An encoder whose head has classes of its own, finer or other than `EMOTIONS`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names that `models.labels.TO_EMOTION` knows."""

    def classify(self, batch: Sequence[Any]) -> FloatArray:
        """Probabilities (N, len(labels)) of prepared inputs."""


class Fuser(Protocol):
    """Puts together whatever modalities are present."""

    @property
    def name(self) -> str:
        """Name and hash, as in `fusion@1a2b3c4d`; a result puts the bundle's name before it."""

    def fuse(self, batch: Sequence[Mapping[Modality, Features]]) -> list[FusedPrediction]:
        """Each item holds at least one modality; a missing modality is absent, never zeros."""

    def probe(self) -> Mapping[Modality, Features]:
        """A small input, for health checks."""
