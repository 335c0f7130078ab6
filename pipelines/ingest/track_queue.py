"""One participant's events on their way into the store: analysed concurrently, within a bound, stored in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pipelines.checkpoints import TrackCut
from pipelines.errors import EncoderUnavailableError
from pipelines.ingest.context import WorkerContext
from pipelines.media.call_stream import TrackEvent
from pipelines.metrics import count_result
from pipelines.types import Utterance, UtteranceSentiment


@dataclass(frozen=True, slots=True)
class _Pending:
    event: TrackEvent
    analysis: asyncio.Task[UtteranceSentiment] | None
    logged_at_s: float
    """When the log took the end of its speech, on the wall clock."""


class TrackQueue:
    """The events of one track that are not stored yet; `cut` is how far it is stored."""

    def __init__(self, cut: TrackCut, context: WorkerContext) -> None:
        self.cut = cut
        self._context = context
        self._ahead = asyncio.Semaphore(context.config.worker.ahead_per_track)
        self._pending: asyncio.Queue[_Pending] = asyncio.Queue()

    def put(self, event: TrackEvent, logged_at_s: float) -> None:
        """Queue an event, and start the analysis of its utterance; the log took the end of its speech at `logged_at_s`, s since 1970."""
        analysis = None
        if event.utterance is not None:
            analysis = asyncio.create_task(self._analyse(event.utterance))
            self._context.in_flight.add(event.utterance)
        self._pending.put_nowait(_Pending(event, analysis, logged_at_s))

    async def store_next(self, store: Callable[[TrackEvent, UtteranceSentiment | None], Awaitable[None]]) -> None:
        """Wait for the next event and the result of its analysis, and `store` them; what that raises is raised here."""
        pending = await self._pending.get()
        if pending.analysis is None or pending.event.utterance is None:
            await store(pending.event, None)
        else:
            try:
                result = await pending.analysis
                await store(pending.event, result)
            finally:
                self._context.in_flight.remove(pending.event.utterance)
            count_result(self._context.metrics, result, time.time() - pending.logged_at_s)
        self._pending.task_done()

    async def join(self) -> None:
        """Wait until every event is stored."""
        await self._pending.join()

    def cancel(self) -> None:
        """Drop the events that wait for their turn, and end their analyses."""
        while not self._pending.empty():
            pending = self._pending.get_nowait()
            if pending.analysis is not None and pending.event.utterance is not None:
                pending.analysis.cancel()
                self._context.in_flight.remove(pending.event.utterance)

    async def _analyse(self, utterance: Utterance) -> UtteranceSentiment:
        async with self._ahead:
            return await self._context.retry(EncoderUnavailableError, lambda: self._context.analyse(utterance))
