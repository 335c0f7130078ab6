"""Records into Kafka."""

from collections import deque
from contextlib import suppress
from typing import Any

import kafka.errors
from kafka import KafkaProducer

from pipelines.errors import BadFragmentError, SourceUnavailableError
from pipelines.log.broker import MESSAGE_MAX_BYTES, broker_errors, connection_options, ensure_topics
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.settings import Settings
from pipelines.types import Headers

_BUFFER_MAX_BYTES = 32 << 20
_DELIVERY_TIMEOUT_MS = 30_000
_CLOSE_S = 5.0


class KafkaRecordProducer:
    """`Producer` over Kafka: idempotent, acknowledged by all in-sync replicas; connects at the first record."""

    def __init__(self, settings: Settings, buffer_max_bytes: int = _BUFFER_MAX_BYTES) -> None:
        self._settings = settings
        self._buffer_max_bytes = buffer_max_bytes
        self._producer: KafkaProducer | None = None
        self._topics: set[str] = set()
        self._pending: deque[tuple[Any, int]] = deque()
        self._pending_bytes = 0

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        """See `Producer.send`."""
        if len(value) > RECORD_MAX_BYTES:
            raise BadFragmentError("oversize", f"the record has {len(value)} bytes, the log takes {RECORD_MAX_BYTES}")
        producer = self._connected(topic)
        while self._pending and self._pending_bytes + len(value) > self._buffer_max_bytes:
            self._await_oldest()
        while self._pending and self._pending[0][0].is_done:
            self._await_oldest()
        with broker_errors(f"sending to {topic}"):
            future = producer.send(topic, value=value, key=key.encode(), headers=list(headers))
        self._pending.append((future, len(value)))
        self._pending_bytes += len(value)

    def flush(self) -> None:
        """See `Producer.flush`."""
        while self._pending:
            self._await_oldest()

    def close(self) -> None:
        """See `Producer.close`."""
        try:
            self.flush()
        finally:
            self._drop()

    def _connected(self, topic: str) -> KafkaProducer:
        if topic not in self._topics:
            ensure_topics(self._settings, [topic])
            self._topics.add(topic)
        if self._producer is None:
            with broker_errors("connecting a producer"):
                self._producer = KafkaProducer(
                    enable_idempotence=True,
                    acks="all",
                    max_request_size=MESSAGE_MAX_BYTES,
                    delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
                    max_block_ms=_DELIVERY_TIMEOUT_MS,
                    **connection_options(self._settings),
                )
        return self._producer

    def _await_oldest(self) -> None:
        future, size_bytes = self._pending.popleft()
        self._pending_bytes -= size_bytes
        try:
            future.get(timeout=_DELIVERY_TIMEOUT_MS / 1000 + 5)
        except kafka.errors.KafkaError as error:
            self._drop()
            raise SourceUnavailableError(
                f"Kafka did not acknowledge a record: {error}; send again what followed the last flush"
            ) from error

    def _drop(self) -> None:
        """Forget the connection and what waits in it: the next record starts with a producer of its own."""
        producer, self._producer = self._producer, None
        self._pending.clear()
        self._pending_bytes = 0
        self._topics.clear()
        if producer is not None:
            # kafka-python 3.0.12 waits in `close` for what is pending, and leaves its thread behind where that fails.
            producer._sender.force_close()  # noqa: SLF001
            producer._sender.join(_CLOSE_S)  # noqa: SLF001
            with suppress(kafka.errors.KafkaError):
                producer.close(timeout=0)
