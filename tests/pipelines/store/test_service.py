from typing import Any

from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.tenants import TenantSettings


async def test_the_tenants_of_the_live_service_are_told_in_every_run(store: Store) -> None:
    told = AppConfig(tenants={"shop": TenantSettings(consent="customer=text")}).tenants_text()
    assert await store.service.tenants() is None

    await store.service.set_tenants(told)

    assert await store.of_run("mine").service.tenants() == told


async def test_metrics_of_living_workers(store: Store, raw: Any) -> None:
    await store.service.publish_metrics("w1", "one 1\n", 60)
    await store.service.publish_metrics("w2", "two 2\n", 60)
    assert await store.service.metrics() == {"w1": "one 1\n", "w2": "two 2\n"}
    raw.delete("ut:{metrics}:worker:w1")
    assert await store.service.metrics() == {"w2": "two 2\n"}
