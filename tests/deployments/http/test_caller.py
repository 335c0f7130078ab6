import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from websockets.exceptions import InvalidStatus

from deployments.http import caller
from deployments.http.access import TokenAccess
from deployments.http.caller import identify
from deployments.http.tokens import ALL_SCOPES, Scope, TokenFile, new_token
from tests.deployments.http.site import Site, problem, result, wav
from tests.pipelines.media_files import sound

WITHOUT_CALLER = {
    "/healthz": "a probe of the platform has no token, and is told nothing of any tenant",
    "/readyz": "as /healthz",
    "/login": "it takes the token itself",
    "/openapi.json": "the description of the API, the same for everybody",
    "/": "it leads to /docs",
    "/docs": "as /openapi.json",
    "/docs/begin.js": "as /openapi.json",
    "/docs/favicon-32x32.png": "as /openapi.json",
    "/docs/swagger-ui-bundle.js": "as /openapi.json",
    "/docs/swagger-ui.css": "as /openapi.json",
}
SCOPES = {
    ("GET", "/v1/calls"): "read",
    ("GET", "/v1/trends"): "read",
    ("GET", "/v1/calls/a-17"): "read",
    ("GET", "/v1/calls/a-17/utterances"): "read",
    ("GET", "/v1/calls/a-17/events"): "read",
    ("GET", "/v1/events"): "read",
    ("POST", "/v1/calls"): "send",
    ("POST", "/v1/analyze"): "analyze",
    ("GET", "/v1/calls/a-17/deletion"): "delete",
    ("DELETE", "/v1/calls/a-17"): "delete",
    ("GET", "/v1/accesses"): "operate",
    ("DELETE", "/v1/customers/4711"): "delete",
    ("POST", "/v1/forget"): "delete",
    ("GET", "/metrics"): "operate",
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


@pytest.fixture
def tokens(site: Site, tmp_path: Path) -> TokenFile:
    """The site, which now asks for tokens of this file."""
    file = TokenFile(tmp_path / "tokens")
    file.add(new_token("nobody", frozenset())[1])
    site.api.state.access = TokenAccess(file, None)
    return file


def bearer(file: TokenFile, tenant: str, *scopes: Scope) -> dict[str, str]:
    token, grant = new_token(tenant, frozenset(scopes))
    file.add(grant)
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("route", "scope"), SCOPES.items())
async def test_each_route_wants_a_token_with_its_scope(
    site: Site, tokens: TokenFile, route: tuple[str, str], scope: Scope
) -> None:
    method, path = route
    others = bearer(tokens, "default", *(ALL_SCOPES - {scope}))

    problem(await site.client.request(method, path), 401, "no_token")
    problem(await site.client.request(method, path, headers=others), 403, "insufficient_scope")
    own = bearer(tokens, "acme", scope)
    problem(await site.client.request(method, f"{path}?tenant=rival", headers=own), 403, "wrong_tenant")
    if path != "/v1/events":  # which does not end
        assert (await site.client.request(method, path, headers=own)).status_code not in {401, 403}


async def test_a_socket_wants_a_token_too(site: Site, tokens: TokenFile, address: str) -> None:
    url = f"ws://{address}/v1/calls/a-17/media"
    nothing: dict[str, str] = {}
    refused = ((nothing, 401), (bearer(tokens, "acme", "read"), 403), ({"Authorization": "Bearer ut_wrong"}, 401))
    for headers, status in refused:
        with pytest.raises(InvalidStatus) as denied:
            async with websockets.connect(url, additional_headers=headers):
                pass
        assert denied.value.response.status_code == status
        assert json.loads(denied.value.response.body or b"{}")["status"] == status
    async with websockets.connect(url, additional_headers=bearer(tokens, "acme", "send")) as socket:
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/PCMU"}))
        await socket.recv()
        await socket.send(bytes(8_000))
        await socket.send('{"end": true}')
        await socket.recv()
    assert {piece.tenant for piece in site.fragments()} == {"acme"}


async def test_a_stream_ends_when_its_token_is_revoked(
    site: Site, tokens: TokenFile, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "CHECKED_AGAIN_S", 0.0)
    reading, sending = bearer(tokens, "default", "read"), bearer(tokens, "default", "send")
    lines = []
    async with (
        httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client,
        client.stream("GET", "/v1/events", headers=reading) as events,
        websockets.connect(f"ws://{address}/v1/calls/a-17/media", additional_headers=sending) as socket,
    ):
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/PCMU"}))
        await socket.recv()
        await socket.send(bytes(8_000))
        for token_id in tokens.grants():
            tokens.revoke(token_id)
        await socket.send(bytes(8_000))
        await socket.recv()  # that it is over
        lines = [line async for line in events.aiter_lines()]
    assert lines
    assert sum(len(piece.media) for piece in site.fragments()) < 16_000


async def test_a_token_lets_nobody_see_or_delete_another_tenants_call(site: Site, tokens: TokenFile) -> None:
    await site.call(result(0), final=True)
    theirs = bearer(tokens, "rival", *ALL_SCOPES)

    for rest in ("", "/utterances", "/events"):
        problem(await site.client.get(f"/v1/calls/a-17{rest}", headers=theirs), 404, "unknown_call")
    problem(await site.client.delete("/v1/calls/a-17", headers=theirs), 404, "unknown_call")
    ours = bearer(tokens, "default", "read")
    assert (await site.client.get("/v1/calls/a-17", headers=ours)).is_success


@pytest.mark.parametrize(
    ("query", "field", "tenant"),
    [("", {}, "default"), ("tenant=acme", {}, "acme"), ("tenant=acme", {"tenant": "acme"}, "acme")],
)
async def test_media_is_of_the_callers_tenant(site: Site, query: str, field: dict[str, str], tenant: str) -> None:
    answer = await site.client.post(
        f"/v1/calls?{query}",
        data={"participants": "customer", **field},
        files={"file": ("a.wav", wav(sound(0.5, 8000)))},
    )

    assert answer.status_code == 202
    assert {piece.tenant for piece in site.fragments()} == {tenant}


@pytest.mark.parametrize(
    ("query", "field", "tenant"),
    [("", {}, "default"), ("?tenant=acme", {}, "acme"), ("?tenant=acme", {"tenant": "acme"}, "acme")],
)
async def test_live_media_is_of_the_callers_tenant(  # pytest passes by name
    site: Site, address: str, query: str, field: dict[str, str], tenant: str
) -> None:
    async with websockets.connect(f"ws://{address}/v1/calls/a-17/media{query}") as socket:
        await socket.send(json.dumps({"participants": "customer", "content_type": "audio/PCMU", **field}))
        await socket.recv()
        await socket.send(bytes(8_000))
        await socket.send('{"end": true}')
        await socket.recv()

    assert {piece.tenant for piece in site.fragments()} == {tenant}


async def test_a_form_that_names_another_tenant_is_refused(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?tenant=acme",
        data={"participants": "customer", "tenant": "rival"},
        files={"file": ("a.wav", wav(sound(0.5, 8000)))},
    )

    problem(answer, 403, "wrong_tenant")
    assert site.fragments() == []


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
