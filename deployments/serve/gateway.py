"""The replica that serves the API: what `create_api` needs, made from settings and handles."""

import asyncio
from dataclasses import fields
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.http.access import TokenAccess
from deployments.http.api import create_api
from deployments.http.bodies import Health, Part
from deployments.serve.back_pressure import BoundedReplica
from deployments.serve.encoders import bundle_of
from deployments.serve.stages import Handles, served_analyser
from pipelines.errors import StoreUnavailableError
from pipelines.log.choose import open_producer
from pipelines.settings import AppConfig, Settings
from pipelines.store.store import Store

PART_S = 1.5
ANSWER_S = 120.0
"""How long a step of `POST /v1/analyze` may take: somebody waits for the answer, and would rather have it late than without."""


class Gateway:
    """The ingress replica. It holds `ingest`, whose handle it asks for nothing, so that Serve deploys it too."""

    def __init__(self, config: AppConfig, handles: Handles, ingest: DeploymentHandle[Any]) -> None:
        settings = Settings()
        self._config, self._handles, self._ingest = config, handles, ingest
        self._store = Store.connect(settings.redis.get_secret_value())
        self._producer = open_producer(config, settings)
        self._analyser = served_analyser(config, handles, ANSWER_S)
        self._access = TokenAccess.of(settings)
        self._hosts = frozenset(name.strip().lower() for name in settings.hosts.split(",") if name.strip())
        self._bundle = bundle_of(config).label

    def __serve_build_asgi_app__(self) -> FastAPI:  # the name that Serve calls
        """Called by Serve once the replica is built."""
        api = create_api(
            store=self._store,
            producer=self._producer,
            analyse=self._analyser,
            health=self._health,
            config=self._config,
            access=self._access,
            hosts=self._hosts,
        )
        api.add_middleware(BoundedReplica)
        return api

    async def check_health(self) -> None:
        """Unhealthy when its own loop cannot even ask Redis, anew; whether Redis answers is for `/readyz` to say."""
        await self._redis_part()

    async def _health(self) -> Health:
        names = {field.name: getattr(self._handles, field.name) for field in fields(self._handles)}
        network_parts = await asyncio.gather(*(_network_part(name, handle) for name, handle in names.items()))
        parts = [await self._redis_part(), *network_parts]
        workers = await self._store.service.metrics() if parts[0].ok else {}
        parts.append(Part(name="ingest", ok=bool(workers), detail=f"{len(workers)} worker(s) report"))
        engine = next(part for part in network_parts if part.name == "transcriber")
        return Health(transcriber=engine.detail if engine.ok else None, bundle=self._bundle, parts=parts)

    async def _redis_part(self) -> Part:
        try:
            await self._store.ping()
        except StoreUnavailableError as error:
            return Part(name="redis", ok=False, detail=str(error))
        return Part(name="redis", ok=True)


async def _network_part(name: str, handle: DeploymentHandle[Any]) -> Part:
    try:
        serving = await asyncio.wait_for(handle.name.remote(), PART_S)
    except TimeoutError:
        return Part(name=name, ok=False, detail=f"no answer within {PART_S:g} s")
    except (RayError, RayServeException) as error:
        return Part(name=name, ok=False, detail=str(error))
    return Part(name=name, ok=True, detail=str(serving))
