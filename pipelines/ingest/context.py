"""What the partitions of one worker share: its store, its log, its limits, its one decoder thread."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from prometheus_client import Gauge

from pipelines.errors import StoreUnavailableError
from pipelines.metrics import StreamMetrics
from pipelines.retry import Retry
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import TOPIC_SENTIMENT, Headers, Utterance, UtteranceSentiment

T = TypeVar("T")


@dataclass(slots=True)
class InFlight:
    """How many utterances a worker has found and not stored yet; `freed` is set whenever that is one less."""

    gauge: Gauge
    count: int = 0
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, by: int) -> None:
        """Count an utterance that was found (1), or one that is stored or dropped (-1)."""
        self.count += by
        self.gauge.set(self.count)
        if by < 0:
            self.freed.set()


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker gives to its partitions, and they to their streams.

    `owner` is the worker's name. `send(topic, key, value, headers)` appends a record to the log and returns once it is
    acknowledged, however long that takes.
    """

    owner: str
    config: AppConfig
    store: Store
    analyse: Callable[[Utterance], Awaitable[UtteranceSentiment]]
    send: Callable[[str, str, bytes, Headers], Awaitable[None]]
    retry: Retry
    metrics: StreamMetrics
    in_flight: InFlight
    decoder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "decoder"))
    """Decoding keeps to one thread, so that polls go on meanwhile."""
    _openings: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def next_owner(self) -> str:
        """A name for one opening of a stream: what an earlier opening has still under way is refused by the store."""
        return f"{self.owner}/{self._openings()}"

    def count_skipped(self, reason: str) -> None:
        """Count a fragment that is not analysed and of which no open stream keeps the account."""
        self.metrics.fragments_in.inc()
        self.metrics.fragments_skipped.labels(reason).inc()

    async def publish(self, result: UtteranceSentiment) -> None:
        """Send a result to `call-sentiment`. It comes before the store: a result may come twice, and none is left out."""
        headers = (("v", b"1"), ("utterance-id", result.utterance_id.encode()))
        await self.send(TOPIC_SENTIMENT, result.call_id, result.model_dump_json().encode(), headers)

    async def decode(self, work: Callable[[], T]) -> T:
        """What `work` returns, run on the decoder thread."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder, work)

    async def retry_store(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, tried again for as long as the store is away.

        Raises:
            StoreUnavailableError: the store is away and the worker is asked to stop.
        """
        return await self.retry(StoreUnavailableError, work)
