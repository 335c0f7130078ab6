"""The contract of sources and producers, over both logs; what only Kafka has is in test_source_kafka.py."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import pytest
import redis
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from pipelines.errors import BadFragmentError
from pipelines.log.broker import connection_options
from pipelines.log.kafka_producer import KafkaRecordProducer
from pipelines.log.kafka_source import KafkaSource
from pipelines.log.producer import Producer
from pipelines.log.redis_streams import RedisStreamProducer, RedisStreamSource, RedisTopicReader
from pipelines.log.source import Backlog, Gap, Polled, Source
from pipelines.log.topic_reader import Extent, KafkaTopicReader, TopicReader
from pipelines.settings import Settings
from pipelines.types import Record

PATIENCE_S = 60.0

T = TypeVar("T", Source, Producer, TopicReader)


@dataclass(frozen=True)
class Log:
    """A topic of its own with one partition, and who may read and write it; all are closed at the end."""

    topic: str
    source: Callable[[], Source]
    producer: Callable[[], Producer]
    reader: Callable[[], TopicReader]
    drop_before: Callable[[int], None]
    """What retention does: the records below this offset are gone."""

    def fill(self, *values: bytes) -> None:
        producer = self.producer()
        for value in values:
            producer.send(self.topic, "call", value)
        producer.flush()


@pytest.fixture(params=["redis", pytest.param("kafka", marks=pytest.mark.slow)])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    topic = f"t-{uuid.uuid4().hex}"
    with ExitStack() as closing:

        def closed(opened: T) -> T:
            closing.callback(opened.close)
            return opened

        if request.param == "redis":
            url: str = request.getfixturevalue("redis_url")
            client = closing.enter_context(redis.Redis.from_url(url))
            yield Log(
                topic,
                lambda: closed(RedisStreamSource(url, topic)),
                lambda: closed(RedisStreamProducer(url, waiting_topics=[topic])),
                lambda: closed(RedisTopicReader(url, topic)),
                lambda offset: client.xtrim(f"ut:log:{{{topic}}}", minid=f"{offset + 1}-0", approximate=False),
            )
        else:
            settings = Settings(kafka=request.getfixturevalue("kafka"), kafka_group=topic, kafka_partitions=1)
            yield Log(
                topic,
                lambda: closed(KafkaSource(settings, topic)),
                lambda: closed(KafkaRecordProducer(settings)),
                lambda: closed(KafkaTopicReader(settings, topic)),
                lambda offset: delete_records(settings, topic, offset),
            )


def delete_records(settings: Settings, topic: str, before: int) -> None:
    """Have Kafka drop the records of partition 0 below an offset."""
    options = connection_options(settings)
    options.pop("allow_auto_create_topics")
    admin = KafkaAdminClient(**options)
    try:
        admin.delete_records({TopicPartition(topic, 0): before})
    finally:
        admin.close()


def polled_until(source: Source, enough: Callable[[list[Polled]], bool]) -> list[Polled]:
    polls: list[Polled] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(polls):
        assert time.monotonic() < deadline_s, f"waited in vain after {polls[-3:]}"
        polls.append(source.poll(0.2, 100))
    return polls


def read(source: Source, count: int) -> list[Record]:
    """The next `count` records, however many polls they take."""
    polls = polled_until(source, lambda polls: sum(len(polled.records) for polled in polls) >= count)
    return [record for polled in polls for record in polled.records]


def joined(source: Source) -> None:
    """Wait until the source holds the partition."""
    polled_until(source, lambda polls: any(polled.assigned for polled in polls))


def test_records_come_as_they_were_sent_and_in_order(log: Log) -> None:
    producer = log.producer()
    headers = (("v", b"1"), ("odd", bytes(range(256))), ("odd", "ж".encode()), ("empty", b""))
    producer.send(log.topic, "call:1", bytes(range(256)), headers)
    for number in range(50):
        producer.send(log.topic, "call:1", b"%d" % number)
    producer.flush()
    first, *rest = read(log.source(), 51)
    assert (first.key, first.value, first.headers) == (b"call:1", bytes(range(256)), headers)
    assert [record.value for record in rest] == [b"%d" % number for number in range(50)]
    assert [(record.at.partition, record.at.offset) for record in (first, *rest)] == [(0, n) for n in range(51)]
    assert first.appended_ms > 1_700_000_000_000


def test_a_poll_gives_no_more_than_asked_for(log: Log) -> None:
    log.fill(*(b"x" * 10,) * 9)
    source = log.source()
    counts: list[int] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while sum(counts) < 9 and time.monotonic() < deadline_s:
        counts.append(len(source.poll(0.2, 2).records))
    assert sum(counts) == 9
    assert max(counts) == 2


def test_the_largest_fragment_passes_and_an_absurd_one_is_refused(log: Log) -> None:
    log.fill(bytes(1 << 20), b"last")
    assert [len(record.value) for record in read(log.source(), 2)] == [1 << 20, 4]
    with pytest.raises(BadFragmentError) as refused:
        log.producer().send(log.topic, "call", bytes((2 << 20) + 1))
    assert refused.value.reason == "oversize"


def test_a_successor_starts_where_was_committed(log: Log) -> None:
    log.fill(b"0", b"1", b"2", b"3")
    first = log.source()
    read(first, 4)
    first.commit({0: 2})
    first.close()
    assert [record.value for record in read(log.source(), 2)] == [b"2", b"3"]


def test_without_a_commit_a_successor_starts_at_the_oldest_record(log: Log) -> None:
    log.fill(b"0", b"1")
    first = log.source()
    read(first, 2)
    first.close()
    assert [record.value for record in read(log.source(), 2)] == [b"0", b"1"]


def test_a_partition_of_another_is_not_committed(log: Log) -> None:
    log.fill(b"0", b"1")
    source = log.source()
    source.commit({0: 2})
    read(source, 2)
    source.commit({7: 5})
    source.close()
    assert len(read(log.source(), 2)) == 2


def test_a_second_reader_waits_until_the_first_leaves(log: Log) -> None:
    log.fill(b"0")
    first, second = log.source(), log.source()
    assert len(read(first, 1)) == 1
    for _ in range(5):
        first.poll(0.1, 10)
        assert not second.poll(0.1, 10).records
    first.commit({0: 1})
    first.close()
    joined(second)
    log.fill(b"1")
    assert [record.value for record in read(second, 1)] == [b"1"]


def test_while_paused_nothing_comes_and_afterwards_everything(log: Log) -> None:
    source = log.source()
    joined(source)
    source.pause([0])
    log.fill(b"0", b"1")
    for timeout_s in (0, 0.2, 0, 0.2, 0):
        assert source.poll(timeout_s, 10).records == ()
    source.resume([0])
    assert [record.value for record in read(source, 2)] == [b"0", b"1"]


def test_pausing_partitions_of_others_changes_nothing(log: Log) -> None:
    source = log.source()
    source.pause([0])
    joined(source)
    source.pause([3])
    log.fill(b"0")
    assert len(read(source, 1)) == 1


def test_seek_goes_back_and_forward(log: Log) -> None:
    log.fill(*(b"%d" % number for number in range(6)))
    source = log.source()
    read(source, 6)
    source.seek(0, 2)
    assert [record.value for record in read(source, 4)] == [b"2", b"3", b"4", b"5"]
    source.seek(0, 5)
    assert [record.value for record in read(source, 1)] == [b"5"]


def test_what_was_dropped_before_it_was_read_is_a_gap(log: Log) -> None:
    log.fill(*(b"%d" % number for number in range(4)))
    first = log.source()
    read(first, 2)
    first.commit({0: 2})
    assert first.committed(0) == 2
    first.close()
    log.fill(*(b"%d" % number for number in range(4, 8)))
    log.drop_before(5)
    polls = polled_until(log.source(), lambda polls: any(polled.records for polled in polls))
    assert [polled.gaps for polled in polls if polled.gaps] == [(Gap(0, 2, 5),)]
    assert polls[-1].records[0].at.offset == 5


def test_going_back_behind_what_the_log_keeps_is_a_gap(log: Log) -> None:
    log.fill(*(b"%d" % number for number in range(6)))
    source = log.source()
    read(source, 6)
    log.drop_before(4)
    source.seek(0, 1)
    polls = polled_until(source, lambda polls: any(polled.records for polled in polls))
    assert [polled.gaps for polled in polls if polled.gaps] == [(Gap(0, 1, 4),)]


def test_reading_on_and_over_without_loss_is_no_gap(log: Log) -> None:
    log.fill(*(b"%d" % number for number in range(6)))
    source = log.source()
    polls = polled_until(source, lambda polls: sum(len(polled.records) for polled in polls) >= 6)
    source.seek(0, 2)
    polls += polled_until(source, lambda polls: sum(len(polled.records) for polled in polls) >= 4)
    assert {polled.gaps for polled in polls} == {()}


def test_a_reader_sees_what_a_topic_holds_and_disturbs_nobody(log: Log) -> None:
    assert log.reader().extents() == {}
    log.fill(*(b"%d" % number for number in range(6)))
    source = log.source()
    read(source, 6)
    source.commit({0: 3})
    log.drop_before(2)
    reader = log.reader()
    extents = reader.extents()
    assert extents == {0: Extent(2, 6, 3)}
    log.fill(b"later")
    for _ in range(2):
        assert [record.value for record in reader.records(extents)] == [b"2", b"3", b"4", b"5"]
    assert [record.value for record in reader.records({0: Extent(4, 5, None)})] == [b"4"]
    assert list(reader.records(extents, since_ms=32_503_680_000_000)) == []
    assert [record.at.offset for record in read(source, 1)] == [6]


def test_the_backlog_is_what_was_not_polled(log: Log) -> None:
    source = log.source()
    assert source.backlog() == {}
    joined(source)
    assert source.backlog() == {0: Backlog(0, 0)}
    source.pause([0])
    log.fill(b"0", b"1", b"2")
    behind = source.backlog()[0]
    assert behind.lag_records == 3
    assert 0 <= behind.oldest_age_ms < PATIENCE_S * 1000
    source.resume([0])
    read(source, 3)
    assert source.backlog() == {0: Backlog(0, 0)}


def test_closing_twice_or_unused_is_no_error(log: Log) -> None:
    source, producer = log.source(), log.producer()
    source.close()
    source.close()
    producer.close()
    producer.close()
