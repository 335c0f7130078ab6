"""The partitions that the group has assigned to one worker."""

import time
from collections.abc import Iterable, Iterator, Mapping

from pipelines.ingest.context import WorkerContext
from pipelines.ingest.partition import Partition
from pipelines.ingest.waiting import Waiting
from pipelines.log.source import Backlog, Polled


class Assignment:
    """One `Partition` for each number that is assigned: made when it is, cancelled when it is revoked."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._partitions: dict[int, Partition] = {}
        self._marks_to_clear: dict[int, list[int]] = {}
        """Of partitions that were revoked: records whose work has ended and which the store has marked as in progress."""

    def __iter__(self) -> Iterator[Partition]:
        for number, partition in list(self._partitions.items()):
            if self._partitions.get(number) is partition:  # else revoked while another one was worked on
                yield partition

    @property
    def numbers(self) -> frozenset[int]:
        """The partitions assigned."""
        return frozenset(self._partitions)

    @property
    def waiting(self) -> bool:
        """Whether records wait for their turn."""
        return any(partition.waiting for partition in self)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, nothing is to be read again, and no stream is open."""
        return not self.waiting and not self.rewinds and all(partition.needed is None for partition in self)

    @property
    def rewinds(self) -> Mapping[int, int]:
        """The partitions that must be read again, and from where."""
        return {one.number: one.rewind_to for one in self if one.rewind_to is not None}

    def rewound(self, numbers: Iterable[int]) -> None:
        """Forget these partitions' rewinds: the source has been moved there."""
        for number in numbers:
            self._partitions[number].rewind_to = None

    def apply(self, polled: Polled) -> None:
        """Take over what a poll brought: revocations, assignments, gaps, records."""
        for number in polled.revoked:
            self._retire(number)
        for number in polled.assigned:
            self._begin(number)
        # What came of a partition that was given up meanwhile is its next owner's.
        for gap in polled.gaps:
            if (partition := self._partitions.get(gap.partition)) is not None:
                partition.note_gap(gap)
        for record in polled.records:
            if (partition := self._partitions.get(record.at.partition)) is not None:
                partition.enqueue(record)

    def restart(self, number: int, offset: int) -> None:
        """Drop what is known of a partition, if it is still assigned, and read it again from `offset`."""
        if number in self._partitions:
            self._begin(number, offset)

    @property
    def held_bytes(self) -> int:
        """Bytes of the records that wait for their turn."""
        return sum(partition.waiting.held_bytes for partition in self)

    def next(self) -> tuple[Partition, Waiting] | None:
        """The record whose turn it is, and its partition: one each, what nobody waits for behind the rest.

        None while one of them must be read again, or where there is room for none.
        """
        if self.rewinds:
            return None
        for recorded in (False, True):
            for number, partition in self._partitions.items():
                if (one := partition.next(recorded=recorded)) is not None:
                    self._partitions[number] = self._partitions.pop(number)  # the others' turns come first now
                    return partition, one
        return None

    def behind(self, unread: Mapping[int, Backlog]) -> Mapping[int, Backlog]:
        """How far each partition is behind, what waits here counted in; `unread` is what the log holds besides."""
        return {number: self._with_waiting(number, backlog) for number, backlog in unread.items()}

    def _with_waiting(self, number: int, unread: Backlog) -> Backlog:
        partition = self._partitions.get(number)
        if partition is None or not partition.waiting:
            return unread
        oldest_ms = min((record.appended_ms for record in partition.waiting if record.appended_ms), default=0)
        age_ms = max(0, round(time.time() * 1000) - oldest_ms) if oldest_ms else 0
        return Backlog(unread.lag_records + len(partition.waiting), max(unread.oldest_age_ms, age_ms))

    def committable(self, now_s: float) -> Mapping[int, int]:
        """The offsets that may be committed at `now_s` by the monotonic clock."""
        offsets = {partition.number: partition.committable(now_s) for partition in self}
        return {number: offset for number, offset in offsets.items() if offset is not None}

    async def clear_revoked(self) -> None:
        """Clear the in-progress marks of partitions that were revoked.

        Raises:
            StoreUnavailableError: the store is away; the rest is kept for the next try.
        """
        for number, offsets in list(self._marks_to_clear.items()):
            await self._context.store.ledger.clear_in_progress(number, self._context.owner, offsets)
            if self._marks_to_clear.get(number) is offsets:
                del self._marks_to_clear[number]

    async def close(self) -> None:
        """Drop everything that is not stored, and leave no record marked as in progress.

        `committable` still works afterwards.

        Raises:
            StoreUnavailableError: the store is away.
        """
        for partition in self:
            partition.cancel()
        for partition in self:
            await partition.clear_marks()
        await self.clear_revoked()

    def _begin(self, number: int, rewind_to: int | None = None) -> None:
        self._retire(number)
        marks_to_clear = self._marks_to_clear.pop(number, ())
        self._partitions[number] = Partition(number, self._context, rewind_to=rewind_to, marks_to_clear=marks_to_clear)

    def _retire(self, number: int) -> None:
        partition = self._partitions.pop(number, None)
        if partition is not None:
            partition.cancel()
            if partition.marks_to_clear:
                self._marks_to_clear[number] = [*self._marks_to_clear.pop(number, ()), *partition.marks_to_clear]
