"""Whose turn it is at what several want at once: first whoever somebody waits for, then what nobody waits for."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets `at_once` at a time through; of those that wait, one that is not `behind` comes before all that are. For one event loop.

    So a live call waits for at most what is under way, however much of recordings waits.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._taken = 0
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())

    @asynccontextmanager
    async def turn(self, *, behind: bool) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the context."""
        if self._taken < self.at_once:
            self._taken += 1
        else:
            await self._wait(self._waiting[behind])
        try:
            yield
        finally:
            self._taken -= 1
            self._let_in()

    async def _wait(self, queue: "deque[asyncio.Future[None]]") -> None:
        let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(let_in)
        try:
            await let_in
        except asyncio.CancelledError:
            if let_in.done() and not let_in.cancelled():  # its turn came, and nobody takes it
                self._taken -= 1
                self._let_in()
            elif let_in in queue:
                queue.remove(let_in)
            raise

    def _let_in(self) -> None:
        while self._taken < self.at_once and (queue := next(filter(None, self._waiting), None)) is not None:
            let_in = queue.popleft()
            if not let_in.done():  # else it is being cancelled
                self._taken += 1
                let_in.set_result(None)
