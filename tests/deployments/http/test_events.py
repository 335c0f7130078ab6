import asyncio
import json

import httpx
import redis

from pipelines.types import UtteranceSentiment
from tests.deployments.http.site import (
    Heard,
    Site,
    heard,
    problem,
    result,
)
from tests.pipelines.stored import advance, default, fragment


async def test_events_come_live_and_end_with_the_call(site: Site, address: str) -> None:
    early, late = result(0), result(2_000, 1.0)
    await site.call(early)
    events = list[Heard]()
    async with (
        httpx.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("GET", "/v1/calls/a-17/events") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for event in heard(answer):
            if event.comment == "heartbeat" and len(events) == 1:
                first = fragment("a-17", tenant="default")
                await advance(site.store, late, early.end_ms * 16, late.end_ms * 16, first=first)
                await site.store.set_state(default("a-17"), "main", "final", owner="w1")
            if event.kind is not None:
                events.append(event)

    assert [event.kind for event in events] == ["utterance", "utterance", "call-final"]
    assert [UtteranceSentiment.model_validate_json(event.data or "") for event in events[:2]] == [early, late]
    assert json.loads(events[-1].data or "")["final"] is True

    resumed = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": events[0].id or ""})
    over = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": events[-1].id or ""})
    assert late.model_dump_json() in resumed.text
    assert early.model_dump_json() not in resumed.text
    assert over.status_code == 204


async def test_a_call_that_began_again_has_only_its_last_end(site: Site) -> None:
    await site.call(result(0), final=True)
    await site.store.open_stream(default("a-17"), "webcam", "w", 0)
    await site.store.set_state(default("a-17"), "webcam", "final", owner="w")

    text = (await site.client.get("/v1/calls/a-17/events")).text

    assert text.count("event: call-final") == 1


async def test_what_is_unreadable_at_the_end_of_a_call_is_passed_once(site: Site, redis_url: str) -> None:
    await site.call(result(0), final=True)
    first, last = await site.store.archive.events(default("a-17"))
    with redis.Redis.from_url(redis_url) as client:
        client.hset("ut:{default/a-17}:results", client.hkeys("ut:{default/a-17}:results")[0], "nonsense")
        client.xdel("ut:{default/a-17}:events", last.id)

    listened = await asyncio.wait_for(site.client.get("/v1/calls/a-17/events"), 30)
    again = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": first.id})

    assert f": unreadable\nid: {first.id}\n\n" in listened.text
    assert listened.text.count("unreadable") == 1
    assert again.status_code == 204


async def test_the_events_of_a_deleted_call_end(site: Site, address: str) -> None:
    await site.call(result(0))
    async with (
        httpx.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("GET", "/v1/calls/a-17/events") as answer,
    ):
        async for event in heard(answer):
            if event.comment == "heartbeat":
                await site.client.delete("/v1/calls/a-17")


async def test_an_event_id_that_is_none_is_refused_before_the_stream_begins(site: Site) -> None:
    await site.call()

    problem(await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": "x"}), 422, "bad_cursor")
