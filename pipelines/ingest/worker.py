"""The loop of one ingest worker: records in, results stored, offsets committed (docs/architecture.md#nothing-lost-nothing-twice).

What one record leads to is `reader.Reader`'s; here it is decided when to read, when to wait, and what to commit:
a partition's committed offset is the lowest that an open stream still needs. It only hints where to read from.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from prometheus_client import generate_latest

from pipelines.errors import SourceUnavailableError, StoreUnavailableError
from pipelines.ingest.offsets import Offsets
from pipelines.ingest.open_stream import InFlight, Ports
from pipelines.ingest.reader import Reader
from pipelines.log.producer import Producer
from pipelines.log.records import in_share
from pipelines.log.source import Backlog, Polled, Source
from pipelines.metrics import StreamMetrics, stream_metrics
from pipelines.retry import Retry
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import TOPIC_SENTIMENT, Record, Utterance, UtteranceSentiment

logger = logging.getLogger(__name__)

T = TypeVar("T")
Headers = tuple[tuple[str, bytes], ...]

POLL_S = 0.2
RECORDS_MAX = 16
KEEP_S = 2.0
"""Work that takes longer does not keep the worker from polling: the group would take its partitions away."""
METRICS_INTERVAL_S = 2.0
METRICS_TTL_S = 15
STANDSTILL_S = 60.0


def owner_name() -> str:
    """A name for a worker of this process that no other process has, ever."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Worker:
    """Reads fragments from `source`, analyses them with `analyse`, and stores the results.

    `owner` is this worker's name in every checkpoint it holds; it must differ from that of any other process, ever (`owner_name`).
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
        self._owner = owner
        self._retry = Retry(config.worker.retry_max_s, self.metrics.retries)
        self._in_flight = InFlight()
        # kafka-python's consumer belongs to one thread.
        self._polling = ThreadPoolExecutor(1, "source")
        self._writing = ThreadPoolExecutor(1, "producer")
        ports = Ports(
            owner=owner,
            store=store,
            analyse=analyse,
            publish=self._publish,
            retry=self._retry,
            metrics=self.metrics,
            in_flight=self._in_flight,
            ahead_per_track=config.worker.ahead_per_track,
        )
        self._reader = Reader(ports, config, send=self._send, rewind=self._rewind)
        self._offsets = Offsets(config.worker.commit_delay_s)
        self._waiting: deque[Record] = deque()
        self._paused: bool | None = False
        """Whether every partition is paused; None when a new assignment has made that uncertain."""
        self._rewinds: dict[int, int] = {}
        self._handled: int | None = None
        """The partition of the record that is being handled."""
        self._epoch = ""
        self._failed: BaseException | None = None
        self._beat_s = time.monotonic()

    def check(self) -> None:
        """Raise if the loop has died, or has for a minute neither turned nor waited for something that is away.

        Raises:
            RuntimeError: the loop needs a new process; Serve replaces the replica.
        """
        failed = self._failed or self._reader.failed
        if failed is not None:
            raise RuntimeError(f"the ingest loop ended: {failed!r}")
        moved_s = max(self._beat_s, self._retry.tried_s)
        if time.monotonic() - moved_s > STANDSTILL_S + 2 * self._config.worker.retry_max_s:
            raise RuntimeError("the ingest loop stands still")

    @property
    def idle(self) -> bool:
        """Whether nothing is open, nothing waits, and nothing is under way."""
        return (
            not self._waiting
            and not self._rewinds
            and self._handled is None
            and not self._in_flight.count
            and not any(self._reader.needed())
        )

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
                    waiting = {record.at.partition for record in self._waiting}
                    heard = {partition: held for partition, held in self.backlog.items() if partition not in waiting}
                    await self._keeping(self._reader.watch(heard))
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
        if self._rewinds or not self._epoch:
            # Whoever was refused may have been by a store that has forgotten it. At the start: a store that is
            # replaced before the first commit would be taken for the one it was.
            await self._keeping(self._ask_epoch())
        rewinds, self._rewinds = self._rewinds, {}
        try:
            polled = await self._in(self._polling, lambda: self._poll(rewinds, waits=bool(self._waiting)))
        except SourceUnavailableError as error:
            logger.warning("the log of fragments is away, trying again: %s", error)
            for partition, offset in rewinds.items():
                self._rewinds[partition] = min(self._rewinds.get(partition, offset), offset)
            await self._retry.pause(error.retry_after_s)
            return
        self._take(polled)
        await self._keeping(self._work())
        # Room may have come meanwhile.
        if self._waiting and not self._has_room() and not self._retry.stopped.is_set():
            self._in_flight.freed.clear()
            try:
                await asyncio.wait_for(self._in_flight.freed.wait(), POLL_S)
            except TimeoutError:
                return

    async def _work(self) -> None:
        while self._waiting and self._has_room() and not self._rewinds:
            self._beat_s = time.monotonic()
            await self._handle(self._waiting.popleft())
        await self._reader.rest()

    async def _keeping(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, which may wait for the store however long, and stay a member of the group meanwhile."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait([task], timeout=KEEP_S))[0]:
                await self._stay_member(task)
        finally:
            task.cancel()
        if not task.cancelled():
            task.result()

    async def _stay_member(self, work: asyncio.Task[None]) -> None:
        """Poll with every partition paused; what is being done for a partition that is lost ends here."""
        try:
            polled = await self._in(self._polling, lambda: self._poll({}, waits=True))
            self.backlog = await self._in(self._polling, self._source.backlog)
        except SourceUnavailableError as error:
            self.backlog = {}
            logger.warning("the log of fragments is away as well: %s", error)
            return
        if self._handled in polled.revoked | polled.assigned:
            work.cancel()
            await asyncio.wait([work])
        self._take(polled)

    def _poll(self, rewinds: Mapping[int, int], *, waits: bool) -> Polled:
        """Read on, or, while records wait, only keep the membership alive with every partition paused."""
        for partition, offset in rewinds.items():
            self._source.seek(partition, offset)
        if waits != self._paused:
            (self._source.pause if waits else self._source.resume)(set(self._offsets.read_to))
            self._paused = waits
        return self._source.poll(0 if waits else POLL_S, RECORDS_MAX)

    def _take(self, polled: Polled) -> None:
        for partition in polled.revoked:
            self._forget(partition)
            self._offsets.revoke(partition)
        for partition in polled.assigned:
            self._forget(partition)
            self._offsets.assign(partition)
            self._paused = None
        for gap in polled.gaps:
            self._reader.note_gap(gap)
        # What was polled while a rewind was asked for will be read again from where it goes.
        self._waiting.extend(record for record in polled.records if record.at.partition not in self._rewinds)

    def _forget(self, partition: int) -> None:
        """Drop all state of a partition; the checkpoints hold what is settled."""
        self._reader.forget(partition)
        self._waiting = deque(record for record in self._waiting if record.at.partition != partition)
        self._rewinds.pop(partition, None)

    def _has_room(self) -> bool:
        return self._in_flight.count < self._config.worker.utterances_in_flight and not self._retry.stopped.is_set()

    async def _handle(self, record: Record) -> None:
        # Set before the work: opening a stream may move it back.
        self._offsets.read(record.at.partition, record.at.offset)
        if not in_share(record.key, self._config.share):
            return
        self._handled = record.at.partition
        try:
            await self._reader.read(record)
        except BaseException:
            # Neither analysed, skipped nor dead-lettered: whoever comes next must read it again.
            self._offsets.rewind(record.at.partition, record.at.offset)
            raise
        finally:
            self._handled = None

    def _rewind(self, partition: int, offset: int) -> None:
        """Read the partition again from `offset`, from the next poll on; a poll under way must not run ahead of it."""
        self._waiting = deque(record for record in self._waiting if record.at.partition != partition)
        read_to = self._offsets.read_to.get(partition, -1)
        if read_to >= 0:  # else everything that is still needed is to come
            # What an earlier rewind has not been read up to again lies before this one.
            self._offsets.rewind(partition, offset)
            self._rewinds[partition] = min(read_to, offset)

    async def _publish(self, result: UtteranceSentiment) -> None:
        headers = (("v", b"1"), ("utterance-id", result.utterance_id.encode()))
        await self._send(TOPIC_SENTIMENT, result.call_id, result.model_dump_json().encode(), headers)

    async def _send(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        def write() -> None:
            self._producer.send(topic, key, value, headers)
            self._producer.flush()

        await self._retry(SourceUnavailableError, lambda: self._in(self._writing, write))

    async def _commit(self) -> None:
        try:
            if await self._store_is_another():
                return
            due = self._offsets.committable(time.monotonic(), self._reader.needed())
            await self._in(self._polling, lambda: self._source.commit(due))
        except StoreUnavailableError as error:
            logger.warning("the store is away, no offset moves: %s", error)
        except SourceUnavailableError as error:
            logger.warning("offsets could not be committed, trying again: %s", error)

    async def _ask_epoch(self) -> None:
        asked = partial(self._retry, StoreUnavailableError, self._store_is_another)
        await self._retry(SourceUnavailableError, asked)

    async def _store_is_another(self) -> bool:
        """Whether the store was started anew or replaced: then everything is read again from the committed offsets."""
        epoch = await self._store.epoch()
        if self._epoch in ("", epoch):
            self._epoch = epoch
            return False
        logger.warning("the store is not the one it was: what it may have forgotten is read again")
        for partition, first in list(self._offsets.first.items()):
            committed = await self._in(self._polling, partial(self._source.committed, partition))
            self._forget(partition)
            self._offsets.assign(partition)
            self._rewinds[partition] = first if committed is None else committed
        self._epoch = epoch
        return True

    async def _publish_metrics(self) -> None:
        try:
            self.backlog = await self._in(self._polling, self._source.backlog)
            self.metrics.lag_records.clear()
            for partition, waiting in self.backlog.items():
                self.metrics.lag_records.labels(str(partition)).set(waiting.lag_records)
            oldest_ms = max((waiting.oldest_age_ms for waiting in self.backlog.values()), default=0)
            self.metrics.oldest_fragment_age_seconds.set(oldest_ms / 1000)
            text = generate_latest(self.metrics.registry).decode()
            await self._store.publish_metrics(self._owner, text, METRICS_TTL_S)
        except SourceUnavailableError as error:
            self.backlog = {}  # what was heard before the log went away says nothing of now
            logger.warning("the backlog cannot be asked for: %s", error)
        except StoreUnavailableError as error:
            logger.warning("metrics could not be published: %s", error)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    async def _close(self) -> None:
        # First: an encoder that goes away at the same time must not leave a last, empty result.
        await self._reader.close()
        try:
            await self._commit()
        finally:
            await self._in(self._polling, self._source.close)
            await self._in(self._writing, self._producer.close)
            for thread in (self._polling, self._writing):
                thread.shutdown(wait=False)
