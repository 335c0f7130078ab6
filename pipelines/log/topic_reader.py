"""Reading a topic again, apart from any group: for audits, dead letters and replays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition

from pipelines.errors import SourceUnavailableError
from pipelines.log.broker import broker_errors, connection_options, require_broker
from pipelines.log.header_names import tolerate_bad_header_names
from pipelines.log.kafka_source import record_of
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.settings import Settings
from pipelines.types import Record


@dataclass(frozen=True, slots=True)
class Extent:
    """What a partition holds: the offsets in `[start, end)`; a new reader of the group starts at `committed`."""

    start: int
    end: int
    committed: int | None


class TopicReader(Protocol):
    """Reads one topic without joining its group; every method raises `SourceUnavailableError` when the log is away."""

    def extents(self) -> Mapping[int, Extent]:
        """What each partition holds now; none where the topic does not exist."""

    def records(self, extents: Mapping[int, Extent], since_ms: int = 0) -> Iterator[Record]:
        """The records in these extents that the log took at `since_ms` or later, in order per partition."""

    def close(self) -> None:
        """Disconnect."""


_CALL_TIMEOUT_MS = 15_000
_POLL_MS = 500
_EMPTY_POLLS_MAX = 60


class KafkaTopicReader:
    """`TopicReader` over Kafka; it joins no group."""

    def __init__(self, settings: Settings, topic: str) -> None:
        require_broker(settings)
        tolerate_bad_header_names()
        self._topic = topic
        with broker_errors("connecting a reader"):
            self._consumer = KafkaConsumer(
                group_id=settings.kafka_group,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=RECORD_MAX_BYTES,
                **connection_options(settings),
            )

    def extents(self) -> Mapping[int, Extent]:
        """See `TopicReader.extents`."""
        with broker_errors(f"looking at {self._topic}"):
            partitions = [
                TopicPartition(self._topic, number)
                for number in sorted(self._consumer.partitions_for_topic(self._topic) or ())
            ]
            if not partitions:
                return {}
            starts = self._consumer.beginning_offsets(partitions, timeout_ms=_CALL_TIMEOUT_MS)
            ends = self._consumer.end_offsets(partitions, timeout_ms=_CALL_TIMEOUT_MS)
            return {
                one.partition: Extent(
                    starts[one], ends[one], self._consumer.committed(one, timeout_ms=_CALL_TIMEOUT_MS)
                )
                for one in partitions
            }

    def records(self, extents: Mapping[int, Extent], since_ms: int = 0) -> Iterator[Record]:
        """See `TopicReader.records`."""
        for number, extent in extents.items():
            partition = TopicPartition(self._topic, number)
            with broker_errors(f"reading {self._topic}"):
                self._consumer.assign([partition])
                start = extent.start
                if since_ms:
                    found = self._consumer.offsets_for_times({partition: since_ms}, timeout_ms=_CALL_TIMEOUT_MS)
                    start = found[partition].offset if found.get(partition) is not None else extent.end
                if start < extent.end:
                    self._consumer.seek(partition, start)
            yield from self._until(partition, start, extent.end)

    def _until(self, partition: TopicPartition, start: int, end: int) -> Iterator[Record]:
        position, empty_polls = start, 0
        while position < end:
            with broker_errors(f"reading {self._topic}"):
                fetched = self._consumer.poll(timeout_ms=_POLL_MS, max_records=500).get(partition, [])
                position = max(position, self._consumer.position(partition, timeout_ms=_CALL_TIMEOUT_MS) or 0)
            empty_polls = 0 if fetched else empty_polls + 1
            if empty_polls > _EMPTY_POLLS_MAX:
                raise SourceUnavailableError(
                    f"Kafka returns no record of {self._topic} from offset {position} on, though there are more"
                )
            for raw in fetched:
                if raw.offset < end:
                    yield record_of(raw)

    def close(self) -> None:
        """See `TopicReader.close`."""
        self._consumer.close(timeout_ms=_CALL_TIMEOUT_MS)
