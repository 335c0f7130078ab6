import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from models.types import FloatArray, Modality
from pipelines.errors import EncoderUnavailableError
from pipelines.producer import Producer
from pipelines.records import fragment_headers
from pipelines.redis_log import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    TOPIC_SENTIMENT,
    MediaFragment,
    Participant,
    Record,
    Utterance,
    UtteranceSentiment,
)
from pipelines.worker import Worker

RATE = 8000
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
async def working(
    url: str, owner: str = "w", analyse: Callable[[Utterance], object] = judge, **config: object
) -> AsyncIterator[Worker]:
    store = Store.connect(url)
    worker = Worker(
        source=RedisStreamSource(url),
        producer=RedisStreamProducer(url),
        store=store,
        analyse=analyse,  # type: ignore[arg-type]  # each test brings its own coroutine
        config=AppConfig.model_validate(config),
        owner=owner,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running
        await store.close()


async def results(url: str, call_id: str, *, final: bool = True) -> list[UtteranceSentiment]:
    """The call's results, once it is final."""
    store = Store.connect(url)
    last_id = "0-0"
    kind = ""
    while final and kind != "call-final":
        for event in await store.events(call_id, last_id, block_ms=5000):
            last_id, kind = event.id, event.kind
    page = await store.utterances(call_id, limit=500)
    await store.close()
    return list(page.items)


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


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


async def test_a_call_goes_in_as_fragments_and_comes_out_as_utterances(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url) as worker:
        stored = await results(redis_url, "c1")
        assert {one.participant for one in stored} == {Participant.AGENT, Participant.CUSTOMER}
        assert len(stored) == 4
        assert worker.metrics.fragments_analysed._value.get() == 20
    published = [UtteranceSentiment.model_validate_json(record.value) for record in records(redis_url, TOPIC_SENTIMENT)]
    assert sorted(found(published)) == sorted(found(stored))


async def test_consent_decides_what_is_analysed(redis_url: str, sound: FloatArray) -> None:
    only_customer = {Participant.CUSTOMER: frozenset({Modality.TEXT})}
    send(RedisStreamProducer(redis_url), [replace(f, consent=only_customer) for f in call(sound, "c1")])
    async with working(redis_url):
        stored = await results(redis_url, "c1")
    assert {one.participant for one in stored} == {Participant.CUSTOMER}
    assert {one.consent for one in stored} == {(Modality.TEXT,)}


async def test_a_tenants_policy_holds_where_the_call_says_nothing_and_the_call_wins_where_it_does(
    redis_url: str, sound: FloatArray
) -> None:
    asked: list[Utterance] = []

    async def note(utterance: Utterance) -> UtteranceSentiment:
        asked.append(utterance)
        return await judge(utterance)

    said = {Participant.CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}
    producer = RedisStreamProducer(redis_url)
    send(producer, [replace(f, tenant="shop", consent=None) for f in call(sound, "silent")])
    send(producer, [replace(f, tenant="shop", consent=said) for f in call(sound, "told")])
    send(producer, [replace(f, tenant="other", consent=None) for f in call(sound, "elsewhere")])
    tenants = {"shop": {"consent": "agent=text;customer=text"}}
    async with working(redis_url, analyse=note, tenants=tenants):
        by_call = {call_id: await results(redis_url, call_id) for call_id in ("silent", "told", "elsewhere")}
    only_text = {(Participant.AGENT, (Modality.TEXT,)), (Participant.CUSTOMER, (Modality.TEXT,))}
    assert {(one.participant, one.consent) for one in by_call["silent"]} == only_text
    assert {one.consent for one in asked if one.call_id == "silent"} == {frozenset({Modality.TEXT})}
    heard = (Modality.AUDIO, Modality.TEXT)
    assert {(one.participant, one.consent) for one in by_call["told"]} == {(Participant.CUSTOMER, heard)}
    for one in by_call["elsewhere"]:
        assert set(one.consent) == DEFAULT_CONSENT[one.participant]


async def test_the_same_call_again_changes_nothing_and_under_another_id_gives_the_same(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    async with working(redis_url) as worker:
        send(producer, call(sound, "c1"))
        first = await results(redis_url, "c1")
        send(producer, call(sound, "c1"))
        send(producer, call(sound, "c2", fragment_ms=250))
        again = await results(redis_url, "c2")
        assert found(again) == found(first)
        assert found(await results(redis_url, "c1")) == found(first)
        assert worker.metrics.fragments_skipped.labels("already_stored")._value.get() == 20


async def test_a_successor_at_any_moment_finds_the_same_utterances(redis_url: str, sound: FloatArray) -> None:
    """A worker is abandoned without a word after each stored result; the next one goes on from the checkpoint."""
    producer = RedisStreamProducer(redis_url)
    send(producer, call(sound, "whole"))
    async with working(redis_url):
        undisturbed = found(await results(redis_url, "whole"))
    send(producer, call(sound, "torn"))
    for crash in range(len(undisturbed)):
        stored = asyncio.Semaphore(0)

        async def judge_one(utterance: Utterance, stored: asyncio.Semaphore = stored, crash: int = crash) -> object:
            if len(await results(redis_url, "torn", final=False)) > crash:
                stored.release()
                await asyncio.Event().wait()
            return await judge(utterance)

        async with working(redis_url, f"w{crash}", judge_one):
            waiting = asyncio.create_task(results(redis_url, "torn"))
            stuck = asyncio.create_task(stored.acquire())
            await asyncio.wait([waiting, stuck], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            stuck.cancel()
    async with working(redis_url, "last"):
        assert found(await results(redis_url, "torn")) == undisturbed


async def test_a_worker_that_lost_its_stream_stores_nothing(redis_url: str, sound: FloatArray) -> None:
    gate = asyncio.Semaphore(0)
    begun = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        begun.set()
        await gate.acquire()
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, "zombie", hold) as zombie:
        await begun.wait()
        store = Store.connect(redis_url)
        await store.open_stream("c1", "default", "phone", "successor", started_at_ms=0)
        gate.release()
        while zombie.metrics.fenced._value.get() == 0:
            await asyncio.sleep(0)
        assert (await store.utterances("c1")).items == ()
        await store.close()


async def test_a_bad_record_is_dead_lettered_and_its_call_goes_on(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:3])
    producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
    producer.send(TOPIC_MEDIA, "odd id!", b"x", fragment_headers(fragments[3]))
    broken = replace(fragments[3], media=b"this is no film", content_type="video/mp4", stream="cam")
    send(producer, [broken, *fragments[3:]])
    async with working(redis_url) as worker:
        assert len(await results(redis_url, "c1", final=False)) <= 4
        while len(letters := records(redis_url, TOPIC_DEAD_LETTER)) < 3:
            await asyncio.sleep(0.01)
        while worker.metrics.fragments_analysed._value.get() < len(fragments):
            await asyncio.sleep(0.01)
        assert worker.metrics.fragments_in._value.get() == len(fragments) + 3
    reasons = [dict(letter.headers)["dlq-reason"] for letter in letters]
    assert reasons == [b"unknown_version", b"bad_call_id", b"undecodable"]
    assert letters[0].value == b"x"
    assert dict(letters[0].headers)["dlq-offset"] == b"3"


async def test_a_final_fragment_that_is_damaged_still_ends_its_call(redis_url: str, sound: FloatArray) -> None:
    fragments = call(sound, "c1")
    fragments[-1] = replace(fragments[-1], media=b"noise", content_type="audio/x-matroska")
    send(RedisStreamProducer(redis_url), fragments)
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4


async def test_an_empty_final_fragment_ends_its_call_and_what_is_missing_is_counted(
    redis_url: str, sound: FloatArray
) -> None:
    fragments = [f for f in call(sound, "c1")[:-1] if f.seq not in {4, 5}]
    end = replace(fragments[-1], seq=19, start_ms=19_000, media=b"", content_type="video/x-matroska", final=True)
    send(RedisStreamProducer(redis_url), [*fragments, end])
    async with working(redis_url) as worker:
        assert await results(redis_url, "c1")
        assert worker.metrics.fragments_missing._value.get() == 2
    assert records(redis_url, TOPIC_DEAD_LETTER) == []


async def test_a_fusion_that_is_away_holds_the_call_until_it_is_back(redis_url: str, sound: FloatArray) -> None:
    failures = iter(range(3))

    async def flaky(utterance: Utterance) -> UtteranceSentiment:
        if next(failures, None) is not None:
            raise EncoderUnavailableError("away")
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, analyse=flaky, worker=WorkerSettings(retry_max_s=0.2)):
        assert len(await results(redis_url, "c1")) == 4


async def test_work_in_flight_is_bounded_and_the_rest_waits_in_the_log(redis_url: str, sound: FloatArray) -> None:
    at_once = most = 0

    async def counting(utterance: Utterance) -> UtteranceSentiment:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return await judge(utterance)

    producer = RedisStreamProducer(redis_url)
    for index in range(4):
        send(producer, call(sound, f"c{index}"))
    async with working(redis_url, analyse=counting, worker=WorkerSettings(utterances_in_flight=2)):
        for index in range(4):
            assert len(await results(redis_url, f"c{index}")) == 4
    # One fragment may end two utterances at once, one of each party.
    assert most <= 3


async def test_a_deleted_call_takes_nothing_more(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    store = Store.connect(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url) as worker:
        send(producer, fragments[:10])
        while not await results(redis_url, "c1", final=False):
            await asyncio.sleep(0.01)
        await store.delete_call("c1")
        send(producer, [*fragments[10:], *call(sound, "c2")])
        assert len(await results(redis_url, "c2")) == 4
        assert await store.call("c1") is None
        assert worker.metrics.fragments_skipped.labels("call_deleted")._value.get() > 0
    await store.close()


async def test_offsets_move_only_as_far_as_open_streams_need(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "open")
    send(producer, [*fragments[:2], *call(sound, "done")])
    async with working(redis_url):
        await results(redis_url, "done")
    source = RedisStreamSource(redis_url)
    read: list[Record] = []
    while not read:
        read += source.poll(0.1, 1).records
    source.close()
    assert read[0].at.offset == 0


async def test_a_stream_that_falls_silent_is_let_go_and_goes_on_when_it_speaks_again(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url, worker=WorkerSettings(stream_idle_s=0.3, commit_interval_s=0.05)) as worker:
        send(producer, fragments[:10])
        while worker.metrics.fragments_analysed._value.get() < 10 or worker.metrics.open_streams._value.get():
            await asyncio.sleep(0.01)
        before = await results(redis_url, "c1", final=False)
        send(producer, fragments[10:])
        after = await results(redis_url, "c1")
    assert set(found(before)) < set(found(after))
    assert max(one.end_ms for one in after) > 14_000


async def test_a_call_of_which_nothing_may_be_analysed_holds_no_offset_back(redis_url: str, sound: FloatArray) -> None:
    nobody = {Participant.MIXED: frozenset({Modality.TEXT})}
    fragments = [replace(f, consent=nobody) for f in call(sound, "c1")]
    send(RedisStreamProducer(redis_url), fragments[:-1])
    async with working(redis_url) as worker:
        while worker.metrics.fragments_analysed._value.get() < len(fragments) - 1:
            await asyncio.sleep(0.01)
    source = RedisStreamSource(redis_url)
    read: list[Record] = []
    while not read:
        read += source.poll(0.1, 1).records
    source.close()
    assert read[0].at.offset == len(fragments) - 2


async def test_a_record_too_large_for_the_dead_letter_topic_is_cut_and_stops_nothing(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c1", bytes(2 << 20), tuple((f"h{n}", bytes(3000)) for n in range(40)))
    send(producer, call(sound, "c1"))
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4
    (letter,) = records(redis_url, TOPIC_DEAD_LETTER)
    assert dict(letter.headers)["dlq-bytes"] == str(2 << 20).encode()


async def test_another_tenants_fragment_does_not_enter_an_open_stream(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:10])
    send(producer, [replace(fragments[10], tenant="other")])
    send(producer, fragments[10:])
    async with working(redis_url):
        assert {one.tenant for one in await results(redis_url, "c1")} == {"default"}
    (letter,) = records(redis_url, TOPIC_DEAD_LETTER)
    assert dict(letter.headers)["dlq-reason"] == b"bad_header"
