"""What networks answer, as the result's JSON holds it (docs/architecture.md#a-result)."""

import numpy as np

from models.types import EMOTIONS, POLARITIES, Contribution, FloatArray, Prediction, Transcript
from pipelines.types import ContributionOut, Judgement, TranscriptOut, WordOut


def judgement(prediction: Prediction) -> Judgement:
    """The prediction as the result's JSON holds it."""
    return Judgement(
        score=round(prediction.score, 4),
        polarity=POLARITIES[int(np.argmax(prediction.polarity))],
        polarity_probabilities=_by_label(POLARITIES, prediction.polarity),
        emotion=EMOTIONS[int(np.argmax(prediction.emotion))],
        emotion_probabilities=_by_label(EMOTIONS, prediction.emotion),
    )


def transcript_out(transcript: Transcript, start_ms: int) -> TranscriptOut:
    """The transcript with word times moved from the utterance to the call."""
    words = tuple(
        WordOut(
            text=word.text,
            start_ms=start_ms + word.start_ms,
            end_ms=start_ms + word.end_ms,
            confidence=round(word.confidence, 4),
        )
        for word in transcript.words
    )
    return TranscriptOut(
        text=transcript.text,
        language=transcript.language,
        words=words,
        engine=transcript.engine,
        reliable=transcript.unreliable is None,
        unreliable_reason=transcript.unreliable,
        redacted=dict(transcript.redacted),
    )


def contribution_out(contribution: Contribution) -> ContributionOut:
    """One modality's contribution, likewise."""
    return ContributionOut(
        score=round(contribution.score, 4),
        polarity_probabilities=_by_label(POLARITIES, contribution.polarity),
        emotion_probabilities=_by_label(EMOTIONS, contribution.emotion),
    )


def _by_label(labels: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(labels, values, strict=True)}
