import asyncio

import pytest
import redis

from models.types import FloatArray
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    Utterance,
    UtteranceSentiment,
)
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import (
    call,
    committed,
    counter,
    found,
    judge,
    kinds,
    results,
    send,
    status,
    working,
)
from tests.servers import OwnRedis


@pytest.fixture
def log_and_store(redis_url: str, own_redis: OwnRedis) -> tuple[str, str]:
    """Two servers: one keeps the log, the other may be broken."""
    return redis_url, own_redis.url


async def test_a_store_that_forgets_a_workers_first_call_is_told_again(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """It is killed before the worker commits, and so before it looks for the first time whether it is another."""
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(own_redis.url, log=redis_url, worker=WorkerSettings(commit_interval_s=3.0)):
        before = found(await results(own_redis.url, "c1"))
        own_redis.restart()
        assert found(await results(own_redis.url, "c1")) == before


async def test_a_store_that_forgot_its_last_moments_is_told_again(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The server is killed and comes back as it was saved in the middle of the call, which had ended meanwhile."""
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    url = own_redis.url
    async with working(url, log=redis_url, worker=WorkerSettings(commit_interval_s=0.05)):
        send(producer, fragments[:10])
        await eventually(lambda: results(url, "c1", final=False))
        with redis.Redis.from_url(url) as client:
            client.save()
        send(producer, fragments[10:])
        stored = found(await results(url, "c1"))
        own_redis.restart()
        assert found(await results(url, "c1")) == stored


async def test_a_store_that_keeps_a_file_may_be_killed_again_and_again(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory, sound: FloatArray
) -> None:
    """Append-only file, synced once a second: killing the server, unlike the machine, loses no write."""
    server = OwnRedis(tmp_path_factory.mktemp("r"), "--appendonly", "yes", "--appendfsync", "everysec")
    producer = RedisStreamProducer(redis_url)
    try:
        async with working(server.url, log=redis_url, worker=WorkerSettings(retry_max_s=0.2)):
            send(producer, call(sound, "whole"))
            undisturbed = found(await results(server.url, "whole"))
            fragments = call(sound, "torn")
            for begin in range(0, 20, 5):
                send(producer, fragments[begin : begin + 5])
                server.restart()
            assert found(await results(server.url, "torn")) == undisturbed
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("refuse", "allow", "trouble"),
    [
        ("config set maxmemory 1", "config set maxmemory 0", "out_of_memory"),
        ("replicaof 127.0.0.1 1", "replicaof no one", "read_only"),
    ],
)
async def test_a_store_that_refuses_to_write_holds_everything_until_it_writes_again(
    log_and_store: tuple[str, str], sound: FloatArray, refuse: str, allow: str, trouble: str
) -> None:
    log, url = log_and_store
    begun, gate = asyncio.Event(), asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        begun.set()
        await gate.wait()
        return await judge(utterance)

    send(RedisStreamProducer(log), call(sound, "c1"))
    quick = WorkerSettings(retry_max_s=0.2, commit_interval_s=0.05, commit_delay_s=0)
    store = Store.connect(url)
    with redis.Redis.from_url(url) as client, redis.Redis.from_url(log) as log_client:
        async with working(url, analyse=hold, log=log, worker=quick) as worker:
            await begun.wait()
            client.execute_command(*refuse.split())
            gate.set()
            await eventually(lambda: counter(worker.metrics.retries.labels(f"store_{trouble}")) >= 3)
            assert await store.trouble() == trouble
            assert committed(log_client) == 0
            client.execute_command(*allow.split())
            assert len(await results(url, "c1")) == 4
    await store.close()


@pytest.mark.slow  # an outage of ten seconds
async def test_an_outage_of_the_store_is_no_silence_of_the_calls(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """It lasts longer than a stream may be silent, and their fragments wait in the log, more than are read at once."""
    producer, calls = RedisStreamProducer(redis_url), [call(sound, name) for name in ("c1", "c2")]
    worker_settings = WorkerSettings(stalled_after_s=4.0, closed_after_s=5.0, commit_interval_s=0.05, retry_max_s=0.2)
    async with working(own_redis.url, log=redis_url, worker=worker_settings) as worker:
        send(producer, [*calls[0][:3], *calls[1][:3]])
        await eventually(lambda: not (counter(worker.metrics.fragments_analysed) < 6 or not worker.backlog))
        with redis.Redis.from_url(own_redis.url) as client:
            client.save()
        own_redis.kill()
        send(producer, [*calls[0][3:], *calls[1][3:]])
        await eventually(lambda: counter(worker.metrics.retries.labels("store_away")) >= 50)
        own_redis.restart()
        assert found(await results(own_redis.url, "c1")) == found(await results(own_redis.url, "c2"))
    store = Store.connect(own_redis.url)
    for name in ("c1", "c2"):
        assert [event.kind for event in await store.archive.events(default(name)) if event.kind != "utterance"] == [
            "call-final"
        ]
    await store.close()


@pytest.mark.slow  # waits for the clock
async def test_an_outage_of_log_and_store_is_no_silence_of_the_calls(
    own_redis: OwnRedis, tmp_path_factory: pytest.TempPathFactory, sound: FloatArray, caplog: pytest.LogCaptureFixture
) -> None:
    """The store comes back first: what the log said before it went away says nothing of now."""
    log = OwnRedis(tmp_path_factory.mktemp("r"), "--appendonly", "yes", "--appendfsync", "always")
    fragments, producer = call(sound, "c1"), RedisStreamProducer(log.url)
    quick = WorkerSettings(stalled_after_s=3.0, closed_after_s=3.5, commit_interval_s=0.05, retry_max_s=0.2)
    try:
        async with working(own_redis.url, log=log.url, worker=quick) as worker:
            send(producer, fragments[:3])
            await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 3 and worker.backlog)
            with redis.Redis.from_url(own_redis.url) as client:
                client.save()
            own_redis.kill()
            send(producer, fragments[3:4])
            await eventually(lambda: counter(worker.metrics.retries.labels("store_away")) >= 3)
            log.kill()
            await eventually(lambda: caplog.text.count("the log of fragments is away:") >= 2)
            own_redis.restart()
            await eventually(lambda: caplog.text.count("is away, trying again") >= 4)
            assert await status(own_redis.url, "c1") == "live"
            log.restart()
            send(RedisStreamProducer(log.url), fragments[4:])
            await results(own_redis.url, "c1")
    finally:
        log.kill()
    assert await kinds(own_redis.url, "c1") == ["call-final"]
