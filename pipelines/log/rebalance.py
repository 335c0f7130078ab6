"""How a Kafka group's rebalance reaches the source: noted on kafka-python's thread, taken by the next poll."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping

import kafka.errors
from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition

logger = logging.getLogger(__name__)


class Changes:
    """How the assignment changed since the last poll; written by kafka-python's thread, taken by ours."""

    def __init__(self) -> None:
        self.given: dict[int, int] = {}  # offsets whose commit has not succeeded yet
        self._lock = threading.Lock()
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()

    def assign(self, partitions: Collection[int]) -> None:
        """Note partitions won."""
        with self._lock:
            self._assigned |= set(partitions)

    def revoke(self, partitions: Collection[int]) -> None:
        """Note partitions given up or lost."""
        with self._lock:
            self._assigned -= set(partitions)
            self._revoked |= set(partitions)

    def pending(self) -> frozenset[int]:
        """The partitions that the next `take` will name."""
        with self._lock:
            return frozenset(self._assigned | self._revoked)

    def take(self) -> tuple[frozenset[int], frozenset[int]]:
        """What was revoked and what was assigned since the last call."""
        with self._lock:
            revoked, self._revoked = frozenset(self._revoked), set()
            assigned, self._assigned = frozenset(self._assigned), set()
        return revoked, assigned


class Rebalance(AsyncConsumerRebalanceListener):  # type: ignore[misc] # kafka-python ships no types
    """Runs on kafka-python's thread: a blocking commit would stop the heartbeats there, so it awaits one."""

    def __init__(
        self,
        changes: Changes,
        consumer: KafkaConsumer,
        offsets: Callable[[Mapping[int, int]], dict[TopicPartition, OffsetAndMetadata]],
    ) -> None:
        self._changes = changes
        self._consumer = consumer
        self._offsets = offsets

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Commit what was given and not yet committed, while we still may."""
        partitions = {partition.partition for partition in revoked}
        self._changes.revoke(partitions)
        given = {
            partition: offset
            for partition in partitions
            if (offset := self._changes.given.pop(partition, None)) is not None
        }
        if given:
            try:
                await self._consumer.commit_async(self._offsets(given))
            except kafka.errors.KafkaError as error:
                logger.info("the last commit before a revocation failed: %s", error)

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Another member may own them already: nothing is committed."""
        partitions = {partition.partition for partition in lost}
        self._changes.revoke(partitions)
        for partition in partitions:
            self._changes.given.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note them for the next poll."""
        self._changes.assign({partition.partition for partition in assigned})
