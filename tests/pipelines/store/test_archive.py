import asyncio
import base64
import json
from itertools import product
from random import Random
from typing import Any

import pytest

from pipelines.errors import BadCursorError
from pipelines.store.queries import CallFilter, Digest, Page
from pipelines.store.store import Store
from pipelines.types import UtteranceSentiment
from tests.pipelines.stored import (
    AGENT,
    CUSTOMER,
    MINUTE_MS,
    STARTED_MS,
    acme,
    advance,
    fragment,
    result,
    store_call,
    stored_call,
)


async def test_utterances_come_in_order_whatever_order_they_were_stored_in(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    await advance(store, result(5000), 0, 90_000)
    await advance(store, result(900, participant=AGENT), 0, 20_000, participant=AGENT)
    await advance(store, result(5000, participant=AGENT), 20_000, 90_000, participant=AGENT)
    await advance(store, result(120_000), 90_000, 2_000_000)
    found = (await store.archive.utterances(acme("c"))).items
    assert [(one.start_ms, one.participant) for one in found] == [
        (900, AGENT),
        (5000, AGENT),
        (5000, CUSTOMER),
        (120_000, CUSTOMER),
    ]
    assert found[0] == result(900, participant=AGENT)


async def test_pages_of_utterances_join_to_the_whole(store: Store) -> None:
    await stored_call(store, "c", STARTED_MS, *(-1.0,) * 7)
    starts: list[int] = []
    cursor: str | None = None
    for _ in range(10):
        page: Page[UtteranceSentiment] = await store.archive.utterances(acme("c"), cursor, limit=3)
        starts += [one.start_ms for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert starts == [number * 1000 for number in range(7)]


async def test_an_unknown_call_is_empty(store: Store) -> None:
    assert await store.archive.call(acme("nobody")) is None
    assert (await store.archive.utterances(acme("nobody"))).items == ()
    assert await store.archive.events(acme("nobody")) == ()
    assert not await store.delete_call(acme("nobody"))


MADE_UP: list[object] = [
    *([], [1], [1, 2], [None, "x"], [True, "x"], [False, "x"], [1.5, "x"], [-1, "x"], [1 << 64, "x"], [10**400, "x"]),
    *(
        [float("nan"), "x"],
        [float("inf"), "x"],
        ["1", "x"],
        [[1], "x"],
        [{}, "x"],
        [1, "é"],
        [1, "\ud800"],
        [1, "x", 2],
    ),
    *(None, True, 7, 1e999, "x", {}, {"a": 1}, ["é"], ["\ud800"], [["x"]], [None]),
]


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "WzFd", "bnVsbA", "WyJhIiwgMV0", "é" * 9, "W1tbW1tbW1tbW1tbW1tb", "\0", "\ud800"),
        *(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in MADE_UP),
        base64.urlsafe_b64encode(b"[" + b"9" * 700 + b', "x"]').decode(),
        base64.urlsafe_b64encode(b'["' + b"[" * 700).decode(),
        base64.urlsafe_b64encode(b'[1, "\xff"]').decode(),
    ],
)
async def test_a_made_up_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursorError):
        await store.archive.utterances(acme("c"), cursor)
    with pytest.raises(BadCursorError):
        await store.archive.calls(CallFilter("acme"), cursor)
    with pytest.raises(BadCursorError):
        await store.archive.events(acme("c"), cursor)


async def test_pages_of_calls_are_latest_first_and_join_to_the_whole(store: Store) -> None:
    # Several calls start in the same millisecond: the id decides.
    for number in range(7):
        await stored_call(store, f"c{number}", STARTED_MS + number // 3, -1.0)
    await stored_call(store, "other", STARTED_MS, -1.0, tenant="rival")
    ids: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        page = await store.archive.calls(CallFilter("acme"), cursor, limit=2)
        ids += [call.call_id for call in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]


async def test_any_number_of_calls_of_one_millisecond_are_listed_once_each_while_others_come_and_go(
    store: Store,
) -> None:
    names = [f"c{number:04}" for number in range(2_300)]
    for name in names:
        await store.open_stream(acme(name), "main", "w1", STARTED_MS)
    await stored_call(store, "before", STARTED_MS - 1, -1.0)
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.archive.calls(CallFilter("acme"), cursor, limit=500)
        ids += [call.call_id for call in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        await store.delete_call(acme(ids[-1]))  # the one at which the next page begins
        await store.open_stream(acme(f"new-{len(ids)}"), "main", "w1", STARTED_MS + 1)
    assert ids == [*reversed(names), "before"]


async def test_a_page_without_a_match_leads_on_to_the_next_among_calls_of_one_millisecond(store: Store) -> None:
    for number in range(2_100):
        await store.open_stream(acme(f"c{number:04}"), "main", "w1", STARTED_MS)
    await stored_call(store, "a", STARTED_MS, -1.0)
    first = await store.archive.calls(CallFilter("acme", polarity="negative"))
    assert first.items == ()
    second = await store.archive.calls(CallFilter("acme", polarity="negative"), first.next_cursor)
    assert [call.call_id for call in second.items] == ["a"]
    assert second.next_cursor is None


async def test_a_call_matches_when_one_utterance_meets_every_condition(store: Store) -> None:
    await stored_call(store, "angry", STARTED_MS, -2.0, 1.0)
    await stored_call(store, "happy", STARTED_MS + 10, 0.5, 2.5)
    await stored_call(store, "silent", STARTED_MS + 20)

    async def found(**conditions: object) -> list[str]:
        wanted = CallFilter("acme", **conditions)  # type: ignore[arg-type] # conditions of several types
        return [call.call_id for call in (await store.archive.calls(wanted)).items]

    assert await found() == ["silent", "happy", "angry"]
    assert await found(polarity="negative") == ["angry"]
    assert await found(emotion="joy") == ["happy", "angry"]
    assert await found(score_min=2.0) == ["happy"]
    assert await found(score_max=-1.0) == ["angry"]
    assert await found(score_min=0.9, score_max=1.1) == ["angry"]
    assert await found(polarity="negative", score_min=0.0) == []
    assert await found(participant=AGENT) == []
    assert await found(since_ms=STARTED_MS + 10) == ["silent", "happy"]
    assert await found(until_ms=STARTED_MS + 10) == ["angry"]


async def test_the_kinds_of_a_calls_utterances_tell_what_each_of_them_would(store: Store) -> None:
    random = Random(7)
    for number in range(12):
        scores = [random.choice([None, -2.5, -1.0, -0.2, 0.4, 1.5, 2.9]) for _ in range(random.randrange(5))]
        judged = [
            result(at * 1_000, f"c{number}", random.choice([AGENT, CUSTOMER]), score=score)
            for at, score in enumerate(scores)
        ]
        await store_call(store, f"c{number}", judged, tenant="acme", started_ms=STARTED_MS + number)
    bounds = [None, -3.0, -1.7, -1.0, 0.0, 0.4, 2.0]
    for participant, polarity, low, high in product(
        (None, AGENT, CUSTOMER), (None, "negative", "positive"), bounds, bounds
    ):
        wanted = CallFilter("acme", participant=participant, polarity=polarity, score_min=low, score_max=high)
        expected = []
        for number in reversed(range(12)):
            found = await store.archive.results(acme(f"c{number}"))
            if not wanted.asks_for_utterances or any(wanted.accepts(Digest.of(one)) for one in found):
                expected.append(f"c{number}")
        assert [call.call_id for call in (await store.archive.calls(wanted)).items] == expected


async def test_a_listing_looks_at_no_utterance_where_their_kinds_tell(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, *(-1.0 - number / 100 for number in range(50)))
    raw.config_resetstat()
    for conditions in ({"emotion": "anger"}, {"polarity": "positive"}, {"score_min": 0.0}, {"score_max": -1.4}):
        await store.archive.calls(CallFilter("acme", **conditions))
    assert not {"cmdstat_hvals", "cmdstat_hscan"} & (raw.info("commandstats")).keys()


async def test_events_resume_after_the_last_seen(store: Store) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0, 1.0)
    first, second, last = await store.archive.events(acme("c"))
    assert (first.kind, first.utterance) == ("utterance", result(0, score=-1.0))
    assert last.kind == "call-final"
    assert await store.archive.events(acme("c"), second.id) == (last,)
    assert await store.archive.events(acme("c"), last.id) == ()


async def test_a_watcher_is_woken_by_the_next_event(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    watching = asyncio.create_task(store.archive.events(acme("c"), block_ms=20_000))
    await advance(store, result(0), 0, 16_000)
    (event,) = await watching
    assert event.utterance == result(0)


async def test_trends_count_judged_utterances_by_minute_of_the_wall_clock(store: Store) -> None:
    await stored_call(store, "a", STARTED_MS, -2.0, 1.0)
    await stored_call(store, "b", STARTED_MS + 2 * MINUTE_MS, 3.0)
    await store.open_stream(acme("unjudged"), "main", "w1", STARTED_MS)
    await advance(store, result(0, "unjudged", score=None), 0, 16_000, first=fragment("unjudged"))
    trends = await store.archive.trends("acme", STARTED_MS, STARTED_MS + 3 * MINUTE_MS)
    assert [(minute.utterances, minute.score_mean) for minute in trends] == [(2, -0.5), (1, 3.0)]
    assert trends[0].polarities == {"negative": 1, "positive": 1}
    assert trends[0].emotions == {"anger": 1, "joy": 1}
    assert await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS, AGENT) == ()
    with pytest.raises(ValueError, match="at most"):
        await store.archive.trends("acme", 0, STARTED_MS)


async def test_an_expired_call_leaves_the_listing(store: Store, raw: Any) -> None:
    await stored_call(store, "old", STARTED_MS, -1.0)
    await stored_call(store, "new", STARTED_MS + 5, -1.0)
    raw.delete(*raw.scan_iter("ut:{acme/old}:*"))
    assert [call.call_id for call in (await store.archive.calls(CallFilter("acme"))).items] == ["new"]
    assert raw.zrange("ut:calls:acme", 0, -1) == ["new"]


async def test_what_is_corrupt_is_named_and_hides_nothing_else(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0, 1.0, -1.0)
    members = raw.zrange("ut:{acme/c}:order", 0, -1)
    raw.hset("ut:{acme/c}:results", members[1], b"\xff\xfe{not json")
    raw.hset("ut:{acme/c}:digests", members[1], "nonsense")
    page = await store.archive.utterances(acme("c"))
    assert [one.start_ms for one in page.items] == [0, 2000]
    assert page.corrupt == (members[1],)
    events = await store.archive.events(acme("c"))
    assert [event.kind for event in events] == ["utterance", "unreadable", "utterance", "call-final"]
    assert events[1].utterance is None
    assert len((await store.archive.calls(CallFilter("acme", polarity="negative"))).items) == 1


async def test_calls_of_one_millisecond_are_paged_by_the_bytes_of_their_ids(store: Store) -> None:
    names = sorted(f"{letter}{number}" for letter in ("a", "B", "b", "-", "_", ".x", "Z") for number in range(20))
    for name in names:
        await store.open_stream(acme(name), "main", "w1", STARTED_MS)
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.archive.calls(CallFilter("acme"), cursor, limit=7)
        ids += [call.call_id for call in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == names[::-1]
