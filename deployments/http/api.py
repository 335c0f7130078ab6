"""`create_api` puts the routes together: plain FastAPI without Ray; store, log and analyser are passed in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from importlib.metadata import version

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.http.access import Access
from deployments.http.accesses import access_routes
from deployments.http.admission import Admission, Seats
from deployments.http.analyze import Analyse, analyze_routes
from deployments.http.bodies import Health, Liveness, Part
from deployments.http.browser import SameSite, login_routes
from deployments.http.caller import Operator, noted_in
from deployments.http.calls import call_routes
from deployments.http.customers import customer_routes
from deployments.http.docs import docs_routes
from deployments.http.events import event_routes
from deployments.http.limits import HttpLimits, MediaThreads
from deployments.http.media import media_routes
from deployments.http.problems import PROBLEM_RESPONSES, ProblemError, install_problems
from deployments.http.uploads import Intake, LogWriter
from pipelines.errors import UndertoneError
from pipelines.log.producer import Producer
from pipelines.media.byte_stream import SpoolBudget
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.metrics import exposition
from pipelines.settings import AppConfig
from pipelines.store.store import Store

HEALTH_S = 2.0
"""A health check that takes longer has failed."""

DESCRIPTION = """\
Sentiment and emotion of customer-service calls, from voice, face and words, while they happen.

Send a recording to `POST /v1/calls` or live media to `WS /v1/calls/{call_id}/media`, then follow
`GET /v1/calls/{call_id}/events`, or all calls at `GET /v1/events`. Every error is a problem (RFC 9457,
`application/problem+json`); its `reason` is a stable word.
"""


def create_api(
    *,
    store: Store,
    producer: Producer,
    analyse: Analyse,
    health: Callable[[], Awaitable[Health]],
    config: AppConfig,
    access: Access,
    hosts: frozenset[str] = frozenset(),
    limits: HttpLimits | None = None,
) -> FastAPI:
    """The whole API. It closes neither `store` nor `producer`; `producer` is used from one thread of its own.

    Args:
        store: where results are.
        producer: the way into the log of fragments.
        analyse: one utterance in, its result out, for `POST /v1/analyze`.
        health: asked by `/healthz` and `/readyz`; may raise any `UndertoneError`.
        config: the application's.
        access: decides who a caller is.
        hosts: names under which the gateway may be reached besides the loopback's; `*` is any.
        limits: what one request may take.
    """
    limits, at_once = limits or HttpLimits(), config.http
    threads = MediaThreads(at_once.media_streams_max, at_once.media_streams_per_client_max)
    decoders, writer = DecoderProcesses(), LogWriter(producer)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        yield
        threads.close()
        decoders.close()
        writer.close()

    api = FastAPI(
        title="Undertone",
        version=version("undertone"),
        description=DESCRIPTION,
        responses=PROBLEM_RESPONSES,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from another site
        redoc_url=None,
        redirect_slashes=False,  # it would go to whatever host the request names
    )
    install_problems(api)
    api.state.access = access
    api.state.note_access = noted_in(store, config)
    api.add_middleware(SameSite, hosts=hosts)
    api.include_router(login_routes())
    api.include_router(docs_routes())
    spool = SpoolBudget(at_once.upload_spool_max_bytes)
    api.include_router(media_routes(store, Intake(threads, decoders, writer, limits, config, spool)))
    api.include_router(call_routes(store))
    api.include_router(customer_routes(store, limits))
    api.include_router(event_routes(store, at_once, limits.heartbeat_ms))
    api.include_router(access_routes(store))
    api.include_router(analyze_routes(analyse, threads, decoders, config, limits))
    _add_operation(api, store, health)
    api.add_middleware(
        Admission,
        requests=Seats(at_once.requests_max, at_once.requests_per_client_max, reason="busy", what="requests"),
    )
    return api


def _add_operation(api: FastAPI, store: Store, health: Callable[[], Awaitable[Health]]) -> None:
    @api.get("/healthz", tags=["operation"], summary="Does the process answer, and which models serve")
    async def healthz() -> Liveness:
        """Always 200 while the gateway answers, whatever else fails. It needs no token."""
        found: Health | None = None
        with suppress(TimeoutError, UndertoneError):
            found = await asyncio.wait_for(health(), HEALTH_S)
        if found is None:
            return Liveness(transcriber=None, bundle=None)
        return Liveness(transcriber=found.transcriber, bundle=found.bundle)

    @api.get("/readyz", tags=["operation"], summary="Does everything answer that a request needs")
    async def readyz() -> Health:
        """200 when every part is well; else the problem `not_ready`, which names the others. It needs no token."""
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
    async def metrics(_caller: Operator) -> Response:
        """Each worker leaves its own in the store every few seconds; here they stand with a `worker` label."""
        trouble = await store.trouble()
        texts = {} if trouble == "away" else await store.service.metrics()
        return Response(exposition(texts, trouble), media_type=CONTENT_TYPE_LATEST)


def _not_ready(parts: list[Part]) -> ProblemError:
    broken = "; ".join(f"{part.name}: {part.detail or 'does not answer'}" for part in parts if not part.ok)
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", broken)
