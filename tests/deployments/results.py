"""Results as tests of what shows them need them."""

import asyncio
from datetime import UTC, datetime

from models.types import Modality
from pipelines.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    LIVE_RUN,
    ContributionOut,
    Judgement,
    MediaFragment,
    ModalityOut,
    Participant,
    ResumePoint,
    TrackCut,
    TranscriptOut,
    UtteranceSentiment,
)

STARTED_MS = 1_763_700_000_000


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
    asyncio.run(_keep(Store.connect(url, run), call_id, results, final=final, first=first))


async def _keep(store: Store, call_id: str, results: list[UtteranceSentiment], *, final: bool, first: int) -> None:
    start = MediaFragment(
        call_id,
        "default",
        "main",
        0,
        0,
        "audio/L16;rate=8000",
        (Participant.CUSTOMER,),
        DEFAULT_CONSENT,
        final=False,
        media=b"",
    )
    await store.open_stream(call_id, "default", "main", "w1", STARTED_MS)
    cuts: dict[Participant, int] = {Participant.AGENT: 0, Participant.CUSTOMER: 0}
    for number, found in enumerate(results):
        new = (number + 1) * 16_000
        if number >= first:
            await store.advance(
                start,
                owner="w1",
                participant=found.participant,
                believed_cut_sample=cuts[found.participant],
                new=TrackCut(new, number),
                resume=ResumePoint(number, number, 0),
                result=found.model_copy(update={"call_id": call_id}),
                ttl_s=3600,
            )
        cuts[found.participant] = new
    if final:
        await store.settle(call_id, "main", owner="w1", state="final")
    await store.close()
