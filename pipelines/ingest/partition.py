"""One assigned partition of the log: everything that a worker knows of it, from its assignment to its revocation.

What becomes of a record:
1. A customer's reference in it is replaced by its keyed hash. It is parsed; one that breaks the contract is dead-lettered, and its call goes on.
2. Whose call it is, where it says so, is noted. Its stream is opened from the checkpoint, which makes this worker the owner: an earlier one is refused.
3. It is marked as in progress before work on it begins, so that a record that kills its process is known by its second try.
4. It is fed to its stream, which has its utterances analysed and stored (`stream_task.StreamTask`).
"""

import logging
import time
from collections.abc import Iterable
from functools import partial

from pipelines.checkpoints import Checkpoint, Counted
from pipelines.errors import (
    BadFragmentError,
    CallDeletedError,
    FencedError,
    MediaError,
    SourceUnavailableError,
    StoreUnavailableError,
)
from pipelines.ingest.context import WorkerContext
from pipelines.ingest.customers import note_customer, with_hashed_reference
from pipelines.ingest.decoder_thread import StuckDecoderError
from pipelines.ingest.orphans import OrphanedStreams
from pipelines.ingest.progress import Progress
from pipelines.ingest.quarantine import begin_work, dead_letter, feed_or_dead_letter
from pipelines.ingest.stream_task import StreamTask
from pipelines.ingest.waiting import Waiting, WaitingRecords
from pipelines.log.records import in_share, parse_record
from pipelines.log.source import Backlog, Gap
from pipelines.store.ledger import StreamId
from pipelines.types import MediaFragment, Record

logger = logging.getLogger(__name__)


class Partition:
    """The waiting records, the open streams and the offsets of one partition.

    Its coroutines may wait for the store, however long. They run one at a time, and none after `cancel`.
    """

    def __init__(
        self, number: int, context: WorkerContext, *, rewind_to: int | None = None, marks_to_clear: Iterable[int] = ()
    ) -> None:
        """`rewind_to` is where it must be read again from, if it must."""
        self.number, self.rewind_to = number, rewind_to
        self.waiting = WaitingRecords()
        self.progress = Progress(context.config.worker.commit_delay_s)
        self._context, self._ledger, self._metrics = context, context.store.ledger, context.metrics
        self._lost_to = self._lost_before = 0
        """Where the log goes on after the last gap found in it; the same, when the record at hand was read."""
        self._streams: dict[StreamId, StreamTask] = {}
        self._gone_back_to: set[tuple[StreamId, int | None]] = set()
        """Places already rewound to, of streams that are not open yet."""
        self._orphans = OrphanedStreams(number, context)
        self._unseen: set[StreamId] = set()
        """Streams whose decoder was given up: no picture of them is decoded any more."""
        self.marks_to_clear = list(marks_to_clear)
        """Offsets of records whose work has ended and which the store still has marked as in progress."""

    @property
    def needed(self) -> int | None:
        """The lowest offset from which an unfinished stream would have to be read again; None without one."""
        return min((stream.needed_offset for stream in self._streams.values() if not stream.finished), default=None)

    @property
    def failed(self) -> BaseException | None:
        """What ended the storing of a stream, if anything did."""
        return next((stream.failed for stream in self._streams.values() if stream.failed is not None), None)

    def committable(self, now_s: float) -> int | None:
        """The offset that may be committed at `now_s` by the monotonic clock; None where there is nothing to commit."""
        return self.progress.committable(now_s, self.needed)

    def enqueue(self, record: Record) -> None:
        """Keep a record until its turn; one that was polled while a rewind is due will come again."""
        if self.rewind_to is None:
            self.waiting.put(record, self._lost_to)

    def note_gap(self, gap: Gap) -> None:
        """The log has dropped records before they were read; reading again may report the same gap again."""
        logger.error("partition %d: the log has lost the records from %d to %d", self.number, gap.first, gap.next - 1)
        self._metrics.records_lost.inc(max(0, gap.next - max(gap.first, self._lost_to)))
        self._lost_to = max(gap.next, self._lost_to)

    def rewind(self, offset: int) -> None:
        """Read again from `offset`, from the next poll on; what waits will come again."""
        self.waiting.clear()
        if self.progress.read_to is not None:  # else everything that is still needed is to come
            # An earlier rewind may still be under way: the lower offset holds.
            self.rewind_to = min(self.progress.read_to, offset)
            self.progress.rewind(offset)

    def cancel(self) -> None:
        """Drop everything that is not stored: the checkpoints hold what is."""
        for stream in self._streams.values():
            stream.cancel()
        self._metrics.open_streams.dec(len(self._streams))

    def next(self, *, recorded: bool) -> Waiting | None:
        """The record whose turn it is, among those that nobody waits for or the others; None where there is none with room."""
        return self.waiting.next(self._context.in_flight.has_room, recorded=recorded)

    async def process(self, one: Waiting) -> None:
        """Parse a waiting record, open its stream and feed it, unless a rewind is due; utterances are stored later.

        Raises:
            StoreUnavailableError, SourceUnavailableError: asked to stop while one of them was away.
        """
        self._drop_ended()
        if self.rewind_to is not None:
            return
        self.waiting.take(one)
        record, self._lost_before = one.record, one.lost_before
        # Before the work: opening a stream may move it back.
        self.progress.note_read(record.at.offset, self.waiting.first)
        if not in_share(record.key, self._context.config.share):
            return
        try:
            await self._process(record)
        except BaseException:
            # Neither analysed, skipped nor dead-lettered: a successor must read it again.
            self.progress.rewind(record.at.offset)
            raise

    async def rest(self) -> None:
        """Count fragments that no cut will ever move past, and clear the marks of ended work, once records were processed."""
        for stream in [one for one in self._streams.values() if not one.ended]:
            await stream.if_owned(stream.count_unanalysed)
        self._drop_ended()
        await self._context.retry_store(self.clear_marks)

    async def clear_marks(self) -> None:
        """Clear the in-progress marks of ended work, so that a later crash is not blamed on those records.

        Raises:
            StoreUnavailableError: the store is away; they are kept for the next try.
        """
        ended = len(self.marks_to_clear)
        if ended:
            await self._ledger.clear_in_progress(self.number, self._context.owner, self.marks_to_clear)
            del self.marks_to_clear[:ended]

    async def watch(self, backlog: Backlog | None, now_s: float) -> None:
        """Mark streams that fell silent without a final fragment, and close them in the end, so that offsets can move.

        No stream is silent while records of its call wait here, or any have waited in the log for an unknown time, or while
        the log does not answer (`backlog` is None). `now_s` is the monotonic clock's at the time of `backlog`.
        """
        streams = [one for one in self._streams.values() if one.closing_as is None and not one.ended]
        unknown = backlog is None or (backlog.lag_records and not backlog.oldest_age_ms)
        for stream in streams:
            if unknown or self.waiting.holds(stream.id.call):
                stream.fragment_at_s = now_s
        if self.waiting or unknown:
            self._orphans.restart(now_s)
        if backlog is None or unknown:
            return
        since_s = now_s - backlog.oldest_age_ms / 1000
        for stream in streams:
            try:
                await stream.watch(since_s, self._lost_to)
            except StuckDecoderError:
                self._open_anew(stream, stream.needed_offset)
        self._drop_ended()
        if not self.waiting:
            await self._orphans.watch(since_s, self._streams, self._lost_to)

    async def _process(self, record: Record) -> None:
        try:
            record = await with_hashed_reference(self._context, record)
            fragment = parse_record(record, self._context.config.stream.limits)
            stream = self._streams.get(StreamId(fragment.call, fragment.stream))
            if stream is not None and stream.ended:
                await stream.over.wait()
                self._drop_ended()
                stream = None
            if self.rewind_to is None:  # else the record comes again
                await self._note_customer(stream, fragment)
                stream = stream or await self._open(fragment, record)
                if stream is not None:
                    await self._pass_on(stream, fragment, record)
        except StuckDecoderError:  # at the stream's end: what decodes it must not be used again
            assert stream is not None  # noqa: S101 - only a stream decodes
            self._open_anew(stream, record.at.offset)
        except (BadFragmentError, MediaError) as error:
            await self._dead_letter(record, error.reason, str(error))
        except CallDeletedError as error:
            self._context.count_skipped(error.reason)
        except (StoreUnavailableError, SourceUnavailableError):
            raise
        except Exception as error:  # whatever a record does, it must not stop the others
            logger.exception("a record could not be handled: %s", record.at)
            await self._dead_letter(record, "crashed", repr(error))

    async def _dead_letter(self, record: Record, reason: str, detail: str) -> None:
        try:
            await dead_letter(self._context, record, reason, detail)
        except CallDeletedError as error:
            self._context.count_skipped(error.reason)

    async def _note_customer(self, stream: StreamTask | None, fragment: MediaFragment) -> None:
        """Note whose call it is before its stream is opened, and again only where a later fragment says another."""
        if fragment.customer is None or (stream is not None and stream.customer == fragment.customer):
            return
        await note_customer(self._context, fragment.call, fragment.customer)
        if stream is not None:
            stream.customer = fragment.customer

    async def _pass_on(self, stream: StreamTask, fragment: MediaFragment, record: Record) -> None:
        stream.fragment_at_s = time.monotonic()
        if stream.is_dead_letter(record.at.offset):
            await stream.refuse(fragment, record, self._lost_before)
        elif stream.closing_as == "closed":
            # A fragment came while the stream was closing for silence.
            self._open_anew(stream, record.at.offset)
        elif stream.closing_as:
            stream.skip(record, "after_final", self._lost_before)
        elif stream.state == "live" or await stream.if_owned(partial(stream.set_state, "live")):
            await self._work(stream, fragment, record)

    async def _work(self, stream: StreamTask, fragment: MediaFragment, record: Record) -> None:
        ended = len(self.marks_to_clear)
        attempts = await begin_work(self._context, record, self.marks_to_clear)
        del self.marks_to_clear[:ended]
        try:
            taken = await feed_or_dead_letter(
                self._context, stream, fragment, record, attempts=attempts, lost_before=self._lost_before
            )
            if not taken:
                self._unseen.add(stream.id)
                self._open_anew(stream, record.at.offset)
        finally:
            self.marks_to_clear.append(record.at.offset)

    async def _open(self, fragment: MediaFragment, record: Record) -> StreamTask | None:
        """Take a stream over from whoever owned it; None where nothing of it is to be analysed now.

        1. Become its owner, and learn how far it is stored.
        2. One that is closed and accounted for, or final, takes nothing more.
        3. Where reading began after the place it must be resumed from, go back there: the store knows what is done.
        4. Note in the store that it is open, before anything of it is analysed.
        """
        stream_id, offset = StreamId(fragment.call, fragment.stream), record.at.offset
        owner = self._context.next_owner()
        checkpoint = await self._context.retry_store(  # 1
            lambda: self._context.store.open_stream(
                fragment.call, fragment.stream, owner, record.appended_ms, partition=self.number, offset=offset
            )
        )
        if checkpoint is None or checkpoint.final:  # 2
            await self._count_after_final(fragment, offset, checkpoint)
            return None
        place = (stream_id, checkpoint.resume_at)
        if checkpoint.resume_at is not None and checkpoint.resume_at < offset and place not in self._gone_back_to:  # 3
            # Once: where the log has lost that place, what is left of the stream goes on behind a gap.
            self._gone_back_to.add(place)
            self.rewind(checkpoint.resume_at)
            return None
        self._gone_back_to.discard(place)
        seen = stream_id not in self._unseen
        stream = StreamTask(fragment, checkpoint, at=record.at, owner=owner, context=self._context, is_seen=seen)
        await self._context.retry_store(lambda: self._ledger.note_open(self.number, stream.id))  # 4
        self._streams[stream_id] = stream
        self._metrics.open_streams.inc()
        return stream

    def _open_anew(self, stream: StreamTask, offset: int) -> None:
        """Drop what this worker knows of a stream; it is opened again from its checkpoint, and read again, as is `offset`."""
        stream.cancel()
        self._remove(stream)
        self.rewind(min(stream.needed_offset, offset))

    async def _count_after_final(self, fragment: MediaFragment, offset: int, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None or offset in checkpoint.dead_letters or offset < checkpoint.account.counted_to:
            return
        counted = Counted(offset + 1, offset, {"already_stored": 1})
        count = partial(self._context.store.count, fragment.call, fragment.stream, counted, owner=None)
        try:
            await self._context.retry_store(count)
        except FencedError:  # the store has forgotten meanwhile that it is final
            self.rewind(offset)
        else:
            self._context.count_skipped("already_stored")

    def _drop_ended(self) -> None:
        """Forget streams that are over; read a fenced one again, in case the partition is still ours."""
        for stream in [one for one in self._streams.values() if one.over.is_set()]:
            self._remove(stream)
            if stream.fenced:
                self.rewind(stream.needed_offset)

    def _remove(self, stream: StreamTask) -> None:
        del self._streams[stream.id]
        self._metrics.open_streams.dec()
