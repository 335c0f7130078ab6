"""The HTTP side: `create_api` puts the routes together (plain FastAPI), `Gateway` is the replica that serves them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.answers import Health, Liveness, Part
from deployments.api_analyze import Analyse, analyze_routes
from deployments.api_calls import call_routes
from deployments.api_media import media_routes
from deployments.encoders import Handles, bundle_of, served_stages
from deployments.intake import HttpLimits, Intake, LogWriter, MediaThreads
from deployments.problems import PROBLEM_RESPONSES, ProblemError, install_problems
from pipelines.analyse import Analyser
from pipelines.errors import StoreUnavailableError, UndertoneError
from pipelines.log import open_producer
from pipelines.metrics import exposition
from pipelines.producer import Producer
from pipelines.settings import AppConfig, Settings
from pipelines.store import Store

PART_S = 1.5
HEALTH_S = 2.0
"""A part that does not say within this time how it is, is not well."""

DESCRIPTION = """\
Sentiment and emotion of customer-service calls, from voice, face and words, while they happen.

Send a recording to `POST /v1/calls` or live media to `WS /v1/calls/{call_id}/media`, then follow
`GET /v1/calls/{call_id}/events`. Every error is a problem (RFC 9457, `application/problem+json`); its `reason` is a
stable word.
"""


def create_api(
    *,
    store: Store,
    producer: Producer,
    analyse: Analyse,
    health: Callable[[], Awaitable[Health]],
    config: AppConfig,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """The whole API. It closes neither `store` nor `producer`; `producer` is used from one thread of its own.

    Args:
        store: where results are.
        producer: the way into the log of fragments.
        analyse: one utterance in, its result out, for `POST /v1/analyze`.
        health: asked by `/healthz` and `/readyz`; may raise any `UndertoneError`.
        config: the application's.
        limits: what one request may take.
    """
    limits = limits or HttpLimits()
    threads = MediaThreads(limits.media_streams_max)
    writer = LogWriter(producer)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        yield
        threads.close()
        writer.close()

    api = FastAPI(
        title="Undertone",
        version=version("undertone"),
        description=DESCRIPTION,
        responses=PROBLEM_RESPONSES,
        lifespan=lifespan,
    )
    install_problems(api)
    api.include_router(media_routes(store, Intake(threads, writer, limits)))
    api.include_router(call_routes(store, limits.heartbeat_ms))
    api.include_router(analyze_routes(analyse, threads, config.stream, limits))
    _add_operation(api, store, health)
    return api


def _add_operation(api: FastAPI, store: Store, health: Callable[[], Awaitable[Health]]) -> None:
    @api.get("/healthz", tags=["operation"], summary="Does the process answer, and which models serve")
    async def healthz() -> Liveness:
        """Always 200 while the gateway answers, whatever else fails."""
        found: Health | None = None
        with suppress(TimeoutError, UndertoneError):
            found = await asyncio.wait_for(health(), HEALTH_S)
        if found is None:
            return Liveness(transcriber=None, bundle=None)
        return Liveness(transcriber=found.transcriber, bundle=found.bundle)

    @api.get("/readyz", tags=["operation"], summary="Does everything answer that a request needs")
    async def readyz() -> Health:
        """200 when every part is well; else the problem `not_ready`, which names the others."""
        try:
            found = await asyncio.wait_for(health(), HEALTH_S)
        except (TimeoutError, UndertoneError) as error:
            raise _not_ready([Part(name="health", ok=False, detail=str(error) or "no answer")]) from error
        if not all(part.ok for part in found.parts):
            raise _not_ready(found.parts)
        return found

    @api.get(
        "/metrics",
        tags=["operation"],
        summary="Prometheus metrics of every ingest worker",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Each worker leaves its own in the store every few seconds; here they stand with a `worker` label."""
        return Response(exposition(CollectorRegistry(), await store.metrics()), media_type=CONTENT_TYPE_LATEST)


def _not_ready(parts: list[Part]) -> ProblemError:
    broken = "; ".join(f"{part.name}: {part.detail or 'does not answer'}" for part in parts if not part.ok)
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", broken)


class Gateway:
    """The ingress replica. It holds `ingest`, whose handle it asks for nothing, so that Serve deploys it too."""

    def __init__(self, config: AppConfig, handles: Handles, ingest: DeploymentHandle[Any] | None) -> None:
        settings = Settings()
        self._config, self._handles, self._ingest = config, handles, ingest
        self._store = Store.connect(settings.redis.get_secret_value())
        self._producer = open_producer(config, settings)
        self._analyser = Analyser(served_stages(config, handles), config.timeouts)
        self._bundle = bundle_of(config).label

    def __serve_build_asgi_app__(self) -> FastAPI:  # the name that Serve calls
        """Called by Serve once the replica is built."""
        return create_api(
            store=self._store,
            producer=self._producer,
            analyse=self._analyser,
            health=self._health,
            config=self._config,
        )

    async def _health(self) -> Health:
        names = {field.name: getattr(self._handles, field.name) for field in fields(self._handles)}
        network_parts = await asyncio.gather(*(_network_part(name, handle) for name, handle in names.items()))
        parts = [await self._redis_part(), *network_parts]
        if self._ingest is not None:
            workers = await self._store.metrics() if parts[0].ok else {}
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
