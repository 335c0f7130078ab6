import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from models.types import FloatArray
from pipelines.ingest.worker import Worker
from pipelines.log.dead_letter import read_letter
from pipelines.log.records import fragment_headers
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.settings import WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    Account,
    Coordinates,
    MediaFragment,
    Utterance,
    UtteranceSentiment,
)
from tests.pipelines.working import Voice, call, found, judge, records, results, send, speech, working


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


async def account(url: str, call_id: str, stream: str = "phone") -> Account:
    store = Store.connect(url)
    checkpoints = await store.checkpoints(call_id)
    await store.close()
    return checkpoints[stream].account


async def letters_of(url: str, call_id: str) -> dict[str, int]:
    store = Store.connect(url)
    counts = await store.ledger.dead_letter_counts(call_id)
    await store.close()
    return dict(counts)


def metric(worker: Worker, name: str, **labels: str) -> float:
    return worker.metrics.registry.get_sample_value(name, labels) or 0


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
        while metric(worker, "undertone_fragments_in_total") < len(sent) + 2:
            await asyncio.sleep(0.01)
    counted = await account(redis_url, "c1")
    assert counted.analysed == 18
    assert counted.skipped == {"duplicate": 1, "already_stored": 1}
    assert counted.missing == 1
    assert (counted.first_at, counted.counted_to) == (0, len(sent) + 2)
    assert await letters_of(redis_url, "c1") == {"undecodable": 1, "unknown_version": 1}


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
            while metric(worker, "undertone_fragments_in_total") < 1:
                await asyncio.sleep(0)
            if fragment.final:
                await results(redis_url, "c1")
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.skipped, counted.missing, counted.counted_to) == (19, {}, 0, 20)
    assert await letters_of(redis_url, "c1") == {"undecodable": 1}
    assert len(records(redis_url, TOPIC_DEAD_LETTER)) == 1


DEADLY = """
import os, signal
from pipelines.media.demux import Demuxer
feed = Demuxer.feed
def deadly(self, fragment):
    if fragment.media.startswith(b"KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    return feed(self, fragment)
Demuxer.feed = deadly
"""
"""Stands for a decoder with a fault: every Python process of the test that decodes such media dies."""

WORK = """
import asyncio, sys
from tests.pipelines.working import working
async def main():
    async with working(sys.argv[1], sys.argv[2]) as worker:
        await asyncio.Event().wait()
asyncio.run(main())
"""


def start_worker(url: str, owner: str, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}"}
    return subprocess.Popen([sys.executable, "-c", WORK, url, owner], env=environment)


@pytest.mark.slow  # processes that are started to die
async def test_a_record_that_kills_its_process_is_dead_lettered_after_the_second_death(
    redis_url: str, sound: FloatArray, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    fragments = call(sound, "c1")
    fragments[6] = replace(fragments[6], media=b"KILL" + fragments[6].media[4:])
    send(RedisStreamProducer(redis_url), fragments)
    for owner in ("first", "second"):
        victim = start_worker(redis_url, owner, tmp_path)
        assert await asyncio.to_thread(victim.wait, 60) == -signal.SIGKILL
    assert records(redis_url, TOPIC_DEAD_LETTER) == []
    survivor = start_worker(redis_url, "third", tmp_path)
    try:
        stored = await asyncio.wait_for(results(redis_url, "c1"), 60)
    finally:
        survivor.kill()
        survivor.wait()
    (record,) = records(redis_url, TOPIC_DEAD_LETTER)
    letter = read_letter(record)
    assert letter is not None
    assert (letter.reason, letter.attempts, letter.record.at) == ("killed", 2, Coordinates(0, 6))
    assert letter.record.value == fragments[6].media
    assert letter.record.headers == fragment_headers(fragments[6])
    assert len(stored) >= 4
    assert (await account(redis_url, "c1")).analysed == 19


async def test_a_record_at_work_when_two_processes_died_of_something_else_is_analysed(
    redis_url: str, sound: FloatArray
) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    store = Store.connect(redis_url)
    for worker in ("first", "second", "third"):
        await store.ledger.mark_in_progress(Coordinates(0, 6), worker)
    await store.close()
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4
    assert (await account(redis_url, "c1")).analysed == 20
    assert records(redis_url, TOPIC_DEAD_LETTER) == []


async def test_a_dead_letter_is_not_worked_on_again(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    store = Store.connect(redis_url)
    await store.ledger.note_dead_letter("c1", Coordinates(0, 6), "killed")
    await store.close()
    async with working(redis_url):
        await results(redis_url, "c1")
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.missing) == (19, 0)


async def test_a_worker_that_lost_its_stream_dead_letters_nothing_of_it(redis_url: str, sound: FloatArray) -> None:
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    store = Store.connect(redis_url)
    async with working(redis_url) as worker:
        send(producer, fragments[:2])
        while metric(worker, "undertone_fragments_analysed_total") < 2:
            await asyncio.sleep(0.01)
        await store.open_stream("c1", "default", "phone", "successor", 0)
        send(producer, [replace(fragments[2], media=b"noise", content_type="audio/x-matroska")])
        while not records(redis_url, TOPIC_DEAD_LETTER):
            await asyncio.sleep(0.01)
        # It was refused, and came back to the record as the stream's new owner.
        assert metric(worker, "undertone_fenced_total") == 1
    await store.close()


async def test_work_that_has_ended_is_blamed_for_nothing(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url):
        await results(redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            while client.exists("ut:work:0"):
                await asyncio.sleep(0.01)


async def kinds(url: str, call_id: str) -> list[str]:
    store = Store.connect(url)
    happened = await store.archive.events(call_id)
    await store.close()
    return [event.kind for event in happened if event.kind != "utterance"]


async def status(url: str, call_id: str) -> Any:
    store = Store.connect(url)
    call_info = await store.archive.call(call_id)
    await store.close()
    return call_info.status if call_info else None


async def until(condition: str, url: str, call_id: str) -> None:
    while await status(url, call_id) != condition:
        await asyncio.sleep(0.01)


@pytest.mark.slow  # waits for the clock
async def test_a_call_without_an_end_is_stalled_then_closed_and_lets_its_offset_go(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    quick = WorkerSettings(stalled_after_s=0.2, closed_after_s=0.6, commit_interval_s=0.05, commit_delay_s=0)
    async with working(redis_url, worker=quick):
        send(producer, fragments[:10])
        await until("stalled", redis_url, "c1")
        await until("closed", redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            while int(client.hget("ut:log:{call-media}:group:undertone", "committed") or 0) < 10:
                await asyncio.sleep(0.01)
    assert await kinds(redis_url, "c1") == ["call-stalled", "call-final"]
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.counted_to) == (10, 10)
    assert max(one.end_ms for one in await results(redis_url, "c1", final=False)) > 9_900


@pytest.mark.slow  # waits for the clock
async def test_a_stalled_call_that_speaks_again_is_live_and_ends_as_an_undisturbed_one(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    send(producer, call(sound, "whole"))
    fragments = call(sound, "c1")
    quick = WorkerSettings(stalled_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, worker=quick):
        undisturbed = found(await results(redis_url, "whole"))
        send(producer, fragments[:10])
        await until("stalled", redis_url, "c1")
        send(producer, fragments[10:])
        await until("final", redis_url, "c1")
        assert found(await results(redis_url, "c1")) == undisturbed
    *before, last = await kinds(redis_url, "c1")
    assert last == "call-final"
    assert before == ["call-stalled", "call-live"] * max(1, len(before) // 2)  # more than once on a slow machine


async def test_what_the_log_dropped_before_it_was_read_is_counted_on_its_call(
    redis_url: str, sound: FloatArray
) -> None:
    fragments = call(sound, "c1")
    send(RedisStreamProducer(redis_url), fragments[:8])
    async with working(redis_url) as worker:
        while metric(worker, "undertone_fragments_analysed_total") < 8:
            await asyncio.sleep(0.01)
    send(RedisStreamProducer(redis_url), fragments[8:])
    with redis.Redis.from_url(redis_url) as client:
        client.xtrim("ut:log:{call-media}", minid="13-0")
    async with working(redis_url, "late") as worker:
        await results(redis_url, "c1")
        assert metric(worker, "undertone_records_lost_total") > 0
    counted = await account(redis_url, "c1")
    assert counted.lost > 0
    assert counted.missing == 0
    assert counted.analysed + counted.lost == 20


@pytest.mark.slow  # waits for the clock
async def test_a_call_whose_end_the_log_has_lost_is_closed(redis_url: str, sound: FloatArray) -> None:
    """Its last fragments are gone before anybody read them, and nothing of it will ever come again."""
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:12])
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05, commit_delay_s=0)
    async with working(redis_url, worker=WorkerSettings(commit_interval_s=0.05, commit_delay_s=0)) as worker:
        while metric(worker, "undertone_fragments_analysed_total") < 12:
            await asyncio.sleep(0.01)
        while not await results(redis_url, "c1", final=False):
            await asyncio.sleep(0.01)
    send(producer, [*fragments[12:], *call(sound, "c2")])
    with redis.Redis.from_url(redis_url) as client:
        client.xtrim("ut:log:{call-media}", minid="21-0")
    async with working(redis_url, "late", worker=quick):
        await until("closed", redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            while client.exists("ut:open:0"):
                await asyncio.sleep(0.01)
    assert (await account(redis_url, "c1")).lost == 1


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_speaks_is_not_closed_however_long(redis_url: str, sound: FloatArray) -> None:
    """Fragments come more often than `closed_after_s`, and the call lasts longer than that."""
    producer = RedisStreamProducer(redis_url)
    quick = WorkerSettings(stalled_after_s=1.0, closed_after_s=3.0, commit_interval_s=0.05)
    async with working(redis_url, worker=quick):
        for fragment in call(sound, "c1"):
            send(producer, [fragment])
            await asyncio.sleep(0.25)
        await results(redis_url, "c1")
    assert set(await kinds(redis_url, "c1")) <= {"call-stalled", "call-live", "call-final"}
    assert (await kinds(redis_url, "c1")).count("call-final") == 1
    assert await status(redis_url, "c1") == "final"


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_speaks_again_while_it_is_being_closed_loses_nothing(
    redis_url: str, sound: FloatArray
) -> None:
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    gate = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gate.wait()
        return await judge(utterance)

    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, "calm"):
        send(producer, call(sound, "whole"))
        whole = found(await results(redis_url, "whole"))
    async with working(redis_url, "w", hold, worker=quick) as worker:
        send(producer, fragments[:10])
        while metric(worker, "undertone_fragments_analysed_total") < 10:
            await asyncio.sleep(0.01)
        await until("stalled", redis_url, "c1")
        await asyncio.sleep(0.5)  # it is being closed now, and cannot be: nothing tells from outside
        send(producer, fragments[10:])
        while metric(worker, "undertone_fragments_analysed_total") <= 10:  # else it may be closed before it is heard
            await asyncio.sleep(0.01)
        gate.set()
        await until("final", redis_url, "c1")
    counted = await account(redis_url, "c1")
    assert (counted.analysed, counted.skipped) == (20, {})
    spoken = found(await results(redis_url, "c1", final=False))
    assert spoken[-1][2] == whole[-1][2]


async def test_what_waits_in_the_worker_is_not_silent(redis_url: str, sound: FloatArray) -> None:
    """No room for more utterances: fragments lie polled and unread for longer than a stream may be silent."""
    gate = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        await gate.wait()
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05, utterances_in_flight=1)
    async with working(redis_url, "w", hold, worker=quick) as worker:
        while not metric(worker, "undertone_utterances_in_flight"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # several times what would close it
        assert await status(redis_url, "c1") == "live"
        gate.set()
        await results(redis_url, "c1")
    assert await kinds(redis_url, "c1") == ["call-final"]


async def test_a_final_stream_that_is_sent_again_stays_final(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    quick = WorkerSettings(stalled_after_s=0.1, closed_after_s=0.2, commit_interval_s=0.05)
    async with working(redis_url, worker=quick) as worker:
        send(producer, call(sound, "c1"))
        await results(redis_url, "c1")
        send(producer, call(sound, "c1"))
        while metric(worker, "undertone_fragments_skipped_total", reason="already_stored") < 20:
            await asyncio.sleep(0.01)
        with redis.Redis.from_url(redis_url) as client:
            assert not client.exists("ut:open:0")
    async with working(redis_url, "later", worker=quick) as worker:
        send(producer, call(sound, "c2"))
        await results(redis_url, "c2")
    assert await kinds(redis_url, "c1") == ["call-final"]
    assert await status(redis_url, "c1") == "final"


async def test_the_largest_record_that_a_log_takes_is_dead_lettered(redis_url: str) -> None:
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c1", bytes(2 << 20), (("v", b"1"),))
    async with working(redis_url) as worker:
        while metric(worker, "undertone_fragments_dead_lettered_total", reason="oversize") < 1:
            await asyncio.sleep(0.01)
        worker.check()
    (letter,) = map(read_letter, records(redis_url, TOPIC_DEAD_LETTER))
    assert letter is not None
    assert letter.whole


async def test_a_stream_does_not_change_its_partition(redis_url: str, sound: FloatArray) -> None:
    store = Store.connect(redis_url)
    await store.open_stream("c1", "default", "phone", "elsewhere", 0, partition=3)
    await store.close()
    fragment: MediaFragment = call(sound, "c1")[0]
    send(RedisStreamProducer(redis_url), [fragment])
    async with working(redis_url):
        while not (letters := records(redis_url, TOPIC_DEAD_LETTER)):
            await asyncio.sleep(0.01)
    assert dict(letters[0].headers)["dlq-reason"] == b"wrong_partition"
