"""Results as tests of what shows them need them."""

import asyncio
from datetime import UTC, datetime

from models.types import Modality
from pipelines.store.store import Store
from pipelines.types import (
    LIVE_RUN,
    ContributionOut,
    Judgement,
    ModalityOut,
    Participant,
    TranscriptOut,
    UtteranceSentiment,
)
from tests.pipelines.stored import store_call


def result(
    start_ms: int,
    words: str,
    score: float | None,
    participant: Participant = Participant.CUSTOMER,
    *,
    reliable: bool = True,
) -> UtteranceSentiment:
    judged = None
    if score is not None:
        judged = Judgement(
            score=score,
            polarity="negative" if score < 0 else "positive",
            polarity_probabilities={"negative": 0.5, "positive": 0.5},
            emotion="anger" if score < 0 else "joy",
            emotion_probabilities={"anger": 0.8, "joy": 0.2} if score < 0 else {"anger": 0.2, "joy": 0.8},
        )
    contribution = ContributionOut(score=score or 0.0, polarity_probabilities={}, emotion_probabilities={})
    return UtteranceSentiment(
        utterance_id=f"c/main/{participant}/{start_ms}",
        call_id="c",
        tenant="default",
        stream="main",
        participant=participant,
        start_ms=start_ms,
        end_ms=start_ms + 2000,
        loudness_dbfs=-20.0,
        consent=tuple(Modality),
        transcript=TranscriptOut(
            text=words,
            language="en",
            engine="test",
            reliable=reliable,
            unreliable_reason=None if reliable else "no_speech",
        ),
        judgement=judged,
        modalities={
            Modality.TEXT: ModalityOut(used=True, contribution=contribution),
            Modality.AUDIO: ModalityOut(used=False, missing="timeout"),
            Modality.VIDEO: ModalityOut(used=False, missing="no_face"),
        },
        bundle="embedded@1",
        analysed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def keep(
    url: str,
    call_id: str,
    results: list[UtteranceSentiment],
    *,
    final: bool = True,
    first: int = 0,
    run: str = LIVE_RUN,
) -> None:
    """Store `results[first:]` as an ingest worker would."""

    async def stored() -> None:
        store = Store.connect(url, run)
        own = [found.model_copy(update={"call_id": call_id}) for found in results]
        await store_call(store, call_id, own, final=final, first=first)
        await store.close()

    asyncio.run(stored())
