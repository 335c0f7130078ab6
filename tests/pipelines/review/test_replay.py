from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis

from models.types import FloatArray
from pipelines.errors import SourceUnavailableError
from pipelines.ingest.worker import Worker
from pipelines.log.producer import SilentProducer
from pipelines.log.records import in_share
from pipelines.log.redis_streams import RedisStreamProducer, RedisTopicReader
from pipelines.log.topic_reader import Extent, TopicReader
from pipelines.review.replay import ReplaySource
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, TOPIC_SENTIMENT, CallRef, Record, UtteranceSentiment
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import Voice, call, found, judge, records, results, running, send, speech, working


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


async def replayed(
    url: str,
    run: str,
    call_id: str | None = None,
    *,
    stop_after: int | None = None,
    reader: TopicReader | None = None,
) -> None:
    source = ReplaySource(reader or RedisTopicReader(url, TOPIC_MEDIA), call_id=call_id)
    store = Store.connect(url, run)
    quick = {"closed_after_s": 0.2, "stalled_after_s": 0.1, "commit_interval_s": 0.05}
    worker = Worker(
        source=source,
        producer=SilentProducer(),
        store=store,
        analyse=judge,
        config=AppConfig.model_validate({"run": run, "worker": quick}),
        owner=f"replay-{stop_after}",
    )
    async with running(worker, store):
        await eventually(
            lambda: (source.exhausted and worker.idle) or (stop_after is not None and source.read >= stop_after)
        )


async def is_final(store: Store, call_id: str) -> bool:
    known = await store.archive.call(default(call_id))
    return known is not None and known.status == "final"


async def of_run(url: str, run: str, call_id: str) -> list[UtteranceSentiment]:
    store = Store.connect(url, run)
    try:
        return await store.archive.results(default(call_id))
    finally:
        await store.close()


async def test_a_replay_stands_beside_the_live_results_and_equals_them(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    send(producer, [*call(sound, "c1"), *call(sound, "c2")])
    async with working(redis_url):
        live = await results(redis_url, "c1")
        await results(redis_url, "c2")
    sent = len(records(redis_url, TOPIC_SENTIMENT))
    await replayed(redis_url, "mine", "c1")
    assert found(await of_run(redis_url, "mine", "c1")) == found(live)
    assert await of_run(redis_url, "mine", "c2") == []
    again = await of_run(redis_url, "live", "c1")
    assert again == live
    assert len(records(redis_url, TOPIC_SENTIMENT)) == sent


def test_a_call_begins_before_its_first_record_is_given_and_waits_where_it_may_not(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    send(producer, [*call(sound, "c1")[:3], *call(sound, "c2")[:3]])
    producer.send(TOPIC_MEDIA, "no call id!", b"x", ())
    begun, refusals = list[CallRef](), 2

    def begin(named: CallRef) -> None:
        nonlocal refusals
        if named == default("c2") and refusals:
            refusals -= 1
            raise SourceUnavailableError("not yet")
        begun.append(named)

    source, given = ReplaySource(RedisTopicReader(redis_url, TOPIC_MEDIA), begin=begin), list[bytes | None]()
    source.poll(0, 16)
    polls = 0
    while not source.exhausted and polls < 20:
        polls += 1
        try:
            given += [record.key for record in source.poll(0, 16).records]
        except SourceUnavailableError:
            assert given == [b"c1"] * 3
            assert begun == [default("c1")]
    assert source.exhausted
    assert refusals == 0
    assert given == [b"c1"] * 3 + [b"c2"] * 3 + [b"no call id!"]
    assert begun == [default("c1"), default("c2")]
    assert source.calls == {default("c1"), default("c2")}
    assert source.read == 7


async def test_a_replay_that_was_stopped_goes_on_under_its_name(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url):
        live = await results(redis_url, "c1")
    await replayed(redis_url, "mine", stop_after=10)
    for _ in range(2):
        await replayed(redis_url, "mine")
        assert found(await of_run(redis_url, "mine", "c1")) == found(live)


class Hiccup:
    """A reader of the log that fails once after every few records."""

    def __init__(self, reader: RedisTopicReader) -> None:
        self._reader = reader
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def records(self, extents: Mapping[int, Extent], since_ms: int = 0) -> Iterator[Record]:
        for number, record in enumerate(self._reader.records(extents, since_ms)):
            if number == 5:
                self.failures += 1
                raise SourceUnavailableError("away", retry_after_s=0.01)
            yield record


async def test_a_log_that_goes_away_in_the_middle_of_a_replay_is_read_on(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), [*call(sound, "c1"), *call(sound, "c2")])
    await replayed(redis_url, "calm")
    reader = Hiccup(RedisTopicReader(redis_url, TOPIC_MEDIA))
    await replayed(redis_url, "torn", reader=reader)
    assert reader.failures > 3
    for name in ("c1", "c2"):
        assert found(await of_run(redis_url, "torn", name)) == found(await of_run(redis_url, "calm", name))


@pytest.mark.slow  # waits for the clock
async def test_a_call_without_an_end_does_not_hold_a_replay(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1")[:10])
    await replayed(redis_url, "mine")
    assert max(one.end_ms for one in await of_run(redis_url, "mine", "c1")) > 9_900


async def test_deleting_a_call_takes_what_replays_made_of_it(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url):
        await results(redis_url, "c1")
    await replayed(redis_url, "mine")
    store = Store.connect(redis_url)
    await store.delete_call(default("c1"))
    await store.close()
    assert await of_run(redis_url, "mine", "c1") == []
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert list(client.scan_iter("ut:{default/c1}:*")) == ["ut:{default/c1}:deleted"]
        assert client.zrange("ut:run:mine:calls:default", 0, -1) == []
    await replayed(redis_url, "mine")
    assert await of_run(redis_url, "mine", "c1") == []


@pytest.mark.slow  # waits for the clock
async def test_a_shadow_takes_its_share_of_the_calls_and_leaves_the_live_ones_alone(
    redis_url: str, sound: FloatArray
) -> None:
    names = [f"call-{number}" for number in range(8)]
    taken = [name for name in names if in_share(name.encode(), 0.5)]
    assert 0 < len(taken) < len(names)
    producer = RedisStreamProducer(redis_url)
    short = [replace(one, final=one.seq == 8) for one in call(sound, "")[:9]]
    for name in names:
        send(producer, [replace(one, call_id=name) for one in short])
    async with working(redis_url, "live"):
        for name in names:
            await results(redis_url, name)
    async with working(redis_url, "shadow", group="undertone-shadow", run="shadow", share=0.5):
        store = Store.connect(redis_url, "shadow")
        for name in taken:
            await eventually(partial(is_final, store, name))
        assert [name for name in names if await store.archive.call(default(name))] == taken
        await store.close()
    for name in names:
        assert found(await of_run(redis_url, "live", name))
