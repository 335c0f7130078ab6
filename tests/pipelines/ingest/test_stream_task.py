import asyncio
from dataclasses import replace

import pytest
import redis

from models.types import FloatArray, Modality
from pipelines.errors import EncoderUnavailableError
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    Participant,
    Utterance,
    UtteranceSentiment,
)
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import (
    account,
    call,
    committed,
    counter,
    found,
    judge,
    kinds,
    results,
    send,
    status,
    until,
    working,
)


async def test_consent_decides_what_is_analysed(redis_url: str, sound: FloatArray) -> None:
    only_customer = {Participant.CUSTOMER: frozenset({Modality.TEXT})}
    send(RedisStreamProducer(redis_url), [replace(f, consent=only_customer) for f in call(sound, "c1")])
    async with working(redis_url):
        stored = await results(redis_url, "c1")
    assert {one.participant for one in stored} == {Participant.CUSTOMER}
    assert {one.consent for one in stored} == {(Modality.TEXT,)}


async def test_a_call_gets_what_it_asks_for_of_what_its_tenants_policy_allows(
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
    whose = {"silent": "shop", "told": "shop", "elsewhere": "other"}
    async with working(redis_url, analyse=note, tenants=tenants):
        by_call = {name: await results(redis_url, name, tenant=tenant) for name, tenant in whose.items()}
    only_text = {(Participant.AGENT, (Modality.TEXT,)), (Participant.CUSTOMER, (Modality.TEXT,))}
    assert {(one.participant, one.consent) for one in by_call["silent"]} == only_text
    assert {one.consent for one in asked if one.call_id == "silent"} == {frozenset({Modality.TEXT})}
    customers_words = {(Participant.CUSTOMER, (Modality.TEXT,))}
    assert {(one.participant, one.consent) for one in by_call["told"]} == customers_words
    assert {(one.participant, one.consent) for one in by_call["elsewhere"]} == customers_words


async def test_a_fusion_that_is_away_holds_the_call_until_it_is_back(redis_url: str, sound: FloatArray) -> None:
    failures = iter(range(3))

    async def flaky(utterance: Utterance) -> UtteranceSentiment:
        if next(failures, None) is not None:
            raise EncoderUnavailableError("away")
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, analyse=flaky, worker=WorkerSettings(retry_max_s=0.2)):
        assert len(await results(redis_url, "c1")) == 4


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
        await store.open_stream(default("c1"), "phone", "successor", started_at_ms=0)
        gate.release()
        await eventually(lambda: counter(zombie.metrics.fenced) != 0)
        assert (await store.archive.utterances(default("c1"))).items == ()
        await store.close()


@pytest.mark.slow  # waits for the clock
async def test_a_call_without_an_end_is_stalled_then_closed_and_lets_its_offset_go(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    quick = WorkerSettings(stalled_after_s=0.2, closed_after_s=0.6, commit_interval_s=0.05, commit_delay_s=0)
    async with working(redis_url, worker=quick):
        send(producer, fragments[:10])
        await until("stalled", redis_url, "c1")
        await until("closed", redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: not (committed(client) < 10))
    assert await kinds(redis_url, "c1") == ["call-stalled", "call-final"]
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.counted_to) == (10, 10)
    assert max(one.end_ms for one in await results(redis_url, "c1", final=False)) > 9_900


@pytest.mark.slow  # waits for the clock
async def test_a_stalled_call_that_speaks_again_is_live_and_ends_as_an_undisturbed_one(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    send(producer, call(sound, "whole"))
    fragments = call(sound, "c1")
    quick = WorkerSettings(stalled_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, worker=quick):
        undisturbed = found(await results(redis_url, "whole"))
        send(producer, fragments[:10])
        await until("stalled", redis_url, "c1")
        send(producer, fragments[10:])
        await until("final", redis_url, "c1")
        assert found(await results(redis_url, "c1")) == undisturbed
    *before, last = await kinds(redis_url, "c1")
    assert last == "call-final"
    assert before == ["call-stalled", "call-live"] * max(1, len(before) // 2)  # more than once on a slow machine


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_speaks_is_not_closed_however_long(redis_url: str, sound: FloatArray) -> None:
    """Fragments come more often than `closed_after_s`, and the call lasts longer than that."""
    producer = RedisStreamProducer(redis_url)
    quick = WorkerSettings(stalled_after_s=1.0, closed_after_s=3.0, commit_interval_s=0.05)
    async with working(redis_url, worker=quick):
        for fragment in call(sound, "c1"):
            send(producer, [fragment])
            await asyncio.sleep(0.25)
        await results(redis_url, "c1")
    assert set(await kinds(redis_url, "c1")) <= {"call-stalled", "call-live", "call-final"}
    assert (await kinds(redis_url, "c1")).count("call-final") == 1
    assert await status(redis_url, "c1") == "final"


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_speaks_again_while_it_is_being_closed_loses_nothing(
    redis_url: str, sound: FloatArray
) -> None:
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    gate = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gate.wait()
        return await judge(utterance)

    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, "calm"):
        send(producer, call(sound, "whole"))
        whole = found(await results(redis_url, "whole"))
    async with working(redis_url, "w", hold, worker=quick) as worker:
        send(producer, fragments[:10])
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 10)
        await until("stalled", redis_url, "c1")
        await asyncio.sleep(0.5)  # it is being closed now, and cannot be: nothing tells from outside
        send(producer, fragments[10:])
        await eventually(
            lambda: counter(worker.metrics.fragments_analysed) > 10
        )  # else it may be closed before it is heard
        gate.set()
        await until("final", redis_url, "c1")
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.skipped) == (20, {})
    spoken = found(await results(redis_url, "c1", final=False))
    assert spoken[-1][2] == whole[-1][2]


async def test_a_final_stream_that_is_sent_again_stays_final(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, worker=quick) as worker:
        send(producer, call(sound, "c1"))
        await results(redis_url, "c1")
        send(producer, call(sound, "c1"))
        await eventually(lambda: counter(worker.metrics.fragments_skipped.labels("already_stored")) >= 20)
        with redis.Redis.from_url(redis_url) as client:
            assert not client.exists("ut:open:0")
    async with working(redis_url, "later", worker=quick) as worker:
        send(producer, call(sound, "c2"))
        await results(redis_url, "c2")
    assert await kinds(redis_url, "c1") == ["call-final"]
    assert await status(redis_url, "c1") == "final"
