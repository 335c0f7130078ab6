"""What the partitions of one worker share: its store, its log, its limits, its one decoder thread."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from prometheus_client import Gauge

from models.types import FloatArray, Transcript
from pipelines.errors import StoreUnavailableError
from pipelines.ingest.decoder_thread import DecoderThread
from pipelines.log.results import result_record
from pipelines.media.call_stream import CallStream, FeedResult, TrackEvent
from pipelines.metrics import StreamMetrics
from pipelines.retry import Retry
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import TOPIC_SENTIMENT, CallRef, Headers, MediaFragment, Utterance, UtteranceSentiment

T = TypeVar("T")


@dataclass(slots=True)
class InFlight:
    """How many utterances a worker has found and not stored yet, at most about `most`; `freed` is set whenever that is one less."""

    gauge: Gauge
    most: int
    count: int = 0
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    _calls: Counter[CallRef] = field(default_factory=Counter)
    _recorded: int = 0

    def has_room(self, call: CallRef | None, recorded: bool) -> bool:  # noqa: FBT001  # a `HasRoom`
        """Whether more of this call may be taken up: it may have half of the room, and all that nobody waits for half together."""
        share = max(1, self.most // 2)
        if self.count >= self.most or (recorded and self._recorded >= share):
            return False
        return call is None or self._calls[call] < share

    def add(self, utterance: Utterance) -> None:
        """Count an utterance that was found."""
        self._change(utterance, 1)

    def remove(self, utterance: Utterance) -> None:
        """Count one that is stored or dropped."""
        self._change(utterance, -1)
        self.freed.set()

    def _change(self, utterance: Utterance, by: int) -> None:
        call = CallRef(utterance.tenant, utterance.call_id)
        self.count += by
        self._recorded += by * utterance.recorded
        self._calls[call] += by
        if not self._calls[call]:
            del self._calls[call]
        self.gauge.set(self.count)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker gives to its partitions, and they to their streams.

    `owner` is the worker's name. `send(topic, key, value, headers)` appends a record to the log and returns once it is
    acknowledged, however long that takes. `transcribe` gives the words of samples (N,) at 16 kHz while nothing else is asked of
    the transcriber, and None at once while something is; without it no interim texts are made.
    """

    owner: str
    config: AppConfig
    store: Store
    analyse: Callable[[Utterance], Awaitable[UtteranceSentiment]]
    send: Callable[[str, str, bytes, Headers], Awaitable[None]]
    retry: Retry
    metrics: StreamMetrics
    in_flight: InFlight
    decoder: DecoderThread
    """Decoding keeps to one thread, so that polls go on meanwhile."""
    transcribe: Callable[[FloatArray], Awaitable[Transcript | None]] | None = None
    _openings: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def next_owner(self) -> str:
        """A name for one opening of a stream: what an earlier opening has still under way is refused by the store."""
        return f"{self.owner}/{self._openings()}"

    def count_skipped(self, reason: str) -> None:
        """Count a fragment that is not analysed and of which no open stream keeps the account."""
        self.metrics.fragments_in.inc()
        self.metrics.fragments_skipped.labels(reason).inc()

    async def publish(self, result: UtteranceSentiment) -> None:
        """Send a result to `call-sentiment`, sealed. It comes before the store: a result may come twice, and none is left out.

        Raises:
            CallDeletedError: the call was deleted.
        """
        if not self.config.is_live:  # the results of replays and shadows are in the store only
            return
        call = CallRef(result.tenant, result.call_id)
        seal = await self.retry_store(lambda: self.store.seals.of_call(call, TOPIC_SENTIMENT, trusting=True))
        await self.send(TOPIC_SENTIMENT, result.call_id, *result_record(result, seal))

    async def decode(self, work: Callable[[], T]) -> T:
        """What `work` returns, run on the decoder thread.

        Raises:
            StuckDecoderError: it does not end; what it works on must not be used again.
        """
        return await self.decoder.run(work)

    async def feed(
        self, stream: CallStream, fragment: MediaFragment
    ) -> tuple[FeedResult, list[TrackEvent] | None, list[Utterance]]:
        """Feed a fragment to its stream on the decoder thread, and finish the stream if it is the last.

        Returns:
            What came of the fragment; what came of the stream's end, None before it; and where interim texts are made,
            the utterances that go on.

        Raises:
            MediaError: its media cannot be opened; the stream goes on with the next one.
            StuckDecoderError: its decoding does not end, and the stream must be opened anew.
        """

        def work() -> tuple[FeedResult, list[TrackEvent] | None, list[Utterance]]:
            fed = stream.feed(fragment)
            if fragment.final and fed.skipped in (None, "not_consented"):
                return fed, stream.finish(), []
            return fed, None, [] if self.transcribe is None else stream.open_speech()

        return await self.decode(work)

    async def retry_store(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, tried again for as long as the store is away.

        Raises:
            StoreUnavailableError: the store is away and the worker is asked to stop.
        """
        return await self.retry(StoreUnavailableError, work)
