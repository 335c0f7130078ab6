"""Streams that fell silent without a final fragment: marked, and closed in the end, so that offsets can move."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from pipelines.errors import BadFragmentError, CallDeletedError, FencedError, StoreUnavailableError
from pipelines.ingest.open_stream import OpenStream, Ports
from pipelines.log.source import Backlog
from pipelines.settings import WorkerSettings
from pipelines.store.ledger import OpenNote
from pipelines.types import NOTHING_COUNTED, Counted

logger = logging.getLogger(__name__)

Act = Callable[[OpenStream], Awaitable[None]]


class Watchdog:
    """Watches a worker's open streams, and those that the store holds open of which nothing ever comes.

    Silence is what the log holds nothing of. What waits to be read is not silent, and while the log or the worker
    itself is not heard, nobody is.
    """

    def __init__(
        self,
        streams: Mapping[tuple[str, str], OpenStream],
        ports: Ports,
        settings: WorkerSettings,
        lost_before: Mapping[int, int],
        *,
        stall: Act,
        close: Act,
    ) -> None:
        """`stall` and `close` do what their names say.

        `streams` and `lost_before`, where the log of a partition goes on after its last gap, are the worker's own
        tables, as they are at any time.
        """
        self._streams, self._ports, self._settings, self._lost_before = streams, ports, settings, lost_before
        self._stall, self._close = stall, close
        self._unheard: dict[int, dict[OpenNote, float]] = {}
        """By partition: streams that the store holds open and of which nothing has come; since when, in s."""

    def forget(self, partition: int) -> None:
        """The partition is another worker's."""
        self._unheard.pop(partition, None)

    async def watch(self, heard: Mapping[int, Backlog]) -> None:
        """Look once; `heard` are the partitions of which nothing waits in this worker, and what the log holds of them."""
        now_s = time.monotonic()
        for opened in [one for one in self._streams.values() if not one.finishing]:
            unread = heard.get(opened.partition)
            if unread is None:
                opened.seen_s = now_s
                continue
            silent_s = now_s - opened.seen_s - unread.oldest_age_ms / 1000
            if silent_s >= self._settings.stalled_after_s and opened.state == "live":
                logger.warning("call %s, stream %s: stalled", *opened.key)
                await self._stall(opened)
            if silent_s >= self._settings.closed_after_s and not opened.ended:
                logger.warning("call %s, stream %s: silent without a final fragment, closed", *opened.key)
                await self._close(opened)
        for partition, notes in self._unheard.items():
            if partition not in heard:
                self._unheard[partition] = dict.fromkeys(notes, now_s)
        for partition, unread in heard.items():
            await self._watch_unheard(partition, now_s - unread.oldest_age_ms / 1000)

    async def _watch_unheard(self, partition: int, now_s: float) -> None:
        if partition not in self._unheard:
            found = await self._ports.retry(
                StoreUnavailableError, lambda: self._ports.store.ledger.open_streams(partition)
            )
            self._unheard[partition] = dict.fromkeys(found, now_s)
        notes = self._unheard[partition]
        for note, since_s in list(notes.items()):
            if (note.call_id, note.stream) in self._streams:
                notes.pop(note)
            elif now_s - since_s >= self._settings.closed_after_s:
                notes.pop(note)
                await self._ports.retry(StoreUnavailableError, partial(self._bury, partition, note))

    async def _bury(self, partition: int, note: OpenNote) -> None:
        """The log has lost the rest of it: nobody else will ever end it."""
        store, owner = self._ports.store, f"{self._ports.owner}/watchdog"
        with suppress(CallDeletedError, BadFragmentError, FencedError):
            checkpoint = await store.open_stream(note.call_id, note.tenant, note.stream, owner, 0, partition=partition)
            if checkpoint is not None and not checkpoint.final:
                lost_before, account = self._lost_before.get(partition, 0), checkpoint.account
                counted = NOTHING_COUNTED
                if account.counted_to < lost_before:
                    counted = Counted(lost_before, account.first_at, {"lost": 1})
                await store.set_state(note.call_id, note.stream, "closed", owner=owner, counted=counted)
                logger.warning("call %s, stream %s: open and never heard of again, closed", note.call_id, note.stream)
        await store.ledger.forget_open(partition, note)
