import contextlib
import json
import re
from pathlib import Path

import httpx

from deployments.http.api import create_api
from deployments.http.bodies import Health, Part
from pipelines.errors import StoreUnavailableError
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from tests.deployments.http.site import (
    PROBLEM,
    Everyone,
    LosingProducer,
    Site,
    judge,
    problem,
)
from tests.deployments.http.test_caller import SCOPES

LIVE_MEDIA = "WS /v1/calls/{call_id}/media"


async def test_without_redis_the_gateway_lives_but_is_not_ready() -> None:
    store = Store.connect("unix:///nowhere/redis.sock")

    async def health() -> Health:
        await store.ping()
        raise AssertionError("unreachable")

    api = create_api(
        store=store,
        producer=LosingProducer(),
        analyse=judge,
        health=health,
        config=AppConfig(),
        access=Everyone(),
        hosts=frozenset({"t"}),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        assert (await client.get("/healthz")).json() == {"status": "alive", "transcriber": None, "bundle": None}
        problem(await client.get("/readyz"), 503, "not_ready")
        answer = await client.get("/v1/calls")
        problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"]
    with contextlib.suppress(StoreUnavailableError):
        await store.close()


async def test_health_names_the_models_and_readiness_the_part_that_is_not_well(site: Site) -> None:
    assert (await site.client.get("/healthz")).json()["transcriber"] == "whisper-tiny.en/ctranslate2-4.8"
    assert (await site.client.get("/readyz")).json()["bundle"] == "embedded-1"

    site.parts.append(Part(name="Transcriber", ok=False, detail="no replica"))

    assert "Transcriber: no replica" in problem(await site.client.get("/readyz"), 503, "not_ready")["detail"]
    assert (await site.client.get("/healthz")).status_code == 200


async def test_metrics_are_those_of_the_workers(site: Site) -> None:
    await site.store.service.publish_metrics("w-1", "# TYPE undertone_fenced counter\nundertone_fenced_total 3.0\n", 15)

    answer = await site.client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert 'undertone_fenced_total{worker="w-1"} 3.0' in answer.text


async def test_the_page_of_the_api_has_every_route_and_what_it_needs(site: Site) -> None:
    documented = (await site.client.get("/openapi.json")).json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in documented.items() for method in methods}
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    told = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (\w*)", page, re.MULTILINE)

    assert {route for route, _ in told} == {*routes, LIVE_MEDIA}
    assert len(told) == len({route for route, _ in told})
    scopes = {
        f"{method} {path.replace('a-17', '{call_id}').replace('4711', '{ref}')}": scope
        for (method, path), scope in SCOPES.items()
    }
    assert {route: scope for route, scope in told if scope} == {**scopes, LIVE_MEDIA: "send"}


async def test_the_openapi_page_documents_every_route_and_the_problem(site: Site) -> None:
    page = (await site.client.get("/openapi.json")).json()

    assert set(page["paths"]) == {
        "/v1/calls",
        "/v1/calls/{call_id}",
        "/v1/calls/{call_id}/deletion",
        "/v1/calls/{call_id}/utterances",
        "/v1/calls/{call_id}/events",
        "/v1/events",
        "/v1/accesses",
        "/v1/customers/{ref}",
        "/v1/forget",
        "/v1/trends",
        "/v1/analyze",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert "reason" in page["components"]["schemas"]["Problem"]["properties"]
    assert "HTTPValidationError" not in json.dumps(page["paths"])
    upload = page["paths"]["/v1/calls"]["post"]
    assert "participants" in [parameter["name"] for parameter in upload["parameters"]]
    assert upload["responses"]["422"]["content"][PROBLEM]


async def test_no_answer_sends_a_client_to_the_host_that_its_request_names(site: Site) -> None:
    for path in ("/v1/calls/", "/v1/trends/", "/healthz/", "/docs/", "/v1//calls", "//evil.example/v1/calls/"):
        answer = await site.client.get(path, headers={"host": "evil.example", "authorization": "Bearer x"})
        assert answer.status_code == 404
        assert "location" not in answer.headers
        assert "evil.example" not in answer.text or path.startswith("//")
