"""The loop of one ingest worker: records in, results stored, offsets committed (DESIGN §4.2).

1. A record is parsed; one that breaks the contract is dead-lettered and its call goes on.
2. Its stream is opened from the checkpoint, which makes this worker the owner: an earlier one is refused.
3. The stream's utterances are analysed and stored (`open_stream.OpenStream`).
4. A partition's committed offset is the lowest that an open stream still needs. It only hints where to read from.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from prometheus_client import generate_latest

from pipelines.errors import (
    BadFragmentError,
    CallDeletedError,
    FencedError,
    MediaError,
    SourceUnavailableError,
    StoreUnavailableError,
)
from pipelines.metrics import StreamMetrics, stream_metrics
from pipelines.open_stream import InFlight, OpenStream, Ports
from pipelines.producer import Producer
from pipelines.records import parse_record
from pipelines.retry import Retry
from pipelines.settings import AppConfig
from pipelines.source import Backlog, Polled, Source
from pipelines.store import Store
from pipelines.stream import CallStream
from pipelines.types import (
    FRAGMENT_MAX_BYTES,
    TOPIC_DEAD_LETTER,
    TOPIC_SENTIMENT,
    MediaFragment,
    Record,
    Utterance,
    UtteranceSentiment,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
Headers = tuple[tuple[str, bytes], ...]

POLL_S = 0.2
RECORDS_MAX = 16
METRICS_INTERVAL_S = 2.0
METRICS_TTL_S = 15
STALLED_S = 60.0
HEADERS_KEPT_MAX = 32


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
        self.backlog: Mapping[int, Backlog] = {}
        """What the log held for this worker when it last looked, by partition."""
        self._source, self._producer, self._store, self._config = source, producer, store, config
        self._retry = Retry(config.worker.retry_max_s, self.metrics.store_retries)
        self._in_flight = InFlight()
        self._ports = Ports(
            owner=owner,
            store=store,
            analyse=analyse,
            publish=self._publish,
            retry=self._retry,
            metrics=self.metrics,
            in_flight=self._in_flight,
            ahead_per_track=config.worker.ahead_per_track,
        )
        # kafka-python's consumer belongs to one thread; decoding keeps to another, so that polls go on meanwhile.
        self._reader = ThreadPoolExecutor(1, "reader")
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._writer = ThreadPoolExecutor(1, "writer")
        self._streams: dict[tuple[str, str], OpenStream] = {}
        self._waiting: deque[Record] = deque()
        self._position: dict[int, int] = {}
        self._paused: bool | None = False
        """Whether every partition is paused; None when a new assignment has made that uncertain."""
        self._rewinds: dict[int, int] = {}
        self._rewound: set[tuple[str, str, int | None]] = set()
        """Places already gone back to, of streams that are not open yet."""
        self._failed: BaseException | None = None
        self._beat_s = time.monotonic()

    def check(self) -> None:
        """Raise if the loop has died or has not turned for a minute.

        Raises:
            RuntimeError: the loop needs a new process; Serve replaces the replica.
        """
        failed = self._failed or next((s.failed for s in self._streams.values() if s.failed is not None), None)
        if failed is not None:
            raise RuntimeError(f"the ingest loop ended: {failed!r}")
        if time.monotonic() - self._beat_s > STALLED_S + self._config.worker.retry_max_s:
            raise RuntimeError("the ingest loop stands still")

    def stop(self) -> None:
        """Ask `run` to end: what is in flight is dropped, and a successor finds it again from the checkpoint."""
        self._retry.stopped.set()
        self._in_flight.freed.set()

    async def run(self) -> None:
        """Work until `stop`.

        Raises:
            TopicMissingError: the source's topic does not exist and may not be created.
        """
        committed_s = published_s = time.monotonic()
        try:
            while not self._retry.stopped.is_set():
                self._beat_s = time.monotonic()
                await self._turn()
                if self._beat_s - committed_s >= self._config.worker.commit_interval_s:
                    await self._release_idle()
                    await self._commit()
                    committed_s = self._beat_s
                if self._beat_s - published_s >= METRICS_INTERVAL_S:
                    await self._publish_metrics()
                    published_s = self._beat_s
        except (SourceUnavailableError, StoreUnavailableError) as error:
            if not self._retry.stopped.is_set():
                self._failed = error
                raise
        except BaseException as error:
            self._failed = error
            raise
        finally:
            await self._close()

    async def _turn(self) -> None:
        rewinds, self._rewinds = self._rewinds, {}
        try:
            polled = await self._in(self._reader, lambda: self._poll(rewinds))
        except SourceUnavailableError as error:
            logger.warning("the log of fragments is away, trying again: %s", error)
            await self._retry.pause(error.retry_after_s)
            return
        self._take(polled)
        while self._waiting and self._has_room():
            self._beat_s = time.monotonic()
            await self._handle(self._waiting.popleft())
        if self._waiting and not self._retry.stopped.is_set():
            self._in_flight.freed.clear()
            try:
                await asyncio.wait_for(self._in_flight.freed.wait(), POLL_S)
            except TimeoutError:
                return

    def _poll(self, rewinds: Mapping[int, int]) -> Polled:
        """Read on, or, while records wait, only keep the membership alive with every partition paused."""
        for partition, offset in rewinds.items():
            self._source.seek(partition, offset)
        waits = bool(self._waiting)
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
            self._position[partition] = -1
            self._paused = None
        # What was polled while a rewind was asked for will be read again from where it goes.
        self._waiting.extend(record for record in polled.records if record.at.partition not in self._rewinds)

    def _forget(self, partition: int) -> None:
        """Drop all state of a partition; the checkpoints hold what is settled."""
        for key in [key for key, opened in self._streams.items() if opened.partition == partition]:
            self._streams.pop(key).cancel()
        self._waiting = deque(record for record in self._waiting if record.at.partition != partition)
        self._rewinds.pop(partition, None)
        self.metrics.open_streams.set(len(self._streams))

    def _has_room(self) -> bool:
        return self._in_flight.count < self._config.worker.utterances_in_flight and not self._retry.stopped.is_set()

    async def _handle(self, record: Record) -> None:
        # Set before the work: opening a stream may move it back.
        self._position[record.at.partition] = record.at.offset + 1
        try:
            await self._judge(record)
        except BaseException:
            # Neither analysed, skipped nor dead-lettered: whoever comes next must read it again.
            self._position[record.at.partition] = record.at.offset
            raise

    async def _judge(self, record: Record) -> None:
        try:
            await self._listen(parse_record(record, self._config.stream.limits), record)
        except (BadFragmentError, MediaError) as error:
            await self._dead_letter(record, error.reason, str(error))
        except CallDeletedError as error:
            self._skip(error.reason)
        except (StoreUnavailableError, SourceUnavailableError):
            raise
        except Exception as error:  # whatever a record does, it must not stop the others
            logger.exception("a record could not be handled: %s", record.at)
            await self._dead_letter(record, "crashed", repr(error))

    async def _listen(self, fragment: MediaFragment, record: Record) -> None:
        opened = self._streams.get((fragment.call_id, fragment.stream)) or await self._open(fragment, record)
        if opened is None:
            return
        if opened.tenant != fragment.tenant:
            raise BadFragmentError("bad_header", f"call {fragment.call_id} belongs to another tenant")
        if opened.finishing:
            self._skip("after_final")
            return
        opened.seen_s = time.monotonic()
        try:
            fed = await self._in(self._decoder, lambda: opened.stream.feed(fragment))
        except MediaError:
            opened.let_go_before(record.at.offset)
            if fragment.final:  # it ends its stream even when its own media is damaged
                await self._finish(opened, record, fragment.start_ms)
            raise
        if fed.skipped is not None:
            self._skip(fed.skipped)
            return
        self.metrics.fragments_in.inc()
        self.metrics.fragments_analysed.inc()
        self.metrics.fragments_missing.inc(fed.missing)
        self.metrics.packets_damaged.inc(fed.damaged)
        self.metrics.media_seconds.inc(fed.media_ms / 1000)
        media_end_ms = fragment.start_ms + fed.media_ms
        opened.take(fed.events, record.appended_ms, media_end_ms)
        opened.let_go_before(record.at.offset)
        if fragment.final:
            await self._finish(opened, record, media_end_ms)

    async def _finish(self, opened: OpenStream, record: Record, media_end_ms: int) -> None:
        opened.take(await self._in(self._decoder, opened.stream.finish), record.appended_ms, media_end_ms)
        opened.finish()

    async def _open(self, fragment: MediaFragment, record: Record) -> OpenStream | None:
        checkpoint = await self._retry(
            StoreUnavailableError,
            lambda: self._store.open_stream(
                fragment.call_id, fragment.tenant, fragment.stream, self._ports.owner, started_at_ms=record.appended_ms
            ),
        )
        if checkpoint.final:
            self._skip("already_stored")
            return None
        if checkpoint.resume_at is not None and checkpoint.resume_at < record.at.offset:
            # Reading began after the place this stream must be resumed from: go back, the store knows what is done.
            # Once: where the log has lost that place, what is left of the stream goes on behind a gap.
            place = (fragment.call_id, fragment.stream, checkpoint.resume_at)
            if place not in self._rewound:
                self._rewound.add(place)
                self._rewind(record.at.partition, checkpoint.resume_at)
                return None
        self._rewound.discard((fragment.call_id, fragment.stream, checkpoint.resume_at))
        tenant = self._config.tenant(fragment.tenant)
        opened = OpenStream(
            fragment,
            CallStream(self._config.stream, checkpoint, tenant.policy),
            checkpoint,
            partition=record.at.partition,
            offset=record.at.offset,
            ttl_s=tenant.results_ttl_s,
            ports=self._ports,
            closed=self._closed,
        )
        self._streams[opened.key] = opened
        self.metrics.open_streams.set(len(self._streams))
        return opened

    async def _closed(self, opened: OpenStream, error: FencedError | None) -> None:
        if self._streams.get(opened.key) is opened:
            del self._streams[opened.key]
        self.metrics.open_streams.set(len(self._streams))
        if error is not None:
            logger.warning("call %s, stream %s: another worker owns it, its state is dropped", *opened.key)
            self.metrics.fenced.inc()
            # Where the partition is still ours after all, the stream is read again from where it stood.
            self._rewind(opened.partition, opened.needed_offset)

    def _rewind(self, partition: int, offset: int) -> None:
        """Read the partition again from `offset`, from the next poll on; a poll under way must not run ahead of it."""
        self._waiting = deque(record for record in self._waiting if record.at.partition != partition)
        if partition in self._position:
            self._position[partition] = min(self._position[partition], offset)
            self._rewinds[partition] = min(self._rewinds.get(partition, offset), offset)

    async def _release_idle(self) -> None:
        """Let go of streams that have fallen silent without a final fragment, so that their partition can move on.

        What was said is stored; a later fragment opens the stream again from its checkpoint.
        """
        before_s = time.monotonic() - self._config.worker.stream_idle_s
        for opened in [one for one in self._streams.values() if one.seen_s < before_s and not one.finishing]:
            logger.warning("call %s, stream %s: silent without a final fragment, let go", *opened.key)
            opened.take(await self._in(self._decoder, opened.stream.finish), round(time.time() * 1000), 0)
            opened.finish(final=False)

    async def _publish(self, result: UtteranceSentiment) -> None:
        headers = (("v", b"1"), ("utterance-id", result.utterance_id.encode()))
        await self._send(TOPIC_SENTIMENT, result.call_id, result.model_dump_json().encode(), headers)

    async def _dead_letter(self, record: Record, reason: str, detail: str) -> None:
        logger.warning("dead-lettered (%s): %s", reason, detail)
        # Within what the topic takes, whatever came: a letter that cannot be sent would stop everything behind it.
        kept = [(name[:100], value[:1000]) for name, value in record.headers[:HEADERS_KEPT_MAX]]
        value = record.value[:FRAGMENT_MAX_BYTES]
        headers = (
            *kept,
            ("dlq-bytes", str(len(record.value)).encode()),
            ("dlq-reason", reason.encode()),
            ("dlq-detail", detail[:1000].encode()),
            ("dlq-partition", str(record.at.partition).encode()),
            ("dlq-offset", str(record.at.offset).encode()),
        )
        await self._send(TOPIC_DEAD_LETTER, (record.key or b"")[:512].decode(errors="replace"), value, headers)
        self.metrics.fragments_in.inc()
        self.metrics.fragments_dead_lettered.labels(reason).inc()

    async def _send(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        def write() -> None:
            self._producer.send(topic, key, value, headers)
            self._producer.flush()

        await self._retry(SourceUnavailableError, lambda: self._in(self._writer, write))

    def _skip(self, reason: str) -> None:
        self.metrics.fragments_in.inc()
        self.metrics.fragments_skipped.labels(reason).inc()

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
            self.metrics.lag_records.clear()
            for partition, waiting in self.backlog.items():
                self.metrics.lag_records.labels(str(partition)).set(waiting.lag_records)
            oldest_ms = max((waiting.oldest_age_ms for waiting in self.backlog.values()), default=0)
            self.metrics.oldest_fragment_age_seconds.set(oldest_ms / 1000)
            text = generate_latest(self.metrics.registry).decode()
            await self._store.publish_metrics(self._ports.owner, text, METRICS_TTL_S)
        except (SourceUnavailableError, StoreUnavailableError) as error:
            logger.warning("metrics could not be published: %s", error)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    async def _close(self) -> None:
        # First: an encoder that goes away at the same time must not leave a last, empty result.
        for opened in self._streams.values():
            opened.cancel()
        try:
            await self._commit()
        finally:
            await self._in(self._reader, self._source.close)
            await self._in(self._writer, self._producer.close)
            for thread in (self._reader, self._decoder, self._writer):
                thread.shutdown(wait=False)
