"""What one request may take, and what holds senders to it: time, memory and threads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request

from deployments.http.admission import Seats
from deployments.http.problems import ProblemError

T = TypeVar("T")

LENGTH_MAX_DIGITS = 18
"""Of a `Content-Length`: Python raises for an integer of more than 4,300 digits."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one request may take; how many go on at once stands in `AppConfig.http`."""

    upload_max_bytes: int = 2 << 30
    """Of an upload or a live stream as a whole."""
    chunk_max_bytes: int = 1 << 20
    """Of one WebSocket message."""
    idle_max_s: float = 60.0
    """How long the sender of media may pause, and how long what comes before the media may take."""
    idle_min_bytes: int = 1 << 10
    """Fewer bytes than this within `idle_max_s` count as a pause, of a live stream: Opus with DTX sends 25 B/s in silence."""
    upload_min_bytes: int = 15 << 10
    """The same of an upload, 256 B/s: less than half of what AMR and Opus send at their lowest rates (594 and 750 B/s), for whoever
    uploads a call while it happens."""
    stream_max_s: float = 86_400.0
    """How long one upload or live stream may go on."""
    analyze_max_bytes: int = 32 << 20
    analyze_max_ms: int = 120_000
    analyze_decode_max_s: float = 60.0
    """Processor time for all of an analysis' media: half of what it lasts."""
    analyze_body_max_s: float = 300.0
    """How long the body of one analysis may take to come."""
    analyze_held_max_bytes: int = 512 << 20
    """Of the bodies of all analyses together, which are held until they are judged."""
    heartbeat_ms: int = 10_000
    """An event stream without events sends a comment this often."""


def refuse_oversize(request: Request, max_bytes: int) -> None:
    """Refuse a body whose `Content-Length` is more than `max_bytes`, before anything of it is read.

    Raises:
        ProblemError: it is (413 `oversize`).
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LENGTH_MAX_DIGITS or int(length) > max_bytes):
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "oversize",
            f"the body has {length[:LENGTH_MAX_DIGITS]} bytes, allowed are {max_bytes}; send the media in several calls",
        )


def refuse_encoded(request: Request) -> None:
    """Refuse a body that is compressed: media is by its own codec, and what a text unpacks to would have to be bounded.

    Raises:
        ProblemError: it is (415 `content_encoding`).
    """
    for coding in request.headers.getlist("content-encoding"):
        if coding.strip().lower() not in {"", "identity"}:
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "content_encoding",
                f"the body is sent with Content-Encoding: {coding[:40]}, which is not undone here; send it as it is, without "
                "that header",
                headers={"Accept-Encoding": "identity"},
            )


class PacedMedia:
    """Media as it arrives, with a deadline: a sender that pauses, or sends single bytes, would occupy a thread."""

    def __init__(
        self, chunks: AsyncIterator[bytes], limits: HttpLimits, whole_max_s: float, *, min_bytes: int | None = None
    ) -> None:
        """`chunks` is the media; all of it has to come within `whole_max_s`.

        Fewer than `min_bytes` within `limits.idle_max_s` are a pause; by default `limits.idle_min_bytes`.
        """
        self._chunks, self._limits = chunks, limits
        self._min_bytes = limits.idle_min_bytes if min_bytes is None else min_bytes
        self._idle_left_s = limits.idle_max_s
        self._came_bytes = 0
        self._whole_max_s = whole_max_s
        self._end_s = time.monotonic() + whole_max_s

    async def next(self) -> bytes | None:
        """The next chunk, None at the end. Only the time spent in here counts against the sender.

        Raises:
            ProblemError: too little comes (408 `idle`), or the whole takes too long (408 `too_slow`).
        """
        begun_s = time.monotonic()
        left_s = self._end_s - begun_s
        try:
            async with asyncio.timeout(min(self._idle_left_s, left_s)):
                chunk = await anext(self._chunks, None)
        except TimeoutError:
            raise self._too_slow() if left_s < self._idle_left_s else self._idle() from None
        self._idle_left_s -= time.monotonic() - begun_s
        self._came_bytes += len(chunk or b"")
        if self._came_bytes >= self._min_bytes:
            self._came_bytes, self._idle_left_s = 0, self._limits.idle_max_s
        return chunk

    def _idle(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            "idle",
            f"fewer than {self._min_bytes} bytes of media came within {self._limits.idle_max_s:g} s; "
            "send it without such pauses",
        )

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            "too_slow",
            f"the media was not all here after {self._whole_max_s:g} s; send it faster, or go on as another stream",
        )


class MediaThreads:
    """Threads for FFmpeg, one a stream; a stream that would have to wait for one is refused instead."""

    def __init__(self, count: int, count_per_client: int) -> None:
        self._pool = ThreadPoolExecutor(count, "media")
        self._seats = Seats(count, count_per_client, reason="busy", what="media streams")

    def start(self, work: Callable[[], T], client: str) -> "asyncio.Future[T]":
        """Runs `work` of a client in a thread. Await it behind `asyncio.shield`: cancelling it frees the seat, not the thread.

        Raises:
            ProblemError: all are busy (503), or as many as one client may have (429).
            RuntimeError: closed.
        """
        give_back = self._seats.take(client)
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError:
            give_back()
            raise
        running.add_done_callback(partial(self._release, give_back))
        return running

    def _release(self, give_back: Callable[[], None], running: "asyncio.Future[T]") -> None:
        give_back()
        if not running.cancelled():
            running.exception()  # marks it as retrieved: the request that awaited it may have been cancelled

    def close(self) -> None:
        """Takes no more work."""
        self._pool.shutdown(wait=False)
