import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipelines.errors import StoreUnavailableError
from pipelines.store.store import Store
from pipelines.store.tenant_events import EVENTS_AT_ONCE, PASS_CALLS, REACH_MS, TenantEvent, TenantEvents
from tests.pipelines.stored import acme, advance, fragment, result, stored_call

# The calls of these tests start now, as a call does whose first fragment the log has just taken.


async def round_of(reader: TenantEvents) -> list[TenantEvent]:
    return [event async for events in reader.read() for event in events]


async def whole_pass(reader: TenantEvents) -> list[TenantEvent]:
    found, passes = [], reader.passes
    while reader.passes == passes:
        found += await round_of(reader)
    return found


def told(events: list[TenantEvent]) -> list[tuple[str, str]]:
    return [(one.call_id, one.event.kind) for one in events]


async def test_the_events_of_all_calls_come_in_the_order_of_time_and_another_tenants_never_do(store: Store) -> None:
    now_ms = await store.archive.clock_ms()
    reader = store.archive.follow("acme", now_ms - 1)
    for number in range(3):
        for name in ("a", "b"):
            await store.open_stream(acme(name), "main", "w1", now_ms)
            await advance(
                store, result(number * 1000, name), number * 16_000, (number + 1) * 16_000, first=fragment(name)
            )
    await stored_call(store, "other", now_ms, -1.0, tenant="rival")

    found = await whole_pass(reader)

    assert [one.written_ms for one in found] == sorted(one.written_ms for one in found)
    for name in ("a", "b"):
        own = [one.event.utterance for one in found if one.call_id == name]
        assert own == [result(number * 1000, name) for number in range(3)]
    assert len({one.name for one in found}) == len(found) == 6


async def test_what_was_written_before_the_beginning_is_left_out(store: Store) -> None:
    now_ms = await store.archive.clock_ms()
    await stored_call(store, "old", now_ms, -1.0)
    await store.open_stream(acme("live"), "main", "w1", now_ms)
    await advance(store, result(0, "live"), 0, 16_000, first=fragment("live"))
    await asyncio.sleep(0.002)
    reader = store.archive.follow("acme", await store.archive.clock_ms() - 1)

    assert await whole_pass(reader) == []
    await advance(store, result(1000, "live"), 16_000, 32_000, first=fragment("live"))
    assert [one.event.utterance for one in await whole_pass(reader)] == [result(1000, "live")]


async def test_a_call_that_begins_later_and_one_that_begins_again_appear(store: Store) -> None:
    now_ms = await store.archive.clock_ms()
    await stored_call(store, "again", now_ms - 60_000, -1.0)
    reader = store.archive.follow("acme", await store.archive.clock_ms())
    await asyncio.sleep(0.002)
    assert await whole_pass(reader) == []

    await stored_call(store, "new", now_ms, -1.0)
    await asyncio.sleep(0.002)
    await store.open_stream(acme("again"), "webcam", "w1", 0)
    assert told(await whole_pass(reader)) == [("new", "utterance"), ("new", "call-final"), ("again", "call-live")]

    await store.set_state(acme("again"), "webcam", "stalled", owner="w1")
    await store.set_state(acme("again"), "webcam", "final", owner="w1")
    assert told(await round_of(reader)) == [("again", "call-stalled"), ("again", "call-final")]
    assert await whole_pass(reader) == []


async def test_a_new_reader_that_begins_where_one_ended_misses_nothing(store: Store) -> None:
    now_ms = await store.archive.clock_ms()
    reader = store.archive.follow("acme", now_ms - 1)
    seen: dict[str, TenantEvent] = {}
    for number in range(30):
        await stored_call(store, f"c{number}", now_ms + number, -1.0, 1.0)
        seen |= {one.name: one for one in await round_of(reader)}
        reader = store.archive.follow("acme", reader.complete_to_ms)
    seen |= {one.name: one for one in await whole_pass(reader)}

    assert len(seen) == 90


async def test_after_a_pass_a_new_reader_begins_near_the_present(store: Store) -> None:
    reader = store.archive.follow("acme", await store.archive.clock_ms() - 3_600_000)
    await whole_pass(reader)

    assert 0 <= await store.archive.clock_ms() - reader.complete_to_ms < 3_000


async def test_a_call_of_many_events_is_read_on_in_the_next_rounds_and_nothing_is_complete_before(
    store: Store, raw: Any
) -> None:
    now_ms = await store.archive.clock_ms()
    scores = [1.0] * (3 * EVENTS_AT_ONCE)
    await stored_call(store, "long", now_ms - 3_600_000, *scores)
    # As if its events had been written a minute ago, one a millisecond.
    entries = raw.xrange("ut:{acme/long}:events")
    raw.delete("ut:{acme/long}:events")
    for number, (_, fields) in enumerate(entries):
        raw.xadd("ut:{acme/long}:events", fields, id=f"{now_ms - 60_000 + number}-0")
    # The call is in the first round's part of the index; the pass goes on for rounds after it.
    raw.zadd("ut:calls:acme", {f"after-{number}": now_ms - 60_000 - number for number in range(PASS_CALLS // 2)})
    raw.zadd("ut:calls:acme", {f"before-{number}": now_ms - 3_700_000 - number for number in range(3 * PASS_CALLS)})
    reader = store.archive.follow("acme", now_ms - 70_000)

    first = await round_of(reader)
    assert len(first) == EVENTS_AT_ONCE
    rest = [one for _ in range(3) for one in await round_of(reader)]
    assert reader.passes == 1
    assert reader.complete_to_ms < rest[0].written_ms

    starts = [one.event.utterance.start_ms for one in [*first, *rest] if one.event.utterance is not None]
    assert starts == [number * 1000 for number in range(len(scores))]
    assert told(rest)[-1] == ("long", "call-final")


async def test_a_call_far_down_the_index_is_found_within_a_pass(store: Store, raw: Any) -> None:
    """A worker that was behind opens calls that started long before others."""
    now_ms = await store.archive.clock_ms()
    # So many start in one millisecond that three parts have some of them.
    raw.zadd("ut:calls:acme", {f"expired-{number}": now_ms - 7 for number in range(2 * PASS_CALLS + 50)})
    reader = store.archive.follow("acme", now_ms - 1)
    assert await whole_pass(reader) == []

    await stored_call(store, "late", now_ms - 3_600_000, -1.0)
    assert ("late", "utterance") in told(await whole_pass(reader))
    assert raw.zcard("ut:calls:acme") == 2 * PASS_CALLS + 51


async def test_every_call_of_a_long_index_is_read_once(store: Store, raw: Any) -> None:
    now_ms = await store.archive.clock_ms()
    raw.zadd("ut:calls:acme", {f"expired-{number}": now_ms - 1 for number in range(PASS_CALLS - 3)})
    for number in range(9):
        await stored_call(store, f"c{number}", now_ms - 1, -1.0)
    reader = store.archive.follow("acme", now_ms - 1)

    found = await whole_pass(reader)

    assert sorted(found, key=lambda one: one.name) == sorted(
        {one.name: one for one in found}.values(), key=lambda one: one.name
    )
    assert {one.call_id for one in found} == {f"c{number}" for number in range(9)}


async def test_the_work_of_a_round_does_not_grow_with_the_calls(store: Store, raw: Any) -> None:
    now_ms = await store.archive.clock_ms()

    async def commands_of_a_round() -> int:
        reader = store.archive.follow("acme", now_ms)
        await whole_pass(reader)
        before = raw.info("stats")["total_commands_processed"]
        await round_of(reader)
        return int(raw.info("stats")["total_commands_processed"] - before)

    raw.zadd("ut:calls:acme", {f"c{number}": now_ms - number for number in range(2 * PASS_CALLS)})
    few = await commands_of_a_round()
    raw.zadd("ut:calls:acme", {f"d{number}": now_ms - number for number in range(20 * PASS_CALLS)})

    assert await commands_of_a_round() <= few


async def test_calls_of_more_than_a_day_ago_are_left_out(store: Store) -> None:
    now_ms = await store.archive.clock_ms()
    await stored_call(store, "yesterday", now_ms - REACH_MS + 60_000, -1.0)
    await stored_call(store, "before", now_ms - REACH_MS - 60_000, -1.0)
    reader = store.archive.follow("acme", now_ms - 1)

    assert {one.call_id for one in await whole_pass(reader)} == {"yesterday"}


async def test_a_deleted_call_and_an_id_that_is_another_tenants_by_now_give_nothing(store: Store, raw: Any) -> None:
    now_ms = await store.archive.clock_ms()
    await stored_call(store, "mine", now_ms, -1.0)
    await stored_call(store, "theirs", now_ms, -1.0, tenant="rival")
    raw.zadd("ut:calls:acme", {"theirs": now_ms})
    await store.delete_call(acme("mine"))

    assert await whole_pass(store.archive.follow("acme", now_ms - 1)) == []


async def test_what_is_unreadable_is_passed(store: Store, raw: Any) -> None:
    now_ms = await store.archive.clock_ms()
    await stored_call(store, "c", now_ms, -1.0, 1.0)
    raw.hset("ut:{acme/c}:results", raw.hkeys("ut:{acme/c}:results")[0], "nonsense")
    reader = store.archive.follow("acme", now_ms - 1)

    assert told(await whole_pass(reader)) == [("c", "utterance"), ("c", "call-final")]
    assert await whole_pass(reader) == []


async def test_what_a_failed_round_has_not_given_comes_in_the_next(store: Store, raw: Any) -> None:
    now_ms = await store.archive.clock_ms()
    reader = store.archive.follow("acme", now_ms - 1)
    for number in range(60):
        await stored_call(store, f"c{number}", now_ms, -1.0)
    raw.rename("ut:{acme/c55}:results", "ut:{acme/c55}:aside")
    raw.set("ut:{acme/c55}:results", "no hash")

    given: list[TenantEvent] = []
    with pytest.raises(StoreUnavailableError):
        await collected(reader, given)
    raw.rename("ut:{acme/c55}:aside", "ut:{acme/c55}:results")
    given += await whole_pass(reader)

    names = [one.name for one in given]
    assert len(names) == len(set(names)) == 120


async def collected(reader: TenantEvents, given: list[TenantEvent]) -> None:
    async for events in reader.read():
        given += events


@pytest.fixture
async def cluster_store(redis_cluster: str) -> AsyncIterator[Store]:
    store = Store.connect(redis_cluster)
    yield store
    await store.close()


@pytest.mark.slow  # servers of its own
async def test_calls_on_every_server_of_a_cluster_are_followed(cluster_store: Store) -> None:
    now_ms = await cluster_store.archive.clock_ms()
    reader = cluster_store.archive.follow("acme", now_ms - 2_000)
    names = [f"call-{number}" for number in range(12)]
    for name in names:
        await stored_call(cluster_store, name, now_ms, -1.0)

    assert {one.call_id for one in await whole_pass(reader)} == set(names)
