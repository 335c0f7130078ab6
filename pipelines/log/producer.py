"""The contract of a producer: how fragments and results get into the log."""

from typing import Protocol

from pipelines.types import FRAGMENT_MAX_BYTES, Headers

RECORD_MAX_BYTES = 2 * FRAGMENT_MAX_BYTES
"""The largest value the log takes: above the largest fragment, so that an oversized one arrives and is dead-lettered."""


class Producer(Protocol):
    """Appends records, in order per key. Every method is called from one thread."""

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        """Queue one record; waits while the buffer is full.

        Raises:
            SourceUnavailableError: this or an earlier record could not be stored; what was sent since the last
                successful `flush` may or may not stand in the log, so send it again.
            TopicMissingError: the topic does not exist and may not be created.
            BadFragmentError: the record is larger than the log takes (`oversize`).
        """

    def flush(self) -> None:
        """Wait until every record is acknowledged by the log.

        Raises:
            SourceUnavailableError: see `send`.
        """

    def close(self) -> None:
        """Flush and disconnect."""


class SilentProducer:
    """`Producer` that sends nothing: the results of a replay or a shadow are in the store only."""

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
