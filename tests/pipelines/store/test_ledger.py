from collections.abc import AsyncIterator

import pytest_asyncio

from pipelines.store.client import connect
from pipelines.store.ledger import LETTERS_KEPT_MAX, Ledger, StreamId
from pipelines.types import CallRef, Coordinates
from tests.pipelines.stored import acme


@pytest_asyncio.fixture
async def ledger(redis_url: str) -> AsyncIterator[Ledger]:
    client = connect(redis_url)
    yield Ledger(client, "live")
    await client.aclose()


async def test_work_that_begins_again_without_an_end_is_counted(ledger: Ledger) -> None:
    assert [await ledger.mark_in_progress(Coordinates(0, 7), worker) for worker in "abc"] == [1, 2, 3]
    assert await ledger.mark_in_progress(Coordinates(1, 7), "c") == 1
    assert await ledger.mark_in_progress(Coordinates(0, 8), "c", ended=[7]) == 1
    assert await ledger.mark_in_progress(Coordinates(0, 7), "d") == 1
    await ledger.clear_in_progress(0, "d", [7])
    await ledger.clear_in_progress(0, "c", [8])
    assert await ledger.mark_in_progress(Coordinates(0, 8), "d") == 1


async def test_only_who_began_last_can_end(ledger: Ledger) -> None:
    assert [await ledger.mark_in_progress(Coordinates(0, 7), worker) for worker in "ab"] == [1, 2]
    await ledger.clear_in_progress(0, "a", [7])
    assert await ledger.mark_in_progress(Coordinates(0, 7), "c") == 3


async def test_one_worker_that_begins_again_after_a_lost_reply_has_died_of_nothing(ledger: Ledger) -> None:
    assert [await ledger.mark_in_progress(Coordinates(0, 7), "a") for _ in range(3)] == [1, 1, 1]
    assert [await ledger.mark_in_progress(Coordinates(0, 7), worker) for worker in "bba"] == [2, 2, 3]


async def test_a_dead_letter_is_counted_once(ledger: Ledger) -> None:
    for _ in range(3):
        await ledger.note_dead_letter(acme("c"), Coordinates(0, 4), "undecodable")
    await ledger.note_dead_letter(acme("c"), Coordinates(0, 5), "killed")
    assert await ledger.dead_letter_counts(acme("c")) == {"undecodable": 1, "killed": 1}
    assert await ledger.is_dead_letter(acme("c"), Coordinates(0, 4))
    assert not await ledger.is_dead_letter(acme("c"), Coordinates(1, 4))


async def test_a_flood_of_dead_letters_is_counted_and_only_the_latest_remembered(
    ledger: Ledger, redis_url: str
) -> None:
    total = LETTERS_KEPT_MAX + 20
    for offset in range(total):
        await ledger.note_dead_letter(acme("c"), Coordinates(0, offset), "undecodable")
    await ledger.note_dead_letter(acme("c"), Coordinates(0, 3), "undecodable")
    assert await ledger.dead_letter_counts(acme("c")) == {"undecodable": total}
    assert not await ledger.is_dead_letter(acme("c"), Coordinates(0, 3))
    assert await ledger.is_dead_letter(acme("c"), Coordinates(0, total - 1))
    client = connect(redis_url)
    assert await client.zcard("ut:{acme/c}:letters") == LETTERS_KEPT_MAX
    await client.aclose()


async def test_what_was_decided_about_letters_is_remembered(ledger: Ledger) -> None:
    places = [Coordinates(0, offset) for offset in range(3)]
    assert await ledger.decisions([]) == {}
    await ledger.record_decisions({places[1]: "dropped"})
    assert await ledger.decisions(places) == {places[1]: "dropped"}


async def test_open_streams_are_known_until_they_are_over(ledger: Ledger) -> None:
    first, second = StreamId(CallRef("default", "a:1"), "phone"), StreamId(CallRef("shop", "b"), "cam.r7")
    await ledger.note_open(3, first)
    await ledger.note_open(3, second)
    await ledger.note_open(3, first)
    assert set(await ledger.open_streams(3)) == {first, second}
    await ledger.forget_open(3, first)
    assert await ledger.open_streams(3) == [second]
    assert await ledger.open_streams(4) == []
