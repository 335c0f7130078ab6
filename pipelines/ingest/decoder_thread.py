"""The one thread that decodes all streams of a worker, given up for another one when a single piece of work does not end.

A call of FFmpeg's cannot be interrupted, and a thread cannot be ended. One that has worked on a fragment for far longer than the
limits allow is left to itself: its fragment is dead-lettered, and the other streams go on at once, on a thread of their own. What
it may still cost is bounded by `STUCK_MAX`, beyond which the worker asks for another process.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipelines.errors import MediaError
from pipelines.settings import MediaLimits

STUCK_MAX = 2
"""How many threads that were given up may still be at work; each takes a processor from the others."""
_ALLOWANCE = 4
"""Sound and pictures of a fragment may each take `decode_max_s`, by decoders that can be asked to stop; then come the speech
detector and all else."""
_LOOK_S = 0.5

T = TypeVar("T")
_Order = tuple[Callable[[], Any], "asyncio.Future[Any]"]

logger = logging.getLogger(__name__)


class StuckDecoderError(MediaError):
    """A piece of media kept its decoder busy for so long that both were given up: what decoded it must not be used again."""


class DecoderThread:
    """Runs one piece of work after the other; for one event loop."""

    def __init__(self, limits: MediaLimits) -> None:
        """`limits` bound what one piece of work may take."""
        self._work_max_s = _ALLOWANCE * limits.decode_max_s
        self._given_up: list[_Thread] = []
        self._thread = _Thread()
        self._waiting = 0
        """How many pieces of work somebody waits for; while there are any, `_look` comes again."""
        self._looking = False

    def check(self) -> None:
        """Raise if too many threads were given up and are still at work.

        Raises:
            RuntimeError: they are; only the end of this process ends them.
        """
        self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        if len(self._given_up) > STUCK_MAX:
            raise RuntimeError(f"{len(self._given_up)} decoders do not end: the process must be replaced")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns.

        Raises:
            StuckDecoderError: it took far more processor time than `limits.decode_max_s`, and goes on in vain.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self._thread.orders.put((work, result))
        self._waiting += 1
        if not self._looking:  # one timer for all: a fragment takes milliseconds
            self._looking = True
            loop.call_later(_LOOK_S, self._look)
        try:
            return await result
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Takes no more work."""
        self._thread.orders.put(None)

    def _look(self) -> None:
        """Come again while anybody waits, and give up the work at hand if it has taken too long."""
        self._looking = self._waiting > 0
        if self._looking:  # first: where no other thread can be had now, it is tried again
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        judged = self._thread.current
        if judged is not None and self._thread.used_s() > self._work_max_s:
            self._replace(judged)

    def _replace(self, judged: "asyncio.Future[Any]") -> None:
        """Give the thread up, and hand what waits behind its work to another one; only what was judged fails."""
        stuck, self._thread = self._thread, _Thread()
        self._given_up.append(stuck)
        with contextlib.suppress(queue.Empty):
            while True:
                self._thread.orders.put(stuck.orders.get_nowait())
        stuck.orders.put(None)
        logger.error("a decoder was given up after %.3g s of processor time", stuck.used_s())
        error = StuckDecoderError(
            f"decoding takes more than {self._work_max_s:g} s of processor time in one go: re-encode it "
            "(settings: stream.limits.decode_max_s)"
        )
        _deliver(judged, None, error)


class _Thread(threading.Thread):
    """Works off its `orders` until None comes."""

    def __init__(self) -> None:
        super().__init__(name="decoder", daemon=True)  # one that is stuck must not hold up the end of the process
        self.orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self.current: asyncio.Future[Any] | None = None
        self._clock = time.CLOCK_MONOTONIC
        self._began_s = 0.0
        self.start()

    def run(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):  # not on macOS, where pauses of the process count too
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        while (order := self.orders.get()) is not None:
            work, result = order
            if result.cancelled():
                continue
            self._began_s, self.current = time.clock_gettime(self._clock), result
            try:
                outcome, error = work(), None
            except BaseException as raised:  # noqa: BLE001  # it is raised where the work was asked for
                outcome, error = None, raised
            self.current = None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                result.get_loop().call_soon_threadsafe(_deliver, result, outcome, error)
            del order, work, result, outcome, error

    def used_s(self) -> float:
        """Processor time that the work at hand has taken; 0 where there is none."""
        return 0.0 if self.current is None else time.clock_gettime(self._clock) - self._began_s


def _deliver(result: "asyncio.Future[Any]", outcome: object, error: BaseException | None) -> None:
    if result.done():  # cancelled or given up, and nobody waits any more; or ended just when it was judged
        return
    if error is None:
        result.set_result(outcome)
    else:
        result.set_exception(error)
