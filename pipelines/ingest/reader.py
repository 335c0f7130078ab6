"""What one record leads to: its stream is opened and fed, or the record is skipped or dead-lettered, and counted once.

1. A record is parsed; one that breaks the contract is dead-lettered and its call goes on.
2. Its stream is opened from the checkpoint, which makes this worker the owner: an earlier one is refused.
3. That work on it begins is noted before it begins, so that a record that kills its process is known by its second try.
4. The stream's utterances are analysed and stored (`open_stream.OpenStream`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TypeVar

from pipelines.errors import (
    BadFragmentError,
    CallDeletedError,
    FencedError,
    MediaError,
    SourceUnavailableError,
    StoreUnavailableError,
)
from pipelines.ingest.open_stream import OpenStream, Ports
from pipelines.ingest.sandbox import trial
from pipelines.ingest.watchdog import Watchdog
from pipelines.log.dead_letter import letter_headers, letter_key
from pipelines.log.producer import RECORD_MAX_BYTES
from pipelines.log.records import is_call_id, parse_record
from pipelines.log.source import Backlog, Gap
from pipelines.media.call_stream import CallStream, FeedResult, TrackEvent
from pipelines.settings import AppConfig
from pipelines.store.ledger import OpenNote, Owned
from pipelines.types import TOPIC_DEAD_LETTER, Counted, MediaFragment, Record

logger = logging.getLogger(__name__)

T = TypeVar("T")

SUSPECT_ATTEMPTS = 2
"""After so many processes died over a record it is tried in one of its own."""
ATTEMPTS_MAX = 4
"""After so many it is dead-lettered, whatever that trial says: it may kill only together with what came before it."""

Send = Callable[[str, str, bytes, tuple[tuple[str, bytes], ...]], Awaitable[None]]


class Reader:
    """The open streams of one worker, and what its records do to them.

    `send` appends to a topic and waits for it; `rewind` asks the worker to read a partition again from an offset.
    """

    def __init__(self, ports: Ports, config: AppConfig, *, send: Send, rewind: Callable[[int, int], None]) -> None:
        self._ports, self._config, self._send, self._rewind = ports, config, send, rewind
        self._metrics, self._store = ports.metrics, ports.store
        self._decoder = ThreadPoolExecutor(1, "decoder")
        """Decoding keeps to one thread, so that polls go on meanwhile."""
        self._streams: dict[tuple[str, str], OpenStream] = {}
        self._rewound: dict[int, set[tuple[str, str, int | None]]] = {}
        """By partition: places already gone back to, of streams that are not open yet."""
        self._lost_before: dict[int, int] = {}
        """Where the log goes on after the last gap found in it, by partition."""
        self._ended: dict[int, list[int]] = {}
        """Records whose work has ended, which the ledger does not know yet."""
        self._openings = count()
        self._watchdog = Watchdog(
            self._streams, ports, config.worker, self._lost_before, stall=self._stall, close=self._close_silent
        )

    @property
    def failed(self) -> BaseException | None:
        """What ended the storing of a stream, if anything did."""
        return next((opened.failed for opened in self._streams.values() if opened.failed is not None), None)

    def needed(self) -> Iterator[tuple[int, int]]:
        """Partition and offset from which each open stream would have to be read again."""
        return ((opened.partition, opened.needed_offset) for opened in self._streams.values())

    def forget(self, partition: int) -> None:
        """Drop all state of a partition; the checkpoints hold what is settled."""
        for key in [key for key, opened in self._streams.items() if opened.partition == partition]:
            self._streams.pop(key).cancel()
        self._lost_before.pop(partition, None)
        self._rewound.pop(partition, None)
        self._watchdog.forget(partition)
        self._metrics.open_streams.set(len(self._streams))

    def note_gap(self, gap: Gap) -> None:
        """The log has lost records before anybody read them."""
        logger.error("partition %d: the log has lost the records from %d to %d", gap.partition, gap.first, gap.next - 1)
        known = self._lost_before.get(gap.partition, 0)
        self._metrics.records_lost.inc(max(0, gap.next - max(gap.first, known)))
        self._lost_before[gap.partition] = max(gap.next, known)

    async def close(self) -> None:
        """Drop what is in flight, and leave no record under suspicion."""
        for opened in self._streams.values():
            opened.cancel()
        self._decoder.shutdown(wait=False)
        try:
            await self._note_ended()
        except StoreUnavailableError as error:
            logger.warning("the store is away at the end: %s", error)

    async def read(self, record: Record) -> None:
        """Bring a record to its end, or its utterances on their way.

        Raises:
            StoreUnavailableError, SourceUnavailableError: asked to stop while one of them was away.
        """
        try:
            await self._listen(parse_record(record, self._config.stream.limits), record)
        except (BadFragmentError, MediaError) as error:
            await self._dead_letter(record, error.reason, str(error))
        except CallDeletedError as error:
            self._count_skipped(error.reason)
        except (StoreUnavailableError, SourceUnavailableError):
            raise
        except Exception as error:  # whatever a record does, it must not stop the others
            logger.exception("a record could not be handled: %s", record.at)
            await self._dead_letter(record, "crashed", repr(error))

    async def rest(self) -> None:
        """Nothing can be read now: count what needs no cut to move, and note that no record is at work."""
        for opened in list(self._streams.values()):
            await self._while_owned(opened, opened.let_go)
        await self._insist(self._note_ended)

    async def watch(self, heard: Mapping[int, Backlog]) -> None:
        """See `Watchdog.watch`."""
        await self._watchdog.watch(heard)

    async def _stall(self, opened: OpenStream) -> None:
        await self._while_owned(opened, partial(opened.mark, "stalled"))

    async def _close_silent(self, opened: OpenStream) -> None:
        lost_before = self._lost_before.get(opened.partition, 0)
        if opened.outcomes.noted_to < lost_before:
            opened.outcomes.note(lost_before - 1, "lost")
        opened.take(await self._decode(opened.stream.finish), round(time.time() * 1000), 0)
        opened.finish("closed")

    async def _listen(self, fragment: MediaFragment, record: Record) -> None:
        opened = self._streams.get((fragment.call_id, fragment.stream)) or await self._open(fragment, record)
        if opened is None:
            return
        if opened.tenant != fragment.tenant:
            raise BadFragmentError("bad_header", f"call {fragment.call_id} belongs to another tenant")
        if opened.partition != record.at.partition:
            raise BadFragmentError(
                "wrong_partition", f"call {fragment.call_id} is read in partition {opened.partition}"
            )
        opened.seen_s = time.monotonic()
        if record.at.offset in opened.dead:
            opened.stream.leave_gap(fragment)
            await self._leave_out(opened, fragment, record)
        elif opened.finishing == "closed":
            # It speaks again while its last words are judged: begin anew from what is stored.
            opened.cancel()
            del self._streams[opened.key]
            self._rewind(opened.partition, min(opened.needed_offset, record.at.offset))
        elif opened.finishing:
            self._skip(opened, record, "after_final")
        elif opened.state == "live" or await self._while_owned(opened, lambda: opened.mark("live")):
            await self._work(opened, fragment, record)

    async def _work(self, opened: OpenStream, fragment: MediaFragment, record: Record) -> None:
        at = record.at
        ended = list(self._ended.get(at.partition, ()))
        attempts = await self._insist(partial(self._store.ledger.mark_in_progress, at, self._ports.owner, ended))
        del self._ended.setdefault(at.partition, [])[: len(ended)]
        try:
            verdict = await self._verdict(fragment, attempts)
            if verdict is not None:
                opened.stream.leave_gap(fragment)
                await self._bury(opened, fragment, record, BadFragmentError("killed", verdict), attempts - 1)
                return
            fed, last = await self._decode(lambda: _decoded(opened, fragment))
        except MediaError as error:
            await self._bury(opened, fragment, record, error, attempts)
            return
        except (StoreUnavailableError, SourceUnavailableError):
            raise
        except Exception as error:  # whatever a fragment does to a decoder, it must not stop the others
            logger.exception("a fragment could not be decoded: %s", at)
            await self._bury(opened, fragment, record, BadFragmentError("crashed", repr(error)), attempts)
            return
        finally:
            self._ended[at.partition].append(at.offset)
        if opened.ended:
            return  # lost meanwhile, and read again where the partition is still ours
        if fed.skipped is not None:
            self._skip(opened, record, fed.skipped, fed.missing)
        elif self._note(opened, record, "analysed", fed.missing):
            self._metrics.fragments_analysed.inc()
        self._metrics.packets_damaged.inc(fed.damaged)
        self._metrics.media_seconds.inc(fed.media_ms / 1000)
        opened.take([*fed.events, *(last or [])], record.appended_ms, fragment.start_ms + fed.media_ms)
        if last is not None:
            opened.finish()

    async def _verdict(self, fragment: MediaFragment, attempts: int) -> str | None:
        """Why a fragment over which processes died is to blame for it; None for any other."""
        if attempts <= SUSPECT_ATTEMPTS:
            return None
        verdict = await asyncio.to_thread(trial, fragment, self._config.stream)
        if verdict is None and attempts > ATTEMPTS_MAX:
            return f"{attempts - 1} processes ended while they worked on it"
        return verdict

    async def _leave_out(self, opened: OpenStream, fragment: MediaFragment, record: Record) -> None:
        """A dead letter has its own count; noted all the same, so that a stream of nothing else can be let go."""
        self._note(opened, record, None, opened.stream.take_missing())
        # It ends its stream even when its own media is damaged.
        if fragment.final and not opened.finishing and not opened.ended:
            opened.take(await self._decode(opened.stream.finish), record.appended_ms, fragment.start_ms)
            opened.finish()

    async def _open(self, fragment: MediaFragment, record: Record) -> OpenStream | None:
        # Each opening is an owner of its own: what an earlier one of this worker has still under way is refused too.
        owner = f"{self._ports.owner}/{next(self._openings)}"
        checkpoint = await self._insist(
            lambda: self._store.open_stream(
                fragment.call_id,
                fragment.tenant,
                fragment.stream,
                owner,
                record.appended_ms,
                partition=record.at.partition,
                offset=record.at.offset,
            )
        )
        if checkpoint is None:
            return None
        if checkpoint.final:
            if record.at.offset not in checkpoint.dead_letters and record.at.offset >= checkpoint.account.counted_to:
                counted = Counted(record.at.offset + 1, record.at.offset, {"already_stored": 1})
                try:
                    await self._insist(
                        lambda: self._store.count(fragment.call_id, fragment.stream, counted, owner=None)
                    )
                except FencedError:  # the store has forgotten meanwhile that it is final
                    self._rewind(record.at.partition, record.at.offset)
                else:
                    self._count_skipped("already_stored")
            return None
        place = (fragment.call_id, fragment.stream, checkpoint.resume_at)
        gone_back_to = self._rewound.setdefault(record.at.partition, set())
        if checkpoint.resume_at is not None and checkpoint.resume_at < record.at.offset and place not in gone_back_to:
            # Reading began after the place this stream must be resumed from: go back, the store knows what is done.
            # Once: where the log has lost that place, what is left of the stream goes on behind a gap.
            gone_back_to.add(place)
            self._rewind(record.at.partition, checkpoint.resume_at)
            return None
        gone_back_to.discard(place)
        note = OpenNote(fragment.tenant, fragment.call_id, fragment.stream)
        await self._insist(partial(self._store.ledger.note_open, record.at.partition, note))
        tenant = self._config.tenant(fragment.tenant)
        opened = OpenStream(
            fragment,
            CallStream(self._config.stream, checkpoint, tenant.policy),
            checkpoint,
            partition=record.at.partition,
            offset=record.at.offset,
            ttl_s=tenant.results_ttl_s,
            ports=replace(self._ports, owner=owner),
            closed=self._closed,
        )
        self._streams[opened.key] = opened
        self._metrics.open_streams.set(len(self._streams))
        return opened

    async def _closed(self, opened: OpenStream, error: FencedError | None) -> None:
        if self._streams.get(opened.key) is opened:
            del self._streams[opened.key]
        if error is None:
            note = OpenNote(opened.tenant, *opened.key)
            await self._insist(partial(self._store.ledger.forget_open, opened.partition, note))
        self._metrics.open_streams.set(len(self._streams))
        if error is not None:
            logger.warning("call %s, stream %s: another worker owns it, its state is dropped", *opened.key)
            self._metrics.fenced.inc()
            # Where the partition is still ours after all, the stream is read again from where it stood.
            self._rewind(opened.partition, opened.needed_offset)

    async def _while_owned(self, opened: OpenStream, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work`, and drop the stream where it turns out to be another worker's, or deleted: then False."""
        try:
            await work()
        except (FencedError, CallDeletedError) as error:
            if not opened.ended:
                opened.cancel()
                await self._closed(opened, error if isinstance(error, FencedError) else None)
            return False
        return True

    def _note(self, opened: OpenStream, record: Record, outcome: str | None, missing: int = 0) -> bool:
        """Note how the record ended and what was left out before it, unless it is only read again: then False."""
        lost_before = self._lost_before.get(record.at.partition, 0)
        left_out = "lost" if opened.outcomes.noted_to < lost_before <= record.at.offset else "missing"
        if not opened.outcomes.note(record.at.offset, outcome, missing, left_out):
            return False
        self._metrics.fragments_in.inc(outcome is not None)
        self._metrics.fragments_missing.inc(missing)
        return True

    def _skip(self, opened: OpenStream, record: Record, reason: str, missing: int = 0) -> None:
        if self._note(opened, record, reason, missing):
            self._metrics.fragments_skipped.labels(reason).inc()

    def _count_skipped(self, reason: str) -> None:
        self._metrics.fragments_in.inc()
        self._metrics.fragments_skipped.labels(reason).inc()

    async def _bury(
        self,
        opened: OpenStream,
        fragment: MediaFragment,
        record: Record,
        error: MediaError | BadFragmentError,
        attempts: int,
    ) -> None:
        bury = partial(self._dead_letter, record, error.reason, str(error), attempts, opened)
        if not await self._while_owned(opened, bury):
            return
        opened.dead.add(record.at.offset)
        await self._leave_out(opened, fragment, record)

    async def _dead_letter(
        self, record: Record, reason: str, detail: str, attempts: int = 1, of: OpenStream | None = None
    ) -> None:
        key = letter_key(record)
        call_id = key if is_call_id(key) else None
        ledger = self._store.ledger
        owned = None if of is None else Owned(of.key[1], of.owner)
        if call_id is not None and await self._insist(lambda: ledger.is_dead_letter(call_id, record.at, owned)):
            return  # read again
        logger.warning("dead-lettered (%s): %s", reason, detail)
        value = record.value[:RECORD_MAX_BYTES]
        await self._send(TOPIC_DEAD_LETTER, key, value, letter_headers(record, reason, detail, attempts))
        if call_id is not None and not await self._insist(
            lambda: ledger.note_dead_letter(call_id, record.at, reason, owned)
        ):
            return
        self._metrics.fragments_in.inc()
        self._metrics.fragments_dead_lettered.labels(reason).inc()

    async def _note_ended(self) -> None:
        for partition, offsets in list(self._ended.items()):
            await self._store.ledger.clear_in_progress(partition, self._ports.owner, offsets)
            del self._ended[partition]

    async def _decode(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoder, work)

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        return await self._ports.retry(StoreUnavailableError, work)


def _decoded(opened: OpenStream, fragment: MediaFragment) -> tuple[FeedResult, list[TrackEvent] | None]:
    """What a fragment led to, and, where it is its stream's last, what the end led to."""
    fed = opened.stream.feed(fragment)
    ends = fragment.final and fed.skipped in (None, "not_consented")
    return fed, opened.stream.finish() if ends else None
