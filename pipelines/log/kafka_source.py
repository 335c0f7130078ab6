"""Fragments from a Kafka topic, as a member of a consumer group."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from pipelines.errors import SourceUnavailableError
from pipelines.log.broker import broker_errors, connection_options, ensure_topics
from pipelines.log.header_names import tolerate_bad_header_names
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.log.rebalance import Changes, Rebalance
from pipelines.log.source import Backlog, Gap, Polled
from pipelines.settings import Settings
from pipelines.types import TOPIC_MEDIA, Coordinates, Record

logger = logging.getLogger(__name__)

_GROUP_OPTIONS = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "partition_assignment_strategy": [CooperativeStickyAssignor],
    # A killed worker's partitions move after this; heartbeats come from kafka-python's own thread, so a worker
    # that is busy for longer keeps them as long as it polls within `max_poll_interval_ms`.
    "session_timeout_ms": 6_000,  # by default the least that a broker allows
    "heartbeat_interval_ms": 1_000,  # members learn of a rebalance by them
    "max_poll_interval_ms": 120_000,
    # A topic that was not known yet when the group was formed, and partitions added later, are found after this.
    "metadata_max_age_ms": 10_000,
    # At most 16 MiB a fetch from each broker, and one fetched chunk a partition waiting to be polled.
    "fetch_max_bytes": 16 << 20,
    "max_partition_fetch_bytes": RECORD_MAX_BYTES,
    "fetch_max_wait_ms": 250,
}
_CALL_TIMEOUT_MS = 5_000
_POLL_MIN_MS = 20
_JOIN_POLL_MS = 1_000
_REBALANCE_MAX_S = 15.0
_QUIET_S = 5.0
"""After so long without a record, ask the broker something, to tell silence from absence."""

_OVERTAKEN = (
    kafka.errors.CommitFailedError,
    kafka.errors.RebalanceInProgressError,
    kafka.errors.IllegalGenerationError,
    kafka.errors.UnknownMemberIdError,
)

_UNREADABLE = (kafka.errors.CorruptRecordError, kafka.errors.UnsupportedCodecError)
"""After one of these kafka-python 3.0.12 never returns from its next poll: only another consumer can go on."""


class KafkaSource:
    """`Source` over one Kafka topic and the consumer group of `settings`; connects at the first poll."""

    def __init__(self, settings: Settings, topic: str = TOPIC_MEDIA) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer: KafkaConsumer | None = None
        self._changes = Changes()
        self._read: dict[int, _Read] = {}
        self._heard_s = time.monotonic()
        """When the broker was last heard of, by the monotonic clock."""

    def poll(self, timeout_s: float, records_max: int) -> Polled:
        """See `Source.poll`."""
        consumer = self._connected()
        with broker_errors("polling"):
            try:
                fetched = _fetched(consumer, timeout_s, records_max)
            except _UNREADABLE:
                self._changes.revoke({partition.partition for partition in consumer.assignment()})
                self.close()
                raise
        if fetched:
            self._heard_s = time.monotonic()
        elif time.monotonic() - self._heard_s > _QUIET_S:
            self._ends(consumer)
        self._forget_changed()
        try:
            gaps = self._gaps(consumer, fetched)
        except SourceUnavailableError:
            # The consumer has gone past what it gave us; `next` stays, so that the gap is seen again.
            for partition, raws in fetched.items():
                with suppress(ValueError):  # revoked meanwhile, as the next poll will say
                    consumer.seek(partition, raws[0].offset)
            raise
        # Nothing may fail from here on: what is taken is told once.
        revoked, assigned = self._changes.take()
        owned = consumer.assignment()
        records = tuple(record_of(raw) for partition, raws in fetched.items() if partition in owned for raw in raws)
        for record in records:
            read = self._of(record.at.partition)
            read.next, read.appended_ms = record.at.offset + 1, record.appended_ms
        return Polled(records, assigned, revoked, gaps)

    def _gaps(self, consumer: KafkaConsumer, fetched: Mapping[TopicPartition, Any]) -> tuple[Gap, ...]:
        """Where records were dropped that should have come next. Offsets also jump over transactions' markers."""
        expected = {
            partition: following
            for partition, raws in fetched.items()
            if raws and (following := self._following(consumer, partition)) is not None and raws[0].offset > following
        }
        if not expected:
            return ()
        with broker_errors("asking for the starts of the partitions"):
            starts = consumer.beginning_offsets(list(expected), timeout_ms=_CALL_TIMEOUT_MS)
        return tuple(
            Gap(partition.partition, following, min(starts[partition], fetched[partition][0].offset))
            for partition, following in expected.items()
            if starts[partition] > following
        )

    def _following(self, consumer: KafkaConsumer, partition: TopicPartition) -> int | None:
        read = self._of(partition.partition)
        if read.next is None:
            with broker_errors("asking for a committed offset"):
                read.next = consumer.committed(partition, timeout_ms=_CALL_TIMEOUT_MS)
        return read.next

    def pause(self, partitions: Collection[int]) -> None:
        """See `Source.pause`."""
        self._on_assigned(partitions, KafkaConsumer.pause)

    def resume(self, partitions: Collection[int]) -> None:
        """See `Source.resume`."""
        self._on_assigned(partitions, KafkaConsumer.resume)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Source.commit`."""
        if self._consumer is None:
            return
        owned = {partition.partition for partition in self._consumer.assignment()}
        wanted = {partition: offset for partition, offset in offsets.items() if partition in owned}
        if not wanted:
            return
        self._changes.given.update(wanted)
        try:
            self._consumer.commit(self._offsets(wanted), timeout_ms=_CALL_TIMEOUT_MS)
        except _OVERTAKEN as error:
            logger.info("commit overtaken by a rebalance: %s", error)
            return
        except kafka.errors.KafkaError as error:
            raise SourceUnavailableError(f"Kafka, committing: {error}; check the broker") from error
        for partition, offset in wanted.items():
            if self._changes.given.get(partition) == offset:
                self._changes.given.pop(partition, None)

    def seek(self, partition: int, offset: int) -> None:
        """See `Source.seek`."""
        with suppress(ValueError):  # revoked meanwhile, as the next poll will say
            self._connected().seek(TopicPartition(self._topic, partition), offset)
            self._of(partition).next = offset

    def committed(self, partition: int) -> int | None:
        """See `Source.committed`."""
        with broker_errors("asking for a committed offset"):
            found: int | None = self._connected().committed(
                TopicPartition(self._topic, partition), timeout_ms=_CALL_TIMEOUT_MS
            )
        return found

    def backlog(self) -> Mapping[int, Backlog]:
        """See `Source.backlog`."""
        consumer = self._consumer
        if consumer is None:
            return {}
        self._forget_changed()
        now_ms = round(time.time() * 1000)
        with broker_errors("asking for positions"):
            positions = {
                partition: consumer.position(partition, timeout_ms=_CALL_TIMEOUT_MS)
                for partition in consumer.assignment()
            }
        ends = self._ends(consumer)
        return {
            partition.partition: self._of(partition.partition).backlog(ends[partition] - position, now_ms)
            for partition, position in positions.items()
            if position is not None and partition in ends
        }

    def close(self) -> None:
        """See `Source.close`."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(timeout_ms=_CALL_TIMEOUT_MS)

    def _connected(self) -> KafkaConsumer:
        if self._consumer is None:
            ensure_topics(self._settings, [self._topic])
            tolerate_bad_header_names()
            with broker_errors("joining the group"):
                consumer = KafkaConsumer(
                    group_id=self._settings.kafka_group, **_GROUP_OPTIONS, **connection_options(self._settings)
                )
                consumer.subscribe([self._topic], listener=Rebalance(self._changes, consumer, self._offsets))
            self._consumer = consumer
            self._read.clear()
            self._heard_s = time.monotonic()
        return self._consumer

    def _on_assigned(self, partitions: Collection[int], do: Callable[..., None]) -> None:
        if self._consumer is None:
            return
        for owned in self._consumer.assignment():
            if owned.partition in partitions:
                with suppress(kafka.errors.IllegalStateError):  # revoked meanwhile, as the next poll will say
                    do(self._consumer, owned)

    def _ends(self, consumer: KafkaConsumer) -> Mapping[TopicPartition, int]:
        with broker_errors("asking for the ends of the partitions"):
            ends: Mapping[TopicPartition, int] = consumer.end_offsets(
                list(consumer.assignment()) or [TopicPartition(self._topic, 0)], timeout_ms=_CALL_TIMEOUT_MS
            )
        self._heard_s = time.monotonic()
        return ends

    def _of(self, partition: int) -> "_Read":
        return self._read.setdefault(partition, _Read())

    def _forget_changed(self) -> None:
        """A partition that is lost, or won back, begins anew: others have read in it meanwhile."""
        for partition in self._changes.pending():
            self._read.pop(partition, None)

    def _offsets(self, offsets: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in offsets.items()
        }


@dataclass(slots=True)
class _Read:
    """How far an assigned partition is read, and since when something of it may wait."""

    next: int | None = None
    """The offset it goes on with, where that is known."""
    appended_ms: int = 0
    """When the log took the newest record read, ms since 1970."""
    caught_up_ms: int = 0
    """When nothing was left to read."""

    def backlog(self, lag_records: int, now_ms: int) -> Backlog:
        """The oldest record not polled came after the newest polled one, and after nothing was left to poll."""
        if lag_records <= 0:
            self.caught_up_ms = now_ms
            return Backlog(0, 0)
        since_ms = max(self.appended_ms, self.caught_up_ms)
        return Backlog(lag_records, max(0, now_ms - since_ms) if since_ms else 0)


def _fetched(consumer: KafkaConsumer, timeout_s: float, records_max: int) -> Mapping[TopicPartition, Any]:
    # kafka-python 3.0.12 keeps the rest of a batch whose partition is paused in its middle, and after the resume goes on
    # with it only where this is None: a batch of another partition, read to its end meanwhile, would keep it for ever.
    fetcher = consumer._fetcher  # noqa: SLF001
    fetcher._next_partition_records = fetcher._next_partition_records or None  # noqa: SLF001
    fetched = consumer.poll(timeout_ms=max(_POLL_MIN_MS, round(timeout_s * 1000)), max_records=records_max)
    # kafka-python 3.0.12 throws away a join that is answered while nobody polls, and asks for another one:
    # members that poll briefly would rebalance for ever, so stay until it is done, or for long.
    deadline_s = time.monotonic() + _REBALANCE_MAX_S
    while not _settled(consumer):
        # Before every way out: a join that follows from new metadata is not asked for again if the poll ends in its
        # middle, and the member reads nothing for ever (in Kafka's own client that was KAFKA-9815).
        consumer._coordinator.request_rejoin()  # noqa: SLF001  # kafka-python offers no other way
        if fetched or time.monotonic() > deadline_s:
            break
        fetched = consumer.poll(timeout_ms=_JOIN_POLL_MS, max_records=records_max)
    return fetched  # type: ignore[no-any-return]  # kafka-python ships no types


def _settled(consumer: KafkaConsumer) -> bool:
    return bool(consumer.group_metadata().state == MemberState.STABLE)


def record_of(raw: Any) -> Record:
    """A record as kafka-python gives it."""
    return Record(
        at=Coordinates(raw.partition, raw.offset),
        key=raw.key,
        value=raw.value or b"",
        headers=tuple((name, value or b"") for name, value in raw.headers or ()),
        appended_ms=max(0, raw.timestamp or 0),
    )
