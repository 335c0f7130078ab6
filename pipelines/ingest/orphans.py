"""Streams that the store holds open and of which nothing ever comes: the log has lost the rest of them."""

import logging
from collections.abc import Container
from contextlib import suppress
from functools import partial

from pipelines.errors import BadFragmentError, CallDeletedError, FencedError
from pipelines.ingest.account import Outcomes
from pipelines.ingest.context import WorkerContext
from pipelines.store.ledger import StreamId

logger = logging.getLogger(__name__)


class OrphanedStreams:
    """The streams of one partition that an earlier owner opened, each closed once nothing of it came for too long."""

    def __init__(self, partition: int, context: WorkerContext) -> None:
        self._partition, self._context = partition, context
        self._silent_since_s: dict[StreamId, float] | None = None
        """By the monotonic clock; None until the store is asked for them."""

    def restart(self, now_s: float) -> None:
        """Their silence begins anew: records wait to be read, or the log does not answer."""
        if self._silent_since_s is not None:
            self._silent_since_s = dict.fromkeys(self._silent_since_s, now_s)

    async def watch(self, since_s: float, open_here: Container[StreamId], lost_before: int) -> None:
        """Close those of which nothing came for too long.

        `since_s` is up to when, by the monotonic clock, the log is known to hold nothing for them; those `open_here` have
        been taken over. `lost_before` is the offset at which the log goes on after its last gap.
        """
        if self._silent_since_s is None:
            found = await self._context.retry_store(lambda: self._context.store.ledger.open_streams(self._partition))
            self._silent_since_s = dict.fromkeys(found, since_s)
        for note, silent_since_s in list(self._silent_since_s.items()):
            if note in open_here:
                del self._silent_since_s[note]
            elif since_s - silent_since_s >= self._context.config.worker.closed_after_s:
                del self._silent_since_s[note]
                await self._context.retry_store(partial(self._close_lost_stream, note, lost_before))

    async def _close_lost_stream(self, note: StreamId, lost_before: int) -> None:
        store, owner = self._context.store, f"{self._context.owner}/watchdog"
        with suppress(CallDeletedError, BadFragmentError, FencedError):
            checkpoint = await store.open_stream(note.call, note.stream, owner, 0, partition=self._partition)
            if checkpoint is not None and not checkpoint.final:
                outcomes = Outcomes(checkpoint.account)
                outcomes.note_lost_end(lost_before)
                await store.set_state(note.call, note.stream, "closed", owner=owner, counted=outcomes.take())
                logger.warning("%s: open, and nothing of it is left in the log: closed", note)
        await store.ledger.forget_open(self._partition, note)
