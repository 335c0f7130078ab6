import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from pipelines.errors import BadCursorError, StoreUnavailableError
from pipelines.store import accesses as module
from pipelines.store.accesses import REPEAT_S, TRIM_MAX, Accesses
from pipelines.store.chain import ALL_CALLS, START, Action, CallAccess, Entry, Mark, chained
from pipelines.store.client import connect
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.pipelines.stored import acme, stored_call
from tests.servers import OwnRedis

HEAD, ENTRIES = "ut:accesses:{acme}:head", "ut:accesses:{acme}:entries"
DAY_S = 86_400
KEPT_S = 30 * DAY_S


@pytest_asyncio.fixture
async def accesses(redis_url: str) -> AsyncIterator[Accesses]:
    client = connect(redis_url)
    yield Accesses(client)
    await client.aclose()


def access(call_id: str = "a-17", action: Action = "delete", who: str = "token:1", detail: str = "") -> CallAccess:
    return CallAccess(action, acme(call_id), who, "192.0.2.7", detail)


async def noted(accesses: Accesses, *call_ids: str) -> None:
    for call_id in call_ids:
        await accesses.note(access(call_id), KEPT_S)


def now_ms(raw: Any) -> int:
    seconds, microseconds = raw.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def lay(raw: Any, at_ms: int, count: int, *, kept_s: int = KEPT_S) -> None:
    """Entries of long ago."""
    last = Mark(0, START)
    for number in range(count):
        (line,), last = chained([access(f"old{number}")], at_ms, last)
        raw.xadd(ENTRIES, {"entry": line}, id=f"{at_ms}-{number}")
    raw.hset(HEAD, mapping={"hash": last.hash, "number": count, "at_ms": at_ms, "kept_s": kept_s})


async def test_who_did_what_is_noted_by_the_servers_clock(accesses: Accesses, raw: Any) -> None:
    before_ms = now_ms(raw)
    await accesses.note(access("a-17", "read", detail="summary"), KEPT_S)
    (entry,) = (await accesses.page("acme")).items
    assert (entry.number, entry.action, entry.call_id, entry.who, entry.origin, entry.detail, entry.previous) == (
        *(1, "read", "a-17", "token:1", "192.0.2.7", "summary"),
        START,
    )
    assert before_ms <= entry.at_ms <= now_ms(raw)
    assert KEPT_S - 5 < raw.ttl(ENTRIES) <= KEPT_S < raw.ttl(HEAD)


async def test_entries_are_listed_by_call_with_those_of_all_calls_the_latest_first(
    accesses: Accesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCANNED_MAX", 4)
    monkeypatch.setattr(module, "_SCAN", 2)
    await noted(accesses, "a", "b", ALL_CALLS, "b", "b", "b", "b", "b", "a")
    await accesses.note(CallAccess("read", CallRef("rival", "a"), "w", "o"), KEPT_S)
    cursor, found = None, list[Entry]()
    for _ in range(9):
        page = await accesses.page("acme", cursor, 2, call_id="a")
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [(one.number, one.call_id) for one in found] == [(9, "a"), (3, "*"), (1, "a")]
    assert [one.number for one in (await accesses.page("acme", limit=3)).items] == [9, 8, 7]
    since_ms = found[0].at_ms + 1_000
    assert (await accesses.page("acme", since_ms=since_ms)).items == ()
    for cursor in ("", "x", "WzFd", "WyIqIl0", "WyIxIDIiXQ"):
        with pytest.raises(BadCursorError):
            await accesses.page("acme", cursor)


async def test_entries_of_many_writers_at_once_make_one_whole_chain(redis_url: str) -> None:
    async with AsyncExitStack() as clients:
        writers = []
        for _ in range(4):
            client = connect(redis_url)
            clients.push_async_callback(client.aclose)
            writers.append(Accesses(client))
        notes = (
            writer.note(access(f"{number}", who=f"{name}"), KEPT_S)
            for number in range(150)
            for name, writer in enumerate(writers)
        )
        await asyncio.gather(*notes)
        report = await writers[0].verify("acme")
        assert (report.entries, report.whole) == (600, True), report.findings
        page = await writers[0].page("acme", limit=1_000)
        assert len({(one.who, one.call_id) for one in page.items}) == 600


async def test_a_note_that_is_given_up_takes_no_other_with_it(accesses: Accesses) -> None:
    waiting = [asyncio.create_task(accesses.note(access(f"{number}"), KEPT_S)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in done[1:]] == [type(None)] * 4
    assert {one.call_id for one in (await accesses.page("acme")).items} >= {"1", "2", "3", "4"}
    await noted(accesses, "after")
    assert (await accesses.verify("acme")).whole


async def test_what_is_sent_again_after_a_lost_answer_is_noted_once(accesses: Accesses) -> None:
    script = accesses._note_script

    async def twice(**what: Any) -> Any:
        await script(**what)
        return await script(**what)

    accesses._note_script = twice
    await noted(accesses, "a", "b")
    assert [one.call_id for one in (await accesses.page("acme")).items] == ["b", "a"]


async def test_a_store_that_takes_no_note_fails_everyone_who_waits_and_takes_it_later(own_redis: OwnRedis) -> None:
    store = Store.connect(own_redis.url)
    client = connect(own_redis.url)
    await client.config_set("maxmemory", 1)
    notes = [store.accesses.note(access(f"{number}"), KEPT_S) for number in range(3)]
    assert [type(one) for one in await asyncio.gather(*notes, return_exceptions=True)] == [StoreUnavailableError] * 3
    await client.config_set("maxmemory", 0)
    assert (await store.accesses.page("acme")).items == ()
    await noted(store.accesses, "a")
    assert (await store.accesses.verify("acme")).whole
    await client.aclose()
    await store.close()


async def test_repeated_reads_of_one_caller_within_a_minute_are_one_entry(redis_url: str) -> None:
    client, clock_s = connect(redis_url), 1000.0
    accesses = Accesses(client, lambda: clock_s)

    async def entries() -> int:
        return (await accesses.verify("acme")).entries

    poll = access("a", "read")
    for _ in range(5):
        await accesses.note(poll, KEPT_S)
    assert await entries() == 1
    for other in (
        access("b", "read"),
        access("a", "watch"),
        access("a", "read", who="w"),
        access("a", "read", detail="d"),
    ):
        await accesses.note(other, KEPT_S)
    assert await entries() == 5
    clock_s += REPEAT_S
    await accesses.note(poll, KEPT_S)
    assert await entries() == 6
    for _ in range(3):
        await accesses.note(access("a", "delete"), KEPT_S)
    assert await entries() == 9
    await client.aclose()


async def test_a_read_that_could_not_be_noted_is_no_repeat(own_redis: OwnRedis) -> None:
    client = connect(own_redis.url)
    accesses = Accesses(client)
    await client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailableError):
        await accesses.note(access("a", "read"), KEPT_S)
    await client.config_set("maxmemory", 0)
    await accesses.note(access("a", "read"), KEPT_S)
    assert (await accesses.verify("acme")).entries == 1
    await client.aclose()


async def test_the_callers_that_are_remembered_are_bounded(accesses: Accesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEATS_KEPT_MAX", 2)
    for call_id in "abca":
        await accesses.note(access(call_id, "read"), KEPT_S)
    assert len(accesses._repeats) == 2
    assert (await accesses.verify("acme")).entries == 4
    assert not accesses._waiting


async def test_entries_past_their_time_go_with_each_note_some_at_a_time(accesses: Accesses, raw: Any) -> None:
    lay(raw, now_ms(raw) - (KEPT_S + DAY_S) * 1000, 2 * TRIM_MAX + 50)
    await noted(accesses, "a")
    assert raw.xlen(ENTRIES) == TRIM_MAX + 51
    report = await accesses.verify("acme")
    assert (report.whole, report.first_number) == (True, TRIM_MAX + 1), report.findings
    await noted(accesses, "b", "c")
    report = await accesses.verify("acme")
    assert (report.whole, report.entries, report.first_number) == (True, 3, 2 * TRIM_MAX + 51), report.findings
    assert raw.hget(HEAD, "trimmed") == str(2 * TRIM_MAX + 50)


async def test_entries_within_their_time_stay(accesses: Accesses, raw: Any) -> None:
    lay(raw, now_ms(raw) - (KEPT_S - 60) * 1000, 3)
    await noted(accesses, "a")
    report = await accesses.verify("acme")
    assert (report.whole, report.entries, report.first_number) == (True, 4, 1)


async def test_a_trail_goes_on_behind_entries_that_are_all_past_their_time(accesses: Accesses, raw: Any) -> None:
    lay(raw, now_ms(raw) - (KEPT_S + 60) * 1000, 3)
    raw.delete(ENTRIES)
    assert (await accesses.verify("acme")).whole
    await noted(accesses, "a")
    report = await accesses.verify("acme")
    assert (report.whole, report.first_number) == (True, 4), report.findings


async def test_entries_that_went_before_their_time_stay_missed(accesses: Accesses, raw: Any) -> None:
    await noted(accesses, "a", "b")
    raw.delete(ENTRIES)
    assert not (await accesses.verify("acme")).whole
    await noted(accesses, "c")
    report = await accesses.verify("acme")
    assert [(one.kind, one.number) for one in report.findings] == [("removed", 1)]


async def test_whatever_is_done_to_the_stored_trail_is_found(accesses: Accesses, raw: Any) -> None:
    await noted(accesses, *"abcde")
    head, entries = raw.hgetall(HEAD), raw.xrange(ENTRIES)

    def restore(changed: list[tuple[str, dict[str, str]]]) -> None:
        raw.delete(ENTRIES)
        for entry_id, fields in changed:
            raw.xadd(ENTRIES, fields, id=entry_id)
        raw.hset(HEAD, mapping=head)

    async def kinds() -> set[tuple[str, int]]:
        return {(one.kind, one.number) for one in (await accesses.verify("acme")).findings}

    restore(entries)
    assert await kinds() == set()
    altered = [(entry_id, {"entry": fields["entry"].replace('"c"', '"x"')}) for entry_id, fields in entries]
    restore(altered)
    assert await kinds() == {("altered", 3)}
    restore([(entry_id, {"other": "field"}) for entry_id, _ in entries])
    assert ("altered", 1) in await kinds()
    restore(entries)
    raw.xdel(ENTRIES, entries[2][0])
    assert await kinds() == {("removed", 3)}
    restore(entries[:-1])
    assert await kinds() == {("removed", 5)}
    restore(entries)
    raw.xadd(ENTRIES, {"entry": "nonsense"})
    assert ("added", 6) in await kinds()
    restore(entries)
    raw.delete(HEAD)
    assert await kinds() == {("no_head", 5)}


async def test_a_noted_head_tells_whether_the_trail_still_holds_it(accesses: Accesses, raw: Any) -> None:
    await noted(accesses, "a", "b")
    noted_head = Mark.read((await accesses.verify("acme")).head or "")
    await noted(accesses, "c")
    assert (await accesses.verify("acme", noted_head)).expected == "contained"
    raw.delete(HEAD, ENTRIES)
    await noted(accesses, "x", "y", "z")
    report = await accesses.verify("acme", noted_head)
    assert (report.findings, report.expected, report.whole) == ((), "not_contained", False)


async def test_a_trail_is_verified_page_by_page_while_it_grows(
    accesses: Accesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCAN", 3)
    await noted(accesses, *map(str, range(20)))
    growing = asyncio.create_task(noted(accesses, *map(str, range(40))))
    while not growing.done():
        report = await accesses.verify("acme")
        assert report.whole, report.findings
    assert (await accesses.verify("acme")).entries == 60


async def test_a_server_whose_clock_is_behind_goes_on_with_the_trail(accesses: Accesses, raw: Any) -> None:
    lay(raw, now_ms(raw) + 3_600_000, 2)
    await noted(accesses, "a")
    report = await accesses.verify("acme")
    assert (report.whole, report.entries) == (True, 3), report.findings


async def test_deleting_a_call_leaves_its_accesses(store: Store) -> None:
    await stored_call(store, "a-17", 1_760_000_000_000, -1.0)
    await noted(store.accesses, "a-17")
    assert await store.delete_call(acme("a-17"))
    assert [one.call_id for one in (await store.accesses.page("acme")).items] == ["a-17"]


async def test_entries_that_cannot_be_read_are_named_beside_the_others(accesses: Accesses, raw: Any) -> None:
    await noted(accesses, "a")
    entry_id = raw.xadd(ENTRIES, {"entry": "nonsense"})
    page = await accesses.page("acme")
    assert ([one.call_id for one in page.items], page.corrupt) == (["a"], (entry_id,))


async def test_the_trail_of_a_cluster_lies_in_one_slot(redis_cluster: str) -> None:
    store = Store.connect(redis_cluster)
    for tenant in ("acme", "rival", "third"):
        for number in range(3):
            await store.accesses.note(CallAccess("delete", CallRef(tenant, f"{number}"), "w", "o"), KEPT_S)
    for tenant in ("acme", "rival", "third"):
        report = await store.accesses.verify(tenant)
        assert (report.whole, report.entries) == (True, 3), report.findings
        assert len((await store.accesses.page(tenant)).items) == 3
    await store.close()
