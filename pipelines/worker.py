"""The loop of one ingest worker: records in, results stored, offsets committed (DESIGN §4.2).

1. A record is parsed; one that breaks the contract is dead-lettered and its call goes on.
2. Its stream's state is opened from the checkpoint, which makes this worker the owner: an earlier one is refused.
3. The stream's utterances are analysed at once, within a bound, and stored in order per track: index and
   `call-sentiment` first (both harmless to repeat), then the result and the cut in one step of the store.
4. A partition's committed offset is the lowest that an open stream still needs. It only hints where to read from.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from prometheus_client import generate_latest

from pipelines.errors import (
    BadFragmentError,
    CallDeletedError,
    EncoderUnavailableError,
    FencedError,
    MediaError,
    SourceUnavailableError,
    StoreUnavailableError,
)
from pipelines.metrics import StreamMetrics, stream_metrics
from pipelines.producer import Producer
from pipelines.records import parse_record
from pipelines.settings import AppConfig, TenantSettings
from pipelines.source import Backlog, Polled, Source
from pipelines.store import Store
from pipelines.stream import CallStream, TrackEvent
from pipelines.types import (
    TOPIC_DEAD_LETTER,
    TOPIC_SENTIMENT,
    MediaFragment,
    Participant,
    Record,
    TrackCut,
    Utterance,
    UtteranceSentiment,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 0.2
RECORDS_MAX = 16
METRICS_INTERVAL_S = 2.0
METRICS_TTL_S = 15
STALLED_S = 60.0

StreamKey = tuple[str, str]


@dataclass(slots=True)
class _Pending:
    """An event of a track whose analysis is under way; `spoken_at_s` is when its speech ended, on the wall clock."""

    event: TrackEvent
    result: asyncio.Task[UtteranceSentiment] | None
    spoken_at_s: float


@dataclass(slots=True)
class _Track:
    """One participant of an open stream: what waits to be stored, in order."""

    cut_sample: int
    utterances: int
    ahead: asyncio.Semaphore
    pending: asyncio.Queue[_Pending] = field(default_factory=asyncio.Queue)
    storing: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Open:
    """An open stream: its analysis, its tracks, and the offset from which a successor would have to read."""

    first: MediaFragment
    partition: int
    needed_offset: int
    stream: CallStream
    tracks: dict[Participant, _Track] = field(default_factory=dict)
    finishing: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        for track in self.tracks.values():
            while not track.pending.empty():
                waiting = track.pending.get_nowait()
                if waiting.result is not None:
                    waiting.result.cancel()
            if track.storing is not None:
                track.storing.cancel()
        if self.finishing is not None:
            self.finishing.cancel()


class Worker:
    """Reads fragments from `source`, analyses them with `analyse`, and stores the results.

    `owner` is this worker's name in every checkpoint it holds; it must differ from that of any other process, ever.
    """

    def __init__(
        self,
        *,
        source: Source,
        producer: Producer,
        store: Store,
        analyse: Callable[[Utterance], Awaitable[UtteranceSentiment]],
        config: AppConfig,
        owner: str,
    ) -> None:
        self.metrics: StreamMetrics = stream_metrics()
        self._source, self._producer, self._store = source, producer, store
        self._analyse, self._config, self._owner = analyse, config, owner
        # kafka-python's consumer belongs to one thread; decoding keeps to another, so that polls go on meanwhile.
        self._reader = ThreadPoolExecutor(1, "reader")
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._writer = ThreadPoolExecutor(1, "writer")
        self._streams: dict[StreamKey, _Open] = {}
        self._backlog: deque[Record] = deque()
        self._position: dict[int, int] = {}
        self._in_flight = 0
        self._freed = asyncio.Event()
        self._paused = False
        self._stopping = False
        self._failed: BaseException | None = None
        self._beat_s = time.monotonic()
        self._random = Random()
        self.backlog: Mapping[int, Backlog] = {}
        """What the log held for this worker when it last looked, by partition."""

    def check(self) -> None:
        """Raise if the loop has died or has not turned for a minute.

        Raises:
            RuntimeError: the loop needs a new process; Serve replaces the replica.
        """
        if self._failed is not None:
            raise RuntimeError(f"the ingest loop ended: {self._failed!r}")
        if time.monotonic() - self._beat_s > STALLED_S:
            raise RuntimeError(f"the ingest loop has not turned for {STALLED_S:.0f} s")

    def stop(self) -> None:
        """Ask `run` to end: what is in flight is dropped, and a successor finds it again from the checkpoint."""
        self._stopping = True
        self._freed.set()

    async def run(self) -> None:
        """Work until `stop`.

        Raises:
            TopicMissingError: the source's topic does not exist and may not be created.
        """
        committed_s = published_s = time.monotonic()
        try:
            while not self._stopping:
                self._beat_s = time.monotonic()
                await self._turn()
                if self._beat_s - committed_s >= self._config.worker.commit_interval_s:
                    await self._commit()
                    committed_s = self._beat_s
                if self._beat_s - published_s >= METRICS_INTERVAL_S:
                    await self._publish_metrics()
                    published_s = self._beat_s
        except BaseException as error:
            self._failed = error
            raise
        finally:
            await self._close()

    async def _turn(self) -> None:
        try:
            polled = await self._in(self._reader, self._poll)
        except SourceUnavailableError as error:
            logger.warning("the log of fragments is away, trying again: %s", error)
            await asyncio.sleep(error.retry_after_s * self._random.uniform(0.5, 1.5))
            return
        self._take(polled)
        while self._backlog and self._has_room() and not self._stopping:
            self._beat_s = time.monotonic()
            await self._handle(self._backlog.popleft())
        if self._backlog and not self._stopping:
            self._freed.clear()
            try:
                await asyncio.wait_for(self._freed.wait(), POLL_S)
            except TimeoutError:
                return

    def _poll(self) -> Polled:
        """Read on, or, while work waits, only keep the membership alive with every partition paused."""
        waits = bool(self._backlog)
        if waits != self._paused:
            (self._source.pause if waits else self._source.resume)(set(self._position))
            self._paused = waits
        return self._source.poll(0 if waits else POLL_S, RECORDS_MAX)

    def _take(self, polled: Polled) -> None:
        for partition in polled.revoked:
            self._forget(partition)
            self._position.pop(partition, None)
        for partition in polled.assigned:
            self._forget(partition)
            self._position.setdefault(partition, -1)
        if polled.assigned:
            self._paused = False
        self._backlog.extend(polled.records)
        self.metrics.fragments_in.inc(len(polled.records))

    def _forget(self, partition: int) -> None:
        """Drop all state of a partition; the checkpoints hold what is settled."""
        for key in [key for key, opened in self._streams.items() if opened.partition == partition]:
            self._streams.pop(key).cancel()
        self._backlog = deque(record for record in self._backlog if record.at.partition != partition)

    def _has_room(self) -> bool:
        return self._in_flight < self._config.worker.utterances_in_flight

    async def _handle(self, record: Record) -> None:
        # Set before the work: opening a stream may move it back.
        self._position[record.at.partition] = record.at.offset + 1
        try:
            fragment = parse_record(record, self._config.stream.limits)
            await self._listen(fragment, record)
        except (BadFragmentError, MediaError) as error:
            await self._dead_letter(record, error.reason, str(error))
        except CallDeletedError as error:
            self._skip(error.reason)
        except (StoreUnavailableError, SourceUnavailableError):
            self._position[record.at.partition] = record.at.offset
            raise
        except Exception as error:  # the one broad except: whatever a record does, it must not stop the others
            logger.exception("a record could not be handled: partition %s", record.at)
            await self._dead_letter(record, "crashed", repr(error))

    async def _listen(self, fragment: MediaFragment, record: Record) -> None:
        key = (fragment.call_id, fragment.stream)
        opened = self._streams.get(key) or await self._open(key, fragment, record)
        if opened is None:
            return
        if opened.finishing is not None:
            self._skip("after_final")
            return
        try:
            fed = await self._in(self._decoder, lambda: opened.stream.feed(fragment))
        except MediaError:
            if fragment.final:
                await self._finish(key, opened, record, fragment.start_ms)
            raise
        if fed.skipped is not None:
            self._skip(fed.skipped)
        else:
            self.metrics.fragments_analysed.inc()
            self.metrics.packets_damaged.inc(fed.damaged)
            self.metrics.media_seconds.inc(fed.media_ms / 1000)
        media_end_ms = fragment.start_ms + fed.media_ms
        self._enqueue(key, opened, fed.events, record, media_end_ms)
        if fragment.final and fed.skipped is None:
            await self._finish(key, opened, record, media_end_ms)

    async def _open(self, key: StreamKey, fragment: MediaFragment, record: Record) -> _Open | None:
        checkpoint = await self._persist(
            lambda: self._store.open_stream(
                fragment.call_id, fragment.tenant, fragment.stream, self._owner, started_at_ms=record.appended_ms
            )
        )
        if checkpoint.final:
            self._skip("already_stored")
            return None
        at = record.at
        if checkpoint.resume_at is not None and checkpoint.resume_at < at.offset:
            # Reading began after the place this stream must be resumed from: go back, the store knows what is done.
            await self._rewind(at.partition, checkpoint.resume_at)
            return None
        opened = _Open(
            fragment, at.partition, checkpoint.resume_at or at.offset, CallStream(self._config.stream, checkpoint)
        )
        for participant, cut in checkpoint.tracks.items():
            opened.tracks[participant] = self._track(cut.cut_sample, cut.utterances)
        self._streams[key] = opened
        self.metrics.open_streams.set(len(self._streams))
        return opened

    def _track(self, cut_sample: int, utterances: int) -> _Track:
        return _Track(cut_sample, utterances, asyncio.Semaphore(self._config.worker.ahead_per_track))

    def _enqueue(
        self, key: StreamKey, opened: _Open, events: list[TrackEvent], record: Record, media_end_ms: int
    ) -> None:
        for event in events:
            track = opened.tracks.setdefault(event.participant, self._track(event.believed_cut_sample, 0))
            analysis: asyncio.Task[UtteranceSentiment] | None = None
            spoken_at_s = record.appended_ms / 1000
            if event.utterance is not None:
                spoken_at_s -= max(0, media_end_ms - event.utterance.end_ms) / 1000
                self._in_flight += 1
                self.metrics.in_flight.set(self._in_flight)
                analysis = asyncio.create_task(self._analyse_one(track, event.utterance))
                analysis.add_done_callback(self._release)
            track.pending.put_nowait(_Pending(event, analysis, spoken_at_s))
            if track.storing is None:
                track.storing = asyncio.create_task(self._store_track(key, opened, event.participant, track))

    def _release(self, analysis: asyncio.Task[UtteranceSentiment]) -> None:
        self._in_flight -= 1
        self.metrics.in_flight.set(self._in_flight)
        self._freed.set()
        if not analysis.cancelled() and analysis.exception() is not None:
            logger.error("an analysis failed", exc_info=analysis.exception())

    async def _analyse_one(self, track: _Track, utterance: Utterance) -> UtteranceSentiment:
        async with track.ahead:
            return await self._again(EncoderUnavailableError, lambda: self._analyse(utterance))

    async def _store_track(self, key: StreamKey, opened: _Open, participant: Participant, track: _Track) -> None:
        """Store one track's results in order, for as long as its stream is open."""
        while True:
            pending = await track.pending.get()
            try:
                result = None if pending.result is None else await pending.result
                await self._store_event(opened, participant, track, pending.event, result)
            except FencedError:
                await self._fenced(key, opened)
                return
            except CallDeletedError:
                self._abandon(key, opened)
                return
            if result is not None:
                self._count(result, pending.spoken_at_s)
            track.pending.task_done()

    async def _store_event(
        self,
        opened: _Open,
        participant: Participant,
        track: _Track,
        event: TrackEvent,
        result: UtteranceSentiment | None,
    ) -> None:
        new = TrackCut(event.cut_sample, track.utterances + (result is not None))
        lowest = min([new.cut_sample, *(t.cut_sample for t in opened.tracks.values() if t is not track)])
        resume = opened.stream.resume_point(lowest)
        if result is not None:
            await self._publish(result)
        await self._persist(
            lambda: self._store.advance(
                opened.first,
                owner=self._owner,
                participant=participant,
                believed_cut_sample=track.cut_sample,
                new=new,
                resume=resume,
                result=result,
                ttl_s=self._tenant(opened.first.tenant).results_ttl_s,
            )
        )
        track.cut_sample, track.utterances = new.cut_sample, new.utterances
        opened.needed_offset = resume.offset

    async def _publish(self, result: UtteranceSentiment) -> None:
        headers = (("v", b"1"), ("utterance-id", result.utterance_id.encode()))
        await self._send(TOPIC_SENTIMENT, result.call_id, result.model_dump_json().encode(), headers)

    async def _finish(self, key: StreamKey, opened: _Open, record: Record, media_end_ms: int) -> None:
        """The final fragment is in: flush, and close the stream once everything of it is stored."""
        events = await self._in(self._decoder, opened.stream.finish)
        self._enqueue(key, opened, events, record, media_end_ms)
        opened.finishing = asyncio.create_task(self._close_stream(key, opened))

    async def _close_stream(self, key: StreamKey, opened: _Open) -> None:
        for track in opened.tracks.values():
            await track.pending.join()
        first = opened.first
        try:
            await self._persist(lambda: self._store.finish_stream(first.call_id, first.stream, owner=self._owner))
        except FencedError:
            await self._fenced(key, opened)
            return
        except CallDeletedError:
            self._abandon(key, opened)
            return
        self._streams.pop(key, None)
        opened.finishing = None
        opened.cancel()
        self.metrics.open_streams.set(len(self._streams))

    async def _fenced(self, key: StreamKey, opened: _Open) -> None:
        """Another worker owns the stream: drop its state. Where the partition is still ours, read it again."""
        logger.warning("call %s, stream %s: another worker owns it, its state is dropped", *key)
        self.metrics.fenced.inc()
        if self._streams.get(key) is opened:
            del self._streams[key]
            await self._rewind(opened.partition, opened.needed_offset)
        asyncio.get_running_loop().call_soon(opened.cancel)

    def _abandon(self, key: StreamKey, opened: _Open) -> None:
        """The call was deleted meanwhile; what still comes of it is skipped when its stream is opened again."""
        self._streams.pop(key, None)
        asyncio.get_running_loop().call_soon(opened.cancel)

    async def _rewind(self, partition: int, offset: int) -> None:
        self._backlog = deque(record for record in self._backlog if record.at.partition != partition)
        if partition in self._position:
            self._position[partition] = min(self._position[partition], offset)
            await self._in(self._reader, lambda: self._source.seek(partition, offset))

    async def _dead_letter(self, record: Record, reason: str, detail: str) -> None:
        logger.warning("dead-lettered (%s): %s", reason, detail)
        headers = (
            *record.headers,
            ("dlq-reason", reason.encode()),
            ("dlq-detail", detail[:1000].encode()),
            ("dlq-partition", str(record.at.partition).encode()),
            ("dlq-offset", str(record.at.offset).encode()),
        )
        key = (record.key or b"").decode(errors="replace")
        await self._send(TOPIC_DEAD_LETTER, key, record.value, headers)
        self.metrics.fragments_dead_lettered.labels(reason).inc()

    async def _send(self, topic: str, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
        def write() -> None:
            self._producer.send(topic, key, value, headers)
            self._producer.flush()

        await self._again(SourceUnavailableError, lambda: self._in(self._writer, write))

    def _skip(self, reason: str) -> None:
        self.metrics.fragments_skipped.labels(reason).inc()

    def _count(self, result: UtteranceSentiment, spoken_at_s: float) -> None:
        judged = result.judgement
        polarity, emotion = (judged.polarity, judged.emotion) if judged else ("none", "none")
        self.metrics.utterances.labels(result.tenant, result.participant, polarity, emotion).inc()
        self.metrics.stored_latency_seconds.observe(max(0.0, time.time() - spoken_at_s))
        for step, elapsed_ms in result.step_ms.items():
            self.metrics.step_seconds.labels(step).observe(elapsed_ms / 1000)
        for modality, outcome in result.modalities.items():
            if outcome.missing is not None:
                self.metrics.modality_missing.labels(modality, outcome.missing).inc()

    def _tenant(self, tenant: str) -> TenantSettings:
        return self._config.tenants.get(tenant) or self._config.tenants.get("default") or TenantSettings()

    async def _commit(self) -> None:
        offsets = {partition: offset for partition, offset in self._position.items() if offset >= 0}
        for opened in self._streams.values():
            if opened.partition in offsets:
                offsets[opened.partition] = min(offsets[opened.partition], opened.needed_offset)
        try:
            await self._in(self._reader, lambda: self._source.commit(offsets))
        except SourceUnavailableError as error:
            logger.warning("offsets could not be committed, trying again: %s", error)

    async def _publish_metrics(self) -> None:
        try:
            self.backlog = await self._in(self._reader, self._source.backlog)
            for partition, waiting in self.backlog.items():
                self.metrics.lag_records.labels(str(partition)).set(waiting.lag_records)
            oldest_ms = max((waiting.oldest_age_ms for waiting in self.backlog.values()), default=0)
            self.metrics.oldest_fragment_age_seconds.set(oldest_ms / 1000)
            text = generate_latest(self.metrics.registry).decode()
            await self._store.publish_metrics(self._owner, text, METRICS_TTL_S)
        except (SourceUnavailableError, StoreUnavailableError) as error:
            logger.warning("metrics could not be published: %s", error)

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        return await self._again(StoreUnavailableError, write)

    async def _again(self, away: type[Exception], work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, again after a jittered, growing pause for as long as it raises `away`."""
        pause_s = 0.1
        while True:
            try:
                return await work()
            except away as error:
                if self._stopping:
                    raise
                self.metrics.store_retries.inc()
                logger.warning("trying again in %.1f s: %s", pause_s, error)
                await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.5))
                self._beat_s = time.monotonic()
                pause_s = min(2 * pause_s, self._config.worker.retry_max_s)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    async def _close(self) -> None:
        try:
            await self._commit()
        finally:
            for opened in self._streams.values():
                opened.cancel()
            await self._in(self._reader, self._source.close)
            await self._in(self._writer, self._producer.close)
            for thread in (self._reader, self._decoder, self._writer):
                thread.shutdown(wait=False)
