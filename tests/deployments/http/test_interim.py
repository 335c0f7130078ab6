"""Interim texts among the server-sent events, through a gateway on a real port over a real Redis."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import redis

from deployments.http.interim import WAITING_MAX, InterimFeeds
from pipelines.store.queries import InterimText
from pipelines.store.store import Store
from pipelines.types import Participant
from tests.deployments.http.site import Heard, Site, heard, result
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.servers import OwnRedis


def text_of(call_id: str, number: int = 0) -> InterimText:
    return InterimText(
        call_id=call_id,
        stream="main",
        participant=Participant.CUSTOMER,
        start_ms=2_000,
        end_ms=5_000 + number,
        text=f"so far {number}",
        language="en",
        engine="test",
    )


@asynccontextmanager
async def watching(address: str, path: str, last_id: str = "") -> AsyncIterator[list[Heard]]:
    """What a watcher is told, comments apart; ends with the block, or with the call."""
    events = list[Heard]()

    async def read() -> None:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with (
            httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client,
            client.stream("GET", path, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            async for one in heard(answer):
                if one.kind is not None:
                    events.append(one)  # each is looked at before the next one comes

    reading = asyncio.create_task(read())
    try:
        yield events
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()


def channels(raw: Any) -> set[str]:
    return set(raw.pubsub_channels())


async def test_whoever_watches_a_call_hears_the_words_so_far_of_that_call_and_nobody_else_does(
    site: Site, address: str
) -> None:
    await site.call(result(0))
    await site.call(result(0, call_id="b-18"), call_id="b-18")
    async with (
        watching(address, "/v1/calls/a-17/events") as ours,
        watching(address, "/v1/calls/b-18/events") as other_call,
        watching(address, "/v1/events") as tenant,
        watching(address, "/v1/events?tenant=rival") as rival,
    ):
        with redis.Redis.from_url(site.redis_url, decode_responses=True) as raw:
            await eventually(lambda: channels(raw) == {"ut:interim:default", "ut:interim:rival"})
            assert raw.pubsub_numsub("ut:interim:default") == [("ut:interim:default", 1)]  # once, however many watch
        await eventually(lambda: len(ours) == len(other_call) == 1)
        await site.store.interim.publish("default", text_of("a-17"))
        await site.store.interim.publish("rival", text_of("x"))
        await eventually(lambda: len(ours) == 2 and any(one.kind == "interim" for one in tenant) and rival)

    assert [one.kind for one in ours] == ["utterance", "interim"]
    assert InterimText.model_validate_json(ours[1].data or "") == text_of("a-17")
    assert '"interim":true' in (ours[1].data or "")
    assert [one.kind for one in other_call] == ["utterance"]
    assert [one.data for one in tenant if one.kind == "interim"] == [ours[1].data]
    assert [one.data for one in rival] == [text_of("x").model_dump_json()]


async def test_an_interim_text_has_no_id_and_whoever_resumes_does_so_as_without_it(site: Site, address: str) -> None:
    await site.call(result(0))
    async with watching(address, "/v1/calls/a-17/events") as events:
        with redis.Redis.from_url(site.redis_url, decode_responses=True) as raw:
            await eventually(lambda: channels(raw) and events)
        await site.store.interim.publish("default", text_of("a-17"))
        await eventually(lambda: len(events) == 2)
    await site.store.set_state(default("a-17"), "main", "final", owner="w1")

    resumed = await site.client.get("/v1/calls/a-17/events", headers={"Last-Event-ID": events[0].id or ""})

    assert events[1].id is None
    assert resumed.text.count("event: ") == 1
    assert "event: call-final" in resumed.text


async def test_when_nobody_watches_a_tenant_any_more_nothing_of_it_is_received(site: Site, address: str) -> None:
    await site.call(result(0))
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as raw:
        async with watching(address, "/v1/calls/a-17/events"), watching(address, "/v1/events?tenant=rival"):
            await eventually(lambda: channels(raw) == {"ut:interim:default", "ut:interim:rival"})
        await eventually(lambda: channels(raw) == set())


# ---- without a port


async def endless() -> AsyncGenerator[bytes, None]:
    yield b": listening\n\n"
    await asyncio.Event().wait()


async def test_a_slow_watcher_gets_the_latest_and_holds_no_other_up(redis_url: str) -> None:
    store = Store.connect(redis_url)
    feeds = InterimFeeds(store.interim)
    count = 3 * WAITING_MAX
    with redis.Redis.from_url(redis_url, decode_responses=True) as raw:
        async with (
            asyncio.timeout(60),
            aclosing(feeds.beside(endless(), "default")) as slow,
            aclosing(feeds.beside(endless(), "default", "a")) as quick,
        ):
            await anext(slow)
            await anext(quick)
            await eventually(lambda: channels(raw))
            quick_heard = []
            for number in range(count):
                await store.interim.publish("default", text_of("a", number))
                quick_heard.append(await anext(quick))
            slow_heard = [await anext(slow) for _ in range(1 + WAITING_MAX)]
    await store.close()

    assert len(set(quick_heard)) == count
    assert slow_heard == [quick_heard[0], *quick_heard[-WAITING_MAX:]]


async def test_while_redis_is_away_the_events_go_on_and_interim_texts_come_again_after_it(own_redis: OwnRedis) -> None:
    async def ticking() -> AsyncGenerator[bytes, None]:
        while True:
            yield b": tick\n\n"
            await asyncio.sleep(0.01)

    store = Store.connect(own_redis.url)
    async with asyncio.timeout(60), aclosing(InterimFeeds(store.interim).beside(ticking(), "default")) as watched:
        assert await anext(watched) == b": tick\n\n"
        own_redis.kill()
        for _ in range(3):
            assert await anext(watched) == b": tick\n\n"
        own_redis.restart()
        async for event in watched:
            if b"event: interim" in event:
                break
            await store.interim.publish("default", text_of("a"))
    await store.close()
