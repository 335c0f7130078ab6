from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import redis

from models.types import FloatArray, Modality
from pipelines.log.dead_letter import Letter, read_letters
from pipelines.log.redis_streams import RedisStreamProducer, RedisTopicReader
from pipelines.review.audit import AuditReport, LogIndex, audit
from pipelines.settings import MediaLimits, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import TOPIC_DEAD_LETTER, TOPIC_MEDIA, MissingReason, ModalityOut, Utterance, UtteranceSentiment
from tests.eventually import eventually
from tests.pipelines.stored import default
from tests.pipelines.working import Voice, call, judge, records, results, send, speech, working

LOG = "ut:log:{call-media}"


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


def letters(url: str) -> list[Letter]:
    with closing(RedisTopicReader(url, TOPIC_DEAD_LETTER)) as reader:
        return list(read_letters(reader.records(reader.extents())))


async def audited(url: str) -> AuditReport:
    log_index, store = LogIndex(MediaLimits()), Store.connect(url)
    with closing(RedisTopicReader(url, TOPIC_MEDIA)) as reader:
        extents = reader.extents()
        for record in reader.records(extents):
            log_index.add(record)
    report = await audit(log_index, extents, store, lambda: letters(url), "live")
    await store.close()
    return report


def kinds(report: AuditReport) -> list[tuple[str, int]]:
    return sorted((one.kind, one.count) for one in report.findings)


async def analysed(url: str, sound: FloatArray) -> None:
    """Two whole calls, one with damage, and a record of no call; all settled and committed."""
    producer = RedisStreamProducer(url)
    fragments = call(sound, "damaged")
    fragments[7] = replace(fragments[7], media=b"noise", content_type="audio/x-matroska")
    send(producer, [*call(sound, "whole"), *fragments[:4], fragments[3], *fragments[5:]])
    producer.send(TOPIC_MEDIA, "no call id", b"x", (("v", b"1"),))
    producer.send(TOPIC_MEDIA, "damaged", b"x", (("v", b"9"),))
    async with working(url, worker=WorkerSettings(commit_delay_s=0, commit_interval_s=0.05)):
        await results(url, "whole")
        await results(url, "damaged")
        with redis.Redis.from_url(url) as client:
            await eventually(lambda: int(client.hget(f"{LOG}:group:undertone", "committed") or 0) >= 42)


async def test_a_log_that_was_analysed_as_a_whole_has_no_findings(redis_url: str, sound: FloatArray) -> None:
    await analysed(redis_url, sound)
    report = await audited(redis_url)
    assert report.findings == []
    assert (report.records, report.analysed, report.skipped) == (42, 38, {"duplicate": 1})
    assert report.clean  # a sender that is unsure sends again
    assert [(one.call_id, one.stream, one.reasons) for one in report.repeated] == [
        ("damaged", "phone", {"duplicate": 1})
    ]
    assert report.dead_lettered == {"undecodable": 1, "bad_call_id": 1, "unknown_version": 1}
    assert (report.missing, report.lost, report.pending) == (1, 0, 0)
    assert report.utterances >= 8


async def test_what_waits_is_pending_and_what_the_group_passed_is_missing(
    redis_url: str, raw: Any, sound: FloatArray
) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    report = await audited(redis_url)
    assert report.clean
    assert report.pending == 20
    raw.hset(f"{LOG}:group:undertone", "committed", 12)
    report = await audited(redis_url)
    assert kinds(report) == [("fragments_missing", 12)]
    assert (report.findings[0].call_id, report.findings[0].stream) == ("c1", "phone")
    assert report.pending == 8


async def test_a_fragment_that_was_counted_by_nobody_or_twice_is_found(
    redis_url: str, raw: Any, sound: FloatArray
) -> None:
    await analysed(redis_url, sound)
    raw.hincrby("ut:{default/whole}:stream:phone", "n:analysed", -2)
    raw.hincrby("ut:{default/damaged}:stream:phone", "n:skipped-twice", 3)
    assert kinds(await audited(redis_url)) == [("fragments_doubled", 3), ("fragments_missing", 2)]


async def test_a_dead_letter_that_is_gone_or_was_never_counted_is_found(
    redis_url: str, raw: Any, sound: FloatArray
) -> None:
    await analysed(redis_url, sound)
    raw.hincrby("ut:{default/damaged}:letter-counts", "undecodable", -1)
    assert kinds(await audited(redis_url)) == [("letters_uncounted", 1)]
    raw.hincrby("ut:{default/damaged}:letter-counts", "undecodable", 1)
    first = records(redis_url, TOPIC_DEAD_LETTER)[0].at.offset
    raw.xdel("ut:log:{call-media-dlq}", f"{first + 1}-0")
    assert kinds(await audited(redis_url)) == [("fragments_missing", 1), ("letters_missing", 1)]


async def test_an_utterance_that_is_gone_or_there_twice_is_found(redis_url: str, raw: Any, sound: FloatArray) -> None:
    await analysed(redis_url, sound)
    first, second = raw.zrange("ut:{default/whole}:order", 0, 1)
    raw.zrem("ut:{default/whole}:order", first)
    assert kinds(await audited(redis_url)) == [("utterances_missing", 1)]
    raw.zadd("ut:{default/whole}:order", {first: 0})
    twin = f"{int(second[:10]) + 5:010d}{second[10:]}"
    text = raw.hget("ut:{default/whole}:results", second).replace(
        f'"start_ms":{int(second[:10])}', f'"start_ms":{int(second[:10]) + 5}'
    )
    raw.hset("ut:{default/whole}:results", twin, text)
    raw.zadd("ut:{default/whole}:order", {twin: 0})
    assert kinds(await audited(redis_url)) == [("utterances_doubled", 1)]


async def test_a_deleted_call_is_missing_nothing(redis_url: str, sound: FloatArray) -> None:
    await analysed(redis_url, sound)
    store = Store.connect(redis_url)
    await store.delete_call(default("whole"))
    await store.close()
    report = await audited(redis_url)
    assert report.clean
    assert report.deleted == 20


async def test_results_that_have_expired_are_not_missing(redis_url: str, raw: Any, sound: FloatArray) -> None:
    await analysed(redis_url, sound)
    raw.delete(*(f"ut:{{default/whole}}:{name}" for name in ("call", "results", "order", "digests", "events")))
    assert (await audited(redis_url)).findings == []


async def test_a_run_is_asked_only_for_the_calls_it_took(redis_url: str, sound: FloatArray) -> None:
    await analysed(redis_url, sound)
    log_index, store = LogIndex(MediaLimits()), Store.connect(redis_url, "mine")
    with closing(RedisTopicReader(redis_url, TOPIC_MEDIA)) as reader:
        extents = reader.extents()
        for record in reader.records(extents):
            log_index.add(record)
    report = await audit(log_index, extents, store, lambda: letters(redis_url), "mine")
    await store.close()
    assert report.clean


async def test_only_what_is_asked_for_is_judged_where_the_log_is_cut(
    redis_url: str, raw: Any, sound: FloatArray
) -> None:
    await analysed(redis_url, sound)
    raw.xtrim(LOG, minid="11-0")
    report = await audited(redis_url)
    assert (report.findings, report.streams, report.streams_cut) == ([], 2, 1)
    assert report.clean
    assert report.records == 32


async def test_dead_letters_are_counted_on_the_call_of_their_tenant(redis_url: str, sound: FloatArray) -> None:
    fragments = call(sound, "c")
    fragments[7] = replace(fragments[7], media=b"noise", content_type="audio/x-matroska")
    theirs = [replace(one, tenant="acme") for one in fragments]
    send(RedisStreamProducer(redis_url), [*call(sound, "c"), *theirs])
    async with working(
        redis_url, worker=WorkerSettings(commit_delay_s=0, commit_interval_s=0.05), tenants={"default": {}, "acme": {}}
    ):
        await results(redis_url, "c")
        await results(redis_url, "c", tenant="acme")
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: int(client.hget(f"{LOG}:group:undertone", "committed") or 0) >= 40)
    report = await audited(redis_url)
    assert report.findings == []
    assert report.dead_lettered == {"undecodable": 1}
    assert report.calls == 2


async def test_results_that_lack_a_modality_by_a_fault_do_not_add_up(redis_url: str, sound: FloatArray) -> None:
    missing: dict[Modality, MissingReason] = {
        Modality.TEXT: "timeout",
        Modality.AUDIO: "not_consented",
        Modality.VIDEO: "encoder_unavailable",
    }

    async def late(utterance: Utterance) -> UtteranceSentiment:
        outs = {modality: ModalityOut(used=False, missing=reason) for modality, reason in missing.items()}
        return (await judge(utterance)).model_copy(update={"modalities": outs})

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, analyse=late):
        await results(redis_url, "c1")

    report = await audited(redis_url)
    assert report.findings == []
    assert not report.clean
    assert report.faults == {
        Modality.TEXT: {"timeout": report.utterances},
        Modality.VIDEO: {"encoder_unavailable": report.utterances},
    }
