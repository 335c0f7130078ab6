import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
import uvicorn

from tests.deployments.http.site import Site, serving
from tests.eventually import eventually


@pytest_asyncio.fixture
async def site(redis_url: str) -> AsyncIterator[Site]:
    async with serving(redis_url) as found:
        yield found


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
