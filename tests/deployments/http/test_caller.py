import json
from typing import Any

import pytest
import websockets
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from deployments.http.caller import ALL_SCOPES, Identity, identify
from tests.deployments.http.site import Site, problem, result, wav
from tests.pipelines.media_files import sound

WITHOUT_CALLER = {
    "/healthz": "a probe of the platform has no identity, and is told nothing of any tenant",
    "/readyz": "as /healthz",
    "/metrics": "Prometheus reads the figures of all tenants together",
    "/openapi.json": "the description of the API, the same for everybody",
    "/docs": "as /openapi.json",
    "/docs/begin.js": "as /openapi.json",
    "/docs/favicon-32x32.png": "as /openapi.json",
    "/docs/swagger-ui-bundle.js": "as /openapi.json",
    "/docs/swagger-ui.css": "as /openapi.json",
}


def depends_on_caller(dependant: Dependant) -> bool:
    return dependant.call is identify or any(map(depends_on_caller, dependant.dependencies))


async def test_every_route_knows_its_caller(site: Site) -> None:
    lacking, known = set(), set()
    for route in iter_route_contexts(site.api.routes):
        endpoint: Any = route
        dependant = getattr(endpoint, "dependant", None)
        if dependant is not None and depends_on_caller(dependant):
            known.add(endpoint.path)
        else:
            lacking.add(endpoint.path)

    assert lacking == set(WITHOUT_CALLER)
    assert {"/v1/calls/{call_id}/media", "/v1/events", "/v1/analyze"} <= known


async def test_a_caller_is_anonymous_and_acts_for_the_tenant_that_it_names() -> None:
    assert await identify() == Identity("default", ALL_SCOPES)
    assert await identify("acme") == Identity("acme", ALL_SCOPES)


@pytest.mark.parametrize(
    ("query", "field", "tenant"),
    [("", {}, "default"), ("tenant=acme", {}, "acme"), ("tenant=acme", {"tenant": "rival"}, "rival")],
)
async def test_media_is_of_the_callers_tenant_unless_its_form_names_one(
    site: Site, query: str, field: dict[str, str], tenant: str
) -> None:
    answer = await site.client.post(
        f"/v1/calls?{query}",
        data={"participants": "customer", **field},
        files={"file": ("a.wav", wav(sound(0.5, 8000)))},
    )

    assert answer.status_code == 202
    assert {piece.tenant for piece in site.fragments()} == {tenant}


@pytest.mark.parametrize(
    ("query", "field", "tenant"),
    [("", {}, "default"), ("?tenant=acme", {}, "acme"), ("?tenant=acme", {"tenant": "rival"}, "rival")],
)
async def test_live_media_is_of_the_callers_tenant_unless_its_first_message_names_one(  # pytest passes by name
    site: Site, address: str, query: str, field: dict[str, str], tenant: str
) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media{query}") as socket:
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/PCMU", **field}))
        await socket.recv()
        await socket.send(bytes(8_000))
        await socket.send('{"end": true}')
        await socket.recv()

    assert {piece.tenant for piece in site.fragments()} == {tenant}


@pytest.mark.parametrize(
    "path", ["/v1/calls", "/v1/calls/a-17", "/v1/calls/a-17/utterances", "/v1/trends", "/v1/events"]
)
async def test_a_tenant_that_is_no_name_is_refused_everywhere(site: Site, path: str) -> None:
    found = problem(await site.client.get(f"{path}?tenant=a%2Fb"), 422, "invalid_input")

    assert found["errors"][0]["at"] == "query.tenant"


async def test_another_tenants_call_is_unknown(site: Site) -> None:
    await site.call(result(0))

    for rest in ("", "/utterances", "/events"):
        problem(await site.client.get(f"/v1/calls/a-17{rest}?tenant=acme"), 404, "unknown_call")
