import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
import redis

from models.types import EMOTIONS, POLARITIES, Modality
from pipelines.errors import (
    BadCursorError,
    BadFragmentError,
    CallDeletedError,
    FencedError,
    StoreUnavailableError,
)
from pipelines.queries import CallFilter, Page
from pipelines.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    Account,
    Counted,
    Judgement,
    MediaFragment,
    ModalityOut,
    Participant,
    ResumePoint,
    TrackCut,
    UtteranceSentiment,
)
from tests.servers import free_port, redis_url_of, start_redis

STARTED_MS = 1_760_000_000_000
MINUTE_MS = 60_000
AGENT, CUSTOMER = Participant.AGENT, Participant.CUSTOMER


@pytest_asyncio.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    connected = Store.connect(redis_url)
    yield connected
    await connected.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def fragment(call_id: str = "c", stream: str = "main", tenant: str = "acme") -> MediaFragment:
    return MediaFragment(
        call_id, tenant, stream, 0, 0, "audio/L16;rate=8000", (CUSTOMER,), DEFAULT_CONSENT, final=False, media=b""
    )


def result(
    start_ms: int,
    call_id: str = "c",
    participant: Participant = CUSTOMER,
    *,
    score: float | None = -1.5,
    stream: str = "main",
    tenant: str = "acme",
) -> UtteranceSentiment:
    polarity = "neutral" if not score else "negative" if score < 0 else "positive"
    return UtteranceSentiment(
        utterance_id=f"{call_id}/{stream}/{participant}/{start_ms}",
        call_id=call_id,
        tenant=tenant,
        stream=stream,
        participant=participant,
        start_ms=start_ms,
        end_ms=start_ms + 900,
        consent=(Modality.TEXT,),
        judgement=None
        if score is None
        else Judgement(
            score=score,
            polarity=polarity,
            polarity_probabilities=dict.fromkeys(POLARITIES, 1 / 3),
            emotion="anger" if score < 0 else "joy",
            emotion_probabilities=dict.fromkeys(EMOTIONS, 1 / 7),
        ),
        modalities={Modality.TEXT: ModalityOut(used=score is not None)},
        bundle="test",
        analysed_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


async def advance(
    store: Store,
    stored: UtteranceSentiment | None,
    believed: int,
    new: int,
    *,
    owner: str = "w1",
    first: MediaFragment | None = None,
    participant: Participant = CUSTOMER,
    offset: int = 5,
) -> None:
    await store.advance(
        first or fragment(),
        owner=owner,
        participant=participant,
        believed_cut_sample=believed,
        new=TrackCut(new, 1),
        resume=ResumePoint(offset, 2, 32_000),
        result=stored,
        ttl_s=3600,
    )


async def stored_call(store: Store, call_id: str, started_ms: int, *scores: float, tenant: str = "acme") -> None:
    """A finished call of one stream with an utterance a second."""
    await store.open_stream(call_id, tenant, "main", "w1", started_ms)
    first = fragment(call_id, tenant=tenant)
    for number, score in enumerate(scores):
        judged = result(number * 1000, call_id, score=score, tenant=tenant)
        await advance(store, judged, number * 16_000, (number + 1) * 16_000, first=first)
    await store.settle(call_id, "main", owner="w1", state="final")


async def test_a_new_stream_has_nothing_settled(store: Store) -> None:
    checkpoint = await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    assert checkpoint is not None
    assert checkpoint.tracks == {}
    assert (checkpoint.resume_at, checkpoint.resume_seq, checkpoint.resume_sample) == (None, None, None)
    assert not checkpoint.final


async def test_a_successor_finds_the_cut_of_each_track(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(100), 0, 16_000)
    await advance(store, None, 0, 8_000, participant=AGENT, offset=4)
    checkpoint = await store.open_stream("c", "acme", "main", "w2", STARTED_MS + 999)
    assert checkpoint is not None
    assert checkpoint.tracks == {CUSTOMER: TrackCut(16_000, 1), AGENT: TrackCut(8_000, 1)}
    assert (checkpoint.resume_at, checkpoint.resume_seq, checkpoint.resume_sample) == (4, 2, 32_000)


async def test_a_zombie_writer_changes_nothing(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "zombie", STARTED_MS)
    await advance(store, result(0), 0, 16_000, owner="zombie")
    await store.open_stream("c", "acme", "main", "successor", STARTED_MS)
    with pytest.raises(FencedError):
        await advance(store, result(1000), 16_000, 32_000, owner="zombie")
    with pytest.raises(FencedError):
        await store.settle("c", "main", owner="zombie", state="final")
    assert [stored.start_ms for stored in (await store.utterances("c")).items] == [0]
    checkpoint = await store.open_stream("c", "acme", "main", "successor", STARTED_MS)
    assert checkpoint is not None
    assert checkpoint.tracks == {CUSTOMER: TrackCut(16_000, 1)}


async def test_a_zombie_that_judged_otherwise_leaves_the_trends_as_its_successor_has_them(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "zombie", STARTED_MS)
    await store.open_stream("c", "acme", "main", "successor", STARTED_MS)
    with pytest.raises(FencedError):
        await advance(store, result(0, score=-3.0), 0, 16_000, owner="zombie")
    assert await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS) == ()
    await advance(store, result(0, score=2.0), 0, 16_000, owner="successor")
    with pytest.raises(FencedError):
        await advance(store, result(0, score=-3.0), 0, 16_000, owner="zombie")
    (minute,) = await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert minute.score_mean == 2.0


async def test_nobody_counts_for_a_stream_that_is_not_final(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    with pytest.raises(FencedError):
        await store.settle("c", "main", owner=None, counted=Counted(9, 8, {"already_stored": 1}))
    assert (await store.checkpoints("c"))["main"].account == Account()


async def test_a_stream_that_ends_after_its_results_have_expired_leaves_nothing_for_ever(
    store: Store, raw: Any
) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    raw.delete("ut:{c}:call")
    await store.settle("c", "main", owner="w1", state="closed")
    assert [key for key in raw.scan_iter("ut:{c}:*") if raw.ttl(key) == -1] == []


async def test_a_writer_with_a_wrong_belief_is_refused(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    with pytest.raises(FencedError):
        await advance(store, result(2000), 48_000, 64_000)
    assert len((await store.utterances("c")).items) == 1


async def test_a_step_repeated_after_a_lost_reply_counts_once(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    for _ in range(3):
        await advance(store, result(0), 0, 16_000)
    call = await store.call("c")
    assert call is not None
    assert call.utterances == 1
    assert len(await store.events("c")) == 1
    (minute,) = await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert minute.utterances == 1


async def test_two_streams_open_at_once_are_apart(store: Store) -> None:
    await store.open_stream("c", "acme", "phone", "w1", STARTED_MS)
    await store.open_stream("c", "acme", "webcam", "w2", STARTED_MS)
    await advance(store, result(0, stream="phone"), 0, 16_000, first=fragment(stream="phone"))
    await advance(store, result(0, stream="webcam"), 0, 16_000, owner="w2", first=fragment(stream="webcam"))
    assert len((await store.utterances("c")).items) == 2


async def test_a_call_is_final_when_all_its_streams_are(store: Store) -> None:
    await store.open_stream("c", "acme", "phone", "w1", STARTED_MS)
    await store.open_stream("c", "acme", "webcam", "w1", STARTED_MS)
    await store.settle("c", "phone", owner="w1", state="final")
    call = await store.call("c")
    assert call is not None
    assert (call.status, call.streams) == ("live", {"phone": "final", "webcam": "live"})
    for _ in range(2):
        await store.settle("c", "webcam", owner="w1", state="final")
    call = await store.call("c")
    assert call is not None
    assert call.status == "final"
    assert [event.kind for event in await store.events("c")] == ["call-final"]
    again = await store.open_stream("c", "acme", "phone", "w9", STARTED_MS)
    assert again is not None
    assert again.final


async def test_a_final_stream_stays_final_and_a_closed_one_comes_alive_by_what_is_new_only(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    counted = Counted(8, 0, {"analysed": 8})
    await store.settle("c", "main", owner="w1", counted=counted, state="closed")
    assert await store.open_stream("c", "acme", "main", "w2", STARTED_MS, offset=7) is None
    call = await store.call("c")
    assert call is not None
    assert call.status == "closed"
    assert await store.open_stream("c", "acme", "main", "w2", STARTED_MS, offset=8) is not None
    call = await store.call("c")
    assert call is not None
    assert call.status == "live"
    await store.settle("c", "main", owner="w2", state="final")
    await store.settle("c", "main", owner="w2", state="closed")
    call = await store.call("c")
    assert call is not None
    assert call.status == "final"


async def test_one_tenant_cannot_write_into_anothers_call(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    with pytest.raises(BadFragmentError, match="another tenant"):
        await store.open_stream("c", "rival", "main", "w2", STARTED_MS)


async def test_utterances_come_in_order_whatever_order_they_were_stored_in(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(5000), 0, 90_000)
    await advance(store, result(900, participant=AGENT), 0, 20_000, participant=AGENT)
    await advance(store, result(5000, participant=AGENT), 20_000, 90_000, participant=AGENT)
    await advance(store, result(120_000), 90_000, 2_000_000)
    found = (await store.utterances("c")).items
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
        page: Page[UtteranceSentiment] = await store.utterances("c", cursor, limit=3)
        starts += [one.start_ms for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert starts == [number * 1000 for number in range(7)]


async def test_an_unknown_call_is_empty(store: Store) -> None:
    assert await store.call("nobody") is None
    assert (await store.utterances("nobody")).items == ()
    assert await store.events("nobody") == ()
    assert not await store.delete_call("nobody")


@pytest.mark.parametrize("cursor", ["", "x", "WzFd", "bnVsbA", "WyJhIiwgMV0", "é" * 9, "W1tbW1tbW1tbW1tbW1tb"])
async def test_a_made_up_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursorError):
        await store.utterances("c", cursor)
    with pytest.raises(BadCursorError):
        await store.calls(CallFilter("acme"), cursor)
    with pytest.raises(BadCursorError):
        await store.events("c", cursor)


async def test_pages_of_calls_are_latest_first_and_join_to_the_whole(store: Store) -> None:
    # Several calls start in the same millisecond: the id decides.
    for number in range(7):
        await stored_call(store, f"c{number}", STARTED_MS + number // 3, -1.0)
    await stored_call(store, "other", STARTED_MS, -1.0, tenant="rival")
    ids: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        page = await store.calls(CallFilter("acme"), cursor, limit=2)
        ids += [call.call_id for call in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]


async def test_a_call_matches_when_one_utterance_meets_every_condition(store: Store) -> None:
    await stored_call(store, "angry", STARTED_MS, -2.0, 1.0)
    await stored_call(store, "happy", STARTED_MS + 10, 0.5, 2.5)
    await stored_call(store, "silent", STARTED_MS + 20)

    async def found(**conditions: object) -> list[str]:
        wanted = CallFilter("acme", **conditions)  # type: ignore[arg-type] # conditions of several types
        return [call.call_id for call in (await store.calls(wanted)).items]

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


async def test_events_resume_after_the_last_seen(store: Store) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0, 1.0)
    first, second, last = await store.events("c")
    assert (first.kind, first.utterance) == ("utterance", result(0, score=-1.0))
    assert last.kind == "call-final"
    assert await store.events("c", second.id) == (last,)
    assert await store.events("c", last.id) == ()


async def test_a_watcher_is_woken_by_the_next_event(store: Store) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    watching = asyncio.create_task(store.events("c", block_ms=20_000))
    await advance(store, result(0), 0, 16_000)
    (event,) = await watching
    assert event.utterance == result(0)


async def test_trends_count_judged_utterances_by_minute_of_the_wall_clock(store: Store) -> None:
    await stored_call(store, "a", STARTED_MS, -2.0, 1.0)
    await stored_call(store, "b", STARTED_MS + 2 * MINUTE_MS, 3.0)
    await store.open_stream("unjudged", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(0, "unjudged", score=None), 0, 16_000, first=fragment("unjudged"))
    trends = await store.trends("acme", STARTED_MS, STARTED_MS + 3 * MINUTE_MS)
    assert [(minute.utterances, minute.score_mean) for minute in trends] == [(2, -0.5), (1, 3.0)]
    assert trends[0].polarities == {"negative": 1, "positive": 1}
    assert trends[0].emotions == {"anger": 1, "joy": 1}
    assert await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS, AGENT) == ()
    with pytest.raises(ValueError, match="at most"):
        await store.trends("acme", 0, STARTED_MS)


async def test_a_deleted_call_is_gone_and_stays_gone(store: Store, raw: Any) -> None:
    await stored_call(store, "kept", STARTED_MS, 3.0)
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    assert not await store.deleted("c")
    assert await store.delete_call("c")
    assert await store.deleted("c")
    assert await store.call("c") is None
    assert [call.call_id for call in (await store.calls(CallFilter("acme"))).items] == ["kept"]
    with pytest.raises(CallDeletedError):
        await advance(store, result(1000), 16_000, 32_000)
    with pytest.raises(CallDeletedError):
        await store.settle("c", "main", owner="w1", state="final")
    with pytest.raises(CallDeletedError):
        await store.open_stream("c", "acme", "main", "w2", STARTED_MS)
    assert list(raw.scan_iter("ut:{c}:*")) == ["ut:{c}:deleted"]
    assert raw.ttl("ut:{c}:deleted") > 0
    (minute,) = await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert (minute.utterances, minute.score_mean) == (1, 3.0)


async def test_every_key_of_a_call_expires(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0)
    assert {key for key in raw.scan_iter("ut:*") if raw.ttl(key) == -1} == {"ut:calls:acme"}


async def test_an_expired_call_leaves_the_listing(store: Store, raw: Any) -> None:
    await stored_call(store, "old", STARTED_MS, -1.0)
    await stored_call(store, "new", STARTED_MS + 5, -1.0)
    raw.delete(*raw.scan_iter("ut:{old}:*"))
    assert [call.call_id for call in (await store.calls(CallFilter("acme"))).items] == ["new"]
    assert raw.zrange("ut:calls:acme", 0, -1) == ["new"]


async def test_what_is_corrupt_is_named_and_hides_nothing_else(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0, 1.0, -1.0)
    members = raw.zrange("ut:{c}:order", 0, -1)
    raw.hset("ut:{c}:results", members[1], b"\xff\xfe{not json")
    raw.hset("ut:{c}:digests", members[1], "nonsense")
    page = await store.utterances("c")
    assert [one.start_ms for one in page.items] == [0, 2000]
    assert page.corrupt == (members[1],)
    events = await store.events("c")
    assert [event.kind for event in events] == ["utterance", "unreadable", "utterance", "call-final"]
    assert events[1].utterance is None
    assert len((await store.calls(CallFilter("acme", polarity="negative"))).items) == 1


async def test_metrics_of_living_workers(store: Store, raw: Any) -> None:
    await store.publish_metrics("w1", "one 1\n", 60)
    await store.publish_metrics("w2", "two 2\n", 60)
    assert await store.metrics() == {"w1": "one 1\n", "w2": "two 2\n"}
    raw.delete("ut:{metrics}:worker:w1")
    assert await store.metrics() == {"w2": "two 2\n"}


async def test_a_redis_that_is_full_or_read_only_is_unavailable_until_it_is_not(store: Store, raw: Any) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    raw.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError):
            await advance(store, result(0), 0, 16_000)
    finally:
        raw.config_set("maxmemory", "0")
    raw.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(StoreUnavailableError):
            await advance(store, result(0), 0, 16_000)
    finally:
        raw.replicaof("NO", "ONE")
    await advance(store, result(0), 0, 16_000)
    assert len((await store.utterances("c")).items) == 1


async def test_a_redis_that_refuses_says_what_it_says(store: Store, raw: Any) -> None:
    await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
    raw.config_set("min-replicas-to-write", "1")
    try:
        assert await store.trouble() == "refused"
        with pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
            await advance(store, result(0), 0, 16_000)
    finally:
        raw.config_set("min-replicas-to-write", "0")
    await advance(store, result(0), 0, 16_000)
    assert await store.trouble() is None


async def test_a_redis_that_dies_and_returns_loses_no_step(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    process = start_redis(folder, *durable)
    store = Store.connect(redis_url_of(folder))
    try:
        await store.open_stream("c", "acme", "main", "w1", STARTED_MS)
        await advance(store, result(0), 0, 16_000)
        _end(process)
        with pytest.raises(StoreUnavailableError):
            await advance(store, result(1000), 16_000, 32_000)
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        (folder / "s").unlink(missing_ok=True)
        process = start_redis(folder, *durable)
        await advance(store, result(1000), 16_000, 32_000)
        assert [one.start_ms for one in (await store.utterances("c")).items] == [0, 1000]
    finally:
        await store.close()
        _end(process)


async def test_every_step_keeps_to_one_slot_of_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    process = start_redis(folder, "--cluster-enabled", "yes", "--port", str(free_port()))
    store = Store.connect(redis_url_of(folder))
    try:
        with redis.Redis.from_url(redis_url_of(folder)) as admin:
            admin.execute_command("CLUSTER ADDSLOTS", *range(16_384))
            while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                await asyncio.sleep(0.05)
        await stored_call(store, "c1", STARTED_MS, -1.0, 1.0)
        await stored_call(store, "c2", STARTED_MS, -1.0)
        await store.publish_metrics("w1", "one 1\n", 60)
        await store.publish_metrics("w2", "two 2\n", 60)
        assert len(await store.metrics()) == 2
        assert len((await store.utterances("c1")).items) == 2
        assert len(await store.events("c1")) == 3
        assert len((await store.calls(CallFilter("acme", polarity="negative"))).items) == 2
        assert len(await store.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)) == 1
        assert await store.delete_call("c1")
    finally:
        await store.close()
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
