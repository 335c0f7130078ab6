"""The live events of a tenant, through a gateway on a real port over a real Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import redis

from deployments.http import feed
from deployments.http.feed import TenantFeeds
from pipelines.store.store import Store
from pipelines.types import UtteranceSentiment
from tests.deployments.http.site import Heard, Site, heard, problem
from tests.eventually import eventually
from tests.pipelines.stored import advance, default, fragment, stored_call
from tests.pipelines.stored import result as stored_result
from tests.servers import OwnRedis


@dataclass
class Watcher:
    """What a watcher has been told, comments apart."""

    events: list[Heard] = field(default_factory=list)
    comments: int = 0
    last_id: str = ""

    def told(self) -> list[tuple[str, str]]:
        return [(json.loads(one.data or "")["call_id"], one.kind or "") for one in self.events]

    def names(self) -> list[str]:
        """What follows the first dot of each id."""
        return [(one.id or "").partition(".")[2] for one in self.events]


@asynccontextmanager
async def watching(address: str, query: str = "", last_id: str = "") -> AsyncIterator[Watcher]:
    """A watcher who has been answered, and reads until the end of the block."""
    watcher, answered = Watcher(), asyncio.Event()

    async def read() -> None:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with (
            httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client,
            client.stream("GET", f"/v1/events{query}", headers=headers) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for one in heard(answer):
                answered.set()
                watcher.last_id = one.id or watcher.last_id
                watcher.comments += one.comment is not None
                if one.kind is not None:
                    watcher.events.append(one)

    reading = asyncio.create_task(read())
    await asyncio.wait([asyncio.create_task(answered.wait()), reading], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield watcher
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()


async def told_of(watcher: Watcher, call_id: str) -> None:
    """Once the watcher has seen the call's end."""
    await eventually(lambda: (call_id, "call-final") in watcher.told())


async def call(store: Store, call_id: str, *scores: float, tenant: str = "default") -> None:
    """A call that starts now, and ends."""
    await stored_call(store, call_id, await store.archive.clock_ms(), *scores, tenant=tenant)


async def test_calls_that_begin_later_are_followed_together_and_another_tenants_never_are(
    site: Site, address: str
) -> None:
    async with watching(address) as ours, watching(address, "?tenant=rival") as theirs:
        await call(site.store, "a", -1.0, 1.0)
        await call(site.store, "x", -1.0, tenant="rival")
        await call(site.store, "b", -1.0)
        await eventually(lambda: len(ours.events) == 5 and len(theirs.events) == 2)

    for name, kinds in (("a", ["utterance", "utterance", "call-final"]), ("b", ["utterance", "call-final"])):
        assert [kind for call_id, kind in ours.told() if call_id == name] == kinds
    assert theirs.told() == [("x", "utterance"), ("x", "call-final")]
    of_a = [one.data or "" for one in ours.events if json.loads(one.data or "")["call_id"] == "a"]
    assert UtteranceSentiment.model_validate_json(of_a[0]) == stored_result(0, "a", score=-1.0, tenant="default")
    assert json.loads(of_a[2]) == {"call_id": "a", "status": "final"}


async def test_a_call_that_falls_silent_and_goes_on_says_so(site: Site, address: str) -> None:
    await site.store.open_stream(default("a"), "main", "w1", await site.store.archive.clock_ms())
    async with watching(address) as watcher:
        await site.store.set_state(default("a"), "main", "stalled", owner="w1")
        await site.store.set_state(default("a"), "main", "live", owner="w1")
        await eventually(lambda: len(watcher.events) == 2)

    assert [json.loads(one.data or "")["status"] for one in watcher.events] == ["stalled", "live"]


async def test_whoever_connects_again_misses_nothing_and_knows_what_comes_again(site: Site, address: str) -> None:
    names, last_id = list[str](), ""
    for number in range(4):
        async with watching(address, last_id=last_id) as watcher:
            await call(site.store, f"heard-{number}", -1.0)
            await told_of(watcher, f"heard-{number}")
        names, last_id = names + watcher.names(), watcher.last_id
        await call(site.store, f"missed-{number}", -1.0)
    async with watching(address, last_id=last_id) as watcher:
        await told_of(watcher, "missed-3")
    names += watcher.names()

    calls = [f"{word}-{number}" for number in range(4) for word in ("heard", "missed")]
    assert {name.partition(".")[2] for name in names} == set(calls)
    assert len(set(names)) == 2 * len(calls)


async def test_whoever_was_cut_off_before_the_first_event_misses_nothing_either(site: Site, address: str) -> None:
    async with watching(address) as watcher:
        pass
    await call(site.store, "a", -1.0)
    async with watching(address, last_id=watcher.last_id) as again:
        await eventually(lambda: len(again.events) == 2)


async def test_thousands_of_past_calls_do_not_hold_up_the_present_ones(site: Site, address: str) -> None:
    now_ms = await site.store.archive.clock_ms()
    with redis.Redis.from_url(site.redis_url) as raw:
        pipe = raw.pipeline()
        for number in range(5_000):
            started_ms = now_ms - 1_000 - number * 10_000
            pipe.zadd("ut:calls:default", {f"past-{number}": started_ms})
            pipe.hset(f"ut:{{default/past-{number}}}:call", mapping={"status": "final", "started_ms": started_ms})
            pipe.xadd(f"ut:{{default/past-{number}}}:events", {"kind": "call-final"}, id=f"{started_ms}-0")
        pipe.execute()
    async with watching(address) as watcher:
        begin_s = time.monotonic()
        await call(site.store, "a", -1.0)
        await eventually(lambda: len(watcher.events) == 2)
        assert time.monotonic() - begin_s < 10

    assert watcher.told() == [("a", "utterance"), ("a", "call-final")]


async def test_many_watchers_cost_the_store_no_more_than_one(site: Site, address: str) -> None:
    await call(site.store, "a", -1.0)
    with redis.Redis.from_url(site.redis_url) as raw:

        async def commands_in_two_seconds() -> int:
            before = raw.info("stats")["total_commands_processed"]
            await asyncio.sleep(2)
            return int(raw.info("stats")["total_commands_processed"] - before)

        async with watching(address):
            of_one = await commands_in_two_seconds()
            async with watching(address), watching(address), watching(address), watching(address):
                assert await commands_in_two_seconds() < 2 * of_one


async def test_when_nobody_watches_any_more_nothing_is_read(site: Site, address: str) -> None:
    async with watching(address), watching(address):
        pass
    with redis.Redis.from_url(site.redis_url) as raw:

        def commands() -> int:
            return int(raw.info("stats")["total_commands_processed"])

        async def quiet() -> bool:
            before = commands()
            await asyncio.sleep(3 * feed.ROUND_S)
            return commands() == before + 1  # the question itself

        await eventually(quiet)


async def test_a_quiet_tenant_sends_comments(address: str) -> None:
    async with watching(address) as watcher:
        await eventually(lambda: watcher.comments >= 3)

    assert watcher.events == []


@pytest.mark.parametrize("last_id", ["x", "1-0", "-1", "9" * 19, "1.1-0.a-17"])
async def test_an_id_that_is_none_or_too_old_is_refused(site: Site, last_id: str) -> None:
    problem(await site.client.get("/v1/events", headers={"Last-Event-ID": last_id}), 422, "bad_cursor")


# ---- without a port


async def next_event(watched: AsyncIterator[bytes]) -> bytes:
    async for text in watched:
        if not text.startswith(b":") and b"event:" in text:
            return text
    raise AssertionError("the feed has ended")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    store = Store.connect(redis_url)
    yield store
    await store.close()


async def utter(store: Store, call_id: str, numbers: range) -> None:
    """Utterances of the call, one a second."""
    for number in numbers:
        said = stored_result(number * 1000, call_id, tenant="default")
        first = fragment(call_id, tenant="default")
        await advance(store, said, number * 16_000, (number + 1) * 16_000, first=first)


async def numbers_of(watched: AsyncIterator[bytes], until: int) -> list[int]:
    """The second of each utterance up to the last wanted."""
    found: list[int] = []
    while not found or found[-1] < until:
        data = (await next_event(watched)).split(b"data: ")[1].split(b"\n")[0]
        found.append(json.loads(data)["start_ms"] // 1000)
    return found


async def test_a_watcher_who_falls_behind_reads_on_from_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BUFFER_EVENTS_MAX", 10)
    now_ms = await store.archive.clock_ms()
    feeds = TenantFeeds(store.archive, 50)
    await store.open_stream(default("a"), "main", "w1", now_ms)
    async with (
        asyncio.timeout(60),
        aclosing(feeds.watch("default", None, now_ms)) as slow,
        aclosing(feeds.watch("default", None, now_ms)) as quick,
    ):
        await anext(slow)
        await anext(quick)
        await utter(store, "a", range(2))
        assert await numbers_of(slow, 1) == await numbers_of(quick, 1) == [0, 1]
        for begin in range(2, 62, 4):
            await utter(store, "a", range(begin, begin + 4))
            assert await numbers_of(quick, begin + 3) == list(range(begin, begin + 4))
        behind = await numbers_of(slow, 61)
        await utter(store, "a", range(62, 64))
        behind += await numbers_of(slow, 63)

    assert sorted(set(behind) - {0, 1}) == list(range(2, 64))


async def test_while_the_store_is_away_a_watcher_hears_comments_and_then_what_was_missed(own_redis: OwnRedis) -> None:
    store = Store.connect(own_redis.url)
    now_ms = await store.archive.clock_ms()
    async with aclosing(TenantFeeds(store.archive, 50).watch("default", None, now_ms)) as watched:
        assert (await anext(watched)).startswith(b": listening")
        own_redis.kill()
        for _ in range(3):
            assert b": heartbeat" in await anext(watched)
        own_redis.restart()
        await call(store, "a", -1.0)
        assert b"event: utterance" in await next_event(watched)
    await store.close()


async def test_a_failure_of_ours_ends_the_connection_and_the_next_one_begins_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = await store.archive.clock_ms()
    feeds = TenantFeeds(store.archive, 50)
    real: Callable[..., bytes] = feed.format_event

    def broken(*_: object) -> bytes:
        raise KeyError("a fault of ours")

    async with aclosing(feeds.watch("default", None, now_ms)) as watched:
        await anext(watched)
        monkeypatch.setattr(feed, "format_event", broken)
        await call(store, "a", -1.0)
        with pytest.raises(KeyError):
            await next_event(watched)
        monkeypatch.setattr(feed, "format_event", real)
    async with aclosing(feeds.watch("default", now_ms - 1, now_ms)) as watched:
        assert b"event: utterance" in await next_event(watched)
