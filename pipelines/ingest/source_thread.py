"""The worker's source of records, driven from its event loop on one thread of its own."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pipelines.errors import SourceUnavailableError
from pipelines.log.source import Backlog, Polled, Source

T = TypeVar("T")

POLL_S = 0.2
RECORDS_MAX = 16


class SourceThread:
    """A `Source` of which every method is called on the same thread, as kafka-python's consumer demands.

    Every method raises `SourceUnavailableError` as the source's own does.
    """

    def __init__(self, source: Source) -> None:
        self.backlog: Mapping[int, Backlog] = {}
        """What the log held, by partition, when it was last asked; empty where it did not answer since."""
        self._was_away = False
        """Whether the log did not answer since `trusted_backlog` was last called."""
        self._source = source
        self._thread = ThreadPoolExecutor(1, "source")
        self._paused: bool | None = False
        """Whether every partition is paused; None when a new assignment has made that uncertain."""

    async def poll(
        self, assigned: Collection[int], seeks: Mapping[int, int], *, paused: bool, wait: bool = True
    ) -> Polled:
        """Read on, after going to the offsets of `seeks`; `paused`: only keep the membership, every partition paused.

        `wait` for a first record, up to `POLL_S`; without it only what is there now is read.
        """

        def poll() -> Polled:
            for partition, offset in seeks.items():
                self._source.seek(partition, offset)
            if paused != self._paused:
                (self._source.pause if paused else self._source.resume)(assigned)
                self._paused = paused
            polled = self._source.poll(POLL_S if wait and not paused else 0, RECORDS_MAX)
            if polled.assigned:
                self._paused = None
            return polled

        return await self._run(poll)

    async def ask_backlog(self) -> None:
        """Ask what the log holds for this worker, see `backlog`."""
        self.backlog = await self._run(self._source.backlog)

    def trusted_backlog(self) -> Mapping[int, Backlog]:
        """`backlog`, or nothing where the log was away for some of the time since this was last asked.

        A stream whose fragments could not be read meanwhile has not been silent.
        """
        away, self._was_away = self._was_away, False
        return {} if away else self.backlog

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Source.commit`."""
        await self._run(partial(self._source.commit, offsets))

    async def committed(self, partition: int) -> int | None:
        """See `Source.committed`."""
        return await self._run(partial(self._source.committed, partition))

    async def close(self) -> None:
        """See `Source.close`; the thread ends too."""
        await self._run(self._source.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except SourceUnavailableError:
            self.backlog, self._was_away = {}, True
            raise
