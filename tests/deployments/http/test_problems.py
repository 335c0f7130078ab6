from collections.abc import Iterator, MutableMapping
from typing import Any

import httpx
import pytest
import redis

from deployments.http.api import create_api
from deployments.http.problems import _WORDS_OF_PATTERN, RESUME_PATTERN
from pipelines.settings import AppConfig
from pipelines.types import Utterance, UtteranceSentiment
from tests.deployments.http.site import LIMITS, PROBLEM, Everyone, LosingProducer, Site, never_healthy, problem


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/calls/unknown", 404, "unknown_call"),
        ("GET", "/v1/calls/unknown/utterances", 404, "unknown_call"),
        ("GET", "/v1/calls/unknown/events", 404, "unknown_call"),
        ("GET", "/v1/calls/a%20b", 422, "invalid_input"),
        ("GET", "/v1/calls/a%00b", 422, "invalid_input"),
        ("GET", "/v1/calls/caf%C3%A9", 422, "invalid_input"),
        ("GET", "/v1/calls?limit=0", 422, "invalid_input"),
        ("GET", "/v1/calls?polarity=furious", 422, "invalid_input"),
        ("GET", "/v1/calls?since=yesterday", 422, "invalid_input"),
        ("GET", "/v1/calls?since=1763700000", 422, "invalid_input"),
        ("GET", "/v1/calls?min_score=nan", 422, "invalid_input"),
        ("GET", "/v1/calls?tenant=a%2Fb", 422, "invalid_input"),
        ("GET", "/v1/trends?until=0001-01-01T00:00:00Z", 422, "invalid_input"),
        ("GET", "/v1/trends?since=0001-01-01T00:00:00%2B14:00", 422, "range_too_long"),
        ("GET", "/v1/calls?cursor=invented", 422, "bad_cursor"),
        ("PUT", "/v1/calls", 405, "method_not_allowed"),
        ("GET", "/v1/analyze", 405, "method_not_allowed"),
    ],
)
async def test_every_error_is_a_problem(site: Site, method: str, path: str, status: int, reason: str) -> None:
    problem(await site.client.request(method, path), status, reason)


async def test_a_wrong_method_is_told_all_that_the_path_takes(site: Site) -> None:
    answer = await site.client.put("/v1/calls")

    assert answer.headers["allow"] == "GET, POST"
    assert problem(answer, 405, "method_not_allowed")["detail"] == "/v1/calls takes GET, POST."


async def test_a_query_that_is_no_text_is_a_problem_like_others(site: Site) -> None:
    async def api(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await site.api({**scope, "query_string": b"a=\xff"}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        problem(await client.get("/nothing"), 404, "not_found")


async def test_a_failure_inside_tells_nothing_of_the_inside(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(site.redis_url) as raw:
        raw.set("ut:calls:default", "not a sorted set")
    wrong_type = await site.client.get("/v1/calls")
    assert wrong_type.headers["content-type"] == PROBLEM

    async def broken(_utterance: Utterance) -> UtteranceSentiment:
        raise KeyError("secret")

    api = create_api(
        store=site.store,
        producer=LosingProducer(),
        analyse=broken,
        health=never_healthy,
        config=AppConfig(),
        access=Everyone(),
        hosts=frozenset({"t"}),
        limits=LIMITS,
    )
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        answer = await client.post("/v1/analyze", json={"text": "hello"})

    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/v1/calls?participants=customer&call_id=a%20b", "1 to 128 characters"),
        ("POST", "/v1/calls?participants=customer&stream=a%2Fb", "1 to 64 characters"),
        ("POST", "/v1/calls?participants=customer&resume=short", "16 to 64 characters"),
        ("GET", "/v1/calls/a%20b", "1 to 128 characters"),
        ("GET", "/v1/calls?tenant=a%2Fb", "1 to 64 characters"),
        ("GET", "/v1/calls/a/utterances?run=a%2Fb", "1 to 64 characters"),
        ("GET", "/v1/accesses?call_id=a%20b", "1 to 128 characters"),
    ],
)
async def test_what_an_input_may_be_is_said_in_words(site: Site, method: str, path: str, words: str) -> None:
    found = problem(
        await site.client.request(method, path, content=b"x" if method == "POST" else None), 422, "invalid_input"
    )
    assert words in found["detail"]
    assert "^" not in found["detail"]
    assert "(?:" not in found["detail"]


async def test_every_pattern_of_the_api_has_words(site: Site) -> None:
    def patterns(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("pattern"), str):
                yield part["pattern"]
            part = list(part.values())
        if isinstance(part, list):
            for one in part:
                yield from patterns(one)

    routes = [route for methods in site.api.openapi()["paths"].values() for route in methods.values()]
    found = set(patterns([[route.get("parameters"), route.get("requestBody")] for route in routes]))
    assert RESUME_PATTERN in found
    assert found <= set(_WORDS_OF_PATTERN)
