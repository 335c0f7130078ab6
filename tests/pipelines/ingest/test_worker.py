import asyncio
from dataclasses import replace

import pytest
import redis

from models.types import FloatArray, Modality
from pipelines.errors import EncoderUnavailableError
from pipelines.ingest.worker import Worker
from pipelines.log.records import fragment_headers
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    TOPIC_SENTIMENT,
    Participant,
    Record,
    Utterance,
    UtteranceSentiment,
)
from tests.pipelines.working import Voice, call, found, judge, records, results, running, send, speech, working
from tests.servers import OwnRedis


@pytest.fixture
def log_and_store(redis_url: str, own_redis: OwnRedis) -> tuple[str, str]:
    """Two servers: one keeps the log, the other may be broken."""
    return redis_url, own_redis.url


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)


async def test_a_call_goes_in_as_fragments_and_comes_out_as_utterances(redis_url: str, sound: FloatArray) -> None:
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url) as worker:
        stored = await results(redis_url, "c1")
        assert {one.participant for one in stored} == {Participant.AGENT, Participant.CUSTOMER}
        assert len(stored) == 4
        assert worker.metrics.fragments_analysed._value.get() == 20
    published = [UtteranceSentiment.model_validate_json(record.value) for record in records(redis_url, TOPIC_SENTIMENT)]
    assert sorted(found(published)) == sorted(found(stored))


async def test_consent_decides_what_is_analysed(redis_url: str, sound: FloatArray) -> None:
    only_customer = {Participant.CUSTOMER: frozenset({Modality.TEXT})}
    send(RedisStreamProducer(redis_url), [replace(f, consent=only_customer) for f in call(sound, "c1")])
    async with working(redis_url):
        stored = await results(redis_url, "c1")
    assert {one.participant for one in stored} == {Participant.CUSTOMER}
    assert {one.consent for one in stored} == {(Modality.TEXT,)}


async def test_a_tenants_policy_holds_where_the_call_says_nothing_and_the_call_wins_where_it_does(
    redis_url: str, sound: FloatArray
) -> None:
    asked: list[Utterance] = []

    async def note(utterance: Utterance) -> UtteranceSentiment:
        asked.append(utterance)
        return await judge(utterance)

    said = {Participant.CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}
    producer = RedisStreamProducer(redis_url)
    send(producer, [replace(f, tenant="shop", consent=None) for f in call(sound, "silent")])
    send(producer, [replace(f, tenant="shop", consent=said) for f in call(sound, "told")])
    send(producer, [replace(f, tenant="other", consent=None) for f in call(sound, "elsewhere")])
    tenants = {"shop": {"consent": "agent=text;customer=text"}}
    async with working(redis_url, analyse=note, tenants=tenants):
        by_call = {call_id: await results(redis_url, call_id) for call_id in ("silent", "told", "elsewhere")}
    only_text = {(Participant.AGENT, (Modality.TEXT,)), (Participant.CUSTOMER, (Modality.TEXT,))}
    assert {(one.participant, one.consent) for one in by_call["silent"]} == only_text
    assert {one.consent for one in asked if one.call_id == "silent"} == {frozenset({Modality.TEXT})}
    heard = (Modality.AUDIO, Modality.TEXT)
    assert {(one.participant, one.consent) for one in by_call["told"]} == {(Participant.CUSTOMER, heard)}
    for one in by_call["elsewhere"]:
        assert set(one.consent) == DEFAULT_CONSENT[one.participant]


async def test_the_same_call_again_changes_nothing_and_under_another_id_gives_the_same(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    async with working(redis_url) as worker:
        send(producer, call(sound, "c1"))
        first = await results(redis_url, "c1")
        send(producer, call(sound, "c1"))
        send(producer, call(sound, "c2", fragment_ms=250))
        again = await results(redis_url, "c2")
        assert found(again) == found(first)
        assert found(await results(redis_url, "c1")) == found(first)
        assert worker.metrics.fragments_skipped.labels("already_stored")._value.get() == 20


async def test_a_successor_at_any_moment_finds_the_same_utterances(redis_url: str, sound: FloatArray) -> None:
    """A worker is abandoned without a word after each stored result; the next one goes on from the checkpoint."""
    producer = RedisStreamProducer(redis_url)
    send(producer, call(sound, "whole"))
    async with working(redis_url):
        undisturbed = found(await results(redis_url, "whole"))
    send(producer, call(sound, "torn"))
    for crash in range(len(undisturbed)):
        stored = asyncio.Semaphore(0)

        async def judge_one(utterance: Utterance, stored: asyncio.Semaphore = stored, crash: int = crash) -> object:
            if len(await results(redis_url, "torn", final=False)) > crash:
                stored.release()
                await asyncio.Event().wait()
            return await judge(utterance)

        async with working(redis_url, f"w{crash}", judge_one):
            waiting = asyncio.create_task(results(redis_url, "torn"))
            stuck = asyncio.create_task(stored.acquire())
            await asyncio.wait([waiting, stuck], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            stuck.cancel()
    async with working(redis_url, "last"):
        assert found(await results(redis_url, "torn")) == undisturbed


async def test_a_worker_that_lost_its_stream_stores_nothing(redis_url: str, sound: FloatArray) -> None:
    gate = asyncio.Semaphore(0)
    begun = asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        begun.set()
        await gate.acquire()
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, "zombie", hold) as zombie:
        await begun.wait()
        store = Store.connect(redis_url)
        await store.open_stream("c1", "default", "phone", "successor", started_at_ms=0)
        gate.release()
        while zombie.metrics.fenced._value.get() == 0:
            await asyncio.sleep(0)
        assert (await store.archive.utterances("c1")).items == ()
        await store.close()


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
        while len(letters := records(redis_url, TOPIC_DEAD_LETTER)) < 3:
            await asyncio.sleep(0.01)
        while worker.metrics.fragments_analysed._value.get() < len(fragments):
            await asyncio.sleep(0.01)
        assert worker.metrics.fragments_in._value.get() == len(fragments) + 3
    reasons = [dict(letter.headers)["dlq-reason"] for letter in letters]
    assert reasons == [b"unknown_version", b"bad_call_id", b"undecodable"]
    assert letters[0].value == b"x"
    assert dict(letters[0].headers)["dlq-offset"] == b"3"


async def test_a_final_fragment_that_is_damaged_still_ends_its_call(redis_url: str, sound: FloatArray) -> None:
    fragments = call(sound, "c1")
    fragments[-1] = replace(fragments[-1], media=b"noise", content_type="audio/x-matroska")
    send(RedisStreamProducer(redis_url), fragments)
    async with working(redis_url):
        assert len(await results(redis_url, "c1")) == 4


async def test_an_empty_final_fragment_ends_its_call_and_what_is_missing_is_counted(
    redis_url: str, sound: FloatArray
) -> None:
    fragments = [f for f in call(sound, "c1")[:-1] if f.seq not in {4, 5}]
    end = replace(fragments[-1], seq=19, start_ms=19_000, media=b"", content_type="video/x-matroska", final=True)
    send(RedisStreamProducer(redis_url), [*fragments, end])
    async with working(redis_url) as worker:
        assert await results(redis_url, "c1")
        assert worker.metrics.fragments_missing._value.get() == 2
    assert records(redis_url, TOPIC_DEAD_LETTER) == []


async def test_a_fusion_that_is_away_holds_the_call_until_it_is_back(redis_url: str, sound: FloatArray) -> None:
    failures = iter(range(3))

    async def flaky(utterance: Utterance) -> UtteranceSentiment:
        if next(failures, None) is not None:
            raise EncoderUnavailableError("away")
        return await judge(utterance)

    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(redis_url, analyse=flaky, worker=WorkerSettings(retry_max_s=0.2)):
        assert len(await results(redis_url, "c1")) == 4


async def test_work_in_flight_is_bounded_and_the_rest_waits_in_the_log(redis_url: str, sound: FloatArray) -> None:
    at_once = most = 0

    async def counting(utterance: Utterance) -> UtteranceSentiment:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return await judge(utterance)

    producer = RedisStreamProducer(redis_url)
    for index in range(4):
        send(producer, call(sound, f"c{index}"))
    async with working(redis_url, analyse=counting, worker=WorkerSettings(utterances_in_flight=2)):
        for index in range(4):
            assert len(await results(redis_url, f"c{index}")) == 4
    # One fragment may end two utterances at once, one of each party.
    assert most <= 3


async def test_results_that_cannot_be_published_are_work_in_flight_too(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The topic of fragments can be read and that of results not written: what waits in memory is bounded."""
    for index in range(4):
        send(RedisStreamProducer(redis_url), call(sound, f"c{index}"))
    store = Store.connect(redis_url)
    worker = Worker(
        source=RedisStreamSource(redis_url),
        producer=RedisStreamProducer(own_redis.url),
        store=store,
        analyse=judge,
        config=AppConfig(worker=WorkerSettings(utterances_in_flight=2, retry_max_s=0.1)),
        owner="w",
    )
    own_redis.kill()
    async with running(worker, store):
        while worker.metrics.retries.labels("source_unavailable")._value.get() < 20:
            await asyncio.sleep(0.01)
        assert 2 <= worker.metrics.in_flight._value.get() <= 3
        assert worker.metrics.fragments_analysed._value.get() < 40
        own_redis.restart()
        for index in range(4):
            assert len(await results(redis_url, f"c{index}")) == 4
        while worker.metrics.in_flight._value.get():
            await asyncio.sleep(0.01)


async def test_a_stream_of_dead_letters_alone_holds_no_offset(redis_url: str, sound: FloatArray) -> None:
    noise = [replace(one, media=b"noise", content_type="audio/x-matroska", final=False) for one in call(sound, "c1")]
    send(RedisStreamProducer(redis_url), noise[5:])
    quick = WorkerSettings(commit_interval_s=0.05, commit_delay_s=0)
    with redis.Redis.from_url(redis_url) as client:
        async with working(redis_url, worker=quick) as worker:
            while int(client.hget("ut:log:{call-media}:group:undertone", "committed") or 0) < 14:
                await asyncio.sleep(0.01)
            assert not worker.idle
        # A successor takes none of them for missing, and keeps what was.
        send(RedisStreamProducer(redis_url), [replace(call(sound, "c1")[-1], seq=20)])
        async with working(redis_url, "successor", worker=quick):
            await results(redis_url, "c1")
    store = Store.connect(redis_url)
    counted = (await store.checkpoints("c1"))["phone"].account
    assert (counted.analysed, counted.missing) == (1, 5)
    assert sum((await store.ledger.dead_letter_counts("c1")).values()) == 15
    await store.close()


async def test_a_store_that_forgets_a_workers_first_call_is_told_again(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """It is killed before the worker commits, and so before it looks for the first time whether it is another."""
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    async with working(own_redis.url, log=redis_url, worker=WorkerSettings(commit_interval_s=3.0)):
        before = found(await results(own_redis.url, "c1"))
        own_redis.restart()
        assert found(await results(own_redis.url, "c1")) == before


async def test_a_deleted_call_takes_nothing_more(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    store = Store.connect(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url) as worker:
        send(producer, fragments[:10])
        while not await results(redis_url, "c1", final=False):
            await asyncio.sleep(0.01)
        await store.delete_call("c1")
        send(producer, [*fragments[10:], *call(sound, "c2")])
        assert len(await results(redis_url, "c2")) == 4
        assert await store.archive.call("c1") is None
        assert worker.metrics.fragments_skipped.labels("call_deleted")._value.get() > 0
    await store.close()


async def test_offsets_move_only_as_far_as_open_streams_need(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "open")
    send(producer, [*fragments[:2], *call(sound, "done")])
    async with working(redis_url):
        await results(redis_url, "done")
    source = RedisStreamSource(redis_url)
    read: list[Record] = []
    while not read:
        read += source.poll(0.1, 1).records
    source.close()
    assert read[0].at.offset == 0


@pytest.mark.slow  # waits for the clock
async def test_a_stream_that_falls_silent_is_let_go_and_goes_on_when_it_speaks_again(
    redis_url: str, sound: FloatArray
) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    async with working(redis_url, worker=WorkerSettings(closed_after_s=0.3, commit_interval_s=0.05)) as worker:
        send(producer, fragments[:10])
        while worker.metrics.fragments_analysed._value.get() < 10 or worker.metrics.open_streams._value.get():
            await asyncio.sleep(0.01)
        before = await results(redis_url, "c1", final=False)
        send(producer, fragments[10:])
        after = await results(redis_url, "c1")
    assert set(found(before)) < set(found(after))
    assert max(one.end_ms for one in after) > 14_000


async def test_a_call_of_which_nothing_may_be_analysed_holds_no_offset_back(redis_url: str, sound: FloatArray) -> None:
    nobody = {Participant.MIXED: frozenset({Modality.TEXT})}
    fragments = [replace(f, consent=nobody) for f in call(sound, "c1")]
    send(RedisStreamProducer(redis_url), fragments[:-1])
    async with working(redis_url, worker=WorkerSettings(commit_delay_s=0)) as worker:
        while worker.metrics.fragments_skipped.labels("not_consented")._value.get() < len(fragments) - 1:
            await asyncio.sleep(0.01)
    source = RedisStreamSource(redis_url)
    read: list[Record] = []
    while not read:
        read += source.poll(0.1, 1).records
    source.close()
    assert read[0].at.offset == len(fragments) - 2


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


async def test_another_tenants_fragment_does_not_enter_an_open_stream(redis_url: str, sound: FloatArray) -> None:
    producer = RedisStreamProducer(redis_url)
    fragments = call(sound, "c1")
    send(producer, fragments[:10])
    send(producer, [replace(fragments[10], tenant="other")])
    send(producer, fragments[10:])
    async with working(redis_url):
        assert {one.tenant for one in await results(redis_url, "c1")} == {"default"}
    (letter,) = records(redis_url, TOPIC_DEAD_LETTER)
    assert dict(letter.headers)["dlq-reason"] == b"bad_header"


async def test_a_store_that_forgot_its_last_moments_is_told_again(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The server is killed and comes back as it was saved in the middle of the call, which had ended meanwhile."""
    producer, fragments = RedisStreamProducer(redis_url), call(sound, "c1")
    url = own_redis.url
    async with working(url, log=redis_url, worker=WorkerSettings(commit_interval_s=0.05)):
        send(producer, fragments[:10])
        while not await results(url, "c1", final=False):
            await asyncio.sleep(0.01)
        with redis.Redis.from_url(url) as client:
            client.save()
        send(producer, fragments[10:])
        stored = found(await results(url, "c1"))
        own_redis.restart()
        assert found(await results(url, "c1")) == stored


async def test_a_store_that_keeps_a_file_may_be_killed_again_and_again(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory, sound: FloatArray
) -> None:
    """Append-only file, synced once a second: killing the server, unlike the machine, loses no write."""
    server = OwnRedis(tmp_path_factory.mktemp("r"), "--appendonly", "yes", "--appendfsync", "everysec")
    producer = RedisStreamProducer(redis_url)
    try:
        async with working(server.url, log=redis_url, worker=WorkerSettings(retry_max_s=0.2)):
            send(producer, call(sound, "whole"))
            undisturbed = found(await results(server.url, "whole"))
            fragments = call(sound, "torn")
            for begin in range(0, 20, 5):
                send(producer, fragments[begin : begin + 5])
                server.restart()
            assert found(await results(server.url, "torn")) == undisturbed
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("refuse", "allow", "trouble"),
    [
        ("config set maxmemory 1", "config set maxmemory 0", "out_of_memory"),
        ("replicaof 127.0.0.1 1", "replicaof no one", "read_only"),
    ],
)
async def test_a_store_that_refuses_to_write_holds_everything_until_it_writes_again(
    log_and_store: tuple[str, str], sound: FloatArray, refuse: str, allow: str, trouble: str
) -> None:
    log, url = log_and_store
    begun, gate = asyncio.Event(), asyncio.Event()

    async def hold(utterance: Utterance) -> UtteranceSentiment:
        begun.set()
        await gate.wait()
        return await judge(utterance)

    send(RedisStreamProducer(log), call(sound, "c1"))
    quick = WorkerSettings(retry_max_s=0.2, commit_interval_s=0.05, commit_delay_s=0)
    store = Store.connect(url)
    with redis.Redis.from_url(url) as client, redis.Redis.from_url(log) as log_client:
        async with working(url, analyse=hold, log=log, worker=quick) as worker:
            await begun.wait()
            client.execute_command(*refuse.split())
            gate.set()
            while worker.metrics.retries.labels(f"store_{trouble}")._value.get() < 3:
                await asyncio.sleep(0.01)
            assert await store.trouble() == trouble
            assert int(log_client.hget("ut:log:{call-media}:group:undertone", "committed") or 0) == 0
            client.execute_command(*allow.split())
            assert len(await results(url, "c1")) == 4
    await store.close()


@pytest.mark.slow  # waits for the clock
async def test_a_worker_that_waits_for_the_store_stays_a_reader_of_the_log(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """The embedded log gives a reader's place away after 5 s without a poll, as a Kafka group does after 2 min."""
    group = "ut:log:{call-media}:group:undertone"
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    with redis.Redis.from_url(redis_url) as log:
        async with working(own_redis.url, log=redis_url, worker=WorkerSettings(retry_max_s=0.2)) as worker:
            while not log.hexists(group, "reader"):
                await asyncio.sleep(0.01)
            reader = log.hget(group, "reader")
            own_redis.kill()
            while not worker.metrics.retries.labels("store_away")._value.get():
                await asyncio.sleep(0.01)
            held_until_ms = int(log.hget(group, "reader_until_ms") or 0)
            while int(log.hget(group, "reader_until_ms") or 0) < held_until_ms + 5_000:
                await asyncio.sleep(0.05)
            assert log.hget(group, "reader") == reader
            own_redis.restart()
            assert len(await results(own_redis.url, "c1")) == 4


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
        while worker.metrics.fragments_analysed._value.get() < 40:
            await asyncio.sleep(0.01)
        for name in ("early", "late"):
            await store.open_stream(name, "default", "phone", "another", 0)
        gates["early"].set()
        while worker.metrics.fragments_analysed._value.get() == 40:  # it reads again
            await asyncio.sleep(0)
        gates["late"].set()
        early, late = found(await results(redis_url, "early")), found(await results(redis_url, "late"))
        accounts = [(await store.checkpoints(name))["phone"].account for name in ("early", "late")]
        assert [(account.analysed, account.missing) for account in accounts] == [(20, 0), (20, 0)]
        gates["calm"].set()
        send(producer, call(sound, "calm"))
        assert early == late == found(await results(redis_url, "calm"))
    await store.close()


@pytest.mark.slow  # an outage of ten seconds
async def test_an_outage_of_the_store_is_no_silence_of_the_calls(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    """It lasts longer than a stream may be silent, and their fragments wait in the log, more than are read at once."""
    producer, calls = RedisStreamProducer(redis_url), [call(sound, name) for name in ("c1", "c2")]
    worker_settings = WorkerSettings(stalled_after_s=4.0, closed_after_s=5.0, commit_interval_s=0.05, retry_max_s=0.2)
    async with working(own_redis.url, log=redis_url, worker=worker_settings) as worker:
        send(producer, [*calls[0][:3], *calls[1][:3]])
        while worker.metrics.fragments_analysed._value.get() < 6 or not worker.backlog:
            await asyncio.sleep(0.01)
        with redis.Redis.from_url(own_redis.url) as client:
            client.save()
        own_redis.kill()
        send(producer, [*calls[0][3:], *calls[1][3:]])
        while worker.metrics.retries.labels("store_away")._value.get() < 50:
            await asyncio.sleep(0.05)
        own_redis.restart()
        assert found(await results(own_redis.url, "c1")) == found(await results(own_redis.url, "c2"))
    store = Store.connect(own_redis.url)
    for name in ("c1", "c2"):
        assert [event.kind for event in await store.archive.events(name) if event.kind != "utterance"] == ["call-final"]
    await store.close()


@pytest.mark.slow  # waits for the clock
async def test_a_worker_that_loses_its_partition_while_it_waits_for_the_store_drops_what_it_was_at(
    redis_url: str, own_redis: OwnRedis, sound: FloatArray
) -> None:
    group = "ut:log:{call-media}:group:undertone"
    send(RedisStreamProducer(redis_url), call(sound, "c1"))
    with redis.Redis.from_url(redis_url) as log:
        async with working(own_redis.url, "cut off", log=redis_url, worker=WorkerSettings(retry_max_s=0.2)) as worker:
            own_redis.kill()
            while not worker.metrics.retries.labels("store_away")._value.get():
                await asyncio.sleep(0.01)
            log.hset(group, mapping={"reader": "successor", "reader_until_ms": 1 << 50})
            while not worker.idle:
                await asyncio.sleep(0.01)
            own_redis.restart()
            store = Store.connect(own_redis.url)
            assert await store.archive.call("c1") is None
            await store.close()
