"""What workers do for the whole service."""

from typing import Any

from models.types import FloatArray
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.store.store import Store
from pipelines.tenants import TenantSettings
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import call, results, send, working
from tests.servers import OwnRedis


async def test_a_worker_tells_of_itself_and_of_its_tenants_and_has_the_file_written_anew(
    own_redis: OwnRedis, sound: FloatArray
) -> None:
    store = Store.connect(own_redis.url)
    send(RedisStreamProducer(own_redis.url), call(sound, "c1"))
    async with working(own_redis.url, tenants={"acme": TenantSettings()}):
        await results(own_redis.url, "c1")
        metrics = await eventually(store.service.metrics)
        (text,) = metrics.values()
        assert 'undertone_lag_records{partition="0"} 0.0' in text
        assert "acme" in (await eventually(store.service.tenants) or "")
        await store.delete_call(default("c1"))
        await eventually(lambda: _is_settled(store))
    await store.close()


async def _is_settled(store: Store) -> bool:
    return not await store._redis.exists("ut:rewrite")


async def test_a_shadow_leaves_its_metrics_alone(redis_url: str, raw: Any) -> None:
    shadow = Store.connect(redis_url, "shadow")
    async with working(redis_url, run="shadow", group="shadow"):
        raw.set("ut:rewrite", "x")
        await eventually(shadow.service.metrics)
    assert await shadow.service.tenants() is None
    assert raw.get("ut:rewrite") == "x"
    await shadow.close()
