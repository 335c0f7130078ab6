"""The store on a Redis Cluster of three masters, and with one that dies while its replica takes over."""

import pytest
import redis
import redis.asyncio

from models.types import FloatArray
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.store.keys import CallKeys
from pipelines.store.queries import CallFilter
from pipelines.store.store import Store
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import Voice, call, found, results, send, speech, working
from tests.servers import OwnCluster

pytestmark = pytest.mark.slow  # servers of its own

CALLS = [f"call-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


async def test_calls_on_a_cluster_are_analysed_listed_watched_and_deleted(
    redis_url: str, redis_cluster: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    for name in CALLS:
        send(producer, call(sound, name))
    async with working(redis_cluster, log=redis_url):
        stored = {name: found(await results(redis_cluster, name)) for name in CALLS}
        store = Store.connect(redis_cluster)
        await eventually(store.service.metrics)
    assert len(set(map(tuple, stored.values()))) == 1
    page = await store.archive.calls(CallFilter())
    assert {one.call_id for one in page.items} == set(CALLS)
    assert all(one.status == "final" for one in page.items)
    assert (await store.checkpoints(default(CALLS[0])))["phone"].account.analysed == 20
    assert await store.trouble() is None
    assert len((await store.epoch()).split()) == 3
    assert await store.delete_call(default(CALLS[0]))
    assert await store.archive.call(default(CALLS[0])) is None
    assert await store.archive.trends("default", 0, 60_000) == ()
    await store.close()


async def test_one_full_master_of_a_cluster_is_trouble(redis_cluster: str) -> None:
    port = int(redis_cluster.rpartition(":")[2])
    client = redis.asyncio.RedisCluster.from_url(f"redis://127.0.0.1:{port}")
    await client.initialize()
    masters = [int(node.port) for node in client.get_primaries()]
    await client.aclose()
    store = Store.connect(redis_cluster)
    for master in masters:
        with redis.Redis(port=master) as one:
            one.config_set("maxmemory", 1)
            assert await store.trouble() == "out_of_memory"
            one.config_set("maxmemory", 0)
    assert await store.trouble() is None
    await store.close()


async def test_the_calls_of_a_cluster_lie_on_all_its_masters(
    redis_cluster: str,
) -> None:
    plain = redis_cluster.replace("redis+cluster", "redis")
    client = redis.asyncio.RedisCluster.from_url(plain)
    await client.initialize()
    slots = {client.keyslot(CallKeys(default(name))("call")) * 3 // 16_384 for name in CALLS}
    await client.aclose()
    assert slots == {0, 1, 2}


async def test_a_replica_that_is_promoted_in_the_middle_of_a_call_loses_nothing(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory, sound: FloatArray
) -> None:
    """The masters die one after the other while calls are stored; what a replica had not heard of is told again."""
    cluster = OwnCluster(tmp_path_factory.mktemp("cluster"), masters=3, replicas=3)
    try:
        producer = RedisStreamProducer(redis_url)
        quick = WorkerSettings(commit_interval_s=0.2, retry_max_s=0.5)
        async with working(redis_url, "reference"):
            send(producer, call(sound, "whole"))
            whole = found(await results(redis_url, "whole"))
        async with working(cluster.url, log=redis_url, worker=quick):
            for name in CALLS[:3]:
                send(producer, call(sound, name)[:10])
            await eventually(lambda: results(cluster.url, CALLS[0], final=False))
            cluster.kill(1)
            for name in CALLS[:3]:
                send(producer, call(sound, name)[10:])
            for name in CALLS[:3]:
                assert found(await results(cluster.url, name)) == whole
    finally:
        cluster.kill()
