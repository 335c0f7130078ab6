import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi.routing import iter_route_contexts

from deployments.http.access import TokenAccess
from deployments.http.tokens import ALL_SCOPES, Scope, TokenFile, new_token
from pipelines.store.chain import Entry
from tests.deployments.http.site import Site, heard, problem, result
from tests.pipelines.stored import store_call

SHOW_NOTHING = {
    "/v1/calls/{call_id}/media": "media goes into the call, and nothing of it comes out",
    "/v1/calls/{call_id}/deletion": "how many utterances there are, as the list of calls says",
}
ONE_CALL = [
    ("GET", "/v1/calls/a-17", "read", "summary"),
    ("GET", "/v1/calls/a-17/utterances", "read", "utterances of run live"),
    ("GET", "/v1/calls/a-17/utterances?run=mine", "read", "utterances of run mine"),
    ("GET", "/v1/calls/a-17/events", "watch", ""),
    ("DELETE", "/v1/calls/a-17", "delete", ""),
]


@pytest.fixture
def tokens(site: Site, tmp_path: Path) -> TokenFile:
    """The site, which now asks for tokens of this file."""
    file = TokenFile(tmp_path / "tokens")
    site.api.state.access = TokenAccess(file, None)
    return file


def bearer(file: TokenFile, tenant: str, *scopes: Scope) -> dict[str, str]:
    token, grant = new_token(tenant, frozenset(scopes))
    file.add(grant)
    return {"Authorization": f"Bearer {token}"}


async def store_runs(site: Site) -> None:
    """Everything that `ONE_CALL` asks for."""
    await site.call(result(0), final=True)
    await store_call(site.store.of_run("mine"), "a-17", [])


async def entries(site: Site, tenant: str = "default") -> tuple[Entry, ...]:
    return (await site.store.accesses.page(tenant)).items


async def test_every_route_about_one_call_leaves_an_entry_before_it_answers(site: Site) -> None:
    """A route that is added and does not ask `known_call` for its call fails here."""
    await site.call(result(0), final=True)
    walked = 0
    routes = [route for route in iter_route_contexts(site.api.routes) if "{call_id}" in str(route.path)]
    assert set(SHOW_NOTHING) <= {str(route.path) for route in routes}
    about_one = [route for route in routes if route.path not in SHOW_NOTHING]
    for route in sorted(about_one, key=lambda route: "DELETE" in (route.methods or ())):
        for method in route.methods or ():
            noted = len(await entries(site))
            answer = await site.client.request(method, str(route.path).format(call_id="a-17"))
            assert answer.is_success, (method, route.path, answer.text)
            after = await entries(site)
            assert len(after) == noted + 1, f"{method} {route.path} leaves no entry"
            assert (after[0].call_id, after[0].who, after[0].origin) == ("a-17", "everyone", "127.0.0.1")
            walked += 1
    assert walked >= 4


async def test_an_entry_says_who_did_what_from_where(site: Site, tokens: TokenFile) -> None:
    await store_runs(site)
    everything = bearer(tokens, "default", *ALL_SCOPES)
    (token_id,) = tokens.grants()
    for method, path, *_ in ONE_CALL:
        assert (await site.client.request(method, path, headers=everything)).is_success
    found = (await entries(site))[::-1]
    assert [(one.action, one.detail) for one in found] == [(action, detail) for _, _, action, detail in ONE_CALL]
    assert {(one.tenant, one.call_id, one.who, one.origin) for one in found} == {
        ("default", "a-17", f"token:{token_id}", "127.0.0.1")
    }
    assert (await site.store.accesses.verify("default")).whole


async def test_who_watches_all_calls_is_noted_for_all_of_them(site: Site, address: str) -> None:
    async with (
        httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client,
        client.stream("GET", "/v1/events?tenant=acme") as events,
    ):
        await anext(heard(events))
        (entry,) = await entries(site, "acme")
    assert (entry.action, entry.call_id, entry.origin) == ("watch", "*", "127.0.0.1")
    assert [one.action for one in (await site.store.accesses.page("acme", call_id="a-17")).items] == ["watch"]


async def test_what_is_refused_is_no_access(site: Site, tokens: TokenFile) -> None:
    await site.call(result(0), final=True)
    reading, theirs = bearer(tokens, "default", "send"), bearer(tokens, "rival", *ALL_SCOPES)
    for method, path, *_ in ONE_CALL:
        problem(await site.client.request(method, path), 401, "no_token")
        problem(await site.client.request(method, path, headers=reading), 403, "insufficient_scope")
        problem(await site.client.request(method, path, headers=theirs), 404, "unknown_call")
    problem(await site.client.get("/v1/events"), 401, "no_token")
    assert await entries(site) == await entries(site, "rival") == ()


async def test_a_run_that_does_not_hold_the_call_leaves_no_entry(site: Site) -> None:
    """Whoever could make names up could fill the store with entries that are no repeats of each other."""
    await store_runs(site)
    await store_call(site.store, "other", [])
    for call_id, run in (("a-17", "made-up"), ("other", "mine")):
        problem(await site.client.get(f"/v1/calls/{call_id}/utterances?run={run}"), 404, "unknown_run")
    problem(await site.client.get("/v1/calls/nobody/utterances?run=mine"), 404, "unknown_call")
    assert await entries(site) == ()
    for run in ("live", "mine"):
        assert (await site.client.get(f"/v1/calls/a-17/utterances?run={run}")).is_success


async def test_lists_and_trends_are_of_no_single_call(site: Site) -> None:
    await site.call(result(0), final=True)
    for path in ("/v1/calls", "/v1/trends", "/v1/accesses"):
        assert (await site.client.get(path)).is_success
    assert await entries(site) == ()


async def test_what_cannot_be_noted_is_neither_shown_nor_done(site: Site) -> None:
    await site.call(result(0), final=True)
    with redis.Redis.from_url(site.redis_url) as server:
        server.config_set("maxmemory", 1)
        try:
            for method, path in [*((method, path) for method, path, *_ in ONE_CALL), ("GET", "/v1/events")]:
                problem(await site.client.request(method, path.partition("?")[0]), 503, "store_unavailable")
        finally:
            server.config_set("maxmemory", 0)
    assert (await site.client.get("/v1/calls/a-17")).is_success
    assert len(await entries(site)) == 1


async def test_a_trail_is_kept_as_long_as_its_tenant_says(site: Site) -> None:
    for tenant in ("default", "quiet", "unconfigured"):
        await store_call(site.store, "a-17", [], tenant=tenant)
        assert (await site.client.get(f"/v1/calls/a-17?tenant={tenant}")).is_success
    with redis.Redis.from_url(site.redis_url) as server:
        days = [
            round(server.ttl(f"ut:accesses:{{{tenant}}}:entries") / 86_400)
            for tenant in ("default", "quiet", "unconfigured")
        ]
    assert days == [365, 7, 365]


async def test_operators_read_the_trail_of_their_tenant_page_by_page(site: Site, tokens: TokenFile) -> None:
    await store_runs(site)
    for method, path, *_ in ONE_CALL:
        headers = bearer(tokens, "default", *ALL_SCOPES)
        assert (await site.client.request(method, path, headers=headers)).is_success

    async def page(tenant: str, query: Mapping[str, Any]) -> dict[str, Any]:
        answer = await site.client.get("/v1/accesses", params=query, headers=bearer(tokens, tenant, "operate"))
        found: dict[str, Any] = json.loads(answer.text)
        return found

    first = await page("default", {"limit": 3, "call_id": "a-17"})
    rest = await page("default", {"limit": 3, "cursor": first["next_cursor"]})
    assert [one["number"] for one in first["accesses"] + rest["accesses"]] == [5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None
    assert (await page("default", {"call_id": "another"}))["accesses"] == []
    assert (await page("default", {"since": "2999-01-01T00:00:00Z"}))["accesses"] == []
    assert (await page("rival", {}))["accesses"] == []
    operator = bearer(tokens, "default", "operate")
    for query in ("cursor=x", "call_id=*", "call_id=..", "since=5", "limit=0"):
        assert (await site.client.get(f"/v1/accesses?{query}", headers=operator)).status_code == 422


async def test_the_trail_holds_no_word_of_a_call(site: Site, redis_url: str) -> None:
    await store_runs(site)
    for method, path, *_ in ONE_CALL:
        await site.client.request(method, path)
    with redis.Redis.from_url(redis_url, decode_responses=True) as server:
        lines = [fields["entry"] for _, fields in server.xrange("ut:accesses:{default}:entries")]
    keys = {"v", "number", "at_ms", "tenant", "call_id", "action", "who", "origin", "detail", "previous"}
    assert {frozenset(json.loads(line)) for line in lines} == {frozenset(keys)}
