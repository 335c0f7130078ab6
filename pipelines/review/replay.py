"""A topic read again for a run of its own: the same worker, with this source and another name in the store."""

from collections.abc import Callable, Collection, Iterator, Mapping

from pipelines.errors import SourceUnavailableError
from pipelines.log.records import call_of, concerns
from pipelines.log.source import Backlog, Polled
from pipelines.log.topic_reader import Extent, TopicReader
from pipelines.types import CallRef, Record

_UNREAD_AGE_MS = 86_400_000
"""Reported while records are unread, so that no stream counts as silent before the end of the log."""


class ReplaySource:
    """`Source` over what a topic holds now, from `since_ms` on, of one tenant or call or of all; partition after partition."""

    def __init__(
        self,
        reader: TopicReader,
        *,
        since_ms: int = 0,
        call_id: str | None = None,
        tenant: str | None = None,
        begin: Callable[[CallRef], None] = lambda _: None,
    ) -> None:
        """`begin` is called with each call before its first record is given; where it raises `SourceUnavailableError`, the record waits."""
        self._begin = begin
        self._reader, self._since_ms = reader, since_ms
        self._tenant, self._call_id = tenant, call_id
        self._extents: dict[int, Extent] = {}
        self._unread: list[int] = []
        self._records: Iterator[Record] = iter(())
        self._next = 0
        """The offset after the last record given, in the first of the unread partitions."""
        self._paused = False
        self._assigned = self._exhausted = False
        self.read = 0
        """How many records were read."""
        self.calls: set[CallRef] = set()
        """Those of the records that were given."""

    @property
    def exhausted(self) -> bool:
        """Whether everything has been read."""
        return self._exhausted

    @property
    def total(self) -> int:
        """How many records there are to read."""
        return sum(extent.end - extent.start for extent in self._extents.values())

    def poll(self, timeout_s: float, records_max: int) -> Polled:
        """See `Source.poll`; it never waits."""
        del timeout_s
        if not self._assigned:
            self._extents = dict(self._reader.extents())
            self._unread = sorted(self._extents)
            self._assigned = True
            self._go_to_next()
            return Polled((), frozenset(self._extents), frozenset())
        self._exhausted = not self._unread
        found: list[Record] = []
        while self._unread and not self._paused and len(found) < records_max:
            try:
                record = next(self._records, None)
                is_wanted = record is not None and concerns(record, self._tenant, self._call_id)
                if record is not None and is_wanted:
                    self._begin_call(record)
            except SourceUnavailableError:
                # A generator that has raised has ended: the next poll starts a new one behind the last record returned.
                self._read_on(self._unread[0], self._next)
                if found:
                    break
                raise
            if record is None:
                self._unread.pop(0)
                self._go_to_next()
                break
            self.read += 1
            self._next = record.at.offset + 1
            if is_wanted:
                found.append(record)
        return Polled(tuple(found), frozenset(), frozenset())

    def pause(self, partitions: Collection[int]) -> None:
        """See `Source.pause`."""
        del partitions
        self._paused = True

    def resume(self, partitions: Collection[int]) -> None:
        """See `Source.resume`."""
        del partitions
        self._paused = False

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Nothing: a replay begins at its beginning, and the run's checkpoints know what is done."""

    def seek(self, partition: int, offset: int) -> None:
        """See `Source.seek`."""
        self._exhausted = False
        self._unread = [partition, *(other for other in self._unread if other != partition)]
        self._read_on(partition, offset)

    def committed(self, partition: int) -> int | None:
        """None: a replay commits nothing."""
        del partition
        return None

    def backlog(self) -> Mapping[int, Backlog]:
        """See `Source.backlog`."""
        waiting = Backlog(0, 0) if self.exhausted else Backlog(1, _UNREAD_AGE_MS)
        return dict.fromkeys(self._extents, waiting)

    def close(self) -> None:
        """See `Source.close`."""
        self._reader.close()

    def _begin_call(self, record: Record) -> None:
        call = call_of(record)
        if call is not None and call not in self.calls:
            self._begin(call)
            self.calls.add(call)

    def _go_to_next(self) -> None:
        if self._unread:
            partition = self._unread[0]
            self._next = self._extents[partition].start
            self._records = self._reader.records({partition: self._extents[partition]}, self._since_ms)

    def _read_on(self, partition: int, offset: int) -> None:
        extent = self._extents[partition]
        self._next = max(offset, extent.start)
        since_ms = self._since_ms if self._next == extent.start else 0
        self._records = self._reader.records({partition: Extent(self._next, extent.end, None)}, since_ms)
