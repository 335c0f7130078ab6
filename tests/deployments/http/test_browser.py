from pathlib import Path

import pytest
import websockets
from websockets.exceptions import InvalidStatus

from deployments.http.access import TokenAccess
from deployments.http.tokens import ALL_SCOPES, TokenFile, new_token
from tests.deployments.http.site import Site, problem, wav
from tests.pipelines.media_files import sound


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "t.evil.example",
        "",
        "127.0.0.1.evil.example",
        "t@evil",
        "[",
        "[::1",
        "t:999999",
        "t:abc",
        "t:80:80",
        "a b",
    ],
)
async def test_under_an_unknown_name_only_probes_are_answered(site: Site, host: str) -> None:
    for path in ("/v1/calls", "/metrics", "/docs", "/openapi.json", "/login?token=x"):
        problem(await site.client.get(path, headers={"Host": host}), 421, "unknown_host")
    # A page has no token, only the cookie of its own name: who sends one is asked for it, whatever name it uses.
    assert (await site.client.get("/metrics", headers={"Host": host, "Authorization": "Bearer x"})).is_success
    assert (await site.client.get("/healthz", headers={"Host": host})).is_success


@pytest.mark.parametrize(
    "authorization", ["Basic x", "Basic dDp0", "Bearer", "Bearer ", "Bearer\t x", "bearerx", "", "x"]
)
async def test_a_header_that_holds_no_token_opens_no_other_name(site: Site, authorization: str) -> None:
    headers = {"Host": "evil.example", "Authorization": authorization, "Cookie": "undertone_default=x"}
    problem(await site.client.get("/v1/calls", headers=headers), 421, "unknown_host")


@pytest.mark.parametrize("host", ["t", "T:8000", "localhost", "127.0.0.1:8000", "[::1]:8000"])
async def test_under_its_names_it_answers(site: Site, host: str) -> None:
    assert (await site.client.get("/v1/calls", headers={"Host": host})).is_success


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://t.evil.example", "http://t:81", "http://[", "", "t"]
)
async def test_a_page_of_another_site_changes_nothing_and_opens_no_socket(
    site: Site, address: str, origin: str
) -> None:
    foreign = {"Origin": origin}
    upload = await site.client.post(
        "/v1/calls?participants=customer",
        content=wav(sound(0.5, 8000)),
        headers={**foreign, "Content-Type": "audio/wav"},
    )
    problem(upload, 403, "foreign_origin")
    problem(await site.client.delete("/v1/calls/a", headers=foreign), 403, "foreign_origin")
    problem(await site.client.post("/v1/analyze", json={"text": "a"}, headers=foreign), 403, "foreign_origin")
    with pytest.raises(InvalidStatus):
        async with websockets.connect(f"ws://{address}/v1/calls/a/media", additional_headers=foreign):
            pass
    assert site.fragments() == []


async def test_the_gateways_own_page_may(site: Site) -> None:
    answer = await site.client.post("/v1/analyze", json={"text": "a"}, headers={"Origin": "http://t"})
    assert answer.is_success


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded"])
async def test_what_a_form_could_post_is_no_body(site: Site, kind: str) -> None:
    answer = await site.client.post("/v1/analyze", content=b'{"text": "a"}', headers={"Content-Type": kind})
    problem(answer, 415, "unsupported_type")


async def test_the_address_that_serve_prints_gives_a_browser_its_cookie(site: Site, tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens")
    token, grant = new_token("*", ALL_SCOPES)
    file.add(grant)
    site.api.state.access = TokenAccess(file, None)
    problem(await site.client.get("/v1/calls"), 401, "no_token")
    problem(await site.client.get(f"/login?token={token[:-1]}"), 401, "bad_token")
    foreign = {"Sec-Fetch-Site": "cross-site"}
    problem(await site.client.get(f"/login?token={token}", headers=foreign), 403, "foreign_origin")

    answer = await site.client.get(f"/login?token={token}")

    assert (answer.status_code, answer.headers["location"]) == (303, "docs")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert (await site.client.get("/v1/calls")).is_success
