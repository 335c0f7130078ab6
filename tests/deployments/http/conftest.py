import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
import uvicorn

from deployments.http.api import create_api
from deployments.http.bodies import Health, Part
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.tenants import TenantSettings
from tests.deployments.http.site import LIMITS, Everyone, Site, judge
from tests.eventually import eventually


@pytest_asyncio.fixture
async def site(redis_url: str) -> AsyncIterator[Site]:
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    parts = [Part(name="redis", ok=True)]

    async def health() -> Health:
        await store.ping()
        return Health(transcriber="whisper-tiny.en/ctranslate2-4.8", bundle="embedded-1", parts=parts)

    quiet = TenantSettings(consent="customer=text+audio", accesses_ttl_s=7 * 86_400)
    config = AppConfig(tenants={"default": TenantSettings(), "quiet": quiet})
    api = create_api(
        store=store,
        producer=producer,
        analyse=judge,
        health=health,
        config=config,
        access=Everyone(),
        hosts=frozenset({"t"}),
        limits=LIMITS,
    )
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        yield Site(api, store, redis_url, client, parts)
    await store.close()
    producer.close()


@pytest_asyncio.fixture
async def address(site: Site) -> AsyncIterator[str]:
    """The same gateway on a real port: what a stream of events or a WebSocket needs."""
    server = uvicorn.Server(
        uvicorn.Config(site.api, port=0, log_level="warning", lifespan="off", ws="websockets-sansio")
    )
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
