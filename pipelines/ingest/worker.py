"""The loop of one ingest worker: records in, results stored, offsets committed (docs/architecture.md#nothing-lost-nothing-twice).

What a record leads to is `partition.Partition`'s; here it is decided when to read, when to wait, and what to commit. A
committed offset only hints where to read from: the store knows what is done.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from models.types import FloatArray, Transcript
from pipelines.errors import SourceUnavailableError, StoreUnavailableError
from pipelines.ingest.assignment import Assignment
from pipelines.ingest.context import InFlight, WorkerContext
from pipelines.ingest.decoder_thread import DecoderThread
from pipelines.ingest.partition import Partition
from pipelines.ingest.reports import METRICS_INTERVAL_S, report
from pipelines.ingest.source_thread import POLL_S, RECORDS_MAX, SourceThread
from pipelines.ingest.waiting import Waiting
from pipelines.log.producer import Producer
from pipelines.log.source import Backlog, Source
from pipelines.metrics import StreamMetrics, stream_metrics
from pipelines.retry import Retry
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import Headers, Utterance, UtteranceSentiment

logger = logging.getLogger(__name__)

POLL_INTERVAL_MAX_S = 2.0
"""Work that takes longer does not keep the worker from polling: the group would take its partitions away."""
STANDSTILL_S = 60.0


def owner_name() -> str:
    """A name for a worker of this process that no other process has, ever."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Worker:
    """Reads fragments from `source`, analyses them with `analyse`, and stores the results.

    `owner` is the worker's name, with a number behind it in every checkpoint that it opens; it must differ from that of any other
    process, ever (`owner_name`). `transcribe`, as in `WorkerContext`, makes interim texts where the configuration wants them.
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
        transcribe: Callable[[FloatArray], Awaitable[Transcript | None]] | None = None,
    ) -> None:
        self.metrics: StreamMetrics = stream_metrics()
        self._source, self._producer = SourceThread(source), producer
        self._retry = Retry(config.worker.retry_max_s, self.metrics.retries)
        self._writing = ThreadPoolExecutor(1, "producer")
        self._context = WorkerContext(
            owner=owner,
            config=config,
            store=store,
            analyse=analyse,
            send=self._send,
            retry=self._retry,
            metrics=self.metrics,
            in_flight=InFlight(self.metrics.in_flight, config.worker.utterances_in_flight),
            decoder=DecoderThread(config.stream.limits),
            transcribe=transcribe if config.shows_interim else None,
        )
        self._assignment = Assignment(self._context)
        self._working_on: Partition | None = None
        """The partition that is being worked on."""
        self._epoch = ""
        self._failed: BaseException | None = None
        self._beat_s = time.monotonic()

    def check(self) -> None:
        """Raise if the loop or the storing of a stream has failed, the loop stands still, or decoders do not end.

        It stands still if for `STANDSTILL_S`, and twice the longest pause, it neither turned nor tried anything again.

        Raises:
            RuntimeError: the loop needs a new process; Serve replaces the replica.
        """
        failed = self._failed or next((one.failed for one in self._assignment if one.failed), None)
        if failed is not None:
            raise RuntimeError(f"the ingest loop, or the storing of a stream, ended: {failed!r}")
        moved_s = max(self._beat_s, self._retry.tried_s)
        if time.monotonic() - moved_s > STANDSTILL_S + 2 * self._context.config.worker.retry_max_s:
            raise RuntimeError("the ingest loop stands still")
        self._context.decoder.check()

    @property
    def backlog(self) -> Mapping[int, Backlog]:
        """What the log held for this worker when it last looked, and what waits here, by partition."""
        return self._assignment.behind(self._source.backlog)

    @property
    def idle(self) -> bool:
        """Whether nothing is open, nothing waits, and nothing is under way."""
        return self._working_on is None and self._assignment.idle and not self._context.in_flight.count

    def stop(self) -> None:
        """Ask `run` to end: what is in flight is dropped, and a successor finds it again from the checkpoint."""
        self._retry.stopped.set()
        self._context.in_flight.freed.set()

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
                if self._beat_s - committed_s >= self._context.config.worker.commit_interval_s:
                    await self._while_polling(self._watch())
                    await self._commit()
                    committed_s = self._beat_s
                if self._beat_s - published_s >= METRICS_INTERVAL_S:
                    await self._report()
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
        """One turn of the loop.

        1. Before reading a partition again, and at the start, see whether the store was restarted or replaced: it may have
           forgotten what it refused.
        2. Poll, also while records wait here, so that a live call is found behind an upload; while `held_max_bytes` of them
           do, with every partition paused, to stay in the group.
        3. Apply what changed in the assignment, and queue the records.
        4. Work through some of them for as long as there is room for any.
        5. With records waiting and no room, wait up to `POLL_S` for a result to be stored.
        """
        if not self._epoch or self._assignment.rewinds:  # 1
            await self._while_polling(self._ask_epoch())
        rewinds, waiting = self._assignment.rewinds, self._assignment.waiting
        full = self._assignment.held_bytes >= self._context.config.worker.held_max_bytes
        try:
            polled = await self._source.poll(self._assignment.numbers, rewinds, paused=full, wait=not waiting)  # 2
        except SourceUnavailableError as error:
            logger.warning("the log of fragments is away, trying again: %s", error)
            await self._retry.pause(error.retry_after_s)
            return
        self._assignment.rewound(rewinds)
        self._assignment.apply(polled)  # 3
        await self._while_polling(self._work())  # 4
        if self._assignment.waiting and self._next() is None and not self._assignment.rewinds:  # 5
            self._context.in_flight.freed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._context.in_flight.freed.wait(), POLL_S)

    async def _work(self) -> None:
        for _ in range(RECORDS_MAX):
            if (turn := self._next()) is None:
                break
            partition, one = turn
            self._beat_s = time.monotonic()
            await self._work_on(partition, partition.process(one))
        for partition in self._assignment:
            await self._work_on(partition, partition.rest())
        await self._context.retry_store(self._assignment.clear_revoked)

    async def _watch(self) -> None:
        heard, now_s = self._source.trusted_backlog(), time.monotonic()  # before a partition waits for the store
        for partition in self._assignment:
            await self._work_on(partition, partition.watch(heard.get(partition.number), now_s))

    async def _work_on(self, partition: Partition, work: Coroutine[Any, Any, None]) -> None:
        self._working_on = partition
        try:
            await work
        finally:
            self._working_on = None

    def _next(self) -> tuple[Partition, Waiting] | None:
        return None if self._retry.stopped.is_set() else self._assignment.next()

    async def _while_polling(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, which may wait for the store however long, and poll meanwhile with every partition paused.

        Else the group would evict this worker.
        """
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait([task], timeout=POLL_INTERVAL_MAX_S))[0]:
                await self._poll_paused(task)
        finally:
            task.cancel()
        if not task.cancelled():
            task.result()

    async def _poll_paused(self, work: asyncio.Task[None]) -> None:
        """Poll while `work` goes on; what is being done for a partition that is lost ends here."""
        try:
            polled = await self._source.poll(self._assignment.numbers, {}, paused=True)
        except SourceUnavailableError as error:
            logger.warning("the log of fragments is away: %s", error)
            return
        if self._working_on is not None and self._working_on.number in polled.revoked | polled.assigned:
            work.cancel()
            await asyncio.wait([work])
        self._assignment.apply(polled)
        with suppress(SourceUnavailableError):
            await self._source.ask_backlog()

    async def _send(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        def write() -> None:
            self._producer.send(topic, key, value, headers)
            self._producer.flush()

        await self._retry(SourceUnavailableError, partial(self._write, write))

    async def _commit(self) -> None:
        """Commit what nothing open needs any more.

        1. Not while the store is another than it was: then everything since the committed offsets is read again.
        2. Ask each partition for the offset that was safe `commit_delay_s` ago.
        3. Commit it. A failure is harmless: the next commit covers it.
        """
        try:
            if await self._restart_if_store_replaced():  # 1
                return
            due = self._assignment.committable(time.monotonic())  # 2
            await self._source.commit(due)  # 3
        except StoreUnavailableError as error:
            logger.warning("the store is away, no offset moves: %s", error)
        except SourceUnavailableError as error:
            logger.warning("offsets could not be committed, trying again: %s", error)

    async def _ask_epoch(self) -> None:
        asked = partial(self._retry, StoreUnavailableError, self._restart_if_store_replaced)
        await self._retry(SourceUnavailableError, asked)

    async def _restart_if_store_replaced(self) -> bool:
        """Whether the store was started anew or replaced: then everything is read again from the committed offsets."""
        epoch = await self._context.store.epoch()
        if self._epoch in ("", epoch):
            self._epoch = epoch
            return False
        logger.warning("the store is not the one it was: what it may have forgotten is read again")
        await self._context.store.seals.keep_again()
        for partition in self._assignment:
            first = partition.progress.first
            if first is not None:
                committed = await self._source.committed(partition.number)
                self._assignment.restart(partition.number, first if committed is None else committed)
        self._epoch = epoch
        return True

    async def _report(self) -> None:
        try:
            await self._source.ask_backlog()
        except SourceUnavailableError as error:
            logger.warning("how far this worker is behind cannot be told: %s", error)
        await report(self._context, self.backlog)

    async def _write(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, work)

    async def _close(self) -> None:
        # First: if encoders stop at the same time, an analysis under way would be stored without its modalities.
        try:
            await self._assignment.close()
        except StoreUnavailableError as error:
            logger.warning("the store is away at the end: %s", error)
        self._context.decoder.close()
        try:
            await self._commit()
        finally:
            await self._source.close()
            await self._write(self._producer.close)
            self._writing.shutdown(wait=False)
