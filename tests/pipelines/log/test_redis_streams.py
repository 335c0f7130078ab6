import threading
import time
from typing import Any

import pytest

from pipelines.errors import SourceUnavailableError
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource
from pipelines.types import TOPIC_DEAD_LETTER, TOPIC_MEDIA
from tests.servers import redis_url_of, start_redis


def test_the_producer_waits_while_the_log_is_full(redis_url: str) -> None:
    producer = RedisStreamProducer(redis_url, log_max_bytes=1000)
    source = RedisStreamSource(redis_url)
    producer.send(TOPIC_MEDIA, "c", bytes(600))
    sending = threading.Thread(target=producer.send, args=(TOPIC_MEDIA, "c", bytes(700)))
    sending.start()
    source.poll(0, 1)
    (first,) = source.poll(1, 10).records
    assert sending.is_alive()
    source.commit({0: first.at.offset + 1})
    sending.join(10)
    assert not sending.is_alive()
    (second,) = source.poll(1, 10).records
    assert (second.at.offset, len(second.value)) == (1, 700)
    source.close()
    producer.close()


def test_a_log_that_nobody_reads_is_a_named_error(redis_url: str) -> None:
    producer = RedisStreamProducer(redis_url, log_max_bytes=1000, full_timeout_s=0.1)
    producer.send(TOPIC_MEDIA, "c", bytes(2000))
    with pytest.raises(SourceUnavailableError, match="undertone serve"):
        producer.send(TOPIC_MEDIA, "c", b"more")
    producer.close()


def test_a_topic_nobody_reads_on_loses_its_oldest_records(redis_url: str, raw: Any) -> None:
    producer = RedisStreamProducer(redis_url, log_max_bytes=1000)
    for number in range(20):
        producer.send(TOPIC_DEAD_LETTER, "c", b"%03d" % number * 100)
    source = RedisStreamSource(redis_url, TOPIC_DEAD_LETTER)
    source.poll(0, 1)
    assert [record.at.offset for record in source.poll(1, 100).records] == [17, 18, 19]
    producer.send(TOPIC_DEAD_LETTER, "c", bytes(5000))
    assert raw.xlen("ut:log:{call-media-dlq}") == 1
    source.close()
    producer.close()


def test_committed_records_stay_until_their_room_is_needed(redis_url: str, raw: Any) -> None:
    producer = RedisStreamProducer(redis_url, log_max_bytes=1000)
    for number in range(5):
        producer.send(TOPIC_MEDIA, "c", bytes([number]) * 200)
    source = RedisStreamSource(redis_url)
    source.poll(0, 1)
    source.commit({0: 3})
    source.commit({0: 1})
    assert raw.xlen("ut:log:{call-media}") == 5
    producer.send(TOPIC_MEDIA, "c", bytes(600))
    assert [record.at.offset for record in source.poll(1, 10).records] == [3, 4, 5]
    onlooker = RedisStreamSource(redis_url, group="shadow", holds_records=False)
    onlooker.poll(0, 1)
    onlooker.commit({0: 6})
    impatient = RedisStreamProducer(redis_url, log_max_bytes=1000, full_timeout_s=0.1)
    with pytest.raises(SourceUnavailableError, match="undertone serve"):
        impatient.send(TOPIC_MEDIA, "c", b"next")
    source.commit({0: 99})
    impatient.send(TOPIC_MEDIA, "c", b"next")
    assert [record.at.offset for record in source.poll(1, 10).records][-1] == 6
    for one in (source, onlooker, producer, impatient):
        one.close()


def test_a_record_sent_again_after_a_lost_reply_stands_there_once(redis_url: str, raw: Any) -> None:
    producer = RedisStreamProducer(redis_url)
    producer.send(TOPIC_MEDIA, "c", b"once")
    producer._sequence -= 1
    producer.send(TOPIC_MEDIA, "c", b"once")
    assert raw.xlen("ut:log:{call-media}") == 1
    producer.close()


def test_a_reader_that_fell_silent_is_replaced_and_told_so(redis_url: str, raw: Any) -> None:
    silent, successor = RedisStreamSource(redis_url), RedisStreamSource(redis_url)
    assert silent.poll(0, 1).assigned == {0}
    assert successor.poll(0, 1).assigned == frozenset()
    raw.hset("ut:log:{call-media}:group:undertone", "reader_until_ms", 0)  # its lease runs out
    assert successor.poll(0, 1).assigned == {0}
    lost = silent.poll(0, 1)
    assert lost.revoked == {0}
    assert lost.assigned == frozenset()
    RedisStreamProducer(redis_url).send(TOPIC_MEDIA, "c", b"0")
    silent.commit({0: 1})
    assert len(successor.poll(1, 1).records) == 1
    raw.hset("ut:log:{call-media}:group:undertone", "reader_until_ms", 0)
    assert successor.poll(0, 1).revoked == frozenset(), "a lease that nobody took goes on"


def test_a_redis_that_is_away_is_unavailable_and_then_read_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    process = start_redis(folder, *durable)
    producer, source = RedisStreamProducer(redis_url_of(folder)), RedisStreamSource(redis_url_of(folder))
    try:
        source.poll(0, 1)
        producer.send(TOPIC_MEDIA, "c", b"0")
        process.kill()
        process.wait()
        for use in (lambda: source.poll(0, 1), lambda: producer.send(TOPIC_MEDIA, "c", b"1"), source.backlog):
            with pytest.raises(SourceUnavailableError) as away:
                use()
            assert away.value.retry_after_s > 0
        (folder / "s").unlink(missing_ok=True)
        process = start_redis(folder, *durable)
        producer.send(TOPIC_MEDIA, "c", b"1")
        assert [record.value for record in source.poll(1, 10).records] == [b"0", b"1"]
        source.close()
        producer.close()
    finally:
        process.kill()
        process.wait()


def test_records_older_than_the_log_keeps_go_with_the_next(redis_url: str, raw: Any) -> None:
    hour_ms = 3_600_000
    now_ms = round(time.time() * 1000)
    producer = RedisStreamProducer(redis_url, retention_ms={TOPIC_MEDIA: hour_ms})
    log, state = "ut:log:{call-media}", "ut:log:{call-media}:state"
    for offset, age_ms in enumerate((3 * hour_ms, 2 * hour_ms, hour_ms // 2)):
        fields = {"key": "c", "value": "x" * 10, "headers": "[]", "appended_ms": now_ms - age_ms, "before": offset * 10}
        raw.xadd(log, fields, id=f"{offset + 1}-0")
    raw.hset(state, mapping={"next": 3, "bytes": 30, "floor": 0, "oldest_ms": now_ms - 3 * hour_ms})
    producer.send(TOPIC_MEDIA, "c", b"new")
    assert [entry for entry, _ in raw.xrange(log)] == ["3-0", "4-0"]
    assert raw.hmget(state, "floor", "oldest_ms") == ["20", str(now_ms - hour_ms // 2)]
    assert 0 < raw.pttl(log) <= hour_ms


def test_a_log_that_was_too_old_as_a_whole_goes_on_at_its_place(redis_url: str, raw: Any) -> None:
    producer = RedisStreamProducer(redis_url, log_max_bytes=1000, retention_ms={TOPIC_MEDIA: 60_000})
    producer.send(TOPIC_MEDIA, "c", bytes(900))
    raw.delete("ut:log:{call-media}")  # as when it expires
    producer.send(TOPIC_MEDIA, "c", bytes(900))
    assert [entry for entry, _ in raw.xrange("ut:log:{call-media}")] == ["2-0"]
    source = RedisStreamSource(redis_url)
    source.poll(0, 1)
    assert [record.at.offset for record in source.poll(1, 10).records] == [1]
    source.close()
    producer.close()
