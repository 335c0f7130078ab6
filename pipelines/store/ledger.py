"""Notes on single records and streams: in-progress marks, dead letters, which streams are open, and whose they are."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import CallDeletedError, FencedError
from pipelines.store.client import lua, redis_errors
from pipelines.store.deletion import delete_call
from pipelines.store.keys import CHECKPOINT_TTL_S, LETTER_STATES, CallKeys, calls_key, letter_name, open_key, work_key
from pipelines.types import RETENTION_DAYS, TOPIC_DEAD_LETTER, CallRef, Coordinates

LETTERS_KEPT_MAX = 1_000
"""How many dead letters of a call are remembered by partition and offset; all are counted."""
_WORK_TTL_S = 86_400
_LETTER_TTL_S = (RETENTION_DAYS[TOPIC_DEAD_LETTER] + 1) * 86_400
"""A day longer than the dead-letter topic keeps them."""


@dataclass(frozen=True, slots=True)
class StreamId:
    """A stream that is not stored to its end."""

    call: CallRef
    stream: str

    def __str__(self) -> str:
        return f"{self.call}, stream {self.stream}"


@dataclass(frozen=True, slots=True)
class Owned:
    """A stream of a call and its owner: a note in its name is refused once another worker owns it."""

    stream: str
    owner: str


@dataclass(frozen=True, slots=True)
class Taken:
    """How many fragments of a stream that its sender reserved the log has, from the first on, and the SHA-256 of the last one's media."""

    fragments: int = 0
    digest: str = ""


class Ledger:
    """Notes beside the checkpoints, in the same Redis; every method raises `StoreUnavailableError` as `Store`'s do."""

    def __init__(self, client: Any, run: str) -> None:
        """`run` is the name under which results are written."""
        self._redis, self._run = client, run
        self._attempt_script = client.register_script(lua("attempt"))
        self._await_script = client.register_script(lua("await_worker"))
        self._letter_script = client.register_script(lua("letter"))

    async def mark_in_progress(self, at: Coordinates, worker: str, ended: Iterable[int] = ()) -> int:
        """Mark a record as in progress at `worker`, and clear the worker's marks on the records `ended` of its partition.

        Returns:
            How many workers have marked it, this one included: 1, unless a process died while it worked on it.
        """
        return await self._attempt(at.partition, at.offset, worker, ended)

    async def clear_in_progress(self, partition: int, worker: str, ended: Iterable[int]) -> None:
        """Clear the worker's in-progress marks, so that a later crash is not blamed on these records."""
        await self._attempt(partition, "", worker, ended)

    async def note_open(self, partition: int, note: StreamId) -> None:
        """A stream of the partition is opened."""
        with redis_errors():
            await self._redis.zadd(open_key(self._run, partition), {_written(note): time.time()})

    async def forget_open(self, partition: int, note: StreamId) -> None:
        """A stream of the partition is stored to its end, or deleted."""
        with redis_errors():
            await self._redis.zrem(open_key(self._run, partition), _written(note))

    async def open_streams(self, partition: int) -> list[StreamId]:
        """The streams of the partition that were opened and not stored to their end; some may be over all the same."""
        key = open_key(self._run, partition)
        with redis_errors():
            await self._redis.zremrangebyscore(key, "-inf", time.time() - CHECKPOINT_TTL_S)
            return [_read(name) for name in await self._redis.zrange(key, 0, -1)]

    async def reserve_stream(self, call: CallRef, stream: str, word: str, *, first: bool) -> Taken | None:
        """Reserve a stream for the sender that names `word`: how much of it the log has from earlier tries; None if it is another's.

        Only the `first` to send of it reserves one that nobody has: it may be open through the log itself, which needs no
        reservation.

        Raises:
            CallDeletedError: the call was deleted.
        """
        key = CallKeys(call, self._run)("senders")
        with redis_errors():
            if first and await self._redis.hsetnx(key, stream, word):
                await self._redis.expire(key, CHECKPOINT_TTL_S)
                if await self._redis.exists(CallKeys(call)("deleted")):  # since the sender began
                    await self._redis.delete(key)
                    raise CallDeletedError(f"{call} was deleted")
                return Taken()
            owner, taken = await self._redis.hmget(key, [stream, _taken_field(stream)])
        if owner != word:
            return None
        fragments, _, digest = (taken or "0:").partition(":")
        return Taken(int(fragments), digest)

    async def note_taken(self, call: CallRef, stream: str, word: str, taken: Taken) -> None:
        """Keep how much of a stream the log has acknowledged, if it is still this sender's."""
        key = CallKeys(call, self._run)("senders")
        with redis_errors():
            if await self._redis.hget(key, stream) == word:
                await self._redis.hset(key, _taken_field(stream), f"{taken.fragments}:{taken.digest}")

    async def release_stream(self, call: CallRef, stream: str, word: str) -> None:
        """Give a reservation back, if it is still this sender's."""
        key = CallKeys(call, self._run)("senders")
        with redis_errors():
            if await self._redis.hget(key, stream) == word:
                await self._redis.hdel(key, stream, _taken_field(stream))

    async def await_worker(self, call: CallRef) -> None:
        """A call of which something is in the log is known from now on, as `waiting` until a worker opens it; again changes nothing.

        Raises:
            CallDeletedError: the call was deleted.
        """
        keys = CallKeys(call, self._run)
        with redis_errors():
            answer = await self._await_script(keys=[keys("call"), keys("deleted")], args=[CHECKPOINT_TTL_S])
            if answer not in {
                "",
                "deleted",
            }:  # the index has a slot of its own, and what was deleted meanwhile is erased again
                await self._redis.zadd(calls_key(self._run, call.tenant), {call.call_id: int(answer)}, nx=True)
                if await self._redis.exists(keys("deleted")):
                    await delete_call(self._redis, call, expected=True)
                    answer = "deleted"
        if answer == "deleted":
            raise CallDeletedError(f"{call} was deleted, and nothing more is taken of it; take another call id")

    async def is_dead_letter(self, call: CallRef, at: Coordinates, owned: Owned | None = None) -> bool:
        """Whether the record is counted among the dead letters of its call.

        Raises:
            FencedError: the stream is not `owned` any more.
        """
        keys = CallKeys(call, self._run)
        with redis_errors():
            dead = await self._redis.zscore(keys("letters"), letter_name(at)) is not None
            if owned is not None and await self._redis.hget(keys(f"stream:{owned.stream}"), "owner") != owned.owner:
                raise fenced(call, owned.stream)
        return dead

    async def note_dead_letter(self, call: CallRef, at: Coordinates, reason: str, owned: Owned | None = None) -> bool:
        """Count a record among its call's dead letters; again changes nothing, and is False.

        Raises:
            CallDeletedError: the call was deleted.
            FencedError: the stream is not `owned` any more.
        """
        keys = CallKeys(call, self._run)
        stream, owner = ("", "") if owned is None else (owned.stream, owned.owner)
        with redis_errors():
            word = await self._letter_script(
                keys=[*map(keys, ("letters", "letter-counts", f"stream:{stream}", "deleted"))],
                args=[at.offset, letter_name(at), reason, LETTERS_KEPT_MAX, CHECKPOINT_TTL_S, owner],
            )
        if word == "deleted":
            raise CallDeletedError(f"{call} was deleted")
        if word == "fenced":
            raise fenced(call, stream)
        return bool(word == "noted")

    async def dead_letter_counts(self, call: CallRef) -> Mapping[str, int]:
        """A call's dead letters by reason."""
        with redis_errors():
            counts = await self._redis.hgetall(CallKeys(call, self._run)("letter-counts"))
        return {reason: int(number) for reason, number in counts.items()}

    async def record_decisions(self, decided: Mapping[Coordinates, str]) -> None:
        """Record what was decided about dead letters (redriven, dropped), of all or of none."""
        with redis_errors():
            pipe = self._redis.pipeline(transaction=True)
            for at, state in decided.items():
                pipe.set(f"{LETTER_STATES}:{letter_name(at)}", state, ex=_LETTER_TTL_S)
            await pipe.execute()

    async def decisions(self, letters: Iterable[Coordinates]) -> Mapping[Coordinates, str]:
        """What was decided about these dead letters; those without a decision are left out."""
        wanted = list(letters)
        with redis_errors():
            pipe = self._redis.pipeline(transaction=False)
            for at in wanted:
                pipe.get(f"{LETTER_STATES}:{letter_name(at)}")
            states = await pipe.execute() if wanted else []
        return {at: state for at, state in zip(wanted, states, strict=True) if state is not None}

    async def _attempt(self, partition: int, offset: int | str, worker: str, ended: Iterable[int]) -> int:
        with redis_errors():
            attempts = await self._attempt_script(
                keys=[work_key(self._run, partition)], args=[offset, _WORK_TTL_S, worker, *ended]
            )
        return int(attempts)


def fenced(call: CallRef, stream: str) -> FencedError:
    """The error for a writer that does not own the stream any more."""
    return FencedError(f"{call}, stream {stream}: another writer owns it; drop its state")


def _taken_field(stream: str) -> str:
    return f"{stream}/taken"  # no stream is called so: a name holds no slash


def _written(note: StreamId) -> str:
    return f"{note.call.tenant}/{note.call.call_id}/{note.stream}"  # none of the three may hold a slash


def _read(written: str) -> StreamId:
    tenant, call_id, stream = written.split("/")
    return StreamId(CallRef(tenant, call_id), stream)
