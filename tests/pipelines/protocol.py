"""What the model of the protocol moves: a log that stands for Kafka, and real workers that can be hurt at any step."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from threading import Condition
from typing import Any, Literal

import numpy as np
import redis.asyncio

from models.types import FloatArray, Modality
from pipelines.checkpoints import NEW_STREAM
from pipelines.errors import EncoderUnavailableError, MediaError, SourceUnavailableError
from pipelines.ingest.worker import Worker
from pipelines.log.dead_letter import Letter, read_letter
from pipelines.log.records import fragment_headers
from pipelines.log.source import Backlog, Polled
from pipelines.media.call_stream import CallStream
from pipelines.review.audit import LogIndex
from pipelines.settings import AppConfig, MediaLimits, SegmentSettings, StreamSettings
from pipelines.store.store import Store
from pipelines.types import (
    TOPIC_DEAD_LETTER,
    Coordinates,
    Headers,
    MediaFragment,
    Participant,
    Record,
    Utterance,
    UtteranceSentiment,
)
from tests.pipelines.working import Voice, call, judge

FRAGMENT_MS = 300
STREAM = StreamSettings(
    segment=SegmentSettings(
        speech_min_ms=96,
        silence_end_ms=256,
        utterance_max_ms=900,
        quiet_search_ms=300,
        padding_ms=64,
        silence_cut_ms=800,
    )
)
"""Much happens in little time: silence moves cuts, and speech is cut by force."""
_POLL_MAX_S = 0.005
_PAUSE_MAX_S = 0.2
"""After so long whatever has failed has been tried again."""
_SCRIPTS: Mapping[int, tuple["Moment", "Moment"]] = {8: ("advance", "advanced"), 5: ("set_state", "state_set")}
"""The scripts that write are known by how many keys they take."""

Sent = tuple[bytes, tuple[tuple[str, bytes], ...]]
Plan = Literal["plain", "damaged", "mended", "damaged end", "unknown version", "twice", "left out", "nobody"]
Moment = Literal[
    "advance",
    "advanced",
    "set_state",
    "state_set",
    "ask",
    "asked",
    "analysis",
    "poll",
    "seek",
    "where",
    "commit",
    "committed",
    "letter",
    "lettered",
]
"""Before and after: a cut moves, a state or a count is written, the store is asked for anything else, and so on."""
Deed = Literal["crash", "lose", "hold", "late"]
"""`hold`: a command is on its way for long; `late`: and who sent it has given up waiting and tries again."""


@cache
def _sound(voice: Voice) -> FloatArray:
    """Two parties at 8 kHz, (2, N): short turns, one cut by force, once over each other, with pauses."""
    sound = np.zeros((2, 15 * 8 * FRAGMENT_MS), np.float32)
    for channel, start_s, length_s in ((0, 0.2, 0.6), (1, 1.2, 0.5), (0, 2.2, 1.4), (1, 3.2, 0.7)):
        words = voice(length_s, int(10 * start_s))[::2]
        begin = int(start_s * 8000)
        sound[channel, begin : begin + words.size] = words
    return sound


@cache
def fragments_of(voice: Voice, plan: Plan) -> tuple[MediaFragment, ...]:
    """What a call of that plan sends, in order; one without a media type is sent with a version that nobody knows."""
    sent = call(_sound(voice), "c", fragment_ms=FRAGMENT_MS)
    match plan:
        case "plain":
            pass
        case "damaged":
            sent[4], sent[9] = _damaged(sent[4]), _damaged(sent[9])
        case "mended":
            sent[8:9] = [_damaged(sent[8]), sent[8]]
        case "damaged end":
            sent[-1] = _damaged(sent[-1])
        case "unknown version":
            sent[7] = replace(sent[7], content_type="")
        case "twice":
            sent = [copy for number, one in enumerate(sent) for copy in (one, sent[number // 2])]
        case "left out":
            del sent[8:10]
        case "nobody":
            sent = [replace(one, consent={Participant.MIXED: frozenset({Modality.TEXT})}) for one in sent]
    return tuple(sent)


def _damaged(fragment: MediaFragment) -> MediaFragment:
    return replace(fragment, media=b"noise", content_type="audio/x-matroska")


@cache
def heard(voice: Voice, plan: Plan) -> tuple[UtteranceSentiment, ...]:
    """What an undisturbed run over a call of that plan finds, in the order of the store, without a log or a store."""
    stream, events = CallStream(STREAM, NEW_STREAM), []
    for one in fragments_of(voice, plan):
        if one.content_type:
            try:
                events += stream.feed(one).events
            except MediaError:
                continue
    events += stream.finish()
    judged = [asyncio.run(judge(event.utterance)) for event in events if event.utterance is not None]
    return tuple(sorted(judged, key=lambda one: (one.start_ms, one.participant)))


def sent_as(fragment: MediaFragment, call_id: str) -> Sent:
    """The fragment's value and headers in a call of that name."""
    headers = fragment_headers(replace(fragment, call_id=call_id))
    return fragment.media, headers if fragment.content_type else (("v", b"9"), *headers[1:])


class Log:
    """Records, letters and committed offsets survive everything. Who owns a partition is decided outside."""

    def __init__(self, partitions: int) -> None:
        self.records: list[list[Record]] = [[] for _ in range(partitions)]
        self.committed: dict[int, int] = {}
        self.owners: dict[int, Seat] = {}
        self.changed = Condition()
        self._letters: list[Record] = []
        self._heirs: dict[int, Seat] = {}

    @property
    def ends(self) -> dict[int, int]:
        """The offset after each partition's last record."""
        return {partition: len(records) for partition, records in enumerate(self.records)}

    @property
    def letters(self) -> list[Letter]:
        """What stands in the dead-letter topic."""
        return [letter for record in list(self._letters) if (letter := read_letter(record))]

    def log_index(self) -> LogIndex:
        """All that stands in the log."""
        log_index = LogIndex(MediaLimits())
        for records in self.records:
            for record in records:
                log_index.add(record)
        return log_index

    def append(self, partition: int, key: str, sent: Sent) -> None:
        with self.changed:
            at = Coordinates(partition, len(self.records[partition]))
            self.records[partition].append(Record(at, key.encode(), *sent, round(time.time() * 1000)))
            self.changed.notify_all()

    def append_letter(self, key: str, value: bytes, headers: Headers) -> None:
        at = Coordinates(0, len(self._letters))
        self._letters.append(Record(at, key.encode(), value, tuple(headers), 0))

    def hand_over(self, partition: int, seat: "Seat") -> None:
        """The owner is told at its next poll, and only then `seat` has it; its own may be lost and won again."""
        with self.changed:
            old = self.owners.get(partition)
            if old is None or old.gone or partition not in old.owned:
                self._give(partition, seat)
            else:
                old.revoked.add(partition)
                self._heirs[partition] = seat
            self.changed.notify_all()

    def take_away(self, partition: int, seat: "Seat") -> None:
        """`seat` has it at once, and the owner goes on as if nothing had happened until it is told."""
        with self.changed:
            self._give(partition, seat)
            self.changed.notify_all()

    def tell(self, partition: int, seat: "Seat") -> None:
        """Let `seat` know that it lost the partition, unless it has won it again."""
        with self.changed:
            if self.owners[partition] is not seat:
                seat.revoked.add(partition)
            self.changed.notify_all()

    def told(self, partition: int, seat: "Seat") -> None:
        """`seat` is no longer the owner, and now it knows."""
        if self.owners.get(partition) is seat and partition in self._heirs:
            self._give(partition, self._heirs[partition])

    def _give(self, partition: int, seat: "Seat") -> None:
        self._heirs.pop(partition, None)
        before = self.owners.get(partition)
        if before is not None:
            before.assigned.discard(partition)
        if partition in seat.owned:
            seat.revoked.add(partition)
        seat.assigned.add(partition)
        self.owners[partition] = seat


class Seat:
    """A member's place in the group: the `Source` of one worker, which believes what it was told."""

    def __init__(self, log: Log, meet: Callable[[Moment], None], batch: int) -> None:
        self.owned: set[int] = set()
        self.revoked: set[int] = set()
        self.assigned: set[int] = set()
        self.positions: dict[int, int] = {}
        self.gone = False
        self.idle_polls = 0
        """How many polls in a row have brought nothing while everything was read."""
        self._log, self._meet, self._batch = log, meet, batch
        self._paused: set[int] = set()

    def poll(self, timeout_s: float, records_max: int) -> Polled:
        """See `Source.poll`."""
        self._meet("poll")
        with self._log.changed:
            self._live()
            if not self._due():
                self._log.changed.wait(min(timeout_s, _POLL_MAX_S))
            self._live()
            self.idle_polls = 0 if self._due() or self._paused else self.idle_polls + 1
            revoked, self.revoked = self.revoked & self.owned, set()
            for partition in revoked:
                self.owned.discard(partition)
                self._log.told(partition, self)
            assigned, self.assigned = self.assigned, set()
            for partition in assigned:
                self.owned.add(partition)
                self._paused.discard(partition)
                self.positions[partition] = self._log.committed.get(partition, 0)
            return Polled(self._read(min(records_max, self._batch)), frozenset(assigned), frozenset(revoked))

    def pause(self, partitions: Collection[int]) -> None:
        """See `Source.pause`."""
        with self._log.changed:
            self._paused |= self.owned & set(partitions)

    def resume(self, partitions: Collection[int]) -> None:
        """See `Source.resume`."""
        with self._log.changed:
            self._paused -= set(partitions)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Source.commit`."""
        self._live()
        self._meet("commit")
        with self._log.changed:
            for partition, offset in offsets.items():
                if self._log.owners.get(partition) is self and partition in self.owned:
                    self._log.committed[partition] = offset
        self._meet("committed")

    def seek(self, partition: int, offset: int) -> None:
        """See `Source.seek`."""
        self._meet("seek")
        with self._log.changed:
            if partition in self.owned:
                self.positions[partition] = offset

    def committed(self, partition: int) -> int | None:
        """See `Source.committed`."""
        self._live()
        self._meet("where")
        return self._log.committed.get(partition)

    def backlog(self) -> Mapping[int, Backlog]:
        """See `Source.backlog`."""
        ends = self._log.ends
        return {partition: Backlog(ends[partition] - self.positions[partition], 0) for partition in self.owned}

    def jump(self, partition: int, back: int) -> None:
        """Deliver again what was delivered."""
        with self._log.changed:
            if partition in self.owned:
                self.positions[partition] = max(0, self.positions[partition] - back)

    def close(self) -> None:
        """See `Source.close`."""
        with self._log.changed:
            for partition in [one for one, owner in self._log.owners.items() if owner is self]:
                self._log.told(partition, self)
            self.gone = True
            self.owned.clear()

    def _live(self) -> None:
        if self.gone:
            raise SourceUnavailableError("the process has ended")

    def _due(self) -> bool:
        ends = self._log.ends
        behind = any(self.positions[partition] < ends[partition] for partition in self.owned - self._paused)
        return behind or bool(self.assigned) or bool(self.revoked & self.owned)

    def _read(self, records_max: int) -> tuple[Record, ...]:
        read: list[Record] = []
        for partition in sorted(self.owned - self._paused):
            begin = self.positions[partition]
            found = self._log.records[partition][begin : begin + records_max - len(read)]
            self.positions[partition] = begin + len(found)
            read += found
        return tuple(read)


class Outbox:
    """`Producer` into the log's dead letters; results go nowhere, since the store is what is looked at."""

    def __init__(self, log: Log, meet: Callable[[Moment], None]) -> None:
        self._log, self._meet = log, meet

    def send(self, topic: str, key: str, value: bytes, headers: Headers = ()) -> None:
        """See `Producer.send`."""
        if topic == TOPIC_DEAD_LETTER:
            self._meet("letter")
            self._log.append_letter(key, value, headers)
            self._meet("lettered")

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Wire(redis.asyncio.Redis):
    """A real connection to Redis on which a command, or its answer, can be lost or late.

    A late command is on its way: it arrives even when who sent it has given up, or is dead.
    """

    def __init__(self, meet: Callable[[Moment], Deed | None], url: str) -> None:
        """`meet` says what happens to each command, and to each answer."""
        super().__init__(connection_pool=redis.asyncio.ConnectionPool.from_url(url, decode_responses=True))
        self.auto_close_connection_pool = True
        self.arrive = asyncio.Event()
        self.dead = False
        self.under_way = self.sent = 0
        self.failed_s = 0.0
        self._meet = meet
        self._on_their_way: list[asyncio.Future[Any]] = []

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and wait for its answer."""
        if self.dead:
            raise redis.ConnectionError("the process has ended")
        self.under_way += 1
        self.sent += 1
        before, after = _SCRIPTS.get(args[2], ("ask", "asked")) if args[0] == "EVALSHA" else ("ask", "asked")
        try:
            deed = self._meet(before)
            if deed in {"hold", "late"}:
                on_its_way = asyncio.ensure_future(self._later(args, options))
                self._on_their_way.append(on_its_way)
            if deed == "hold":
                self.under_way -= 1
                try:
                    answer = await asyncio.shield(on_its_way)
                finally:
                    self.under_way += 1
            elif deed is None:
                answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            else:
                raise redis.ConnectionError("the command is lost")
            if self._meet(after) is not None:
                raise redis.ConnectionError("the answer is lost")
        except redis.RedisError:
            self.failed_s = time.monotonic()
            raise
        finally:
            self.under_way -= 1
        return answer

    async def _later(self, args: Any, options: Any) -> Any:
        await self.arrive.wait()
        with suppress(redis.RedisError):  # nobody waits for it any more
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class Encoder:
    """Judges utterances: at once, when told to, or not at all."""

    def __init__(self) -> None:
        self.state: Literal["quick", "slow", "away"] = "quick"
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self, utterance: Utterance) -> UtteranceSentiment:
        if self.state == "away":
            raise EncoderUnavailableError("away")
        if self.state == "slow":
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn
        return await judge(utterance)

    def become(self, state: Literal["quick", "slow", "away"]) -> None:
        """What holds for the utterances to come; no other state than `slow` keeps any waiting."""
        self.state = state
        while state != "slow" and self.waiting:
            self.finish(0)

    def finish(self, index: int) -> None:
        """Answer one that waits, in whatever order."""
        turn = self.waiting.pop(index % len(self.waiting))
        if not turn.done():
            turn.set_result(None)


@dataclass(slots=True)
class Trap:
    """What happens at the `left`-th time that a moment comes."""

    moment: Moment
    left: int
    deed: Deed


class Member:
    """A real worker on the real store, in the group of `log`; made on the event loop that it runs on."""

    def __init__(self, owner: str, url: str, log: Log, encoder: Encoder, config: AppConfig, *, batch: int) -> None:
        self.trap: Trap | None = None
        self.dead = False
        self.seat = Seat(log, self._meet_in_thread, batch)
        self._wire = Wire(self._meet, url)
        self._encoder, self._loop = encoder, asyncio.get_running_loop()
        self.store = Store(self._wire)
        self.worker = Worker(
            source=self.seat,
            producer=Outbox(log, self._meet_in_thread),
            store=self.store,
            analyse=self._analyse,
            config=config,
            owner=owner,
        )
        self._running = asyncio.create_task(self.worker.run())

    @property
    def at_rest(self) -> bool:
        """Whether nothing more happens by itself: all is read and stored, or waits for something outside."""
        tries_again = time.monotonic() - self._wire.failed_s < _PAUSE_MAX_S
        return self.dead or (self.seat.idle_polls > 2 and not self._wire.under_way and not tries_again)

    @property
    def commands(self) -> int:
        """How many commands it has sent to the store."""
        return self._wire.sent

    def release(self) -> None:
        """What is on its way arrives."""
        self._wire.arrive.set()
        self._wire.arrive = asyncio.Event()

    def die(self) -> None:
        """End like a killed process: nothing more goes out, only what is on its way still arrives."""
        self.dead = self._wire.dead = self.seat.gone = True
        self.worker.stop()
        self._running.cancel()

    async def stop(self) -> None:
        """End in good order, or wait for the end of one that died."""
        self.trap = None
        self.release()
        self.worker.stop()
        await asyncio.wait([self._running])
        self.dead = True
        if not self._running.cancelled():
            self._running.exception()

    async def disconnect(self) -> None:
        """Close its connections to the store."""
        await self.store.close()

    async def _analyse(self, utterance: Utterance) -> UtteranceSentiment:
        if self._meet("analysis") is not None:
            raise EncoderUnavailableError("lost")
        return await self._encoder(utterance)

    def _meet(self, moment: Moment) -> Deed | None:
        deed = self._sprung(moment)
        if deed == "crash":
            self.die()
        return deed

    def _meet_in_thread(self, moment: Moment) -> None:
        deed = self._sprung(moment)
        if deed == "crash":
            self.dead = self._wire.dead = self.seat.gone = True
            self._loop.call_soon_threadsafe(self.die)
        if deed is not None:
            raise SourceUnavailableError("lost", 0.01)

    def _sprung(self, moment: Moment) -> Deed | None:
        trap = self.trap
        if trap is None or trap.moment != moment:
            return None
        trap.left -= 1
        if trap.left > 0:
            return None
        self.trap = None
        return trap.deed
