"""Results, and a short way to store them."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from models.types import EMOTIONS, POLARITIES, Modality
from pipelines.checkpoints import ResumePoint, TrackCut
from pipelines.store.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    CallRef,
    Judgement,
    MediaFragment,
    ModalityOut,
    Participant,
    UtteranceSentiment,
)

STARTED_MS = 1_760_000_000_000
MINUTE_MS = 60_000
AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER


def acme(call_id: str) -> CallRef:
    """A call of the tenant to whom most of these belong."""
    return CallRef("acme", call_id)


def default(call_id: str) -> CallRef:
    """A call of the tenant that nobody named."""
    return CallRef("default", call_id)


def fragment(call_id: str = "c", stream: str = "main", tenant: str = "acme") -> MediaFragment:
    return MediaFragment(
        call_id, tenant, stream, 0, 0, "audio/L16;rate=8000", (CUSTOMER,), DEFAULT_CONSENT, final=False, media=b""
    )


def result(
    start_ms: int,
    call_id: str = "c",
    participant: Participant = CUSTOMER,
    *,
    score: float | None = -1.5,
    stream: str = "main",
    tenant: str = "acme",
) -> UtteranceSentiment:
    polarity = "neutral" if not score else "negative" if score < 0 else "positive"
    return UtteranceSentiment(
        utterance_id=f"{call_id}/{stream}/{participant}/{start_ms}",
        call_id=call_id,
        tenant=tenant,
        stream=stream,
        participant=participant,
        start_ms=start_ms,
        end_ms=start_ms + 900,
        consent=(Modality.TEXT,),
        judgement=None
        if score is None
        else Judgement(
            score=score,
            polarity=polarity,
            polarity_probabilities=dict.fromkeys(POLARITIES, 1 / 3),
            emotion="anger" if score < 0 else "joy",
            emotion_probabilities=dict.fromkeys(EMOTIONS, 1 / 7),
        ),
        modalities={Modality.TEXT: ModalityOut(used=score is not None)},
        bundle="test",
        analysed_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


async def advance(
    store: Store,
    stored: UtteranceSentiment | None,
    expected: int,
    new: int,
    *,
    owner: str = "w1",
    first: MediaFragment | None = None,
    participant: Participant = CUSTOMER,
    offset: int = 5,
) -> None:
    await store.advance(
        first or fragment(),
        owner=owner,
        participant=participant,
        expected_cut_sample=expected,
        new=TrackCut(new, 1),
        resume=ResumePoint(offset, 2, 32_000),
        result=stored,
        ttl_s=3600,
    )


async def store_call(
    store: Store,
    call_id: str,
    results: Sequence[UtteranceSentiment],
    *,
    tenant: str = "default",
    started_ms: int = STARTED_MS,
    final: bool = True,
    first: int = 0,
) -> None:
    """Store `results[first:]` of a call's one stream as a worker does."""
    await store.open_stream(CallRef(tenant, call_id), "main", "w1", started_ms)
    beginning, cuts = fragment(call_id, tenant=tenant), Counter[Participant]()
    for number, found in enumerate(results):
        who, new = found.participant, found.end_ms * 16
        if number >= first:
            await advance(store, found, cuts[who], new, first=beginning, participant=who)
        cuts[who] = new
    if final:
        await store.set_state(CallRef(tenant, call_id), "main", "final", owner="w1")


async def stored_call(store: Store, call_id: str, started_ms: int, *scores: float, tenant: str = "acme") -> None:
    """A finished call of one stream with an utterance a second."""
    judged = [result(number * 1000, call_id, score=score, tenant=tenant) for number, score in enumerate(scores)]
    await store_call(store, call_id, judged, tenant=tenant, started_ms=started_ms)
