import asyncio
from dataclasses import replace

import numpy as np
import pytest
import redis

from models.types import FloatArray
from pipelines.ingest.worker import Worker
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    MediaFragment,
    Participant,
    Utterance,
    UtteranceSentiment,
)
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import (
    GROUP,
    account,
    call,
    committed,
    counter,
    found,
    judge,
    published,
    results,
    running,
    send,
    working,
)
from tests.servers import OwnRedis


async def test_a_call_goes_in_as_fragments_and_comes_out_as_utterances(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url) as worker:
        stored = await results(redis_url, "c1")
        assert {one.participant for one in stored} == {Participant.AGENT, Participant.CUSTOMER}
        assert len(stored) == 4
        assert counter(worker.metrics.fragments_analysed) == 20
    assert sorted(found(published(redis_url))) == sorted(found(stored))


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
        assert counter(worker.metrics.fragments_skipped.labels("already_stored")) == 20


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


def recorded(sound: FloatArray, call_id: str) -> list[MediaFragment]:
    """A call of ten times the length, sent at once as an upload is."""
    return [replace(one, recorded=True) for one in call(np.tile(sound, 10), call_id)]


async def test_a_live_call_does_not_wait_behind_uploads(redis_url: str, sound: FloatArray) -> None:
    """All of it is stored before an utterance of the uploads that were sent before is judged."""
    producer, live_is_stored = RedisStreamProducer(redis_url), asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        if utterance.recorded:
            await live_is_stored.wait()
        return await judge(utterance)

    uploads = ["up-1", "up-2"]
    for call_id in uploads:
        send(producer, recorded(sound, call_id))
    send(producer, call(sound, "live"))
    async with working(redis_url, analyse=hold) as worker:
        live = found(await results(redis_url, "live"))
        assert [await results(redis_url, call_id, final=False) for call_id in uploads] == [[], []]
        assert (
            counter(worker.metrics.fragments_analysed) < 200
        )  # of 420: the uploads have their share of the room, no more
        with redis.Redis.from_url(redis_url) as client:
            assert committed(client) == 0  # where the uploads must be read from again
        live_is_stored.set()
        uploaded = [found(await results(redis_url, call_id)) for call_id in uploads]
    assert len(live) == 4
    assert uploaded[0] == uploaded[1]
    assert len(uploaded[0]) >= 40


async def test_a_successor_of_a_worker_that_read_ahead_loses_nothing(redis_url: str, sound: FloatArray) -> None:
    """It did a live call, and an upload that was before it only in part; what it had read of both is read again."""
    send(RedisStreamProducer(redis_url), recorded(sound, "undisturbed"))
    async with working(redis_url):
        undisturbed = found(await results(redis_url, "undisturbed"))
    send(RedisStreamProducer(redis_url), [*recorded(sound, "torn"), *call(sound, "live")])

    async def a_few(utterance: Utterance) -> UtteranceSentiment:
        if utterance.recorded and utterance.start_ms > 30_000:
            await asyncio.Event().wait()
        return await judge(utterance)

    quick = WorkerSettings(commit_delay_s=0, commit_interval_s=0.05)
    async with working(redis_url, "first", analyse=a_few, worker=quick):
        live = found(await results(redis_url, "live"))
    async with working(redis_url, "second", worker=quick):
        assert found(await results(redis_url, "torn")) == undisturbed
        assert found(await results(redis_url, "live", final=False)) == live
    torn = await account(redis_url, "torn")
    assert (torn.analysed, torn.missing, torn.lost) == (200, 0, 0)


async def test_no_more_than_so_much_is_read_ahead(redis_url: str, sound: FloatArray) -> None:
    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await held.wait()
        return await judge(utterance)

    held = asyncio.Event()
    send(RedisStreamProducer(redis_url), recorded(sound, "upload"))
    size = len(call(sound, "upload")[0].media)
    async with working(redis_url, analyse=hold, worker=WorkerSettings(held_max_bytes=20 * size)) as worker:
        await eventually(lambda: worker._assignment.held_bytes >= 20 * size)
        await asyncio.sleep(0.5)  # it polls on
        assert worker._assignment.held_bytes <= (20 + 16) * size
        held.set()
        assert len(await results(redis_url, "upload")) >= 40


async def test_results_that_cannot_be_published_are_work_in_flight_too(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The topic of fragments can be read and that of results not written: what waits in memory is bounded."""
    for index in range(4):
        send(RedisStreamProducer(redis_url), call(sound, f"c{index}"))
    store = Store.connect(redis_url)
    worker = Worker(
        source=RedisStreamSource(redis_url),
        producer=RedisStreamProducer(own_redis.url),
        store=store,
        analyse=judge,
        config=AppConfig(worker=WorkerSettings(utterances_in_flight=2, retry_max_s=0.1)),
        owner="w",
    )
    own_redis.kill()
    async with running(worker, store):
        await eventually(lambda: counter(worker.metrics.retries.labels("source_unavailable")) >= 20)
        assert 2 <= counter(worker.metrics.in_flight) <= 3
        assert counter(worker.metrics.fragments_analysed) < 40
        own_redis.restart()
        for index in range(4):
            assert len(await results(redis_url, f"c{index}")) == 4
        await eventually(lambda: not (counter(worker.metrics.in_flight)))


@pytest.mark.slow  # waits for the clock
async def test_a_worker_that_waits_for_the_store_stays_a_reader_of_the_log(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The embedded log gives a reader's place away after 5 s without a poll, as a Kafka group does after 2 min."""
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    with redis.Redis.from_url(redis_url) as log:
        async with working(own_redis.url, log=redis_url, worker=WorkerSettings(retry_max_s=0.2)) as worker:
            await eventually(lambda: log.hexists(GROUP, "reader"))
            reader = log.hget(GROUP, "reader")
            own_redis.kill()
            await eventually(lambda: counter(worker.metrics.retries.labels("store_away")))
            held_until_ms = int(log.hget(GROUP, "reader_until_ms") or 0)
            await eventually(lambda: not (int(log.hget(GROUP, "reader_until_ms") or 0) < held_until_ms + 5_000))
            assert log.hget(GROUP, "reader") == reader
            own_redis.restart()
            assert len(await results(own_redis.url, "c1")) == 4


@pytest.mark.slow  # waits for the clock
async def test_a_worker_that_loses_its_partition_while_it_waits_for_the_store_drops_what_it_was_at(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    with redis.Redis.from_url(redis_url) as log:
        async with working(own_redis.url, "cut off", log=redis_url, worker=WorkerSettings(retry_max_s=0.2)) as worker:
            own_redis.kill()
            await eventually(lambda: counter(worker.metrics.retries.labels("store_away")))
            log.hset(GROUP, mapping={"reader": "successor", "reader_until_ms": 1 << 50})
            await eventually(lambda: worker.idle)
            own_redis.restart()
            store = Store.connect(own_redis.url)
            assert await store.archive.call(default("c1")) is None
            await store.close()
