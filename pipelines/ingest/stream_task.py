"""One open stream of a partition: fragments in; its utterances analysed concurrently, within a bound, and stored in order."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from pipelines.checkpoints import Checkpoint, Counted, TrackCut
from pipelines.consent import unseen
from pipelines.errors import CallDeletedError, FencedError
from pipelines.ingest.account import Outcomes
from pipelines.ingest.context import WorkerContext
from pipelines.ingest.interim import InterimRequests
from pipelines.ingest.track_queue import TrackQueue
from pipelines.media.call_stream import CallStream, TrackEvent
from pipelines.store.ledger import Owned, StreamId
from pipelines.store.queries import CallState
from pipelines.types import Coordinates, MediaFragment, Participant, Record, UtteranceSentiment

logger = logging.getLogger(__name__)


class StreamTask:
    """A stream that this worker owns, from its opening in the store until everything of it is stored.

    `needed_offset` is where a successor would have to read from. Its life:

    1. Fragments are expected, while `closing_as` is None; then its last utterances are analysed and stored.
    2. `ended`: it takes nothing more. It is stored to its end, deleted, or owned by another worker (`fenced`).
    3. `over`: nothing is left to do; before, the store is told that nobody has to take it over.
    """

    def __init__(
        self,
        first: MediaFragment,
        checkpoint: Checkpoint,
        *,
        at: Coordinates,
        owner: str,
        context: WorkerContext,
        is_seen: bool = True,
    ) -> None:
        """Take over from `checkpoint`; `first` opens the stream here and stands `at` in the log; pictures count where it `is_seen`."""
        self.is_seen, tenant = is_seen, context.config.tenant(first.tenant)
        self.id = StreamId(first.call, first.stream)
        self.owned = Owned(first.stream, owner)
        self.customer = first.customer
        """The keyed hash of whom its call was noted as, last."""
        self.needed_offset = at.offset if checkpoint.resume_at is None else checkpoint.resume_at
        self.state: CallState = "live"
        self.closing_as: CallState | None = None
        """The state that it gets when everything of it is stored."""
        self.fragment_at_s = time.monotonic()
        """When its last fragment came, by the monotonic clock."""
        self.ended = self.fenced = False
        self.over = asyncio.Event()
        """Set once nothing is left to do for it."""
        self.failed: BaseException | None = None
        self._first, self._partition, self._ttl_s, self._context = first, at.partition, tenant.results_ttl_s, context
        self._stream = CallStream(
            context.config.stream, checkpoint, tenant.policy if is_seen else unseen(tenant.policy)
        )
        self._outcomes = Outcomes(checkpoint.account)
        self._dead = set(checkpoint.dead_letters)
        self._tracks = {participant: TrackQueue(cut, context) for participant, cut in checkpoint.tracks.items()}
        self._interim = InterimRequests(context)
        self._storing: dict[Participant, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None
        self._advancing = asyncio.Lock()

    @property
    def finished(self) -> bool:
        """Whether it is stored to its end, or deleted, so that nothing of it has to be read again."""
        return self.over.is_set() and not self.fenced

    def is_dead_letter(self, offset: int) -> bool:
        """Whether the record at `offset` stands in the dead-letter topic."""
        return offset in self._dead

    async def feed(self, fragment: MediaFragment, record: Record, lost_before: int) -> None:
        """Decode a fragment, note its outcome, and start the analysis of the utterances that it completes.

        Raises:
            MediaError: its media cannot be opened; the stream goes on with the next one.
        """
        fed, last, speaking = await self._context.feed(self._stream, fragment)
        if self.ended:
            return  # lost meanwhile, and read again where the partition is still ours
        metrics, end_ms = self._context.metrics, fragment.start_ms + fed.media_ms
        if fed.skipped is not None:
            self.skip(record, fed.skipped, lost_before, fed.missing)
        elif self._note(record, "analysed", lost_before, fed.missing, end_ms):
            metrics.fragments_analysed.inc()
        metrics.packets_damaged.inc(fed.damaged)
        metrics.media_seconds.inc(fed.media_ms / 1000)
        self._start([*fed.events, *(last or [])], record.appended_ms, end_ms)
        self._interim.show(speaking)
        if last is not None:
            self._close_as("final")

    def skip(self, record: Record, reason: str, lost_before: int, missing: int = 0) -> None:
        """Note a fragment that is not analysed, and why."""
        if self._note(record, reason, lost_before, missing):
            self._context.metrics.fragments_skipped.labels(reason).inc()

    async def refuse(self, fragment: MediaFragment, record: Record, lost_before: int) -> None:
        """Leave out a fragment that stands in the dead-letter topic: the stream goes on behind it as after a gap.

        Dead letters have a count of their own. The offset is noted here all the same, so that a stream of nothing but
        dead letters does not hold back what may be committed.
        """
        self._dead.add(record.at.offset)
        self._stream.leave_gap(fragment)
        self._note(record, None, lost_before, self._stream.take_missing())
        # It ends its stream even when its own media is damaged.
        if fragment.final and self.closing_as is None and not self.ended:
            self._start(await self._context.decode(self._stream.finish), record.appended_ms, fragment.start_ms)
            self._close_as("final")

    async def watch(self, since_s: float, lost_before: int) -> None:
        """If no fragment came for too long, set the state `stalled`; later analyse what has come, and close the stream.

        `since_s` is up to when, by the monotonic clock, the log is known to hold nothing for this stream.
        """
        settings, silent_s = self._context.config.worker, since_s - self.fragment_at_s
        if silent_s >= settings.stalled_after_s and self.state == "live":
            logger.warning("%s: stalled", self.id)
            await self.if_owned(partial(self.set_state, "stalled"))
        if silent_s >= settings.closed_after_s and not self.ended:
            logger.warning("%s: silent without a final fragment, closed", self.id)
            self._outcomes.note_lost_end(lost_before)
            self._start(await self._context.decode(self._stream.finish), round(time.time() * 1000), 0)
            self._close_as("closed")

    async def set_state(self, state: CallState) -> None:
        """Set the stream's state in the store.

        Raises:
            FencedError: another worker owns the stream.
            CallDeletedError: the call was deleted.
        """
        await self._set_state(state, self._outcomes.take(self.needed_offset))
        self.state = state

    async def count_unanalysed(self) -> None:
        """Count the fragments of a stream of which nothing may be analysed: no cut will ever move past them.

        Raises:
            FencedError: another worker owns the stream.
            CallDeletedError: the call was deleted.
        """
        if self._tracks or not self._stream.nothing_pending or self.closing_as or not self._outcomes:
            return
        counted = self._outcomes.take()
        count = partial(self._context.store.count, self.id.call, self.id.stream, counted)
        await self._context.retry_store(lambda: count(owner=self.owned.owner))
        # The last one is read again all the same: a successor must know that the stream is open.
        self.needed_offset = counted.below - 1

    async def if_owned(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work`. If the store refuses it, because another worker owns the stream or it is deleted, end it: False."""
        try:
            await work()
        except FencedError:
            self._fence()
        except CallDeletedError:
            await self._finish()
        else:
            return True
        return False

    def cancel(self) -> None:
        """Drop everything that is not stored; the checkpoint knows what is."""
        if self.ended and not self.over.is_set():
            return  # its end is stored; only `forget_open` is under way
        self.ended = True
        self._interim.show(())
        for track in self._tracks.values():
            track.cancel()
        for task in self._storing.values():
            task.cancel()
        if self._closing is not None:
            self._closing.cancel()

    def _note(self, record: Record, outcome: str | None, lost_before: int, missing: int, heard_to_ms: int = 0) -> bool:
        if not self._outcomes.note(record.at.offset, outcome, missing, lost_before, heard_to_ms):
            return False
        if outcome is not None:
            self._context.metrics.fragments_in.inc()
        self._context.metrics.fragments_missing.inc(missing)
        return True

    def _start(self, events: list[TrackEvent], appended_ms: int, media_end_ms: int) -> None:
        """Start the analysis of the events' utterances, and the storing of their tracks.

        They came of a fragment that ends at `media_end_ms` in the call and that the log took at `appended_ms` since 1970.
        A stream that was lost while the fragment was decoded takes nothing: it is read again.
        """
        if self.ended:
            return
        for event in events:
            if event.participant not in self._tracks:
                self._tracks[event.participant] = TrackQueue(TrackCut(event.expected_cut_sample, 0), self._context)
            logged_at_s = appended_ms / 1000
            if event.utterance is not None:
                logged_at_s -= max(0, media_end_ms - event.utterance.end_ms) / 1000
            self._tracks[event.participant].put(event, logged_at_s)
            if event.participant not in self._storing:
                task = asyncio.create_task(self._store_track(self._tracks[event.participant]))
                task.add_done_callback(self._note_failure)
                self._storing[event.participant] = task

    def _close_as(self, state: CallState) -> None:
        """No event will come any more: once all are stored, set the stream's state in the store."""
        if self.ended:
            return
        self.closing_as = state
        self._interim.show(())
        self._closing = asyncio.create_task(self._close(state))
        self._closing.add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.failed = task.exception()
            logger.error("%s: storing ended", self.id, exc_info=self.failed)

    async def _store_track(self, track: TrackQueue) -> None:
        store = partial(self._store, track)
        while await self.if_owned(partial(track.store_next, store)):
            continue

    async def _store(self, track: TrackQueue, event: TrackEvent, result: UtteranceSentiment | None) -> None:
        """Store a result, if the event has one, and move its track's cut.

        1. Publish the result: before it is stored, so that a crash in between repeats it and does not leave it out.
        2. One track at a time: the place to resume from may count on the others' cuts only once they are stored.
        3. Find where a successor would have to read from once this is stored.
        4. Take the outcomes of the fragments before that place: they are counted with it.
        5. Store all of it in one call, refused where the stream is another worker's or the cut is elsewhere.
        6. Only then move the cut and the needed offset here.
        """
        if result is not None:
            await self._context.publish(result)  # 1
        new = TrackCut(event.cut_sample, track.cut.utterances + (result is not None))
        async with self._advancing:  # 2
            resume = self._stream.resume_point(event.participant, new.cut_sample)  # 3
            counted = self._outcomes.take(resume.offset)  # 4
            await self._context.retry_store(  # 5
                lambda: self._context.store.advance(
                    self._first,
                    owner=self.owned.owner,
                    participant=event.participant,
                    expected_cut_sample=track.cut.cut_sample,
                    new=new,
                    resume=resume,
                    result=result,
                    ttl_s=self._ttl_s,
                    counted=counted,
                )
            )
            track.cut = new  # 6
            self.needed_offset = resume.offset

    async def _close(self, state: CallState) -> None:
        for track in self._tracks.values():
            await track.join()
        if await self.if_owned(partial(self._set_last_state, state)):
            await self._finish()

    async def _set_last_state(self, state: CallState) -> None:
        await self._set_state(state, self._outcomes.take())
        while self._outcomes:  # something came meanwhile
            await self._set_state(state, self._outcomes.take())

    async def _set_state(self, state: CallState, counted: Counted) -> None:
        set_state = partial(self._context.store.set_state, self.id.call, self.id.stream, state)
        await self._context.retry_store(lambda: set_state(owner=self.owned.owner, counted=counted))

    async def _finish(self) -> None:
        """It is stored to its end, or deleted: nobody has to take it over."""
        if self.ended:
            return
        self.ended = True  # first: what comes from now on opens it anew
        try:
            await self._context.retry_store(lambda: self._context.store.ledger.forget_open(self._partition, self.id))
        finally:
            self._end()

    def _fence(self) -> None:
        if not self.ended:
            self.ended = self.fenced = True
            self._context.metrics.fenced.inc()
            logger.warning("%s: another worker owns it, its state is dropped here", self.id)
            self._end()

    def _end(self) -> None:
        # The caller's own task ends by returning; the others are cancelled after it.
        self.over.set()
        asyncio.get_running_loop().call_soon(self.cancel)
