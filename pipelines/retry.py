"""Retries with jittered exponential back-off while a dependency is unavailable, until asked to stop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from prometheus_client import Counter

from pipelines.errors import StoreUnavailableError, UndertoneError

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_FIRST_S = 0.1


@dataclass(slots=True)
class Retry:
    """`await retry(Away, work)` does `work` again after a jittered, doubling pause for as long as it raises `Away`.

    Once `stopped` is set the error is raised instead.
    """

    pause_max_s: float
    retries: Counter
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    random: Random = field(default_factory=Random)
    tried_s: float = field(default_factory=time.monotonic)
    """When a dependency was last found unavailable, by the monotonic clock."""

    async def __call__(self, away: type[Exception], work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, once it does.

        Raises:
            Exception: `away` itself when stopped; any other error of `work` at once.
        """
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return await work()
            except away as error:
                if self.stopped.is_set():
                    raise
                self.retries.labels(_reason(error)).inc()
                self.tried_s = time.monotonic()
                logger.warning("trying again in %.1f s: %s", pause_s, error)
                await self.pause(pause_s)
                pause_s = min(2 * pause_s, self.pause_max_s)

    async def pause(self, pause_s: float) -> None:
        """Wait `pause_s`, give or take half, or until stopped."""
        try:
            await asyncio.wait_for(self.stopped.wait(), pause_s * self.random.uniform(0.5, 1.5))
        except TimeoutError:
            return


def _reason(error: Exception) -> str:
    if isinstance(error, StoreUnavailableError):
        return f"store_{error.cause}"
    return error.reason if isinstance(error, UndertoneError) else "error"
