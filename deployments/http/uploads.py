"""Media on its way from HTTP to the log: bounded from one end to the other, nothing is ever held as a whole."""

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from deployments.http.bodies import MediaMetadata
from deployments.http.limits import HttpLimits, MediaThreads, PacedMedia
from deployments.http.problems import ProblemError
from deployments.http.reservations import Reservation
from pipelines.errors import MediaError, SourceUnavailableError
from pipelines.log.producer import Producer
from pipelines.log.records import fragment_headers, seal_fragment
from pipelines.media.byte_stream import SpoolBudget
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.fragment import fragments
from pipelines.settings import AppConfig
from pipelines.types import TOPIC_MEDIA, Consent, MediaFragment

T = TypeVar("T")

CHUNKS_WAITING_MAX = 8


class ByteBridge:
    """A bounded queue of chunks from the event loop to the one thread that iterates over it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(CHUNKS_WAITING_MAX)
        self._waiting: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()

    async def put(self, chunk: bytes) -> None:
        """Waits while the reader is `CHUNKS_WAITING_MAX` chunks behind."""
        await self._room.acquire()
        self._waiting.put(chunk)

    def end(self, error: BaseException | None = None) -> None:
        """No more chunks come; those that wait are still read, then `error` is raised in the reader."""
        self._waiting.put(error)

    def __iter__(self) -> Iterator[bytes]:
        """For the reading thread only."""
        while (chunk := self._waiting.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the sender
                self._loop.call_soon_threadsafe(self._room.release)
            yield chunk


class LogWriter:
    """Appends fragments from many threads through one producer, which belongs to one thread."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._thread = ThreadPoolExecutor(1, "log-writer")
        self._losses = 0

    def append(self, pieces: Iterable[MediaFragment]) -> int:
        """Appends every fragment and waits until all are acknowledged; their number. Blocks.

        Raises:
            SourceUnavailableError: the log did not take them all; send the same media again.
            Exception: `pieces` raised it; what came before is acknowledged, unless `SourceUnavailableError` is raised instead.
        """
        # A producer that lost one record has dropped what every stream had waiting in it.
        losses, count = self._losses, 0
        try:
            for piece in pieces:
                self._thread.submit(self._send, piece, losses).result()
                count += 1
        finally:
            self._thread.submit(self._flush, losses).result()
        return count

    def close(self) -> None:
        """Takes no more work."""
        self._thread.shutdown(wait=False)

    def _send(self, piece: MediaFragment, losses: int) -> None:
        with self._watched(losses):
            self._producer.send(TOPIC_MEDIA, piece.call_id, piece.media, fragment_headers(piece))

    def _flush(self, losses: int) -> None:
        with self._watched(losses):
            self._producer.flush()

    @contextlib.contextmanager
    def _watched(self, losses: int) -> Iterator[None]:
        if losses != self._losses:
            raise SourceUnavailableError("the log lost records of this call on their way; send the same media again")
        try:
            yield
        except SourceUnavailableError:
            self._losses += 1
            raise


@dataclass(frozen=True, slots=True)
class Intake:
    """Where media enters the log."""

    threads: MediaThreads
    decoders: DecoderProcesses
    writer: LogWriter
    limits: HttpLimits
    config: AppConfig
    """Says what each tenant lets be analysed, and which log it is."""
    spool: SpoolBudget

    @property
    def log_is_apart(self) -> bool:
        """Whether the log is another server than the store, so that it may hold what the store has lost the seal of."""
        return self.config.source != "redis"

    async def take(
        self,
        chunks: AsyncIterator[bytes],
        metadata: MediaMetadata,
        call_id: str,
        content_type: str | None,
        *,
        held: Reservation,
        client: str,
        live: bool,
    ) -> int:
        """Cuts `chunks` into fragments and appends them, sealed, while they arrive, for the stream that is `held`; the number of fragments.

        When the sender fails, an upload stops where it is, without a final fragment, so that sending it again goes on
        from there: what the log has acknowledged is not appended again. A live stream ends there, with a final fragment.

        Raises:
            ProblemError: too many bytes (413; what came until then is analysed), too few (408), other media than an upload that
                is taken up again had before (409), all threads busy (503), or as many as `client` may have (429).
            MediaError: not media.
            BusyError: an MP4 that has to be spooled finds no room.
            SourceUnavailableError: the log does not take it.
        """
        bridge = ByteBridge()
        pieces = fragments(
            bridge,
            call_id=call_id,
            tenant=metadata.tenant,
            stream=metadata.stream,
            participants=metadata.participant_list(),
            consent=metadata.consent_policy(),
            content_type=content_type,
            start_ms=metadata.start_ms,
            customer=held.customer,
            recorded=not live,
            decoders=self.decoders,
            spool=self.spool,
            warn=held.warn,
        )
        policy = self.config.tenant(metadata.tenant).policy
        appended = self.threads.start(lambda: self._append(pieces, held, policy), client)
        min_bytes = self.limits.idle_min_bytes if live else self.limits.upload_min_bytes
        media = PacedMedia(chunks, self.limits, self.limits.stream_max_s, min_bytes=min_bytes)
        try:
            oversize = await self._carry(media, bridge, appended)
        except BaseException:
            bridge.end(None if live else MediaError("the sender went away"))
            await asyncio.shield(asyncio.wait([appended]))  # how far it has come is known then
            raise
        # The thread works on when the request is cancelled, and stays counted as busy: hence the shield.
        if not oversize:
            return await asyncio.shield(appended)
        with contextlib.suppress(MediaError):
            await asyncio.shield(appended)
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "oversize",
            f"more than {self.limits.upload_max_bytes} bytes; call {call_id} is analysed up to there only. "
            "Send the media in several calls",
        )

    def _append(self, pieces: Iterator[MediaFragment], held: Reservation, policy: Consent) -> int:
        """The number of all fragments, those included that are in the log from an earlier try."""
        reached = held.progress
        with contextlib.closing(pieces):  # type: ignore[type-var]  # a generator, which has `close`
            try:
                self.writer.append(seal_fragment(piece, held.seal, policy) for piece in held.left(pieces))
            except SourceUnavailableError:
                held.progress, held.broke_off = reached, True  # what was sent since may be lost
                raise
        return held.progress.fragments

    async def _carry(self, media: PacedMedia, bridge: ByteBridge, appended: "asyncio.Future[int]") -> bool:
        """Whether the media passed the limit; ends early when the reader has."""
        taken_bytes, oversize = 0, False
        while not oversize and not appended.done():
            chunk = await _unless_done(media.next(), appended)
            if chunk is None:
                break
            taken_bytes += len(chunk)
            oversize = taken_bytes > self.limits.upload_max_bytes
            if not oversize:
                await _unless_done(bridge.put(chunk), appended)
        bridge.end()
        return oversize


async def _unless_done(step: Coroutine[Any, Any, T], reader: "asyncio.Future[int]") -> T | None:
    """What `step` gives; None as soon as the reader has ended, which makes no room and needs no more."""
    task = asyncio.ensure_future(step)
    both: set[asyncio.Future[Any]] = {task, reader}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
