"""The contract of a source of fragments: a partitioned log, read by one group."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipelines.types import Record


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that the log dropped before they were read: the offsets in `[first, next)` of a partition."""

    partition: int
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: records in order per partition, and how the assignment changed since the last poll.

    Apply `revoked` first, then `assigned`, then `gaps`, then the records: a partition in both was lost and won again in
    between.
    """

    records: tuple[Record, ...]
    assigned: frozenset[int]
    revoked: frozenset[int]
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a partition is behind: records not yet polled, and how long the oldest of them has waited (0 if none)."""

    lag_records: int
    oldest_age_ms: int


def oldest_age_s(backlog: Mapping[int, Backlog]) -> float:
    """How long the oldest unread record of all these partitions has waited, in seconds."""
    return max((waiting.oldest_age_ms for waiting in backlog.values()), default=0) / 1000


class Source(Protocol):
    """A partitioned log read by one group. Every method is called from one thread.

    Any method raises `SourceUnavailableError` when the log does not answer; calling again later recovers by itself.
    """

    def poll(self, timeout_s: float, records_max: int) -> Polled:
        """Wait up to `timeout_s` for at most `records_max` records of partitions that are not paused.

        While the group hands partitions over it waits longer, some seconds at most.
        Call it often also while everything is paused: it keeps the membership.

        Raises:
            TopicMissingError: the topic does not exist and may not be created.
        """

    def pause(self, partitions: Collection[int]) -> None:
        """Stop reading from those of `partitions` that are assigned; membership goes on."""

    def resume(self, partitions: Collection[int]) -> None:
        """Read again from those of `partitions` that are assigned."""

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Remember, per partition, the offset where a new owner starts. Partitions not owned are left out.

        A commit that a rebalance overtook is dropped: the offset is a hint, the store decides what is done.
        """

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading `partition` at `offset`, or at the oldest record kept when that is later: then with a gap."""

    def committed(self, partition: int) -> int | None:
        """Where a new owner of an assigned partition would start; None where nothing was committed."""

    def backlog(self) -> Mapping[int, Backlog]:
        """How far each assigned partition is behind."""

    def close(self) -> None:
        """Give the partitions back and disconnect."""
