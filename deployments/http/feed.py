"""The live events of a tenant, for every client that watches them at this gateway.

A tenant's events are read once, however many clients watch, into a buffer of the latest. A client that has fallen behind
the buffer, or resumes at an event older than it, is served from the store until it has caught up: there is no queue per
client, and a slow one delays no other.
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
"""The pause between two rounds of reading the store."""
BUFFER_EVENTS_MAX = 1_000
BUFFER_MAX_BYTES = 4 << 20


class TenantFeeds:
    """One `TenantFeed` for each tenant that is watched; it ends with its last watcher."""

    def __init__(self, archive: Archive, heartbeat_ms: int) -> None:
        self._archive, self._heartbeat_ms = archive, heartbeat_ms
        self._feeds: dict[str, TenantFeed] = {}

    async def watch(self, tenant: str, after_ms: int | None, now_ms: int) -> AsyncGenerator[bytes, None]:
        """Server-sent events of the tenant: those written from now on, or after `after_ms`; comments while there are none.

        `after_ms` and `now_ms` are times by the store's clock, ms since 1970.
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
class _BufferedEvent:
    """An event as it is sent.

    It was written at `written_ms`; every event written until `complete_to_ms` came before it (ms since 1970).
    """

    written_ms: int
    complete_to_ms: int
    text: bytes


@dataclass(slots=True)
class _Position:
    """How far a watcher has come: the number of its next event in the buffer.

    It has been sent every event that was written until `complete_to_ms`. Those before number `joined` that are older
    than that have come to it from the store.
    """

    number: int
    joined: int
    complete_to_ms: int


class TenantFeed:
    """The events of one tenant, read from `begin_ms` on by one task, for any number of calls of `watch`."""

    def __init__(self, archive: Archive, tenant: str, begin_ms: int, heartbeat_ms: int) -> None:
        self._archive, self._tenant, self._heartbeat_s = archive, tenant, heartbeat_ms / 1000
        self._reader = archive.follow(tenant, begin_ms)
        self._buffer: deque[_BufferedEvent] = deque()
        self._buffer_bytes = 0
        self._first_number = 0
        """The number of the oldest event in the buffer, counted from the first that was read."""
        self._buffer_complete_from_ms = begin_ms
        """Every event that was read and written later than this is in the buffer."""
        self._new_event = asyncio.Event()
        self.watchers = 0
        self.reading = asyncio.create_task(self._read())

    async def watch(self, after_ms: int | None) -> AsyncIterator[bytes]:
        """As `TenantFeeds.watch`."""
        if after_ms is None:
            position = _Position(self._next_number, self._next_number, self._reader.complete_to_ms)
        else:
            position = _Position(-1, -1, after_ms)
        # The headers leave with the first bytes; the id lets a client resume that is cut off before its first event.
        yield format_sse_event(comment="listening", id=str(position.complete_to_ms))
        while True:
            if position.number < self._first_number:
                async for text in self._catch_up(position):
                    yield text
            for text in self._buffered(position):
                yield text
            if position.number == self._next_number and not await self._wait_for_event(position):
                yield format_sse_event(comment="heartbeat", id=str(position.complete_to_ms))

    @property
    def _next_number(self) -> int:
        """The number of the next event that is read."""
        return self._first_number + len(self._buffer)

    async def _catch_up(self, position: _Position) -> AsyncIterator[bytes]:
        """Events from the store, until the buffer holds all that follow; `position` is then its start."""
        clock_s = asyncio.get_running_loop().time
        last_sent_s = clock_s()
        reader = self._archive.follow(self._tenant, position.complete_to_ms)
        rounds = _read_rounds(reader)
        while reader.complete_to_ms < self._buffer_complete_from_ms:
            events = await anext(rounds)
            for event in events:
                yield format_event(event, reader.complete_to_ms)
            if events:
                last_sent_s = clock_s()
            elif clock_s() - last_sent_s >= self._heartbeat_s:
                last_sent_s = clock_s()
                yield format_sse_event(comment="heartbeat")
        position.number, position.joined, position.complete_to_ms = (
            self._first_number,
            self._next_number,
            reader.complete_to_ms,
        )

    def _buffered(self, position: _Position) -> Iterator[bytes]:
        """The events of the buffer from `position` on, which advances; ends early if the buffer has left it behind."""
        while self._first_number <= position.number < self._next_number:
            event = self._buffer[position.number - self._first_number]
            position.number += 1
            if position.number > position.joined or event.written_ms > position.complete_to_ms:
                position.complete_to_ms = max(position.complete_to_ms, event.complete_to_ms)
                yield event.text

    async def _wait_for_event(self, position: _Position) -> bool:
        """Wait for an event to be added to the buffer; False when none is within the heartbeat's time."""
        position.complete_to_ms, new_event = max(position.complete_to_ms, self._reader.complete_to_ms), self._new_event
        if self.reading.done():
            self.reading.result()  # raises its error: the connection breaks, and the client connects again
        try:
            await asyncio.wait_for(new_event.wait(), self._heartbeat_s)
        except TimeoutError:
            return False
        return True

    async def _read(self) -> None:
        try:
            async for events in _read_rounds(self._reader):
                for event in events:
                    self._add(event)
                if events:
                    self._notify()
        finally:
            self._notify()

    def _add(self, event: TenantEvent) -> None:
        text = format_event(event, self._reader.complete_to_ms)
        self._buffer.append(_BufferedEvent(event.written_ms, self._reader.complete_to_ms, text))
        self._buffer_bytes += len(text)
        while len(self._buffer) > BUFFER_EVENTS_MAX or self._buffer_bytes > BUFFER_MAX_BYTES:
            dropped = self._buffer.popleft()
            self._buffer_bytes -= len(dropped.text)
            self._first_number += 1
            self._buffer_complete_from_ms = max(self._buffer_complete_from_ms, dropped.written_ms)

    def _notify(self) -> None:
        new_event, self._new_event = self._new_event, asyncio.Event()
        new_event.set()


def format_event(event: TenantEvent, complete_to_ms: int) -> bytes:
    """The event as it is sent. Its id is the time at which a client resumes that has seen it, a dot, and its name."""
    found = event.event
    if found.utterance is not None:
        data = found.utterance.model_dump_json()
    else:
        data = json.dumps({"call_id": event.call_id, "status": found.kind.removeprefix("call-")})
    return format_sse_event(data_str=data, event=found.kind, id=f"{complete_to_ms}.{event.name}")


async def _read_rounds(reader: TenantEvents) -> AsyncIterator[tuple[TenantEvent, ...]]:
    """The events of round after round, with an empty tuple after each; a round that the store refuses is empty."""
    away = False
    while True:
        try:
            async for events in reader.read():
                yield events
            away = False
        except StoreUnavailableError as error:
            if not away:
                logger.warning("the live feed of a tenant waits for the store: %s", error)
            away = True
        yield ()
        # A client that resumes waits for the first pass over all calls.
        await asyncio.sleep(ROUND_S if away or reader.passes else 0)
