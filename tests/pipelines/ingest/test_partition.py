import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis

from models.types import FloatArray, Modality
from pipelines.ingest.worker import Worker
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store.ledger import Ledger, StreamId
from pipelines.store.store import Store
from pipelines.types import (
    LIVE_RUN,
    TOPIC_DEAD_LETTER,
    MediaFragment,
    Participant,
    Utterance,
    UtteranceSentiment,
)
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import (
    GROUP,
    account,
    call,
    committed,
    counter,
    found,
    judge,
    kinds,
    records,
    results,
    running,
    send,
    status,
    until,
    working,
)


async def test_a_stream_does_not_change_its_partition(redis_url: str, sound: FloatArray) -> None:
    store = Store.connect(redis_url)
    await store.open_stream(default("c1"), "phone", "elsewhere", 0, partition=3)
    await store.close()
    fragment: MediaFragment = call(sound, "c1")[0]
    send(RedisStreamProducer(redis_url), [fragment])
    async with working(redis_url):
        letters = await eventually(lambda: records(redis_url, TOPIC_DEAD_LETTER))
    assert dict(letters[0].headers)["dlq-reason"] == b"wrong_partition"


async def test_calls_of_two_tenants_under_one_id_do_not_touch_each_other(redis_url: str, sound: FloatArray) -> None:
    own = call(sound, "c1")
    theirs = [replace(one, tenant="other") for one in call(sound[::-1].copy(), "c1")]
    send(RedisStreamProducer(redis_url), [one for pair in zip(own, theirs, strict=True) for one in pair])
    async with working(redis_url, tenants={"default": {}, "other": {}}):
        ours, others = await results(redis_url, "c1"), await results(redis_url, "c1", tenant="other")
    swapped = {Participant.AGENT: Participant.CUSTOMER, Participant.CUSTOMER: Participant.AGENT}
    assert len(ours) == 4
    assert {one.tenant for one in ours} == {"default"}
    assert sorted((one.start_ms, swapped[one.participant], one.bundle) for one in others) == sorted(
        (one.start_ms, one.participant, one.bundle) for one in ours
    )
    assert records(redis_url, TOPIC_DEAD_LETTER) == []


async def test_a_deleted_call_takes_nothing_more(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    store = Store.connect(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url) as worker:
        send(producer, fragments[:10])
        await eventually(lambda: results(redis_url, "c1", final=False))
        await store.delete_call(default("c1"))
        send(producer, [*fragments[10:], *call(sound, "c2")])
        assert len(await results(redis_url, "c2")) == 4
        assert await store.archive.call(default("c1")) is None
        assert counter(worker.metrics.fragments_skipped.labels("call_deleted")) > 0
    await store.close()


async def test_what_waits_in_the_worker_is_not_silent(redis_url: str, sound: FloatArray) -> None:
    """No room for more utterances: fragments lie polled and unread for longer than a stream may be silent."""
    gate = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gate.wait()
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05, utterances_in_flight=1)
    async with working(redis_url, "w", hold, worker=quick) as worker:
        await eventually(lambda: counter(worker.metrics.in_flight))
        await asyncio.sleep(1.0)  # several times what would close it
        assert await status(redis_url, "c1") == "live"
        gate.set()
        await results(redis_url, "c1")
    assert await kinds(redis_url, "c1") == ["call-final"]


async def test_offsets_move_only_as_far_as_open_streams_need(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "open")
    send(producer, [*fragments[:2], *call(sound, "done")])
    async with working(redis_url):
        await results(redis_url, "done")
    source = RedisStreamSource(redis_url)
    first = await eventually(lambda: source.poll(0.1, 1).records)
    source.close()
    assert first[0].at.offset == 0


async def test_a_stream_of_dead_letters_alone_holds_no_offset(redis_url: str, sound: FloatArray) -> None:
    noise = [replace(one, media=b"noise", content_type="audio/x-matroska", final=False) for one in call(sound, "c1")]
    send(RedisStreamProducer(redis_url), noise[5:])
    quick = WorkerSettings(commit_interval_s=0.05, commit_delay_s=0)
    with redis.Redis.from_url(redis_url) as client:
        async with working(redis_url, worker=quick) as worker:
            await eventually(lambda: not (committed(client) < 14))
            assert not worker.idle
        # A successor takes none of them for missing, and keeps what was.
        send(RedisStreamProducer(redis_url), [replace(call(sound, "c1")[-1], seq=20)])
        async with working(redis_url, "successor", worker=quick):
            await results(redis_url, "c1")
    store = Store.connect(redis_url)
    counted = (await store.checkpoints(default("c1")))["phone"].account
    assert (counted.analysed, counted.missing) == (1, 5)
    assert sum((await store.ledger.dead_letter_counts(default("c1"))).values()) == 15
    await store.close()


async def test_a_call_of_which_nothing_may_be_analysed_holds_no_offset_back(redis_url: str, sound: FloatArray) -> None:
    nobody = {Participant.MIXED: frozenset({Modality.TEXT})}
    fragments = [replace(f, consent=nobody) for f in call(sound, "c1")]
    send(RedisStreamProducer(redis_url), fragments[:-1])
    async with working(redis_url, worker=WorkerSettings(commit_delay_s=0)) as worker:
        await eventually(
            lambda: counter(worker.metrics.fragments_skipped.labels("not_consented")) >= len(fragments) - 1
        )
    source = RedisStreamSource(redis_url)
    first = await eventually(lambda: source.poll(0.1, 1).records)
    source.close()
    assert first[0].at.offset == len(fragments) - 2


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_falls_silent_is_closed_and_goes_on_when_it_speaks_again(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url, worker=WorkerSettings(closed_after_s=0.3, commit_interval_s=0.05)) as worker:
        send(producer, fragments[:10])
        await eventually(
            lambda: not (counter(worker.metrics.fragments_analysed) < 10 or counter(worker.metrics.open_streams))
        )
        before = await results(redis_url, "c1", final=False)
        send(producer, fragments[10:])
        after = await results(redis_url, "c1")
    assert set(found(before)) < set(found(after))
    assert max(one.end_ms for one in after) > 14_000


async def test_a_worker_that_loses_two_streams_one_after_the_other_reads_both_again_from_their_places(
    redis_url: str, sound: FloatArray
) -> None:
    """The second loss, of a stream that begins later, does not make it skip what it has yet to read of the first."""
    gates = {name: asyncio.Event() for name in ("early", "late", "calm")}

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gates[utterance.call_id].wait()
        return await judge(utterance)

    producer, store = RedisStreamProducer(redis_url), Store.connect(redis_url)
    send(producer, call(sound, "early"))
    send(producer, call(sound, "late"))
    async with working(redis_url, analyse=hold) as worker:
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 40)
        for name in ("early", "late"):
            await store.open_stream(default(name), "phone", "another", 0)
        gates["early"].set()
        await eventually(lambda: counter(worker.metrics.fragments_analysed) != 40)  # it reads again
        gates["late"].set()
        early, late = found(await results(redis_url, "early")), found(await results(redis_url, "late"))
        accounts = [(await store.checkpoints(default(name)))["phone"].account for name in ("early", "late")]
        assert [(account.analysed, account.missing) for account in accounts] == [(20, 0), (20, 0)]
        gates["calm"].set()
        send(producer, call(sound, "calm"))
        assert early == late == found(await results(redis_url, "calm"))
    await store.close()


class HeldLedger(Ledger):
    """A store that is slow to take that a stream is over."""

    def __init__(self, client: Any, run: str) -> None:
        super().__init__(client, run)
        self.gate = asyncio.Event()

    async def forget_open(self, partition: int, note: StreamId) -> None:
        await self.gate.wait()
        await super().forget_open(partition, note)


@asynccontextmanager
async def held(url: str) -> AsyncIterator[tuple[Worker, asyncio.Event]]:
    """A worker on such a store, and what makes it answer."""
    store = Store.connect(url)
    ledger = HeldLedger(store._redis, LIVE_RUN)
    store.ledger = ledger
    worker = Worker(
        source=RedisStreamSource(url),
        producer=RedisStreamProducer(url),
        store=store,
        analyse=judge,
        config=AppConfig(),
        owner="w",
    )
    async with running(worker, store):
        yield worker, ledger.gate


async def test_a_fragment_that_comes_while_its_stream_ends_is_counted(redis_url: str, sound: FloatArray) -> None:
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    async with held(redis_url) as (worker, gate):
        send(producer, fragments)
        await until("final", redis_url, "c1")
        send(producer, [fragments[-1], *call(sound, "c2")[:3]])
        gate.set()
        await eventually(lambda: counter(worker.metrics.fragments_in) >= 24)
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.skipped, counted.counted_to) == (20, {"already_stored": 1}, 21)


async def test_a_stream_that_ended_is_over_for_the_store_also_when_its_partition_is_revoked_meanwhile(
    redis_url: str, sound: FloatArray
) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    with redis.Redis.from_url(redis_url) as client:
        async with held(redis_url) as (worker, gate):
            await until("final", redis_url, "c1")
            client.hset(GROUP, mapping={"reader": "successor", "reader_until_ms": 1 << 50})
            await eventually(lambda: worker.idle)
            assert client.exists("ut:open:0")
            gate.set()
            await eventually(lambda: not client.exists("ut:open:0"))
