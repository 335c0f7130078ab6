import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from models.types import FloatArray, Modality
from pipelines.ingest.decoder_thread import DecoderThread, StuckDecoderError
from pipelines.log.records import fragment_headers, seal_fragment
from pipelines.log.redis_streams import RedisStreamProducer
from pipelines.media import passes
from pipelines.media.call_stream import CallStream, TrackEvent
from pipelines.review.redrive import redrives
from pipelines.seal import Seal
from pipelines.settings import MediaLimits, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    Coordinates,
    Participant,
)
from tests.eventually import eventually
from tests.pipelines.hostile_pictures import film_of, jpeg_of_empty_scans
from tests.pipelines.stored import default
from tests.pipelines.working import (
    account,
    call,
    counter,
    found,
    letters,
    records,
    results,
    send,
    until,
    working,
)

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


WORK = """
import asyncio, sys
from tests.pipelines.stored import default
from tests.pipelines.working import working
from tests.pipelines.stored import default
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
    (letter,) = letters(redis_url)
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


async def test_a_bad_record_is_dead_lettered_and_its_call_goes_on(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:3])
    producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
    producer.send(TOPIC_MEDIA, "odd id!", b"x", fragment_headers(fragments[3]))
    broken = replace(fragments[3], media=b"this is no film", content_type="video/mp4", stream="cam")
    send(producer, [broken, *fragments[3:]])
    async with working(redis_url) as worker:
        assert len(await results(redis_url, "c1", final=False)) <= 4
        await eventually(lambda: len(records(redis_url, TOPIC_DEAD_LETTER)) >= 3)
        found = letters(redis_url)
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= len(fragments))
        assert counter(worker.metrics.fragments_in) == len(fragments) + 3
    # Calls take turns, and each keeps its order.
    assert [letter.reason for letter in found] == ["bad_call_id", "unknown_version", "undecodable"]
    assert (found[1].record.value, found[1].record.at.offset) == (b"x", 3)


async def test_a_dead_letter_is_not_worked_on_again(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    store = Store.connect(redis_url)
    await store.ledger.note_dead_letter(default("c1"), Coordinates(0, 6), "killed")
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
        await eventually(lambda: counter(worker.metrics.fragments_analysed) >= 2)
        await store.open_stream(default("c1"), "phone", "successor", 0)
        send(producer, [replace(fragments[2], media=b"noise", content_type="audio/x-matroska")])
        await eventually(lambda: records(redis_url, TOPIC_DEAD_LETTER))
        # It was refused, and came back to the record as the stream's new owner.
        assert counter(worker.metrics.fenced) == 1
    await store.close()


async def test_work_that_has_ended_is_blamed_for_nothing(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url):
        await results(redis_url, "c1")
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: not (client.exists("ut:work:0")))


async def test_a_final_fragment_that_is_damaged_still_ends_its_call(redis_url: str, sound: FloatArray) -> None:
    fragments = call(sound, "c1")
    fragments[-1] = replace(fragments[-1], media=b"noise", content_type="audio/x-matroska")
    send(RedisStreamProducer(redis_url), fragments)
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4


async def test_the_largest_record_that_a_log_takes_is_dead_lettered_though_not_all_of_it(redis_url: str) -> None:
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c1", bytes(2 << 20), (("v", b"1"),))
    async with working(redis_url) as worker:
        await eventually(lambda: counter(worker.metrics.fragments_dead_lettered.labels("oversize")) >= 1)
        worker.check()
    (letter,) = letters(redis_url)
    assert not letter.whole
    assert len(letter.record.value) > 1 << 20


async def test_a_record_too_large_for_the_dead_letter_topic_is_cut_and_stops_nothing(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c1", bytes(2 << 20), tuple((f"h{n}", bytes(3000)) for n in range(40)))
    send(producer, call(sound, "c1"))
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4
    (letter,) = records(redis_url, TOPIC_DEAD_LETTER)
    assert dict(letter.headers)["dlq-bytes"] == str(2 << 20).encode()


@pytest.mark.parametrize("seen", [True, False])
async def test_a_picture_whose_decoding_does_not_end_costs_its_stream_the_pictures_and_no_fragment(
    redis_url: str, sound: FloatArray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, seen: bool
) -> None:
    # A call of a decoder that takes many times as long as it may: the look at its bytes, which would refuse it, is off.
    monkeypatch.setattr(passes, "JPEG_SCANS_MAX", 1 << 30)
    endless = film_of("mjpeg", [jpeg_of_empty_scans(3840, 2160, 16_000)], 3840, 2160)
    undisturbed, disturbed = call(sound, "c1"), call(sound, "c2")
    consent = DEFAULT_CONSENT if seen else {Participant.CUSTOMER: frozenset({Modality.AUDIO})}
    camera = [  # a window of pictures without sound is over with the second fragment: then the first one is decoded
        replace(one, stream="webcam", seq=n, start_ms=6000 * n, final=n == 2, participants=(Participant.CUSTOMER,))
        for n, one in enumerate(disturbed[:3])
    ]
    camera = [replace(one, content_type="video/x-matroska", media=endless, consent=consent) for one in camera]
    both = [fragment for pair in zip(undisturbed, disturbed, strict=True) for fragment in pair]
    send(RedisStreamProducer(redis_url), [*both[:4], *camera, *both[4:]])
    async with working(redis_url, stream={"limits": {"decode_max_s": 0.2}}) as worker:
        assert len(await results(redis_url, "c1")) == 4
        assert len(await results(redis_url, "c2")) >= 4
        worker.check()
    assert ("no picture is decoded any more" in caplog.text) == seen
    assert not letters(redis_url)
    found = await account(redis_url, "c2")
    assert (found.analysed, found.missing, found.skipped) == (len(disturbed), 0, {})


async def test_what_began_after_the_work_that_was_judged_is_not_given_up() -> None:
    decoder, begun, go_on = DecoderThread(MediaLimits()), threading.Event(), threading.Event()
    judged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    judged.set_result(None)

    def work() -> str:
        begun.set()
        go_on.wait(60)
        return "done"

    running = asyncio.create_task(decoder.run(work))
    await asyncio.to_thread(begun.wait, 60)
    decoder._replace(judged)
    go_on.set()
    assert await running == "done"
    decoder.close()


async def test_a_decoder_is_watched_again_after_it_had_nothing_to_do() -> None:
    decoder, go_on = DecoderThread(MediaLimits(decode_max_s=0.15)), threading.Event()

    def spin() -> None:
        while not go_on.is_set():
            continue

    assert await decoder.run(lambda: "done") == "done"
    await eventually(lambda: not decoder._looking)
    spinning, behind = asyncio.create_task(decoder.run(spin)), asyncio.create_task(decoder.run(lambda: "done"))
    assert await behind == "done"
    with pytest.raises(StuckDecoderError):
        await spinning
    go_on.set()
    decoder.close()


async def test_work_that_nobody_waits_for_any_more_is_not_begun() -> None:
    decoder, go_on, begun = DecoderThread(MediaLimits()), threading.Event(), list[str]()
    first = asyncio.create_task(decoder.run(lambda: go_on.wait(60)))
    dropped = asyncio.create_task(decoder.run(lambda: begun.append("dropped")))
    await asyncio.sleep(0)
    dropped.cancel()
    await asyncio.wait([dropped])
    go_on.set()
    assert await first
    assert await decoder.run(lambda: begun) == []
    decoder.close()


@pytest.mark.parametrize("fragments_sent", [20, 10])
async def test_a_stream_whose_end_keeps_its_decoder_is_opened_anew(
    redis_url: str, sound: FloatArray, monkeypatch: pytest.MonkeyPatch, fragments_sent: int
) -> None:
    finish, stuck = CallStream.finish, iter([True])

    def once_stuck(self: CallStream) -> list[TrackEvent]:
        end_s = time.thread_time() + 3
        while next(stuck, False) or (threading.current_thread().name == "stuck" and time.thread_time() < end_s):
            threading.current_thread().name = "stuck"
        return finish(self)

    monkeypatch.setattr(CallStream, "finish", once_stuck)  # a decoder that does not give up its last pictures
    fragments = call(sound, "c1")[:fragments_sent]
    if fragments[-1].final:  # refused, it ends its stream all the same; else its silence does
        fragments[-1] = replace(fragments[-1], media=b"noise", content_type="audio/x-matroska")
    send(RedisStreamProducer(redis_url), fragments)
    quick = WorkerSettings(stalled_after_s=0.2, closed_after_s=0.6)
    async with working(redis_url, stream={"limits": {"decode_max_s": 0.2}}, worker=quick) as worker:
        await until("final" if fragments[-1].final else "closed", redis_url, "c1")
        worker.check()
    assert next(stuck, None) is None


async def test_a_sealed_call_is_analysed_like_an_open_one(redis_url: str, sound: FloatArray) -> None:
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    seal = await store.seals.of_call(default("sealed"), TOPIC_MEDIA)
    send(producer, [seal_fragment(one, seal, DEFAULT_CONSENT) for one in call(sound, "sealed")])
    send(producer, call(sound, "open"))
    async with working(redis_url):
        assert found(await results(redis_url, "sealed")) == found(await results(redis_url, "open"))
    assert not letters(redis_url)
    await store.close()


async def test_a_fragment_whose_seal_the_store_lost_is_kept_until_it_has_it_again(
    redis_url: str, sound: FloatArray
) -> None:
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    lost = Seal.new(default("c1"), TOPIC_MEDIA)
    fragments = call(sound, "c1")
    sealed = [seal_fragment(one, lost, DEFAULT_CONSENT) if one.seq == 6 else one for one in fragments]
    send(producer, sealed)
    async with working(redis_url):
        await results(redis_url, "c1")
    (letter,) = letters(redis_url)
    assert (letter.reason, letter.record.at.offset, letter.whole) == ("sealed", 6, True)
    assert "the store has no seal" in letter.detail
    assert (letter.record.value, letter.record.headers) == (sealed[6].media, fragment_headers(sealed[6]))
    assert (await account(redis_url, "c1")).analysed == 19

    await store.seals.keep(lost)
    async with working(redis_url) as worker:
        (plan,) = redrives([letter], {default("c1"): await store.checkpoints(default("c1"))}, MediaLimits())
        assert plan.fragment is not None
        send(producer, [plan.fragment])
        await eventually(lambda: counter(worker.metrics.fragments_analysed) == 1)
    await store.close()


async def test_a_sealed_fragment_that_cannot_be_decoded_lies_open_in_its_letter(
    redis_url: str, sound: FloatArray
) -> None:
    store = Store.connect(redis_url)
    seal = await store.seals.of_call(default("c1"), TOPIC_MEDIA)
    fragments = call(sound, "c1")
    fragments[6] = replace(fragments[6], media=b"this is no film", content_type="video/mp4")
    send(RedisStreamProducer(redis_url), [seal_fragment(one, seal, DEFAULT_CONSENT) for one in fragments])
    async with working(redis_url):
        await results(redis_url, "c1")
    (letter,) = letters(redis_url)  # under a seal of its own, which lives as long as the dead-letter topic keeps it
    assert (letter.reason, letter.record.value) == ("undecodable", b"this is no film")
    assert letter.record.headers == fragment_headers(fragments[6])
    await store.close()


async def test_what_still_comes_of_a_deleted_call_makes_no_letters(redis_url: str, sound: FloatArray) -> None:
    store, producer = Store.connect(redis_url), RedisStreamProducer(redis_url)
    seal = await store.seals.of_call(default("c1"), TOPIC_MEDIA)
    await store.delete_call(default("c1"))
    send(producer, [seal_fragment(one, seal, DEFAULT_CONSENT) for one in call(sound, "c1")])
    producer.send(TOPIC_MEDIA, "c1", b"x", (("v", b"9"),))
    send(producer, call(sound, "c2"))
    async with working(redis_url) as worker:
        await results(redis_url, "c2")
        assert counter(worker.metrics.fragments_skipped.labels("call_deleted")) == 21
        worker.check()
    assert records(redis_url, TOPIC_DEAD_LETTER) == []
    await store.close()
