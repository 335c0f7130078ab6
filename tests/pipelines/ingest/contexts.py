"""What a worker gives to its partitions, for tests of one of them: nothing is sent, and the store is asked only if a test does."""

from collections.abc import Awaitable, Callable

from models.types import FloatArray, Transcript
from pipelines.ingest.context import InFlight, WorkerContext
from pipelines.ingest.decoder_thread import DecoderThread
from pipelines.metrics import stream_metrics
from pipelines.retry import Retry
from pipelines.settings import AppConfig, MediaLimits, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import Headers, Utterance, UtteranceSentiment
from tests.pipelines.working import judge


def context(
    url: str,
    analyse: Callable[[Utterance], Awaitable[UtteranceSentiment]] = judge,
    worker: WorkerSettings | None = None,
    transcribe: Callable[[FloatArray], Awaitable[Transcript | None]] | None = None,
) -> WorkerContext:
    async def send(topic: str, key: str, value: bytes, headers: Headers) -> None:
        del topic, key, value, headers

    metrics, worker = stream_metrics(), worker or WorkerSettings()
    return WorkerContext(
        owner="w",
        config=AppConfig(worker=worker),
        store=Store.connect(url),
        analyse=analyse,
        send=send,
        retry=Retry(0.1, metrics.retries),
        metrics=metrics,
        in_flight=InFlight(metrics.in_flight, worker.utterances_in_flight),
        decoder=DecoderThread(MediaLimits()),
        transcribe=transcribe,
    )
