"""One open stream in a worker: its utterances are analysed at once, within a bound, and stored in order per track."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pipelines.errors import CallDeletedError, EncoderUnavailableError, FencedError, StoreUnavailableError
from pipelines.media.call_stream import CallStream, TrackEvent
from pipelines.metrics import StreamMetrics
from pipelines.retry import Retry
from pipelines.store.queries import CallState
from pipelines.store.store import Store
from pipelines.types import (
    Account,
    Checkpoint,
    Counted,
    MediaFragment,
    Participant,
    TrackCut,
    Utterance,
    UtteranceSentiment,
)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class InFlight:
    """How many utterances a worker has found and not stored yet; `freed` is set whenever that is one less."""

    count: int = 0
    freed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Ports:
    """What an open stream needs of its worker.

    `publish` produces a result to `call-sentiment`; it may repeat one, since it comes before the store.
    """

    owner: str
    store: Store
    analyse: Callable[[Utterance], Awaitable[UtteranceSentiment]]
    publish: Callable[[UtteranceSentiment], Awaitable[None]]
    retry: Retry
    metrics: StreamMetrics
    in_flight: InFlight
    ahead_per_track: int


@dataclass(frozen=True, slots=True)
class _Pending:
    event: TrackEvent
    analysis: asyncio.Task[UtteranceSentiment] | None
    spoken_at_s: float
    """When its speech ended, on the wall clock."""


@dataclass(slots=True)
class _Track:
    """One participant: the cut as the store has it, and what waits to be stored, in order."""

    cut: TrackCut
    ahead: asyncio.Semaphore
    pending: asyncio.Queue[_Pending] = field(default_factory=asyncio.Queue)
    storing: asyncio.Task[None] | None = None


class Outcomes:
    """What became of a stream's fragments, until the store has counted those below a settled offset."""

    def __init__(self, account: Account) -> None:
        self.noted_to = account.counted_to
        """One past the last offset noted."""
        self._first_at = account.first_at
        self._noted: deque[tuple[int, Mapping[str, int]]] = deque()

    def note(self, offset: int, outcome: str | None, missing: int = 0, left_out: str = "missing") -> bool:
        """The fragment at `offset` has come to its end, and the `missing` ones before it to theirs, `left_out`.

        Without an `outcome` it is counted elsewhere. False for one that was noted before and is only read again.
        """
        if offset < self.noted_to:
            return False
        if self._first_at is None:
            self._first_at = offset
        self.noted_to = offset + 1
        if missing:
            # They lie before it: a successor that begins with this fragment does not see that gap.
            self._noted.append((offset - 1, {left_out: missing}))
        self._noted.append((offset, {} if outcome is None else {outcome: 1}))
        return True

    def take(self, below: int | None = None) -> Counted:
        """Those below an offset, or all: they are the caller's now."""
        end = self.noted_to if below is None else below
        counts: Counter[str] = Counter()
        while self._noted and self._noted[0][0] < end:
            counts.update(self._noted.popleft()[1])
        return Counted(end, self._first_at, counts)

    def __bool__(self) -> bool:
        return bool(self._noted)


class OpenStream:
    """A stream that this worker owns, from its opening in the store until everything of it is stored.

    `needed_offset` is where a successor would have to read from. `closed` is called once: with None when the stream
    is stored to its end or its call was deleted, with the error when the stream is lost to another worker.
    """

    def __init__(
        self,
        first: MediaFragment,
        stream: CallStream,
        checkpoint: Checkpoint,
        *,
        partition: int,
        offset: int,
        ttl_s: int,
        ports: Ports,
        closed: Callable[["OpenStream", FencedError | None], Awaitable[None]],
    ) -> None:
        self.key = (first.call_id, first.stream)
        self.stream = stream
        self.partition = partition
        self.needed_offset = offset if checkpoint.resume_at is None else checkpoint.resume_at
        self.tenant = first.tenant
        self.owner = ports.owner
        self.dead = set(checkpoint.dead_letters)
        """Offsets of dead letters: they are not worked on again."""
        self.outcomes = Outcomes(checkpoint.account)
        self.state: CallState = "live"
        self.seen_s = time.monotonic()
        """When its last fragment came, by the monotonic clock."""
        self.failed: BaseException | None = None
        self._first, self._ttl_s, self._ports, self._closed = first, ttl_s, ports, closed
        self._tracks = {participant: self._track(cut) for participant, cut in checkpoint.tracks.items()}
        self._finishing: asyncio.Task[None] | None = None
        self._ending: CallState | None = None
        self._advancing = asyncio.Lock()
        self._ended = False

    @property
    def finishing(self) -> CallState | None:
        """The state that it will have when everything of it is stored; None while fragments are expected."""
        return self._ending

    @property
    def ended(self) -> bool:
        """Whether nothing of it is to be done any more: it is over, deleted, another worker's, or dropped."""
        return self._ended

    def take(self, events: list[TrackEvent], appended_ms: int, media_end_ms: int) -> None:
        """Start the analysis of the events' utterances.

        They came of a fragment that ends at `media_end_ms` in the call and that the log took at `appended_ms` since 1970.
        A stream that was lost while the fragment was decoded takes nothing: it is read again.
        """
        if self._ended:
            return
        for event in events:
            track = self._tracks.get(event.participant)
            if track is None:
                track = self._tracks[event.participant] = self._track(TrackCut(event.expected_cut_sample, 0))
            analysis, spoken_at_s = None, appended_ms / 1000
            if event.utterance is not None:
                spoken_at_s -= max(0, media_end_ms - event.utterance.end_ms) / 1000
                analysis = asyncio.create_task(self._analyse(track, event.utterance))
                self._count_in_flight(1)
            track.pending.put_nowait(_Pending(event, analysis, spoken_at_s))
            if track.storing is None:
                track.storing = asyncio.create_task(self._store_track(event.participant, track))
                track.storing.add_done_callback(self._note_failure)

    async def mark(self, state: CallState) -> None:
        """Set the stream's state in the store.

        Raises:
            FencedError: another worker owns the stream.
            CallDeletedError: the call was deleted.
        """
        await self._set_state(state, self.outcomes.take(self.needed_offset))
        self.state = state

    async def let_go(self) -> None:
        """Where nothing of the stream may be or has been analysed, count its fragments: a successor needs none of them.

        Raises:
            FencedError: another worker owns the stream.
            CallDeletedError: the call was deleted.
        """
        if self._tracks or not self.stream.nothing_pending or self.finishing or not self.outcomes:
            return
        counted = self.outcomes.take()
        store, owner = self._ports.store, self._ports.owner
        await self._ports.retry(StoreUnavailableError, lambda: store.count(*self.key, counted, owner=owner))
        # The last one is read again all the same: a successor must know that the stream is open.
        self.needed_offset = counted.below - 1

    def finish(self, state: CallState = "final") -> None:
        """No event will come any more: once all are stored, set the stream's state in the store."""
        if self._ended:
            return
        self._ending = state
        self._finishing = asyncio.create_task(self._finish(state))
        self._finishing.add_done_callback(self._note_failure)

    def cancel(self) -> None:
        """Drop everything that is not stored; the checkpoint knows what is."""
        self._ended = True
        for track in self._tracks.values():
            while not track.pending.empty():
                pending = track.pending.get_nowait()
                if pending.analysis is not None:
                    pending.analysis.cancel()
                    self._count_in_flight(-1)
            if track.storing is not None:
                track.storing.cancel()
        if self._finishing is not None:
            self._finishing.cancel()

    def _track(self, cut: TrackCut) -> _Track:
        return _Track(cut, asyncio.Semaphore(self._ports.ahead_per_track))

    def _count_in_flight(self, change: int) -> None:
        self._ports.in_flight.count += change
        self._ports.metrics.in_flight.set(self._ports.in_flight.count)
        if change < 0:
            self._ports.in_flight.freed.set()

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.failed = task.exception()
            logger.error("call %s, stream %s: storing ended", *self.key, exc_info=self.failed)

    async def _analyse(self, track: _Track, utterance: Utterance) -> UtteranceSentiment:
        async with track.ahead:
            return await self._ports.retry(EncoderUnavailableError, lambda: self._ports.analyse(utterance))

    async def _store_track(self, participant: Participant, track: _Track) -> None:
        while True:
            pending = await track.pending.get()
            result = None
            try:
                if pending.analysis is not None:
                    result = await pending.analysis
                    await self._ports.publish(result)
                await self._advance(participant, track, pending.event, result)
            except CallDeletedError:
                await self._end(None)
                return
            except FencedError as error:
                await self._end(error)
                return
            finally:
                if pending.analysis is not None:
                    self._count_in_flight(-1)
            if result is not None:
                _count(self._ports.metrics, result, pending.spoken_at_s)
            track.pending.task_done()

    async def _advance(
        self, participant: Participant, track: _Track, event: TrackEvent, result: UtteranceSentiment | None
    ) -> None:
        new = TrackCut(event.cut_sample, track.cut.utterances + (result is not None))
        # One track at a time: the place to resume from may count on the others' cuts only once they are stored.
        async with self._advancing:
            resume = self.stream.resume_point(participant, new.cut_sample)
            counted = self.outcomes.take(resume.offset)
            await self._ports.retry(
                StoreUnavailableError,
                lambda: self._ports.store.advance(
                    self._first,
                    owner=self._ports.owner,
                    participant=participant,
                    expected_cut_sample=track.cut.cut_sample,
                    new=new,
                    resume=resume,
                    result=result,
                    ttl_s=self._ttl_s,
                    counted=counted,
                ),
            )
            track.cut = new
            self.needed_offset = resume.offset

    async def _finish(self, state: CallState) -> None:
        for track in self._tracks.values():
            await track.pending.join()
        try:
            await self._set_state(state, self.outcomes.take())
            while self.outcomes:  # something came meanwhile
                await self._set_state(state, self.outcomes.take())
        except FencedError as error:
            await self._end(error)
        except CallDeletedError:
            await self._end(None)
        else:
            await self._end(None)

    async def _set_state(self, state: CallState, counted: Counted) -> None:
        store, owner = self._ports.store, self._ports.owner
        await self._ports.retry(
            StoreUnavailableError, lambda: store.set_state(*self.key, state, owner=owner, counted=counted)
        )

    async def _end(self, error: FencedError | None) -> None:
        """Tell the worker, once. The caller's own task ends by returning; the others are cancelled after it."""
        if not self._ended:
            self._ended = True
            await self._closed(self, error)
        asyncio.get_running_loop().call_soon(self.cancel)


def _count(metrics: StreamMetrics, result: UtteranceSentiment, spoken_at_s: float) -> None:
    judged = result.judgement
    polarity, emotion = (judged.polarity, judged.emotion) if judged else ("none", "none")
    metrics.utterances.labels(result.tenant, result.participant, polarity, emotion).inc()
    metrics.stored_latency_seconds.observe(max(0.0, time.time() - spoken_at_s))
    for step, elapsed_ms in result.step_ms.items():
        metrics.step_seconds.labels(step).observe(elapsed_ms / 1000)
    for modality, outcome in result.modalities.items():
        if outcome.missing is not None:
            metrics.modality_missing.labels(modality, outcome.missing).inc()
