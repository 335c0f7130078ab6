"""Interim texts for the clients that watch: those of a tenant are received once at this gateway, however many watch."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi.sse import format_sse_event

from pipelines.errors import StoreUnavailableError
from pipelines.store.interim import InterimTexts

logger = logging.getLogger(__name__)

WAITING_MAX = 8
"""How many interim texts wait for a client that is slow; of more, it gets the latest."""
RETRY_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher:
    """A client that watches one call, or all of the tenant."""

    call_id: str | None
    waiting: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX))

    def offer(self, event: bytes) -> None:
        if self.waiting.full():
            self.waiting.get_nowait()
        self.waiting.put_nowait(event)


class _TenantInterim:
    """The interim texts of one tenant, received by one task for all of its watchers."""

    def __init__(self, texts: InterimTexts, tenant: str) -> None:
        self._texts, self._tenant = texts, tenant
        self.watchers: set[_Watcher] = set()
        self.receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        away = False
        while True:
            try:
                async with aclosing(self._texts.follow(self._tenant)) as texts:
                    async for text in texts:
                        away = False
                        event = format_sse_event(data_str=text.model_dump_json(), event=text.event)
                        for watcher in self.watchers:
                            if watcher.call_id in (None, text.call_id):
                                watcher.offer(event)
            except StoreUnavailableError as error:
                if not away:
                    logger.warning("interim texts wait for the store: %s", error)
                away = True
            except Exception:  # whatever it is, the results go on coming, and so must these
                logger.exception("interim texts are received anew")
            await asyncio.sleep(RETRY_S)


class InterimFeeds:
    """One `_TenantInterim` for each tenant that is watched; it ends with its last watcher."""

    def __init__(self, texts: InterimTexts) -> None:
        self._texts = texts
        self._tenants: dict[str, _TenantInterim] = {}

    async def beside(
        self, events: AsyncGenerator[bytes, None], tenant: str, call_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """`events`, and among them the interim texts of the call, or of the tenant's calls, that come meanwhile.

        It ends when `events` do. An interim text has no id: whoever resumes does so at the event before it.
        """
        own = self._tenants.get(tenant)
        if own is None:
            own = self._tenants[tenant] = _TenantInterim(self._texts, tenant)
        watcher = _Watcher(call_id)
        own.watchers.add(watcher)
        try:
            async with aclosing(_merged(events, watcher.waiting)) as merged:
                async for event in merged:
                    yield event
        finally:
            own.watchers.discard(watcher)
            if not own.watchers:
                own.receiving.cancel()
                self._tenants.pop(tenant)


async def _merged(events: AsyncGenerator[bytes, None], others: asyncio.Queue[bytes]) -> AsyncGenerator[bytes, None]:
    """What comes first, from either; ends with `events`, which are closed."""
    event, other = asyncio.create_task(_next(events)), asyncio.create_task(others.get())
    try:
        while True:
            await asyncio.wait({event, other}, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                found = event.result()
                if found is None:
                    return
                yield found
                event = asyncio.create_task(_next(events))
            if other.done():
                yield other.result()
                other = asyncio.create_task(others.get())
    finally:
        event.cancel()
        other.cancel()
        await asyncio.wait({event, other})
        await events.aclose()


async def _next(events: AsyncGenerator[bytes, None]) -> bytes | None:
    """The next of them, None at the end."""
    async for event in events:
        return event
    return None
