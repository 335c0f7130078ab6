from dataclasses import replace

import numpy as np
import pytest
import redis

from models.types import FloatArray
from pipelines.checkpoints import Account
from pipelines.ingest.account import Outcomes
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.store.store import Store
from pipelines.types import TOPIC_DEAD_LETTER, TOPIC_MEDIA
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import account, call, counter, dead_letters, records, results, send, working


async def length_ms(redis_url: str, call_id: str) -> int | None:
    store = Store.connect(redis_url)
    found = await store.archive.call(default(call_id))
    await store.close()
    assert found is not None
    return found.length_ms


async def test_every_fragment_of_a_call_is_counted_once_with_its_end(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    damaged = replace(fragments[7], media=b"noise", content_type="audio/x-matroska")
    sent = [*fragments[:3], *fragments[2:5], *fragments[6:7], damaged, *fragments[8:]]
    send(producer, sent)
    producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
    async with working(redis_url) as worker:
        await results(redis_url, "c1")
        send(producer, [fragments[0]])
        await eventually(lambda: counter(worker.metrics.fragments_in) >= len(sent) + 2)
    counted = await account(redis_url, "c1")
    assert counted.analysed == 18
    assert counted.skipped == {"duplicate": 1, "already_stored": 1}
    assert counted.missing == 1
    assert (counted.first_at, counted.counted_to) == (0, len(sent) + 2)
    assert await dead_letters(redis_url, "c1") == {"undecodable": 1, "unknown_version": 1}


@pytest.mark.slow  # waits for the clock
async def test_a_call_torn_at_every_fragment_is_counted_as_an_undisturbed_one(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    fragments[6] = replace(fragments[6], media=b"noise", content_type="audio/x-matroska")
    for number, fragment in enumerate(fragments):
        send(producer, [fragment])
        async with working(redis_url, f"w{number}") as worker:
            await eventually(lambda: counter(worker.metrics.fragments_in) >= 1)
            if fragment.final:
                await results(redis_url, "c1")
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.skipped, counted.missing, counted.counted_to) == (19, {}, 0, 20)
    assert await dead_letters(redis_url, "c1") == {"undecodable": 1}
    assert len(records(redis_url, TOPIC_DEAD_LETTER)) == 1
    assert await length_ms(redis_url, "c1") == 1000 * len(fragments)


async def test_a_call_in_which_nobody_speaks_is_as_long_as_its_media(redis_url: str) -> None:
    send(RedisStreamProducer(redis_url), call(np.zeros((2, 40_000), np.float32), "c1"))
    async with working(redis_url):
        assert await results(redis_url, "c1") == []
    assert await length_ms(redis_url, "c1") == 5_000


async def test_an_empty_final_fragment_ends_its_call_and_what_is_missing_is_counted(
    redis_url: str, sound: FloatArray
) -> None:
    fragments = [f for f in call(sound, "c1")[:-1] if f.seq not in {4, 5}]
    end = replace(fragments[-1], seq=19, start_ms=19_000, media=b"", content_type="video/x-matroska", final=True)
    send(RedisStreamProducer(redis_url), [*fragments, end])
    async with working(redis_url) as worker:
        assert await results(redis_url, "c1")
        assert counter(worker.metrics.fragments_missing) == 2
    assert records(redis_url, TOPIC_DEAD_LETTER) == []


async def test_what_the_log_dropped_before_it_was_read_is_counted_on_its_call(
    redis_url: str, sound: FloatArray
) -> None:
    fragments = call(sound, "c1")
    send(RedisStreamProducer(redis_url), fragments[:8])
    async with working(redis_url) as worker:
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 8)
    send(RedisStreamProducer(redis_url), fragments[8:])
    with redis.Redis.from_url(redis_url) as client:
        client.xtrim("ut:log:{call-media}", minid="13-0")
    async with working(redis_url, "late") as worker:
        await results(redis_url, "c1")
        assert counter(worker.metrics.records_lost) > 0
    counted = await account(redis_url, "c1")
    assert counted.lost > 0
    assert counted.missing == 0
    assert counted.analysed + counted.lost == 20


def test_a_gap_in_the_sequence_is_lost_where_the_log_has_one_and_missing_where_it_has_not() -> None:
    outcomes = Outcomes(Account())
    assert outcomes.note(3, "analysed", left_out=1)
    assert outcomes.note(9, "analysed", left_out=2, lost_before=8)
    assert outcomes.note(10, "analysed", left_out=4, lost_before=8)
    counted = outcomes.take()
    assert counted.outcomes == {"analysed": 3, "missing": 5, "lost": 2}
    assert (counted.first_at, counted.below) == (3, 11)


def test_a_fragment_that_is_only_read_again_is_not_counted_again() -> None:
    outcomes = Outcomes(Account(first_at=0, counted_to=5, analysed=5))
    assert not outcomes.note(4, "analysed", left_out=3)
    assert not outcomes
    assert outcomes.note(5, "duplicate")
    assert not outcomes.note(5, "duplicate")
    assert outcomes.take().outcomes == {"duplicate": 1}


def test_how_far_the_media_was_heard_is_told_with_the_fragments_it_is_of() -> None:
    outcomes = Outcomes(Account(first_at=0, counted_to=2))
    assert not outcomes.note(1, "analysed", heard_to_ms=9_000)
    for offset, heard_to_ms in ((2, 3_000), (3, 2_000), (4, 0), (5, 7_000)):
        outcomes.note(offset, "analysed", heard_to_ms=heard_to_ms)
    assert [outcomes.take(below).heard_to_ms for below in (5, None)] == [3_000, 7_000]
    assert outcomes.take().heard_to_ms == 0


def test_a_dead_letter_moves_the_account_and_is_counted_elsewhere() -> None:
    outcomes = Outcomes(Account())
    assert outcomes.note(0, None)
    assert outcomes
    assert (outcomes.take().outcomes, outcomes.take().below) == ({}, 1)


def test_what_lies_before_a_gap_is_counted_with_the_fragments_before_it() -> None:
    """A successor that begins with the fragment after a gap does not see the gap."""
    outcomes = Outcomes(Account())
    outcomes.note(0, "analysed")
    outcomes.note(1, "analysed", left_out=1)
    assert outcomes.take(below=1).outcomes == {"analysed": 1, "missing": 1}
    assert outcomes.take().outcomes == {"analysed": 1}


def test_an_end_that_the_log_has_lost_counts_as_one_and_once() -> None:
    outcomes = Outcomes(Account(first_at=0, counted_to=5))
    outcomes.note_lost_end(5)
    assert not outcomes
    outcomes.note_lost_end(12)
    outcomes.note_lost_end(12)
    counted = outcomes.take()
    assert (counted.outcomes, counted.below, counted.first_at) == ({"lost": 1}, 12, 0)
