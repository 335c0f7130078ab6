"""What only Kafka has: groups, topics, and a broker that goes away."""

import gc
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, KafkaAdminClient
from kafka.errors import KafkaTimeoutError
from kafka.record.default_records import DefaultRecordBatch

from pipelines.errors import SourceUnavailableError, TopicMissingError
from pipelines.log import header_names
from pipelines.log import kafka_source as source_module
from pipelines.log.broker import connection_options, ensure_topics
from pipelines.log.kafka_producer import KafkaRecordProducer
from pipelines.log.kafka_source import KafkaSource
from pipelines.log.source import Backlog
from pipelines.settings import Settings
from pipelines.types import TOPIC_MEDIA, Record
from tests.chaos.proxy import Proxy
from tests.eventually import wait_until
from tests.servers import free_port, start_broker
from tools.kafka.broker import start, stop

PATIENCE_S = 60.0
SESSION_S = 6.0


@pytest.fixture
def settings(kafka: str) -> Settings:
    return Settings(kafka=kafka, kafka_group=f"g-{uuid.uuid4().hex}", kafka_partitions=4)


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex}"


class Member:
    """A worker of the group in a thread of its own, with what it holds and what it has read.

    `poll_s` is how long each of its polls waits; between them it is busy for `busy_s`.
    """

    def __init__(self, settings: Settings, topic: str, *, poll_s: float = 0.1, busy_s: float = 0.02) -> None:
        self.source = KafkaSource(settings, topic)
        self.held: set[int] = set()
        self.revoked: set[int] = set()
        self.read: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self._poll_s, self._busy_s = poll_s, busy_s
        self._orders: queue.Queue[tuple[Callable[[KafkaSource], None], threading.Event]] = queue.Queue()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def do(self, order: Callable[[KafkaSource], None]) -> None:
        """Have the member's own thread do something with its source."""
        done = threading.Event()
        self._orders.put((order, done))
        assert done.wait(PATIENCE_S), self.error

    def commit_everything(self) -> None:
        ends: dict[int, int] = {}
        for partition, offset in self.read:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        self.do(lambda source: source.commit(ends))

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join(PATIENCE_S)
        assert self.error is None

    def _work(self) -> None:
        try:
            while not self._leaving.is_set():
                self._poll()
                while not self._orders.empty():
                    order, done = self._orders.get()
                    order(self.source)
                    done.set()
                time.sleep(self._busy_s)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.source.close()

    def _poll(self) -> None:
        polled = self.source.poll(self._poll_s, 100)
        self.held -= polled.revoked
        self.revoked |= polled.revoked
        self.held |= polled.assigned
        self.read += [(record.at.partition, record.at.offset) for record in polled.records]
        assert {record.at.partition for record in polled.records} <= self.held


def wait_for(condition: Callable[[], bool], *members: Member) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert [member.error for member in members] == [None] * len(members)
        assert time.monotonic() < deadline_s, [(member.held, len(member.read)) for member in members]
        time.sleep(0.02)


def poll_until_away(source: KafkaSource) -> tuple[int, SourceUnavailableError]:
    for polls in range(1000):
        try:
            source.poll(0.2, 10)
        except SourceUnavailableError as away:
            return polls, away
    raise AssertionError("the broker's absence was never noticed")


def read_one(source: KafkaSource) -> bytes:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            records = source.poll(0.2, 1).records
        except SourceUnavailableError as away:
            time.sleep(away.retry_after_s)
        else:
            if records:
                return records[0].value
    raise AssertionError("no record came")


def send(settings: Settings, topic: str, count: int) -> None:
    producer = KafkaRecordProducer(settings)
    for number in range(count):
        producer.send(topic, f"call-{number}", b"%d" % number)
    producer.close()


@pytest.mark.slow
@pytest.mark.parametrize("poll_s", [0.2, 0])
def test_a_new_member_takes_its_share_and_the_leaver_gives_it_back(
    settings: Settings, topic: str, poll_s: float
) -> None:
    send(settings, topic, 200)
    first = Member(settings, topic, poll_s=poll_s)
    wait_for(lambda: len(first.read) == 200, first)
    assert first.held == {0, 1, 2, 3}
    first.commit_everything()
    second = Member(settings, topic, poll_s=poll_s)
    wait_for(lambda: len(first.held) == len(second.held) == 2, first, second)
    assert first.held | second.held == {0, 1, 2, 3}
    assert first.revoked == second.held, "the others were never taken from the first"
    send(settings, topic, 200)
    wait_for(lambda: len(first.read) + len(second.read) >= 400, first, second)
    assert len(set(first.read + second.read)) == 400, "what was committed is not read again"
    first.commit_everything()
    first.leave()
    wait_for(lambda: second.held == {0, 1, 2, 3}, second)
    assert len(second.read) == len(set(second.read))
    second.leave()


@pytest.mark.slow
def test_a_partition_that_is_paused_in_the_middle_of_a_batch_is_read_on(settings: Settings, topic: str) -> None:
    ensure_topics(settings, [topic])
    with closing(KafkaProducer(bootstrap_servers=settings.kafka, linger_ms=100)) as producer:
        for number in range(5):
            producer.send(topic, b"%d" % number, partition=0)
        producer.flush()
        with closing(KafkaSource(settings, topic)) as source:
            read = list(wait_until(lambda: source.poll(0.2, 2).records))
            source.pause([0])
            producer.send(topic, b"meanwhile", partition=1)
            producer.flush()
            assert wait_until(lambda: source.poll(0.2, 2).records)[0].value == b"meanwhile"
            source.resume([0])
            while len(read) < 5:
                read += wait_until(lambda: source.poll(0.2, 2).records)
    assert [record.value for record in read] == [b"%d" % number for number in range(5)]


@pytest.mark.slow
def test_the_age_of_a_partition_that_is_won_back_says_nothing_of_the_first_stay(settings: Settings, topic: str) -> None:
    """Another member has read it meanwhile: an hour-old record of then must not start a replica now."""
    hour_ago_ms = round(time.time() * 1000) - 3_600_000
    options = connection_options(settings)
    options.pop("allow_auto_create_topics")
    with closing(KafkaAdminClient(**options)) as admin:  # the product's topics take the broker's time
        configs = {"message.timestamp.type": "CreateTime"}
        admin.create_topics({topic: {"num_partitions": 4, "configs": configs}}, wait_for_metadata=True)
    with closing(KafkaProducer(bootstrap_servers=settings.kafka)) as producer:
        for partition in range(4):
            producer.send(topic, b"old", partition=partition, timestamp_ms=hour_ago_ms)
    first = Member(settings, topic)
    wait_for(lambda: len(first.read) == 4, first)
    first.commit_everything()
    second = Member(settings, topic)
    wait_for(lambda: len(first.held) == len(second.held) == 2, first, second)
    moved = set(second.held)
    second.leave()
    wait_for(lambda: len(first.held) == 4, first)
    first.do(lambda source: source.pause(range(4)))
    send(settings, topic, 40)
    waiting: dict[int, Backlog] = {}

    def asked() -> bool:
        first.do(lambda source: waiting.update(source.backlog()))
        return all(waiting[partition].lag_records for partition in range(4))

    wait_for(asked, first)
    assert all(waiting[partition].oldest_age_ms < 60_000 for partition in moved)
    first.leave()


@pytest.mark.slow
def test_a_commit_that_failed_is_made_good_when_the_partition_is_revoked(settings: Settings, topic: str) -> None:
    send(settings, topic, 40)
    first = Member(settings, topic)
    wait_for(lambda: len(first.read) == 40, first)
    # As if the commits had been given while the coordinator was away.
    for partition, offset in first.read:
        first.source._changes.given[partition] = offset + 1
    second = Member(settings, topic)
    wait_for(lambda: len(second.held) == 2, first, second)
    send(settings, topic, 40)
    wait_for(lambda: len(first.read) + len(second.read) >= 80, first, second)
    assert set(first.read) & set(second.read) == set()
    first.leave()
    second.leave()


@pytest.mark.slow
def test_membership_outlives_pauses_and_a_busy_worker(settings: Settings, topic: str) -> None:
    first = Member(settings, topic, poll_s=0)
    wait_for(lambda: len(first.held) == 4, first)
    first.do(lambda source: source.pause(first.held))
    send(settings, topic, 10)
    time.sleep(SESSION_S + 3)  # polls, but everything is paused
    first.do(lambda _: time.sleep(SESSION_S + 3))  # no poll at all: kafka-python's own thread sends the heartbeats
    assert first.revoked == set()
    assert first.read == []
    first.do(lambda source: source.resume(first.held))
    wait_for(lambda: len(first.read) == 10, first)
    first.leave()


@pytest.mark.slow
def test_a_paused_member_still_gives_partitions_to_a_new_one(settings: Settings, topic: str) -> None:
    first = Member(settings, topic, poll_s=0)
    wait_for(lambda: len(first.held) == 4, first)
    first.do(lambda source: source.pause(first.held))
    second = Member(settings, topic)
    wait_for(lambda: len(second.held) == len(first.held) == 2, first, second)
    send(settings, topic, 40)
    wait_for(lambda: {at for at, _ in second.read} == second.held, first, second)
    assert first.read == [], "what it kept stays paused"
    first.leave()
    second.leave()


class BytesName(str):
    """A header's name as a client of another language may send it."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfename"


def send_odd_header_names(settings: Settings, topic: str) -> None:
    ensure_topics(settings, [topic])
    options = connection_options(settings)
    options.pop("allow_auto_create_topics")
    producer = KafkaProducer(linger_ms=500, **options)  # all in one batch, good before and after bad
    for number in range(6):
        name = BytesName("x") if number in {2, 4} else "stream"
        producer.send(topic, key=b"call", value=b"%d" % number, headers=[(name, b"main")])
    producer.close()


@pytest.mark.slow
def test_a_header_name_that_is_no_utf8_neither_stops_the_partition_nor_loses_a_record(
    settings: Settings, topic: str
) -> None:
    settings = settings.model_copy(update={"kafka_partitions": 1})
    send_odd_header_names(settings, topic)
    source = KafkaSource(settings, topic)
    records: list[Record] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(records) < 6 and time.monotonic() < deadline_s:
        records += source.poll(0.2, 1).records
    source.close()
    assert [record.value for record in records] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [name for record in records for name, _ in record.headers] == [
        *("stream", "stream", "\ufffd\ufffdname", "stream", "\ufffd\ufffdname", "stream"),
    ]


@pytest.mark.slow
def test_what_kafka_python_cannot_read_fails_each_poll_by_name_and_hangs_none(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As kafka-python would read it: the only record that both a broker takes and its decoder does not.
    monkeypatch.setattr(source_module, "tolerate_bad_header_names", lambda: None)
    monkeypatch.setattr(DefaultRecordBatch, "_read_msg", header_names._read_strictly)
    settings = settings.model_copy(update={"kafka_partitions": 1})
    send_odd_header_names(settings, topic)
    source = KafkaSource(settings, topic)
    failures, held = 0, set[int]()
    deadline_s = time.monotonic() + PATIENCE_S
    while failures < 2 and time.monotonic() < deadline_s:
        try:
            polled = source.poll(0.2, 10)
            assert polled.assigned.isdisjoint(held - polled.revoked), "what was lost with the consumer is told"
            held = held - polled.revoked | polled.assigned
        except SourceUnavailableError as failed:
            assert "CorruptRecordError" in str(failed)  # noqa: PT017  # it fails at one poll of many
            failures += 1
    source.close()
    assert failures == 2


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
def test_a_killed_broker_that_returns_is_read_on(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="kafka")  # its log records would keep those sockets alive
    broker = start_broker(tmp_path_factory.mktemp("kafka"))
    settings = Settings(kafka=broker.address, kafka_partitions=1)
    try:
        producer, source = KafkaRecordProducer(settings), KafkaSource(settings)
        producer.send(TOPIC_MEDIA, "call", b"0")
        producer.flush()
        assert read_one(source) == b"0"
        stop(broker.pid, kill=True)
        source._changes.assign({0})
        source._heard_s = 0.0  # long quiet: the next poll asks the broker, which is away
        with pytest.raises(SourceUnavailableError):
            source.poll(0, 1)
        assert source._changes.take() == (frozenset(), frozenset({0})), (
            "what a failed poll could not tell, the next one tells"
        )
        source._heard_s = time.monotonic()
        polls, away = poll_until_away(source)
        assert away.retry_after_s > 0
        assert polls < 200, "waiting, not spinning"
        with pytest.raises(SourceUnavailableError):
            source.commit({0: 1})
        broker = start(broker.folder)
        producer.send(TOPIC_MEDIA, "call", b"1")
        producer.flush()
        while read_one(source) != b"1":
            pass  # a broker away for longer than a session has forgotten its members: they begin at the commits
        source.commit({0: 2})
        source.close()
        producer.close()
    finally:
        stop(broker.pid, kill=True)
        gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_producer_that_is_given_up_with_its_broker_away_leaves_no_thread_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    broker = start_broker(tmp_path_factory.mktemp("kafka"))
    try:
        producer = KafkaRecordProducer(Settings(kafka=broker.address, kafka_partitions=1))
        before = threading.active_count()
        producer.send(TOPIC_MEDIA, "call", b"0")
        producer.flush()
        stop(broker.pid, kill=True)
        producer.send(TOPIC_MEDIA, "call", b"1")
        producer._drop()  # as when a record is not acknowledged in time, which takes 30 s
        assert threading.active_count() == before
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


@pytest.mark.slow
def test_records_that_came_while_the_broker_could_not_be_asked_come_again(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(settings, [topic])
    with closing(KafkaRecordProducer(settings)) as producer:
        for number in range(5):
            producer.send(topic, "c", str(number).encode())
        producer.flush()
    asked = KafkaConsumer.committed
    failures = iter([KafkaTimeoutError("asked to fail")])

    def failing(consumer: KafkaConsumer, *args: Any, **options: Any) -> Any:
        for failure in failures:
            raise failure
        return asked(consumer, *args, **options)

    monkeypatch.setattr(KafkaConsumer, "committed", failing)
    source, read = KafkaSource(settings, topic), list[bytes]()
    deadline_s = time.monotonic() + PATIENCE_S
    failed = 0
    while len(read) < 5 and time.monotonic() < deadline_s:
        try:
            read += [record.value for record in source.poll(0.2, 100).records]
        except SourceUnavailableError:
            failed += 1
    source.close()
    assert (failed, read) == (1, [b"0", b"1", b"2", b"3", b"4"])


@pytest.mark.slow
def test_partitions_that_are_added_later_are_read(tmp_path_factory: pytest.TempPathFactory, topic: str) -> None:
    """Also where polls end in the middle of the rebalance, because the broker takes its time."""
    port, held = free_port(), set[int]()
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(Proxy(port)))
        address = f"127.0.0.1:{proxy.port}"
        broker = start_broker(tmp_path_factory.mktemp("kafka"), port, advertised=address)
        stack.callback(stop, broker.pid, kill=True)
        settings = Settings(kafka=address, kafka_group="g", kafka_partitions=4)
        ensure_topics(settings, [topic])
        send(settings, topic, 1)
        source = stack.enter_context(closing(KafkaSource(settings, topic)))
        assert read_one(source) == b"0"
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.create_partitions({topic: 5})
        admin.close()
        proxy.delay_s = 1.2 * source_module._JOIN_POLL_MS / 1000
        deadline_s = time.monotonic() + PATIENCE_S
        while 4 not in held and time.monotonic() < deadline_s:
            with suppress(SourceUnavailableError):  # while the broker moves leaders, it may not say how far they are
                held |= source.poll(0.1, 100).assigned
    assert 4 in held
