"""What only Kafka has: groups, topics, and a broker that goes away."""

import gc
import threading
import time
import uuid

import pytest
from kafka.admin import ConfigResource, KafkaAdminClient

from pipelines.broker import connection_options, ensure_topics
from pipelines.errors import SourceUnavailableError, TopicMissingError
from pipelines.producer import KafkaRecordProducer
from pipelines.settings import Settings
from pipelines.source import KafkaSource
from pipelines.types import TOPIC_MEDIA
from tests.servers import free_port, start_broker
from tools.kafka.broker import start, stop

PATIENCE_S = 60.0
SESSION_S = 10.0


@pytest.fixture
def settings(kafka: str) -> Settings:
    return Settings(kafka=kafka, kafka_group=f"g-{uuid.uuid4().hex}", kafka_partitions=4)


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex}"


class Member:
    """A reader of the group with what it holds and what it has read, as the worker would know it."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.source = KafkaSource(settings, topic)
        self.held: set[int] = set()
        self.revoked: set[int] = set()
        self.read: list[tuple[int, int]] = []

    def poll(self, timeout_s: float = 0.1) -> None:
        polled = self.source.poll(timeout_s, 100)
        self.held -= polled.revoked
        self.revoked |= polled.revoked
        self.held |= polled.assigned
        self.read += [(record.at.partition, record.at.offset) for record in polled.records]
        assert {record.at.partition for record in polled.records} <= self.held


def until(*members: Member, holds: object) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():  # type: ignore[operator] # a plain condition
        assert time.monotonic() < deadline_s, [member.held for member in members]
        for member in members:
            member.poll()


def poll_until_away(member: Member) -> tuple[int, SourceUnavailableError]:
    for polls in range(1000):
        try:
            member.poll(0.2)
        except SourceUnavailableError as away:
            return polls, away
    raise AssertionError("the broker's absence was never noticed")


def send(settings: Settings, topic: str, count: int) -> None:
    producer = KafkaRecordProducer(settings)
    for number in range(count):
        producer.send(topic, f"call-{number}", b"%d" % number)
    producer.close()


@pytest.mark.slow
def test_a_new_member_takes_its_share_and_the_leaver_gives_it_back(settings: Settings, topic: str) -> None:
    send(settings, topic, 200)
    first = Member(settings, topic)
    until(first, holds=lambda: len(first.read) == 200)
    assert first.held == {0, 1, 2, 3}
    for partition in range(4):
        following = 1 + max(offset for at, offset in first.read if at == partition)
        first.source.commit({partition: following})
    second = Member(settings, topic)
    until(first, second, holds=lambda: len(first.held) == len(second.held) == 2)
    assert first.held | second.held == {0, 1, 2, 3}
    assert first.revoked == second.held, "the others went on without a break"
    send(settings, topic, 200)
    until(first, second, holds=lambda: len(first.read) + len(second.read) >= 400)
    assert len(set(first.read + second.read)) == 400, "what was committed is not read again"
    first.source.close()
    until(second, holds=lambda: second.held == {0, 1, 2, 3})
    second.source.close()


@pytest.mark.slow
def test_a_commit_that_failed_is_made_good_when_the_partition_is_revoked(settings: Settings, topic: str) -> None:
    send(settings, topic, 40)
    first = Member(settings, topic)
    until(first, holds=lambda: len(first.read) == 40)
    # As if the commits had been given while the coordinator was away.
    ends = {partition: 1 + max(offset for at, offset in first.read if at == partition) for partition in range(4)}
    first.source._changes.given.update(ends)
    second = Member(settings, topic)
    until(first, second, holds=lambda: len(second.held) == 2)
    for _ in range(10):
        second.poll()
    assert second.read == []
    first.source.close()
    second.source.close()


@pytest.mark.slow
def test_membership_outlives_pauses_and_a_busy_worker(settings: Settings, topic: str) -> None:
    send(settings, topic, 10)
    first = Member(settings, topic)
    until(first, holds=lambda: len(first.held) == 4)
    first.source.pause(first.held)
    until_s = time.monotonic() + SESSION_S + 3
    while time.monotonic() < until_s:
        first.poll(0)
        time.sleep(0.2)
    time.sleep(SESSION_S + 3)  # no poll at all: kafka-python's own thread sends the heartbeats
    first.poll()
    assert first.revoked == set()
    first.source.resume(first.held)
    until(first, holds=lambda: len(first.read) == 10)
    first.source.close()


@pytest.mark.slow
def test_a_paused_member_still_gives_partitions_to_a_new_one(settings: Settings, topic: str) -> None:
    send(settings, topic, 20)
    first, second = Member(settings, topic), Member(settings, topic)
    until(first, holds=lambda: len(first.held) == 4)
    first.source.pause(first.held)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(second.held) < 2:
        assert time.monotonic() < deadline_s
        first.poll(0)
        second.poll()
    first.source.close()
    second.source.close()


@pytest.mark.slow
def test_missing_topics_are_created_with_the_settings_they_need(settings: Settings, topic: str) -> None:
    ensure_topics(settings, [topic])
    ensure_topics(settings, [topic])
    options = connection_options(settings)
    options.pop("allow_auto_create_topics")
    admin = KafkaAdminClient(**options)
    (described,) = admin.describe_topics([topic])
    assert len(described["partitions"]) == 4
    configs = admin.describe_configs([ConfigResource("TOPIC", topic)])["topic"][topic]
    admin.close()
    assert int(configs["max.message.bytes"]["value"]) > 1 << 20
    assert configs["cleanup.policy"]["value"] == "delete"
    assert configs["message.timestamp.type"]["value"] == "LogAppendTime"


@pytest.mark.slow
def test_where_topics_may_not_be_created_the_error_says_how(settings: Settings, topic: str) -> None:
    strict = settings.model_copy(update={"kafka_create_topics": False})
    with pytest.raises(TopicMissingError, match=rf"kafka-topics.sh --bootstrap-server \S+ --create --topic {topic} "):
        KafkaSource(strict, topic).poll(0, 1)
    with pytest.raises(TopicMissingError, match="--partitions 4"):
        KafkaRecordProducer(strict).send(topic, "call", b"x")


@pytest.mark.slow
# kafka-python leaves the socket of each failed attempt to reconnect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_a_killed_broker_that_returns_is_read_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = start_broker(tmp_path_factory.mktemp("kafka"))
    settings = Settings(kafka=broker.address, kafka_partitions=1)
    try:
        producer, member = KafkaRecordProducer(settings), Member(settings, TOPIC_MEDIA)
        producer.send(TOPIC_MEDIA, "call", b"0")
        producer.flush()
        until(member, holds=lambda: len(member.read) == 1)
        stop(broker.pid, kill=True)
        polls, away = poll_until_away(member)
        assert away.retry_after_s > 0
        assert polls < 200, "waiting, not spinning"
        with pytest.raises(SourceUnavailableError):
            member.source.commit({0: 1})
        broker = start(broker.folder)
        producer.send(TOPIC_MEDIA, "call", b"1")
        producer.flush()
        deadline_s = time.monotonic() + PATIENCE_S
        while len(member.read) < 2:
            assert time.monotonic() < deadline_s
            try:
                member.poll()
            except SourceUnavailableError as error:
                time.sleep(error.retry_after_s)
        member.source.commit({0: 2})
        member.source.close()
        producer.close()
    finally:
        stop(broker.pid, kill=True)
        gc.collect()


@pytest.fixture
def nobody() -> Settings:
    return Settings(kafka=f"127.0.0.1:{free_port()}")


def test_without_a_broker_each_try_fails_by_name_and_leaves_nothing_behind(nobody: Settings) -> None:
    source, producer = KafkaSource(nobody), KafkaRecordProducer(nobody)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(SourceUnavailableError, match="UNDERTONE_KAFKA"):
            source.poll(0, 1)
        with pytest.raises(SourceUnavailableError):
            producer.send(TOPIC_MEDIA, "call", b"x")
    assert threading.active_count() == before
    assert source.backlog() == {}


@pytest.mark.parametrize("address", ["", "localhost", "a:1,b", "http://x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="UNDERTONE_KAFKA"):
        KafkaSource(Settings(kafka=address)).poll(0, 1)


def test_security_settings_reach_every_client() -> None:
    secured = Settings(
        kafka="broker:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_username="undertone",
        kafka_password="secret",  # noqa: S106 # a test's word
    )
    options = connection_options(secured)
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("undertone", "secret")
    assert "secret" not in repr(secured)
