"""The store: checkpoints and results, in Valkey, or Redis 7.2 or later. `keys.py` lists the keys.

Run the server with `maxmemory-policy noeviction`: an evicted checkpoint would be a call analysed twice.
"""

import time
from typing import Any, Self

from pipelines.checkpoints import NOTHING_COUNTED, Checkpoint, Counted, ResumePoint, TrackCut
from pipelines.errors import BadFragmentError, CallDeletedError, StoreTrouble, StoreUnavailableError
from pipelines.store.accesses import Accesses
from pipelines.store.archive import Archive
from pipelines.store.client import connect, epoch, lua, ping, probe, redis_errors
from pipelines.store.customers import Customers
from pipelines.store.deletion import TOMBSTONE_TTL_S, FileRewriting, delete_call, holds
from pipelines.store.interim import InterimTexts
from pipelines.store.keys import (
    CHECKPOINT_TTL_S,
    PROBE,
    CallKeys,
    calls_key,
    member,
    read_checkpoint,
)
from pipelines.store.ledger import Ledger, fenced
from pipelines.store.queries import CallState, Digest
from pipelines.store.seals import Seals
from pipelines.store.service import ServiceNotes
from pipelines.store.trends import correct_trend, fill_trend
from pipelines.types import LIVE_RUN, CallRef, MediaFragment, Participant, UtteranceSentiment

EVENTS_MAX = 10_000
_AHEAD_MAX_MS = 86_400_000
OPEN_TTL_S = 86_400
"""How long a call of which nothing was ever stored is kept."""


class Store:
    """Everything that lasts. `Store.connect(url)` makes one; its methods may run concurrently on one event loop.

    `archive` reads the stored calls, `ledger` keeps notes on single records, `seals` the keys to what the log holds of calls,
    `interim` passes on what is not stored, `service` holds what the service tells of itself, `customers` knows whose the calls
    are, `accesses` who did what with which.

    Every method raises `StoreUnavailableError` when Redis does not answer, or refuses to write because it is full or
    read-only; all of them may then be called again.
    """

    def __init__(self, client: Any, run: str = LIVE_RUN) -> None:
        self._redis, self._run = client, run
        self.ledger, self.archive, self.interim = Ledger(client, run), Archive(client, run), InterimTexts(client, run)
        self.service, self.accesses, self.customers = ServiceNotes(client, run), Accesses(client), Customers(client)
        self.seals, self._rewriting = Seals(client), FileRewriting(client)
        self._open_script = client.register_script(lua("open_stream", before="call_state"))
        self._advance_script = client.register_script(lua("advance", before="call_state"))
        self._state_script = client.register_script(lua("set_state", before="call_state"))

    @classmethod
    def connect(cls, url: str, run: str = LIVE_RUN) -> Self:
        """A store at `redis://…`, `rediss://…`, `unix://…` or `redis+cluster://…`; it connects at the first use.

        `run` is the name under which results are written and read: `live`, or a replay's or shadow's own.
        """
        return cls(connect(url), run)

    def of_run(self, run: str) -> "Store":
        """The same store under the name of another run."""
        return self if run == self._run else Store(self._redis, run)

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Return if Redis answers on a connection of its own."""
        with redis_errors():
            await ping(self._redis)

    async def trouble(self) -> StoreTrouble | None:
        """Why Redis would not take a result now; None when it would."""
        try:
            with redis_errors():
                await probe(self._redis, PROBE)
        except StoreUnavailableError as error:
            return error.cause
        return None

    async def epoch(self) -> str:
        """Changes when a server restarts or a replica takes over: its latest writes may be lost."""
        with redis_errors():
            return await epoch(self._redis)

    async def open_stream(
        self,
        call: CallRef,
        stream: str,
        owner: str,
        started_at_ms: int,
        *,
        partition: int = 0,
        offset: int | None = None,
    ) -> Checkpoint | None:
        """Take ownership of a stream and read its checkpoint; writes of its former owner are refused from now on.

        `owner` is the writer's name, different from any other process's, ever; `started_at_ms` when the call started if
        this is its first stream, ms since 1970 (0, or one that cannot be: now). `partition` and `offset` say where in the log the fragment
        stands that opens it, if one does.

        Returns:
            None where the stream is closed and that fragment is counted already: a replay does not open it again.

        Raises:
            CallDeletedError: the call was deleted.
            BadFragmentError: the call's fragments began in another partition (`wrong_partition`), in which offsets mean
                something else.
        """
        if not 0 <= started_at_ms <= time.time() * 1000 + _AHEAD_MAX_MS:  # a producer's clock, or what it made up
            started_at_ms = 0
        keys, place = self._keys(call), () if offset is None else (offset,)
        limits = (OPEN_TTL_S, CHECKPOINT_TTL_S, EVENTS_MAX)
        with redis_errors():
            # 1. Become the owner, or be told why not.
            answer, *rest = await self._open_script(
                keys=[*keys.stream(stream), keys("letters")],
                args=[owner, stream, started_at_ms, *limits, partition, *place],
            )
            # 2. Let the call know of this run, so that deleting it deletes its results here too.
            if answer == "open" and self._run != LIVE_RUN:
                runs = CallKeys(call)("runs")
                await self._redis.sadd(runs, self._run)
                await self._redis.expire(runs, TOMBSTONE_TTL_S)
            # 3. List the call; the index has a slot of its own, so it cannot be written by the same script.
            if answer == "open" and int(rest[0]):
                await self._redis.zadd(calls_key(self._run, call.tenant), {call.call_id: int(rest[0])}, nx=True)
            # 4. What was deleted since the first step is erased with what the others wrote.
            if answer == "open" and await self._redis.exists(keys("deleted")):
                await delete_call(self._redis, call, expected=True)
                answer = "deleted"
        if answer == "other partition":
            raise BadFragmentError(
                "wrong_partition",
                f"{call} began in another partition than {partition}: add partitions only while no call is open",
            )
        _raise_refusal(answer, call, stream)
        if answer == "settled":
            return None
        _, letters, fields = rest
        return read_checkpoint(dict(zip(fields[::2], fields[1::2], strict=True)), letters)

    async def advance(
        self,
        first: MediaFragment,
        *,
        owner: str,
        participant: Participant,
        expected_cut_sample: int,
        new: TrackCut,
        resume: ResumePoint,
        result: UtteranceSentiment | None,
        ttl_s: int,
        counted: Counted = NOTHING_COUNTED,
    ) -> None:
        """Store `result` and move the track's cut to `new` in one step; again after a lost reply changes nothing.

        `first` is any fragment of the stream. `counted` holds the fragments below `resume` that were not counted yet.
        The trend bucket is filled before: it is keyed by utterance, so a step that is refused or repeated leaves it as
        the stream's owner does.

        Raises:
            FencedError: `owner` does not own the stream any more, or the cut is neither the expected one nor at `new`.
            CallDeletedError: the call was deleted.
        """
        keys = self._keys(first.call)
        name, text, digest = "", "", ""
        with redis_errors():
            # 1. The trend bucket, which has a slot of its own.
            if result is not None:
                name = member(result.start_ms, result.participant, first.stream)
                text, digest = result.model_dump_json(), Digest.of(result).write()
                trend = await fill_trend(self._redis, keys, result, digest, ttl_s)
            # 2. Result, cut, resume point and account together, or none of them.
            answer = await self._advance_script(
                keys=[*keys.stream(first.stream), *map(keys, ("results", "order", "digests", "kinds", "unstored"))],
                args=[
                    owner,
                    participant,
                    expected_cut_sample,
                    new.cut_sample,
                    new.utterances,
                    resume.offset,
                    resume.seq,
                    resume.start_sample,
                    ttl_s,
                    max(ttl_s, CHECKPOINT_TTL_S),
                    EVENTS_MAX,
                    name,
                    text,
                    digest,
                    0 if result is None else result.end_ms,
                    *_count_args(counted),
                ],
            )
            # 3. What was refused leaves no trace in the bucket.
            if answer != "stored" and result is not None and trend is not None:
                await correct_trend(self._redis, keys("digests"), name, trend, result.utterance_id)
        _raise_refusal(answer, first.call, first.stream)

    async def set_state(
        self, call: CallRef, stream: str, state: CallState, *, owner: str, counted: Counted = NOTHING_COUNTED
    ) -> None:
        """Set the stream's state and count fragments that need no cut to move, in one step; again changes nothing.

        `final` is for good: the stream is stored to its end. When every known stream of the call is, the call is.

        Raises:
            FencedError: `owner` does not own the stream any more.
            CallDeletedError: the call was deleted.
        """
        await self._update(call, stream, owner, counted, state)

    async def count(self, call: CallRef, stream: str, counted: Counted, *, owner: str | None) -> None:
        """Count fragments that need no cut to move; again changes nothing.

        `owner` is None for fragments of a stream that is final, which has no owner.

        Raises:
            FencedError: `owner` does not own the stream any more, or there is none and the stream is not final.
            CallDeletedError: the call was deleted.
        """
        await self._update(call, stream, owner, counted, None)

    async def _update(
        self, call: CallRef, stream: str, owner: str | None, counted: Counted, state: CallState | None
    ) -> None:
        with redis_errors():
            answer = await self._state_script(
                keys=self._keys(call).stream(stream),
                args=[owner or "", stream, state or "", EVENTS_MAX, counted.below, *_count_args(counted)],
            )
        _raise_refusal(answer, call, stream)

    async def checkpoints(self, call: CallRef) -> dict[str, Checkpoint]:
        """What is known of each stream of a call, with the account of its fragments; empty for an unknown call."""
        keys = self._keys(call)
        with redis_errors():
            streams = await self._redis.hkeys(keys("streams"))
            found = [await self._redis.hgetall(keys(f"stream:{stream}")) for stream in streams]
        return {stream: read_checkpoint(fields) for stream, fields in zip(streams, found, strict=True)}

    async def holds(self, call: CallRef) -> bool:
        """Whether anything is known of a call, also where no worker has opened it yet: `delete_call` would delete it."""
        with redis_errors():
            return await holds(self._redis, call)

    async def delete_call(self, call: CallRef) -> bool:
        """Forget a call: its results in every run, its part of the trends, and the keys to what the log holds of it.

        What still comes of it is refused. False if it is unknown. Calling again after an error removes the rest. The
        server's file holds it until `rewrite_file` has had it written anew.
        """
        with redis_errors():
            return await delete_call(self._redis, call)

    async def rewrite_file(self) -> None:
        """Have the append-only file written anew where calls were deleted since it was; called again and again, by whoever works.

        A server that may not, or has none, is left as it is.
        """
        with redis_errors():
            await self._rewriting.go_on()

    async def deleted(self, call: CallRef) -> bool:
        """Whether a call of this id was deleted, so that nothing more is taken of it; known for 31 days."""
        with redis_errors():
            return bool(await self._redis.exists(self._keys(call)("deleted")))

    def _keys(self, call: CallRef) -> CallKeys:
        return CallKeys(call, self._run)


def _count_args(counted: Counted) -> list[str | int]:
    first_at = "" if counted.first_at is None else counted.first_at
    return [first_at, counted.heard_to_ms, *(part for outcome in counted.outcomes.items() for part in outcome)]


def _raise_refusal(answer: str, call: CallRef, stream: str) -> None:
    if answer == "deleted":
        raise CallDeletedError(f"{call} was deleted")
    if answer == "fenced":
        raise fenced(call, stream)
