"""Media on its way from HTTP to the log: bounded from one end to the other, nothing is ever held as a whole."""

import asyncio
import contextlib
import hashlib
import queue
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from deployments.http.bodies import MediaMetadata
from deployments.http.limits import HttpLimits, MediaThreads, PacedMedia
from deployments.http.multipart import FIELDS_AFTER_FILE
from deployments.http.problems import ProblemError
from pipelines.errors import CallDeletedError, MediaError, SourceUnavailableError
from pipelines.log.producer import Producer
from pipelines.log.records import fragment_headers, seal_fragment
from pipelines.media.byte_stream import SpoolBudget
from pipelines.media.decoder_process import DecoderProcesses
from pipelines.media.fragment import fragments
from pipelines.seal import Seal
from pipelines.settings import AppConfig
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, CallRef, Consent, MediaFragment

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
            MediaError: `pieces` raised it.
        """
        # A producer that lost one record has dropped what every stream had waiting in it.
        losses, count = self._losses, 0
        for piece in pieces:
            self._thread.submit(self._send, piece, losses).result()
            count += 1
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
class Reservation:
    """A stream that is a sender's: the word that continues it, the seal under which its media goes into the log, and whose call it is."""

    resume: str
    seal: Seal
    customer: str | None = None
    """As a keyed hash, which the store knows the call by."""


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
        from there; a live stream ends there, with one.

        Raises:
            ProblemError: too many bytes (413; what came until then is analysed), too few (408), all threads busy (503), or as many
                as `client` may have (429).
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
        )
        policy = self.config.tenant(metadata.tenant).policy
        appended = self.threads.start(lambda: self._append(pieces, held.seal, policy), client)
        min_bytes = self.limits.idle_min_bytes if live else self.limits.upload_min_bytes
        media = PacedMedia(chunks, self.limits, self.limits.stream_max_s, min_bytes=min_bytes)
        try:
            oversize = await self._carry(media, bridge, appended)
        except BaseException:
            bridge.end(None if live else MediaError("the sender went away"))
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

    def _append(self, pieces: Iterator[MediaFragment], seal: Seal, policy: Consent) -> int:
        with contextlib.closing(pieces):  # type: ignore[type-var]  # a generator, which has `close`
            return self.writer.append(seal_fragment(piece, seal, policy) for piece in pieces)

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


@contextlib.asynccontextmanager
async def reserved(
    store: Store, call: CallRef, metadata: MediaMetadata, *, live: bool, keep_seal: bool
) -> AsyncIterator[Reservation]:
    """The stream reserved for this sender while its media is taken; `keep_seal`: its seal is kept once more at the end.

    Whose call it is the store knows before anything of it is in the log: a customer who is forgotten before it is read is forgotten.
    Where it fails, the reservation of a sender that named no word of its own is given back: nobody could go on with it.

    Raises:
        CallDeletedError: the call was deleted, before or meanwhile.
        ProblemError: the stream is in use, or another sender's (409).
    """
    stream = metadata.stream
    await _refuse_deleted(store, call)
    found = await store.archive.call(call)
    state = None if found is None else found.streams.get(stream)
    resume = metadata.resume or secrets.token_urlsafe(16)
    word = hashlib.sha256(resume.encode()).hexdigest()
    is_ours = await store.ledger.reserve_stream(call, stream, word, first=state is None)
    if is_ours and state == "final" and not live:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "stream_complete",
            f"{call} has all of its stream {stream!r}, from an earlier try: nothing is to be sent again",
        )
    if not is_ours or (live and state is not None):
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "stream_exists",
            f"{call} has a stream {stream!r} already; take another stream name, or another call id. An upload that broke "
            "off is sent again with the `resume` that its first try named",
        )
    try:
        seal = await store.seals.of_call(call, TOPIC_MEDIA)
        yield Reservation(resume, seal, await _noted_customer(store, call, metadata))
        if keep_seal:
            await store.seals.keep(seal)
        await store.ledger.await_worker(call)
    except BaseException as error:
        if isinstance(error, ProblemError) and error.reason == FIELDS_AFTER_FILE:
            raise await asyncio.shield(_taken_back(store, call, error, is_new=found is None)) from error
        if metadata.resume is None:
            await asyncio.shield(store.ledger.release_stream(call, stream, word))
        raise


async def _taken_back(store: Store, call: CallRef, error: ProblemError, *, is_new: bool) -> ProblemError:
    """The error of an upload whose consent, or customer, came too late; what was taken of a new call is forgotten."""
    if is_new:
        await store.delete_call(call)
        what = f"Nothing of {call} is kept; send it again under another call id"
    else:
        what = f"{call} was there before: forget all of it with DELETE /v1/calls/{call.call_id} if that must not stay"
    return ProblemError(HTTPStatus(error.status), error.reason, f"{error.detail}. {what}")


async def _refuse_deleted(store: Store, call: CallRef) -> None:
    if await store.deleted(call):
        raise CallDeletedError(f"{call} was deleted, and nothing more is taken of it; take another call id")


async def _noted_customer(store: Store, call: CallRef, metadata: MediaMetadata) -> str | None:
    """The keyed hash of the customer whom the metadata name, once the store knows whose call it is; None where they name none."""
    if metadata.customer is None:
        return None
    customer = await store.customers.hash(call.tenant, metadata.customer.get_secret_value())
    await store.customers.note(call, customer)
    return customer


async def _unless_done(step: Coroutine[Any, Any, T], reader: "asyncio.Future[int]") -> T | None:
    """What `step` gives; None as soon as the reader has ended, which makes no room and needs no more."""
    task = asyncio.ensure_future(step)
    both: set[asyncio.Future[Any]] = {task, reader}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
