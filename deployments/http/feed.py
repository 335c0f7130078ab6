"""The live events of tenants for all who watch them through this gateway.

A tenant's events are read once, however many watch, and the latest are kept for a moment. A watcher who falls further
behind, or resumes from before, reads on its own until it has caught up; so nobody holds up anybody, and no queue grows.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass

from fastapi.sse import format_sse_event

from pipelines.errors import StoreUnavailableError
from pipelines.store.archive import Archive
from pipelines.store.tenant_events import TenantEvent, TenantEvents

logger = logging.getLogger(__name__)

ROUND_S = 0.5
"""The pause between two rounds of reading."""
KEPT_EVENTS = 1_000
KEPT_BYTES = 4 << 20


class TenantFeeds:
    """The feeds of those tenants that somebody watches."""

    def __init__(self, archive: Archive, heartbeat_ms: int) -> None:
        self._archive, self._heartbeat_ms = archive, heartbeat_ms
        self._feeds: dict[str, TenantFeed] = {}

    async def watch(self, tenant: str, after_ms: int | None, now_ms: int) -> AsyncGenerator[bytes, None]:
        """Server-sent events: what is written from now on, or was after `after_ms`; a comment when nothing is for a while.

        Both are times by the store's clock, ms since 1970.
        """
        feed = self._feeds.get(tenant)
        if feed is None or feed.reading.done():
            feed = self._feeds[tenant] = TenantFeed(self._archive, tenant, now_ms, self._heartbeat_ms)
        feed.watchers += 1
        try:
            async for text in feed.watch(after_ms):
                yield text
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                feed.reading.cancel()
                if self._feeds.get(tenant) is feed:
                    del self._feeds[tenant]


@dataclass(frozen=True, slots=True)
class _Kept:
    """An event as it is sent; when it was written, and until when every event was given before it, ms since 1970."""

    written_ms: int
    complete_to_ms: int
    text: bytes


@dataclass(slots=True)
class _Place:
    """Where a watcher is: the number of its next event, and until when it has been given every event.

    Of the events before number `joined` it has been given those that were written until then.
    """

    number: int
    joined: int
    complete_to_ms: int


class TenantFeed:
    """The events of one tenant, read by a task of its own from `begin_ms` on, for each who calls `watch`."""

    def __init__(self, archive: Archive, tenant: str, begin_ms: int, heartbeat_ms: int) -> None:
        self._archive, self._tenant, self._heartbeat_s = archive, tenant, heartbeat_ms / 1000
        self._reader = archive.follow(tenant, begin_ms)
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._first = 0
        """The number of the first event that is kept: how many are not any more."""
        self._kept_from_ms = begin_ms
        """Every event that is written later is kept, once it is read."""
        self._news = asyncio.Event()
        self.watchers = 0
        self.reading = asyncio.create_task(self._read())

    async def watch(self, after_ms: int | None) -> AsyncIterator[bytes]:
        """As `TenantFeeds.watch`."""
        if after_ms is None:
            place = _Place(self._end, self._end, self._reader.complete_to_ms)
        else:
            place = _Place(-1, -1, after_ms)
        # The headers leave with the first bytes, and whoever is cut off now has an id to resume from.
        yield format_sse_event(comment="listening", id=str(place.complete_to_ms))
        while True:
            if place.number < self._first:
                async for text in self._catch_up(place):
                    yield text
            for text in self._following(place):
                yield text
            if place.number == self._end and not await self._comes_more(place):
                yield format_sse_event(comment="heartbeat", id=str(place.complete_to_ms))

    @property
    def _end(self) -> int:
        """The number that the next event will have."""
        return self._first + len(self._kept)

    async def _catch_up(self, place: _Place) -> AsyncIterator[bytes]:
        """What is not kept any more, read from the store until all that follows is kept; `place` is then there."""
        clock_s = asyncio.get_running_loop().time
        said_s = clock_s()
        reader = self._archive.follow(self._tenant, place.complete_to_ms)
        rounds = _rounds(reader)
        while reader.complete_to_ms < self._kept_from_ms:
            events = await anext(rounds)
            for event in events:
                yield sent(event, reader.complete_to_ms)
            if events:
                said_s = clock_s()
            elif clock_s() - said_s >= self._heartbeat_s:
                said_s = clock_s()
                yield format_sse_event(comment="heartbeat")
        place.number, place.joined, place.complete_to_ms = self._first, self._end, reader.complete_to_ms

    def _following(self, place: _Place) -> Iterator[bytes]:
        """What is kept from `place` on, which moves; ends early when the watcher is so slow that it is kept no more."""
        while self._first <= place.number < self._end:
            kept = self._kept[place.number - self._first]
            place.number += 1
            if place.number > place.joined or kept.written_ms > place.complete_to_ms:
                place.complete_to_ms = max(place.complete_to_ms, kept.complete_to_ms)
                yield kept.text

    async def _comes_more(self, place: _Place) -> bool:
        """Waits for the next event at the end of what is kept; False when none comes for a while."""
        place.complete_to_ms, news = max(place.complete_to_ms, self._reader.complete_to_ms), self._news
        if self.reading.done():
            self.reading.result()  # raises what ended it: the connection ends, and its watcher connects again
        try:
            await asyncio.wait_for(news.wait(), self._heartbeat_s)
        except TimeoutError:
            return False
        return True

    async def _read(self) -> None:
        try:
            async for events in _rounds(self._reader):
                for event in events:
                    self._keep(event)
                if events:
                    self._wake()
        finally:
            self._wake()

    def _keep(self, event: TenantEvent) -> None:
        text = sent(event, self._reader.complete_to_ms)
        self._kept.append(_Kept(event.written_ms, self._reader.complete_to_ms, text))
        self._kept_bytes += len(text)
        while len(self._kept) > KEPT_EVENTS or self._kept_bytes > KEPT_BYTES:
            dropped = self._kept.popleft()
            self._kept_bytes -= len(dropped.text)
            self._first += 1
            self._kept_from_ms = max(self._kept_from_ms, dropped.written_ms)

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def sent(event: TenantEvent, complete_to_ms: int) -> bytes:
    """The event as it is sent; its id begins with where a watcher resumes who has seen it."""
    found = event.event
    if found.utterance is not None:
        data = found.utterance.model_dump_json()
    else:
        data = json.dumps({"call_id": event.call_id, "status": found.kind.removeprefix("call-")})
    return format_sse_event(data_str=data, event=found.kind, id=f"{complete_to_ms}.{event.name}")


async def _rounds(reader: TenantEvents) -> AsyncIterator[tuple[TenantEvent, ...]]:
    """What `reader` gives, round after round, each ended by nothing; while the store is away there is nothing."""
    away = False
    while True:
        try:
            async for events in reader.read():
                yield events
            away = False
        except StoreUnavailableError as error:
            if not away:
                logger.warning("the live feed waits for the store: %s", error)
            away = True
        yield ()
        # The first pass is what a watcher waits for.
        await asyncio.sleep(ROUND_S if away or reader.passes else 0)
