import subprocess
from typing import Any

import pytest
import redis

from pipelines.checkpoints import Account, Counted, TrackCut
from pipelines.errors import CallDeletedError, FencedError, StoreUnavailableError
from pipelines.store.queries import CallFilter
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.eventually import eventually
from tests.pipelines.stored import AGENT, CUSTOMER, MINUTE_MS, STARTED_MS, acme, advance, fragment, result, stored_call
from tests.servers import free_port, redis_url_of, start_redis


async def test_a_new_stream_has_an_empty_checkpoint(store: Store) -> None:
    checkpoint = await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    assert checkpoint is not None
    assert checkpoint.tracks == {}
    assert (checkpoint.resume_at, checkpoint.resume_seq, checkpoint.resume_sample) == (None, None, None)
    assert not checkpoint.final


async def test_a_successor_finds_the_cut_of_each_track(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    await advance(store, result(100), 0, 16_000)
    await advance(store, None, 0, 8_000, participant=AGENT, offset=4)
    checkpoint = await store.open_stream(acme("c"), "main", "w2", STARTED_MS + 999)
    assert checkpoint is not None
    assert checkpoint.tracks == {CUSTOMER: TrackCut(16_000, 1), AGENT: TrackCut(8_000, 1)}
    assert (checkpoint.resume_at, checkpoint.resume_seq, checkpoint.resume_sample) == (4, 2, 32_000)


async def test_a_zombie_writer_changes_nothing(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "zombie", STARTED_MS)
    await advance(store, result(0), 0, 16_000, owner="zombie")
    await store.open_stream(acme("c"), "main", "successor", STARTED_MS)
    with pytest.raises(FencedError):
        await advance(store, result(1000), 16_000, 32_000, owner="zombie")
    with pytest.raises(FencedError):
        await store.set_state(acme("c"), "main", "final", owner="zombie")
    assert [stored.start_ms for stored in (await store.archive.utterances(acme("c"))).items] == [0]
    checkpoint = await store.open_stream(acme("c"), "main", "successor", STARTED_MS)
    assert checkpoint is not None
    assert checkpoint.tracks == {CUSTOMER: TrackCut(16_000, 1)}


async def test_a_zombie_that_judged_otherwise_leaves_the_trends_as_its_successor_has_them(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "zombie", STARTED_MS)
    await store.open_stream(acme("c"), "main", "successor", STARTED_MS)
    with pytest.raises(FencedError):
        await advance(store, result(0, score=-3.0), 0, 16_000, owner="zombie")
    assert await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS) == ()
    await advance(store, result(0, score=2.0), 0, 16_000, owner="successor")
    with pytest.raises(FencedError):
        await advance(store, result(0, score=-3.0), 0, 16_000, owner="zombie")
    (minute,) = await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert minute.score_mean == 2.0


async def test_nobody_counts_for_a_stream_that_is_not_final(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    with pytest.raises(FencedError):
        await store.count(acme("c"), "main", Counted(9, 8, {"already_stored": 1}), owner=None)
    assert (await store.checkpoints(acme("c")))["main"].account == Account()


async def test_a_stream_that_ends_after_its_results_have_expired_leaves_nothing_for_ever(
    store: Store, raw: Any
) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    raw.delete("ut:{acme/c}:call")
    await store.set_state(acme("c"), "main", "closed", owner="w1")
    assert [key for key in raw.scan_iter("ut:{acme/c}:*") if raw.ttl(key) == -1] == []


async def test_a_writer_that_expects_another_cut_is_refused(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    with pytest.raises(FencedError):
        await advance(store, result(2000), 48_000, 64_000)
    assert len((await store.archive.utterances(acme("c"))).items) == 1


async def test_a_step_repeated_after_a_lost_reply_counts_once(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    for _ in range(3):
        await advance(store, result(0), 0, 16_000)
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert call.utterances == 1
    assert len(await store.archive.events(acme("c"))) == 1
    (minute,) = await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert minute.utterances == 1


async def test_two_streams_open_at_once_are_apart(store: Store) -> None:
    await store.open_stream(acme("c"), "phone", "w1", STARTED_MS)
    await store.open_stream(acme("c"), "webcam", "w2", STARTED_MS)
    await advance(store, result(0, stream="phone"), 0, 16_000, first=fragment(stream="phone"))
    await advance(store, result(0, stream="webcam"), 0, 16_000, owner="w2", first=fragment(stream="webcam"))
    assert len((await store.archive.utterances(acme("c"))).items) == 2


async def test_a_call_is_final_when_all_its_streams_are(store: Store) -> None:
    await store.open_stream(acme("c"), "phone", "w1", STARTED_MS)
    await store.open_stream(acme("c"), "webcam", "w1", STARTED_MS)
    await store.set_state(acme("c"), "phone", "final", owner="w1")
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert (call.status, call.streams) == ("live", {"phone": "final", "webcam": "live"})
    for _ in range(2):
        await store.set_state(acme("c"), "webcam", "final", owner="w1")
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert call.status == "final"
    assert [event.kind for event in await store.archive.events(acme("c"))] == ["call-final"]
    again = await store.open_stream(acme("c"), "phone", "w9", STARTED_MS)
    assert again is not None
    assert again.final


async def test_a_final_stream_stays_final_and_a_closed_one_comes_alive_by_what_is_new_only(store: Store) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    counted = Counted(8, 0, {"analysed": 8})
    await store.set_state(acme("c"), "main", "closed", owner="w1", counted=counted)
    assert await store.open_stream(acme("c"), "main", "w2", STARTED_MS, offset=7) is None
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert call.status == "closed"
    assert await store.open_stream(acme("c"), "main", "w2", STARTED_MS, offset=8) is not None
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert call.status == "live"
    await store.set_state(acme("c"), "main", "final", owner="w2")
    await store.set_state(acme("c"), "main", "closed", owner="w2")
    call = await store.archive.call(acme("c"))
    assert call is not None
    assert call.status == "final"


async def test_a_call_is_as_long_as_the_furthest_of_its_streams_was_heard(store: Store) -> None:
    for stream, heard_to_ms in (("phone", 61_000), ("webcam", 40_000), ("webcam", 45_000)):
        await store.open_stream(acme("c"), stream, "w1", STARTED_MS)
        counted = Counted(heard_to_ms, 0, {"analysed": 1}, heard_to_ms)
        await store.set_state(acme("c"), stream, "live", owner="w1", counted=counted)
        call = await store.archive.call(acme("c"))
        assert call is not None
        assert call.length_ms == 61_000


async def test_two_tenants_may_use_the_same_call_id_and_neither_sees_the_others_call(store: Store) -> None:
    await stored_call(store, "c", STARTED_MS, -2.0)
    await stored_call(store, "c", STARTED_MS, 1.0, 2.0, tenant="rival")
    theirs = CallRef("rival", "c")
    assert [one.tenant for one in await store.archive.results(acme("c"))] == ["acme"]
    assert [one.tenant for one in await store.archive.results(theirs)] == ["rival", "rival"]
    await store.delete_call(theirs)
    assert await store.archive.call(theirs) is None
    assert await store.deleted(theirs)
    assert not await store.deleted(acme("c"))
    assert len(await store.archive.results(acme("c"))) == 1
    assert [
        (one.utterances, one.score_mean)
        for one in await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    ] == [(1, -2.0)]


async def test_a_deleted_call_is_gone_and_stays_gone(store: Store, raw: Any) -> None:
    await stored_call(store, "kept", STARTED_MS, 3.0)
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    await advance(store, result(0), 0, 16_000)
    assert not await store.deleted(acme("c"))
    assert await store.delete_call(acme("c"))
    assert await store.deleted(acme("c"))
    assert await store.archive.call(acme("c")) is None
    assert [call.call_id for call in (await store.archive.calls(CallFilter("acme"))).items] == ["kept"]
    with pytest.raises(CallDeletedError):
        await advance(store, result(1000), 16_000, 32_000)
    with pytest.raises(CallDeletedError):
        await store.set_state(acme("c"), "main", "final", owner="w1")
    with pytest.raises(CallDeletedError):
        await store.open_stream(acme("c"), "main", "w2", STARTED_MS)
    assert list(raw.scan_iter("ut:{acme/c}:*")) == ["ut:{acme/c}:deleted"]
    assert raw.ttl("ut:{acme/c}:deleted") > 0
    (minute,) = await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)
    assert (minute.utterances, minute.score_mean) == (1, 3.0)


async def test_every_key_of_a_call_expires(store: Store, raw: Any) -> None:
    await stored_call(store, "c", STARTED_MS, -1.0)
    assert {key for key in raw.scan_iter("ut:*") if raw.ttl(key) == -1} == {"ut:calls:acme"}


async def test_a_redis_that_is_full_or_read_only_is_unavailable_until_it_is_not(store: Store, raw: Any) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
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
    assert len((await store.archive.utterances(acme("c"))).items) == 1


async def test_a_redis_that_refuses_says_what_it_says(store: Store, raw: Any) -> None:
    await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
    raw.config_set("min-replicas-to-write", "1")
    try:
        assert await store.trouble() == "refused"
        with pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
            await advance(store, result(0), 0, 16_000)
    finally:
        raw.config_set("min-replicas-to-write", "0")
    await advance(store, result(0), 0, 16_000)
    assert await store.trouble() is None


async def test_a_server_that_nobody_new_can_reach_does_not_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    process = start_redis(folder)
    store = Store.connect(redis_url_of(folder))
    try:
        await store.ping()
        assert await store.trouble() is None
        (folder / "s").unlink()  # as a second server does that takes the place of the first
        assert await store.trouble() is None  # who is connected goes on
        with pytest.raises(StoreUnavailableError):
            await store.ping()
    finally:
        await store.close()
        _end(process)


async def test_a_redis_that_dies_and_returns_loses_no_step(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    process = start_redis(folder, *durable)
    store = Store.connect(redis_url_of(folder))
    try:
        await store.open_stream(acme("c"), "main", "w1", STARTED_MS)
        await advance(store, result(0), 0, 16_000)
        _end(process)
        with pytest.raises(StoreUnavailableError):
            await advance(store, result(1000), 16_000, 32_000)
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        (folder / "s").unlink(missing_ok=True)
        process = start_redis(folder, *durable)
        await advance(store, result(1000), 16_000, 32_000)
        assert [one.start_ms for one in (await store.archive.utterances(acme("c"))).items] == [0, 1000]
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
            await eventually(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        await stored_call(store, "c1", STARTED_MS, -1.0, 1.0)
        await stored_call(store, "c2", STARTED_MS, -1.0)
        await store.service.publish_metrics("w1", "one 1\n", 60)
        await store.service.publish_metrics("w2", "two 2\n", 60)
        assert len(await store.service.metrics()) == 2
        assert len((await store.archive.utterances(acme("c1"))).items) == 2
        assert len(await store.archive.events(acme("c1"))) == 3
        assert len((await store.archive.calls(CallFilter("acme", polarity="negative"))).items) == 2
        assert len(await store.archive.trends("acme", STARTED_MS, STARTED_MS + MINUTE_MS)) == 1
        assert await store.delete_call(acme("c1"))
    finally:
        await store.close()
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("said_ms", [-1, 4_102_444_800_000, 253_402_300_800_000, (1 << 63) - 1])
async def test_a_time_that_cannot_be_is_now(store: Store, said_ms: int) -> None:
    before_ms = await store.archive.clock_ms()
    await store.open_stream(acme("c"), "main", "w1", said_ms)
    found = await store.archive.call(acme("c"))
    assert found is not None
    assert before_ms <= found.started_ms <= await store.archive.clock_ms()


async def test_a_clock_that_goes_ahead_by_hours_is_believed(store: Store) -> None:
    said_ms = await store.archive.clock_ms() + 3_600_000
    await store.open_stream(acme("c"), "main", "w1", said_ms)
    found = await store.archive.call(acme("c"))
    assert found is not None
    assert found.started_ms == said_ms
