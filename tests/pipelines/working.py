"""A worker at work on a real Redis, its log and its store there, with a judge that shows what it was given."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import redis

from models.types import FloatArray, Transcript
from pipelines.checkpoints import Account
from pipelines.errors import StoreUnavailableError
from pipelines.ingest.worker import Worker
from pipelines.log.dead_letter import Letter, open_letter, read_letters
from pipelines.log.producer import Producer
from pipelines.log.records import call_of, fragment_headers, open_fragment
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.log.results import read_result_record
from pipelines.seal import Seal
from pipelines.settings import AppConfig
from pipelines.store.keys import CallKeys
from pipelines.store.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    TOPIC_SENTIMENT,
    CallRef,
    MediaFragment,
    Participant,
    Record,
    Utterance,
    UtteranceSentiment,
)
from tests.eventually import eventually
from tests.pipelines.stored import default

RATE = 8000
GROUP = "ut:log:{call-media}:group:undertone"
"""The embedded log's key of the workers' group."""
Voice = Callable[[float, int], FloatArray]


def speech(voice: Voice) -> FloatArray:
    """Two parties at 8 kHz, (2, N): they take turns, once over each other, with pauses that end utterances."""
    sound = np.zeros((2, 20 * RATE), np.float32)
    for channel, start_s, length_s in ((0, 1, 3), (1, 5, 3), (0, 9.5, 2.5), (1, 11, 4)):
        words = voice(length_s, int(10 * start_s))[::2]
        begin = int(start_s * RATE)
        sound[channel, begin : begin + words.size] = words
    return sound


def call(sound: FloatArray, call_id: str, *, fragment_ms: int = 1000) -> list[MediaFragment]:
    size = RATE * fragment_ms // 1000
    count = sound.shape[1] // size
    return [
        MediaFragment(
            call_id=call_id,
            tenant="default",
            stream="phone",
            seq=seq,
            start_ms=seq * fragment_ms,
            content_type=f"audio/L16;rate={RATE};channels=2",
            participants=(Participant.AGENT, Participant.CUSTOMER),
            consent=DEFAULT_CONSENT,
            final=seq == count - 1,
            media=np.rint(sound[:, seq * size : (seq + 1) * size].T * 32767).astype(">i2").tobytes(),
        )
        for seq in range(count)
    ]


def send(producer: Producer, fragments: Sequence[MediaFragment]) -> None:
    for fragment in fragments:
        producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, fragment_headers(fragment))
    producer.flush()


async def judge(utterance: Utterance) -> UtteranceSentiment:
    """A result that shows every sample it was made of, so that two runs can be compared to the bit."""
    return UtteranceSentiment(
        utterance_id=utterance.utterance_id,
        call_id=utterance.call_id,
        tenant=utterance.tenant,
        stream=utterance.stream,
        participant=utterance.participant,
        start_ms=utterance.start_ms,
        end_ms=utterance.end_ms,
        consent=tuple(sorted(utterance.consent)),
        modalities={},
        bundle=f"{utterance.samples.size}:{float(np.abs(utterance.samples).sum()):.6f}",
        analysed_at=datetime.now(UTC),
    )


@asynccontextmanager
async def running(worker: Worker, store: Store) -> AsyncIterator[None]:
    """`worker` at work; then both are closed."""
    loop = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await loop
        await store.close()


@asynccontextmanager
async def working(
    url: str,
    owner: str = "w",
    analyse: Callable[[Utterance], object] = judge,
    *,
    log: str = "",
    group: str = "undertone",
    transcribe: Callable[[FloatArray], Awaitable[Transcript | None]] | None = None,
    **config: object,
) -> AsyncIterator[Worker]:
    """A worker on the store at `url`, and the log there or at `log`."""
    made = AppConfig.model_validate(config)
    store = Store.connect(url, made.run)
    worker = Worker(
        source=RedisStreamSource(log or url, group=group, holds_records=made.is_live),
        producer=RedisStreamProducer(log or url),
        store=store,
        analyse=analyse,  # type: ignore[arg-type]  # each test brings its own coroutine
        config=made,
        owner=owner,
        transcribe=transcribe,
    )
    async with running(worker, store):
        yield worker


async def results(url: str, call_id: str, *, final: bool = True, tenant: str = "default") -> list[UtteranceSentiment]:
    """The call's results, once it is final; however long the store is away meanwhile."""
    store = Store.connect(url)
    last_id = "0-0"
    kind = ""
    while final and kind != "call-final":
        try:
            for event in await store.archive.events(CallRef(tenant, call_id), last_id, block_ms=5000):
                last_id, kind = event.id, event.kind
        except StoreUnavailableError:
            await asyncio.sleep(0.1)
    found = await store.archive.results(CallRef(tenant, call_id))
    await store.close()
    return found


def found(stored: Sequence[UtteranceSentiment]) -> list[tuple[object, ...]]:
    return [(one.participant, one.start_ms, one.end_ms, one.bundle) for one in stored]


def records(url: str, topic: str) -> list[Record]:
    source = RedisStreamSource(url, topic, group="test")
    try:
        read: list[Record] = []
        while True:
            polled = source.poll(0.01, 100)
            read += polled.records
            if not polled.records and not polled.assigned:
                return read
    finally:
        source.close()


def seal_of(url: str, call: CallRef, topic: str, seal_id: str) -> Seal | None:
    """What the store at `url` has to open a sealed record with."""
    with redis.Redis.from_url(url) as client:
        key = client.hget(CallKeys(call)(f"seals:{topic}"), seal_id)
    return None if key is None else Seal(call, topic, seal_id, bytes.fromhex(key.decode()))


def opened(url: str, fragment: MediaFragment) -> MediaFragment:
    """A fragment of the log with media that can be read."""
    if fragment.seal is None:
        return fragment
    seal = seal_of(url, fragment.call, TOPIC_MEDIA, fragment.seal)
    assert seal is not None
    return open_fragment(fragment, seal)


def letters(url: str) -> list[Letter]:
    """What stands in the dead-letter topic and can be opened, in order."""
    found = []
    for letter in read_letters(records(url, TOPIC_DEAD_LETTER)):
        call = call_of(letter.record)
        if letter.seal is None:
            found.append(letter)
        elif call is not None and (seal := seal_of(url, call, TOPIC_DEAD_LETTER, letter.seal)):
            found.append(open_letter(letter, seal))
    return found


def published(url: str) -> list[UtteranceSentiment]:
    """What stands on `call-sentiment` and can be opened, in order."""
    found = []
    for record in records(url, TOPIC_SENTIMENT):
        call = call_of(record)
        assert call is not None
        if seal := seal_of(url, call, TOPIC_SENTIMENT, dict(record.headers)["seal"].decode()):
            found.append(read_result_record(record, seal))
    return found


def committed(client: redis.Redis) -> int:
    """The offset that the group has committed in the log at `client`."""
    return int(client.hget(GROUP, "committed") or 0)


async def account(url: str, call_id: str, stream: str = "phone") -> Account:
    store = Store.connect(url)
    checkpoints = await store.checkpoints(default(call_id))
    await store.close()
    return checkpoints[stream].account


async def dead_letters(url: str, call_id: str) -> dict[str, int]:
    store = Store.connect(url)
    counts = await store.ledger.dead_letter_counts(default(call_id))
    await store.close()
    return dict(counts)


async def kinds(url: str, call_id: str) -> list[str]:
    store = Store.connect(url)
    happened = await store.archive.events(default(call_id))
    await store.close()
    return [event.kind for event in happened if event.kind != "utterance"]


async def status(url: str, call_id: str) -> str | None:
    store = Store.connect(url)
    call_info = await store.archive.call(default(call_id))
    await store.close()
    return call_info.status if call_info else None


async def until(wanted: str, url: str, call_id: str) -> None:
    """Wait until the call's status is `wanted`."""

    async def reached() -> bool:
        return await status(url, call_id) == wanted

    await eventually(reached)


def counter(metric: Any) -> float:
    """The value of a counter or a gauge."""
    value: float = metric._value.get()
    return value
