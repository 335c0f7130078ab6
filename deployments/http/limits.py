"""What one request may take, and what holds senders to it: time, memory and threads."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from deployments.http.problems import ProblemError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one request may take."""

    upload_max_bytes: int = 2 << 30
    """Of an upload or a live stream as a whole."""
    chunk_max_bytes: int = 1 << 20
    """Of one WebSocket message."""
    idle_max_s: float = 60.0
    """How long the sender of media may say nothing, and how long what stands before the media may take."""
    idle_min_bytes: int = 1 << 10
    """The least that must come within `idle_max_s`: less is as good as nothing."""
    stream_max_s: float = 86_400.0
    """How long one upload or live stream may go on."""
    media_streams_max: int = 64
    """How many uploads, live streams and analyses go on at once; each holds a thread."""
    analyze_max_bytes: int = 32 << 20
    analyze_max_ms: int = 120_000
    analyze_body_max_s: float = 300.0
    """How long the body of one analysis may take to come."""
    analyze_held_max_bytes: int = 512 << 20
    """Of the bodies of all analyses together, which are held until they are judged."""
    heartbeat_ms: int = 10_000
    """A quiet event stream says so this often."""


class PacedMedia:
    """Media as it comes from a sender who is held to a least speed: silence or single bytes would hold a thread."""

    def __init__(self, chunks: AsyncIterator[bytes], limits: HttpLimits, whole_max_s: float) -> None:
        """`chunks` is the media; all of it has to come within `whole_max_s`."""
        self._chunks, self._limits = chunks, limits
        self._patience_s = limits.idle_max_s
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
            async with asyncio.timeout(min(self._patience_s, left_s)):
                chunk = await anext(self._chunks, None)
        except TimeoutError:
            raise self._too_slow() if left_s < self._patience_s else self._idle() from None
        self._patience_s -= time.monotonic() - begun_s
        self._came_bytes += len(chunk or b"")
        if self._came_bytes >= self._limits.idle_min_bytes:
            self._came_bytes, self._patience_s = 0, self._limits.idle_max_s
        return chunk

    def _idle(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            "idle",
            f"fewer than {self._limits.idle_min_bytes} bytes of media came within {self._limits.idle_max_s:g} s; "
            "send it without such pauses",
        )

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            "too_slow",
            f"the media was not all here after {self._whole_max_s:g} s; send it faster, or go on as another stream",
        )


class BodyRoom:
    """The bytes that all bodies held in memory may have together; whoever finds no room is refused."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yields what takes so many bytes more, and raises `ProblemError` (503 `busy`) when they are not free."""
        taken_bytes = 0

        def take(count: int) -> None:
            nonlocal taken_bytes
            if count > self._free_bytes:
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "busy",
                    "as much media is under analysis as this gateway holds; try again in a few seconds",
                )
            self._free_bytes -= count
            taken_bytes += count

        try:
            yield take
        finally:
            self._free_bytes += taken_bytes


class MediaThreads:
    """Threads for FFmpeg, one a stream; a stream that would have to wait for one is refused instead."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "media")
        self._free = count

    def start(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Runs `work` in a thread.

        Raises:
            ProblemError: all are busy.
        """
        if not self._free:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "busy",
                "as many media streams go on as this gateway takes; try again in a few seconds",
            )
        self._free -= 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        running.add_done_callback(self._release)
        return running

    def _release(self, running: "asyncio.Future[T]") -> None:
        self._free += 1
        if not running.cancelled():
            running.exception()  # whoever waited for it may have gone; it is not a surprise to the loop then

    def close(self) -> None:
        """Takes no more work."""
        self._pool.shutdown(wait=False)
